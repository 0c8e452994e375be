/*
 * Units of device work: made, cloned, freed, checked, and run. Running one happens in a
 * stream's thread (or the caller's) with no lock held.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpudev.h"

enum { BEHIND = (sizeof(struct fdcpu_work) + 15) / 16 * 16 }; /* aligned like malloc's */

/* Not calloc, which takes no memory that this thread has just freed. What is of its kind is
 * the caller's to fill. */
static struct fdcpu_work *
work_new(enum fdcpu_work_kind kind, struct fdcpu_ctx *ctx, size_t size)
{
    struct fdcpu_work *work = malloc(size);

    if (work == NULL)
        return NULL;
    work->kind = kind;
    work->ctx = ctx;
    work->op = (struct fdcpu_op){.next = NULL};
    return work;
}

struct fdcpu_work *
fdcpu_work_new(enum fdcpu_work_kind kind, struct fdcpu_ctx *ctx)
{
    struct fdcpu_work *work = work_new(kind, ctx, sizeof(*work));

    if (work != NULL)
        memset(&work->u, 0, sizeof(work->u));
    return work;
}

/* A byte more than the parameters take: there is always something to point to. */
static size_t
pointers_at(uint32_t param_size)
{
    return FDC_ALIGN_UP((size_t)BEHIND + param_size + 1, sizeof(void *));
}

struct fdcpu_work *
fdcpu_work_kernel(struct fdcpu_ctx *ctx, uint32_t param_size, uint32_t nparams)
{
    size_t at = pointers_at(param_size);
    struct fdcpu_work *work =
        work_new(FDCPU_W_KERNEL, ctx, at + (size_t)nparams * sizeof(void *));

    if (work == NULL)
        return NULL;
    work->u.kernel.params = memset((char *)work + BEHIND, 0, param_size);
    work->u.kernel.param_size = param_size;
    work->u.kernel.pointers = (void **)(void *)((char *)work + at);
    work->u.kernel.nparams = nparams;
    return work;
}

static struct fdcpu_work *
kernel_clone(const struct fdcpu_work *work)
{
    struct fdcpu_work *copy =
        fdcpu_work_kernel(work->ctx, work->u.kernel.param_size, work->u.kernel.nparams);
    void *params, **pointers;

    if (copy == NULL)
        return NULL;
    params = copy->u.kernel.params;
    pointers = copy->u.kernel.pointers;
    copy->u.kernel = work->u.kernel;
    copy->u.kernel.params = params;
    copy->u.kernel.pointers = pointers;
    memcpy(params, work->u.kernel.params, work->u.kernel.param_size);
    for (uint32_t i = 0; i < work->u.kernel.nparams; i++)
        pointers[i] = (char *)params + ((char *)work->u.kernel.pointers[i] -
                                        (char *)work->u.kernel.params);
    atomic_fetch_add(&work->u.kernel.function->refs, 1);
    return copy;
}

/* A graph's allocation lives as long as any node or executable step that names it. */
static void
more_refs(struct fdcpu_alloc *alloc, void *user)
{
    (void)user;
    alloc->flags++;
}

static void
fewer_refs(struct fdcpu_alloc *alloc, void *last)
{
    if (alloc->flags == 0 && alloc->held)
        alloc->orphan = true;
    else if (alloc->flags == 0)
        *(bool *)last = true;
    else
        alloc->flags--;
}

struct fdcpu_work *
fdcpu_work_clone(const struct fdcpu_work *work)
{
    struct fdcpu_work *copy;
    size_t size;

    if (work->kind == FDCPU_W_KERNEL)
        return kernel_clone(work);
    copy = malloc(sizeof(*copy));
    if (copy == NULL)
        return NULL;
    *copy = *work;
    switch (work->kind) {
    case FDCPU_W_COPY:
        copy->u.copy.staged = NULL; /* graphs never stage */
        break;
    case FDCPU_W_CHILD:
        copy->u.child = fdcpu_graph_clone(work->u.child);
        if (copy->u.child == NULL)
            goto err;
        copy->u.child->child = true;
        break;
    case FDCPU_W_ALLOC:
        fdcpu_alloc_change(work->u.alloc.params.dptr, more_refs, NULL);
        break;
    case FDCPU_W_MEMOP:
        size = work->u.memop.count * sizeof(*work->u.memop.ops);
        copy->u.memop.ops = malloc(size + 1);
        if (copy->u.memop.ops == NULL)
            goto err;
        memcpy(copy->u.memop.ops, work->u.memop.ops, size);
        break;
    default:
        break;
    }
    return copy;

err:
    free(copy);
    return NULL;
}

