"""numba-cuda, round after round: each waits for a copy and for a stream. ROUNDS"""

import sys

import numpy as np
from numba import cuda


@cuda.jit
def saxpy(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] += a * x[i]


x = np.arange(1000, dtype=np.float32)
stream, event = cuda.stream(), cuda.event(timing=False)
for _ in range(int(sys.argv[1])):
    device_x, device_y = cuda.to_device(x), cuda.to_device(x)
    saxpy[8, 128](2, device_x, device_y)
    event.record()
    event.wait(stream)
    again = cuda.device_array(1000, np.float32, stream=stream)
    saxpy[8, 128, stream](2, device_x, again)
    y = device_y.copy_to_host()
    stream.synchronize()
    assert np.array_equal(y, 3 * x)
print("PASS")
