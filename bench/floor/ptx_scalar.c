/*
 * The floor of bench_cpudev.py: what a compiler makes of each kernel as one function a
 * thread, with the checks that the CPU device makes: every access against the bounds of
 * its memory and its alignment, a budget at every jump back. A thread that comes to a
 * barrier leaves with its registers saved and is called again.
 */
#include <string.h>

#include "ptx_scalar.h"

typedef uint32_t u32;
typedef uint64_t u64;

struct thread {
    int state;                  /* 0: not begun, -1: ended, else the barrier it is at */
    union {
        struct {
            u32 k;
        } reduce;
        struct {
            u32 k;
            float sum;
        } tiled;
    } u;
};

enum { ENDED = 0, AT_BARRIER = 1, FAULT = -1 };

typedef int kernel(struct scalar_grid *g, struct thread *t, u32 x, u32 y);

#define BAD(address, size, lo, span)                                                   \
    (__builtin_expect((address) - (lo) > (span) - (size) || ((address) & ((size) - 1)), 0))
#define GLOBAL(type, address)                                                          \
    (*({                                                                               \
        u64 at_ = (address);                                                           \
        if (BAD(at_, sizeof(type), g->lo, g->span))                                    \
            return g->fault = 700, FAULT;                                              \
        (type *)(uintptr_t)at_;                                                        \
    }))
#define SHARED(type, offset)                                                           \
    (*({                                                                               \
        u64 at_ = (offset);                                                            \
        if (BAD(at_, sizeof(type), 0, g->shared_size))                                 \
            return g->fault = 700, FAULT;                                              \
        (type *)(void *)(g->shared + at_);                                             \
    }))
#define BACK                                                                           \
    if (--g->budget < 0)                                                               \
    return g->fault = 702, FAULT
#define PARAM(type, offset) (*(const type *)(const void *)((const char *)g->params + (offset)))

static int
saxpy(struct scalar_grid *g, struct thread *t, u32 x, u32 y)
{
    u32 i = g->ctaid[0] * g->block[0] + x;
    u64 at = (u64)((int64_t)(int32_t)i * 4);
    u64 to = PARAM(u64, 16) + at;

    (void)t, (void)y;
    if ((int32_t)i >= PARAM(int32_t, 0))
        return ENDED;
    GLOBAL(float, to) = __builtin_fmaf(PARAM(float, 4), GLOBAL(float, PARAM(u64, 8) + at),
                                       GLOBAL(float, to));
    return ENDED;
}

static int
reduce(struct scalar_grid *g, struct thread *t, u32 x, u32 y)
{
    u32 i, k;

    (void)y;
    switch (t->state) {
    case 1: k = 128; goto loop;
    case 2: k = t->u.reduce.k; goto next;
    }
    i = g->ctaid[0] * 256 + x;
    SHARED(float, x * 4) = (int32_t)i < PARAM(int32_t, 16)
                               ? GLOBAL(float, PARAM(u64, 0) + (u64)i * 4) : 0;
    t->state = 1;
    return AT_BARRIER;
loop:
    if (x < k)
        SHARED(float, x * 4) += SHARED(float, (x + k) * 4);
    t->u.reduce.k = k;
    t->state = 2;
    return AT_BARRIER;
next:
    k >>= 1;
    if (k) {
        BACK;
        goto loop;
    }
    if (!x)
        GLOBAL(float, PARAM(u64, 8) + (u64)g->ctaid[0] * 4) = SHARED(float, 0);
    return ENDED;
}

static int
matmul_naive(struct scalar_grid *g, struct thread *t, u32 x, u32 y)
{
    u32 c = g->ctaid[0] * g->block[0] + x, r = g->ctaid[1] * g->block[1] + y;
    int32_t n = PARAM(int32_t, 24);
    u64 a = PARAM(u64, 0) + (u64)((int64_t)(int32_t)(r * (u32)n) * 4);
    u64 b = PARAM(u64, 8) + (u64)((int64_t)(int32_t)c * 4);
    float sum = 0;

    (void)t;
    if ((int32_t)r >= n || (int32_t)c >= n)
        return ENDED;
    for (u32 k = 0; k < (u32)n; k += 4) {
        sum = __builtin_fmaf(GLOBAL(float, a), GLOBAL(float, b), sum);
        b += (u64)((int64_t)n * 4);
        sum = __builtin_fmaf(GLOBAL(float, a + 4), GLOBAL(float, b), sum);
        b += (u64)((int64_t)n * 4);
        sum = __builtin_fmaf(GLOBAL(float, a + 8), GLOBAL(float, b), sum);
        b += (u64)((int64_t)n * 4);
        sum = __builtin_fmaf(GLOBAL(float, a + 12), GLOBAL(float, b), sum);
        b += (u64)((int64_t)n * 4);
        a += 16;
        BACK;
    }
    GLOBAL(float, PARAM(u64, 16) + (u64)((int64_t)(int32_t)(r * (u32)n + c) * 4)) = sum;
    return ENDED;
}

