/*
 * NVML's questions about how a device is: answered with the figures of the server's NVML
 * where it has one, of the CPU device otherwise, which knows how long kernels ran and
 * nothing of temperatures. What nobody knows is NOT_SUPPORTED.
 */
#include <string.h>
#include <time.h>

#include "fdc/base.h"
#include "nvml/nvml.h"

#define NVML(name, ...)                                                                \
    nvmlReturn_t name(__VA_ARGS__);                                                    \
    FDC_EXPORT nvmlReturn_t name(__VA_ARGS__)

static nvmlReturn_t
figure(nvmlDevice_t device, unsigned int which, const void *out, uint64_t *value)
{
    nvmlReturn_t result = fdc_nvml_device(device);
    struct fdc_monitor_gpu gpu;

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    fdc_nvml_monitor(device, &gpu);
    if ((gpu.known >> which & 1) == 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *value = gpu.figure[which];
    return NVML_SUCCESS;
}

static nvmlReturn_t
number(nvmlDevice_t device, unsigned int which, unsigned int *out)
{
    uint64_t value;
    nvmlReturn_t result = figure(device, which, out, &value);

    if (result == NVML_SUCCESS)
        *out = (unsigned int)value;
    return result;
}

static nvmlReturn_t
wide(nvmlDevice_t device, unsigned int which, unsigned long long *out)
{
    uint64_t value;
    nvmlReturn_t result = figure(device, which, out, &value);

    if (result == NVML_SUCCESS)
        *out = value;
    return result;
}

#define NUMBER(name, which)                                                            \
    NVML(name, nvmlDevice_t device, unsigned int *out)                                 \
    {                                                                                  \
        return number(device, which, out);                                             \
    }
NUMBER(nvmlDeviceGetPowerUsage, FDC_FIGURE_POWER)
NUMBER(nvmlDeviceGetPowerManagementLimit, FDC_FIGURE_POWER_LIMIT)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, FDC_FIGURE_POWER_ENFORCED)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, FDC_FIGURE_POWER_DEFAULT)
NUMBER(nvmlDeviceGetFanSpeed, FDC_FIGURE_FAN)
NUMBER(nvmlDeviceGetPerformanceState, FDC_FIGURE_PSTATE)
NUMBER(nvmlDeviceGetPowerState, FDC_FIGURE_PSTATE)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, FDC_FIGURE_LINK)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, FDC_FIGURE_LINK_MAX)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, FDC_FIGURE_LANES)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, FDC_FIGURE_LANES_MAX)
NUMBER(nvmlDeviceGetPcieReplayCounter, FDC_FIGURE_REPLAYS)
NUMBER(nvmlDeviceGetBrand, FDC_FIGURE_BRAND)

#define WIDE(name, which)                                                              \
    NVML(name, nvmlDevice_t device, unsigned long long *out)                           \
    {                                                                                  \
        return wide(device, which, out);                                               \
    }
WIDE(nvmlDeviceGetTotalEnergyConsumption, FDC_FIGURE_ENERGY)
WIDE(nvmlDeviceGetCurrentClocksThrottleReasons, FDC_FIGURE_CLOCK_REASONS)
WIDE(nvmlDeviceGetCurrentClocksEventReasons, FDC_FIGURE_CLOCK_REASONS)

/* One of several of a kind. */
#define KIND(name, which, kinds)                                                       \
    NVML(name, nvmlDevice_t device, unsigned int kind, unsigned int *out)              \
    {                                                                                  \
        if (fdc_nvml_device(device) == NVML_SUCCESS && kind >= (kinds))                \
            return NVML_ERROR_NOT_SUPPORTED;                                           \
        return number(device, (which) + kind, out);                                    \
    }
KIND(nvmlDeviceGetTemperature, FDC_FIGURE_TEMPERATURE, 1)
KIND(nvmlDeviceGetTemperatureThreshold, FDC_FIGURE_SHUTDOWN, 2)
KIND(nvmlDeviceGetClockInfo, FDC_FIGURE_CLOCK, 4)
KIND(nvmlDeviceGetMaxClockInfo, FDC_FIGURE_CLOCK_MAX, 4)

