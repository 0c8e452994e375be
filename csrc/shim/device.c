/* Devices: everything is answered from the snapshot that came at attach. */
#include "managed.h"
#include "process.h"

#include <stdio.h>
#include <string.h>

#include "cuda_calls.h"

static CUresult
device_of(CUdevice ordinal, struct fdc_device **device)
{
    CUresult result = fdc_process_check();

    if (result != CUDA_SUCCESS)
        return result;
    *device = fdc_device(ordinal);
    return *device != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

/* What a worker cannot pass on, whatever its device can: reaching the program's pageable
 * memory, descriptors of its own machine, memory of other processes and machines, and the
 * calls that are refused. Programs that ask are told so before they try. */
static bool
withheld(unsigned id)
{
    static const uint8_t ids[] = {
        CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS,
        CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
        CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS,
        CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1,
        CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1,
        CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1,
        CU_DEVICE_ATTRIBUTE_COOPERATIVE_MULTI_DEVICE_LAUNCH,
        CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
        CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_WIN32_HANDLE_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES,
        CU_DEVICE_ATTRIBUTE_DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS,
        CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_D3D12_CIG_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_ALGORITHM_MASK,
        CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_MAXIMUM_LENGTH,
        CU_DEVICE_ATTRIBUTE_VULKAN_CIG_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HOST_NUMA_MULTINODE_IPC_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HOST_ALLOC_DMA_BUF_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_LOCALITY_DOMAIN_COUNT,
        CU_DEVICE_ATTRIBUTE_D3D12_CIG_STREAMS_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_DMA_BUF_MMAP_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_UNICAST_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_MULTICAST_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_COUNTED_OPS_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_UNICAST_ACCESS_ON_OWNER_DEVICE_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_SUPPORTED_HANDLE_TYPES,
        CU_DEVICE_ATTRIBUTE_VULKAN_CIG_STREAMS_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_LOCALIZED_MEMORY_SUPPORTED,
    };

    return memchr(ids, (int)id, sizeof(ids)) != NULL;
}

static int
attribute(const struct fdc_device *device, unsigned id)
{
    if ((int)id == CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY)
        return fdc_managed_offered(device);
    if (withheld(id))
        return 0;
    return id < FDC_SNAPSHOT_ATTRIBUTES ? device->snapshot->attribute[id] : 0;
}

FDC_EXPORT CUresult
cuDeviceGet(CUdevice *device, int ordinal)
{
    struct fdc_device *found;
    CUresult result = device_of(ordinal, &found);

    if (result != CUDA_SUCCESS)
        return result;
    if (device == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetCount(int *count)
{
    CUresult result = fdc_process_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = fdc_device_count();
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetName(char *name, int len, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL || len <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, (size_t)len, "%.*s", (int)sizeof(device->snapshot->name),
             device->snapshot->name);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (uuid == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(uuid->bytes, device->snapshot->uuid, sizeof(uuid->bytes));
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (bytes == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *bytes = device->snapshot->memory;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pi == NULL || (int)attrib <= 0 || (int)attrib >= FDC_SNAPSHOT_ATTRIBUTES)
        return CUDA_ERROR_INVALID_VALUE;
    *pi = attribute(device, (unsigned)attrib);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (major == NULL || minor == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *major = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    *minor = attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetProperties(CUdevprop *prop, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (prop == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    prop->maxThreadsPerBlock =
        attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    prop->maxThreadsDim[0] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X);
    prop->maxThreadsDim[1] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y);
    prop->maxThreadsDim[2] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z);
    prop->maxGridSize[0] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
    prop->maxGridSize[1] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
    prop->maxGridSize[2] = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
    prop->sharedMemPerBlock =
        attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK);
    prop->totalConstantMemory =
        attribute(device, CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY);
    prop->SIMDWidth = attribute(device, CU_DEVICE_ATTRIBUTE_WARP_SIZE);
    prop->memPitch = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_PITCH);
    prop->regsPerBlock = attribute(device, CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK);
    prop->clockRate = attribute(device, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
    prop->textureAlign = attribute(device, CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
    return CUDA_SUCCESS;
}

/* ---- PCI ---- */

struct pci {
    unsigned domain, bus, device, function;
};

static bool
pci_parse(const char *text, struct pci *pci)
{
    char end;

    pci->function = 0;
    if (sscanf(text, "%x:%x:%x.%x%c", &pci->domain, &pci->bus, &pci->device,
               &pci->function, &end) == 4)
        return true;
    if (sscanf(text, "%x:%x:%x%c", &pci->domain, &pci->bus, &pci->device, &end) == 3)
        return true;
    pci->domain = 0;
    return sscanf(text, "%x:%x.%x%c", &pci->bus, &pci->device, &pci->function, &end) ==
           3;
}

FDC_EXPORT CUresult
cuDeviceGetPCIBusId(char *pciBusId, int len, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);
    char text[32];
    struct pci pci;
    int size;

    if (result != CUDA_SUCCESS)
        return result;
    if (pciBusId == NULL || len <= 0)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(text, device->snapshot->pci, sizeof(device->snapshot->pci));
    text[sizeof(device->snapshot->pci)] = '\0';
    if (!pci_parse(text, &pci)) {
        pci.domain = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
        pci.bus = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
        pci.device = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
        pci.function = 0;
    }
    size = snprintf(text, sizeof(text), "%04X:%02X:%02X.%X", pci.domain, pci.bus,
                    pci.device, pci.function);
    if (size >= len)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(pciBusId, text, (size_t)size + 1);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetByPCIBusId(CUdevice *dev, const char *pciBusId)
{
    CUresult result = fdc_process_check();
    struct pci want, have;
    int i;

    if (result != CUDA_SUCCESS)
        return result;
    if (dev == NULL || pciBusId == NULL || !pci_parse(pciBusId, &want))
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < fdc_device_count(); i++) {
        struct fdc_device *device = fdc_device(i);

        have.domain = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
        have.bus = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
        have.device = (unsigned)attribute(device, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
        if (have.domain == want.domain && have.bus == want.bus &&
            have.device == want.device) {
            *dev = i;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_DEVICE;
}

/* ---- several devices ---- */

uint8_t
fdc_device_peer(const struct fdc_device *from, const struct fdc_device *to)
{
    const struct fdc_snapshot *snapshot = from->session->snapshot;
    const uint8_t *peer = (const uint8_t *)snapshot + snapshot->peer_offset;

    if (from->session != to->session || from == to)
        return 0;
    return peer[(size_t)from->remote * snapshot->device_count + (size_t)to->remote];
}

FDC_EXPORT CUresult
cuDeviceCanAccessPeer(int *canAccessPeer, CUdevice dev, CUdevice peerDev)
{
    struct fdc_device *device, *peer;
    CUresult result = device_of(dev, &device);

    if (result == CUDA_SUCCESS)
        result = device_of(peerDev, &peer);
    if (result != CUDA_SUCCESS)
        return result;
    if (canAccessPeer == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *canAccessPeer = (fdc_device_peer(device, peer) & FDC_PEER_ACCESS) != 0;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attrib, CUdevice srcDevice,
                        CUdevice dstDevice)
{
    struct fdc_device *src, *dst;
    CUresult result = device_of(srcDevice, &src);
    uint8_t word;

    if (result == CUDA_SUCCESS)
        result = device_of(dstDevice, &dst);
    if (result != CUDA_SUCCESS)
        return result;
    if (src == dst)
        return CUDA_ERROR_INVALID_DEVICE;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    word = fdc_device_peer(src, dst);
    switch ((int)attrib) {
    case CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK:
        *value = word >> FDC_PEER_RANK;
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED:
        *value = (word & FDC_PEER_ACCESS) != 0;
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED:
        *value = (word & FDC_PEER_ATOMICS) != 0;
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED:
        *value = (word & FDC_PEER_ARRAYS) != 0;
        return CUDA_SUCCESS;
    case CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED:
        *value = (word & FDC_PEER_SOME_ATOMICS) != 0;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

FDC_EXPORT CUresult
cuDeviceGetExecAffinitySupport(int *pi, CUexecAffinityType type, CUdevice dev)
{
    struct fdc_device *device;
    CUresult result = device_of(dev, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pi == NULL || type != CU_EXEC_AFFINITY_TYPE_SM_COUNT)
        return CUDA_ERROR_INVALID_VALUE;
    *pi = 0;
    return CUDA_SUCCESS;
}
