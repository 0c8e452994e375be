/*
 * Figures of a driver's devices. A real driver's come from the libnvidia-ml.so.1 that lies
 * beside it: never from one that is found by name, which may be our own. The CPU device is
 * known by its private table. Written after NVIDIA's NVML API reference; what asks a real
 * NVML has not run on a GPU yet.
 */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdc/base.h"
#include "fdc/gauges.h"
#include "fdc/private.h"

#define NVML_NAME "libnvidia-ml.so.1"

typedef void *nvml_device;
typedef int (*ask_number)(nvml_device, unsigned int *);
typedef int (*ask_wide)(nvml_device, unsigned long long *);
typedef int (*ask_by)(nvml_device, unsigned int, unsigned int *);
typedef int (*ask_two)(nvml_device, unsigned int *, unsigned int *);
typedef int (*ask_errors)(nvml_device, unsigned int, unsigned int, unsigned long long *);
typedef int (*ask_rates)(nvml_device, unsigned int rates[2]);
typedef int (*ask_processes)(nvml_device, unsigned int *, void *);
typedef int (*ask_text)(nvml_device, char *, unsigned int);
typedef void *nvml_events;
struct nvml_event { nvml_device device; unsigned long long type, data; unsigned int id[2]; };
struct nvml_sample {
    unsigned int pid;
    unsigned long long stamp;
    unsigned int sm, memory, encoder, decoder;
};
#define XID_EVENT 8ull
#define DEVICES 64

#define PROCESSES 1024
struct process {                        /* nvmlProcessInfo_t */
    unsigned int pid;
    unsigned long long used;            /* ~0: not known */
    unsigned int instance, compute;
};

struct fdc_gauges {
    const struct fdc_driver *driver;
    const struct fdc_private_gpu_table *own;    /* the CPU device's; NULL: a real driver */
    pthread_mutex_t lock;
    bool tried;
    void *nvml;                                 /* initialised, or NULL */
    struct watched {
        char pci[32];
        nvml_events events;                     /* NULL: it has none */
        uint64_t faults;
        uint32_t xid;
    } watched[DEVICES];
    int nwatched;
};

/* One number each. */
static const struct { const char *name; uint8_t figure; } numbers[] = {
    { "nvmlDeviceGetPowerUsage", FDC_FIGURE_POWER },
    { "nvmlDeviceGetPowerManagementLimit", FDC_FIGURE_POWER_LIMIT },
    { "nvmlDeviceGetEnforcedPowerLimit", FDC_FIGURE_POWER_ENFORCED },
    { "nvmlDeviceGetPowerManagementDefaultLimit", FDC_FIGURE_POWER_DEFAULT },
    { "nvmlDeviceGetFanSpeed", FDC_FIGURE_FAN },
    { "nvmlDeviceGetPerformanceState", FDC_FIGURE_PSTATE },
    { "nvmlDeviceGetCurrPcieLinkGeneration", FDC_FIGURE_LINK },
    { "nvmlDeviceGetMaxPcieLinkGeneration", FDC_FIGURE_LINK_MAX },
    { "nvmlDeviceGetCurrPcieLinkWidth", FDC_FIGURE_LANES },
    { "nvmlDeviceGetMaxPcieLinkWidth", FDC_FIGURE_LANES_MAX },
    { "nvmlDeviceGetPcieReplayCounter", FDC_FIGURE_REPLAYS },
    { "nvmlDeviceGetBrand", FDC_FIGURE_BRAND },
};
/* One number, of several of a kind. */
static const struct { const char *name; uint8_t figure, count; } kinds[] = {
    { "nvmlDeviceGetTemperature", FDC_FIGURE_TEMPERATURE, 1 },
    { "nvmlDeviceGetTemperatureThreshold", FDC_FIGURE_SHUTDOWN, 2 },
    { "nvmlDeviceGetClockInfo", FDC_FIGURE_CLOCK, 4 },
    { "nvmlDeviceGetMaxClockInfo", FDC_FIGURE_CLOCK_MAX, 4 },
};
/* Two numbers; NONE: the second is only how long the first was looked at. */
#define NONE 255
static const struct { const char *name; uint8_t first, second; } pairs[] = {
    { "nvmlDeviceGetEccMode", FDC_FIGURE_ECC, FDC_FIGURE_ECC_PENDING },
    { "nvmlDeviceGetMigMode", FDC_FIGURE_MIG, FDC_FIGURE_MIG_PENDING },
    { "nvmlDeviceGetEncoderUtilization", FDC_FIGURE_ENCODER, NONE },
    { "nvmlDeviceGetDecoderUtilization", FDC_FIGURE_DECODER, NONE },
};
static const struct { const char *name; uint8_t figure; } wides[] = {
    { "nvmlDeviceGetTotalEnergyConsumption", FDC_FIGURE_ENERGY },
    { "nvmlDeviceGetCurrentClocksThrottleReasons", FDC_FIGURE_CLOCK_REASONS },
};

