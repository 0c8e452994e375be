/*
 * What counts against the lease's slice, which its processes share (board.c): the session's
 * own allocations to the byte, and what the driver takes beside them, as far as it can
 * tell. Over the slice is CUDA_ERROR_OUT_OF_MEMORY, always at the same byte.
 */
#include "server/memory.h"

#include <stdlib.h>

#define LOOK_NS 200000000ull            /* where the driver takes long to say what it has */

uint64_t
fdc_memory_limit(struct fdc_serve *serve, int device)
{
    return serve->memory->limit[device];
}

uint64_t
fdc_memory_used(struct fdc_serve *serve, int device)
{
    return __atomic_load_n(&serve->memory->used[device], __ATOMIC_RELAXED);
}

CUresult
fdc_quota_take(struct fdc_memory *memory, int device, uint64_t size)
{
    if (!fdc_board_take(memory->serve->board, device, size, memory->limit[device]))
        return CUDA_ERROR_OUT_OF_MEMORY;
    __atomic_store_n(&memory->used[device], memory->used[device] + size, __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}

void
fdc_quota_give(struct fdc_memory *memory, int device, uint64_t size)
{
    __atomic_store_n(&memory->used[device], memory->used[device] - size, __ATOMIC_RELAXED);
    memory->refunds++;
    fdc_board_give(memory->serve->board, device, size);
}

CUresult
fdc_memory_charge(struct fdc_serve *serve, int device, uint64_t size)
{
    CUresult result;

    pthread_mutex_lock(&serve->memory->lock);
    result = fdc_quota_take(serve->memory, device, size);
    pthread_mutex_unlock(&serve->memory->lock);
    return result;
}

void
fdc_memory_refund(struct fdc_serve *serve, int device, uint64_t size)
{
    pthread_mutex_lock(&serve->memory->lock);
    fdc_quota_give(serve->memory, device, size);
    pthread_mutex_unlock(&serve->memory->lock);
}

/* ---- what the driver takes for itself ---- */

/* What is beside the session's own allocations, as it was at one moment: what is being
 * allocated is charged already, and where something was refunded meanwhile we look again. */
static bool
look(struct fdc_memory *memory, int device, uint64_t *beside, bool *slow)
{
    uint64_t refunds, taken, used;

    for (int tries = 0; tries < 4; tries++) {
        pthread_mutex_lock(&memory->lock);
        refunds = memory->refunds;
        pthread_mutex_unlock(&memory->lock);
        if (!fdc_monitor_taken(memory->serve, device, &taken, slow))
            return false;
        pthread_mutex_lock(&memory->lock);
        used = memory->used[device];
        if (memory->refunds == refunds) {
            *beside = taken > used ? taken - used : 0;
            return true;                /* with the lock */
        }
        pthread_mutex_unlock(&memory->lock);
    }
    return false;
}

CUresult
fdc_memory_look(struct fdc_serve *serve, int device, bool often)
{
    struct fdc_memory *memory = serve->memory;
    CUresult result = CUDA_SUCCESS;
    uint64_t beside, had, now = fdc_now_ns();
    bool slow = false;

    if (memory == NULL)
        return CUDA_SUCCESS;            /* the session ends */
    if (often && now - fdc_load_relaxed(&memory->looked_ns) < LOOK_NS)
        return CUDA_SUCCESS;
    if (!look(memory, device, &beside, &slow))
        return CUDA_SUCCESS;
    if (slow)
        fdc_store_relaxed(&memory->looked_ns, fdc_now_ns());
    had = memory->beside[device];
    __atomic_store_n(&memory->beside[device], beside, __ATOMIC_RELAXED);
    if (beside != had)
        __atomic_add_fetch(&serve->weighed, 1, __ATOMIC_RELAXED);
    if (beside < had) {
        fdc_board_give(serve->board, device, had - beside);
    } else if (!fdc_board_take(serve->board, device, beside - had, memory->limit[device])) {
        fdc_board_add(serve->board, device, beside - had); /* it is taken, for now */
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

uint64_t
fdc_memory_beside(struct fdc_serve *serve, int device)
{
    return __atomic_load_n(&serve->memory->beside[device], __ATOMIC_RELAXED);
}

struct fdc_memory_held {
    uint64_t size;
    int device;
    bool whole;
};

CUresult
fdc_memory_hold(struct fdc_serve *serve, int device, uint64_t size, bool whole,
                struct fdc_memory_held **made)
{
    struct fdc_memory_held *held = malloc(sizeof(*held));
    CUresult result;

    if (held == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *held = (struct fdc_memory_held){ size, device, whole };
    result = fdc_memory_charge(serve, device, size);
    if (result == CUDA_SUCCESS)
        *made = held;
    else
        free(held);
    return result;
}

bool
fdc_memory_is_whole(const struct fdc_memory_held *held)
{
    return held->whole;
}

void
fdc_memory_let_go(struct fdc_serve *serve, struct fdc_memory_held *held)
{
    fdc_memory_refund(serve, held->device, held->size);
    free(held);
}
