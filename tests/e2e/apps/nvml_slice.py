"""What NVML says of the slice, beside what CUDA says: ctypes alone, so nothing is needed."""

import ctypes
import os

nvml = ctypes.CDLL("libnvidia-ml.so.1")
nvml.nvmlErrorString.restype = ctypes.c_char_p
NOT_SUPPORTED, UNINITIALIZED = 3, 1


class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def text(function, *args):
    out = ctypes.create_string_buffer(96)
    assert function(*args, out, 96) == 0
    return out.value.decode()


def devices():
    count = ctypes.c_uint()
    assert nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    for index in range(count.value):
        handle = ctypes.c_void_p()
        assert nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0
        yield handle


def memory(handle):
    out = Memory()
    assert nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(out)) == 0
    return out


assert nvml.nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint())) == UNINITIALIZED
assert nvml.nvmlInit_v2() == 0
seen = []
for handle in devices():
    uuid = text(nvml.nvmlDeviceGetUUID, handle)
    seen.append((text(nvml.nvmlDeviceGetName, handle), uuid, memory(handle).total))
    again = ctypes.c_void_p()
    assert nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(again)) == 0
    assert again.value == handle.value and memory(handle).used == 0
    assert nvml.nvmlDeviceGetTemperature(handle, 0, ctypes.byref(ctypes.c_uint())) == NOT_SUPPORTED
    print(seen[-1][0], seen[-1][2] >> 20, "MiB")
bad = ctypes.c_void_p(ctypes.addressof(ctypes.c_int(0)))
assert nvml.nvmlDeviceGetName(bad, ctypes.create_string_buffer(96), 96) == 2
print(nvml.nvmlErrorString(NOT_SUPPORTED).decode())

# NVML has initialised nothing: a child may still begin with CUDA.
child = os.fork()
if child == 0:
    os._exit(ctypes.CDLL("libcuda.so.1").cuInit(0))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

cuda = ctypes.CDLL("libcuda.so.1")
assert cuda.cuInit(0) == 0
context, address = ctypes.c_void_p(), ctypes.c_ulonglong()
for index, (name, uuid, total) in enumerate(seen):
    size, raw = ctypes.c_size_t(), ctypes.create_string_buffer(16)
    assert cuda.cuDeviceTotalMem_v2(ctypes.byref(size), index) == 0
    assert cuda.cuDeviceGetUuid_v2(raw, index) == 0
    assert text(lambda out, room, i=index: cuda.cuDeviceGetName(out, room, i)) == name
    assert size.value == total and raw.raw.hex() == uuid[4:].replace("-", "")
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(32 << 20)) == 0
first = next(devices())
print("used:", memory(first).used >> 20, "MiB")
assert memory(first).free + memory(first).used == memory(first).total
assert nvml.nvmlShutdown() == 0 and nvml.nvmlShutdown() == UNINITIALIZED
print("PASS")
