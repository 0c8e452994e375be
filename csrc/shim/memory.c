/*
 * Device memory: the arenas' ways to the worker, and the calls that allocate and free.
 * An allocation waits only when memory has to be created; a free never does.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "managed.h"
#include "cuda_calls.h"

CUresult
fdc_memory_setup(struct fdc_session *session)
{
    struct fdc_memory *memory;
    CUresult result;

    result = fdc_space_setup();
    if (result != CUDA_SUCCESS)
        return result;
    memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_init(&memory->setup, NULL);
    pthread_mutex_init(&memory->mapping, NULL);
    pthread_mutex_init(&memory->pending_lock, NULL);
    pthread_mutex_init(&memory->across_lock, NULL);
    pthread_mutex_init(&memory->ferry_lock, NULL);
    session->memory = memory;
    return CUDA_SUCCESS;
}

/* ---- fences ---- */

struct fence {
    struct fdc_session *session;
    uint64_t position; /* everything accepted up to here */
    uint32_t left;     /* contexts that have not passed, atomic */
    CUresult result;   /* the first failure; under intake */
    uint32_t passed;   /* futex word */
    bool waited;       /* the waiter frees it */
};

/* All work up to this position is over. */
static void
retire(struct fdc_memory *memory, uint64_t position)
{
    uint64_t seen = fdc_load_relaxed(&memory->retired);

    /* pairs with the acquire in fdc_memory_retired() */
    while (seen < position &&
           !__atomic_compare_exchange_n(&memory->retired, &seen, position, true,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        continue;
}

static void
fence_passed(struct fence *fence)
{
    struct fdc_session *session = fence->session;

    if (__atomic_sub_fetch(&fence->left, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    retire(session->memory, fence->result == CUDA_SUCCESS ? fence->position : 0);
    if (fence->waited)
        /* pairs with the load in fdc_intake_until(); the waiter frees it then */
        fdc_store_release(&fence->passed, 1);
    else
        free(fence);
}

static void
fence_done(struct fdc_ticket *ticket)
{
    struct fence *fence = ticket->user;

    /* A context that could not be asked, or is in an error, has told nothing. One that went
     * away meanwhile has no more work. */
    if (ticket->result != CUDA_SUCCESS &&
        ticket->result != CUDA_ERROR_CONTEXT_IS_DESTROYED &&
        fence->result == CUDA_SUCCESS)
        fence->result = (CUresult)ticket->result;
    fdc_ticket_release(fence->session, ticket);
    free(ticket);
    fence_passed(fence);
}

struct contexts {
    struct fdc_session *session;
    struct fdc_context *context[256];
    int count;
};

static void
context_active(void *object, void *user)
{
    struct fdc_context *context = object;
    struct contexts *contexts = user;

    if (context->object.session == contexts->session &&
        fdc_load_acquire(&context->active) && contexts->count < 256)
        contexts->context[contexts->count++] = context;
}

CUresult
fdc_memory_fence(struct fdc_session *session, bool wait)
{
    struct contexts contexts = {.session = session};
    CUresult result = CUDA_SUCCESS;
    struct fdc_req_fdcFence *req;
    struct fdc_ticket *ticket;
    struct fence *fence;
    struct fdc_call call;

    fence = calloc(1, sizeof(*fence));
    if (fence == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    fence->session = session;
    fence->waited = wait;
    fence->left = 1; /* this thread's own, until all are sent */
    /* pairs with the release in commit(), call.c */
    fence->position = fdc_load_acquire(&session->position);
    fdc_object_each(FDC_KIND_CONTEXT, context_active, &contexts);
    for (int i = 0; i < contexts.count && result == CUDA_SUCCESS; i++) {
        result = fdc_call_open_in(&call, session, FDC_ID_fdcFence);
        if (result != CUDA_SUCCESS)
            break;
        ticket = calloc(1, sizeof(*ticket));
        if (ticket == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            break;
        }
        ticket->on_done = fence_done;
        ticket->user = fence;
        result = fdc_ticket_take(session, ticket);
        if (result != CUDA_SUCCESS) {
            free(ticket);
            break;
        }
        call.context = contexts.context[i];
        req = fdc_call_begin(&call, sizeof(*req));
        if (req == NULL) {
            result = call.result;
            fdc_ticket_release(session, ticket);
            free(ticket);
            break;
        }
        __atomic_add_fetch(&fence->left, 1, __ATOMIC_RELAXED);
        result = fdc_call_send_done(&call, ticket);
        if (result != CUDA_SUCCESS) {
            __atomic_sub_fetch(&fence->left, 1, __ATOMIC_RELAXED);
            free(ticket);
        }
    }
    if (result != CUDA_SUCCESS)
        fence->position = 0; /* it has told nothing */
    fence_passed(fence);
    if (!wait)
        return result;
    fdc_link_flush(session->link, FDC_LANE_COMMAND);
    if (fdc_intake_until(session, &fence->passed, 0, -1) == -EPIPE &&
        fdc_load_acquire(&fence->passed) == 0)
        return (CUresult)fdc_load_relaxed(&session->dead); /* it is lost: rare, small */
    if (result == CUDA_SUCCESS)
        result = fence->result;
    free(fence);
    return result;
}

void
fdc_memory_retire(struct fdc_context *context, uint64_t position)
{
    struct fdc_session *session = context->device->session;
    /* pairs with the addition in context.c, before a context can be used */
    if (session->memory == NULL || fdc_load_acquire(&session->contexts) != 1)
        return; /* others may still use the memory: a fence tells */
    retire(session->memory, position);
}

/* ---- what an arena asks of the worker ---- */

static CUresult
grow(void *user, uint64_t address, uint64_t size)
{
    struct fdc_device *device = user;
    struct fdc_req_fdcMemGrow *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open_in(&call, device->session, FDC_ID_fdcMemGrow);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->device = device->remote;
    req->address = address;
    req->size = size;
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

static void
shrink(void *user, uint64_t address)
{
    struct fdc_device *device = user;
    struct fdc_req_fdcMemShrink *req;
    struct fdc_call call;

    if (fdc_call_open_in(&call, device->session, FDC_ID_fdcMemShrink) != CUDA_SUCCESS)
        return;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return;
    req->address = address;
    (void)fdc_call_send(&call);
}

static CUresult
piece(void *user, uint64_t size, uint64_t *base, uint64_t *got)
{
    struct fdc_device *device = user;
    struct fdc_rep_fdcMemPiece rep;
    struct fdc_req_fdcMemPiece *req;
    struct fdc_call call;
    CUresult result;

    for (int tries = 0; tries < 8; tries++) {
        result = fdc_call_open_in(&call, device->session, FDC_ID_fdcMemPiece);
        if (result != CUDA_SUCCESS)
            return result;
        req = fdc_call_begin(&call, sizeof(*req));
        if (req == NULL)
            return call.result;
        req->device = device->remote;
        req->size = size;
        result = fdc_call_wait(&call, &rep, sizeof(rep));
        if (result != CUDA_SUCCESS)
            return result;
        if (rep.got >= size && rep.base + rep.got > rep.base &&
            fdc_place_range(device, rep.base, rep.got) == 0) {
            *base = rep.base;
            *got = rep.got;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static uint64_t
position(void *user)
{
    struct fdc_device *device = user;

    return fdc_load_acquire(&device->session->position);
}

static uint64_t
retired(void *user)
{
    struct fdc_device *device = user;

    return fdc_memory_retired(device->session->memory);
}

static CUresult
fence(void *user, bool wait)
{
    struct fdc_device *device = user;

    return fdc_memory_fence(device->session, wait);
}

/* Other processes of the lease share the slice. */
static bool
company(void *user)
{
    struct fdc_device *device = user;

    return fdc_load_relaxed(&device->session->company) & FDC_COMPANY;
}

const struct fdc_arena_ops fdc_memory_ops = {
    grow, shrink, piece, position, retired, fence, company,
};

CUresult
fdc_memory_arena(struct fdc_device *device, struct fdc_arena **arena)
{
    const struct fdc_snapshot_device *snapshot = device->snapshot;
    struct fdc_memory *memory = device->session->memory;
    struct fdc_arena *made;

    *arena = fdc_load_acquire(&device->arena);
    if (*arena != NULL || snapshot->granularity == 0)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&memory->setup);
    made = device->arena;
    if (made == NULL) {
        made = fdc_arena_new(&fdc_memory_ops, device, snapshot->granularity, snapshot->memory);
        if (made != NULL && snapshot->piece_size != 0 &&
            fdc_place_range(device, snapshot->piece_base, snapshot->piece_size) == 0)
            (void)fdc_arena_add_piece(made, snapshot->piece_base, snapshot->piece_size);
        /* pairs with the acquire above */
        fdc_store_release(&device->arena, made);
    }
    pthread_mutex_unlock(&memory->setup);
    *arena = made;
    return made != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

void
fdc_memory_trim(struct fdc_device *device)
{
    struct fdc_arena *arena = fdc_load_acquire(&device->arena);

    if (arena != NULL)
        fdc_arena_trim(arena, true);
    fdc_managed_trim(device);
}

/* ---- allocation ---- */

/* Without VMM the driver chooses; this process must keep out of those addresses too. */
static CUresult
plain_free(struct fdc_call *call, uint64_t address, struct fdc_device *device,
           uint64_t size)
{
    struct fdc_req_fdcMemFreePlain *req;
    struct fdc_reply reply;

    __atomic_sub_fetch(&device->plain, size, __ATOMIC_RELAXED);
    call->id = FDC_ID_fdcMemFreePlain;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->address = address;
    return fdc_call_wait(call, &reply, sizeof(reply));
}

static CUresult
plain_alloc(struct fdc_call *call, uint64_t size, uint64_t *address)
{
    struct fdc_req_fdcMemAllocPlain *req;
    struct fdc_rep_fdcMemAllocPlain rep;
    CUresult result;
    int err;

    call->id = FDC_ID_fdcMemAllocPlain;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->device = call->context->device->remote;
    req->size = size;
    result = fdc_call_wait(call, &rep, sizeof(rep));
    if (result != CUDA_SUCCESS)
        return result;
    err = fdc_place_range(call->context->device, rep.address, size);
    if (err == -EEXIST &&
        fdc_place_add(rep.address, size,
                      &(struct fdc_place){.where = FDC_NOWHERE,
                                          .device = call->context->device}) == 0) {
        /* Ours already, from an earlier allocation there. */
        fdc_place_del(rep.address);
        err = 0;
    }
    if (err) {
        __atomic_add_fetch(&call->context->device->plain, size, __ATOMIC_RELAXED);
        (void)plain_free(call, rep.address, call->context->device, size);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *address = rep.address;
    return CUDA_SUCCESS;
}

CUresult
fdc_memory_alloc(struct fdc_call *call, uint64_t size, enum fdc_origin origin,
                 uint64_t owner, CUdeviceptr *address)
{
    struct fdc_device *device = call->context->device;
    struct fdc_place place = {
        .where = FDC_DEVICE,
        .origin = origin,
        .owner = owner,
        .device = device,
        .context = call->context,
    };
    struct fdc_arena *arena;
    uint64_t at = 0;
    CUresult result;

    result = fdc_memory_arena(device, &arena);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_intake_poll(call->session);
    if (arena != NULL)
        result = fdc_arena_alloc(arena, size, true, &at);
    if (arena != NULL && result == CUDA_ERROR_OUT_OF_MEMORY &&
        fdc_load_acquire(&call->session->memory->managed) != NULL) {
        fdc_managed_trim(device);
        result = fdc_arena_alloc(arena, size, true, &at);
    }
    if (arena == NULL)
        result = plain_alloc(call, size, &at);
    if (result != CUDA_SUCCESS)
        return result;
    if (arena == NULL && origin == FDC_BY_ALLOC)
        place.origin = FDC_BY_PLAIN;
    if (arena == NULL)
        __atomic_add_fetch(&device->plain, size, __ATOMIC_RELAXED);
    if (fdc_place_add(at, size, &place) != 0) {
        if (arena != NULL)
            (void)fdc_arena_free(arena, at);
        else
            (void)plain_free(call, at, device, size);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *address = at;
    return CUDA_SUCCESS;
}

CUresult
fdc_memory_give(struct fdc_call *call, const struct fdc_place *place)
{
    /* Who takes the place away is who frees: of two threads one is told no. */
    if (fdc_place_del(place->base) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (place->origin == FDC_BY_MANAGED) {
        fdc_managed_free(place->device, place->base, place->size);
        return CUDA_SUCCESS;
    }
    if (place->origin == FDC_BY_POOL)
        fdc_pool_freed(place->owner, place->size);
    if (place->device->arena == NULL) {
        call->session = place->device->session;
        call->context = place->context;
        return plain_free(call, place->base, place->device, place->size);
    }
    return fdc_arena_free(place->device->arena, place->base);
}

CUresult
fdc_memory_free(struct fdc_call *call, CUdeviceptr address)
{
    struct fdc_place place;

    if (!fdc_place_find(address, &place) || place.where != FDC_DEVICE ||
        place.base != address)
        return CUDA_ERROR_INVALID_VALUE;
    if (place.origin == FDC_BY_GRAPH)
        return fdc_graph_memory_free(address);
    if (place.origin != FDC_BY_ALLOC && place.origin != FDC_BY_PLAIN &&
        place.origin != FDC_BY_POOL && place.origin != FDC_BY_MANAGED)
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_memory_give(call, &place);
}

FDC_EXPORT CUresult
cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMemGrow,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (dptr == NULL || bytesize == 0)
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_memory_alloc(&call, bytesize, FDC_BY_ALLOC, 0, dptr);
}

FDC_EXPORT CUresult
cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes,
                   size_t Height, unsigned int ElementSizeBytes)
{
    size_t pitch = FDC_ALIGN_UP(WidthInBytes, (size_t)512), size;
    CUresult result;

    if (dptr == NULL || pPitch == NULL || WidthInBytes == 0 || Height == 0 ||
        (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16))
        return CUDA_ERROR_INVALID_VALUE;
    if (pitch < WidthInBytes || __builtin_mul_overflow(pitch, Height, &size))
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = cuMemAlloc_v2(dptr, size);
    if (result == CUDA_SUCCESS)
        *pPitch = pitch;
    return result;
}

FDC_EXPORT CUresult
cuMemFree_v2(CUdeviceptr dptr)
{
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcMemShrink, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS || dptr == 0)
        return result;
    result = fdc_capture_guard();
    if (result != CUDA_SUCCESS)
        return result;
    return fdc_memory_free(&call, dptr);
}

uint64_t
fdc_memory_used(struct fdc_device *device)
{
    struct fdc_arena *arena = fdc_load_acquire(&device->arena);
    struct fdc_arena_info info = {0};

    if (arena == NULL)
        return fdc_load_relaxed(&device->plain);
    fdc_arena_stat(arena, &info);
    return info.used + fdc_managed_used(device);
}

#define UNSURE 0x10000u          /* no word of company's */

/* What the lease has there that this library does not know of: asked for while others are
 * attached, else only where it has changed. */
static CUresult
beside_of(struct fdc_call *call, struct fdc_device *device, uint64_t *bytes)
{
    uint16_t company = fdc_load_relaxed(&device->session->company);
    struct fdc_rep_fdcMemBeside reply;
    struct fdc_req_fdcMemBeside *req;
    CUresult result;

    *bytes = fdc_load_relaxed(&device->beside);
    if (!(company & FDC_COMPANY) && fdc_load_relaxed(&device->beside_at) == company)
        return CUDA_SUCCESS;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->device = device->remote;
    result = fdc_call_wait(call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS)
        return result;
    *bytes = reply.bytes;
    fdc_store_relaxed(&device->beside, reply.bytes);
    /* Under what we knew when we asked: if that has changed, we ask again. */
    fdc_store_relaxed(&device->beside_at, company);
    return CUDA_SUCCESS;
}

void
fdc_memory_unsure(struct fdc_session *session)
{
    uint16_t company = fdc_load_relaxed(&session->company);

    for (int i = 0; i < session->devices; i++) {
        struct fdc_device *device = &session->device[i];

        if (fdc_load_relaxed(&device->beside) != 0 ||
            fdc_load_relaxed(&device->beside_at) != company)
            fdc_store_relaxed(&device->beside_at, UNSURE);
    }
}

FDC_EXPORT CUresult
cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    struct fdc_device *device;
    struct fdc_arena *arena;
    struct fdc_call call;
    CUresult result;
    uint64_t used, beside = 0;

    result = fdc_call_open(&call, FDC_ID_fdcMemBeside, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (free_bytes == NULL || total == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    device = call.context->device;
    fdc_intake_poll(call.session);
    result = fdc_memory_arena(device, &arena);
    if (result != CUDA_SUCCESS)
        return result;
    result = beside_of(&call, device, &beside);
    if (result != CUDA_SUCCESS)
        return result;
    used = fdc_memory_used(device) + beside;
    *total = device->snapshot->memory;
    *free_bytes = used < *total ? *total - used : 0;
    return CUDA_SUCCESS;
}

/* ---- the end of a context ---- */

struct gone {
    struct fdc_context *context;
    CUdeviceptr address[64];
    uint64_t size[64];
    enum fdc_origin origin[64];
    int count;
};

/* Places of the context: its allocations are collected, the rest is forgotten. */
static bool
is_gone(const struct fdc_place *place, void *user)
{
    struct gone *gone = user;

    if (place->context != gone->context || !fdc_place_reached(place))
        return false;
    if (place->origin == FDC_BY_CODE)
        return true;
    if ((place->origin == FDC_BY_ALLOC || place->origin == FDC_BY_PLAIN ||
         place->origin == FDC_BY_POOL || place->origin == FDC_BY_HOST_ALLOC ||
         place->origin == FDC_BY_MANAGED) &&
        gone->count < 64) {
        gone->origin[gone->count] = place->origin;
        gone->address[gone->count] = place->base;
        gone->size[gone->count++] = place->size;
        return true;
    }
    return false;
}

void
fdc_memory_context_gone(struct fdc_context *context)
{
    struct fdc_device *device = context->device;
    struct gone gone = {.context = context};
    struct fdc_call call;

    if (device->session->memory == NULL)
        return;
    do {
        gone.count = 0;
        fdc_place_sweep(is_gone, &gone);
        for (int i = 0; i < gone.count; i++) {
            if (gone.origin[i] == FDC_BY_HOST_ALLOC)
                fdc_shared_free(device->session, gone.address[i]);
            else if (gone.origin[i] == FDC_BY_MANAGED)
                fdc_managed_free(device, gone.address[i], gone.size[i]);
            else if (device->arena != NULL)
                (void)fdc_arena_free(device->arena, gone.address[i]);
            else if (fdc_call_open_in(&call, device->session,
                                      FDC_ID_fdcMemFreePlain) == CUDA_SUCCESS)
                (void)plain_free(&call, gone.address[i], device, gone.size[i]);
        }
    } while (gone.count == 64);
}