static int
matmul_tiled(struct scalar_grid *g, struct thread *t, u32 x, u32 y)
{
    u32 c = g->ctaid[0] * 16 + x, r = g->ctaid[1] * 16 + y, k;
    u32 n = PARAM(u32, 24);
    float sum;

    switch (t->state) {
    case 0: k = 0; sum = 0; goto loop;
    case 1: k = t->u.tiled.k; sum = t->u.tiled.sum; goto product;
    default: k = t->u.tiled.k; sum = t->u.tiled.sum; goto next;
    }
loop:
    SHARED(float, (y * 16 + x) * 4) =
        GLOBAL(float, PARAM(u64, 0) + (u64)((int64_t)(int32_t)(r * n + k + x) * 4));
    SHARED(float, 1024 + (y * 16 + x) * 4) =
        GLOBAL(float, PARAM(u64, 8) + (u64)((int64_t)(int32_t)((k + y) * n + c) * 4));
    t->u.tiled.k = k;
    t->u.tiled.sum = sum;
    t->state = 1;
    return AT_BARRIER;
product:
#define STEP(j)                                                                        \
    sum = __builtin_fmaf(SHARED(float, y * 64 + (j) * 4),                              \
                         SHARED(float, 1024 + x * 4 + (j) * 64), sum);
    STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
    STEP(8) STEP(9) STEP(10) STEP(11) STEP(12) STEP(13) STEP(14) STEP(15)
    t->u.tiled.sum = sum;
    t->state = 2;
    return AT_BARRIER;
next:
    k += 16;
    if ((int32_t)k < (int32_t)n) {
        BACK;
        goto loop;
    }
    GLOBAL(float, PARAM(u64, 16) + (u64)((int64_t)(int32_t)(r * n + c) * 4)) = sum;
    return ENDED;
}

static int
fma_chains(struct scalar_grid *g, struct thread *t, u32 x, u32 y)
{
    u32 i = g->ctaid[0] * g->block[0] + x, n = PARAM(u32, 8);
    float v[8], f = (float)(int32_t)i, s;

    (void)t, (void)y;
    for (int k = 0; k < 8; k++)
        v[k] = f + (float)k;
    for (u32 k = 0; k < n; k++) {
        for (int j = 0; j < 8; j++)
            v[j] = __builtin_fmaf(v[j], 0.5f, f);
        BACK;
    }
    s = v[0];
    for (int k = 1; k < 8; k++)
        s += v[k];
    GLOBAL(float, PARAM(u64, 0) + (u64)((int64_t)(int32_t)i * 4)) = s;
    return ENDED;
}

static int
collatz(struct scalar_grid *g, struct thread *t, u32 x, u32 y)
{
    u32 i = g->ctaid[0] * g->block[0] + x, v = i + 1, steps = 0;

    (void)t, (void)y;
    while (v != 1) {
        if (v & 1)
            v = v * 3 + 1;
        else
            v >>= 1;
        steps++;
        BACK;
    }
    GLOBAL(u32, PARAM(u64, 0) + (u64)i * 4) = steps;
    return ENDED;
}

static const struct {
    const char *name;
    kernel *run;
} kernels[] = {
    {"saxpy", saxpy}, {"reduce", reduce}, {"matmul_naive", matmul_naive},
    {"matmul_tiled", matmul_tiled}, {"fma_chains", fma_chains}, {"collatz", collatz},
};

static inline __attribute__((always_inline)) int
run_block(struct scalar_grid *g, kernel *run, struct thread *threads)
{
    int alive = 1;

    for (u32 k = 0; k < g->block[0] * g->block[1]; k++)
        threads[k].state = 0;
    while (alive) {
        struct thread *t = threads;

        alive = 0;
        for (u32 y = 0; y < g->block[1]; y++)
            for (u32 x = 0; x < g->block[0]; x++, t++) {
                int result = t->state < 0 ? ENDED : run(g, t, x, y);

                if (result == FAULT)
                    return FAULT;
                if (result == ENDED)
                    t->state = -1;
                alive |= result == AT_BARRIER;
            }
    }
    return 0;
}

/* Without barriers: each thread once, from beginning to end. */
static inline __attribute__((always_inline)) int
run_once(struct scalar_grid *g, kernel *run)
{
    for (u32 y = 0; y < g->block[1]; y++)
        for (u32 x = 0; x < g->block[0]; x++)
            if (run(g, 0, x, y) == FAULT)
                return FAULT;
    return 0;
}

static int
run_kernel(struct scalar_grid *g, kernel *run, struct thread *threads)
{
    /* called with what is known at compile time, so that the kernels are inlined */
    return run == saxpy          ? run_once(g, saxpy)
           : run == matmul_naive ? run_once(g, matmul_naive)
           : run == fma_chains   ? run_once(g, fma_chains)
           : run == collatz      ? run_once(g, collatz)
           : run == reduce       ? run_block(g, reduce, threads)
                                 : run_block(g, matmul_tiled, threads);
}

int
scalar_run(const char *name, struct scalar_grid *g)
{
    static struct thread threads[1024];
    kernel *run = 0;

    for (u32 k = 0; k < sizeof(kernels) / sizeof(*kernels); k++)
        if (!strcmp(kernels[k].name, name))
            run = kernels[k].run;
    if (!run)
        return -1;
    g->fault = 0;
    g->budget = INT64_MAX;
    for (u32 y = 0; y < g->grid[1]; y++)
        for (u32 x = 0; x < g->grid[0]; x++) {
            g->ctaid[0] = x;
            g->ctaid[1] = y;
            if (run_kernel(g, run, threads))
                return g->fault;
        }
    return 0;
}