void
fdcpu_work_free(struct fdcpu_work *work)
{
    bool last = false;

    if (work == NULL)
        return;
    switch (work->kind) {
    case FDCPU_W_KERNEL:
        fdcpu_function_unref(work->u.kernel.function);
        break;
    case FDCPU_W_COPY:
        free(work->u.copy.staged);
        break;
    case FDCPU_W_CHILD:
        fdcpu_graph_free(work->u.child);
        break;
    case FDCPU_W_ALLOC:
        fdcpu_alloc_change(work->u.alloc.params.dptr, fewer_refs, &last);
        if (last)
            fdcpu_alloc_free(work->u.alloc.params.dptr, NULL);
        break;
    case FDCPU_W_MEMOP:
        free(work->u.memop.ops);
        break;
    default:
        break;
    }
    free(work);
}

/* ---- what work names ---- */

static bool
overlaps(uint64_t addr, uint64_t size, uint64_t lo, uint64_t hi)
{
    return addr < hi && addr + size > lo;
}

static uint64_t
span(const CUDA_MEMCPY3D *p, size_t pitch, size_t height)
{
    size_t rows = height > p->Height ? height : p->Height;

    return (p->Depth == 0 ? 0 : (p->Depth - 1) * rows * pitch) +
           (p->Height == 0 ? 0 : (p->Height - 1) * pitch) + p->WidthInBytes;
}

bool
fdcpu_work_uses(const struct fdcpu_work *work, uint64_t lo, uint64_t hi)
{
    const CUDA_MEMCPY3D *p;
    uint32_t i;
    uint64_t word;

    switch (work->kind) {
    case FDCPU_W_KERNEL:
        for (i = 0; i + 8 <= work->u.kernel.param_size; i += 4) {
            memcpy(&word, (const char *)work->u.kernel.params + i, 8);
            if (word >= lo && word < hi)
                return true;
        }
        return false;
    case FDCPU_W_COPY:
        p = &work->u.copy.p;
        return overlaps(p->dstDevice, span(p, p->dstPitch, p->dstHeight), lo, hi) ||
               overlaps(p->srcDevice, span(p, p->srcPitch, p->srcHeight), lo, hi) ||
               overlaps((uint64_t)p->dstHost, span(p, p->dstPitch, p->dstHeight), lo,
                        hi) ||
               overlaps((uint64_t)p->srcHost, span(p, p->srcPitch, p->srcHeight), lo,
                        hi);
    case FDCPU_W_SET:
        return overlaps(work->u.set.dst,
                        work->u.set.pitch * work->u.set.height +
                            work->u.set.width * work->u.set.elementSize,
                        lo, hi);
    case FDCPU_W_GRAPH:
        return fdcpu_plan_uses(work->u.plan, lo, hi);
    default:
        return false;
    }
}

/* ---- how long kernels run, for NVML ---- */

static pthread_mutex_t busy_lock = PTHREAD_MUTEX_INITIALIZER;

static struct fdc_busy *
busy_of(struct fdcpu_device *device)
{
    return device->busy != NULL ? device->busy : &device->own_busy;
}

static void
busy_begin(struct fdcpu_device *device)
{
    pthread_mutex_lock(&busy_lock);
    if (device->running++ == 0)
        fdc_store_relaxed(&busy_of(device)->since_ns, fdc_now_ns());
    pthread_mutex_unlock(&busy_lock);
}

