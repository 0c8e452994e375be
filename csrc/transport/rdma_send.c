/*
 * The rdma road, sending. Messages gather in a batch, which leaves as one active message:
 * when it is asked to, when it is full, at once when the lane has been quiet, and otherwise
 * through the pusher, a thread that is started at the first need. It also lets UCX work
 * while something is on its way and nobody waits.
 *
 * A sender has no more on its way than the lane's size, counted until the other side has
 * moved it into its ring; so what is committed can always be handed to UCX, which queues.
 *
 * Puts are RDMA writes out of this side's own view of the region, which is registered, so
 * the caller's bytes are copied there first. No order holds between a write and an active
 * message: a flush of the endpoint tells when the other side has what was put before it, and
 * then a note says so (LANDED). Towards the client a batch names the puts that were made
 * before it, and its receiver holds it back until then; towards the worker the message does.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "rdma.h"

enum {
    QUIET_NS = 100000, /* then a message does not wait for company */
    PUSH_NS = 200000,
    PUSH_SLOW_NS = 3200000, /* while nothing moves */
    PUSH_IDLE_ROUNDS = 25,
};

static void arm_pusher(struct rdma_link *rdma);
static void flush_puts(struct rdma_link *rdma);

/* ---- batches ---- */

static struct rdma_batch *
batch_take(struct rdma_link *rdma, size_t room, uint32_t reserve)
{
    struct rdma_batch *batch;

    if (room > RDMA_BATCH_ROOM) {
        batch = malloc(sizeof(*batch) + room);
        if (!batch)
            return NULL;
        *batch = (struct rdma_batch){.rdma = rdma, .room = room};
        batch->bytes = (uint8_t *)(batch + 1);
    } else {
        if (rdma->free_count <= reserve)
            return NULL;
        batch = rdma->free_batches;
        rdma->free_batches = batch->next;
        rdma->free_count--;
    }
    batch->used = sizeof(struct rdma_head);
    return batch;
}

static void
batch_free(struct rdma_batch *batch)
{
    struct rdma_link *rdma = batch->rdma;

    if (!batch->pooled) {
        free(batch);
        return;
    }
    batch->next = rdma->free_batches;
    rdma->free_batches = batch;
    rdma->free_count++;
}

static void
batch_sent(void *request, ucx_status status, void *user_data)
{
    struct rdma_batch *batch = user_data;
    struct rdma_link *rdma = batch->rdma;

    rdma->pending--;
    rdma->news = true; /* who waits for room may wait for a batch */
    if (status != UCX_OK)
        fdc_store_ordered(&rdma->dead, 1);
    batch_free(batch);
    rdma->ucx.request_free(request);
}

/* Hands the batch over, with this head. Locked. */
static void
batch_send(struct rdma_link *rdma, struct rdma_batch *batch, struct rdma_head head)
{
    enum fdc_lane lane = rdma->link.worker ? FDC_LANE_COMMAND : FDC_LANE_REPLY;
    struct ucx_op op = {
        .mask = UCX_OP_CALLBACK | UCX_OP_USER_DATA | UCX_OP_FLAGS,
        .flags = UCX_AM_SEND_EAGER,
        .cb = batch_sent,
        .user_data = batch,
    };
    ucx_pending pending;

    head.size = (uint32_t)(batch->used - sizeof(head));
    if (head.kind == RDMA_BATCH) {
        head.taken = rdma->in[lane].taken;
        rdma->in[lane].told = head.taken;
    }
    memcpy(batch->bytes, &head, sizeof(head));
    if (batch->pooled && rdma->pool_mem) {
        op.mask |= UCX_OP_MEMH;
        op.memh = rdma->pool_mem;
    }
    pending = rdma->ucx.am_send_nbx(rdma->ep, RDMA_AM_ID, NULL, 0, batch->bytes,
                                    batch->used, &op);
    if (UCX_IS_ERROR(pending)) {
        fdc_store_ordered(&rdma->dead, 1);
        batch_free(batch);
    } else if (pending) {
        rdma->pending++;
    } else {
        batch_free(batch);
    }
}

/* The open batch leaves, unless somebody is writing behind it. The lane's lock is held.
 * True: nothing of it is left. */
static bool
send_lane(struct rdma_link *rdma, enum fdc_lane lane)
{
    struct rdma_out *out = &rdma->out[lane];
    struct rdma_head head = {
        .kind = RDMA_BATCH,
        .lane = (uint16_t)lane,
    };
    bool waits;

    if (!out->open || out->open->used == sizeof(head))
        return true;
    if (out->claimed > 0) {
        out->flush = true;
        return false;
    }
    rdma_lock(rdma);
    if (rdma_meet(rdma, 0) == -EAGAIN) {
        rdma_unlock(rdma);
        return false;
    }
    if (!fdc_load_acquire(&rdma->dead)) {
        head.seq = out->seq++;
        head.puts = lane == FDC_LANE_REPLY ? rdma->puts : 0;
        batch_send(rdma, out->open, head);
    } else {
        batch_free(out->open);
    }
    out->open = NULL;
    out->sent_ns = fdc_now_ns();
    waits = rdma->pending > 0;
    rdma_unlock(rdma);
    if (waits)
        arm_pusher(rdma);
    return true;
}

