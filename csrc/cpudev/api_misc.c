/* Entry points by name and version, the private tables and profiler switches. */
#include <string.h>

#include "cpudev.h"
#include "fdc/private.h"
#include "fdc/result.h"

/* ---- cuGetProcAddress ---- */

struct entry {
    const char *name;
    int since;
    int per_thread;
    const char *symbol;
    void *function;
};

/* Sorted by name, per-thread twins after the others, older revisions first. */
static const struct entry entries[] = {
#include "procaddr_names.h"
};

/* The first entry of a name. */
static size_t
first_of(const char *name)
{
    size_t lo = 0, hi = FDC_COUNT(entries), mid;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (strcmp(entries[mid].name, name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/*
 * The newest revision of name that version may see. A name that has per-thread twins is
 * looked for among those alone when they are asked for.
 */
static void *
find(const char *name, int version, bool per_thread, bool *known)
{
    size_t first = first_of(name), i;
    bool twins = false;
    void *best = NULL;
    int driver;

    *known = false;
    cuDriverGetVersion(&driver);
    for (i = first; i < FDC_COUNT(entries) && strcmp(entries[i].name, name) == 0; i++)
        twins |= entries[i].per_thread;
    for (i = first; i < FDC_COUNT(entries) && strcmp(entries[i].name, name) == 0; i++) {
        if (entries[i].per_thread != (twins && per_thread) || entries[i].since > driver)
            continue;
        *known = true;
        if (entries[i].since <= version)
            best = entries[i].function;
    }
    return best;
}

enum { WANT_PER_THREAD = 2 };

FDC_EXPORT CUresult
cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                    CUdriverProcAddressQueryResult *symbolStatus)
{
    bool known;

    if (symbol == NULL || pfn == NULL || flags > 2)
        return CUDA_ERROR_INVALID_VALUE;
    *pfn = find(symbol, cudaVersion, (flags & WANT_PER_THREAD) != 0, &known);
    if (symbolStatus != NULL)
        *symbolStatus = *pfn != NULL ? CU_GET_PROC_ADDRESS_SUCCESS
                        : known      ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                                     : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
    void *found;
    bool known;

    if (symbol == NULL || pfn == NULL || flags > 2)
        return CUDA_ERROR_INVALID_VALUE;
    found = find(symbol, cudaVersion, (flags & WANT_PER_THREAD) != 0, &known);
    if (found == NULL)
        return CUDA_ERROR_NOT_FOUND;
    *pfn = found;
    return CUDA_SUCCESS;
}

/* ---- private tables ---- */

static int
ask_version(void)
{
    int version;

    cuDriverGetVersion(&version);
    return version;
}

static int
ask_count(void)
{
    return fdcpu.ndevices;
}

static void
identity(const struct fdcpu_device *device, struct fdc_private_device *out)
{
    memcpy(out->uuid, device->uuid, sizeof(out->uuid));
    out->pci_domain = device->pci_domain;
    out->pci_bus = device->pci_bus;
    out->pci_device = device->pci_slot;
}

static void
ask_device(int ordinal, struct fdc_private_device *out)
{
    identity(&fdcpu.device[ordinal], out);
}

static int
ask_gpus(struct fdc_private_gpu *out, int room)
{
    struct fdcpu_device devices[FDCPU_MAX_DEVICES] = {0};
    struct fdcpu_options opt;
    int n = fdcpu_devices_look(devices, FDCPU_MAX_DEVICES, &opt), i;

    for (i = 0; i < n && i < room; i++) {
        memset(&out[i], 0, sizeof(out[i]));
        identity(&devices[i], &out[i].device);
        snprintf(out[i].name, sizeof(out[i].name), "%s", devices[i].name);
        out[i].memory = opt.memory;
        out[i].major = opt.cc / 10;
        out[i].minor = opt.cc % 10;
        out[i].cuda_version = opt.version;
    }
    return i;
}

static uint64_t
ask_used(int ordinal)
{
    int i;

    for (i = 0; i < fdcpu.ndevices; i++)
        if (fdcpu.device[i].physical == ordinal)
            return atomic_load(&fdcpu.device[i].used);
    return 0;
}

static void
look_at(struct fdcpu_device *device, struct fdc_monitor_gpu *gpu)
{
    gpu->busy_ns = gpu->own_busy_ns = fdcpu_busy_ns(device, &gpu->now_ns);
    gpu->own_shares = FDC_SHARES_UNKNOWN;
    gpu->xid = fdc_result_xid(atomic_load(&device->lost));
    gpu->faults = gpu->xid != 0;
}

/* This process is alone with its devices. */
static int
ask_monitor(int ordinal, struct fdc_monitor_gpu *gpu, struct fdc_monitor_process *others,
            int room)
{
    int i;

    (void)others;
    (void)room;
    memset(gpu, 0, sizeof(*gpu));
    gpu->now_ns = fdc_now_ns();
    for (i = 0; i < fdcpu.ndevices; i++)
        if (fdcpu.device[i].physical == ordinal)
            look_at(&fdcpu.device[i], gpu);
    return 0;
}

static int
ask_busy(int ordinal, struct fdc_busy *where)
{
    if (ordinal < 0 || ordinal >= fdcpu.ndevices)
        return 1;
    fdcpu_busy_keep(&fdcpu.device[ordinal], where);
    return 0;
}

static void *
ask_primary(int ordinal)
{
    struct fdcpu_device *device = fdcpu_device_get(ordinal);

    return device == NULL ? NULL : (void *)(uintptr_t)device->primary->handle;
}

static void *
ask_current(void)
{
    struct fdcpu_ctx *ctx = fdcpu_ctx_current();

    return ctx == NULL ? NULL : (void *)(uintptr_t)ctx->handle;
}

static int
ask_ctx_id(void *ctx, uint64_t *id)
{
    unsigned long long value;
    CUresult result = cuCtxGetId(ctx, &value);

    if (result == CUDA_SUCCESS)
        *id = value;
    return (int)result;
}

static int
ask_functions(void *ctx, void *handle, void (*each)(void *user, void *function),
              void *user)
{
    struct fdcpu_module_obj *module = FDCPU_GET(FDCPU_H_MODULE, handle);
    uint32_t i;

    (void)ctx;
    if (module == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    for (i = 0; i < module->nfunctions; i++)
        each(user, (void *)(uintptr_t)module->functions[i]->handle);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
    static const struct fdc_private_ops ops = {
        ask_version, ask_count,  ask_device,    ask_primary,
        ask_current, ask_ctx_id, ask_functions, ask_gpus, ask_used,
        ask_monitor, ask_busy,
    };

    return (CUresult)fdc_private_table(&ops, ppExportTable, pExportTableId);
}

/* ---- the profiler's range ---- */

FDC_EXPORT CUresult
cuProfilerStart(void)
{
    struct fdcpu_ctx *ctx;

    return fdcpu_enter(&ctx);
}

FDC_EXPORT CUresult
cuProfilerStop(void)
{
    struct fdcpu_ctx *ctx;

    return fdcpu_enter(&ctx);
}
