"""CuPy: element-wise expressions, a RawKernel, a reduction, streams."""

import cupy as cp
import numpy as np

x = cp.arange(2000, dtype=cp.float32).reshape(40, 50)
y = x * 2 + cp.sin(x) - x.mean()
h = np.arange(2000, dtype=np.float32).reshape(40, 50)
np.testing.assert_allclose(y.get(), h * 2 + np.sin(h) - h.mean(), rtol=1e-4, atol=1e-3)
print("element-wise", y.shape, y.dtype)

kernel = cp.RawKernel(r"""
extern "C" __global__ void twist(const float *in, float *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[n - 1 - i] = in[i] + 0.5f;
}
""", "twist")
n = 777
a = cp.arange(n, dtype=cp.float32)
b = cp.zeros_like(a)
kernel(((n + 127) // 128,), (128,), (a, b, np.int32(n)))
np.testing.assert_array_equal(b.get(), np.arange(n, dtype=np.float32)[::-1] + 0.5)
print("RawKernel")

with cp.cuda.Stream() as stream:
    c = cp.ones((64, 64), dtype=cp.int64) * 3
    d = (c + c.T).sum(axis=0)
    stream.synchronize()
np.testing.assert_array_equal(d.get(), np.full(64, 384))
print("stream and sum", int(d[0]))
print("PASS")