static const struct fdc_private_gpu_table *
own_table(const struct fdc_driver *driver)
{
    int (*get)(const void **table, const void *id);
    const void *table = NULL;

    *(void **)&get = dlsym(driver->dl, "cuGetExportTable");
    return get != NULL && get(&table, FDC_PRIVATE_GPUS) == 0 ? table : NULL;
}

struct fdc_gauges *
fdc_gauges_new(const struct fdc_driver *driver)
{
    struct fdc_gauges *gauges = calloc(1, sizeof(*gauges));

    if (gauges == NULL)
        return NULL;
    gauges->driver = driver;
    gauges->own = own_table(driver);
    pthread_mutex_init(&gauges->lock, NULL);
    return gauges;
}

void
fdc_gauges_free(struct fdc_gauges *gauges)
{
    if (gauges == NULL)
        return;
    pthread_mutex_destroy(&gauges->lock);
    free(gauges); /* NVML stays open: the process ends */
}

bool
fdc_gauges_busy(struct fdc_gauges *gauges, int ordinal, struct fdc_busy *where)
{
    return gauges->own != NULL && gauges->own->busy(ordinal, where) == 0;
}

/* ---- NVML ---- */

static void *
open_beside(const struct fdc_driver *driver)
{
    char path[PATH_MAX];
    const char *slash;
    int (*init)(void);
    Dl_info info;
    void *nvml;

    if (dladdr(*(void *const *)&driver->cuInit, &info) == 0 || info.dli_fname == NULL)
        return NULL;
    slash = strrchr(info.dli_fname, '/');
    if (slash == NULL || slash - info.dli_fname + sizeof("/" NVML_NAME) > sizeof(path))
        return NULL;
    snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - info.dli_fname), info.dli_fname,
             NVML_NAME);
    nvml = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (nvml == NULL) {
        fdc_log(FDC_LOG_INFO, "no NVML, so no figures of GPUs: %s", dlerror());
        return NULL;
    }
    *(void **)&init = dlsym(nvml, "nvmlInit_v2");
    if (init == NULL || init() != 0) {
        fdc_log(FDC_LOG_INFO, "%s cannot be initialised", path);
        dlclose(nvml);
        return NULL;
    }
    return nvml;
}

static void
know(struct fdc_monitor_gpu *out, uint8_t figure, uint64_t value)
{
    out->known |= 1ull << figure;
    out->figure[figure] = value;
}

static void
read_numbers(void *nvml, nvml_device device, struct fdc_monitor_gpu *out)
{
    unsigned int value, second;
    unsigned long long wide;

    for (size_t i = 0; i < FDC_COUNT(numbers); i++) {
        ask_number ask = (ask_number)dlsym(nvml, numbers[i].name);

        if (ask != NULL && ask(device, &value) == 0)
            know(out, numbers[i].figure, value);
    }
    for (size_t i = 0; i < FDC_COUNT(kinds); i++) {
        ask_by ask = (ask_by)dlsym(nvml, kinds[i].name);

        for (unsigned int kind = 0; ask != NULL && kind < kinds[i].count; kind++)
            if (ask(device, kind, &value) == 0)
                know(out, (uint8_t)(kinds[i].figure + kind), value);
    }
    for (size_t i = 0; i < FDC_COUNT(pairs); i++) {
        ask_two ask = (ask_two)dlsym(nvml, pairs[i].name);

        if (ask == NULL || ask(device, &value, &second) != 0)
            continue;
        know(out, pairs[i].first, value);
        if (pairs[i].second != NONE)
            know(out, pairs[i].second, second);
    }
    for (size_t i = 0; i < FDC_COUNT(wides); i++) {
        ask_wide ask = (ask_wide)dlsym(nvml, wides[i].name);

        if (ask != NULL && ask(device, &wide) == 0)
            know(out, wides[i].figure, wide);
    }
}

