/* Devices: identity, memory size, and the attributes of such a device. */
#include <string.h>

#include "cpudev.h"

struct fdcpu_device *
fdcpu_device_get(CUdevice dev)
{
    return dev < 0 || dev >= fdcpu.ndevices ? NULL : &fdcpu.device[dev];
}

CUresult
fdcpu_enter_device(CUdevice dev, struct fdcpu_device **device)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *device = fdcpu_device_get(dev);
    return *device != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

int
fdcpu_sm_shared(void)
{
    switch (fdcpu.opt.cc) {
    case 75:
        return 65536;
    case 86:
    case 89:
    case 120:
    case 121:
        return 102400;
    default:
        return fdcpu.opt.cc >= 90 ? 233472 : 167936;
    }
}

int
fdcpu_shared_optin(void)
{
    return fdcpu_sm_shared() - (fdcpu.opt.cc >= 80 ? FDCPU_SHARED_RESERVED : 0);
}

/* Attributes with fixed values, by id; those that depend on options are below. */
static const int fixed[] = {
    [1] = FDCPU_MAX_THREADS,
    [2] = 1024,
    [3] = 1024,
    [4] = 64, /* block */
    [5] = 0x7FFFFFFF,
    [6] = 65535,
    [7] = 65535, /* grid */
    [8] = FDCPU_SHARED,
    [9] = 65536,
    [10] = FDCPU_WARP,
    [11] = 0x7FFFFFFF,
    [12] = FDCPU_SM_REGISTERS,
    [13] = 1000000,
    [14] = 512,
    [15] = 1,
    [16] = FDCPU_SMS,
    [17] = 0,
    [18] = 0,
    [19] = 1,
    [20] = 0,
    [21] = 131072,
    [22] = 131072,
    [23] = 65536,
    [24] = 16384,
    [25] = 16384,
    [26] = 16384,
    [27] = 32768,
    [28] = 32768,
    [29] = 2048,
    [30] = 512,
    [31] = 1,
    [32] = 0,
    [35] = 0,
    [36] = 1000000,
    [37] = 64,
    [38] = 1 << 20,
    [39] = FDCPU_SM_THREADS,
    [40] = 2,
    [41] = 1,
    [42] = 32768,
    [43] = 2048,
    [44] = 1,
    [45] = 32768,
    [46] = 32768,
    [47] = 8192,
    [48] = 8192,
    [49] = 16384,
    [51] = 32,
    [52] = 32768,
    [53] = 32768,
    [54] = 2046,
    [55] = 32768,
    [56] = 131072,
    [57] = 32768,
    [58] = 16384,
    [59] = 16384,
    [60] = 16384,
    [61] = 32768,
    [62] = 2048,
    [63] = 32768,
    [64] = 2046,
    [65] = 32768,
    [66] = 32768,
    [67] = 32768,
    [68] = 2046,
    [69] = 268435456,
    [70] = 131072,
    [71] = 65000,
    [72] = 2097120,
    [73] = 32768,
    [74] = 32768,
    [77] = 32768,
    [78] = 1,
    [79] = 1,
    [80] = 1,
    [81] = 0,
    [82] = FDCPU_SM_REGISTERS,
    [83] = 1,
    [84] = 0,
    [85] = 0,
    [86] = 0,
    [87] = 2,
    [88] = 0,
    [89] = 1,
    [90] = 0,
    [91] = 1,
    [92] = 0,
    [93] = 0,
    [94] = 0,
    [95] = 1,
    [96] = 0,
    [97] = 0,
    [98] = 0,
    [99] = 1,
    [100] = 0,
    [101] = 1,
    [102] = 1,
    [103] = 1,
    [104] = 0,
    [105] = 0,
    [106] = FDCPU_SM_BLOCKS,
    [107] = 0,
    [108] = 0,
    [109] = FDCPU_WINDOW,
    [110] = 0,
    [111] = FDCPU_SHARED_RESERVED,
    [112] = 0,
    [113] = 1,
    [114] = 0,
    [115] = 1,
    [116] = 0,
    [117] = 0,
    [118] = 0,
    [119] = 0,
    [120] = 0,
    [121] = 0,
    [122] = 1,
    [123] = 1,
    [124] = 0,
    [125] = 0,
    [126] = FDCPU_DOMAINS,
    [127] = 0,
    [128] = 0,
    [129] = 0,
    [130] = 0,
    [131] = 0,
    [132] = 0,
    [133] = 0,
    [134] = 0,
};

enum { LAST_ATTRIBUTE = 159 };  /* a driver refuses what it does not know */

