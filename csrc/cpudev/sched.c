/*
 * Runs grids: workers take blocks in rising order, a block's warps run in turn (block.c), a
 * warp's splits by the rule in vm.h (warp.c). What jumps back too often gives way, first to
 * other splits, then to other warps, then to other blocks of the worker.
 */
#define _GNU_SOURCE
#include "fdc/base.h"
#include "run.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPINS_BEFORE_MORE = 64,     /* fruitless rounds before another block is begun */
    MAX_RESIDENT = 256,         /* blocks of one worker, not cooperative */
};

void
fdcpu_grid_arrive(struct fdcpu_job *job, uint64_t count, uint64_t gone)
{
    pthread_mutex_lock(&job->lock);
    job->grid_arrived += count;
    job->grid_gone += gone;
    if (job->grid_arrived &&
        job->grid_arrived + job->grid_gone >= job->nblocks * job->threads) {
        job->grid_arrived = 0;
        /* pairs with the loads in rt_grid_sync: what came before is seen after */
        __atomic_add_fetch(&job->grid_phase, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&job->lock);
}

/* ---- workers ---- */

static void
check_limits(struct fdcpu_worker *wk, struct fdcpu_block *b)
{
    struct fdcpu_job *job = wk->x.job;
    const char *what = NULL;

    if (job->env->cancel && __atomic_load_n((const uint32_t *)job->env->cancel, __ATOMIC_RELAXED))
        what = "cancelled";
    else if (job->deadline_ns && fdc_now_ns() > job->deadline_ns)
        what = "ran longer than allowed";
    if (what) {
        struct fdcpu_warp *w = &b->warp[0];

        for (uint32_t n = 0; n < b->nwarps; n++)
            if (b->warp[n].nsplit)
                w = &b->warp[n];
        fdcpu_load_warp(&wk->x, w);
        wk->x.frame = w->nsplit ? w->split[0].frame : NULL;
        fdcpu_fault_at(&wk->x, w->nsplit ? w->split[0].ip : NULL,
                       w->nsplit ? __builtin_ctz(w->split[0].mask) : -1, 702, "%s", what);
    }
}

static void
work(struct fdcpu_job *job, struct fdcpu_worker *wk)
{
    struct fdcpu_block *list = NULL, **tail = &list, *b;
    uint32_t resident = 0, limit = job->launch->cooperative ? UINT32_MAX : MAX_RESIDENT;
    uint32_t rounds = 0;
    bool more = true;

    memset(&wk->x, 0, sizeof(wk->x));
    wk->x.job = job;
    wk->x.params = job->params;
    wk->x.param_size = job->param_size;
    wk->x.shared_size = job->shared_size;
    wk->free_frames = calloc(job->prog->ncode + 1, sizeof(*wk->free_frames));
    if (!wk->free_frames)
        return;
    while (!fdcpu_stopped(job)) {
        struct fdcpu_block **at;
        bool ended = false;

        if (more && (!list || (resident < limit && (job->launch->cooperative ||
                                                    rounds >= SPINS_BEFORE_MORE)))) {
            uint64_t number = __atomic_fetch_add(&job->next_block, 1, __ATOMIC_RELAXED);

            rounds = 0;
            if (number >= job->nblocks) {
                more = false;
            } else {
                b = fdcpu_block_begin(wk, number);
                if (!b) {
                    pthread_mutex_lock(&job->lock);
                    if (!job->fault.result) {
                        job->fault.result = 2;
                        snprintf(job->fault.report, sizeof(job->fault.report),
                                 "no memory for a block of %.200s", job->launch->func->name);
                    }
                    pthread_mutex_unlock(&job->lock);
                    __atomic_store_n(&job->stop, 1, __ATOMIC_RELAXED);
                    break;
                }
                b->next = NULL;
                for (tail = &list; *tail; tail = &(*tail)->next)
                    ;
                *tail = b;
                resident++;
            }
        }
        if (!list)
            break;
        for (at = &list; *at && !fdcpu_stopped(job);) {
            enum fdcpu_ran res;

            b = *at;
            res = fdcpu_block_run(wk, b);
            if (res == R_DONE) {
                *at = b->next;
                fdcpu_text_collect(job, b);
                b->next = wk->spare;
                wk->spare = b;
                resident--;
                ended = true;
                continue;
            }
            if (res == R_YIELD)
                check_limits(wk, b);
            at = &b->next;
        }
        rounds = ended ? 0 : rounds + 1;
        if (!ended && rounds > 16 && !more)
            sched_yield();      /* others may hold what we wait for */
    }
    while (list) {
        b = list;
        list = b->next;
        fdcpu_text_collect(job, b);
        /* frames of splits that never returned */
        for (uint32_t n = 0; n < b->nwarps; n++)
            for (uint32_t k = 0; k < b->warp[n].nsplit; k++)
                fdcpu_frame_drop(wk, b->warp[n].split[k].frame);
        fdcpu_block_free(b);
    }
    while (wk->spare) {
        b = wk->spare;
        wk->spare = b->next;
        fdcpu_block_free(b);
    }
    for (uint32_t k = 0; k < job->prog->ncode; k++)
        while (wk->free_frames[k]) {
            struct fdcpu_frame *f = wk->free_frames[k];

            wk->free_frames[k] = f->parent;
            free(f);
        }
    free(wk->free_frames);
    wk->free_frames = NULL;
    free(wk->x.scratch);
    wk->x.scratch = NULL;
}

/* ---- the pool ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct fdcpu_job *jobs;
    uint32_t threads;           /* wanted besides the caller */
    uint32_t started, idle;
} pool = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL,
           0, 0, 0 };
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static void
pool_forget(void)
{
    /* in a forked child: none of the threads came along */
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.work, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.jobs = NULL;
    pool.started = pool.idle = 0;
}