bool
rdma_send_open(struct rdma_link *rdma)
{
    bool all = true;

    for (int lane = 0; lane < FDC_LANES; lane++) {
        if (!link_sends(&rdma->link, lane))
            continue;
        pthread_mutex_lock(&rdma->out[lane].lock);
        all &= send_lane(rdma, lane);
        pthread_mutex_unlock(&rdma->out[lane].lock);
    }
    return all;
}

bool
rdma_send_word(struct rdma_link *rdma, enum rdma_kind kind)
{
    struct rdma_head head = {.kind = (uint16_t)kind};
    struct rdma_batch *batch = NULL;

    if (!fdc_load_relaxed(&rdma->dead) && fdc_load_relaxed(&rdma->met))
        batch = batch_take(rdma, 0, 0);
    if (batch)
        batch_send(rdma, batch, head);
    return batch != NULL;
}

void
rdma_send_notes(struct rdma_link *rdma)
{
    struct rdma_head head = {.kind = RDMA_LANDED, .puts = rdma->puts_done};
    struct rdma_batch *batch;

    if (fdc_load_relaxed(&rdma->dead) || !fdc_load_relaxed(&rdma->met))
        return;
    if (FDC_UNLIKELY(rdma->tried))
        rdma->tried = !rdma_send_word(rdma, RDMA_HEARD);
    flush_puts(rdma);
    if (rdma->puts_told < rdma->puts_done) {
        batch = batch_take(rdma, 0, 0);
        if (!batch)
            return; /* some other time */
        rdma->puts_told = head.puts;
        batch_send(rdma, batch, head);
    }
    for (int lane = 0; lane < FDC_LANES; lane++) {
        struct rdma_in *in = &rdma->in[lane];
        uint64_t much = rdma->asked ? 1 : rdma->link.size.lane[lane] / 4;

        if (in->taken - in->told < much)
            continue;
        batch = batch_take(rdma, 0, 0);
        if (!batch)
            return;
        in->told = in->taken;
        head = (struct rdma_head){
            .kind = RDMA_TAKEN,
            .lane = (uint16_t)lane,
            .taken = in->taken,
        };
        batch_send(rdma, batch, head);
    }
}

/* ---- lanes ---- */

/* Bytes that may still be committed. The lane's lock is held. */
static uint64_t
window_left(const struct rdma_link *rdma, const struct rdma_out *out,
            enum fdc_lane lane)
{
    return rdma->link.size.lane[lane] - (out->sent - fdc_load_acquire(&out->taken));
}

/* A batch with so much room behind what it holds, if there can be one now. The lane's lock
 * is held. */
static struct rdma_batch *
open_batch(struct rdma_link *rdma, enum fdc_lane lane, size_t need)
{
    struct rdma_out *out = &rdma->out[lane];
    size_t room;

    if (need > window_left(rdma, out, lane))
        return NULL;
    if (out->open && out->open->room - out->open->used >= need)
        return out->open;
    if (out->claimed > 0 || (out->open && !send_lane(rdma, lane)))
        return NULL;
    room = sizeof(struct rdma_head) + need;
    rdma_lock(rdma);
    if (out->open) /* empty, and too small */
        batch_free(out->open);
    out->open = batch_take(rdma, room, RDMA_RESERVE);
    rdma_unlock(rdma);
    return out->open;
}

void *
rdma_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err)
{
    struct rdma_link *rdma = rdma_of(link);
    struct rdma_out *out = &rdma->out[lane];
    struct rdma_record record = {.size = size};
    size_t need = rdma_record_size(size);
    struct rdma_batch *batch;
    uint8_t *room = NULL;

    if (size > link_max_record(link, lane)) {
        *err = -EMSGSIZE;
        return NULL;
    }
    pthread_mutex_lock(&out->lock);
    batch = fdc_load_acquire(&rdma->dead) ? NULL : open_batch(rdma, lane, need);
    if (batch) {
        room = batch->bytes + batch->used;
        memset(room + need - 8, 0, 8);
        memcpy(room, &record, sizeof(record));
        room += sizeof(record);
        out->claimed = need;
    }
    pthread_mutex_unlock(&out->lock);
    if (!room)
        *err = fdc_load_acquire(&rdma->dead) ? -EPIPE : -EAGAIN;
    return room;
}

