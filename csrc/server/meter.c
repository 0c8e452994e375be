/*
 * Shares of computing time (fdc/share.h). A lease that has one is given the GPU for a turn
 * of some milliseconds, and what its work took is charged to it when it is over: a bucket
 * that fills with the lease's percentage of the time (account.c). What was too much is a
 * debt, and the lease waits until it is paid, for a minute at most, unless nobody else has
 * wanted the GPU for a while: then it goes on, and that costs nothing.
 *
 * The executor stands still here while it is not the session's turn; everything else of
 * the worker goes on. Events behind the work of each stream say when it is over (track.c);
 * the meter's own thread looks at them, and records some itself while the executor stands or
 * sleeps. Nobody waits here for work of his own for longer than HOLD_NS: it may be waiting
 * for the program. Time in which all streams stand is not charged, and a turn in which they
 * do ends; copies between servers' workers and the clearing of new memory are not charged
 * either.
 */
#include "server/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "server/account.h"
#include "server/track.h"

#define TURN_NS 10000000ull     /* a turn, where others want one too */
#define HOLD_NS 100000000ull    /* after which others may come in beside work that lasts */
#define LOOK_US 100             /* how often is looked */
#define REST_US 1000            /* and where nothing has been at work for a turn */
#define BATCH_MAX 512           /* calls in a turn; fewer where they take long */

_Static_assert(sizeof(struct fdc_share_row) == FDC_SHARE_ROW, "rows lie side by side");