static void
pool_init(void)
{
    const char *want = getenv("FD_CPU_THREADS");
    cpu_set_t set;
    long n = want ? strtol(want, NULL, 10) : 0;

    if (n <= 0)
        n = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
    pool.threads = n > 256 ? 255 : (uint32_t)n - 1;
    pthread_atfork(NULL, NULL, pool_forget);
}

static void *
pool_thread(void *arg)
{
    struct fdcpu_worker *wk = arg;

    pthread_mutex_lock(&pool.lock);
    for (;;) {
        struct fdcpu_job *job;

        for (job = pool.jobs; job; job = job->next)
            if (__atomic_load_n(&job->next_block, __ATOMIC_RELAXED) < job->nblocks &&
                !fdcpu_stopped(job))
                break;
        if (!job) {
            pool.idle++;
            pthread_cond_wait(&pool.work, &pool.lock);
            pool.idle--;
            continue;
        }
        job->helpers++;
        pthread_mutex_unlock(&pool.lock);
        work(job, wk);
        pthread_mutex_lock(&pool.lock);
        if (--job->helpers == 0)
            pthread_cond_broadcast(&pool.done);
    }
    return NULL;
}

/* Shows the job to the pool's threads, starting them when there are too few. */
static void
pool_offer(struct fdcpu_job *job)
{
    uint64_t want = job->nblocks - 1 < pool.threads ? job->nblocks - 1 : pool.threads;

    pthread_mutex_lock(&pool.lock);
    job->next = pool.jobs;
    pool.jobs = job;
    while (pool.started < pool.threads && pool.idle < want && pool.started < want) {
        struct fdcpu_worker *wk = calloc(1, sizeof(*wk));
        pthread_t t;

        if (!wk || pthread_create(&t, NULL, pool_thread, wk)) {
            free(wk);
            break;
        }
        pthread_detach(t);
        pool.started++;
    }
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.lock);
}