FDC_EXPORT CUresult
cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = fdcpu_enter_device(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pi == NULL || (int)attrib < 1 || (int)attrib > LAST_ATTRIBUTE)
        return CUDA_ERROR_INVALID_VALUE;
    switch ((int)attrib) {
    case 20:
        *pi = fdcpu.opt.exclusive ? CU_COMPUTEMODE_EXCLUSIVE_PROCESS : CU_COMPUTEMODE_DEFAULT;
        break;
    case 33:
        *pi = device->pci_bus;
        break;
    case 34:
        *pi = device->pci_slot;
        break;
    case 50:
        *pi = device->pci_domain;
        break;
    case 75:
        *pi = fdcpu.opt.cc / 10;
        break;
    case 76:
        *pi = fdcpu.opt.cc % 10;
        break;
    case 81:
        *pi = fdcpu_sm_shared();
        break;
    case 97:
        *pi = fdcpu_shared_optin();
        break;
    case 120: /* clusters: they are accepted where nothing is run */
        *pi = fdcpu.opt.skip_kernels && fdcpu.opt.cc >= 90;
        break;
    case 102:
    case 103:
        *pi = (fdcpu.opt.strict & FDCPU_STRICT_NOVMM) == 0;
        break;
    default:
        *pi = (size_t)attrib < FDC_COUNT(fixed) ? fixed[attrib] : 0;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetCount(int *count)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = fdcpu.ndevices;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdcpu_device_get(ordinal) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

/* 0, or why a question about device dev cannot be answered. */
static CUresult
ask(CUdevice dev, const void *out, struct fdcpu_device **device)
{
    CUresult result = fdcpu_enter_device(dev, device);

    return result == CUDA_SUCCESS && out == NULL ? CUDA_ERROR_INVALID_VALUE : result;
}

FDC_EXPORT CUresult
cuDeviceGetName(char *name, int len, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, name, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (len <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, (size_t)len, "%s", device->name);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, uuid, &device);

    if (result == CUDA_SUCCESS)
        memcpy(uuid, device->uuid, 16);
    return result;
}

FDC_EXPORT CUresult
cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, bytes, &device);

    if (result == CUDA_SUCCESS)
        *bytes = fdcpu.opt.memory;
    return result;
}

FDC_EXPORT CUresult
cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, pciBusId, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (len < 13)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(pciBusId, (size_t)len, "%04x:%02x:%02x.0", device->pci_domain,
             device->pci_bus, device->pci_slot);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetByPCIBusId(CUdevice *dev, const char *pciBusId)
{
    unsigned int domain = 0, bus, slot, function = 0;
    CUresult result = fdcpu_check();
    int i;

    if (result != CUDA_SUCCESS)
        return result;
    if (dev == NULL || pciBusId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (sscanf(pciBusId, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
        domain = 0;
        if (sscanf(pciBusId, "%x:%x.%x", &bus, &slot, &function) < 2)
            return CUDA_ERROR_INVALID_VALUE;
    }
    for (i = 0; i < fdcpu.ndevices; i++) {
        struct fdcpu_device *d = &fdcpu.device[i];

        if ((int)domain == d->pci_domain && (int)bus == d->pci_bus &&
            (int)slot == d->pci_slot && function == 0) {
            *dev = i;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_DEVICE;
}

FDC_EXPORT CUresult
cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, major, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (minor == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *major = fdcpu.opt.cc / 10;
    *minor = fdcpu.opt.cc % 10;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetProperties(CUdevprop *prop, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, prop, &device);

    if (result != CUDA_SUCCESS)
        return result;
    memset(prop, 0, sizeof(*prop));
    prop->maxThreadsPerBlock = fixed[1];
    memcpy(prop->maxThreadsDim, &fixed[2], sizeof(prop->maxThreadsDim));
    memcpy(prop->maxGridSize, &fixed[5], sizeof(prop->maxGridSize));
    prop->sharedMemPerBlock = fixed[8];
    prop->totalConstantMemory = fixed[9];
    prop->SIMDWidth = fixed[10];
    prop->memPitch = fixed[11];
    prop->regsPerBlock = fixed[12];
    prop->clockRate = fixed[13];
    prop->textureAlign = fixed[14];
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, canAccessPeer, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_device_get(peerDev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    *canAccessPeer = dev != peerDev;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attrib, CUdevice srcDevice,
                        CUdevice dstDevice)
{
    struct fdcpu_device *device;
    CUresult result = ask(srcDevice, value, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_device_get(dstDevice) == NULL || srcDevice == dstDevice)
        return CUDA_ERROR_INVALID_DEVICE;
    if ((int)attrib < 1 || (int)attrib > 5)
        return CUDA_ERROR_INVALID_VALUE;
    *value = (int)attrib == 1 ? 0 : (int)attrib != 5; /* rank 0; no partial atomics */
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetExecAffinitySupport(int *pi, CUexecAffinityType type, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, pi, &device);

    (void)type;
    if (result == CUDA_SUCCESS)
        *pi = 0;
    return result;
}

FDC_EXPORT CUresult
cuDeviceGetTexture1DLinearMaxWidth(size_t *maxWidthInElements, CUarray_format format,
                                   unsigned numChannels, CUdevice dev)
{
    struct fdcpu_device *device;
    CUresult result = ask(dev, maxWidthInElements, &device);

    (void)format;
    (void)numChannels;
    if (result == CUDA_SUCCESS)
        *maxWidthInElements = fixed[69];
    return result;
}

/* Nothing writes to this memory but kernels and copies: attribute 117 says so. */
FDC_EXPORT CUresult
cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget target,
                           CUflushGPUDirectRDMAWritesScope scope)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if ((int)target != 0 || ((int)scope != 100 && (int)scope != 200))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_ERROR_NOT_SUPPORTED;
}
