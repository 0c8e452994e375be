"""CuPy, round after round: each waits for a number, an event and a stream. ROUNDS"""

import sys

import cupy
import numpy as np

x = np.ones(100_000, np.float32)
stream = cupy.cuda.Stream(non_blocking=True)
for _ in range(int(sys.argv[1])):
    total = (cupy.asarray(x) * 2 + 1).sum()
    with stream:
        zeros = cupy.zeros(1000)
        event = cupy.cuda.Event()
        event.record(stream)
    assert float(total) == 300_000
    event.synchronize()
    cupy.arange(10)
    cupy.cuda.get_current_stream().synchronize()
print("PASS")