struct metered {                        /* a device of the lease */
    struct fdc_share_row *row;          /* NULL: nobody keeps account of it */
    uint32_t gpu, percent;              /* as it said at the beginning */
    bool turn;                          /* the GPU is ours */
    bool under_way;                     /* work, from begun_ns on */
    bool alone;                         /* nobody else wanted the GPU when that began */
    bool late;                          /* some of it lasts for long */
    bool idle;                          /* the executor gives it nothing for now */
    uint64_t turn_ns, begun_ns;
    uint32_t count, batch;
    struct fdc_tracks tracks;
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

/* One look: true, and the GPU is ours. */
static bool
take_turn(struct fdc_meter *meter, struct metered *m)
{
    uint64_t now = fdc_now_ns();
    bool alone;

    fdc_account_want(m->row, now);
    if (!fdc_account_may_go(meter->rows, m->row, now, &alone) ||
        !try_turn(meter, m, F_WRLCK))
        return false;
    fdc_store_relaxed(&m->row->waiting_ns, 0);
    m->turn = true;
    m->turn_ns = now;
    m->count = 0;
    if (!m->under_way) {
        m->under_way = true;
        m->alone = alone;
        m->begun_ns = now;
        fdc_tracks_begin(&m->tracks, now);
    }
    pthread_cond_broadcast(&meter->changed); /* somebody sees to it that it ends */
    return true;
}

/* ---- what it costs ---- */

/* What has been since the work began, or was charged last. */
static void
charge(struct metered *m, uint64_t now)
{
    fdc_account_charge(m->row, m->percent, fdc_tracks_busy(&m->tracks, now), now, m->alone);
    m->begun_ns = now;
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
    charge(m, now);
    m->under_way = m->late = false;
    end_turn(meter, m);
}

/* Work goes on, beside that of whoever wants the GPU by now. */
static void
charge_so_far(const struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    charge(m, now);
    (void)fdc_account_may_go(meter->rows, m->row, now, &m->alone);
}

/* The turn is over, and its work goes on. */
static void
leave_it(struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    charge_so_far(meter, m, now);
    end_turn(meter, m);
}

/* Nothing has been at work for the length of a turn: all streams stand. */
static bool
rests(const struct metered *m, uint64_t now)
{
    return m->tracks.rests_ns != 0 && now > m->tracks.rests_ns + TURN_NS;
}

/* The meter's thread. In how many us it looks again; 0: there is nothing to look at. */
static uint32_t
look(struct fdc_meter *meter, struct metered *m, uint64_t now)
{
    if (!m->under_way)
        return 0;
    if (!fdc_tracks_look(&m->tracks, now, m->idle)) {
        settle(meter, m, fdc_now_ns());
        return 0;
    }
    if (m->tracks.rests_ns == 0)
        fdc_store_relaxed(&m->row->wanted_ns, now);
    if (m->turn && (now - m->turn_ns > HOLD_NS || rests(m, now))) {
        leave_it(meter, m, now);
        m->late = true;
    } else if (now - m->begun_ns > HOLD_NS) {
        charge_so_far(meter, m, now);
    }
    return rests(m, now) ? REST_US : LOOK_US;
}

static void *
run(void *arg)
{
    struct fdc_meter *meter = arg;
    uint32_t soon, one;

    pthread_mutex_lock(&meter->lock);
    while (!meter->over) {
        soon = 0;
        for (int i = 0; i < meter->serve->limits.devices; i++) {
            one = look(meter, &meter->device[i], fdc_now_ns());
            if (one != 0 && (soon == 0 || one < soon))
                soon = one;
        }
        if (soon == 0) {
            pthread_cond_wait(&meter->changed, &meter->lock);
            continue;
        }
        pthread_mutex_unlock(&meter->lock);
        usleep(soon);
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
        fdc_tracks_mark(&m->tracks);
        pthread_cond_broadcast(&meter->changed);
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
    fdc_tracks_given(&m->tracks, ctx, stream, fdc_now_ns());
    pthread_mutex_unlock(&meter->lock);
}

void
fdc_meter_idle(struct fdc_serve *serve)
{
    struct fdc_meter *meter = serve->meter;

    pthread_mutex_lock(&meter->lock);
    for (int i = 0; i < serve->limits.devices; i++) {
        meter->device[i].idle = true;
        fdc_tracks_mark(&meter->device[i].tracks);
    }
    pthread_cond_broadcast(&meter->changed);
    pthread_mutex_unlock(&meter->lock);
}

/* The device that the executor is giving something to, under the lock; NULL: it is not
 * metered. */
static struct metered *
given_now(struct fdc_meter *meter)
{
    const struct fdc_ctx *ctx = fdc_context_here();

    if (meter == NULL || !executes || ctx == NULL || meter->device[ctx->device].row == NULL)
        return NULL;
    pthread_mutex_lock(&meter->lock);
    return &meter->device[ctx->device];
}

static void
tell_tracks(struct fdc_serve *serve, void (*tell)(struct fdc_tracks *tracks))
{
    struct metered *m = given_now(serve->meter);

    if (m == NULL)
        return;
    tell(&m->tracks);
    pthread_mutex_unlock(&serve->meter->lock);
}

void
fdc_meter_stands(struct fdc_serve *serve)
{
    tell_tracks(serve, fdc_tracks_stands);
}

void
fdc_meter_stood(struct fdc_serve *serve)
{
    tell_tracks(serve, fdc_tracks_stood);
}

void
fdc_meter_goes_on(struct fdc_serve *serve)
{
    tell_tracks(serve, fdc_tracks_go_on);
}

void
fdc_meter_gone(struct fdc_serve *serve, CUstream stream)
{
    struct fdc_meter *meter = serve->meter;

    if (meter == NULL)
        return;
    pthread_mutex_lock(&meter->lock);
    for (int i = 0; i < serve->limits.devices; i++)
        fdc_tracks_leave(&meter->device[i].tracks, stream);
    pthread_mutex_unlock(&meter->lock);
}

void
fdc_meter_executes(bool on)
{
    executes = on;
}

void
fdc_meter_host(struct fdc_serve *serve, struct fdc_ctx *ctx, CUstream stream, bool on)
{
    if (serve->meter != NULL && ctx != NULL && serve->meter->device[ctx->device].row != NULL)
        fdc_tracks_host(&serve->meter->device[ctx->device].tracks, ctx, stream, on);
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
        fdc_tracks_init(&meter->device[i].tracks, serve);
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

        if (m->under_way)
            charge(m, fdc_now_ns());
        fdc_tracks_drop(&m->tracks);
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
    for (int i = 0; i < serve->limits.devices; i++)
        fdc_tracks_free(&meter->device[i].tracks);
    pthread_mutex_destroy(&meter->lock);
    pthread_cond_destroy(&meter->changed);
    free(meter);
    serve->meter = NULL;
}
