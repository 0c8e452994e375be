/*
 * Bytes under way: chunks of UP that come free when their copy is done, chunks of DOWN
 * whose bytes go to the program's memory when they are there. The bytes are stored by
 * whichever thread takes the worker's note in, so that any later answer finds them
 * there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "process.h"

/* ---- up ---- */

struct up {
    struct fdc_ticket ticket;
    struct fdc_session *session;
    struct fdc_chunk chunk;
};

static void
up_done(struct fdc_ticket *ticket)
{
    struct up *up = ticket->user;

    fdc_ticket_fail(up->session, ticket);
    fdc_stage_free(up->session, FDC_REGION_UP, &up->chunk);
    fdc_ticket_release(up->session, ticket);
    free(up);
}

static CUresult
up_new(struct fdc_session *session, uint64_t size, bool wait, struct fdc_chunk *chunk,
       struct fdc_ticket **ticket)
{
    struct up *up = calloc(1, sizeof(*up));
    CUresult result = CUDA_SUCCESS;

    if (up == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    up->session = session;
    up->ticket.on_done = up_done;
    up->ticket.user = up;
    if (wait)
        result = fdc_stage_alloc(session, FDC_REGION_UP, size, &up->chunk);
    else if (!fdc_stage_try(session, FDC_REGION_UP, size, &up->chunk))
        result = CUDA_ERROR_NOT_READY;
    if (result != CUDA_SUCCESS)
        goto err_free;
    result = fdc_ticket_take(session, &up->ticket);
    if (result != CUDA_SUCCESS)
        goto err_chunk;
    *chunk = up->chunk;
    *ticket = &up->ticket;
    return CUDA_SUCCESS;

err_chunk:
    fdc_stage_free(session, FDC_REGION_UP, &up->chunk);
err_free:
    free(up);
    return result;
}

CUresult
fdc_up_new(struct fdc_session *session, uint64_t size, struct fdc_chunk *chunk,
           struct fdc_ticket **ticket)
{
    return up_new(session, size, true, chunk, ticket);
}

CUresult
fdc_up_try(struct fdc_session *session, uint64_t size, struct fdc_chunk *chunk,
           struct fdc_ticket **ticket)
{
    return up_new(session, size, false, chunk, ticket);
}

void
fdc_up_cancel(struct fdc_session *session, struct fdc_ticket *ticket)
{
    struct up *up = ticket->user;

    fdc_ticket_release(session, ticket);
    fdc_stage_free(session, FDC_REGION_UP, &up->chunk);
    free(up);
}

/* ---- down ---- */

#define LAND_LEAST (16u << 10) /* smaller ones are copied as fast */

/* `landed` bytes of a plain copy are where they belong. */
static void
store(const struct fdc_pending *pending, const char *from, uint64_t landed)
{
    if (landed != 0) {
        memcpy(pending->to + landed, from + landed, pending->width - landed);
        return;
    }
    if (pending->past_cache) {
        fdc_copy_past(pending->to, from, pending->width);
        return;
    }
    for (uint64_t z = 0; z < pending->depth; z++)
        for (uint64_t y = 0; y < pending->rows; y++) {
            memcpy(pending->to + z * pending->slice + y * pending->pitch, from,
                   pending->width);
            from += pending->width;
        }
}

static void
unlink_pending(struct fdc_memory *memory, struct fdc_pending *pending)
{
    pthread_mutex_lock(&memory->pending_lock);
    *pending->link = pending->next;
    if (pending->next != NULL)
        pending->next->link = pending->link;
    __atomic_sub_fetch(&memory->pending_count, 1, __ATOMIC_RELEASE);
    /* pairs with the acquire in wait_in() */
    __atomic_add_fetch(&memory->arrived, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&memory->pending_lock);
}

static void
pending_done(struct fdc_ticket *ticket)
{
    struct fdc_pending *pending = ticket->user;
    struct fdc_session *session = pending->session;
    struct fdc_gather *gather = pending->gather;
    uint64_t landed = 0;

    __atomic_add_fetch(&session->taken, pending->chunk.size, __ATOMIC_RELAXED);
    if (pending->landed)
        landed = fdc_link_landed(session->link, pending->chunk.offset);
    if (ticket->result == CUDA_SUCCESS && landed < pending->chunk.size)
        store(pending, fdc_stage_at(session, FDC_REGION_DOWN, &pending->chunk), landed);
    if (gather == NULL) /* else whoever waits for the pieces hears of it */
        fdc_ticket_fail(session, ticket);
    unlink_pending(session->memory, pending);
    fdc_stage_free(session, FDC_REGION_DOWN, &pending->chunk);
    if (gather != NULL) {
        if (ticket->result != CUDA_SUCCESS && gather->result == CUDA_SUCCESS)
            gather->result = (CUresult)ticket->result;
        /* pairs with the load in fdc_intake_until() */
        __atomic_add_fetch(&gather->came, 1, __ATOMIC_RELEASE);
    }
    fdc_ticket_release(session, ticket);
    free(pending);
}

CUresult
fdc_pending_new(struct fdc_session *session, const struct fdc_pending *what,
                struct fdc_gather *gather, struct fdc_pending **made)
{
    struct fdc_pending *pending = malloc(sizeof(*pending));
    struct fdc_memory *memory = session->memory;
    uint64_t size = what->width * what->rows * what->depth;
    CUresult result;

