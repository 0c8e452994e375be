/*
 * NVML's events: only that a device has failed (Xid). There is nobody who tells of it, so a
 * wait asks the worker again and again; what failed before a set was registered is not told.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdc/base.h"
#include "nvml/nvml.h"

#define NVML(name, ...)                                                                \
    nvmlReturn_t name(__VA_ARGS__);                                                    \
    FDC_EXPORT nvmlReturn_t name(__VA_ARGS__)

#define XID_EVENT 8ull
#define ASK_US 50000
#define SETS 64
#define DEVICES 64

typedef struct event_set *nvmlEventSet_t;

struct event_set {
    uint64_t told[DEVICES];     /* failures that were told, or there before */
    uint64_t registered;        /* a bit a device */
};

typedef struct {
    nvmlDevice_t device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
} nvmlEventData_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static nvmlEventSet_t sets[SETS];       /* those that were not freed */

/* Under the lock: whether it is one of ours. */
static bool
lives(nvmlEventSet_t set)
{
    for (int i = 0; set != NULL && i < SETS; i++)
        if (sets[i] == set)
            return true;
    return false;
}

NVML(nvmlEventSetCreate, nvmlEventSet_t *out)
{
    nvmlReturn_t result = fdc_nvml_check();
    nvmlEventSet_t made;
    int i;

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    made = calloc(1, sizeof(*made));
    pthread_mutex_lock(&lock);
    for (i = 0; made != NULL && i < SETS && sets[i] != NULL; i++)
        ;
    if (made != NULL && i < SETS)
        *out = sets[i] = made;
    pthread_mutex_unlock(&lock);
    if (made != NULL && i < SETS)
        return NVML_SUCCESS;
    free(made);
    return NVML_ERROR_MEMORY;
}

NVML(nvmlEventSetFree, nvmlEventSet_t set)
{
    nvmlReturn_t result = fdc_nvml_check();

    if (result != NVML_SUCCESS)
        return result;
    result = NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    for (int i = 0; set != NULL && i < SETS; i++)
        if (sets[i] == set) {
            sets[i] = NULL;
            result = NVML_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    if (result == NVML_SUCCESS)
        free(set);
    return result;
}

NVML(nvmlDeviceGetSupportedEventTypes, nvmlDevice_t device, unsigned long long *out)
{
    nvmlReturn_t result = fdc_nvml_device(device);

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *out = XID_EVENT;
    return NVML_SUCCESS;
}

static unsigned int
number_of(nvmlDevice_t device)
{
    const struct fdc_private_gpu *gpus;

    fdc_nvml_devices(&gpus);
    return (unsigned int)(device - gpus);
}

NVML(nvmlDeviceRegisterEvents, nvmlDevice_t device, unsigned long long types,
     nvmlEventSet_t set)
{
    nvmlReturn_t result = fdc_nvml_device(device);
    struct fdc_monitor_gpu gpu;
    uint64_t before;
    unsigned int at;

    if (result != NVML_SUCCESS)
        return result;
    if (types & ~XID_EVENT)
        return NVML_ERROR_NOT_SUPPORTED;
    /* A session that ends right now is counted a moment later again: the larger number. */
    fdc_nvml_monitor_now(device, &gpu);
    before = gpu.faults;
    fdc_nvml_monitor_now(device, &gpu);
    if (gpu.faults > before)
        before = gpu.faults;
    at = number_of(device);
    pthread_mutex_lock(&lock);
    result = lives(set) && at < DEVICES ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
    if (result == NVML_SUCCESS && types != 0 && (set->registered >> at & 1) == 0) {
        set->registered |= 1ull << at;
        set->told[at] = before;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* One event of the set, if there is one. TIMEOUT: not yet. */
static nvmlReturn_t
look(nvmlEventSet_t set, nvmlEventData_t *out)
{
    const struct fdc_private_gpu *gpus;
    struct fdc_monitor_gpu gpu;
    nvmlReturn_t result;
    uint64_t registered;

    pthread_mutex_lock(&lock);
    result = lives(set) ? NVML_ERROR_TIMEOUT : NVML_ERROR_INVALID_ARGUMENT;
    registered = result == NVML_ERROR_TIMEOUT ? set->registered : 0;
    pthread_mutex_unlock(&lock);
    fdc_nvml_devices(&gpus);
    for (unsigned int at = 0; registered >> at != 0; at++) {
        if ((registered >> at & 1) == 0)
            continue;
        fdc_nvml_monitor_now(&gpus[at], &gpu);
        pthread_mutex_lock(&lock);
        if (!lives(set)) {
            result = NVML_ERROR_INVALID_ARGUMENT;
        } else if (gpu.faults > set->told[at]) {
            set->told[at]++;
            *out = (nvmlEventData_t){&gpus[at], XID_EVENT, gpu.xid, 0xffffffffu,
                                     0xffffffffu};
            result = NVML_SUCCESS;
        }
        pthread_mutex_unlock(&lock);
        if (result != NVML_ERROR_TIMEOUT || at == DEVICES - 1)
            break;
    }
    return result;
}

NVML(nvmlEventSetWait_v2, nvmlEventSet_t set, nvmlEventData_t *out, unsigned int timeout_ms)
{
    uint64_t until = fdc_now_ns() + timeout_ms * 1000000ull, now;
    nvmlReturn_t result = fdc_nvml_check();

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    while ((result = look(set, out)) == NVML_ERROR_TIMEOUT) {
        now = fdc_now_ns();
        if (now >= until)
            break;
        usleep(until - now < ASK_US * 1000ull ? (useconds_t)((until - now) / 1000 + 1)
                                              : ASK_US);
    }
    return result;
}

NVML(nvmlEventSetWait, nvmlEventSet_t set, nvmlEventData_t *out, unsigned int timeout_ms)
{
    nvmlEventData_t data;
    nvmlReturn_t result = out == NULL ? NVML_ERROR_INVALID_ARGUMENT
                                      : nvmlEventSetWait_v2(set, &data, timeout_ms);

    if (result == NVML_SUCCESS) /* the old one ends with data */
        memcpy(out, &data, offsetof(nvmlEventData_t, gpu_instance));
    return result;
}
