/*
 * What the streams of a device are at, for as long as they have work: the device time of a
 * session with a share is the time in which at least one of them is at work, and does not
 * stand. A stream stands while it waits for a word of memory, for the program (a gate), for
 * an event of a stream that stands, or for a host function of the program's: it is in none
 * of these on the device's processors. Marks (events) before and behind such places tell the
 * one from the other; host functions tell by themselves when they begin and end.
 *
 * Everything is under the meter's lock but fdc_tracks_host().
 */
#ifndef FDC_SERVER_TRACK_H
#define FDC_SERVER_TRACK_H

#include <pthread.h>

#include "server/serve.h"

#define FDC_TRACKS 64           /* streams that are told apart at a time */
#define FDC_TRACK_MARKS 8       /* marks that one has out: its queue is the program's */

struct fdc_track {
    struct fdc_ctx *ctx;                /* NULL: nobody's */
    CUstream stream;                    /* NULL: it has been destroyed, its work goes on */
    bool blocking;                      /* waits for the NULL stream, and that for it */
    uint32_t calls;                     /* behind its last mark */
    uint64_t begins;                    /* the number of the first of these */
    struct {
        struct fdc_mark *mark;          /* when this will be over: */
        bool stands;                    /* a place where it stands, or work */
        uint64_t begins;                /* its number */
    } out[FDC_TRACK_MARKS];
    int marks;
};

struct fdc_stood {                      /* host functions of a stream; of graphs: NULL */
    struct fdc_ctx *ctx;                /* NULL: nobody's */
    CUstream stream;
    int inside;                         /* that run now */
    uint64_t since, before;             /* those; and ns of others, not charged off yet */
};

struct fdc_tracks {
    struct fdc_serve *serve;
    struct fdc_track track[FDC_TRACKS];
    int high;                           /* all above are nobody's */
    struct fdc_track *last;             /* of the stream that was given work last */
    uint64_t number;                    /* of the last thing that was given */
    bool standing;                      /* it is being told to stand */
    bool untold;                        /* there was no room for some: that is at work */
    uint64_t seen_ns, busy_ns;          /* busy: until seen, since it was asked for */
    uint64_t rests_ns;                  /* since when nothing is at work; 0: something is */
    pthread_mutex_t host_lock;          /* a leaf: the driver's threads take it */
    struct fdc_stood host[FDC_TRACKS];
};

void fdc_tracks_init(struct fdc_tracks *tracks, struct fdc_serve *serve);
void fdc_tracks_free(struct fdc_tracks *tracks);
/* A turn begins: nothing was counted before now. */
void fdc_tracks_begin(struct fdc_tracks *tracks, uint64_t now);
/* The executor is about to give this stream work. */
void fdc_tracks_given(struct fdc_tracks *tracks, struct fdc_ctx *ctx, CUstream stream,
                      uint64_t now);
/* What it gives is a place to stand at: before it does, and after. */
void fdc_tracks_stands(struct fdc_tracks *tracks);
void fdc_tracks_stood(struct fdc_tracks *tracks);
/* Behind such places, work is about to be given. */
void fdc_tracks_go_on(struct fdc_tracks *tracks);
/* Puts a mark behind what was given last, if the stream has none out. */
void fdc_tracks_mark(struct fdc_tracks *tracks);
/* The stream is about to be destroyed. */
void fdc_tracks_leave(struct fdc_tracks *tracks, CUstream stream);
/* Looks what is over; idle: the executor gives nothing meanwhile. True: something is left. */
bool fdc_tracks_look(struct fdc_tracks *tracks, uint64_t now, bool idle);
/* Device time since this was called last. */
uint64_t fdc_tracks_busy(struct fdc_tracks *tracks, uint64_t now);
/* A host function of the stream's begins or ends; graph: of a graph's, whatever stream that
 * is in. Any thread. */
void fdc_tracks_host(struct fdc_tracks *tracks, struct fdc_ctx *ctx, CUstream stream,
                     bool on);
/* The end: no mark is out any more. */
void fdc_tracks_drop(struct fdc_tracks *tracks);

#endif
