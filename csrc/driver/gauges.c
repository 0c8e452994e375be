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
typedef int (*ask_text)(nvml_device, char *, unsigned int);

struct fdc_gauges {
    const struct fdc_driver *driver;
    const struct fdc_private_gpu_table *own;    /* the CPU device's; NULL: a real driver */
    pthread_mutex_t lock;
    bool tried;
    void *nvml;                                 /* initialised, or NULL */
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
    int (*version)(char *, unsigned int);
    unsigned long long count;
    unsigned int rates[2];

    *(void **)&version = dlsym(nvml, "nvmlSystemGetDriverVersion");
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

void
fdc_gauges_read(struct fdc_gauges *gauges, const char *pci, struct fdc_monitor_gpu *out)
{
    int (*by_bus)(const char *, nvml_device *);
    nvml_device device = NULL;

    if (gauges->own != NULL)
        return;
    pthread_mutex_lock(&gauges->lock);
    if (!gauges->tried)
        gauges->nvml = open_beside(gauges->driver);
    gauges->tried = true;
    pthread_mutex_unlock(&gauges->lock);
    if (gauges->nvml == NULL)
        return;
    *(void **)&by_bus = dlsym(gauges->nvml, "nvmlDeviceGetHandleByPciBusId_v2");
    if (by_bus == NULL || by_bus(pci, &device) != 0)
        return;
    read_numbers(gauges->nvml, device, out);
    read_rest(gauges->nvml, device, out);
}
