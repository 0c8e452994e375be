/*
 * The client's handles: (kind, generation, index) packed in 64 bits, looked up in one flat
 * table a kind. A wrong kind, a stale generation or an index out of range is
 * CUDA_ERROR_INVALID_HANDLE, never an address. Look-ups take no lock: a slot's state is
 * written last when it is filled, first when it is emptied, and read twice.
 */
#include "server/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { IN_USE = 0x10000 };

int
fdc_handles_new(struct fdc_serve *serve)
{
    serve->slots = calloc(FDC_KINDS, sizeof(*serve->slots));
    if (serve->slots == NULL)
        return -ENOMEM;
    for (int kind = 0; kind < FDC_KINDS; kind++)
        pthread_mutex_init(&serve->slots[kind].lock, NULL);
    return 0;
}

void
fdc_handles_free(struct fdc_serve *serve)
{
    if (serve->slots == NULL)
        return;
    for (int kind = 0; kind < FDC_KINDS; kind++) {
        for (uint32_t i = 0; i < FDC_TABLE_CHUNKS; i++)
            free(serve->slots[kind].chunk[i]);
        pthread_mutex_destroy(&serve->slots[kind].lock);
    }
    free(serve->slots);
    serve->slots = NULL;
}

struct fdc_slot *
fdc_slot_at(struct fdc_serve *serve, int kind, uint32_t index)
{
    struct fdc_slot *chunk;

    if (kind <= 0 || kind >= FDC_KINDS || index == 0 ||
        index >= FDC_TABLE_CHUNK * FDC_TABLE_CHUNKS)
        return NULL;
    /* pairs with the release in slot_make() */
    chunk = fdc_load_acquire(&serve->slots[kind].chunk[index / FDC_TABLE_CHUNK]);
    return chunk ? &chunk[index % FDC_TABLE_CHUNK] : NULL;
}

/* Whether the value is well formed for this kind; its index and the state of its slot. */
static bool
parse(int kind, uint64_t handle, uint32_t *index, uint32_t *state)
{
    *index = FDC_HANDLE_INDEX(handle);
    *state = IN_USE | (uint32_t)(handle >> 24 & 0xffff);
    return kind > 0 && kind < FDC_KINDS && *index != 0 &&
           handle == FDC_HANDLE(kind, handle >> 24, *index);
}

struct fdc_slot *
fdc_slot_find(struct fdc_serve *serve, int kind, uint64_t handle)
{
    struct fdc_slot *slot;
    uint32_t index, state;

    if (!parse(kind, handle, &index, &state))
        return NULL;
    slot = fdc_slot_at(serve, kind, index);
    /* pairs with the releases in fdc_handle_put_aux() and fdc_slot_empty() */
    if (slot == NULL || fdc_load_acquire(&slot->state) != state)
        return NULL;
    return slot;
}

/* The slot, made if it is not there. Under the table's lock. */
static struct fdc_slot *
slot_make(struct fdc_slots *slots, uint32_t index)
{
    struct fdc_slot **place = &slots->chunk[index / FDC_TABLE_CHUNK];
    struct fdc_slot *chunk = *place;

    if (chunk == NULL) {
        chunk = calloc(FDC_TABLE_CHUNK, sizeof(*chunk));
        if (chunk == NULL)
            return NULL;
        fdc_store_release(place, chunk);        /* pairs with fdc_slot_at() */
    }
    return &chunk[index % FDC_TABLE_CHUNK];
}

void
fdc_slot_empty(struct fdc_slot *slot)
{
    fdc_store_release(&slot->state, 0);         /* pairs with fdc_slot_find() */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    __atomic_store_n(&slot->value, NULL, __ATOMIC_RELAXED);
    fdc_store_release(&slot->aux, NULL);
}

