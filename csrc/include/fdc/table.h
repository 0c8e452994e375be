/*
 * The tables that the worker gives the client as blobs, so that later questions are
 * answered locally: the snapshot of the devices at attach, and the kernels of an image
 * at load. Flat, little endian, 8-byte aligned; offsets count from the table's start.
 */
#ifndef FDC_TABLE_H
#define FDC_TABLE_H

#include <stdint.h>

#define FDC_SNAPSHOT_ATTRIBUTES 160     /* CUdevice_attribute 0 .. 159; unknown ones 0 */

struct fdc_snapshot_device {
    char name[256];
    uint8_t uuid[16];
    char pci[16];                       /* domain:bus:device.function */
    uint64_t memory;                    /* the slice: what CUDA and NVML show as total */
    uint64_t physical_memory;
    uint64_t granularity;               /* of VMM; 0: the driver has no VMM */
    uint64_t piece_base, piece_size;    /* first address piece, 0 without VMM */
    int32_t attribute[FDC_SNAPSHOT_ATTRIBUTES];
    int32_t priority_low, priority_high;
    uint64_t limit[16];                 /* cuCtxGetLimit by CUlimit, of the primary context */
};

/* How one device reaches another's memory; the performance rank from bit 4 on. */
enum {
    FDC_PEER_ACCESS = 1, FDC_PEER_ATOMICS = 2, FDC_PEER_ARRAYS = 4, FDC_PEER_SOME_ATOMICS = 8,
    FDC_PEER_RANK = 4
};

struct fdc_snapshot {
    uint32_t size;
    uint32_t driver_version;
    uint32_t device_count;
    uint32_t device_offset;             /* of struct fdc_snapshot_device[] */
    uint32_t peer_offset;               /* of uint8_t[count][count]: FDC_PEER_... */
    uint32_t pad;
    uint8_t session[16];
};

#define FDC_FUNC_ATTRIBUTES 16          /* CUfunction_attribute 0 .. 15 */

struct fdc_table_param {
    uint32_t offset, size;
};

struct fdc_table_kernel {
    uint32_t name_offset;               /* NUL-terminated */
    uint32_t name_size;
    uint32_t param_offset;              /* of struct fdc_table_param[] */
    uint32_t param_count;
    uint32_t param_bytes;               /* size of the packed buffer */
    uint32_t pad;
    int32_t attribute[FDC_FUNC_ATTRIBUTES];
};

struct fdc_table_module {
    uint32_t size;
    uint32_t kernel_count;
    uint32_t kernel_offset;             /* of struct fdc_table_kernel[] */
    uint32_t log_offset, log_size;      /* JIT info log */
    uint32_t error_offset, error_size;  /* JIT error log */
    uint32_t pad;
};

/* What an image is, as the load calls say. */
enum fdc_image_kind {
    FDC_IMAGE_PTX, FDC_IMAGE_CUBIN, FDC_IMAGE_FATBIN, FDC_IMAGE_LINKED,
    FDC_IMAGE_UNITS,                    /* struct fdc_units */
};

/* The fat binaries that a wrapper of version 2 names (relocatable device code): the
 * linked one, then each unit's. Only they travel; the worker makes a wrapper of its own. */
#define FDC_UNITS_MAX 4096
struct fdc_units {
    uint32_t count;
    uint32_t pad;
    struct {
        uint64_t offset, size;          /* offset: from the image's start */
    } unit[];
};

/* Of so many inputs of a link it is told which are missing; of the others are sent. */
#define FDC_LINK_ASKED 64

/* What a link run is made of, and what comes of it. */
struct fdc_link_input {
    uint64_t image;                     /* number of an uploaded image */
    uint32_t type;                      /* CUjitInputType */
    uint32_t name_offset;               /* in the names */
};

struct fdc_table_link {
    uint32_t size;
    uint32_t pad;
    uint64_t image_offset, image_size;
    uint32_t log_offset, log_size;
    uint32_t error_offset, error_size;
};

#endif
