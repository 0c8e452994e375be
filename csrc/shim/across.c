/*
 * Copies between servers. The bytes go from worker to worker (trunk.c), or through this
 * process: pieces come down from the one worker and go up to the other, several under way at
 * a time. A copy on a stream has a gate
 * (bridge.c) at its place; when the stream is there it stands still, the courier (one thread,
 * started by the first copy) carries the bytes on streams of its own, and opens the gate. So
 * the copy is in order on its stream, and whoever made the call goes on at once.
 */
#include "process.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "fdc/copy.h"
#include "memory.h"
#include "cuda_calls.h"

#define LANES FDC_ACROSS_LANES

struct across {
    struct across *next;
    struct fdc_copy3d copy;
    struct fdc_context *from, *to;
    struct fdc_gate *gate; /* where a stream stands still; NULL: somebody waits */
    uint32_t done;         /* futex word */
    CUresult result;
};

struct fdc_courier {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct across *first, **last;
    struct fdc_trunks *trunks; /* the courier's own */
};

/* ---- carrying ---- */

/* A piece under way, with a chunk of each session's. */
struct lane {
    struct fdc_part part;
    struct fdc_ticket down, up;
    struct fdc_chunk from, to;
    bool up_sent;
};

static bool
is_plain(const struct fdc_copy3d *copy)
{
    return copy->height == 1 && copy->depth == 1 &&
           copy->src.memory == FDC_COPY_DEVICE && copy->dst.memory == FDC_COPY_DEVICE;
}

/* Message of a piece on a hidden stream of the context. */
static CUresult
open(struct fdc_call *call, struct fdc_context *context, uint16_t id,
     struct fdc_stream **stream)
{
    CUresult result;

    result = fdc_stream_hidden(context, stream);
    if (result == CUDA_SUCCESS)
        result = fdc_call_open_in(call, context->object.session, id);
    call->context = context;
    return result;
}

static void
fill_end(struct fdc_copy_end *end, const struct fdc_part *part,
         const struct fdc_copy_end *whole)
{
    *end = *whole;
    end->x += part->x;
    end->y += part->y;
    end->z += part->z;
}

static void
fill_size(struct fdc_copy3d *copy, const struct fdc_part *part)
{
    copy->width = part->width;
    copy->height = part->height;
    copy->depth = part->depth;
}

static uint64_t
part_size(const struct fdc_part *part)
{
    return part->width * part->height * part->depth;
}