CUresult
fdc_handle_put_aux(struct fdc_serve *serve, int kind, uint64_t handle, void *value,
                   void *aux, uint32_t ctx)
{
    CUresult result = CUDA_ERROR_INVALID_HANDLE;
    struct fdc_slots *slots;
    struct fdc_slot *slot;
    uint32_t index, state;

    if (!parse(kind, handle, &index, &state))
        return CUDA_ERROR_INVALID_HANDLE;
    slots = &serve->slots[kind];
    pthread_mutex_lock(&slots->lock);
    slot = slot_make(slots, index);
    if (slot == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else if (slot->state == 0) {
        __atomic_store_n(&slot->value, value, __ATOMIC_RELAXED);
        fdc_store_release(&slot->aux, aux);     /* pairs with fdc_slot_aux() */
        slot->ctx = ctx;
        slot->work = 0;
        slot->ordered = 0;
        fdc_store_release(&slot->state, state); /* pairs with fdc_slot_find() */
        if (index >= slots->high)
            slots->high = index + 1;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&slots->lock);
    return result;
}

CUresult
fdc_handle_swap(struct fdc_serve *serve, int kind, uint64_t handle, void *value, void *aux)
{
    struct fdc_slots *slots = &serve->slots[kind];
    struct fdc_slot *slot;

    pthread_mutex_lock(&slots->lock);
    slot = fdc_slot_find(serve, kind, handle);
    if (slot != NULL) {
        __atomic_store_n(&slot->value, value, __ATOMIC_RELAXED);
        fdc_store_release(&slot->aux, aux);     /* pairs with fdc_slot_aux() */
    }
    pthread_mutex_unlock(&slots->lock);
    return slot != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult
fdc_handle_put(struct fdc_serve *serve, int kind, uint64_t handle, void *value, uint32_t ctx)
{
    return fdc_handle_put_aux(serve, kind, handle, value, NULL, ctx);
}

CUresult
fdc_handle_get(struct fdc_serve *serve, int kind, uint64_t handle, void **value)
{
    struct fdc_slot *slot;
    uint32_t state;
    void *got;

    if (kind == FDC_KIND_STREAM)
        return fdc_handle_stream(serve, handle, (CUstream *)value);
    slot = fdc_slot_find(serve, kind, handle);
    if (slot == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    state = IN_USE | (uint32_t)(handle >> 24 & 0xffff);
    got = __atomic_load_n(&slot->value, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);    /* pairs with the fence in fdc_slot_empty() */
    if (fdc_load_relaxed(&slot->state) != state)
        return CUDA_ERROR_INVALID_HANDLE;
    *value = got;
    return CUDA_SUCCESS;
}

/* A stream's last work is remembered before its slot goes: a later synchronise of the
 * context waits for it. */
static void
settle_stream(struct fdc_serve *serve, const struct fdc_slot *slot)
{
    struct fdc_ctx *ctx = fdc_context_at(serve, slot->ctx);

    if (ctx != NULL && fdc_load_relaxed(&slot->work) && slot->value != NULL &&
        !fdc_stream_is_capturing(serve, slot->value))
        fdc_context_join(ctx, slot->value);
}

CUresult
fdc_handle_drop_aux(struct fdc_serve *serve, int kind, uint64_t handle, void **value,
                    void **aux)
{
    CUresult result = CUDA_ERROR_INVALID_HANDLE;
    struct fdc_slot *slot;
    uint32_t index, state;

    if (!parse(kind, handle, &index, &state))
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&serve->slots[kind].lock);
    slot = fdc_slot_at(serve, kind, index);
    if (slot != NULL && slot->state == state) {
        if (kind == FDC_KIND_STREAM)
            settle_stream(serve, slot);
        if (value != NULL)
            *value = slot->value;
        if (aux != NULL)
            *aux = slot->aux;
        fdc_slot_empty(slot);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&serve->slots[kind].lock);
    return result;
}

uint64_t
fdc_handle_of(struct fdc_serve *serve, int kind, const void *value)
{
    struct fdc_slots *slots = &serve->slots[kind];
    uint64_t handle = 0;

    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high && handle == 0; i++) {
        struct fdc_slot *slot = fdc_slot_at(serve, kind, i);

        if (slot != NULL && slot->state != 0 && slot->value == value)
            handle = FDC_HANDLE(kind, slot->state & 0xffff, i);
    }
    pthread_mutex_unlock(&slots->lock);
    return handle;
}

CUresult
fdc_handle_drop(struct fdc_serve *serve, int kind, uint64_t handle, void **value)
{
    return fdc_handle_drop_aux(serve, kind, handle, value, NULL);
}

static __attribute__((noinline)) void
gets_work(struct fdc_serve *serve, struct fdc_slot *slot)
{
    struct fdc_ctx *ctx = fdc_context_at(serve, slot->ctx);

    __atomic_store_n(&slot->work, 1, __ATOMIC_RELAXED);
    if (ctx != NULL)
        fdc_context_stir(ctx);
}

/* work: it is given some. */
static CUresult
stream_of(struct fdc_serve *serve, uint64_t handle, bool work, CUstream *value)
{
    struct fdc_slot *slot;
    void *got;

    if (handle == 1) {
        struct fdc_ctx *ctx = fdc_context_here();

        if (work && ctx != NULL && !fdc_load_relaxed(&ctx->legacy_work))
            __atomic_store_n(&ctx->legacy_work, 1, __ATOMIC_RELAXED);
        *value = CU_STREAM_LEGACY;
        if (FDC_UNLIKELY(serve->meter != NULL))
            fdc_meter_enter(serve, CU_STREAM_LEGACY);
        if (ctx != NULL && FDC_UNLIKELY(fdc_load_acquire(&serve->ordered) != ctx->ordered))
            return fdc_order_follow(serve, CU_STREAM_LEGACY, &ctx->ordered);
        return CUDA_SUCCESS;
    }
    slot = fdc_slot_find(serve, FDC_KIND_STREAM, handle);
    if (slot == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    got = __atomic_load_n(&slot->value, __ATOMIC_RELAXED);
    if (work && !fdc_load_relaxed(&slot->work))
        gets_work(serve, slot);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);    /* pairs with the fence in fdc_slot_empty() */
    if (fdc_load_relaxed(&slot->state) != (IN_USE | (uint32_t)(handle >> 24 & 0xffff)))
        return CUDA_ERROR_INVALID_HANDLE;
    *value = got;
    if (FDC_UNLIKELY(serve->meter != NULL))
        fdc_meter_enter(serve, got);
    /* pairs with the release in fdc_order_copied() */
    if (FDC_UNLIKELY(fdc_load_acquire(&serve->ordered) != fdc_load_relaxed(&slot->ordered)))
        return fdc_order_follow(serve, got, &slot->ordered);
    return CUDA_SUCCESS;
}

CUresult
fdc_handle_stream(struct fdc_serve *serve, uint64_t handle, CUstream *value)
{
    return stream_of(serve, handle, true, value);
}

CUresult
fdc_handle_stream_asked(struct fdc_serve *serve, uint64_t handle, CUstream *value)
{
    return stream_of(serve, handle, false, value);
}

static void
sweep(struct fdc_serve *serve, int kind, uint32_t ctx, bool later,
      void (*fn)(struct fdc_serve *serve, void *value, void *aux))
{
    struct fdc_slots *slots = &serve->slots[kind];
    uint32_t high;

    pthread_mutex_lock(&slots->lock);
    high = slots->high;
    pthread_mutex_unlock(&slots->lock);
    for (uint32_t i = 1; i < high; i++) {
        struct fdc_slot *slot;
        void *value = NULL, *aux = NULL;
        bool live = false;

        if (slots->chunk[i / FDC_TABLE_CHUNK] == NULL)
            continue;
        pthread_mutex_lock(&slots->lock);
        slot = fdc_slot_at(serve, kind, i);
        if (slot != NULL && slot->state != 0 && (ctx == 0 || slot->ctx == ctx)) {
            live = true;
            value = slot->value;
            aux = slot->aux;
            fdc_slot_empty(slot);
        }
        pthread_mutex_unlock(&slots->lock);
        if (live && later)
            fdc_retire(serve, value, aux, fn);
        else if (live && fn != NULL)
            fn(serve, value, aux);
    }
}

void
fdc_handle_sweep(struct fdc_serve *serve, int kind, uint32_t ctx,
                 void (*fn)(struct fdc_serve *serve, void *value, void *aux))
{
    sweep(serve, kind, ctx, false, fn);
}

void
fdc_handle_retire(struct fdc_serve *serve, int kind, uint32_t ctx,
                  void (*fn)(struct fdc_serve *serve, void *value, void *aux))
{
    sweep(serve, kind, ctx, true, fn);
}

void
fdc_handle_sweep_aux(struct fdc_serve *serve, int kind, const void *aux)
{
    struct fdc_slots *slots = &serve->slots[kind];

    pthread_mutex_lock(&slots->lock);
    for (uint32_t i = 1; i < slots->high; i++) {
        struct fdc_slot *slot = fdc_slot_at(serve, kind, i);

        if (slot != NULL && slot->state != 0 && slot->aux == aux)
            fdc_slot_empty(slot);
    }
    pthread_mutex_unlock(&slots->lock);
}

/* ---- the end of the session ---- */

static void
end_graph(struct fdc_serve *serve, void *value, void *aux)
{
    if (aux == NULL)                    /* else it is inside a node of another */
        serve->driver->cuGraphDestroy(value);
}

static void
end_event(struct fdc_serve *serve, void *value, void *aux)
{
    (void)serve;
    (void)value;
    fdc_event_box_put(aux);
}

static void
end_stream(struct fdc_serve *serve, void *value, void *aux)
{
    (void)aux;
    serve->driver->cuStreamDestroy_v2(value);
}

static void
end_module(struct fdc_serve *serve, void *value, void *aux)
{
    serve->driver->cuModuleUnload(value);
    fdc_code_free(aux);
}

static void
end_library(struct fdc_serve *serve, void *value, void *aux)
{
    serve->driver->cuLibraryUnload(value);
    fdc_code_free(aux);
}

void
fdc_handles_cleanup(struct fdc_serve *serve)
{
    static const struct {
        int kind;
        void (*end)(struct fdc_serve *serve, void *value, void *aux);
    } order[] = {
        { FDC_KIND_GRAPH_EXEC, fdc_exec_end }, { FDC_KIND_GRAPH, end_graph },
        { FDC_KIND_EVENT, end_event },     { FDC_KIND_STREAM, end_stream },
        { FDC_KIND_ARRAY, fdc_arrays_end },     { FDC_KIND_MIPMAP, fdc_mipmaps_end },
        { FDC_KIND_MODULE, end_module },   { FDC_KIND_LIBRARY, end_library },
    };
    struct fdc_mark *mark;

    /* What runs is waited for first, each context with its own. */
    for (struct fdc_ctx *ctx = serve->contexts; ctx != NULL; ctx = ctx->next) {
        if (!fdc_load_relaxed(&ctx->open) ||
            fdc_context_use_ctx(serve, ctx) != CUDA_SUCCESS)
            continue;
        if (fdc_mark_all(ctx, &mark) == CUDA_SUCCESS) {
            serve->driver->cuEventSynchronize(mark->event);
            fdc_mark_put(mark);
        }
        for (size_t i = 0; i < FDC_COUNT(order); i++)
            if (order[i].kind != FDC_KIND_LIBRARY)
                fdc_handle_sweep(serve, order[i].kind, ctx->index, order[i].end);
    }
    for (size_t i = 0; i < FDC_COUNT(order); i++)
        fdc_handle_sweep(serve, order[i].kind, 0, order[i].end);
}
