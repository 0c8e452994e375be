/*
 * Shares of computing time (fdc/share.h). A lease that has one is given the GPU for a turn
 * of some milliseconds, and what its work took is charged to it when it is over: a bucket
 * that fills with the lease's percentage of the time. What was too much is a debt, and the
 * lease waits until it is paid, unless nobody else has wanted the GPU for a while: then it
 * goes on, and that costs nothing.
 *
 * The executor stands still here while it is not the session's turn; everything else of
 * the worker goes on. Events behind the work of each stream say when it is over; the meter's
 * own thread looks at them, and records some itself while the executor stands or sleeps.
 * Nobody waits here for work of his own for longer than HOLD_NS: it may be waiting for the
 * program. Time in which the device waits for a host function of the program's is not
 * charged; copies between servers' workers and the clearing of new memory are not either.
 */
#include "server/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fdc/share.h"

#define TURN_NS 10000000ull     /* a turn, where others want one too */
#define HOLD_NS 100000000ull    /* after which others may come in beside work that lasts */
#define LINGER_NS 50000000ull   /* who has wanted the GPU so lately wants it still */
#define LINE_NS 10000000ull     /* who has looked so lately stands in line */
#define BURST_NS 100000000ull   /* so much of its time a lease may have saved */
#define LOOK_US 100             /* how often is looked */
#define BATCH_MAX 512           /* calls in a turn; fewer where they take long */
#define MARKS 64                /* streams whose work is waited for at a time */

_Static_assert(sizeof(struct fdc_share_row) == FDC_SHARE_ROW, "rows lie side by side");

struct metered {                        /* a device of the lease */
    struct fdc_share_row *row;          /* NULL: nobody keeps account of it */
    uint32_t gpu, percent;              /* as it said at the beginning */
    bool turn;                          /* the GPU is ours */
    bool under_way;                     /* work, from begun_ns on */
    bool alone;                         /* nobody else wanted the GPU when that began */
    bool late;                          /* some of it lasts for long */
    uint64_t turn_ns, begun_ns, stalled_ns;
    uint32_t count, batch;
    /* The stream that was given work last, while there is no mark behind that; and that
     * the executor gives it no more for now. */
    CUstream last;
    struct fdc_ctx *last_ctx;
    bool unmarked, idle;
    struct {
        struct fdc_mark *mark;          /* of a stream, when its work will be over */
        CUstream stream;
        bool owed;                      /* it has been given more since */
    } out[MARKS];
    int marks;
};

struct fdc_meter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fdc_serve *serve;
    int fd;
    struct fdc_share_row *rows;
    struct metered device[FDC_DEVICES_MAX];
    pthread_t thread;
    bool over;
    pthread_mutex_t stall_lock;         /* a leaf: the driver's threads take it */
    uint64_t stalled_ns;                /* time with a host function of the program's */
    uint64_t stall_since;
    int stalls;
};

static __thread bool executes;

/* The GPU's lock, of the process. */
static bool
try_turn(const struct fdc_meter *meter, const struct metered *m, short type)
{
    struct flock flock;

    memset(&flock, 0, sizeof(flock));
    flock.l_type = type;
    flock.l_whence = SEEK_SET;
    flock.l_start = FDC_SHARE_LOCK + (off_t)m->gpu;
    flock.l_len = 1;
    return fcntl(meter->fd, F_SETLK, &flock) == 0;
}

/* ---- whose turn it is ---- */

/* What a lease has saved, as a time; never more than BURST_NS. */
static uint64_t
due_of(const struct fdc_share_row *row, uint64_t now)
{
    uint64_t due = fdc_load_relaxed(&row->due_ns);

    return due > now - BURST_NS ? due : now - BURST_NS;
}

/* Whether we may try for the GPU: nobody else wants it, or our time is not used up and of
 * those who stand in line nobody has saved more. */
