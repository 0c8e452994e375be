/* NVML's questions about the system, about devices, and about what runs on them. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fdc/base.h"
#include "nvml/nvml.h"

#define NVML(name, ...)                                                                \
    nvmlReturn_t name(__VA_ARGS__);                                                    \
    FDC_EXPORT nvmlReturn_t name(__VA_ARGS__)

/* Leaves the caller where an argument is NULL or NVML is not begun. */
#define NEED(result, pointer)                                                          \
    do {                                                                               \
        nvmlReturn_t why = (result);                                                   \
                                                                                       \
        if (why != NVML_SUCCESS)                                                       \
            return why;                                                                \
        if ((pointer) == NULL)                                                         \
            return NVML_ERROR_INVALID_ARGUMENT;                                        \
    } while (0)

static nvmlReturn_t
copy(char *out, unsigned int room, const char *text)
{
    if (strlen(text) >= room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, text);
    return NVML_SUCCESS;
}

/* ---- the system ---- */

static int
version(void)
{
    const struct fdc_private_gpu *gpus;

    return fdc_nvml_devices(&gpus) > 0 ? gpus[0].cuda_version : 0;
}

/* The driver's own, where the server's NVML says it. The CUDA version stands for it
 * otherwise. */
static nvmlReturn_t
copy_version(char *out, unsigned int room)
{
    const struct fdc_private_gpu *gpus;
    struct fdc_monitor_gpu first;
    char text[24];

    if (fdc_nvml_devices(&gpus) > 0) {
        fdc_nvml_monitor(&gpus[0], &first);
        if (first.driver[0] != '\0')
            return copy(out, room, first.driver);
    }
    snprintf(text, sizeof(text), "%d.%d", version() / 1000, version() % 1000 / 10);
    return copy(out, room, text);
}

NVML(nvmlSystemGetDriverVersion, char *out, unsigned int room)
{
    NEED(fdc_nvml_check(), out);
    return copy_version(out, room);
}

NVML(nvmlSystemGetNVMLVersion, char *out, unsigned int room)
{
    NEED(fdc_nvml_check(), out);
    return copy_version(out, room);
}

NVML(nvmlSystemGetCudaDriverVersion, int *out)
{
    NEED(fdc_nvml_check(), out);
    *out = version();
    return NVML_SUCCESS;
}

NVML(nvmlSystemGetCudaDriverVersion_v2, int *out)
{
    return nvmlSystemGetCudaDriverVersion(out);
}

/* The first word of its command line, as NVML says it; who may not see it learns nothing.
 * Processes are those of this machine: of the lease, that is all of them. */
