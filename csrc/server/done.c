/*
 * What the client was promised to hear of: each outstanding item is a private event and
 * the ticket of a DONE. Whoever is about to tell the client that something has finished
 * first sends the DONE of everything that is complete, under done_lock, so the bytes of
 * earlier copies are always there first. A poller thread does it when nobody else does.
 */
#include "server/serve.h"

#include <errno.h>
#include <stdlib.h>

#define POLL_MIN_US 50
#define POLL_MAX_US 500
#define QUIET_TURNS 40          /* at most 20 ms awake for nothing */
#define BUSY_MAX 8              /* streams remembered as not ready within one turn */

int
fdc_done_add(struct fdc_serve *serve, uint64_t ticket, struct fdc_mark *mark,
             CUstream stream, struct fdc_chunk down)
{
    return fdc_done_add_filled(serve, &(struct fdc_done){
        .mark = mark, .stream = stream, .ticket = ticket, .down = down,
    });
}

int
fdc_done_add_filled(struct fdc_serve *serve, struct fdc_done *like)
{
    struct fdc_done *item = malloc(sizeof(*item));

    if (item == NULL)
        return -ENOMEM;
    *item = *like;
    if (item->mark != NULL)
        item->ctx = item->mark->ctx;
    pthread_mutex_lock(&serve->inbox_lock);
    if (serve->inbox_last != NULL)
        serve->inbox_last->next = item;
    else
        serve->inbox_first = item;
    serve->inbox_last = item;
    pthread_mutex_unlock(&serve->inbox_lock);
    __atomic_add_fetch(&serve->done_count, 1, __ATOMIC_SEQ_CST);
    /* pairs with poller_main(): it says that it sleeps, then counts */
    if (__atomic_load_n(&serve->poller_sleeps, __ATOMIC_SEQ_CST))
        fdc_poller_kick(serve);
    return 0;
}

CUresult
fdc_done_later(struct fdc_request *request, CUstream stream, struct fdc_chunk down)
{
    struct fdc_done like = {
        .stream = stream, .ticket = request->ticket, .down = down,
        .aside = (request->flags & FDC_MSG_ASIDE) != 0,
    };
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx = fdc_context_here();
    CUresult result;

    if (!(request->flags & FDC_MSG_DONE))
        return CUDA_SUCCESS;
    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (fdc_stream_is_capturing(serve, stream))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    result = fdc_mark_stream(ctx, stream, &like.mark);
    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_done_add_filled(serve, &like)) {
        fdc_mark_put(like.mark);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    request->done = true;
    return CUDA_SUCCESS;
}

bool
fdc_done_any(struct fdc_serve *serve)
{
    return __atomic_load_n(&serve->done_count, __ATOMIC_ACQUIRE) != 0;
}

static CUevent
event_of(const struct fdc_done *item)
{
    return item->mark != NULL ? item->mark->event : item->box->event;
}

/* Under done_lock. */
static void
take_inbox(struct fdc_serve *serve)
{
    struct fdc_done *first, *last;

    pthread_mutex_lock(&serve->inbox_lock);
    first = serve->inbox_first;
    last = serve->inbox_last;
    serve->inbox_first = serve->inbox_last = NULL;
    pthread_mutex_unlock(&serve->inbox_lock);
    if (first == NULL)
        return;
    if (serve->done_last != NULL)
        serve->done_last->next = first;
    else
        serve->done_first = first;
    serve->done_last = last;
}

static void
finish(struct fdc_serve *serve, struct fdc_done *item, CUresult result)
{
    uint64_t put = 0;

    if (serve->print_fd >= 0 && item->down.size != 0 &&
        (result != CUDA_SUCCESS || fdc_context_may_print(item->ctx))) {
        /* A program that waits for a copy finds what kernels before it printed. */
        serve->driver->cuEventSynchronize(event_of(item));
        fdc_print_turn(serve, result != CUDA_SUCCESS);
    }
    if (item->fill != NULL && (result != CUDA_SUCCESS || item->down.size == 0))
        item->fill(serve, item->user, NULL, 0);
    if (result == CUDA_SUCCESS && item->down.size != 0) {
        uint8_t *view = (uint8_t *)serve->region[FDC_REGION_DOWN] + item->down.offset;

        if (item->fill != NULL)
            item->fill(serve, item->user, view, item->down.size);
        if (item->aside)
            fdc_link_put_aside(serve->link, item->down.offset, item->down.size, &put);
        else
            fdc_link_put(serve->link, FDC_REGION_DOWN, item->down.offset, view,
                         item->down.size, &put);
        fdc_count(serve, down_bytes, item->down.size);
    }
    fdc_send_done_after(serve, item->ctx, item->ticket, result, put);
    if (item->mark != NULL)
        fdc_mark_put(item->mark);
    else
        fdc_event_box_put(item->box);
    free(item);
    __atomic_fetch_sub(&serve->done_count, 1, __ATOMIC_ACQ_REL);
}

