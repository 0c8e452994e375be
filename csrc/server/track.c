/*
 * What a session's streams are at (track.h). A mark is out behind the last work of each, one
 * at a time; where a stream will stand there is one before, if it has work there, and one
 * behind. So the first mark that has not passed says what the stream is at.
 */
#include "server/track.h"

#include <string.h>

/* ---- what is at work ---- */

static bool
is_live(const struct fdc_track *track)
{
    return track->ctx != NULL && (track->marks > 0 || track->calls > 0);
}

/* The number of what the stream is at. */
static uint64_t
front(const struct fdc_track *track)
{
    return track->marks > 0 ? track->out[0].begins : track->begins;
}

/* Whether it is behind earlier work, by the rules of the NULL stream. Whether that is at work
 * is its own matter. */
static bool
is_behind(const struct fdc_tracks *tracks, const struct fdc_track *track)
{
    bool null = track->stream == CU_STREAM_LEGACY;

    if (!null && !track->blocking)
        return false;
    for (int i = 0; i < tracks->high; i++) {
        const struct fdc_track *other = &tracks->track[i];

        if (other != track && other->ctx == track->ctx && is_live(other) &&
            (null ? other->blocking : other->stream == CU_STREAM_LEGACY) &&
            front(other) < front(track))
            return true;
    }
    return false;
}

/* Host functions aside. */
static bool
is_at_work(const struct fdc_tracks *tracks, const struct fdc_track *track)
{
    return is_live(track) && !(track->marks > 0 && track->out[0].stands) &&
           !is_behind(tracks, track);
}

/* What has been stood in host functions since this was asked last, a track each; returns what
 * those of graphs have. inside: which tracks are in one now, and, last, a graph. */
static uint64_t
take_host(struct fdc_tracks *tracks, uint64_t now, uint64_t *stood, bool *inside)
{
    uint64_t graphs = 0;

    pthread_mutex_lock(&tracks->host_lock);
    for (int n = 0; n < FDC_TRACKS; n++) {
        struct fdc_stood *host = &tracks->host[n];
        uint64_t ns = host->before;

        if (host->ctx == NULL)
            continue;
        if (host->inside > 0 && now > host->since) {
            ns += now - host->since;
            host->since = now;
        }
        host->before = 0;
        for (int i = 0; i < tracks->high; i++)
            if (host->stream != NULL && tracks->track[i].ctx == host->ctx &&
                tracks->track[i].stream == host->stream) {
                stood[i] += ns;
                inside[i] = host->inside > 0;
            }
        if (host->stream == NULL) {
            graphs += ns;
            inside[FDC_TRACKS] |= host->inside > 0;
        }
        if (host->inside == 0)
            host->ctx = NULL;
    }
    pthread_mutex_unlock(&tracks->host_lock);
    return graphs;
}

/* Until now everything was as it was seen last, but for host functions, which are known to
 * the nanosecond. Those of graphs take one stream away where there is but one: what other
 * branches of the graph do is not seen. */
static void
count_until(struct fdc_tracks *tracks, uint64_t now)
{
    uint64_t stood[FDC_TRACKS] = { 0 }, least, graphs, took;
    bool inside[FDC_TRACKS + 1] = { false };
    int at_work = 0, out = 0;

    if (now <= tracks->seen_ns)
        return;
    least = took = now - tracks->seen_ns;
    graphs = take_host(tracks, now, stood, inside);
    for (int i = 0; i < tracks->high; i++) {
        if (!is_at_work(tracks, &tracks->track[i]))
            continue;
        at_work++;
        out += inside[i];
        if (stood[i] < least)
            least = stood[i];
    }
    if (at_work == 1) {
        least += graphs;
        out |= inside[FDC_TRACKS];
    }
    if (tracks->untold) {
        least = 0;
        at_work++;
    }
    if (at_work > 0 && took > least)
        tracks->busy_ns += took - least;
    tracks->seen_ns = now;
    if (at_work > out)
        tracks->rests_ns = 0;
    else if (tracks->rests_ns == 0)
        tracks->rests_ns = now;
}

