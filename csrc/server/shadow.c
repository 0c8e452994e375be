/*
 * Shadows: memory of the worker's that stands for ranges of the client's in copies of
 * graphs. A graph's copy node has one end in a shadow; at each replay the bytes that such
 * copies read are put there first, and those that they wrote are given to the client
 * afterwards (replay.c). Shadows are registered with the driver where it takes them, and
 * kept for the next one of their size: nothing here may wait for the device. They count as
 * pinned host memory of the session, and kept ones go when that is short.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "server/graph.h"
#include "server_hooks.h"

#define ROOM_MIN 4096ull
#define ROOM_MAX (1ull << 47)

struct fdc_shadows {
    pthread_mutex_t lock; /* a leaf */
    struct fdc_shadow *live, *spare;
};

struct fdc_shadows *
fdc_shadows_new(void)
{
    struct fdc_shadows *shadows = calloc(1, sizeof(*shadows));

    if (shadows != NULL)
        pthread_mutex_init(&shadows->lock, NULL);
    return shadows;
}

static void
list_free(struct fdc_shadow *shadow)
{
    struct fdc_shadow *next;

    for (; shadow != NULL; shadow = next) {
        next = shadow->next;
        munmap(shadow->bytes, shadow->room);
        free(shadow->last); /* its driver event went with its context */
        free(shadow);
    }
}

void
fdc_shadows_free(struct fdc_serve *serve)
{
    struct fdc_shadows *shadows = serve->shadows;

    if (shadows == NULL)
        return;
    list_free(shadows->live);
    list_free(shadows->spare);
    pthread_mutex_destroy(&shadows->lock);
    free(shadows);
    serve->shadows = NULL;
}

bool
fdc_shadows_any(struct fdc_serve *serve)
{
    return fdc_load_relaxed(&serve->shadows->live) != NULL;
}

/* Under the lock: a spare one of this room, out of the list. */
static struct fdc_shadow *
take_spare(struct fdc_shadows *shadows, uint64_t room)
{
    struct fdc_shadow **link, *shadow;

    for (link = &shadows->spare; *link != NULL; link = &(*link)->next)
        if ((*link)->room == room)
            break;
    shadow = *link;
    if (shadow != NULL)
        *link = shadow->next;
    return shadow;
}

static struct fdc_shadow *
map(struct fdc_serve *serve, uint64_t room)
{
    struct fdc_shadow *shadow = calloc(1, sizeof(*shadow));
    struct fdc_ctx *ctx = fdc_context_here();

    if (shadow == NULL)
        return NULL;
    shadow->bytes =
        mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (shadow->bytes == MAP_FAILED) {
        free(shadow);
        return NULL;
    }
    shadow->room = room;
    /* Copies are only slower without. */
    if (ctx != NULL && FDC_HAS(serve->driver, cuMemHostRegister_v2) &&
        serve->driver->cuMemHostRegister_v2(
            shadow->bytes, room, CU_MEMHOSTREGISTER_PORTABLE) == CUDA_SUCCESS) {
        shadow->ctx = ctx;
        shadow->epoch = ctx->opened;
    }
    return shadow;
}

/* Whether no replay is using it still, as one may whose end could not be told. Under
 * context_lock. */
static bool
is_quiet(struct fdc_serve *serve, const struct fdc_shadow *shadow)
{
    const struct fdc_mark *last = shadow->last;

    return last == NULL || !fdc_load_relaxed(&last->ctx->open) ||
           last->epoch != last->ctx->opened ||
           serve->driver->cuEventQuery(last->event) == CUDA_SUCCESS;
}

/* Under context_lock: the context that it is registered in does not end meanwhile. */
static void
let_go(struct fdc_serve *serve, struct fdc_shadow *shadow)
{
    struct fdc_ctx *ctx = shadow->ctx;

    if (ctx != NULL && fdc_load_relaxed(&ctx->open) && ctx->opened == shadow->epoch &&
        fdc_context_use_ctx(serve, ctx) == CUDA_SUCCESS)
        serve->driver->cuMemHostUnregister(shadow->bytes);
    if (shadow->last != NULL)
        fdc_mark_put(shadow->last);
    munmap(shadow->bytes, shadow->room);
    fdc_host_refund(serve, shadow->room);
    free(shadow);
}

void
fdc_shadows_trim(struct fdc_serve *serve)
{
    struct fdc_shadows *shadows = serve->shadows;
    struct fdc_ctx *here = fdc_context_here();
    struct fdc_shadow *kept, *next;

    fdc_context_lock(serve);
    pthread_mutex_lock(&shadows->lock);
    kept = shadows->spare;
    shadows->spare = NULL;
    pthread_mutex_unlock(&shadows->lock);
    for (; kept != NULL; kept = next) {
        next = kept->next;
        if (is_quiet(serve, kept)) {
            let_go(serve, kept);
            continue;
        }
        pthread_mutex_lock(&shadows->lock);
        kept->next = shadows->spare;
        shadows->spare = kept;
        pthread_mutex_unlock(&shadows->lock);
    }
    if (here != NULL)
        (void)fdc_context_use_ctx(serve, here);
    pthread_mutex_unlock(&serve->context_lock);
}