static CUresult
send_down(const struct across *job, struct lane *lane)
{
    struct fdc_session *session = job->from->object.session;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;
    bool begun;

    result = open(&call, job->from,
                  is_plain(&job->copy) ? FDC_ID_fdcCopyDown : FDC_ID_fdcCopy3DDown,
                  &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_ticket_take(session, &lane->down);
    if (result != CUDA_SUCCESS)
        return result;
    if (is_plain(&job->copy)) {
        struct fdc_req_fdcCopyDown *req = fdc_call_begin(&call, sizeof(*req));

        begun = req != NULL;
        if (begun) {
            req->src = job->copy.src.base + job->copy.src.x + lane->part.x;
            req->stream = fdc_stream_wire(stream);
            req->chunk = lane->from;
            req->chunk.size = lane->part.width;
        }
    } else {
        struct fdc_req_fdcCopy3DDown *req = fdc_call_begin(&call, sizeof(*req));

        begun = req != NULL;
        if (begun) {
            memset(&req->copy, 0, sizeof(req->copy));
            fill_end(&req->copy.src, &lane->part, &job->copy.src);
            req->copy.dst.memory = FDC_COPY_CHUNK;
            fill_size(&req->copy, &lane->part);
            req->stream = fdc_stream_wire(stream);
            req->chunk = lane->from;
            req->chunk.size = part_size(&lane->part);
        }
    }
    if (begun) {
        fdc_call_brings_aside(&call);
        return fdc_call_send_done(&call, &lane->down);
    }
    fdc_ticket_release(session, &lane->down);
    return call.result;
}

static CUresult
send_up(const struct across *job, struct lane *lane)
{
    struct fdc_session *from = job->from->object.session;
    struct fdc_session *to = job->to->object.session;
    uint64_t size = part_size(&lane->part), put;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;
    bool begun;
    int err;

    result = open(&call, job->to,
                  is_plain(&job->copy) ? FDC_ID_fdcCopyUp : FDC_ID_fdcCopy3DUp,
                  &stream);
    if (result != CUDA_SUCCESS)
        return result;
    err = fdc_link_put(to->link, FDC_REGION_UP, lane->to.offset,
                       fdc_stage_at(from, FDC_REGION_DOWN, &lane->from), size, &put);
    if (err)
        return fdc_result(err);
    result = fdc_ticket_take(to, &lane->up);
    if (result != CUDA_SUCCESS)
        return result;
    if (is_plain(&job->copy)) {
        struct fdc_req_fdcCopyUp *req = fdc_call_begin(&call, sizeof(*req));

        begun = req != NULL;
        if (begun) {
            req->dst = job->copy.dst.base + job->copy.dst.x + lane->part.x;
            req->stream = fdc_stream_wire(stream);
            req->chunk = lane->to;
            req->chunk.size = size;
        }
    } else {
        struct fdc_req_fdcCopy3DUp *req = fdc_call_begin(&call, sizeof(*req));

        begun = req != NULL;
        if (begun) {
            memset(&req->copy, 0, sizeof(req->copy));
            req->copy.src.memory = FDC_COPY_CHUNK;
            fill_end(&req->copy.dst, &lane->part, &job->copy.dst);
            fill_size(&req->copy, &lane->part);
            req->stream = fdc_stream_wire(stream);
            req->chunk = lane->to;
            req->chunk.size = size;
        }
    }
    if (!begun) {
        fdc_ticket_release(to, &lane->up);
        return call.result;
    }
    fdc_call_uses_put(&call, put);
    result = fdc_call_send_done(&call, &lane->up);
    lane->up_sent = result == CUDA_SUCCESS;
    fdc_link_flush(to->link, FDC_LANE_COMMAND);
    return result;
}

static CUresult
lane_free(const struct across *job, struct lane *lane)
{
    if (!lane->up_sent)
        return CUDA_SUCCESS;
    lane->up_sent = false;
    return fdc_ticket_wait(job->to->object.session, &lane->up);
}

static CUresult
first_of(CUresult a, CUresult b)
{
    return a != CUDA_SUCCESS ? a : b;
}

static CUresult
carry(const struct across *job)
{
    struct fdc_trunks *trunks = fdc_process.courier->trunks;
    struct fdc_memory *from = job->from->object.session->memory;
    struct fdc_memory *to = job->to->object.session->memory;
    struct lane lanes[LANES] = {0}, *lane;
    uint64_t asked = 0, moved = 0;
    struct fdc_part part = {0};
    bool more = true;
    CUresult result;

    /* One that the program has released since is not opened again. */
    result = fdc_context_use(job->from);
    if (result == CUDA_SUCCESS)
        result = fdc_context_use(job->to);
    if (result == CUDA_SUCCESS &&
        fdc_trunk_copy(trunks, &job->copy, job->to, job->from, &result))
        return result;
    for (int i = 0; i < LANES; i++) {
        lanes[i].from = from->across_down[i];
        lanes[i].to = to->across_up[i];
    }
    for (;;) {
        while (result == CUDA_SUCCESS && asked - moved < LANES) {
            more = more && fdc_part_next(job->copy.width, job->copy.height,
                                         job->copy.depth, &part);
            if (!more)
                break;
            lane = &lanes[asked % LANES];
            lane->part = part;
            result = lane_free(job, lane);
            if (result == CUDA_SUCCESS)
                result = send_down(job, lane);
            if (result == CUDA_SUCCESS)
                asked++;
        }
        if (moved == asked)
            break;
        lane = &lanes[moved++ % LANES];
        result = first_of(
            result, fdc_ticket_wait(job->from->object.session, &lane->down));
        if (result != CUDA_SUCCESS)
            continue;
        __atomic_add_fetch(&job->from->object.session->taken, part_size(&lane->part),
                           __ATOMIC_RELAXED);
        result = send_up(job, lane);
    }
    for (int i = 0; i < LANES; i++)
        result = first_of(result, lane_free(job, &lanes[i]));
    return result;
}

/* ---- the courier ---- */

static void
finish(struct across *job)
{
    if (job->gate == NULL) {
        /* pairs with the load in wait_done(); who waits frees it */
        fdc_store_release(&job->done, 1);
        fdc_futex_wake(&job->done, 1, false);
        return;
    }
    if (job->result != CUDA_SUCCESS)
        fdc_gate_fail(job->gate, FDC_ID_cuMemcpyPeerAsync, job->result);
    fdc_gate_open(job->gate);
    free(job);
}

static void *
courier_run(void *arg)
{
    struct fdc_courier *courier = arg;
    struct across *job;

    for (;;) {
        pthread_mutex_lock(&courier->lock);
        while (courier->first == NULL)
            pthread_cond_wait(&courier->more, &courier->lock);
        job = courier->first;
        courier->first = job->next;
        if (courier->first == NULL)
            courier->last = &courier->first;
        pthread_mutex_unlock(&courier->lock);
        job->result = carry(job);
        finish(job);
    }
    return NULL;
}

/* Under the process's lock for what is made once. */
static struct fdc_courier *
courier_start(void)
{
    struct fdc_courier *courier = calloc(1, sizeof(*courier));
    sigset_t all, old;
    pthread_t thread;
    int err;

    if (courier == NULL)
        return NULL;
    pthread_mutex_init(&courier->lock, NULL);
    pthread_cond_init(&courier->more, NULL);
    courier->last = &courier->first;
    courier->trunks = fdc_trunks_new();
    if (courier->trunks == NULL) {
        free(courier);
        return NULL;
    }
    sigfillset(&all); /* the program's signals go to its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&thread, NULL, courier_run, courier);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        free(courier->trunks);
        free(courier);
        return NULL;
    }
    pthread_detach(thread);
    return courier;
}

static struct fdc_courier *
courier_get(void)
{
    struct fdc_courier *courier;

    pthread_mutex_lock(&fdc_process.init);
    courier = fdc_process.courier;
    if (courier == NULL)
        courier = fdc_process.courier = courier_start();
    pthread_mutex_unlock(&fdc_process.init);
    return courier;
}

static void
hand_over(struct across *job)
{
    struct fdc_courier *courier = fdc_process.courier;

    job->next = NULL;
    pthread_mutex_lock(&courier->lock);
    *courier->last = job;
    courier->last = &job->next;
    pthread_cond_signal(&courier->more);
    pthread_mutex_unlock(&courier->lock);
}

/* The stream is there, or never will be (service thread). */
static void
arrived(void *user, CUresult result)
{
    struct across *job = user;

    job->result = result;
    if (result == CUDA_SUCCESS)
        hand_over(job);
    else
        finish(job);
}

/* ---- preparing ---- */

/* Chunks of the courier's own, so that it never waits for those of copies that wait for
 * it. */
static CUresult
chunks_take(struct fdc_session *session)
{
    struct fdc_memory *memory = session->memory;
    CUresult result = CUDA_SUCCESS;
    int i;

    pthread_mutex_lock(&memory->across_lock);
    for (i = 0; i < LANES && result == CUDA_SUCCESS; i++) {
        if (memory->across_down[i].size == 0)
            result = fdc_stage_alloc(session, FDC_REGION_DOWN, FDC_PIECE_MAX,
                                     &memory->across_down[i]);
        if (result == CUDA_SUCCESS && memory->across_up[i].size == 0)
            result = fdc_stage_alloc(session, FDC_REGION_UP, FDC_PIECE_MAX,
                                     &memory->across_up[i]);
    }
    pthread_mutex_unlock(&memory->across_lock);
    return result;
}

static CUresult
job_new(const struct fdc_copy3d *copy, struct fdc_context *to, struct fdc_context *from,
        struct across **made)
{
    struct across *job;
    CUresult result;

    if (courier_get() == NULL)
        return CUDA_ERROR_OPERATING_SYSTEM;
    result = chunks_take(from->object.session);
    if (result == CUDA_SUCCESS)
        result = chunks_take(to->object.session);
    if (result != CUDA_SUCCESS)
        return result;
    job = calloc(1, sizeof(*job));
    if (job == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    job->copy = *copy;
    job->from = from;
    job->to = to;
    *made = job;
    return CUDA_SUCCESS;
}

static CUresult
on_stream(struct fdc_call *call, struct fdc_stream *stream, struct across *job)
{
    CUresult result;

    result = fdc_gate_put(call, stream, arrived, job, &job->gate);
    if (result != CUDA_SUCCESS)
        free(job);
    return result;
}

/* Nothing of the three contexts is under way, as the driver has it for such a call, and
 * nothing is when it returns. */
static CUresult
at_once(struct fdc_call *call, struct across *job)
{
    struct fdc_context *contexts[] = {call->context, job->from, job->to};
    CUresult result = CUDA_SUCCESS;

    for (size_t i = 0; i < FDC_COUNT(contexts) && result == CUDA_SUCCESS; i++)
        result = cuCtxSynchronize_v2(
            (CUcontext)(uintptr_t)contexts[i]->object.handle);
    if (result == CUDA_SUCCESS) {
        hand_over(job);
        while (fdc_load_acquire(&job->done) == 0)
            fdc_futex_wait(&job->done, 0, -1, false);
        result = job->result;
    }
    free(job);
    return result;
}

CUresult
fdc_across(struct fdc_call *call, struct fdc_stream *stream,
           const struct fdc_copy3d *copy, struct fdc_context *to,
           struct fdc_context *from, bool sync)
{
    static uint32_t said;
    struct across *job;
    CUresult result;

    if (fdc_stream_capturing(stream))
        return fdc_refuse("a copy between servers in a capture", &said);
    result = job_new(copy, to, from, &job);
    if (result != CUDA_SUCCESS)
        return result;
    return sync || call->session->sync ? at_once(call, job)
                                       : on_stream(call, stream, job);
}

/* The stream is idle, and the call goes on in the context. */
static CUresult
move_to(struct fdc_call *call, struct fdc_stream **stream, struct fdc_context *context)
{
    CUresult result;

    if (fdc_stream_capturing(*stream))
        return fdc_capture_refuse(*stream);
    result = fdc_stream_drain(call, *stream);
    if (result == CUDA_SUCCESS)
        result = fdc_context_activate(context);
    if (result != CUDA_SUCCESS)
        return result;
    call->session = context->object.session;
    call->context = context;
    call->work = context->legacy;
    call->moved = true;
    *stream = context->legacy;
    return CUDA_SUCCESS;
}

CUresult
fdc_across_begin(struct fdc_call *call, struct fdc_stream **stream, uint64_t address)
{
    struct fdc_place place;

    if (FDC_LIKELY(fdc_process.sessions == 1) || !fdc_place_find(address, &place) ||
        place.where != FDC_DEVICE || place.device->session == call->session)
        return CUDA_SUCCESS;
    return move_to(call, stream,
                   place.context != NULL ? place.context : place.device->primary);
}

CUresult
fdc_across_end(struct fdc_call *call, struct fdc_stream *stream, CUresult result)
{
    return result == CUDA_SUCCESS && FDC_UNLIKELY(call->moved)
               ? fdc_stream_drain(call, stream)
               : result;
}