int
fdc_done_turn(struct fdc_serve *serve)
{
    struct { struct fdc_ctx *ctx; CUstream stream; } busy[BUSY_MAX];
    struct fdc_done **place, *item, *last = NULL;
    int sent = 0, nbusy = 0, i;

    if (!fdc_done_any(serve))
        return 0;
    pthread_mutex_lock(&serve->done_lock);
    take_inbox(serve);
    for (place = &serve->done_first; (item = *place) != NULL;) {
        CUresult result = CUDA_ERROR_NOT_READY;

        for (i = 0; i < nbusy; i++)
            if (busy[i].stream == item->stream && busy[i].ctx == item->ctx)
                break;
        if (i == nbusy) {
            fdc_context_use_ctx(serve, item->ctx);
            result = serve->driver->cuEventQuery(event_of(item));
        }
        if (result == CUDA_ERROR_NOT_READY) {
            if (i == nbusy && nbusy < BUSY_MAX) {
                busy[nbusy].ctx = item->ctx;
                busy[nbusy++].stream = item->stream;
            }
            last = item;
            place = &item->next;
            continue;
        }
        *place = item->next;
        finish(serve, item, result);
        sent++;
    }
    serve->done_last = last;
    if (sent)
        fdc_send_flush(serve);
    pthread_mutex_unlock(&serve->done_lock);
    return sent;
}

void
fdc_done_flush(struct fdc_serve *serve)
{
    fdc_done_turn(serve);
}

void
fdc_done_cancel(struct fdc_serve *serve, struct fdc_ctx *ctx, CUresult result)
{
    struct fdc_done **place, *item, *last = NULL;

    pthread_mutex_lock(&serve->done_lock);
    take_inbox(serve);
    for (place = &serve->done_first; (item = *place) != NULL;) {
        if (ctx != NULL && item->ctx != ctx) {
            last = item;
            place = &item->next;
            continue;
        }
        *place = item->next;
        finish(serve, item, result);
    }
    serve->done_last = last;
    pthread_mutex_unlock(&serve->done_lock);
}

/* ---- the poller ---- */

void
fdc_poller_kick(struct fdc_serve *serve)
{
    __atomic_add_fetch(&serve->poller_word, 1, __ATOMIC_ACQ_REL);
    fdc_futex_wake(&serve->poller_word, 1, false);
}

static void *
poller_main(void *arg)
{
    struct fdc_serve *serve = arg;
    int64_t interval = POLL_MIN_US;
    int quiet = 0;

    while (!fdc_load_acquire(&serve->poller_stop)) {    /* pairs with fdc_poller_stop() */
        uint32_t word = __atomic_load_n(&serve->poller_word, __ATOMIC_ACQUIRE);
        bool due = fdc_hostfns_turn(serve);
        int sent = fdc_done_turn(serve);

        if (sent || due) {
            interval = POLL_MIN_US;
            quiet = 0;
        } else if (interval < POLL_MAX_US) {
            interval += interval / 8;
        }
        if (fdc_send_rest(serve)) {
            fdc_link_wait_room(serve->link, FDC_LANE_REPLY, 4096, 1000);
            continue;
        }
        /* Falls asleep only after a while, so that a busy client's items need no waking. */
        if (fdc_done_any(serve) || quiet++ < QUIET_TURNS) {
            fdc_futex_wait(&serve->poller_word, word, interval, false);
            continue;
        }
        __atomic_store_n(&serve->poller_sleeps, 1, __ATOMIC_SEQ_CST);
        if (!fdc_done_any(serve))
            fdc_futex_wait(&serve->poller_word, word, -1, false);
        __atomic_store_n(&serve->poller_sleeps, 0, __ATOMIC_SEQ_CST);
        interval = POLL_MIN_US;
        quiet = 0;
    }
    return NULL;
}

int
fdc_poller_start(struct fdc_serve *serve)
{
    if (pthread_create(&serve->poller, NULL, poller_main, serve))
        return -EAGAIN;
    serve->poller_runs = true;
    return 0;
}

void
fdc_poller_stop(struct fdc_serve *serve)
{
    if (!serve->poller_runs)
        return;
    fdc_store_release(&serve->poller_stop, 1);          /* pairs with poller_main() */
    fdc_poller_kick(serve);
    pthread_join(serve->poller, NULL);
    serve->poller_runs = false;
}