static void
read_rest(void *nvml, nvml_device device, struct fdc_monitor_gpu *out)
{
    ask_rates use = (ask_rates)dlsym(nvml, "nvmlDeviceGetUtilizationRates");
    ask_errors errors = (ask_errors)dlsym(nvml, "nvmlDeviceGetTotalEccErrors");
    ask_text serial = (ask_text)dlsym(nvml, "nvmlDeviceGetSerial");
    ask_text vbios = (ask_text)dlsym(nvml, "nvmlDeviceGetVbiosVersion");
    int (*window)(nvml_device, unsigned long long sizes[3]);
    unsigned long long sizes[3];
    int (*version)(char *, unsigned int);
    unsigned long long count;
    unsigned int rates[2];

    *(void **)&version = dlsym(nvml, "nvmlSystemGetDriverVersion");
    *(void **)&window = dlsym(nvml, "nvmlDeviceGetBAR1MemoryInfo");
    if (window != NULL && window(device, sizes) == 0) { /* total, free, used */
        know(out, FDC_FIGURE_BAR1, sizes[0]);
        know(out, FDC_FIGURE_BAR1_USED, sizes[2]);
    }
    if (use != NULL && use(device, rates) == 0) {
        know(out, FDC_FIGURE_GPU_USE, rates[0]);
        know(out, FDC_FIGURE_MEMORY_USE, rates[1]);
    }
    for (unsigned int i = 0; errors != NULL && i < 4; i++)
        if (errors(device, i / 2, i % 2, &count) == 0)
            know(out, (uint8_t)(FDC_FIGURE_ECC_ERRORS + i), count);
    if (serial == NULL || serial(device, out->serial, sizeof(out->serial)) != 0)
        out->serial[0] = '\0';
    if (vbios == NULL || vbios(device, out->vbios, sizeof(out->vbios)) != 0)
        out->vbios[0] = '\0';
    if (version == NULL || version(out->driver, sizeof(out->driver)) != 0)
        out->driver[0] = '\0';
}

/* What programs do wrong is known by their own results, and nobody else's business. */
static bool
is_a_programs(unsigned long long xid)
{
    return xid == 13 || xid == 31 || xid == 43 || xid == 45;
}

/* The device's events, registered for from the first time on. Under the lock. */
static struct watched *
watch(struct fdc_gauges *gauges, const char *pci, nvml_device device)
{
    int (*create)(nvml_events *), (*registers)(nvml_device, unsigned long long, nvml_events);
    struct watched *one;

    for (int i = 0; i < gauges->nwatched; i++)
        if (strcmp(gauges->watched[i].pci, pci) == 0)
            return &gauges->watched[i];
    if (gauges->nwatched == DEVICES)
        return NULL;
    one = &gauges->watched[gauges->nwatched++];
    snprintf(one->pci, sizeof(one->pci), "%s", pci);
    *(void **)&create = dlsym(gauges->nvml, "nvmlEventSetCreate");
    *(void **)&registers = dlsym(gauges->nvml, "nvmlDeviceRegisterEvents");
    if (create == NULL || registers == NULL || create(&one->events) != 0)
        one->events = NULL;
    else if (registers(device, XID_EVENT, one->events) != 0)
        one->events = NULL; /* the set stays; the process ends some day */
    return one;
}

static void
read_faults(struct fdc_gauges *gauges, const char *pci, nvml_device device,
            struct fdc_monitor_gpu *out)
{
    int (*wait)(nvml_events, struct nvml_event *, unsigned int);
    struct nvml_event event;
    struct watched *one;