static bool
may_go(const struct fdc_meter *meter, const struct metered *m, uint64_t now, bool *alone)
{
    uint64_t due = due_of(m->row, now), other;
    bool first = true;

    *alone = true;
    for (uint32_t n = 0; n < FDC_SHARE_ROWS; n++) {
        const struct fdc_share_row *row = &meter->rows[n];

        if (row == m->row || fdc_load_relaxed(&row->gpu) != m->gpu)
            continue;
        if (fdc_load_relaxed(&row->percent) == 0) {
            *alone = false;             /* nobody knows what it does */
            continue;
        }
        if (fdc_load_relaxed(&row->wanted_ns) + LINGER_NS < now)
            continue;
        *alone = false;
        other = due_of(row, now);
        if (fdc_load_relaxed(&row->waiting_ns) + LINE_NS >= now && other <= now &&
            (other < due || (other == due && row < m->row)))
            first = false;
    }
    return *alone || (due <= now && first);
}

static uint64_t
stalled(struct fdc_meter *meter, uint64_t now)
{
    uint64_t stood;

    pthread_mutex_lock(&meter->stall_lock);
    stood = meter->stalled_ns;
    if (meter->stalls != 0 && now > meter->stall_since)
        stood += now - meter->stall_since;
    pthread_mutex_unlock(&meter->stall_lock);
    return stood;
}

/* One look: true, and the GPU is ours. */
static bool
take_turn(struct fdc_meter *meter, struct metered *m)
{
    uint64_t now = fdc_now_ns();
    bool alone;

    fdc_store_relaxed(&m->row->wanted_ns, now);
    fdc_store_relaxed(&m->row->waiting_ns, now);
    if (!may_go(meter, m, now, &alone) || !try_turn(meter, m, F_WRLCK))
        return false;
    fdc_store_relaxed(&m->row->waiting_ns, 0);
    m->turn = true;
    m->turn_ns = now;
    m->count = 0;
    if (!m->under_way) {
        m->under_way = true;
        m->alone = alone;
        m->begun_ns = now;
        m->stalled_ns = stalled(meter, now);
    }
    pthread_cond_broadcast(&meter->changed); /* somebody sees to it that it ends */
    return true;
}

/* ---- what it costs ---- */

