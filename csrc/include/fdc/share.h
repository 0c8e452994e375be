/*
 * Shares of GPUs' computing time: a memory file of one server's, a row for each part of a
 * GPU that a lease has. The server gives rows out (fdcore/shares.py) and writes whose they
 * are; workers of leases that have a share keep account in them. The GPU is one lease's at
 * a time while others want it: who has a lock of the file at FDC_SHARE_LOCK + GPU has it,
 * and the kernel takes it back from a process that ends.
 */
#ifndef FDC_SHARE_H
#define FDC_SHARE_H

#include <stdint.h>

#define FDC_SHARE_ROWS 512
#define FDC_SHARE_ROW 64
#define FDC_SHARE_LOCK 0x100000         /* beyond the file's end */

struct fdc_share_row {
    uint32_t gpu;                       /* 1 + the driver's ordinal; 0: the row is free */
    uint32_t percent;                   /* 0: has no share, nobody keeps account */
    uint64_t due_ns;                    /* up to when its time is used up: later than now is
                                           a debt, earlier what it may still have; atomic */
    uint64_t wanted_ns;                 /* when it last had work there, or waited; atomic */
    uint64_t waiting_ns;                /* when it last stood in line; atomic */
    uint64_t spent_ns;                  /* device time in all, atomic */
    uint64_t unused[3];
};

#endif