NVML(nvmlSystemGetProcessName, unsigned int pid, char *out, unsigned int room)
{
    char path[48], name[1024] = "";
    ssize_t got;
    int fd;

    NEED(fdc_nvml_check(), out);
    if (room == 0)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    snprintf(path, sizeof(path), "/proc/%u/cmdline", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NVML_ERROR_NOT_FOUND;
    got = read(fd, name, sizeof(name) - 1);
    close(fd);
    if (got <= 0)
        return NVML_ERROR_NOT_FOUND;
    snprintf(out, room, "%s", name); /* cut off where there is no room, as NVML does */
    return NVML_SUCCESS;
}

/* ---- which device ---- */

NVML(nvmlDeviceGetCount_v2, unsigned int *out)
{
    const struct fdc_private_gpu *gpus;

    NEED(fdc_nvml_check(), out);
    *out = (unsigned int)fdc_nvml_devices(&gpus);
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetCount, unsigned int *out)
{
    return nvmlDeviceGetCount_v2(out);
}

NVML(nvmlDeviceGetHandleByIndex_v2, unsigned int index, nvmlDevice_t *out)
{
    const struct fdc_private_gpu *gpus;

    NEED(fdc_nvml_check(), out);
    if (index >= (unsigned int)fdc_nvml_devices(&gpus))
        return NVML_ERROR_INVALID_ARGUMENT;
    *out = &gpus[index];
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetHandleByIndex, unsigned int index, nvmlDevice_t *out)
{
    return nvmlDeviceGetHandleByIndex_v2(index, out);
}

static void
uuid_text(nvmlDevice_t device, char out[48])
{
    const uint8_t *u = device->device.uuid;
    int at = snprintf(out, 48, "GPU-"), i;

    for (i = 0; i < 16; i++)
        at += snprintf(out + at, (size_t)(48 - at),
                       i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
}

NVML(nvmlDeviceGetHandleByUUID, const char *uuid, nvmlDevice_t *out)
{
    const struct fdc_private_gpu *gpus;
    char text[48];
    int i, n;

    NEED(fdc_nvml_check(), out);
    if (uuid == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    n = fdc_nvml_devices(&gpus);
    for (i = 0; i < n; i++) {
        uuid_text(&gpus[i], text);
        if (strcmp(text, uuid) == 0) {
            *out = &gpus[i];
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

NVML(nvmlDeviceGetHandleByPciBusId_v2, const char *id, nvmlDevice_t *out)
{
    const struct fdc_private_gpu *gpus;
    unsigned int domain = 0, bus, slot;
    int i, n;

    NEED(fdc_nvml_check(), out);
    if (id == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (sscanf(id, "%x:%x:%x", &domain, &bus, &slot) != 3) {
        domain = 0;
        if (sscanf(id, "%x:%x", &bus, &slot) != 2)
            return NVML_ERROR_INVALID_ARGUMENT;
    }
    n = fdc_nvml_devices(&gpus);
    for (i = 0; i < n; i++) {
        const struct fdc_private_device *d = &gpus[i].device;

        if ((unsigned int)d->pci_domain == domain && (unsigned int)d->pci_bus == bus &&
            (unsigned int)d->pci_device == slot) {
            *out = &gpus[i];
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

NVML(nvmlDeviceGetHandleByPciBusId, const char *id, nvmlDevice_t *out)
{
    return nvmlDeviceGetHandleByPciBusId_v2(id, out);
}

/* ---- what it is ---- */

NVML(nvmlDeviceGetName, nvmlDevice_t device, char *out, unsigned int room)
{
    NEED(fdc_nvml_device(device), out);
    return copy(out, room, device->name);
}

NVML(nvmlDeviceGetUUID, nvmlDevice_t device, char *out, unsigned int room)
{
    char text[48];

    NEED(fdc_nvml_device(device), out);
    uuid_text(device, text);
    return copy(out, room, text);
}

NVML(nvmlDeviceGetIndex, nvmlDevice_t device, unsigned int *out)
{
    const struct fdc_private_gpu *gpus;

    NEED(fdc_nvml_device(device), out);
    fdc_nvml_devices(&gpus);
    *out = (unsigned int)(device - gpus);
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetMinorNumber, nvmlDevice_t device, unsigned int *out)
{
    return nvmlDeviceGetIndex(device, out);
}

static void
pci(nvmlDevice_t device, nvmlPciInfo_t *out, bool full)
{
    const struct fdc_private_device *d = &device->device;

    memset(out, 0, full ? sizeof(*out) : offsetof(nvmlPciInfo_t, busId));
    out->domain = (unsigned int)d->pci_domain;
    out->bus = (unsigned int)d->pci_bus;
    out->device = (unsigned int)d->pci_device;
    snprintf(out->busIdLegacy, sizeof(out->busIdLegacy), "%04X:%02X:%02X.0",
             out->domain & 0xffff, out->bus & 0xff, out->device & 0xff);
    if (full)
        snprintf(out->busId, sizeof(out->busId), "%08X:%02X:%02X.0", out->domain,
                 out->bus & 0xff, out->device & 0xff);
}

NVML(nvmlDeviceGetPciInfo_v3, nvmlDevice_t device, nvmlPciInfo_t *out)
{
    NEED(fdc_nvml_device(device), out);
    pci(device, out, true);
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetPciInfo_v2, nvmlDevice_t device, nvmlPciInfo_t *out)
{
    NEED(fdc_nvml_device(device), out);
    pci(device, out, false);
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetPciInfo, nvmlDevice_t device, nvmlPciInfo_t *out)
{
    return nvmlDeviceGetPciInfo_v2(device, out);
}

NVML(nvmlDeviceGetCudaComputeCapability, nvmlDevice_t device, int *major, int *minor)
{
    NEED(fdc_nvml_device(device), major);
    if (minor == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = device->major;
    *minor = device->minor;
    return NVML_SUCCESS;
}

/* ---- memory: the slice, and of it what the lease has ---- */

static uint64_t
used_by_all(nvmlDevice_t device)
{
    struct fdc_monitor_process all[FDC_BOARD_ROWS];
    unsigned int count = fdc_nvml_processes(device, all, FDC_BOARD_ROWS), i;
    uint64_t used = 0;

    for (i = 0; i < count && i < FDC_BOARD_ROWS; i++)
        used += all[i].used;
    return used < device->memory ? used : device->memory;
}

NVML(nvmlDeviceGetMemoryInfo, nvmlDevice_t device, nvmlMemory_t *out)
{
    uint64_t used;

    NEED(fdc_nvml_device(device), out);
    used = used_by_all(device);
    *out = (nvmlMemory_t){device->memory, device->memory - used, used};
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetMemoryInfo_v2, nvmlDevice_t device, nvmlMemory_v2_t *out)
{
    nvmlMemory_t memory;

    NEED(fdc_nvml_device(device), out);
    if (out->version != (sizeof(*out) | 2u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlDeviceGetMemoryInfo(device, &memory);
    out->total = memory.total;
    out->reserved = 0;
    out->free = memory.free;
    out->used = memory.used;
    return NVML_SUCCESS;
}

/* ---- modes: the usual ones; nobody can change them from here ---- */

static nvmlReturn_t
always(nvmlDevice_t device, unsigned int *out, unsigned int value)
{
    NEED(fdc_nvml_device(device), out);
    *out = value;
    return NVML_SUCCESS;
}

NVML(nvmlDeviceGetComputeMode, nvmlDevice_t device, unsigned int *out)
{
    return always(device, out, 0); /* default: several processes */
}

NVML(nvmlDeviceGetPersistenceMode, nvmlDevice_t device, unsigned int *out)
{
    return always(device, out, 1); /* the server keeps the device */
}

NVML(nvmlDeviceGetDisplayActive, nvmlDevice_t device, unsigned int *out)
{
    return always(device, out, 0);
}

NVML(nvmlDeviceGetDisplayMode, nvmlDevice_t device, unsigned int *out)
{
    return always(device, out, 0);
}

NVML(nvmlDeviceIsMigDeviceHandle, nvmlDevice_t device, unsigned int *out)
{
    return always(device, out, 0);
}

/* ---- processes of the lease that have memory on the device ---- */

/* count: room in, how many out. */
static nvmlReturn_t
processes(nvmlDevice_t device, unsigned int *count, const void *infos,
          struct fdc_monitor_process found[FDC_BOARD_ROWS])
{
    unsigned int room;

    NEED(fdc_nvml_device(device), count);
    room = *count;
    *count = fdc_nvml_processes(device, found, FDC_BOARD_ROWS);
    if (*count > FDC_BOARD_ROWS)
        *count = FDC_BOARD_ROWS;
    if (*count == 0)
        return NVML_SUCCESS;
    if (room < *count)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    return infos == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

NVML(nvmlDeviceGetComputeRunningProcesses_v3, nvmlDevice_t device, unsigned int *count,
     nvmlProcessInfo_t *infos)
{
    struct fdc_monitor_process found[FDC_BOARD_ROWS];
    nvmlReturn_t result = processes(device, count, infos, found);
    unsigned int i;

    for (i = 0; result == NVML_SUCCESS && i < *count; i++)
        infos[i] = (nvmlProcessInfo_t){found[i].pid, found[i].used, 0xffffffffu,
                                       0xffffffffu};
    return result;
}

NVML(nvmlDeviceGetComputeRunningProcesses_v2, nvmlDevice_t device, unsigned int *count,
     nvmlProcessInfo_t *infos)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, infos);
}

/* PyTorch asks for the oldest form, by name. */
NVML(nvmlDeviceGetComputeRunningProcesses, nvmlDevice_t device, unsigned int *count,
     nvmlProcessInfo_v1_t *infos)
{
    struct fdc_monitor_process found[FDC_BOARD_ROWS];
    nvmlReturn_t result = processes(device, count, infos, found);
    unsigned int i;

    for (i = 0; result == NVML_SUCCESS && i < *count; i++)
        infos[i] = (nvmlProcessInfo_v1_t){found[i].pid, found[i].used};
    return result;
}

/* No process draws, and none goes through MPS. */
static nvmlReturn_t
nobody(nvmlDevice_t device, unsigned int *count)
{
    return always(device, count, 0);
}

#define NOBODY(name)                                                                   \
    NVML(name, nvmlDevice_t device, unsigned int *count, void *infos)                  \
    {                                                                                  \
        (void)infos;                                                                   \
        return nobody(device, count);                                                  \
    }
NOBODY(nvmlDeviceGetGraphicsRunningProcesses)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v2)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v3)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v2)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v3)