static void
busy_end(struct fdcpu_device *device)
{
    struct fdc_busy *busy;

    pthread_mutex_lock(&busy_lock);
    if (--device->running == 0) {
        busy = busy_of(device);
        fdc_store_relaxed(&busy->total_ns, busy->total_ns + fdc_now_ns() - busy->since_ns);
        fdc_store_relaxed(&busy->since_ns, 0);
    }
    pthread_mutex_unlock(&busy_lock);
}

/* What there is goes along, where a kernel is running as well. */
void
fdcpu_busy_keep(struct fdcpu_device *device, struct fdc_busy *where)
{
    pthread_mutex_lock(&busy_lock);
    if (where != NULL)
        *where = *busy_of(device);
    else
        device->own_busy = *busy_of(device);
    device->busy = where;
    pthread_mutex_unlock(&busy_lock);
}

uint64_t
fdcpu_busy_ns(struct fdcpu_device *device, uint64_t *now)
{
    struct fdc_busy busy;

    pthread_mutex_lock(&busy_lock);
    busy = *busy_of(device);
    pthread_mutex_unlock(&busy_lock);
    *now = fdc_now_ns();
    return busy.total_ns + (busy.since_ns != 0 ? *now - busy.since_ns : 0);
}

/* ---- running ---- */

static void
run_kernel(struct fdcpu_work *work)
{
    struct fdcpu_launch launch = {
        .func = work->u.kernel.function->func, /* looked at only if not dead */
        .dynamic_shared = work->u.kernel.shared,
        .params = work->u.kernel.params,
        .param_size = work->u.kernel.param_size,
        .cooperative = work->u.kernel.cooperative,
        .env = &work->ctx->env,
    };
    struct fdcpu_fault fault = {0};
    int result;

    if (fdcpu.opt.skip_kernels) {
        fdcpu_skipped();
        fdcpu_sleep_until(fdc_now_ns() + work->u.kernel.function->stand_in_ns);
        return;
    }
    if (work->u.kernel.function->dead) {
        fault.result = CUDA_ERROR_INVALID_HANDLE;
        fdcpu_ctx_fault(work->ctx, &fault);
        return;
    }
    memcpy(launch.grid, work->u.kernel.grid, sizeof(launch.grid));
    memcpy(launch.block, work->u.kernel.block, sizeof(launch.block));
    memcpy(launch.cluster, work->u.kernel.cluster, sizeof(launch.cluster));
    fdcpu_texture_enter();
    busy_begin(work->ctx->device);
    result = fdcpu_run(&launch, &fault);
    busy_end(work->ctx->device);
    fdcpu_texture_leave();
    if (fdcpu.opt.fault != 0)
        fdcpu_mem_flip(fdcpu.opt.fault);
    if (result != 0) {
        fault.result = result;
        fdcpu_ctx_fault(work->ctx, &fault);
    }
}

static void
run_set(const CUDA_MEMSET_NODE_PARAMS *p)
{
    size_t y, x;

    if (p->width == 0)
        return;
    for (y = 0; y < p->height; y++) {
        char *row = (char *)p->dst + y * p->pitch;

        if (p->elementSize == 1) {
            memset(row, (int)p->value, p->width);
        } else if (p->elementSize == 2) {
            for (x = 0; x < p->width; x++)
                ((uint16_t *)row)[x] = (uint16_t)p->value;
        } else {
            for (x = 0; x < p->width; x++)
                ((uint32_t *)row)[x] = p->value;
        }
    }
}

