/* The kernels of kernels/cpudev.ptx as scalar C, one call a thread; see ptx_scalar.c. */
#ifndef PTX_SCALAR_H
#define PTX_SCALAR_H

#include <stdint.h>

struct scalar_grid {
    const void *params;
    uint32_t grid[3], block[3], ctaid[3];
    uint64_t lo, span;          /* memory that a thread may touch */
    uint8_t *shared;
    uint64_t shared_size;
    int64_t budget;             /* jumps back that are left */
    int fault;
};

/* Runs a whole grid in the calling thread. Returns 0, 700 or 702; -1: no such kernel. */
int scalar_run(const char *kernel, struct scalar_grid *g);

#endif