/* ---- marks ---- */

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

/* Behind all that the stream was given; there is room. */
static void
put_mark(struct fdc_tracks *tracks, struct fdc_track *track, bool stands)
{
    struct fdc_mark *made = mark_of(tracks->serve, track->ctx, track->stream);

    track->calls = 0;
    if (made == NULL)
        return;
    track->out[track->marks].mark = made;
    track->out[track->marks].stands = stands;
    track->out[track->marks++].begins = track->begins;
}

static void
take_mark(struct fdc_track *track)
{
    struct fdc_ctx *ctx = track->out[0].mark->ctx;

    fdc_mark_put(track->out[0].mark);
    track->marks--;
    memmove(&track->out[0], &track->out[1], (size_t)track->marks * sizeof(track->out[0]));
    __atomic_sub_fetch(&ctx->waits, 1, __ATOMIC_RELEASE); /* as wait_leave() in event.c */
}

/* ---- the executor ---- */

/* A stream that captures must not be asked. */
static bool
is_blocking(struct fdc_serve *serve, CUstream stream)
{
    unsigned flags = CU_STREAM_NON_BLOCKING;

    return stream != CU_STREAM_LEGACY && !fdc_stream_is_capturing(serve, stream) &&
           serve->driver->cuStreamGetFlags(stream, &flags) == CUDA_SUCCESS &&
           !(flags & CU_STREAM_NON_BLOCKING);
}

/* NULL: there is no room. */
static struct fdc_track *
find(struct fdc_tracks *tracks, struct fdc_ctx *ctx, CUstream stream)
{
    struct fdc_track *track = NULL;

    for (int i = 0; i < tracks->high; i++) {
        if (tracks->track[i].ctx == ctx && tracks->track[i].stream == stream)
            return &tracks->track[i];
        if (tracks->track[i].ctx == NULL)
            track = &tracks->track[i];
    }
    if (track == NULL && tracks->high < FDC_TRACKS)
        track = &tracks->track[tracks->high++];
    if (track != NULL)
        *track = (struct fdc_track){
            .ctx = ctx, .stream = stream, .blocking = is_blocking(tracks->serve, stream),
        };
    return track;
}

void
fdc_tracks_given(struct fdc_tracks *tracks, struct fdc_ctx *ctx, CUstream stream,
                 uint64_t now)
{
    struct fdc_track *track = tracks->last;

    if (track == NULL || track->ctx != ctx || track->stream != stream) {
        fdc_tracks_mark(tracks);
        tracks->last = track = find(tracks, ctx, stream);
    }
    if (track == NULL) {
        tracks->untold = true;
        return;
    }
    if (!is_live(track))
        count_until(tracks, now); /* until now it was not at work */
    if (track->calls++ == 0)
        track->begins = ++tracks->number;
}

void
fdc_tracks_mark(struct fdc_tracks *tracks)
{
    struct fdc_track *track = tracks->last;

    if (track != NULL && track->ctx != NULL && track->calls > 0 && track->marks == 0)
        put_mark(tracks, track, false);
}

/* What it is given now is that place, and was counted as work. */
void
fdc_tracks_stands(struct fdc_tracks *tracks)
{
    struct fdc_track *track = tracks->last;

    tracks->standing = track != NULL && track->ctx != NULL && track->calls > 0 &&
                       track->marks + 2 <= FDC_TRACK_MARKS;
    if (!tracks->standing || track->calls == 1)
        return;
    put_mark(tracks, track, false);
    track->calls = 1;
    track->begins = ++tracks->number;
}

void
fdc_tracks_stood(struct fdc_tracks *tracks)
{
    if (tracks->standing)
        put_mark(tracks, tracks->last, true);
    tracks->standing = false;
}

void
fdc_tracks_go_on(struct fdc_tracks *tracks)
{
    struct fdc_track *track = tracks->last;

    if (track == NULL || track->ctx == NULL || track->calls > 0)
        return;
    track->calls = 1;
    track->begins = ++tracks->number;
}

