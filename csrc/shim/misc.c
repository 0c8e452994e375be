/* Errors' names, versions, export tables, profiler: what touches no device. */
#include "memory.h"
#include "process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "fdc/private.h"

#define DRIVER_VERSION 13000 /* what this shim implements */

/* ---- errors ---- */

static const struct error {
    CUresult code;
    const char *name, *text;
} errors[] = {
#define ERROR(name, text) {name, #name, text}
    ERROR(CUDA_SUCCESS, "no error"),
    ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    ERROR(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    ERROR(CUDA_ERROR_PROFILER_DISABLED,
          "profiler disabled while using external profiling tool"),
    ERROR(CUDA_ERROR_PROFILER_NOT_INITIALIZED,
          "profiler not initialized: call cudaProfilerInitialize()"),
    ERROR(CUDA_ERROR_PROFILER_ALREADY_STARTED, "profiler already started"),
    ERROR(CUDA_ERROR_PROFILER_ALREADY_STOPPED, "profiler already stopped"),
    ERROR(CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library"),
    ERROR(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER,
          "API call is not supported in the installed CUDA driver"),
    ERROR(CUDA_ERROR_DEVICE_UNAVAILABLE,
          "CUDA-capable device(s) is/are busy or unavailable"),
    ERROR(CUDA_ERROR_MULTICAST_RESOURCE_FULL, "multicast resources are used up"),
    ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    ERROR(CUDA_ERROR_DEVICE_NOT_LICENSED, "device doesn't have valid Grid license"),
    ERROR(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    ERROR(CUDA_ERROR_CONTEXT_ALREADY_CURRENT, "context already current"),
    ERROR(CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"),
    ERROR(CUDA_ERROR_UNMAP_FAILED, "unmapping of buffer object failed"),
    ERROR(CUDA_ERROR_ARRAY_IS_MAPPED, "array is mapped"),
    ERROR(CUDA_ERROR_ALREADY_MAPPED, "resource already mapped"),
    ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU,
          "no kernel image is available for execution on the device"),
    ERROR(CUDA_ERROR_ALREADY_ACQUIRED, "resource already acquired"),
    ERROR(CUDA_ERROR_NOT_MAPPED, "resource not mapped"),
    ERROR(CUDA_ERROR_NOT_MAPPED_AS_ARRAY, "resource not mapped as array"),
    ERROR(CUDA_ERROR_NOT_MAPPED_AS_POINTER, "resource not mapped as pointer"),
    ERROR(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    ERROR(CUDA_ERROR_UNSUPPORTED_LIMIT, "limit is not supported on this architecture"),
    ERROR(CUDA_ERROR_CONTEXT_ALREADY_IN_USE,
          "exclusive-thread device already in use by a different thread"),
    ERROR(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED,
          "peer access is not supported between these two devices"),
    ERROR(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    ERROR(CUDA_ERROR_INVALID_GRAPHICS_CONTEXT, "invalid OpenGL or DirectX context"),
    ERROR(CUDA_ERROR_NVLINK_UNCORRECTABLE,
          "uncorrectable NVLink error detected during the execution"),
    ERROR(CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "PTX JIT compiler library not found"),
    ERROR(CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
          "the provided PTX was compiled with an unsupported toolchain."),
    ERROR(CUDA_ERROR_JIT_COMPILATION_DISABLED, "PTX JIT compilation was disabled"),
    ERROR(CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY,
          "the provided execution affinity is not supported"),
    ERROR(CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC,
          "the provided PTX contains unsupported call to cudaDeviceSynchronize"),
    ERROR(CUDA_ERROR_CONTAINED,
          "Invalid access of peer GPU memory over nvlink or a hardware error"),
    ERROR(CUDA_ERROR_INSUFFICIENT_LOADER_VERSION, "the loader version is insufficient"),
    ERROR(CUDA_ERROR_INVALID_SOURCE, "device kernel image is invalid"),
    ERROR(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    ERROR(CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found"),
    ERROR(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed"),
    ERROR(CUDA_ERROR_OPERATING_SYSTEM,
          "OS call failed or operation not supported on this OS"),
    ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    ERROR(CUDA_ERROR_ILLEGAL_STATE,
          "the operation cannot be performed in the present state"),
    ERROR(CUDA_ERROR_LOSSY_QUERY,
          "attempted introspection would be semantically lossy"),
    ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
    ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
          "too many resources requested for launch"),
    ERROR(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    ERROR(CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING,
          "launch uses incompatible texturing mode"),
    ERROR(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
    ERROR(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
    ERROR(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE,
          "cannot set while device is active in this process"),
    ERROR(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    ERROR(CUDA_ERROR_ASSERT, "device-side assert triggered"),
    ERROR(CUDA_ERROR_TOO_MANY_PEERS, "peer mapping resources exhausted"),
    ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
          "part or all of the requested memory range is already mapped"),
    ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
          "pointer does not correspond to a registered memory region"),
    ERROR(CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error"),
    ERROR(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    ERROR(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    ERROR(CUDA_ERROR_INVALID_ADDRESS_SPACE,
          "operation not supported on global/shared address space"),
    ERROR(CUDA_ERROR_INVALID_PC, "invalid program counter"),
    ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    ERROR(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
          "too many blocks in cooperative launch"),
    ERROR(CUDA_ERROR_TENSOR_MEMORY_LEAK, "a kernel left tensor memory allocated"),
    ERROR(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    ERROR(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized"),
    ERROR(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
          "system has unsupported display driver / cuda driver combination"),
    ERROR(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
          "forward compatibility was attempted on non supported HW"),
    ERROR(CUDA_ERROR_MPS_CONNECTION_FAILED,
          "MPS client failed to connect to the MPS control daemon or the MPS server"),
    ERROR(
        CUDA_ERROR_MPS_RPC_FAILURE,
        "the remote procedural call between the MPS server and the MPS client failed"),
    ERROR(CUDA_ERROR_MPS_SERVER_NOT_READY,
          "MPS server is not ready to accept new MPS client requests"),
    ERROR(CUDA_ERROR_MPS_MAX_CLIENTS_REACHED,
          "the hardware resources required to create MPS client have been exhausted"),
    ERROR(CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED,
          "the hardware resources required to support device connections have been "
          "exhausted"),
    ERROR(CUDA_ERROR_MPS_CLIENT_TERMINATED,
          "the MPS client has been terminated by the server"),
    ERROR(CUDA_ERROR_CDP_NOT_SUPPORTED,
          "the current context does not support CUDA dynamic parallelism"),
    ERROR(CUDA_ERROR_CDP_VERSION_MISMATCH, "unsupported interaction between different "
                                           "versions of CUDA dynamic parallelism"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
          "operation not permitted when stream is capturing"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
          "operation failed due to a previous error during capture"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_MERGE,
          "operation would result in a merge of separate capture sequences"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
          "capture was not ended in the same stream as it began"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
          "dependency created on uncaptured work in another stream"),
    ERROR(
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
        "operation would make the legacy stream depend on a capturing blocking stream"),
    ERROR(CUDA_ERROR_CAPTURED_EVENT,
          "operation not permitted on an event last recorded in a capturing stream"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
          "attempt to terminate a thread-local capture sequence from another thread"),
    ERROR(CUDA_ERROR_TIMEOUT, "wait operation timed out"),
    ERROR(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE,
          "the graph update was not performed because it included changes which "
          "violated constraints specific to instantiated graph update"),
    ERROR(CUDA_ERROR_EXTERNAL_DEVICE,
          "an async error has occurred in external entity outside of CUDA"),
    ERROR(CUDA_ERROR_INVALID_CLUSTER_SIZE,
          "a kernel launch error has occurred due to cluster misconfiguration"),
    ERROR(CUDA_ERROR_FUNCTION_NOT_LOADED,
          "the function handle is not loaded when calling an API that requires a "
          "loaded function"),
    ERROR(CUDA_ERROR_INVALID_RESOURCE_TYPE,
          "the operation contains one or more resources that are not valid resource "
          "types"),
    ERROR(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION,
          "the operation contains one or more resources that are insufficient or "
          "non-applicable for the requested operation"),
    ERROR(CUDA_ERROR_KEY_ROTATION,
          "an error happened during the key rotation sequence"),
    ERROR(CUDA_ERROR_STREAM_DETACHED, "the requested operation is not permitted "
                                      "because the stream is in a detached state"),
    ERROR(CUDA_ERROR_GRAPH_RECAPTURE_FAILURE, "the graph recapture failed"),
    ERROR(CUDA_ERROR_FABRIC_NOT_READY, "the fabric is not ready"),
    ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
#undef ERROR
};

static const struct error *
error_of(CUresult code)
{
    size_t i;

    for (i = 0; i < FDC_COUNT(errors); i++)
        if (errors[i].code == code)
            return &errors[i];
    return NULL;
}

const char *
fdc_result_name(CUresult result)
{
    const struct error *error = error_of(result);

    return error != NULL ? error->name : NULL;
}

FDC_EXPORT CUresult
cuGetErrorName(CUresult error, const char **pStr)
{
    const struct error *found = error_of(error);

    if (pStr == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pStr = found != NULL ? found->name : NULL;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

FDC_EXPORT CUresult
cuGetErrorString(CUresult error, const char **pStr)
{
    const struct error *found = error_of(error);

    if (pStr == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pStr = found != NULL ? found->text : NULL;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- version ---- */

/* Works before cuInit, and then attaches: the answer must not change afterwards. */
static int
driver_version(void)
{
    uint32_t version = fdc_session_version();

    return version == 0 || version > DRIVER_VERSION ? DRIVER_VERSION : (int)version;
}

FDC_EXPORT CUresult
cuDriverGetVersion(int *driverVersion)
{
    if (driverVersion == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = driver_version();
    return CUDA_SUCCESS;
}

/* ---- private export tables ---- */

static void
private_identity(const struct fdc_snapshot_device *snapshot,
                 struct fdc_private_device *device)
{
    memcpy(device->uuid, snapshot->uuid, sizeof(device->uuid));
    device->pci_domain = snapshot->attribute[CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID];
    device->pci_bus = snapshot->attribute[CU_DEVICE_ATTRIBUTE_PCI_BUS_ID];
    device->pci_device = snapshot->attribute[CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID];
}

static void
private_device(int ordinal, struct fdc_private_device *device)
{
    private_identity(fdc_device(ordinal)->snapshot, device);
}

static void *
private_primary(int ordinal)
{
    struct fdc_device *device = fdc_device(ordinal);

    return device != NULL ? (void *)(uintptr_t)device->primary->object.handle : NULL;
}

static void *
private_current(void)
{
    struct fdc_context *context = fdc_context_current();

    return context != NULL ? (void *)(uintptr_t)context->object.handle : NULL;
}

static int
private_id(void *ctx, uint64_t *id)
{
    unsigned long long found;
    CUresult result = cuCtxGetId(ctx, &found);

    if (result == CUDA_SUCCESS)
        *id = found;
    return result;
}

static int
private_functions(void *ctx, void *module, void (*each)(void *user, void *function),
                  void *user)
{
    CUfunction *functions;
    unsigned count = 0, i;
    CUresult result;

    (void)ctx;
    result = cuModuleGetFunctionCount(&count, module);
    if (result != CUDA_SUCCESS || count == 0)
        return result;
    functions = calloc(count, sizeof(*functions));
    if (functions == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = cuModuleEnumerateFunctions(functions, count, module);
    for (i = 0; result == CUDA_SUCCESS && i < count; i++)
        each(user, functions[i]);
    free(functions);
    return result;
}

#define MONITOR_ROOM 8192 /* a lease of 256 processes has room there */

/* NVML shows all devices of the lease, whatever CUDA_VISIBLE_DEVICES says. */
static const struct fdc_snapshot_device *
leased(int ordinal, struct fdc_session **session, int *remote)
{
    const struct fdc_snapshot *snapshot;
    int i;

    for (i = 0; (*session = fdc_session_at(i)) != NULL; i++) {
        snapshot = (*session)->snapshot;
        *remote = ordinal;
        if (ordinal < (int)snapshot->device_count)
            return (const struct fdc_snapshot_device *)((const char *)snapshot +
                                                        snapshot->device_offset) +
                   ordinal;
        ordinal -= (int)snapshot->device_count;
    }
    return NULL;
}

static int
private_gpus(struct fdc_private_gpu *out, int room)
{
    const struct fdc_snapshot_device *from;
    int version = (int)fdc_session_version(); /* attaches if need be */
    struct fdc_session *session;
    int i, remote;

    if (version == 0)
        return -1;
    for (i = 0; i < room && (from = leased(i, &session, &remote)) != NULL; i++) {
        memset(&out[i], 0, sizeof(out[i]));
        private_identity(from, &out[i].device);
        snprintf(out[i].name, sizeof(out[i].name), "%.95s", from->name);
        out[i].memory = from->memory;
        out[i].major = from->attribute[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR];
        out[i].minor = from->attribute[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR];
        out[i].cuda_version = version;
    }
    return i;
}

static uint64_t
private_used(int ordinal)
{
    struct fdc_session *session;
    struct fdc_device *device;
    int i, remote;

    if (fdc_session_check() != CUDA_SUCCESS || leased(ordinal, &session, &remote) == NULL)
        return 0;
    for (i = 0; (device = fdc_device(i)) != NULL; i++)
        if (device->session == session && device->remote == remote)
            return fdc_memory_used(device);
    return 0;
}

/* Figures are the worker's: one call, for any thread and before cuInit too. */
static CUresult
monitor(struct fdc_call *call, int remote, void **bytes, uint64_t *size)
{
    struct fdc_rep_fdcMonitor reply;
    struct fdc_req_fdcMonitor *req;
    struct fdc_chunk chunk;
    CUresult result;

    result = fdc_stage_alloc(call->session, FDC_REGION_DOWN, MONITOR_ROOM, &chunk);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL) {
        result = call->result;
    } else {
        req->device = remote;
        req->blob = chunk;
        result = fdc_call_wait(call, &reply, sizeof(reply));
    }
    if (result == CUDA_SUCCESS)
        result = fdc_blob_rest(call, &chunk, reply.total, bytes);
    *size = result == CUDA_SUCCESS ? reply.total : 0;
    fdc_stage_free(call->session, FDC_REGION_DOWN, &chunk);
    return result;
}

static int
private_monitor(int ordinal, struct fdc_monitor_gpu *gpu,
                struct fdc_monitor_process *others, int room)
{
    struct fdc_call call = {.id = FDC_ID_fdcMonitor};
    void *bytes = NULL;
    int remote, count;
    uint64_t size;

    if (fdc_session_version() == 0 || leased(ordinal, &call.session, &remote) == NULL ||
        monitor(&call, remote, &bytes, &size) != CUDA_SUCCESS)
        return -1;
    if (size < sizeof(*gpu)) {
        free(bytes);
        return -1;
    }
    memcpy(gpu, bytes, sizeof(*gpu));
    gpu->driver[sizeof(gpu->driver) - 1] = '\0';
    gpu->serial[sizeof(gpu->serial) - 1] = gpu->vbios[sizeof(gpu->vbios) - 1] = '\0';
    count = (int)((size - sizeof(*gpu)) / sizeof(*others));
    count = count < room ? count : room;
    memcpy(others, (const char *)bytes + sizeof(*gpu), (size_t)count * sizeof(*others));
    free(bytes);
    return count;
}

static const struct fdc_private_ops private_ops = {
    .driver_version = driver_version,
    .device_count = fdc_device_count,
    .device = private_device,
    .ctx_primary = private_primary,
    .ctx_current = private_current,
    .ctx_id = private_id,
    .module_functions = private_functions,
    .gpus = private_gpus,
    .gpu_used = private_used,
    .gpu_monitor = private_monitor,
};

FDC_EXPORT CUresult
cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
    if (ppExportTable == NULL || pExportTableId == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return (CUresult)fdc_private_table(&private_ops, ppExportTable, pExportTableId);
}

/* ---- the profiler's range: nothing here profiles ---- */

FDC_EXPORT CUresult
cuProfilerInitialize(const char *configFile, const char *outputFile,
                     CUoutput_mode outputMode)
{
    (void)configFile;
    (void)outputFile;
    (void)outputMode;
    return CUDA_ERROR_NOT_SUPPORTED;
}

FDC_EXPORT CUresult
cuProfilerStart(void)
{
    return fdc_process_check();
}

FDC_EXPORT CUresult
cuProfilerStop(void)
{
    return fdc_process_check();
}