    *(void **)&wait = dlsym(gauges->nvml, "nvmlEventSetWait_v2");
    pthread_mutex_lock(&gauges->lock);
    one = watch(gauges, pci, device);
    while (one != NULL && one->events != NULL && wait != NULL &&
           wait(one->events, &event, 0) == 0)
        if (event.type == XID_EVENT && !is_a_programs(event.data)) {
            one->faults++;
            one->xid = (uint32_t)event.data;
        }
    if (one != NULL && one->faults != 0) {
        out->faults += one->faults;
        out->xid = one->xid;
    }
    pthread_mutex_unlock(&gauges->lock);
}

/* NVML's handle of the device at this place on the bus; NULL: there is none. */
static nvml_device
find(struct fdc_gauges *gauges, const char *pci)
{
    int (*by_bus)(const char *, nvml_device *);
    nvml_device device = NULL;

    if (gauges->own != NULL)
        return NULL;
    pthread_mutex_lock(&gauges->lock);
    if (!gauges->tried)
        gauges->nvml = open_beside(gauges->driver);
    gauges->tried = true;
    pthread_mutex_unlock(&gauges->lock);
    if (gauges->nvml == NULL)
        return NULL;
    *(void **)&by_bus = dlsym(gauges->nvml, "nvmlDeviceGetHandleByPciBusId_v2");
    return by_bus != NULL && by_bus(pci, &device) == 0 ? device : NULL;
}

/* Looked for by process id: in a container NVML may know it by another, or list none. */
static bool
taken_by_us(void *nvml, nvml_device device, uint64_t *bytes)
{
    struct process *list = calloc(PROCESSES, sizeof(*list));
    unsigned int count = PROCESSES;
    ask_processes ask;
    bool found = false;

    *(void **)&ask = dlsym(nvml, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (list == NULL || ask == NULL || ask(device, &count, list) != 0)
        count = 0;
    for (unsigned int i = 0; i < count && i < PROCESSES && !found; i++)
        if (list[i].pid == (unsigned int)getpid() && list[i].used != UINT64_MAX) {
            *bytes = list[i].used;
            found = true;
        }
    free(list);
    return found;
}

bool
fdc_gauges_taken(struct fdc_gauges *gauges, int ordinal, const char *pci, uint64_t *bytes,
                 bool *slow)
{
    nvml_device device;

    if (gauges->own != NULL) {
        *bytes = gauges->own->used(ordinal);
        return true;
    }
    *slow = true;
    device = find(gauges, pci);
    return device != NULL && taken_by_us(gauges->nvml, device, bytes);
}

void
fdc_gauges_read(struct fdc_gauges *gauges, const char *pci, struct fdc_monitor_gpu *out)
{
    nvml_device device = find(gauges, pci);

    if (device == NULL)
        return;
    read_numbers(gauges->nvml, device, out);
    read_rest(gauges->nvml, device, out);
    read_faults(gauges, pci, device, out);
}

static uint32_t
shares_in(const struct nvml_sample *sample)
{
    const unsigned int part[4] = {sample->sm, sample->memory, sample->encoder,
                                  sample->decoder};
    uint32_t all = 0;

    for (int i = 0; i < 4; i++)
        all |= (part[i] < 100 ? part[i] : 100) << 8 * i;
    return all;
}

unsigned int
fdc_gauges_processes(struct fdc_gauges *gauges, const char *pci,
                     struct fdc_gauges_shares *out, unsigned int room)
{
    int (*ask)(nvml_device, struct nvml_sample *, unsigned int *, unsigned long long);
    nvml_device device = find(gauges, pci);
    struct nvml_sample *samples = NULL;
    unsigned int count = 0, found = 0, i, n;

    if (device == NULL)
        return 0;
    *(void **)&ask = dlsym(gauges->nvml, "nvmlDeviceGetProcessUtilization");
    if (ask == NULL)
        return 0;
    ask(device, NULL, &count, 0); /* how many there are */
    samples = count != 0 && count < 65536 ? calloc(count, sizeof(*samples)) : NULL;
    if (samples == NULL || ask(device, samples, &count, 0) != 0)
        count = 0;
    /* Several of a process: the last, as far as they come in order. */
    for (n = 0; n < count; n++) {
        for (i = 0; i < found && out[i].pid != samples[n].pid; i++)
            ;
        if (i == room)
            continue;
        out[i] = (struct fdc_gauges_shares){samples[n].pid, shares_in(&samples[n])};
        found += i == found;
    }
    free(samples);
    return found;
}
