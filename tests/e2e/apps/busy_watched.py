"""Has memory on the device and runs kernels while another program of the lease looks on:
the command that is given. Its process id comes first."""

import ctypes
import os
import subprocess
import sys
import threading

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
cuda = ctypes.CDLL("libcuda.so.1")


def must(result):
    assert result == 0, result


context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
address = ctypes.c_ulonglong()
must(cuda.cuInit(0))
must(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
must(cuda.cuCtxSetCurrent(context))
must(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(64 << 20)))
must(cuda.cuModuleLoadData(ctypes.byref(module), PTX))
must(cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"spin"))
turns = ctypes.c_uint(2_000_000)
parameters = (ctypes.c_void_p * 1)(ctypes.addressof(turns))
over = threading.Event()


def work():
    must(cuda.cuCtxSetCurrent(context))
    while not over.is_set():
        must(cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, parameters, None))
        must(cuda.cuCtxSynchronize())


thread = threading.Thread(target=work)
thread.start()
print(os.getpid(), flush=True)
status = subprocess.run(sys.argv[1:], check=False).returncode
over.set()
thread.join()
sys.exit(status)
