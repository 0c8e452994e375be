"""numba-cuda: saxpy, a shared-memory reduction with an atomic, and streams."""

import numpy as np
from numba import cuda, float32

THREADS = 128


@cuda.jit
def saxpy(a, x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a * x[i] + y[i]


@cuda.jit
def total(x, out):
    part = cuda.shared.array(THREADS, float32)
    i = cuda.grid(1)
    part[cuda.threadIdx.x] = x[i] if i < x.size else 0.0
    cuda.syncthreads()
    half = THREADS // 2
    while half:
        if cuda.threadIdx.x < half:
            part[cuda.threadIdx.x] += part[cuda.threadIdx.x + half]
        cuda.syncthreads()
        half //= 2
    if cuda.threadIdx.x == 0:
        cuda.atomic.add(out, 0, part[0])


n = 10_007
x = np.arange(n, dtype=np.float32) % 97
y = np.arange(n, dtype=np.float32)[::-1].copy()
out = np.zeros(n, dtype=np.float32)
blocks = (n + THREADS - 1) // THREADS

saxpy[blocks, THREADS](np.float32(2), x, y, out)
np.testing.assert_allclose(out, 2 * x + y)
print("saxpy on host arrays")

stream = cuda.stream()
dx, dy = cuda.to_device(x, stream), cuda.to_device(y, stream)
dout = cuda.device_array(n, np.float32, stream=stream)
saxpy[blocks, THREADS, stream](np.float32(3), dx, dy, dout)
back = dout.copy_to_host(stream=stream)
stream.synchronize()
np.testing.assert_allclose(back, 3 * x + y)
print("saxpy on a stream")

result = cuda.to_device(np.zeros(1, np.float32))
total[blocks, THREADS](dx, result)
assert result.copy_to_host()[0] == x.sum(), (result.copy_to_host()[0], x.sum())
print("reduction", result.copy_to_host()[0])
print("PASS")
