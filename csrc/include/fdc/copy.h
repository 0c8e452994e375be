/*
 * A copy of a box of bytes as it travels: the two ends and the size. A host end never
 * travels as an address: its bytes are in a chunk of a region, packed without gaps (a row
 * is width bytes, a slice is width * height bytes), and its memory is FDC_COPY_CHUNK.
 */
#ifndef FDC_COPY_H
#define FDC_COPY_H

#include <stdbool.h>
#include <stdint.h>

enum fdc_copy_memory {
    FDC_COPY_CHUNK,         /* the message's chunk; the other fields of the end are 0 */
    FDC_COPY_DEVICE,        /* base is an address of device memory, or of host memory that
                             * both sides have there */
    FDC_COPY_ARRAY,         /* base is an ARRAY handle; x is in bytes */
    FDC_COPY_SHADOW,        /* base is a SHADOW handle; x is where the box begins in it */
};

struct fdc_copy_end {
    uint32_t memory;        /* enum fdc_copy_memory */
    uint32_t level;         /* of a mipmap; 0 */
    uint64_t base;
    uint64_t pitch;         /* bytes from a row to the next */
    uint64_t height;        /* rows from a slice to the next */
    uint64_t x, y, z;       /* where the box begins: bytes, rows, slices */
};

struct fdc_copy3d {
    struct fdc_copy_end src, dst;
    uint64_t width;         /* bytes */
    uint64_t height, depth;
};

/* base/part.c: the next part of a box (each side at least 1) that fits this many bytes, the
 * first after zeroes; false: that was all. */
struct fdc_part {
    uint64_t x, y, z, width, height, depth;
};
bool fdc_part_cut(uint64_t room, uint64_t width, uint64_t height, uint64_t depth,
                  struct fdc_part *part);

#endif
