/*
 * What is known of a leased device beside CUDA: the figures that NVML shows, and who of the
 * lease has memory on it. The worker answers fdcMonitor with it, and the library that
 * stands as libcuda.so.1 hands it to the NVML library beside it.
 */
#ifndef FDC_MONITOR_H
#define FDC_MONITOR_H

#include <stdint.h>

/* Each as NVML has it: percent, degrees, milliwatts, MHz, counts, millijoules. */
enum fdc_figure {
    FDC_FIGURE_GPU_USE, FDC_FIGURE_MEMORY_USE, FDC_FIGURE_ENCODER, FDC_FIGURE_DECODER,
    FDC_FIGURE_TEMPERATURE, FDC_FIGURE_SHUTDOWN, FDC_FIGURE_SLOWDOWN,
    FDC_FIGURE_POWER, FDC_FIGURE_POWER_LIMIT, FDC_FIGURE_POWER_ENFORCED,
    FDC_FIGURE_POWER_DEFAULT, FDC_FIGURE_ENERGY, FDC_FIGURE_FAN, FDC_FIGURE_PSTATE,
    FDC_FIGURE_CLOCK,                                   /* by NVML's clock type: 4 */
    FDC_FIGURE_CLOCK_MAX = FDC_FIGURE_CLOCK + 4,
    FDC_FIGURE_CLOCK_REASONS = FDC_FIGURE_CLOCK_MAX + 4,
    FDC_FIGURE_ECC, FDC_FIGURE_ECC_PENDING,
    FDC_FIGURE_ECC_ERRORS,              /* 2 * error type + counter type: 4 */
    FDC_FIGURE_MIG = FDC_FIGURE_ECC_ERRORS + 4, FDC_FIGURE_MIG_PENDING,
    FDC_FIGURE_LINK, FDC_FIGURE_LINK_MAX, FDC_FIGURE_LANES, FDC_FIGURE_LANES_MAX,
    FDC_FIGURE_REPLAYS, FDC_FIGURE_BRAND,
    FDC_FIGURE_BAR1, FDC_FIGURE_BAR1_USED,              /* bytes */
    FDC_FIGURES
};

/* Percent of the last moments that a process had of the multiprocessors, of memory, of the
 * encoder and decoder: a byte each, the first the lowest. */
#define FDC_SHARES_UNKNOWN 0xffffffffu

struct fdc_monitor_process {
    uint32_t pid, shares;
    uint64_t used;
    uint64_t busy_ns;                   /* how long its kernels have run, where shares are not
                                           known and the driver says so */
};

struct fdc_monitor_gpu {
    uint64_t known;                     /* bit n: figure n is */
    uint64_t figure[FDC_FIGURES];
    uint64_t busy_ns, now_ns;           /* how long the lease's kernels have run, and when
                                           that was; 0, 0: the driver does not say */
    uint64_t own_busy_ns;               /* of that, the asking process's */
    uint64_t faults;                    /* how often the device has failed a program of the
                                           lease, or by itself since it was first asked */
    uint32_t xid, own_shares;           /* the last such failure, by the driver's number */
    uint64_t beside;                    /* bytes that the asking process has there for
                                           contexts and code, as the driver says */
    char driver[80], serial[32], vbios[32];     /* empty: not known */
    uint32_t others, unused;            /* processes of the lease but the asking one, that
                                           have memory there; in a message they follow */
};

/* Time with at least one kernel running; who knows it keeps it here. since_ns: 0, or when
 * the present such time began. */
struct fdc_busy {
    uint64_t total_ns, since_ns;        /* atomic */
};

/*
 * The board of a lease: a memory file that all its workers share, a row each, and behind
 * the rows a head. A worker writes its own row and reads the others'; the server, which
 * made the file, gives rows out (fdcore/board.py), clears them once a worker has ended,
 * and writes the head.
 *
 * What the rows have together is what the lease has: who adds to its own row looks at all
 * of them with a lock of the file held (FDC_BOARD_LOCK + what is counted), which the kernel
 * takes back from a process that ends. From its start on a worker also holds a lock at
 * FDC_BOARD_ALIVE + its row: a server that did not see it begin knows by it that it is there.
 *
 * The last row is nobody's (pid 0): there are the failures of sessions that have ended, how
 * often as used and the last as xid.
 */
#define FDC_BOARD_ROWS 256
#define FDC_BOARD_ROW 2048
#define FDC_BOARD_SIZE (FDC_BOARD_ROWS * FDC_BOARD_ROW + 4096)
#define FDC_BOARD_DEVICES 64
#define FDC_BOARD_HOST FDC_BOARD_DEVICES        /* pinned memory of the host's */
#define FDC_BOARD_LOCK 0x100000                 /* places of locks, beyond the file's end */
#define FDC_BOARD_ALIVE 0x200000

struct fdc_board_row {
    uint32_t pid, worker;               /* the client's, 0: the row is free; the worker's */
    uint64_t used[FDC_BOARD_DEVICES + 1];   /* bytes of memory, atomic */
    struct fdc_busy busy[FDC_BOARD_DEVICES];
    uint32_t xid[FDC_BOARD_DEVICES];    /* the device has failed the session; atomic */
};

struct fdc_board_head {
    uint32_t sessions;                  /* rows that are given out, atomic */
};

#endif
