/*
 * libnvidia-ml.so.1: what programs ask NVML about GPUs, answered from what the library that
 * stands as libcuda.so.1 beside it knows (private table "fdcore devices"): the slice, with
 * CUDA's own names, UUIDs and order. Nothing else of the process is touched: CUDA is not
 * initialised by it, so that a program may ask and fork before it begins.
 */
#include "nvml/nvml.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdc/base.h"

enum { DEVICES = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users; /* nvmlInit less nvmlShutdown, atomic */
static struct fdc_private_gpu gpus[DEVICES];
static int ngpus = -1; /* -1: not asked yet; handles stay good over a shutdown */
static const struct fdc_private_gpu_table *driver;

static const struct fdc_private_gpu_table *
find_driver(void)
{
    int (*get)(const void **table, const void *id);
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const void *table = NULL;

    if (library == NULL)
        return NULL;
    get = (int (*)(const void **, const void *))dlsym(library, "cuGetExportTable");
    return get != NULL && get(&table, FDC_PRIVATE_GPUS) == 0 ? table : NULL;
}

/* Under the lock. */
static nvmlReturn_t
begin(void)
{
    if (driver == NULL)
        driver = find_driver();
    if (driver == NULL)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    if (ngpus < 0)
        ngpus = driver->devices(gpus, DEVICES);
    return ngpus < 0 ? NVML_ERROR_DRIVER_NOT_LOADED : NVML_SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags);
FDC_EXPORT nvmlReturn_t
nvmlInitWithFlags(unsigned int flags)
{
    nvmlReturn_t result;

    (void)flags; /* "no GPUs" and "do not attach": nothing to do otherwise */
    pthread_mutex_lock(&lock);
    result = begin();
    if (result == NVML_SUCCESS)
        fdc_store_release(&users, users + 1); /* pairs with the acquire in check() */
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t nvmlInit_v2(void);
FDC_EXPORT nvmlReturn_t
nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlInit(void);
FDC_EXPORT nvmlReturn_t
nvmlInit(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlShutdown(void);
FDC_EXPORT nvmlReturn_t
nvmlShutdown(void)
{
    nvmlReturn_t result = NVML_ERROR_UNINITIALIZED;

    pthread_mutex_lock(&lock);
    if (users > 0) {
        fdc_store_release(&users, users - 1);
        result = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t
fdc_nvml_check(void)
{
    /* pairs with the releases in nvmlInitWithFlags() and nvmlShutdown() */
    return fdc_load_acquire(&users) > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t
fdc_nvml_device(nvmlDevice_t device)
{
    nvmlReturn_t result = fdc_nvml_check();
    uintptr_t at = (uintptr_t)device - (uintptr_t)gpus;

    if (result != NVML_SUCCESS)
        return result;
    return device == NULL || at % sizeof(gpus[0]) != 0 ||
                   at / sizeof(gpus[0]) >= (size_t)ngpus
               ? NVML_ERROR_INVALID_ARGUMENT
               : NVML_SUCCESS;
}

int
fdc_nvml_devices(const struct fdc_private_gpu **devices)
{
    *devices = gpus;
    return ngpus;
}

/* Bytes that this process has on a device; 0 where it has not begun with CUDA. */
static uint64_t
used_of(nvmlDevice_t device)
{
    return driver->used((int)(device - gpus));
}

/* ---- figures: asked for together, and kept for a moment ---- */

#define FRESH_NS 50000000ull        /* so long they are good */
#define SAMPLE_NS 100000000ull      /* so long at least is a share of time looked at */
#define STALE_NS 2000000000ull      /* and so long at most */

static pthread_mutex_t figures_lock = PTHREAD_MUTEX_INITIALIZER;

/* The share of time that kernels ran, between two questions. */
struct spell {
    uint32_t pid;
    int percent; /* -1: not known yet */
    uint64_t base_busy, base_ns; /* where it begins; 0: nowhere yet */
};

static struct figures {
    uint64_t asked_ns; /* 0: never */
    struct fdc_monitor_gpu gpu;
    struct fdc_monitor_process others[FDC_BOARD_ROWS];
    unsigned int count;
    struct spell all;
    struct spell each[FDC_BOARD_ROWS]; /* of processes */
} *figures[DEVICES];

/* Under the lock. NULL: no memory. */
static struct figures *
refresh(nvmlDevice_t device, bool now)
{
    int ordinal = (int)(device - gpus), count;
    struct figures *f = figures[ordinal];

    if (f == NULL) {
        f = figures[ordinal] = calloc(1, sizeof(*f));
        if (f == NULL)
            return NULL;
        f->all.percent = -1;
    }
    if (!now && f->asked_ns != 0 && fdc_now_ns() - f->asked_ns < FRESH_NS)
        return f;
    count = driver->monitor(ordinal, &f->gpu, f->others, FDC_BOARD_ROWS);
    if (count < 0)
        memset(&f->gpu, 0, sizeof(f->gpu));
    f->count = count < 0 ? 0 : (unsigned int)count;
    f->asked_ns = fdc_now_ns();
    return f;
}

static void
monitor(nvmlDevice_t device, bool now, struct fdc_monitor_gpu *out)
{
    struct figures *f;

    pthread_mutex_lock(&figures_lock);
    f = refresh(device, now);
    if (f != NULL)
        *out = f->gpu;
    else
        memset(out, 0, sizeof(*out));
    pthread_mutex_unlock(&figures_lock);
}

void
fdc_nvml_monitor(nvmlDevice_t device, struct fdc_monitor_gpu *out)
{
    monitor(device, false, out);
}

void
fdc_nvml_monitor_now(nvmlDevice_t device, struct fdc_monitor_gpu *out)
{
    monitor(device, true, out);
}

unsigned int
fdc_nvml_processes(nvmlDevice_t device, struct fdc_monitor_process *out, unsigned int room)
{
    struct fdc_monitor_process own = {.pid = (uint32_t)getpid(),
                                      .used = used_of(device)};
    unsigned int count = 0, i;
    struct figures *f;

    pthread_mutex_lock(&figures_lock);
    f = refresh(device, false);
    own.used += f != NULL ? f->gpu.beside : 0;
    if (own.used != 0 && count++ < room)
        out[0] = own;
    for (i = 0; f != NULL && i < f->count; i++)
        if (count++ < room)
            out[count - 1] = f->others[i];
    pthread_mutex_unlock(&figures_lock);
    return count;
}

/* False: nobody has asked before, or long ago: there is nothing to compare with. */
static bool
begun(struct spell *spell, uint64_t busy, uint64_t now)
{
    if (spell->base_ns != 0 && now - spell->base_ns <= STALE_NS)
        return true;
    spell->base_ns = now;
    spell->base_busy = busy;
    return false;
}

static void
reckon(struct spell *spell, uint64_t busy, uint64_t now)
{
    uint64_t span = now - spell->base_ns, more;

    if (span < SAMPLE_NS)
        return;
    /* A session that ended took its time with it. */
    more = busy > spell->base_busy ? busy - spell->base_busy : 0;
    spell->percent = more >= span ? 100 : (int)(more * 100 / span);
    spell->base_ns = now;
    spell->base_busy = busy;
}

int
fdc_nvml_busy(nvmlDevice_t device)
{
    struct figures *f;
    int percent = -1;

    pthread_mutex_lock(&figures_lock);
    f = refresh(device, false);
    if (f == NULL || f->gpu.now_ns == 0)
        goto out;
    if (!begun(&f->all, f->gpu.busy_ns, f->gpu.now_ns)) {
        usleep(SAMPLE_NS / 1000);
        refresh(device, true);
    }
    reckon(&f->all, f->gpu.busy_ns, f->gpu.now_ns);
    percent = f->all.percent;

out:
    pthread_mutex_unlock(&figures_lock);
    return percent;
}

/* The process's own spell, or one that nobody has. */
static struct spell *
spell_of(struct figures *f, uint32_t pid)
{
    struct spell *free = NULL;

    for (size_t i = 0; i < FDC_COUNT(f->each); i++) {
        if (f->each[i].pid == pid)
            return &f->each[i];
        if (free == NULL && (f->each[i].pid == 0 ||
                             f->gpu.now_ns - f->each[i].base_ns > STALE_NS))
            free = &f->each[i];
    }
    if (free != NULL)
        *free = (struct spell){pid, -1, 0, 0};
    return free;
}

/* Goes through all processes; how many have shares that are known. begin: those that are
 * not begun are, and the answer is whether there were any. */
static unsigned int
each_share(struct figures *f, uint64_t own_used, bool begin, struct fdc_nvml_share *out,
           unsigned int room)
{
    struct fdc_monitor_process one = {(uint32_t)getpid(), f->gpu.own_shares, own_used,
                                      f->gpu.own_busy_ns};
    unsigned int count = 0, i, n;
    struct spell *spell;

    for (i = 0; i <= f->count; i++) {
        if (i > 0)
            one = f->others[i - 1];
        if (one.used == 0)
            continue;
        if (one.shares != FDC_SHARES_UNKNOWN) {
            if (!begin && count < room) {
                out[count] = (struct fdc_nvml_share){.pid = one.pid};
                for (n = 0; n < 4; n++)
                    out[count].percent[n] = one.shares >> 8 * n & 0xff;
            }
            count += !begin;
            continue;
        }
        spell = f->gpu.now_ns != 0 ? spell_of(f, one.pid) : NULL;
        if (spell == NULL)
            continue;
        if (begin) {
            count += !begun(spell, one.busy_ns, f->gpu.now_ns);
            continue;
        }
        reckon(spell, one.busy_ns, f->gpu.now_ns);
        if (spell->percent >= 0 && count < room)
            out[count] = (struct fdc_nvml_share){one.pid, {(unsigned)spell->percent}};
        count += spell->percent >= 0;
    }
    return count < room || begin ? count : room;
}

unsigned int
fdc_nvml_shares(nvmlDevice_t device, struct fdc_nvml_share *out, unsigned int room)
{
    uint64_t used = used_of(device);
    unsigned int count = 0;
    struct figures *f;

    pthread_mutex_lock(&figures_lock);
    f = refresh(device, false);
    if (f != NULL) {
        if (each_share(f, used, true, NULL, 0) != 0) {
            usleep(SAMPLE_NS / 1000);
            refresh(device, true);
        }
        count = each_share(f, used, false, out, room);
    }
    pthread_mutex_unlock(&figures_lock);
    return count;
}

nvmlReturn_t
fdc_nvml_refuse(const char *name, uint32_t *said)
{
    if (!__atomic_exchange_n(said, 1, __ATOMIC_RELAXED))
        fdc_log(FDC_LOG_INFO, "%s is not implemented", name);
    return fdc_nvml_check() == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED
                                            : NVML_ERROR_UNINITIALIZED;
}

const char *nvmlErrorString(nvmlReturn_t result);
FDC_EXPORT const char *
nvmlErrorString(nvmlReturn_t result)
{
    static const char *const words[] = {
        "Success",
        "Uninitialized",
        "Invalid Argument",
        "Not Supported",
        "Insufficient Permissions",
        "Already Initialized",
        "Not Found",
        "Insufficient Size",
        "Insufficient External Power",
        "Driver Not Loaded",
        "Timeout",
        "Interrupt Request Issue",
        "NVML Shared Library Not Found",
        "Function Not Found",
        "Corrupted infoROM",
        "GPU is lost",
        "GPU requires reset",
        "The operating system has blocked the request",
        "RM has detected an NVML/RM version mismatch",
        "In use by another client",
        "Insufficient Memory",
        "No data",
        "The requested vgpu operation is not available on target device",
        "Insufficient Resources",
        "Frequency Not Supported",
        "Argument version mismatch",
        "Deprecated",
        "Not Ready",
        "GPU not found",
        "Invalid State",
        "Reset Type Not Supported",
    };

    return result >= 0 && (size_t)result < FDC_COUNT(words) ? words[result]
                                                            : "Unknown Error";
}
