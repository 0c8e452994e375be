/*
 * What runs: jobs (a launch), workers (host threads), blocks, warps, splits, frames.
 *
 * A warp is a list of splits, each some lanes at one instruction of one frame. The
 * lowest instruction of the deepest frame runs first, splits that meet are joined, and a
 * split that has jumped back too often lets the others run, so that a lane which waits
 * for another lane of its warp gets its answer.
 */
#ifndef FDCPU_VM_H
#define FDCPU_VM_H

#include "module.h"

enum { MEM_CACHE = 64, MAX_WARPS = 32, MAX_BARRIERS = 16 };

struct fdcpu_frame {
    struct fdcpu_frame *parent;
    const struct fdcpu_code *code;
    const struct fdcpu_insn *call;      /* in the parent; the split goes on after it */
    char *regs;
    uint32_t local_base;        /* in each lane's local memory */
    uint32_t local_top;         /* end of what the frame uses, grown by alloca */
    uint32_t depth;
    uint32_t refs;              /* splits in it and frames called from it */
};

enum fdcpu_state { S_RUN, S_BAR, S_SYNC };

struct fdcpu_split {
    const struct fdcpu_insn *ip;
    struct fdcpu_frame *frame;
    uint32_t mask;
    uint8_t state, bar;
    uint64_t age;
};

struct fdcpu_warp {
    struct fdcpu_block *block;
    uint32_t index, nsplit;
    uint32_t lanes, live;       /* lanes that exist, that have not exited */
    uint32_t grid_in;           /* lanes that wait for the whole grid, since this phase */
    uint32_t grid_phase;
    uint32_t fair;              /* splits still to run before the order is by pc again */
    uint64_t clock;
    struct fdcpu_frame base;
    uint8_t *local;             /* 32 * local_stride bytes */
    uint32_t local_stride;
    struct fdcpu_split split[FDCPU_LANES + 1];
};

struct fdcpu_barrier {
    uint32_t expected;          /* threads, 0: all of the block */
    uint32_t arrived[MAX_WARPS];
    uint32_t popc, any;         /* of the predicates given to bar.red */
    bool all;
};

struct fdcpu_block {
    struct fdcpu_block *next;
    struct fdcpu_worker *worker;
    uint64_t number;
    uint32_t ctaid[3];
    uint32_t nwarps, live;
    uint32_t spins;             /* rounds in which every warp only jumped back */
    uint8_t *shared;
    char *files;                /* register files of the warps */
    uint32_t bars;              /* those that lanes have come to */
    struct fdcpu_barrier bar[MAX_BARRIERS];
    char *text;                 /* printf output */
    size_t text_used, text_size;
    struct fdcpu_warp warp[];
};

struct fdcpu_text_piece {
    struct fdcpu_text_piece *next;
    uint64_t block;
    size_t size;
    char bytes[];
};

struct fdcpu_job {
    const struct fdcpu_launch *launch;
    const struct fdcpu_program *prog;
    struct fdcpu_env *env;
    const uint8_t *params;
    uint32_t param_size;
    uint32_t threads, nwarps;
    uint32_t shared_size;
    uint32_t stack_max;         /* bytes a lane */
    uint64_t nblocks, next_block;       /* atomic */
    uint64_t deadline_ns, grid_id;
    uint64_t workspace;         /* of a cooperative launch */
    uint64_t grid_arrived, grid_gone;   /* threads; under the lock */
    uint32_t grid_phase;        /* atomic */
    uint32_t stop;              /* atomic: a fault or a cancel */
    uint32_t helpers;           /* under the pool's lock */
    struct fdcpu_job *next;
    pthread_mutex_t lock;
    struct fdcpu_fault fault;
    struct fdcpu_text_piece *text;      /* latest block first */
};

struct fdcpu_hit {
    const struct fdcpu_insn *insn;
    uint64_t lo, hi;
};

/* What handlers see of the split that runs; one a worker. */
struct fdcpu_exec {
    const struct fdcpu_insn *merge_ip;  /* stop at a block start from here on */
    int32_t fuel;               /* jumps back that are left */
    enum fdcpu_why why;
    const struct fdcpu_insn *ip;
    uint32_t mask, taken;       /* of the split; of the lanes that jump */
    const struct fdcpu_insn *target;
    uint32_t callee;            /* function number of a call */
    uint8_t *shared;
    uint32_t shared_size, local_stride;
    uint8_t *local;
    uint64_t local_base;
    const uint8_t *params;
    uint32_t param_size, live;
    struct fdcpu_frame *frame;
    struct fdcpu_warp *warp;
    struct fdcpu_block *block;
    struct fdcpu_job *job;
    void *scratch;              /* of mma.c; freed with the worker's job */
    uint64_t generation;        /* of the ranges that the cache holds */
    const struct fdcpu_env *env;        /* whose they are */
    struct fdcpu_hit hit[MEM_CACHE];
};

struct fdcpu_worker {
    struct fdcpu_exec x;
    struct fdcpu_block *spare;  /* blocks whose memory can be used again */
    struct fdcpu_frame **free_frames;   /* by function number; linked by parent */
};