NVML(nvmlDeviceGetTemperatureV, nvmlDevice_t device, nvmlTemperature_v1_t *out)
{
    unsigned int value;
    nvmlReturn_t result = fdc_nvml_device(device);

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (out->version != (sizeof(*out) | 1u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    result = nvmlDeviceGetTemperature(device, out->sensor, &value);
    if (result == NVML_SUCCESS)
        out->temperature = (int)value;
    return result;
}

#define PAIR(name, which)                                                              \
    NVML(name, nvmlDevice_t device, unsigned int *now, unsigned int *pending)          \
    {                                                                                  \
        nvmlReturn_t result = number(device, which, now);                              \
                                                                                       \
        return result == NVML_SUCCESS ? number(device, (which) + 1, pending) : result; \
    }
PAIR(nvmlDeviceGetEccMode, FDC_FIGURE_ECC)
PAIR(nvmlDeviceGetMigMode, FDC_FIGURE_MIG)

/* period: how long was looked at, in microseconds; not known here. */
#define SHARE(name, which)                                                             \
    NVML(name, nvmlDevice_t device, unsigned int *out, unsigned int *period)           \
    {                                                                                  \
        if (fdc_nvml_device(device) == NVML_SUCCESS && period == NULL)                 \
            return NVML_ERROR_INVALID_ARGUMENT;                                        \
        if (fdc_nvml_device(device) == NVML_SUCCESS)                                   \
            *period = 0;                                                               \
        return number(device, which, out);                                             \
    }
SHARE(nvmlDeviceGetEncoderUtilization, FDC_FIGURE_ENCODER)
SHARE(nvmlDeviceGetDecoderUtilization, FDC_FIGURE_DECODER)

NVML(nvmlDeviceGetTotalEccErrors, nvmlDevice_t device, unsigned int error,
     unsigned int counter, unsigned long long *out)
{
    if (fdc_nvml_device(device) == NVML_SUCCESS && (error > 1 || counter > 1))
        return NVML_ERROR_INVALID_ARGUMENT;
    return wide(device, FDC_FIGURE_ECC_ERRORS + 2 * error + counter, out);
}

/* The GPU's; of a CPU device, what the lease's kernels had of it. */
NVML(nvmlDeviceGetUtilizationRates, nvmlDevice_t device, nvmlUtilization_t *out)
{
    nvmlReturn_t result = fdc_nvml_device(device);
    struct fdc_monitor_gpu gpu;
    int busy;

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    fdc_nvml_monitor(device, &gpu);
    if (gpu.known >> FDC_FIGURE_GPU_USE & 1) {
        out->gpu = (unsigned int)gpu.figure[FDC_FIGURE_GPU_USE];
        out->memory = (unsigned int)gpu.figure[FDC_FIGURE_MEMORY_USE];
        return NVML_SUCCESS;
    }
    busy = fdc_nvml_busy(device);
    if (busy < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *out = (nvmlUtilization_t){(unsigned int)busy, 0};
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetBAR1MemoryInfo, nvmlDevice_t device, nvmlBAR1Memory_t *out)
{
    uint64_t total, used;
    nvmlReturn_t result = figure(device, FDC_FIGURE_BAR1, out, &total);

    if (result == NVML_SUCCESS)
        result = figure(device, FDC_FIGURE_BAR1_USED, out, &used);
    if (result == NVML_SUCCESS)
        *out = (nvmlBAR1Memory_t){total, used < total ? total - used : 0, used};
    return result;
}

/* One sample of each process of the lease, just taken: none is older than the caller's
 * last. */
NVML(nvmlDeviceGetProcessUtilization, nvmlDevice_t device,
     nvmlProcessUtilizationSample_t *out, unsigned int *count, unsigned long long since)
{
    struct fdc_nvml_share shares[FDC_BOARD_ROWS];
    nvmlReturn_t result = fdc_nvml_device(device);
    unsigned long long now;
    unsigned int found, room, i;
    struct timespec clock;

    if (result != NVML_SUCCESS)
        return result;
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    room = out != NULL ? *count : 0;
    found = fdc_nvml_shares(device, shares, FDC_BOARD_ROWS);
    clock_gettime(CLOCK_REALTIME, &clock);
    now = (unsigned long long)clock.tv_sec * 1000000ull + (uint64_t)clock.tv_nsec / 1000;
    *count = found;
    if (found == 0 || now <= since)
        return NVML_ERROR_NOT_FOUND;
    if (found > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (i = 0; i < found; i++)
        out[i] = (nvmlProcessUtilizationSample_t){
            shares[i].pid, now, shares[i].percent[0], shares[i].percent[1],
            shares[i].percent[2], shares[i].percent[3]};
    return NVML_SUCCESS;
}

static nvmlReturn_t
text(nvmlDevice_t device, bool serial, char *out, unsigned int room)
{
    nvmlReturn_t result = fdc_nvml_device(device);
    struct fdc_monitor_gpu gpu;
    const char *from = serial ? gpu.serial : gpu.vbios;

    if (result != NVML_SUCCESS)
        return result;
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    fdc_nvml_monitor(device, &gpu);
    if (from[0] == '\0')
        return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(from) >= room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, from);
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetSerial, nvmlDevice_t device, char *out, unsigned int room)
{
    return text(device, true, out, room);
}

NVML(nvmlDeviceGetVbiosVersion, nvmlDevice_t device, char *out, unsigned int room)
{
    return text(device, false, out, room);
}
