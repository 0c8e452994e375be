/*
 * What the files of the rdma road share: rdma.c waits and frees, rdma_send.c and
 * rdma_receive.c are its two directions, rdma_setup.c makes both ends known to each other.
 */
#ifndef FDC_TRANSPORT_RDMA_H
#define FDC_TRANSPORT_RDMA_H

#include <pthread.h>

#include "link.h"
#include "ucx.h"

enum {
    RDMA_AM_ID = 1,
    RDMA_BATCH_ROOM = 32 << 10, /* of a batch in the pool, with its head */
    RDMA_BATCHES = 64,
    RDMA_RESERVE = 8, /* of them for notes */
    RDMA_WHY_ROOM = 512,
};

enum rdma_kind {
    RDMA_BATCH = 1, /* records of a lane follow */
    RDMA_LANDED,    /* all puts up to this one are in your region */
    RDMA_TAKEN,     /* so many bytes of your lane are out of the way */
    RDMA_ASK,       /* say TAKEN now: I am leaving */
    RDMA_TRY,       /* of a client: say HEARD */
    RDMA_HEARD,
};

/* What every active message begins with. */
struct rdma_head {
    uint16_t kind, lane;
    uint32_t size; /* of the records behind it; of others 0 */
    uint64_t seq;  /* of the lane's batches, from 0 */
    uint64_t puts; /* batch: not to be seen before these have landed */
    uint64_t
        taken; /* bytes of the other side's main lane; of `lane` where it says TAKEN */
};

struct rdma_record { /* and the message, up to a multiple of 8 */
    uint32_t size, zero;
};

/* The smallest step of a lane's bytes. */
static inline size_t
rdma_record_size(uint32_t size)
{
    return sizeof(struct rdma_record) + FDC_ALIGN_UP((size_t)size, 8);
}

/* Something to send, which must stay until UCX says that it has gone. */
struct rdma_batch {
    struct rdma_link *rdma;
    struct rdma_batch *next; /* of the free ones */
    size_t used, room;       /* with the head */
    uint8_t *bytes;
    bool pooled;
};

/* One lane that this side sends. */
struct rdma_out {
    pthread_mutex_t lock; /* taken before the link's */
    struct rdma_batch *open;
    size_t claimed; /* behind what is used of it */
    bool flush;     /* was asked for while something was claimed */
    uint64_t seq, sent;
    uint64_t taken; /* of sent, by the other side; atomic */
    uint64_t sent_ns;
};

/* A batch that cannot be delivered yet. */
struct rdma_held {
    struct rdma_held *next;
    struct rdma_head head;
    size_t at;
    uint8_t bytes[];
};

/* One lane that this side receives; under the link's lock. */
struct rdma_in {
    struct fdc_ring fill; /* the producing end of link.ring */
    void *memory;
    struct rdma_held *held; /* by seq */
    uint32_t holds;         /* true while there are any; read without the lock */
    uint64_t seq, received, taken, told;
};

enum rdma_pusher {
    RDMA_PUSHER_NONE,
    RDMA_PUSHER_PARKED,
    RDMA_PUSHER_ARMED,
    RDMA_PUSHER_STOP
};

struct rdma_link {
    struct fdc_link link;
    struct ucx ucx;
    struct ucx_context *context;
    struct ucx_worker *worker;
    struct ucx_ep *ep;
    struct ucx_rkey *rkey;
    struct ucx_mem *region_mem[FDC_REGIONS], *pool_mem;
    int sock, efd, wake_fd;
    uint64_t remote_base; /* of the region that this side puts into */

    pthread_mutex_t lock; /* UCX, and all below that does not say otherwise */
    uint32_t wanting;     /* threads that wait for it, for who could do without it */
    uint32_t met;         /* the other side's address is known; atomic */
    uint32_t dead;        /* nothing can be sent any more; atomic */
    bool gone;            /* nothing will arrive any more */
    bool news;            /* something arrived since this was cleared */
    bool asked;           /* for TAKEN, of however little */
    bool tried;           /* HEARD is due */
    uint32_t heard;       /* the worker has said so; atomic */
    uint32_t pending;     /* requests that UCX has not finished */

    struct rdma_out out[FDC_LANES];
    struct rdma_in in[FDC_LANES];
    struct rdma_batch batch[RDMA_BATCHES];
    struct rdma_batch *free_batches;
    uint32_t free_count;
    uint8_t *pool;

    uint64_t puts, puts_flushing, puts_done, puts_told; /* of this side; 0: no flush */
    uint64_t landed;                                    /* of the other side's; atomic */

    /* Who leads, and what the others sleep on; see rdma.c. */
    pthread_mutex_t lead;
    uint32_t lead_turn, polling;
    uint32_t turn, turn_waiters;
    struct fdc_spin spin;

    uint32_t pusher_state;
    pthread_mutex_t pusher_lock;
    pthread_t pusher;
    bool has_pusher;

    char why[RDMA_WHY_ROOM]; /* there is no link, in words */
};

static inline struct rdma_link *
rdma_of(struct fdc_link *link)
{
    return (struct rdma_link *)(void *)link;
}

/* rdma.c */
void rdma_lock(struct rdma_link *rdma);
void rdma_unlock(struct rdma_link *rdma); /* and wakes who waits for what has arrived */
void rdma_end(struct rdma_link *rdma);
void rdma_broken(struct rdma_link *rdma, const char *what);
void rdma_wake_turn(struct rdma_link *rdma);
/* Lets UCX work and sends what became due. Locked. False: it had nothing to do. */
bool rdma_progress(struct rdma_link *rdma);
/* Of a client: waits until the worker has been heard. 0, -ETIMEDOUT, -EPIPE. */
int rdma_try(struct rdma_link *rdma, int64_t timeout_us);
extern const struct fdc_link_ops rdma_ops;

/* rdma_setup.c: 0 when both ends know each other, -EAGAIN: the other side has not said
 * anything yet. Locked. */
int rdma_meet(struct rdma_link *rdma, int64_t timeout_us);
void rdma_drop(struct rdma_link *rdma);

/* rdma_send.c */
void *rdma_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err);
void rdma_commit(struct fdc_link *link, enum fdc_lane lane);
void rdma_abort(struct fdc_link *link, enum fdc_lane lane);
int rdma_flush(struct fdc_link *link, enum fdc_lane lane);
int rdma_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
             const void *bytes, uint64_t size, uint64_t *ticket);
bool rdma_has_room(struct rdma_link *rdma, enum fdc_lane lane, uint32_t size);
/* Sends what is committed, of all lanes. True: nothing is left to send. */
bool rdma_send_open(struct rdma_link *rdma);
/* Tells the other side what has landed and what was taken. Locked. */
void rdma_send_notes(struct rdma_link *rdma);
/* A note that is its kind alone. False: it cannot be sent now. Locked. */
bool rdma_send_word(struct rdma_link *rdma, enum rdma_kind kind);
bool rdma_is_idle(struct rdma_link *rdma); /* nothing on its way; locked */
void rdma_stop_pusher(struct rdma_link *rdma);

/* rdma_receive.c */
ucx_status rdma_arrived(void *arg, const void *header, size_t header_size, void *data,
                        size_t size, const struct ucx_am_recv *recv);
/* Moves what was held back into its ring, where it goes. Locked. */
void rdma_deliver(struct rdma_link *rdma, enum fdc_lane lane);
/* Closes the rings that nothing will come into any more. Locked. */
void rdma_close_empty(struct rdma_link *rdma);
void rdma_drop_held(struct rdma_link *rdma);

#endif
