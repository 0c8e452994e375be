/*
 * Events and streams that the program asks about. The worker is asked to tell when a
 * recording has been passed, or a stream has come to a position, so that a query is
 * answered here from what has been told. What is asked of events is learned: while
 * recordings are asked about, later ones are told of without being asked for each.
 */
#include "process.h"

#include <stdlib.h>

#define SCORE_MISS 16 /* what one query that had to ask is worth in later recordings, */
#define SCORE_HIT 4   /* and one of a recording that was told of */
#define SCORE_MAX 64
#define POLLS_LOCAL 64u /* then somebody is waiting: every POLLS_EVERY-th asks */
#define POLLS_EVERY 16u

enum { SENT = 1, CAME = 2 };

struct fdc_watch {
    struct fdc_ticket ticket;
    void *object; /* held */
    uint32_t state;    /* atomic: SENT, CAME; who is second concludes */
    uint32_t recorded; /* an event's recording */
    uint64_t position; /* 0: nothing is to be concluded */
};

/* ---- what has been told ---- */

static void
event_told(struct fdc_event *event, const struct fdc_watch *watch)
{
    bool passed = watch->ticket.result == CUDA_SUCCESS;
    struct fdc_stream *stream = NULL;

    pthread_mutex_lock(&event->lock);
    if (event->recorded == watch->recorded) {
        if (!passed)
            fdc_store_relaxed(&event->watched, 0); /* whoever asks next hears why */
        else if (__atomic_load_n(&event->replayed, __ATOMIC_RELAXED) == 0)
            event->complete = event->recorded;
        stream = fdc_object_find(FDC_KIND_STREAM, (void *)(uintptr_t)event->stream);
    }
    pthread_mutex_unlock(&event->lock);
    fdc_ticket_fail(event->object.session, &watch->ticket);
    if (passed && stream != NULL && !stream->legacy)
        fdc_stream_idle(stream, watch->position);
}

