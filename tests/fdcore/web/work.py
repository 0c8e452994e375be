"""A CUDA program that goes on until it is killed: has so many MiB, and keeps the GPU busy
for about such a share of the time. Prints "working" once it is at it."""

import ctypes
import sys
import time

PTX = b"""
.version 7.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u32 turns)
{
    .reg .pred %p;
    .reg .u32 %r<3>;
    ld.param.u32 %r1, [turns];
    mov.u32 %r2, 0;
again:
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p, %r2, %r1;
    @%p bra again;
    ret;
}
"""
mib, share = int(sys.argv[1]), float(sys.argv[2])
cuda = ctypes.CDLL("libcuda.so.1")


def must(result):
    assert result == 0, result


context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
address = ctypes.c_ulonglong()
must(cuda.cuInit(0))
must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
must(cuda.cuCtxSetCurrent(context))
must(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(mib << 20)))
must(cuda.cuModuleLoadData(ctypes.byref(module), PTX))
must(cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"spin"))
turns = ctypes.c_uint(200_000)
parameters = (ctypes.c_void_p * 1)(ctypes.addressof(turns))
some = bytes(1 << 20)
said = False
while True:
    begun = time.monotonic()
    must(cuda.cuMemcpyHtoD_v2(address, some, ctypes.c_size_t(len(some))))
    must(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, parameters, None))
    must(cuda.cuCtxSynchronize())
    if not said:
        said = print("working", flush=True) is None
    time.sleep((time.monotonic() - begun) * (1 - share) / share)