    if (pending == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *pending = *what;
    pending->session = session;
    pending->gather = gather;
    pending->span =
        (what->depth - 1) * what->slice + (what->rows - 1) * what->pitch + what->width;
    memset(&pending->ticket, 0, sizeof(pending->ticket));
    pending->ticket.on_done = pending_done;
    pending->ticket.user = pending;
    result = fdc_stage_alloc(session, FDC_REGION_DOWN, size, &pending->chunk);
    if (result != CUDA_SUCCESS)
        goto err_free;
    result = fdc_ticket_take(session, &pending->ticket);
    if (result != CUDA_SUCCESS)
        goto err_chunk;
    pending->landed = what->rows == 1 && what->depth == 1 && size >= LAND_LEAST &&
                      fdc_link_land(session->link, pending->chunk.offset, size, what->to);
    pthread_mutex_lock(&memory->pending_lock);
    pending->next = memory->pending;
    pending->link = &memory->pending;
    if (pending->next != NULL)
        pending->next->link = &pending->next;
    memory->pending = pending;
    __atomic_add_fetch(&memory->pending_count, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&memory->pending_lock);
    *made = pending;
    return CUDA_SUCCESS;

err_chunk:
    fdc_stage_free(session, FDC_REGION_DOWN, &pending->chunk);
err_free:
    free(pending);
    return result;
}

static void
pending_free(struct fdc_pending *pending)
{
    if (pending->landed)
        (void)fdc_link_landed(pending->session->link, pending->chunk.offset);
    unlink_pending(pending->session->memory, pending);
    fdc_stage_free(pending->session, FDC_REGION_DOWN, &pending->chunk);
    free(pending);
}

void
fdc_pending_cancel(struct fdc_pending *pending)
{
    fdc_ticket_release(pending->session, &pending->ticket);
    pending_free(pending);
}

CUresult
fdc_pending_send(struct fdc_call *call, struct fdc_pending *pending)
{
    struct fdc_gather *gather = pending->gather;
    CUresult result;

    if (gather != NULL)
        fdc_call_brings_aside(call);
    /* Of the pieces that are waited for together, the first is the one that counts. */
    if (gather != NULL && gather->sent == 0)
        result = fdc_call_send_waited(call, &pending->ticket);
    else
        result = fdc_call_send_done(call, &pending->ticket);

    if (result != CUDA_SUCCESS)
        pending_free(pending);
    else if (gather != NULL)
        gather->sent++;
    return result;
}

#define PIECES_LEAST 4u
#define PIECES_MOST 32u
#define SLOW_NS 60000u /* a wait for a piece that no copy takes: somebody slept */

void
fdc_gather_pace(struct fdc_session *session, struct fdc_gather *gather)
{
    struct fdc_memory *memory = session->memory;
    uint32_t came, most = fdc_load_relaxed(&memory->pieces_out);
    uint64_t start_ns;

    if (most < PIECES_LEAST)
        most = PIECES_LEAST;
    if (gather->sent == 0) /* a new copy: maybe things go better now */
        most -= (most - PIECES_LEAST) / 4;
    while ((came = fdc_load_acquire(&gather->came), gather->sent - came >= most)) {
        start_ns = fdc_now_ns();
        (void)fdc_intake_until(session, &gather->came, came, -1);
        if (fdc_now_ns() - start_ns > SLOW_NS && most < PIECES_MOST)
            most *= 2;
    }
    fdc_store_relaxed(&memory->pieces_out, most);
}

CUresult
fdc_gather_wait(struct fdc_session *session, struct fdc_gather *gather)
{
    uint32_t came;

    fdc_link_flush(session->link, FDC_LANE_COMMAND);
    while ((came = fdc_load_acquire(&gather->came)) != gather->sent)
        (void)fdc_intake_until(session, &gather->came, came, -1);
    fdc_print_out(true);
    return gather->result;
}

static bool
overlaps(struct fdc_memory *memory, const char *address, uint64_t size)
{
    bool found = false;

    pthread_mutex_lock(&memory->pending_lock);
    for (struct fdc_pending *pending = memory->pending; pending != NULL && !found;
         pending = pending->next)
        found = pending->to < address + size && pending->to + pending->span > address;
    pthread_mutex_unlock(&memory->pending_lock);
    return found;
}

static CUresult
wait_in(struct fdc_session *session, const void *address, uint64_t size)
{
    struct fdc_memory *memory = session->memory;
    uint32_t seen;

    while (fdc_load_acquire(&memory->pending_count) != 0) {
        seen = fdc_load_acquire(&memory->arrived);
        if (!overlaps(memory, address, size))
            break;
        fdc_link_flush(session->link, FDC_LANE_COMMAND);
        if (fdc_intake_until(session, &memory->arrived, seen, -1) == -EPIPE &&
            fdc_load_acquire(&memory->arrived) == seen)
            return (CUresult)fdc_load_relaxed(&session->dead);
    }
    return CUDA_SUCCESS;
}

CUresult
fdc_pending_wait(const void *address, uint64_t size)
{
    CUresult result = CUDA_SUCCESS;
    struct fdc_session *session;

    for (int i = 0; result == CUDA_SUCCESS && (session = fdc_session_at(i)) != NULL; i++)
        result = wait_in(session, address, size);
    return result;
}