/* What has been since the work began, or was charged last. */
static void
charge(struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    struct fdc_share_row *row = m->row;
    uint64_t took = now - m->begun_ns, stood = stalled(meter, now);
    uint64_t due, cost, made;

    took -= stood - m->stalled_ns < took ? stood - m->stalled_ns : took;
    __atomic_add_fetch(&row->spent_ns, took, __ATOMIC_RELAXED);
    cost = took * 100 / m->percent;
    due = fdc_load_relaxed(&row->due_ns);
    do {
        made = due > m->begun_ns - BURST_NS ? due : m->begun_ns - BURST_NS;
        made += m->alone ? 0 : cost;
    } while (!__atomic_compare_exchange_n(&row->due_ns, &due, made, false,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    m->begun_ns = now;
    m->stalled_ns = stood;
}

static void
end_turn(struct fdc_meter *meter, struct metered *m)
{
    if (!m->turn)
        return;
    m->turn = false;
    (void)try_turn(meter, m, F_UNLCK);
    pthread_cond_broadcast(&meter->changed);
}

/* All of the turn's work is over. The next turn has as many calls as fit into it. */
static void
settle(struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    uint64_t took = now - m->turn_ns;

    if (took < TURN_NS / 2 && m->count >= m->batch && m->batch < BATCH_MAX)
        m->batch *= 2;
    else if (took > 2 * TURN_NS && m->batch > 1)
        m->batch /= 2;
    charge(meter, m, now);
    m->under_way = m->late = false;
    end_turn(meter, m);
}

/* The turn is over, and its work goes on. */
static void
leave_it(struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    charge(meter, m, now);
    end_turn(meter, m);
    (void)may_go(meter, m, now, &m->alone);
}

/* ---- marks; under the lock ---- */

static void
mark_put(struct metered *m, int n)
{
    struct fdc_ctx *ctx = m->out[n].mark->ctx;

    fdc_mark_put(m->out[n].mark);
    m->out[n] = m->out[--m->marks];
    __atomic_sub_fetch(&ctx->waits, 1, __ATOMIC_RELEASE); /* as wait_leave() in event.c */
}

static bool
captures(struct fdc_serve *serve, const struct fdc_ctx *ctx, CUstream stream)
{
    if (stream == CU_STREAM_LEGACY)
        return fdc_load_relaxed(&ctx->blocking_captures) != 0;
    return fdc_stream_is_capturing(serve, stream);
}

/* What is being captured costs nothing until it is launched. */
static struct fdc_mark *
mark_of(struct fdc_serve *serve, struct fdc_ctx *ctx, CUstream stream)
{
    struct fdc_ctx *here = fdc_context_here();
    struct fdc_mark *made = NULL;

    /* First this, then whether it is open; context_shut() does it the other way round. */
    __atomic_add_fetch(&ctx->waits, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&ctx->open, __ATOMIC_SEQ_CST) ||
        fdc_context_use_ctx(serve, ctx) != CUDA_SUCCESS)
        goto out;
    if (captures(serve, ctx, stream) || fdc_mark_stream(ctx, stream, &made) != CUDA_SUCCESS)
        made = NULL;
    if (here != NULL && here != ctx && fdc_load_acquire(&here->open))
        (void)fdc_context_use_ctx(serve, here);
out:
    if (made == NULL)
        __atomic_sub_fetch(&ctx->waits, 1, __ATOMIC_RELEASE);
    return made;
}

/* Puts a mark behind the last work, but one at a time of a stream: one that stands still
 * takes only so many calls. On the NULL stream it goes where it is transparent: right
 * behind that work, before any other stream is given some. */
static void
mark_last(struct fdc_meter *meter, struct metered *m)
{
    struct fdc_mark *made;

    if (!m->unmarked)
        return;
    m->unmarked = false;
    for (int i = 0; i < m->marks; i++)
        if (m->out[i].stream == m->last && m->out[i].mark->ctx == m->last_ctx) {
            m->out[i].owed = true;
            return;
        }
    if (m->marks == MARKS)
        return;                         /* others tell when most of it is over */
    made = mark_of(meter->serve, m->last_ctx, m->last);
    if (made != NULL) {
        m->out[m->marks].mark = made;
        m->out[m->marks].owed = false;
        m->out[m->marks++].stream = m->last;
    }
    pthread_cond_broadcast(&meter->changed);
}

/* This mark's work is over. One that is owed follows, while the executor gives nothing. */
static void
mark_passed(struct fdc_meter *meter, struct metered *m, int n)
{
    CUstream stream = m->out[n].stream;
    struct fdc_ctx *ctx = m->out[n].mark->ctx;
    struct fdc_mark *made = NULL;

    if (m->out[n].owed && !m->idle)
        return;
    if (m->out[n].owed && (stream != CU_STREAM_LEGACY || m->last == stream))
        made = mark_of(meter->serve, ctx, stream);
    if (made == NULL) {
        mark_put(m, n);
        return;
    }
    fdc_mark_put(m->out[n].mark);
    __atomic_sub_fetch(&ctx->waits, 1, __ATOMIC_RELEASE);
    m->out[n].mark = made;
    m->out[n].owed = false;
}

/* The meter's thread. True: there is something to look at. */
static bool
look(struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    if (!m->under_way)
        return false;
    fdc_store_relaxed(&m->row->wanted_ns, now);
    if (m->turn && now - m->turn_ns > HOLD_NS) {
        leave_it(meter, m, now);
        m->late = true;
    }
    for (int i = m->marks; i-- > 0;)
        if (meter->serve->driver->cuEventQuery(m->out[i].mark->event) !=
            CUDA_ERROR_NOT_READY)
            mark_passed(meter, m, i);
    if (m->marks == 0 && !m->unmarked) {
        settle(meter, m, fdc_now_ns());
        return false;
    }
    return true;
}

static void *
run(void *arg)
{
    struct fdc_meter *meter = arg;
    bool busy;

    pthread_mutex_lock(&meter->lock);
    while (!meter->over) {
        busy = false;
        for (int i = 0; i < meter->serve->limits.devices; i++)
            busy |= look(meter, &meter->device[i], fdc_now_ns());
        if (!busy) {
            pthread_cond_wait(&meter->changed, &meter->lock);
            continue;
        }
        pthread_mutex_unlock(&meter->lock);
        usleep(LOOK_US);
        pthread_mutex_lock(&meter->lock);
    }
    pthread_mutex_unlock(&meter->lock);
    return NULL;
}

/* ---- the executor ---- */

static bool
is_full(const struct metered *m)
{
    return m->count >= m->batch || fdc_now_ns() - m->turn_ns > TURN_NS;
}

/* Returns with a turn, or where there is no use in one any more. */
static void
await_turn(struct fdc_meter *meter, struct metered *m)
{
    struct fdc_serve *serve = meter->serve;

    while (!m->turn || is_full(m)) {
        if (fdc_load_relaxed(&serve->stop) || fdc_load_relaxed(&serve->gone))
            return;
        mark_last(meter, m);
        if (m->turn && m->late) {
            leave_it(meter, m, fdc_now_ns()); /* it may be waiting for what comes */
        } else if (m->turn) {
            pthread_cond_wait(&meter->changed, &meter->lock);
        } else if (take_turn(meter, m)) {
            return;
        } else {
            pthread_mutex_unlock(&meter->lock);
            usleep(LOOK_US);
            pthread_mutex_lock(&meter->lock);
        }
    }
}

void
fdc_meter_enter(struct fdc_serve *serve, CUstream stream)
{
    struct fdc_meter *meter = serve->meter;
    struct fdc_ctx *ctx = fdc_context_here();
    struct metered *m;

    if (!executes || ctx == NULL || meter->device[ctx->device].row == NULL)
        return;
    m = &meter->device[ctx->device];
    pthread_mutex_lock(&meter->lock);
    m->idle = true;
    await_turn(meter, m);
    m->idle = false;
    m->count++;
    if (m->last != stream || m->last_ctx != ctx)
        mark_last(meter, m);
    m->last = stream;
    m->last_ctx = ctx;
    m->unmarked = true;
    pthread_mutex_unlock(&meter->lock);
}

void
fdc_meter_idle(struct fdc_serve *serve)
{
    struct fdc_meter *meter = serve->meter;

    pthread_mutex_lock(&meter->lock);
    for (int i = 0; i < serve->limits.devices; i++) {
        meter->device[i].idle = true;
        mark_last(meter, &meter->device[i]);
    }
    pthread_mutex_unlock(&meter->lock);
}

/* A stream that is about to go: what it still does goes on behind its end, and is charged.
 * Another one may have its address soon. */
static void
mark_leaving(struct fdc_meter *meter, struct metered *m, CUstream stream)
{
    struct fdc_ctx *owing = NULL;
    struct fdc_mark *made;

    if (m->last == stream) {
        if (m->unmarked)
            owing = m->last_ctx;
        m->unmarked = false;
        m->last = NULL;
    }
    for (int n = 0; n < m->marks; n++)
        if (m->out[n].stream == stream) {
            if (m->out[n].owed)
                owing = m->out[n].mark->ctx;
            m->out[n].owed = false;
            m->out[n].stream = NULL;
        }
    if (owing == NULL || m->marks == MARKS)
        return;
    made = mark_of(meter->serve, owing, stream);
    if (made == NULL)
        return;
    m->out[m->marks].mark = made;
    m->out[m->marks].owed = false;
    m->out[m->marks++].stream = NULL;
    pthread_cond_broadcast(&meter->changed);
}

void
fdc_meter_gone(struct fdc_serve *serve, CUstream stream)
{
    struct fdc_meter *meter = serve->meter;

    if (meter == NULL)
        return;
    pthread_mutex_lock(&meter->lock);
    for (int i = 0; i < serve->limits.devices; i++)
        mark_leaving(meter, &meter->device[i], stream);
    pthread_mutex_unlock(&meter->lock);
}

void
fdc_meter_executes(bool on)
{
    executes = on;
}

void
fdc_meter_stall(struct fdc_serve *serve, bool on)
{
    struct fdc_meter *meter = serve->meter;
    uint64_t now = fdc_now_ns();

    pthread_mutex_lock(&meter->stall_lock);
    if (on && meter->stalls++ == 0)
        meter->stall_since = now;
    if (!on && --meter->stalls == 0)
        meter->stalled_ns += now - meter->stall_since;
    pthread_mutex_unlock(&meter->stall_lock);
}

uint64_t
fdc_meter_spent(const struct fdc_serve *serve)
{
    uint64_t spent = 0;

    for (int i = 0; serve->meter != NULL && i < serve->limits.devices; i++)
        if (serve->meter->device[i].row != NULL)
            spent += fdc_load_relaxed(&serve->meter->device[i].row->spent_ns);
    return spent;
}

/* ---- the session's ---- */

int
fdc_meter_new(struct fdc_serve *serve)
{
    const struct fdc_serve_limits *limits = &serve->limits;
    struct fdc_meter *meter;
    bool any = false;
    int err = -ENOMEM;

    for (int i = 0; i < limits->devices; i++)
        any |= limits->share_row[i] > 0;
    if (limits->shares <= 0 || !any)
        return 0;
    meter = calloc(1, sizeof(*meter));
    if (meter == NULL)
        return -ENOMEM;
    meter->serve = serve;
    meter->fd = limits->shares;
    meter->rows = mmap(NULL, (size_t)FDC_SHARE_ROWS * FDC_SHARE_ROW, PROT_READ | PROT_WRITE,
                       MAP_SHARED, meter->fd, 0);
    if (meter->rows == MAP_FAILED) {
        err = -errno;
        goto err_free;
    }
    for (int i = 0; i < limits->devices; i++) {
        uint32_t n = limits->share_row[i];

        meter->device[i].batch = 1;
        if (n == 0 || n > FDC_SHARE_ROWS)
            continue;
        meter->device[i].row = &meter->rows[n - 1];
        meter->device[i].gpu = fdc_load_relaxed(&meter->rows[n - 1].gpu);
        meter->device[i].percent = fdc_load_relaxed(&meter->rows[n - 1].percent);
        if (meter->device[i].gpu != 1 + (uint32_t)limits->ordinal[i] ||
            meter->device[i].percent == 0) {
            err = -EINVAL;
            goto err_unmap;
        }
    }
    pthread_mutex_init(&meter->lock, NULL);
    pthread_mutex_init(&meter->stall_lock, NULL);
    pthread_cond_init(&meter->changed, NULL);
    err = -pthread_create(&meter->thread, NULL, run, meter);
    if (err != 0)
        goto err_unmap;
    serve->meter = meter;
    return 0;

err_unmap:
    munmap(meter->rows, (size_t)FDC_SHARE_ROWS * FDC_SHARE_ROW);
err_free:
    free(meter);
    return err;
}

void
fdc_meter_stop(struct fdc_serve *serve)
{
    struct fdc_meter *meter = serve->meter;

    if (meter == NULL || meter->over)
        return;
    pthread_mutex_lock(&meter->lock);
    meter->over = true;
    pthread_cond_broadcast(&meter->changed);
    pthread_mutex_unlock(&meter->lock);
    pthread_join(meter->thread, NULL);
    for (int i = 0; i < serve->limits.devices; i++) {
        struct metered *m = &meter->device[i];

        while (m->marks > 0)
            mark_put(m, 0);
        if (m->under_way)
            charge(meter, m, fdc_now_ns());
        end_turn(meter, m);
    }
}

void
fdc_meter_free(struct fdc_serve *serve)
{
    struct fdc_meter *meter = serve->meter;

    if (meter == NULL)
        return;
    fdc_meter_stop(serve);
    munmap(meter->rows, (size_t)FDC_SHARE_ROWS * FDC_SHARE_ROW);
    pthread_mutex_destroy(&meter->lock);
    pthread_mutex_destroy(&meter->stall_lock);
    pthread_cond_destroy(&meter->changed);
    free(meter);
    serve->meter = NULL;
}