static void
pool_withdraw(struct fdcpu_job *job)
{
    struct fdcpu_job **at;

    pthread_mutex_lock(&pool.lock);
    for (at = &pool.jobs; *at != job; at = &(*at)->next)
        ;
    *at = job->next;
    while (job->helpers)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

/* ---- launching ---- */

static int
refuse(struct fdcpu_fault *fault, int result, const struct fdcpu_func *f, const char *why)
{
    fault->result = result;
    snprintf(fault->report, sizeof(fault->report), "kernel %.200s: %s", f->name, why);
    return result;
}

static uint64_t
block_bytes(const struct fdcpu_program *prog, uint32_t threads, uint32_t dynamic)
{
    uint64_t warps = (threads + FDCPU_LANES - 1) / FDCPU_LANES;

    return warps * (prog->entry->file_size + (uint64_t)prog->entry->local_size * FDCPU_LANES +
                    sizeof(struct fdcpu_warp)) + prog->dynamic_at + dynamic +
           sizeof(struct fdcpu_block);
}

uint32_t
fdcpu_max_cooperative_blocks(const struct fdcpu_func *func, uint32_t threads,
                             uint32_t dynamic_shared)
{
    uint64_t n;

    if (func->machine)
        return 4096;    /* it does not run, so it takes no memory */
    if (!threads || threads > 1024 || fdcpu_program_get((struct fdcpu_func *)(uintptr_t)func))
        return 0;
    n = (1ull << 30) / block_bytes(func->prog, threads, dynamic_shared);
    return n > 4096 ? 4096 : (uint32_t)n;
}

int
fdcpu_run(const struct fdcpu_launch *launch, struct fdcpu_fault *fault)
{
    static uint64_t grids;
    struct fdcpu_func *f = launch->func;
    struct fdcpu_job job;
    struct fdcpu_worker *wk;
    uint64_t threads = (uint64_t)launch->block[0] * launch->block[1] * launch->block[2];
    int result;
    uint8_t *params;

    memset(fault, 0, sizeof(*fault));
    result = fdcpu_program_get(f);
    if (result)
        return refuse(fault, result, f, f->prog_error ? f->prog_error
                                        : f->machine ? "machine code" : "not decoded");
    if (!launch->grid[0] || !launch->grid[1] || !launch->grid[2] || !threads ||
        launch->block[0] > 1024 || launch->block[1] > 1024 || launch->block[2] > 64)
        return refuse(fault, 1, f, "grid or block of an impossible size");
    if (threads > 1024)
        return refuse(fault, 1, f, "more than 1024 threads in a block");
    if (launch->param_size < f->info.param_size)
        return refuse(fault, 1, f, "too few parameters");
    if (f->info.reqntid[0] && (f->info.reqntid[0] != launch->block[0] ||
                               f->info.reqntid[1] != launch->block[1] ||
                               f->info.reqntid[2] != launch->block[2]))
        return refuse(fault, 1, f, "block differs from what .reqntid demands");
    if (threads > f->info.max_threads)
        return refuse(fault, 1, f, "more threads in a block than .maxntid allows");
    if ((uint64_t)f->prog->dynamic_at + launch->dynamic_shared > (1u << 20))
        return refuse(fault, 1, f, "too much shared memory");

    memset(&job, 0, sizeof(job));
    wk = calloc(1, sizeof(*wk));
    params = aligned_alloc(64, (launch->param_size + 64 + 63) & ~63u);
    if (!wk || !params) {
        free(wk);
        free(params);
        return refuse(fault, 2, f, "no memory");
    }
    if (launch->param_size)
        memcpy(params, launch->params, launch->param_size);
    job.launch = launch;
    job.prog = f->prog;
    job.env = launch->env;
    job.params = params;
    job.param_size = f->info.param_size;
    job.threads = (uint32_t)threads;
    job.nwarps = (uint32_t)((threads + FDCPU_LANES - 1) / FDCPU_LANES);
    job.shared_size = (launch->dynamic_shared || f->prog->dynamic_at != f->prog->static_shared
                           ? f->prog->dynamic_at : f->prog->static_shared) +
                      launch->dynamic_shared;
    job.stack_max = (uint32_t)(launch->env->stack_limit > (256u << 20) ? (1u << 30)
                               : launch->env->stack_limit * 4 + (256u << 10));
    if (job.stack_max < f->prog->entry->local_size)
        job.stack_max = f->prog->entry->local_size;
    job.nblocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2];
    job.grid_id = __atomic_add_fetch(&grids, 1, __ATOMIC_RELAXED);
    if (launch->env->deadline_ms)
        job.deadline_ns = fdc_now_ns() + launch->env->deadline_ms * 1000000u;
    pthread_mutex_init(&job.lock, NULL);
    if (launch->cooperative &&
        job.nblocks > fdcpu_max_cooperative_blocks(f, job.threads, launch->dynamic_shared)) {
        result = refuse(fault, 720, f, "too many blocks for a cooperative launch");
        goto out;
    }
    if (f->prog->uses_grid) {           /* words that blocks of a grid meet at */
        struct fdcpu_range range = { .lo = 0 };

        job.workspace = launch->env->heap.alloc
                            ? launch->env->heap.alloc(launch->env->heap.user, 4096, 512) : 0;
        if (!job.workspace) {
            result = refuse(fault, 2, f, "no memory for the grid's workspace");
            goto out;
        }
        memset((void *)(uintptr_t)job.workspace, 0, 4096);
        range.lo = job.workspace;
        range.hi = job.workspace + 4096;
        result = fdcpu_mem_add(&range);
    } else {
        result = -1;
    }
    pthread_once(&pool_once, pool_init);
    if (job.nblocks > 1 && pool.threads) {
        pool_offer(&job);
        work(&job, wk);
        pool_withdraw(&job);
    } else {
        work(&job, wk);
    }
    if (job.workspace) {
        if (result == 0)
            fdcpu_mem_del(job.workspace);
        launch->env->heap.free(launch->env->heap.user, job.workspace);
    }
    fdcpu_text_print(&job);
    *fault = job.fault;
    result = fault->result;
out:
    pthread_mutex_destroy(&job.lock);
    free(params);
    free(wk);
    return result;
}