void
rdma_commit(struct fdc_link *link, enum fdc_lane lane)
{
    struct rdma_link *rdma = rdma_of(link);
    struct rdma_out *out = &rdma->out[lane];
    bool gone;

    pthread_mutex_lock(&out->lock);
    out->open->used += out->claimed;
    fdc_store_release(&out->sent, out->sent + out->claimed); /* take_credit() */
    out->claimed = 0;
    gone = false;
    if (out->flush || lane == FDC_LANE_SIDE || out->open->used >= RDMA_BATCH_ROOM / 2 ||
        fdc_now_ns() - out->sent_ns > QUIET_NS) {
        out->flush = false;
        gone = send_lane(rdma, lane);
    }
    pthread_mutex_unlock(&out->lock);
    if (!gone)
        arm_pusher(rdma);
}

void
rdma_abort(struct fdc_link *link, enum fdc_lane lane)
{
    struct rdma_link *rdma = rdma_of(link);
    struct rdma_out *out = &rdma->out[lane];

    pthread_mutex_lock(&out->lock);
    out->claimed = 0;
    if (out->flush) {
        out->flush = false;
        send_lane(rdma, lane);
    }
    pthread_mutex_unlock(&out->lock);
}

int
rdma_flush(struct fdc_link *link, enum fdc_lane lane)
{
    struct rdma_link *rdma = rdma_of(link);
    struct rdma_out *out = &rdma->out[lane];
    bool gone;

    if (!link_sends(link, lane))
        return -EINVAL;
    pthread_mutex_lock(&out->lock);
    if (out->open && out->open->used > sizeof(struct rdma_head))
        __atomic_fetch_add(&link->stats.flushes, 1, __ATOMIC_RELAXED);
    gone = send_lane(rdma, lane);
    pthread_mutex_unlock(&out->lock);
    if (!gone)
        arm_pusher(rdma);
    return fdc_load_acquire(&rdma->dead) ? -EPIPE : 0;
}

bool
rdma_has_room(struct rdma_link *rdma, enum fdc_lane lane, uint32_t size)
{
    struct rdma_out *out = &rdma->out[lane];
    bool room;

    pthread_mutex_lock(&out->lock);
    room = open_batch(rdma, lane, rdma_record_size(size)) != NULL;
    pthread_mutex_unlock(&out->lock);
    return room;
}

/* ---- puts ---- */

static void
put_written(void *request, ucx_status status, void *user_data)
{
    struct rdma_link *rdma = user_data;

    rdma->pending--;
    if (status != UCX_OK)
        fdc_store_ordered(&rdma->dead, 1);
    rdma->ucx.request_free(request);
}

static void
put_flushed(void *request, ucx_status status, void *user_data)
{
    struct rdma_link *rdma = user_data;

    rdma->pending--;
    if (status != UCX_OK)
        fdc_store_ordered(&rdma->dead, 1);
    else
        rdma->puts_done = rdma->puts_flushing;
    rdma->puts_flushing = 0;
    rdma->ucx.request_free(request);
}

/* One flush at a time: it covers all that was written before it, and what is written
 * meanwhile is the next one's. Locked. */
static void
flush_puts(struct rdma_link *rdma)
{
    struct ucx_op op = {
        .mask = UCX_OP_CALLBACK | UCX_OP_USER_DATA,
        .cb = put_flushed,
        .user_data = rdma,
    };
    ucx_pending pending;

    if (rdma->puts_flushing || rdma->puts_done == rdma->puts)
        return;
    rdma->puts_flushing = rdma->puts;
    pending = rdma->ucx.ep_flush_nbx(rdma->ep, &op);
    if (UCX_IS_ERROR(pending)) {
        fdc_store_ordered(&rdma->dead, 1);
    } else if (pending) {
        rdma->pending++;
    } else {
        rdma->puts_done = rdma->puts_flushing;
        rdma->puts_flushing = 0;
    }
}

/* Locked. 0 or -EPIPE. */
static int
put_start(struct rdma_link *rdma, enum fdc_region region, uint64_t offset,
          uint64_t size)
{
    struct ucx_op op = {
        .mask = UCX_OP_CALLBACK | UCX_OP_USER_DATA | UCX_OP_MEMH,
        .cb = put_written,
        .user_data = rdma,
        .memh = rdma->region_mem[region],
    };
    ucx_pending pending;

    pending = rdma->ucx.put_nbx(rdma->ep, rdma->link.region[region] + offset, size,
                                rdma->remote_base + offset, rdma->rkey, &op);
    if (UCX_IS_ERROR(pending))
        return -EPIPE;
    if (pending)
        rdma->pending++;
    rdma->puts++;
    return 0;
}

