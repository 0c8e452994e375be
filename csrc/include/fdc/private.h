/*
 * The private export tables that CUDA runtimes and libraries ask a driver for, shared by
 * the shim and by the CPU device. The tables know nothing of either: what they need to
 * know is asked through fdc_private_ops. Their addresses never change in a process.
 */
#ifndef FDC_PRIVATE_H
#define FDC_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fdc/monitor.h"

struct fdc_private_device {
    uint8_t uuid[16];
    int32_t pci_domain, pci_bus, pci_device; /* attributes 50, 33, 34 */
};

/*
 * A table of our own, for the NVML library beside us: what is known of the devices that the
 * process sees. Asking initialises nothing, so that the process may still fork.
 */
#define FDC_PRIVATE_GPUS "fdcore devices 3" /* its id, 16 bytes */

struct fdc_private_gpu {
    struct fdc_private_device device;
    char name[96];
    uint64_t memory; /* the slice */
    int32_t major, minor, cuda_version;
};

struct fdc_private_gpu_table {
    size_t size;
    int (*devices)(struct fdc_private_gpu *out, int room); /* how many, or -1 */
    uint64_t (*used)(int ordinal); /* bytes that this process has there */
    /* Figures and other processes of the lease; how many are in others, or -1. */
    int (*monitor)(int ordinal, struct fdc_monitor_gpu *gpu,
                   struct fdc_monitor_process *others, int room);
    /* For the worker: keeps busy times of cuDeviceGet's ordinal there; 0, or 1: cannot. */
    int (*busy)(int ordinal, struct fdc_busy *where);
};

/* Handles are opaque; results are CUresult numbers. All may be called from any thread. */
struct fdc_private_ops {
    int (*driver_version)(void);
    int (*device_count)(void);
    void (*device)(int ordinal, struct fdc_private_device *device);
    void *(*ctx_primary)(int ordinal); /* without retaining; NULL: no such */
    void *(*ctx_current)(void);        /* of the calling thread, or NULL */
    int (*ctx_id)(void *ctx, uint64_t *id);
    /* Calls each(user, function) for every function of a module. */
    int (*module_functions)(void *ctx, void *module,
                            void (*each)(void *user, void *function), void *user);
    int (*gpus)(struct fdc_private_gpu *out, int room);
    uint64_t (*gpu_used)(int ordinal);
    int (*gpu_monitor)(int ordinal, struct fdc_monitor_gpu *gpu,
                       struct fdc_monitor_process *others, int room);
    int (*gpu_busy)(int ordinal, struct fdc_busy *where); /* or NULL */
};

/*
 * cuGetExportTable: 0 and the table, or 1 (INVALID_VALUE) and NULL for one that is not
 * known. ops must stay valid for good; every call passes the same.
 */
int fdc_private_table(const struct fdc_private_ops *ops, const void **table,
                      const void *id);

/*
 * Context-local storage: runs the destructors of a context and forgets its values.
 * Called with no lock held when a context is reset or destroyed.
 */
void fdc_cls_reset(void *ctx);

/* runtime_check.c: the runtime's self-test, the 16 bytes it expects. */
struct fdc_runtime_check {
    uint32_t driver_version;
    uint32_t version; /* CUDART_VERSION + 0, 1 or 2 */
    uint64_t seconds;
    const void *table_runtime, *table_check, *function;
};
void fdc_runtime_check(const struct fdc_runtime_check *check,
                       const struct fdc_private_device *devices, int count,
                       uint64_t result[2]);

#endif