static void
stream_told(struct fdc_stream *stream, const struct fdc_watch *watch)
{
    uint64_t position = watch->position;

    if (watch->ticket.result == CUDA_SUCCESS) {
        fdc_stream_idle(stream, position);
        return;
    }
    /* Nobody will tell of this place: whoever asks next hears why. */
    __atomic_compare_exchange_n(&stream->watched, &position, 0, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    fdc_ticket_fail(stream->object.session, &watch->ticket);
}

static void
conclude(struct fdc_watch *watch)
{
    struct fdc_object *object = watch->object;

    if (watch->position != 0 && FDC_HANDLE_KIND(object->handle) == FDC_KIND_EVENT)
        event_told(watch->object, watch);
    else if (watch->position != 0)
        stream_told(watch->object, watch);
    fdc_object_unhold(object);
    free(watch);
}

static void
came(struct fdc_ticket *ticket)
{
    struct fdc_watch *watch = ticket->user;

    fdc_ticket_release(((struct fdc_object *)watch->object)->session, ticket);
    /* pairs with itself in watch_sent() */
    if (__atomic_fetch_or(&watch->state, CAME, __ATOMIC_ACQ_REL) == SENT)
        conclude(watch);
}

static struct fdc_watch *
watch_new(struct fdc_object *object)
{
    struct fdc_watch *watch = calloc(1, sizeof(*watch));

    if (watch == NULL)
        return NULL;
    watch->object = object;
    watch->ticket.user = watch;
    watch->ticket.on_done = came;
    fdc_object_hold(object);
    if (fdc_ticket_take(object->session, &watch->ticket) == CUDA_SUCCESS)
        return watch;
    fdc_object_unhold(object);
    free(watch);
    return NULL;
}

void
fdc_watch_cancel(struct fdc_watch *watch)
{
    struct fdc_object *object = watch->object;

    fdc_ticket_release(object->session, &watch->ticket);
    fdc_object_unhold(object);
    free(watch);
}

CUresult
fdc_watch_send(struct fdc_call *call, struct fdc_watch *watch)
{
    CUresult result = fdc_call_send_done(call, &watch->ticket);

    if (result != CUDA_SUCCESS)
        fdc_watch_cancel(watch);
    return result;
}

void
fdc_watch_sent(struct fdc_watch *watch, uint64_t position, uint32_t recorded)
{
    watch->position = position;
    watch->recorded = recorded;
    if (__atomic_fetch_or(&watch->state, SENT, __ATOMIC_ACQ_REL) == CAME)
        conclude(watch);
}

/* ---- which recordings ---- */

struct fdc_watch *
fdc_watch_event(struct fdc_event *event)
{
    struct fdc_session *session = event->object.session;
    int32_t score = fdc_load_relaxed(&session->watch_score);

    if (FDC_LIKELY(score == 0) || session->sync ||
        __atomic_load_n(&event->replayed, __ATOMIC_RELAXED) != 0)
        return NULL;
    /* A hint, as all of it: an update that is lost costs nothing. */
    fdc_store_relaxed(&session->watch_score, score - 1);
    return watch_new(&event->object);
}

/* The program asks about this recording. */
static void
score_up(struct fdc_session *session, int32_t by)
{
    int32_t score = fdc_load_relaxed(&session->watch_score) + by;

    fdc_store_relaxed(&session->watch_score, score < SCORE_MAX ? score : SCORE_MAX);
}

/* Somebody who asks again and again waits, and the worker finds out sooner when asked. */
static bool
ask_anyway(uint32_t *polls)
{
    uint32_t count = __atomic_add_fetch(polls, 1, __ATOMIC_RELAXED);

    return count > POLLS_LOCAL && count % POLLS_EVERY == 0;
}

void
fdc_watch_asked(struct fdc_event *event, uint32_t recorded)
{
    if (FDC_LIKELY(fdc_load_relaxed(&event->watched) != recorded || recorded == 0) ||
        __atomic_exchange_n(&event->asked, recorded, __ATOMIC_RELAXED) == recorded)
        return;
    fdc_store_relaxed(&event->polls, 0);
    score_up(event->object.session, SCORE_HIT);
}

bool
fdc_watch_knows(struct fdc_event *event, uint32_t recorded)
{
    struct fdc_session *session = event->object.session;
    bool watched;

    pthread_mutex_lock(&event->lock);
    watched = event->watched == recorded && event->recorded == recorded;
    pthread_mutex_unlock(&event->lock);
    if (!watched) {
        score_up(session, SCORE_MISS);
        return false;
    }
    if (ask_anyway(&event->polls))
        return false;
    fdc_link_flush(session->link, FDC_LANE_COMMAND);
    fdc_intake_poll(session);
    return true;
}

/* ---- streams ---- */

bool
fdc_watch_knows_stream(struct fdc_stream *stream)
{
    struct fdc_session *session = stream->object.session;
    uint64_t issued = fdc_stream_issued(stream);

    /* What has been waited for since may imply that the stream's work is over, and the
     * mark behind it not yet. */
    if (__atomic_load_n(&stream->watched, __ATOMIC_RELAXED) < issued ||
        __atomic_load_n(&stream->watched_waits, __ATOMIC_RELAXED) !=
            __atomic_load_n(&session->waits, __ATOMIC_RELAXED) ||
        ask_anyway(&stream->polls))
        return false;
    fdc_link_flush(session->link, FDC_LANE_COMMAND);
    fdc_intake_poll(session);
    return true;
}

void
fdc_watch_stream(struct fdc_call *call, struct fdc_stream *stream)
{
    uint64_t issued = fdc_stream_issued(stream);
    struct fdc_call own = {
        .session = call->session, .context = call->context, .id = FDC_ID_fdcMark};
    struct fdc_req_fdcMark *req;
    struct fdc_watch *watch;

    if (call->session->sync)
        return;
    __atomic_store_n(&stream->watched_waits,
                     __atomic_load_n(&call->session->waits, __ATOMIC_RELAXED),
                     __ATOMIC_RELAXED);
    if (__atomic_load_n(&stream->watched, __ATOMIC_RELAXED) >= issued)
        return;
    watch = watch_new(&stream->object);
    if (watch == NULL)
        return;
    req = fdc_call_begin(&own, sizeof(*req));
    if (req == NULL) {
        fdc_watch_cancel(watch);
        return;
    }
    req->stream = fdc_stream_wire(stream);
    if (fdc_watch_send(&own, watch) != CUDA_SUCCESS)
        return;
    fdc_store_relaxed(&stream->polls, 0);
    __atomic_store_n(&stream->watched, own.position, __ATOMIC_RELAXED);
    fdc_watch_sent(watch, own.position, 0);
}