int
rdma_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
         const void *bytes, uint64_t size, uint64_t *ticket)
{
    uint8_t *view = link->region[region] + offset;
    struct rdma_link *rdma = rdma_of(link);
    int err;

    /* Outside the lock: reading the program's memory may need this link. */
    if (view != bytes)
        memmove(view, bytes, size);
    rdma_lock(rdma);
    err = rdma_meet(rdma, LINK_SETUP_TIMEOUT_US);
    if (!err && fdc_load_acquire(&rdma->dead))
        err = -EPIPE;
    if (!err)
        err = put_start(rdma, region, offset, size);
    if (!err) {
        if (!link->worker)
            *ticket = rdma->puts;
        rdma_send_notes(rdma);
    }
    rdma_unlock(rdma);
    if (!err)
        arm_pusher(rdma);
    return err == -EAGAIN ? -EPIPE : err;
}

/* ---- the pusher ---- */

bool
rdma_is_idle(struct rdma_link *rdma)
{
    return rdma->pending == 0 && rdma->puts_told == rdma->puts;
}

static void *
pusher_thread(void *arg)
{
    struct timespec period = {.tv_nsec = PUSH_NS};
    struct rdma_link *rdma = arg;
    int idle = 0;
    bool done, moved;

    for (;;) {
        switch (fdc_load_acquire(&rdma->pusher_state)) {
        case RDMA_PUSHER_STOP:
            return NULL;
        case RDMA_PUSHER_PARKED:
            fdc_futex_wait(&rdma->pusher_state, RDMA_PUSHER_PARKED, -1, false);
            period.tv_nsec = PUSH_NS;
            idle = 0;
            continue;
        default:
            nanosleep(&period, NULL);
        }
        done = rdma_send_open(rdma);
        rdma_lock(rdma);
        moved = rdma_progress(rdma);
        done &= rdma_is_idle(rdma) || fdc_load_acquire(&rdma->dead);
        rdma_unlock(rdma);
        if (moved)
            period.tv_nsec = PUSH_NS;
        else if (!done && period.tv_nsec < PUSH_SLOW_NS)
            period.tv_nsec += period.tv_nsec / 4;
        idle = done ? idle + 1 : 0;
        if (idle >= PUSH_IDLE_ROUNDS) {
            pthread_mutex_lock(&rdma->pusher_lock);
            if (rdma->pusher_state == RDMA_PUSHER_ARMED)
                fdc_exchange_ordered(&rdma->pusher_state, RDMA_PUSHER_PARKED);
            pthread_mutex_unlock(&rdma->pusher_lock);
            /* Who had more for it in between may have seen it awake still; the exchange
             * pairs with the one in arm_pusher(). */
            done = rdma_send_open(rdma);
            rdma_lock(rdma);
            done &= rdma_is_idle(rdma);
            rdma_unlock(rdma);
            if (!done && !fdc_load_acquire(&rdma->dead))
                arm_pusher(rdma);
        }
    }
}

static void
start_pusher(struct rdma_link *rdma)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    fdc_store_release(&rdma->pusher_state, RDMA_PUSHER_ARMED);
    if (pthread_create(&rdma->pusher, NULL, pusher_thread, rdma) == 0) {
        rdma->has_pusher = true;
    } else {
        fdc_log(FDC_LOG_ERROR, "rdma link ends: no thread to send with");
        fdc_store_ordered(&rdma->dead, 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Something is on its way, or queued, that nobody may come back for. */
static void
arm_pusher(struct rdma_link *rdma)
{
    uint32_t state;

    /* An exchange with itself: what was queued before is seen by who parks after it. */
    state = __atomic_fetch_or(&rdma->pusher_state, 0, __ATOMIC_SEQ_CST);
    if (FDC_LIKELY(state == RDMA_PUSHER_ARMED))
        return;
    pthread_mutex_lock(&rdma->pusher_lock);
    if (rdma->pusher_state == RDMA_PUSHER_NONE) {
        start_pusher(rdma);
    } else if (rdma->pusher_state == RDMA_PUSHER_PARKED) {
        fdc_store_release(&rdma->pusher_state, RDMA_PUSHER_ARMED);
        fdc_futex_wake(&rdma->pusher_state, 1, false);
    }
    pthread_mutex_unlock(&rdma->pusher_lock);
}

void
rdma_stop_pusher(struct rdma_link *rdma)
{
    pthread_mutex_lock(&rdma->pusher_lock);
    fdc_store_release(&rdma->pusher_state, RDMA_PUSHER_STOP);
    pthread_mutex_unlock(&rdma->pusher_lock);
    fdc_futex_wake(&rdma->pusher_state, 1, false);
    if (rdma->has_pusher)
        pthread_join(rdma->pusher, NULL);
    rdma->has_pusher = false;
}
