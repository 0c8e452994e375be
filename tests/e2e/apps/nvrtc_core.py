"""cuda-core: a kernel compiled by NVRTC to PTX, launched, with an event and a pinned buffer."""

import numpy as np
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

SOURCE = """
template <typename T>
__global__ void axpy(T a, const T *x, T *y, size_t n)
{
    size_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = a * x[i] + y[i];
}
"""

device = Device()
device.set_current()
stream = device.create_stream()
arch = "".join(str(i) for i in device.compute_capability)
program = Program(SOURCE, code_type="c++",
                  options=ProgramOptions(std="c++17", arch=f"compute_{arch}"))
module = program.compile("ptx", name_expressions=("axpy<float>", "axpy<double>"))

for name, dtype in (("axpy<float>", np.float32), ("axpy<double>", np.float64)):
    kernel = module.get_kernel(name)
    n = 5000
    x = np.arange(n, dtype=dtype)
    y = np.ones(n, dtype=dtype)
    size = n * x.itemsize
    dx = device.memory_resource.allocate(size, stream=stream)
    dy = device.memory_resource.allocate(size, stream=stream)
    from cuda.bindings import driver

    def check(result):
        assert result[0] == driver.CUresult.CUDA_SUCCESS, result[0]

    check(driver.cuMemcpyHtoDAsync(int(dx.handle), x.ctypes.data, size, stream.handle))
    check(driver.cuMemcpyHtoDAsync(int(dy.handle), y.ctypes.data, size, stream.handle))
    config = LaunchConfig(grid=(n + 127) // 128, block=128)
    launch(stream, config, kernel, dtype(2), dx, dy, np.uint64(n))
    check(driver.cuMemcpyDtoHAsync(y.ctypes.data, int(dy.handle), size, stream.handle))
    stream.sync()
    np.testing.assert_array_equal(y, 2 * x + 1)
    dx.close(stream)
    dy.close(stream)
    print(name, "right")
print(device.name)
print("PASS")