/* ---- for handlers ---- */

#ifndef FDCPU_TAIL_CALLS
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define FDCPU_TAIL_CALLS 0
#else
#define FDCPU_TAIL_CALLS 1
#endif
#endif

/* Runs the instruction after i. */
#if FDCPU_TAIL_CALLS
#define FDCPU_GO(n)                                                                          \
    do {                                                                                     \
        const struct fdcpu_insn *go_ = (n);                                                  \
        go_->fn(x, go_, m, r);                                                               \
        return;                                                                              \
    } while (0)
#else
#define FDCPU_GO(n)                                                                          \
    do {                                                                                     \
        x->ip = (n);                                                                         \
        x->mask = m;                                                                         \
        x->why = WHY_CONT;                                                                   \
        return;                                                                              \
    } while (0)
#endif
#define FDCPU_NEXT FDCPU_GO(i + 1)
/* Gives the split back to the scheduler, at instruction n. */
#define FDCPU_STOP(n, reason)                                                                \
    do {                                                                                     \
        x->ip = (n);                                                                         \
        x->mask = m;                                                                         \
        x->why = (reason);                                                                   \
        return;                                                                              \
    } while (0)
#define FDCPU_HANDLER(name)                                                                  \
    void name(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m,                  \
              char *r __attribute__((unused)))
/* Lanes that the guard lets through. */
#define FDCPU_GUARD                                                                          \
    (m & (*(const uint32_t *)(r + (i->pred & ~1u)) ^ (0u - (i->pred & 1))))

#define FDCPU_REG(type, off) ((type *)(void *)(r + (off)))
#define FDCPU_PRED(off) (*(uint32_t *)(void *)(r + (off)))
#define FDCPU_EACH(lane, mask)                                                               \
    for (uint32_t left_##lane = (mask), lane;                                                \
         left_##lane && (lane = (uint32_t)__builtin_ctz(left_##lane), 1);                    \
         left_##lane &= left_##lane - 1)

/* Records a fault of one lane (or -1) and stops the job. (fault.c) */
void fdcpu_fault_at(struct fdcpu_exec *x, const struct fdcpu_insn *i, int lane, int result,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));
/* A bad access: finds the lane's neighbours for the report. */
void fdcpu_fault_address(struct fdcpu_exec *x, const struct fdcpu_insn *i, int lane,
                         int result, uint64_t addr, uint32_t size, const char *what);

/* True when [lo, hi) lies in one range, which then is cached for the instruction. */
bool fdcpu_check_range(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint64_t lo,
                       uint64_t hi, bool store);
static inline __attribute__((always_inline)) bool
fdcpu_in_range(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint64_t lo, uint64_t hi,
               bool store)
{
    const struct fdcpu_hit *hit = &x->hit[((uintptr_t)i / sizeof(*i)) % MEM_CACHE];

    if (hit->insn == i && lo >= hit->lo && hi <= hit->hi)
        return true;
    return fdcpu_check_range(x, i, lo, hi, store);
}
uint64_t fdcpu_mem_generation(void);

/*
 * Host address of size bytes at one lane's address in a space, or NULL after a fault.
 * Shared, local and parameter windows are seen through.
 */
void *fdcpu_lane_address(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane,
                         int space, uint64_t addr, uint32_t size, uint32_t align, bool store);
/* The lane's address of a memory instruction, offset included. */
static inline uint64_t
fdcpu_address(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, uint32_t lane)
{
    uint64_t v = (i->aux & MEM_A32) ? *(uint32_t *)(void *)(r + i->a + lane * 4)
                                    : *(uint64_t *)(void *)(r + i->a + lane * 8);

    v += (uint64_t)i->imm;
    return (i->aux & MEM_FRAME) ? v + x->local_base : v;
}

/* Memory of a lane at an offset of the running frame; inside by construction. */
static inline uint8_t *
fdcpu_frame_byte(struct fdcpu_exec *x, uint32_t lane, uint64_t offset)
{
    return x->local + (uint64_t)lane * x->local_stride + x->local_base + offset;
}
/* Lanes' local memory becomes this large at least. False after a fault. (frame.c) */
bool fdcpu_local_grow(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint64_t size);
void fdcpu_print(struct fdcpu_exec *x, const char *bytes, size_t size);         /* block.c */
/* Threads come to the grid's barrier, or exit and are waited for no longer. (sched.c) */
void fdcpu_grid_arrive(struct fdcpu_job *job, uint64_t count, uint64_t gone);

/* Whether there was a fault, or somebody wants the job to end. */
static inline bool
fdcpu_stopped(struct fdcpu_job *job)
{
    return __atomic_load_n(&job->stop, __ATOMIC_RELAXED) != 0;
}

extern const uint32_t fdcpu_bit[FDCPU_LANES];
extern const uint64_t fdcpu_bit64[FDCPU_LANES];

#define FDCPU_CAT2(a, b) a##_##b
#define FDCPU_CAT(a, b) FDCPU_CAT2(a, b)
#ifdef FDCPU_ISA
#define FDCPU_SYM(name) FDCPU_CAT(name, FDCPU_ISA)
#endif

#endif