/* What it still does goes on behind its end, and another one may have its address soon. */
void
fdc_tracks_leave(struct fdc_tracks *tracks, CUstream stream)
{
    for (int i = 0; i < tracks->high; i++) {
        struct fdc_track *track = &tracks->track[i];

        if (track->ctx == NULL || track->stream != stream)
            continue;
        if (track->calls > 0 && track->marks < FDC_TRACK_MARKS)
            put_mark(tracks, track, false);
        track->calls = 0;
        track->stream = NULL;
        if (tracks->last == track)
            tracks->last = NULL;
    }
}

/* ---- the meter's thread ---- */

/* On the NULL stream a mark goes only where it is transparent: right behind the work, before
 * any other stream is given some. */
static void
look_at(struct fdc_tracks *tracks, struct fdc_track *track, bool idle)
{
    const struct fdc_driver *driver = tracks->serve->driver;

    while (track->marks > 0 &&
           driver->cuEventQuery(track->out[0].mark->event) != CUDA_ERROR_NOT_READY)
        take_mark(track);
    if (track->marks > 0 || track->calls == 0 || !idle)
        return;
    if (track->stream != CU_STREAM_LEGACY || tracks->last == track)
        put_mark(tracks, track, false);
    track->calls = 0;
}

bool
fdc_tracks_look(struct fdc_tracks *tracks, uint64_t now, bool idle)
{
    bool any = false;

    count_until(tracks, now);
    for (int i = 0; i < tracks->high; i++) {
        struct fdc_track *track = &tracks->track[i];

        if (track->ctx == NULL)
            continue;
        look_at(tracks, track, idle);
        if (is_live(track))
            any = true;
        else
            track->ctx = NULL;
    }
    tracks->untold &= any;      /* those that are told apart say when most is over */
    return any;
}

uint64_t
fdc_tracks_busy(struct fdc_tracks *tracks, uint64_t now)
{
    uint64_t busy;

    count_until(tracks, now);
    busy = tracks->busy_ns;
    tracks->busy_ns = 0;
    return busy;
}

void
fdc_tracks_begin(struct fdc_tracks *tracks, uint64_t now)
{
    uint64_t stood[FDC_TRACKS] = { 0 };
    bool inside[FDC_TRACKS + 1] = { false };

    (void)take_host(tracks, now, stood, inside);
    tracks->seen_ns = now;
    tracks->busy_ns = tracks->rests_ns = 0;
}

/* ---- host functions ---- */

void
fdc_tracks_host(struct fdc_tracks *tracks, struct fdc_ctx *ctx, CUstream stream, bool on)
{
    struct fdc_stood *host = NULL;
    uint64_t now = fdc_now_ns();

    pthread_mutex_lock(&tracks->host_lock);
    for (int n = 0; n < FDC_TRACKS; n++) {
        struct fdc_stood *one = &tracks->host[n];

        if (one->ctx == ctx && one->stream == stream) {
            host = one;
            break;
        }
        if (host == NULL && one->ctx == NULL)
            host = one;
    }
    if (host != NULL && host->ctx == NULL)
        *host = (struct fdc_stood){ .ctx = on ? ctx : NULL, .stream = stream };
    if (host != NULL && on && host->inside++ == 0)
        host->since = now;
    if (host != NULL && !on && host->inside > 0 && --host->inside == 0 && now > host->since)
        host->before += now - host->since;
    pthread_mutex_unlock(&tracks->host_lock);
}

/* ---- the beginning and the end ---- */

void
fdc_tracks_init(struct fdc_tracks *tracks, struct fdc_serve *serve)
{
    tracks->serve = serve;
    pthread_mutex_init(&tracks->host_lock, NULL);
}

void
fdc_tracks_drop(struct fdc_tracks *tracks)
{
    for (int i = 0; i < tracks->high; i++)
        while (tracks->track[i].marks > 0)
            take_mark(&tracks->track[i]);
    tracks->high = 0;
    tracks->last = NULL;
}

void
fdc_tracks_free(struct fdc_tracks *tracks)
{
    pthread_mutex_destroy(&tracks->host_lock);
}
