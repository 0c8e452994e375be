/*
 * What the files of the NVML library share: the little of NVML's ABI that it answers with,
 * and the devices.
 */
#ifndef FDC_NVML_H
#define FDC_NVML_H

#include <stdint.h>

#include "fdc/private.h"

typedef int nvmlReturn_t;
enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
};

/* A device's handle is the address of what is known of it. */
typedef const struct fdc_private_gpu *nvmlDevice_t;

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32]; /* not in nvmlDeviceGetPciInfo and _v2 */
} nvmlPciInfo_t;

typedef struct {
    unsigned int gpu, memory;
} nvmlUtilization_t;

typedef struct {
    unsigned int version, sensor;
    int temperature;
} nvmlTemperature_v1_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlBAR1Memory_t;

typedef struct {
    unsigned int pid;
    unsigned long long timeStamp;
    unsigned int smUtil, memUtil, encUtil, decUtil;
} nvmlProcessUtilizationSample_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId; /* 0xffffffff: no MIG */
} nvmlProcessInfo_t;

/* 0, or why no question can be answered. */
nvmlReturn_t fdc_nvml_check(void);
/* The same, and the device must be one that was given out. */
nvmlReturn_t fdc_nvml_device(nvmlDevice_t device);
/* What the driver side knows: count devices, in CUDA's order. */
int fdc_nvml_devices(const struct fdc_private_gpu **devices);
/* Processes of the lease with memory on the device, this one first; at most room of them,
 * all are counted. */
unsigned int fdc_nvml_processes(nvmlDevice_t device, struct fdc_monitor_process *out,
                                unsigned int room);
/* What is known of the device beside CUDA, some 50 ms ago at most. */
void fdc_nvml_monitor(nvmlDevice_t device, struct fdc_monitor_gpu *out);
/* The same as of now. */
void fdc_nvml_monitor_now(nvmlDevice_t device, struct fdc_monitor_gpu *out);
/* A process of the lease, and which shares it had of the last moments. */
struct fdc_nvml_share {
    unsigned int pid;
    unsigned int percent[4]; /* multiprocessors, memory, encoder, decoder */
};
/* Those that are known; at most room. */
unsigned int fdc_nvml_shares(nvmlDevice_t device, struct fdc_nvml_share *out,
                             unsigned int room);
/* Percent of the last moments with a kernel of the lease running; -1: not known. */
int fdc_nvml_busy(nvmlDevice_t device);
/* For generated code: logs the name once. */
nvmlReturn_t fdc_nvml_refuse(const char *name, uint32_t *said);

#endif