static void
run_wait_value(struct fdcpu_ctx *ctx, uint64_t addr, uint64_t value, unsigned int flags,
               bool wide)
{
    struct timespec nap = {0, 20000};
    uint64_t seen;
    bool met = false;

    while (!met && atomic_load(&ctx->device->lost) == 0 &&
           atomic_load(&ctx->cancel) == 0) {
        seen = wide ? __atomic_load_n((uint64_t *)addr, __ATOMIC_ACQUIRE)
                    : __atomic_load_n((uint32_t *)addr, __ATOMIC_ACQUIRE);
        switch (flags & 3) {
        case CU_STREAM_WAIT_VALUE_GEQ:
            met = wide ? (int64_t)(seen - value) >= 0
                       : (int32_t)((uint32_t)seen - (uint32_t)value) >= 0;
            break;
        case CU_STREAM_WAIT_VALUE_EQ:
            met = seen == value;
            break;
        case CU_STREAM_WAIT_VALUE_AND:
            met = (seen & value) != 0;
            break;
        default:
            met = (~(seen | value) & (wide ? UINT64_MAX : UINT32_MAX)) != 0;
        }
        if (!met)
            nanosleep(&nap, NULL);
        if (nap.tv_nsec < 500000) /* many may wait, for long */
            nap.tv_nsec += nap.tv_nsec / 8;
    }
}

static void
run_memop(struct fdcpu_work *work)
{
    unsigned int i;

    for (i = 0; i < work->u.memop.count; i++) {
        const CUstreamBatchMemOpParams *op = &work->u.memop.ops[i];

        switch ((int)op->operation) {
        case CU_STREAM_MEM_OP_WAIT_VALUE_32:
            run_wait_value(work->ctx, op->waitValue.address, op->waitValue.value,
                           op->waitValue.flags, false);
            break;
        case CU_STREAM_MEM_OP_WAIT_VALUE_64:
            run_wait_value(work->ctx, op->waitValue.address, op->waitValue.value64,
                           op->waitValue.flags, true);
            break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_32:
            __atomic_store_n((uint32_t *)op->writeValue.address, op->writeValue.value,
                             __ATOMIC_RELEASE);
            break;
        case CU_STREAM_MEM_OP_WRITE_VALUE_64:
            __atomic_store_n((uint64_t *)op->writeValue.address, op->writeValue.value64,
                             __ATOMIC_RELEASE);
            break;
        default:
            break; /* barriers and flushes: everything is ordered */
        }
    }
}

static void
run_host(CUhostFn fn, void *user)
{
    static pthread_mutex_t one_by_one = PTHREAD_MUTEX_INITIALIZER;
    bool strict = (fdcpu.opt.strict & FDCPU_STRICT_HOST) != 0;
    bool outer = fdcpu_thread.in_host_function;

    /* A driver has one thread for the host functions of all streams. */
    if (strict)
        pthread_mutex_lock(&one_by_one);
    fdcpu_thread.in_host_function = true;
    fn(user);
    fdcpu_thread.in_host_function = outer;
    if (strict)
        pthread_mutex_unlock(&one_by_one);
}

void
fdcpu_work_run(struct fdcpu_work *work, struct fdcpu_stream *stream)
{
    int error = atomic_load(&work->ctx->device->lost);

    if (error == 0)
        fdcpu_log_work(work, stream);
    if (work->kind == FDCPU_W_CALLBACK) {
        fdcpu_thread.in_host_function = true;
        work->u.callback.fn(work->u.callback.stream, (CUresult)error,
                            work->u.callback.user);
        fdcpu_thread.in_host_function = false;
        return;
    }
    if (work->kind == FDCPU_W_FREE) {
        fdcpu_pool_free_now(work->u.free);
        return;
    }
    if (work->kind == FDCPU_W_RECORD) {
        if (work->u.event.record != NULL)
            work->u.event.record->time_ns = fdc_now_ns();
        return;
    }
    if (error != 0)
        return; /* nothing more runs in a context that has failed */
    switch (work->kind) {
    case FDCPU_W_KERNEL:
        run_kernel(work);
        break;
    case FDCPU_W_COPY:
        fdcpu_copy_run(&work->u.copy.p);
        break;
    case FDCPU_W_SET:
        run_set(&work->u.set);
        break;
    case FDCPU_W_HOST:
        run_host(work->u.host.fn, work->u.host.user);
        break;
    case FDCPU_W_MEMOP:
        run_memop(work);
        break;
    case FDCPU_W_GRAPH:
        fdcpu_plan_run(work->u.plan, stream);
        break;
    default:
        break;
    }
}
