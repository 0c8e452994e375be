"""Waits for what NVML tells of a device, while another program of the lease breaks its
context there: once for it that is still there, and once for it that has ended."""

import ctypes
import subprocess
import sys

import pynvml as nvml

PTX = b"""
.version 7.0
.target sm_50
.address_size 64
.visible .entry wild(.param .u64 where)
{
    .reg .u64 %rd<2>;
    ld.param.u64 %rd1, [where];
    st.global.u64 [%rd1], %rd1;
    ret;
}
"""
SECONDS = 60


def fail():
    """A kernel that writes where nothing is; then waits to be told to end."""
    cuda = ctypes.CDLL("libcuda.so.1")
    context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert cuda.cuInit(0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert cuda.cuCtxSetCurrent(context) == 0
    assert cuda.cuModuleLoadData(ctypes.byref(module), PTX) == 0
    assert cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"wild") == 0
    where = ctypes.c_ulonglong(0x1234567890)
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(where))
    assert cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, parameters, None) == 0
    assert cuda.cuCtxSynchronize() == 700
    print("failed", flush=True)
    sys.stdin.read()


def told(events):
    try:
        data = nvml.nvmlEventSetWait_v2(events, SECONDS * 1000)
    except nvml.NVMLError_Timeout:
        return "nothing"
    uuid = nvml.nvmlDeviceGetUUID(data.device)
    same = uuid == nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(0))
    return f"type {data.eventType}, Xid {data.eventData}, {'device 0' if same else uuid}"


def start():
    return subprocess.Popen(
        [sys.executable, __file__, "fail"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def watch():
    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    print("types", nvml.nvmlDeviceGetSupportedEventTypes(device))
    events = nvml.nvmlEventSetCreate()
    try:
        nvml.nvmlDeviceRegisterEvents(device, 1, events)
    except nvml.NVMLError_NotSupported:
        print("ECC is not told")
    nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, events)
    try:
        nvml.nvmlEventSetWait_v2(events, 0)
    except nvml.NVMLError_Timeout:
        print("nothing yet")
    alive = start()
    alive.stdout.readline()
    print(told(events))
    gone = start()
    gone.communicate(b"")
    print(told(events))
    alive.communicate(b"")
    nvml.nvmlEventSetFree(events)
    late = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, late)
    try:
        print(nvml.nvmlEventSetWait_v2(late, 0))
    except nvml.NVMLError_Timeout:
        print("nothing of what was before")
    nvml.nvmlEventSetFree(late)
    try:
        nvml.nvmlEventSetFree(late)
    except nvml.NVMLError_InvalidArgument:
        print("freed once")


fail() if sys.argv[1:] == ["fail"] else watch()