/* One of this room: a kept one, or new. */
static CUresult
get(struct fdc_serve *serve, uint64_t room, struct fdc_shadow **got)
{
    struct fdc_shadows *shadows = serve->shadows;
    CUresult result;

    pthread_mutex_lock(&shadows->lock);
    *got = take_spare(shadows, room);
    pthread_mutex_unlock(&shadows->lock);
    if (*got != NULL)
        return CUDA_SUCCESS;
    result = fdc_host_charge(serve, room);
    if (result != CUDA_SUCCESS)
        return result;
    *got = map(serve, room);
    if (*got != NULL)
        return CUDA_SUCCESS;
    fdc_host_refund(serve, room);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult
shadow_new(struct fdc_serve *serve, uint64_t handle, uint64_t size)
{
    struct fdc_shadows *shadows = serve->shadows;
    struct fdc_shadow *shadow;
    uint64_t room = ROOM_MIN;
    CUresult result;

    if (size == 0 || size > ROOM_MAX)
        return size == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
    while (room < size)
        room *= 2;
    result = get(serve, room, &shadow);
    if (result != CUDA_SUCCESS)
        return result;
    shadow->refs = 1;
    shadow->size = size;
    shadow->handle = handle;
    result = fdc_handle_put(serve, FDC_KIND_SHADOW, handle, shadow, 0);
    pthread_mutex_lock(&shadows->lock);
    shadow->next = result == CUDA_SUCCESS ? shadows->live : shadows->spare;
    if (result == CUDA_SUCCESS)
        fdc_store_release(&shadows->live, shadow);
    else
        shadows->spare = shadow;
    pthread_mutex_unlock(&shadows->lock);
    return result;
}

void
fdc_shadow_put(struct fdc_serve *serve, struct fdc_shadow *shadow)
{
    struct fdc_shadows *shadows = serve->shadows;
    struct fdc_shadow **link;

    pthread_mutex_lock(&shadows->lock);
    if (--shadow->refs == 0) {
        for (link = &shadows->live; *link != shadow; link = &(*link)->next)
            ;
        *link = shadow->next;
        shadow->next = shadows->spare;
        shadows->spare = shadow;
    }
    pthread_mutex_unlock(&shadows->lock);
}

struct fdc_shadow *
fdc_shadow_find(struct fdc_serve *serve, uint64_t handle)
{
    void *value = NULL;

    return fdc_handle_get(serve, FDC_KIND_SHADOW, handle, &value) == CUDA_SUCCESS
               ? value
               : NULL;
}

struct fdc_shadow *
fdc_shadow_at(struct fdc_serve *serve, const void *at)
{
    struct fdc_shadows *shadows = serve->shadows;
    struct fdc_shadow *shadow;

    pthread_mutex_lock(&shadows->lock);
    for (shadow = shadows->live; shadow != NULL; shadow = shadow->next)
        if ((const uint8_t *)at >= shadow->bytes &&
            (const uint8_t *)at < shadow->bytes + shadow->size)
            break;
    if (shadow != NULL)
        shadow->refs++;
    pthread_mutex_unlock(&shadows->lock);
    return shadow;
}

/* ---- the calls ---- */

int
fdc_server_call_fdcShadowNew(struct fdc_request *request,
                             const struct fdc_req_fdcShadowNew *req)
{
    fdc_request_answer(request, shadow_new(request->serve, req->shadow, req->size), NULL,
                       0);
    return 0;
}

int
fdc_server_call_fdcShadowDrop(struct fdc_request *request,
                              const struct fdc_req_fdcShadowDrop *req)
{
    void *shadow = NULL;
    CUresult result;

    result = fdc_handle_drop(request->serve, FDC_KIND_SHADOW, req->shadow, &shadow);
    if (result == CUDA_SUCCESS)
        fdc_shadow_put(request->serve, shadow);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static CUresult
part(struct fdc_serve *serve, uint64_t handle, uint64_t offset, uint64_t size,
     uint8_t **bytes)
{
    struct fdc_shadow *shadow = fdc_shadow_find(serve, handle);

    if (shadow == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (offset > shadow->size || size > shadow->size - offset)
        return CUDA_ERROR_INVALID_VALUE;
    *bytes = shadow->bytes + offset;
    return CUDA_SUCCESS;
}

int
fdc_server_call_fdcShadowRead(struct fdc_request *request,
                              const struct fdc_req_fdcShadowRead *req)
{
    void *view = fdc_request_chunk(request, FDC_REGION_DOWN, req->chunk);
    struct fdc_serve *serve = request->serve;
    uint8_t *bytes;
    CUresult result;

    if (view == NULL)
        return -EPROTO;
    result = part(serve, req->shadow, req->offset, req->chunk.size, &bytes);
    if (result == CUDA_SUCCESS) {
        memcpy(view, bytes, req->chunk.size);
        fdc_request_put(request, req->chunk);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcShadowWrite(struct fdc_request *request,
                               const struct fdc_req_fdcShadowWrite *req)
{
    const void *from = fdc_request_span(request, req->bytes);
    uint8_t *bytes;
    CUresult result;

    if (from == NULL || req->bytes.size != req->size)
        return -EPROTO;
    result = part(request->serve, req->shadow, req->offset, req->size, &bytes);
    if (result == CUDA_SUCCESS) {
        memcpy(bytes, from, req->size);
        fdc_count(request->serve, up_bytes, req->size);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
