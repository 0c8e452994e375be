/*
 * Bytes that go between the program's memory and the worker's beside the streams: for
 * managed and mirrored memory. A push is over before any later message is served, a
 * pull gives what is there when it is asked for. Neither needs a thread's context, and
 * both may be used in the handler of a fault.
 *
 * Both are called with locks that a host function may need, and the regions may be full
 * of copies that wait for that function: so nothing here waits for room in them.
 */
#include <string.h>

#include "managed.h"

#define FERRY_CHUNK (64u << 10)

CUresult
fdc_ferry_setup(struct fdc_session *session)
{
    struct fdc_memory *memory = session->memory;

    return memory->ferry_chunk.size != 0
               ? CUDA_SUCCESS
               : fdc_stage_alloc(session, FDC_REGION_DOWN, FERRY_CHUNK,
                                 &memory->ferry_chunk);
}

struct found {
    const struct fdc_device *device;
    struct fdc_context *context;
};

static void
active_on(void *object, void *user)
{
    struct fdc_context *context = object;
    struct found *found = user;

    if (context->device == found->device && fdc_load_acquire(&context->active))
        found->context = context;
}

CUresult
fdc_ferry_call(const struct fdc_device *device, uint16_t id, struct fdc_call *call)
{
    struct found found = {.device = device};
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    fdc_object_each(FDC_KIND_CONTEXT, active_on, &found);
    if (found.context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    memset(call, 0, sizeof(*call));
    call->session = device->session;
    call->context = found.context;
    call->id = id;
    return CUDA_SUCCESS;
}

static CUresult
push_small(const struct fdc_device *device, uint64_t to, const void *bytes,
           uint32_t size, bool wait)
{
    struct fdc_req_fdcPushInline *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_ferry_call(device, FDC_ID_fdcPushInline, &call);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, (uint32_t)sizeof(*req) + FDC_ALIGN_UP(size, 8u));
    if (req == NULL)
        return call.result;
    req->dst = to;
    req->bytes = (struct fdc_span){sizeof(*req), size};
    req->size = size;
    memcpy(req + 1, bytes, size);
    return wait ? fdc_call_wait(&call, &reply, sizeof(reply)) : fdc_call_send(&call);
}

/* NOT_READY: there is no room for it now. */
static CUresult
push_piece(const struct fdc_device *device, uint64_t to, const void *bytes,
           uint64_t size)
{
    struct fdc_session *session = device->session;
    struct fdc_req_fdcPush *req;
    struct fdc_ticket *ticket;
    struct fdc_chunk chunk;
    struct fdc_call call;
    CUresult result;
    uint64_t put;
    int err;

    result = fdc_ferry_call(device, FDC_ID_fdcPush, &call);
    if (result == CUDA_SUCCESS)
        result = fdc_up_try(session, size, &chunk, &ticket);
    if (result != CUDA_SUCCESS)
        return result;
    err = fdc_link_put(session->link, FDC_REGION_UP, chunk.offset, bytes, size, &put);
    req = err == 0 ? fdc_call_begin(&call, sizeof(*req)) : NULL;
    if (req == NULL) {
        fdc_up_cancel(session, ticket);
        return err ? fdc_result(err) : call.result;
    }
    req->dst = to;
    req->chunk = chunk;
    fdc_call_uses_put(&call, put);
    result = fdc_call_send_done(&call, ticket);
    if (result != CUDA_SUCCESS)
        fdc_up_cancel(session, ticket);
    return result;
}

/* With wait the last message has an answer, which all that went before it precedes. */
CUresult
fdc_ferry_push(const struct fdc_device *device, uint64_t to, const void *from,
               uint64_t size, bool wait)
{
    const char *bytes = from;
    CUresult result = CUDA_SUCCESS;

    __atomic_add_fetch(&device->session->moved, size, __ATOMIC_RELAXED);
    while (size > FDC_INLINE_MAX && result == CUDA_SUCCESS) {
        uint64_t part = size < FDC_PIECE_MAX ? size : FDC_PIECE_MAX;

        if (wait && part == size)
            part -= FDC_INLINE_MAX / 4;
        result = push_piece(device, to, bytes, part);
        if (result == CUDA_ERROR_NOT_READY) {
            part = FDC_INLINE_MAX;
            result = push_small(device, to, bytes, FDC_INLINE_MAX, false);
        }
        to += part;
        bytes += part;
        size -= part;
    }
    if (size > 0 && result == CUDA_SUCCESS)
        result = push_small(device, to, bytes, (uint32_t)size, wait);
    return result;
}

static CUresult
pull_piece(const struct fdc_device *device, uint64_t from, const struct fdc_chunk *chunk)
{
    struct fdc_req_fdcPull *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_ferry_call(device, FDC_ID_fdcPull, &call);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->src = from;
    req->chunk = *chunk;
    req->after = 0;
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

CUresult
fdc_ferry_pull(const struct fdc_device *device, uint64_t from, uint64_t size,
               void (*take)(void *user, const void *bytes, uint64_t size), void *user)
{
    struct fdc_session *session = device->session;
    struct fdc_memory *memory = session->memory;
    CUresult result = CUDA_SUCCESS;
    struct fdc_chunk chunk;

    __atomic_add_fetch(&session->moved, size, __ATOMIC_RELAXED);
    while (size > 0 && result == CUDA_SUCCESS) {
        uint64_t part = size < FDC_PIECE_MAX ? size : FDC_PIECE_MAX;
        bool room = fdc_stage_try(session, FDC_REGION_DOWN, part, &chunk);

        if (!room) {
            pthread_mutex_lock(&memory->ferry_lock);
            chunk = memory->ferry_chunk;
            if (chunk.size > part)
                chunk.size = part;
            part = chunk.size;
        }
        result = pull_piece(device, from, &chunk);
        __atomic_add_fetch(&session->taken, part, __ATOMIC_RELAXED);
        if (result == CUDA_SUCCESS)
            take(user, fdc_stage_at(session, FDC_REGION_DOWN, &chunk), part);
        if (room)
            fdc_stage_free(session, FDC_REGION_DOWN, &chunk);
        else
            pthread_mutex_unlock(&memory->ferry_lock);
        from += part;
        size -= part;
    }
    return result;
}

/* ---- waiting for the device ---- */

struct everywhere {
    const struct fdc_session *session;
    struct fdc_context *context[64];
    int count;
};

static void
active_in(void *object, void *user)
{
    struct fdc_context *context = object;
    struct everywhere *all = user;

    if (context->object.session == all->session && all->count < 64 &&
        fdc_load_acquire(&context->active))
        all->context[all->count++] = context;
}

CUresult
fdc_ferry_wait(struct fdc_session *session, uint64_t *position)
{
    struct everywhere all = {.session = session};
    CUresult result = CUDA_SUCCESS, now;
    struct fdc_req_fdcPull *req;
    struct fdc_reply reply;

    *position = 0;
    fdc_object_each(FDC_KIND_CONTEXT, active_in, &all);
    for (int i = 0; i < all.count; i++) {
        struct fdc_call call = {
            .session = session, .context = all.context[i], .id = FDC_ID_fdcPull};

        req = fdc_call_begin(&call, sizeof(*req));
        if (req == NULL)
            return call.result;
        req->src = 0;
        req->chunk = (struct fdc_chunk){0, 0};
        req->after = 1;
        now = fdc_call_wait(&call, &reply, sizeof(reply));
        if (result == CUDA_SUCCESS)
            result = now;
        if (i == 0)
            *position = call.position;
    }
    return result;
}
