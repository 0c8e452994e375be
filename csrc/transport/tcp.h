/*
 * The tcp road's own parts, for its files: tcp.c (the lanes), tcp_send.c, tcp_receive.c,
 * tcp_bulk.c (puts and where they land), tcp_after.c (replies that bytes have to precede),
 * tcp_resume.c (connections that break), tcp_setup.c.
 *
 * Number 0 of the connections carries the commands one way and, the other way, replies with
 * small puts to the client between them; number 1, the bulk connection, carries puts both
 * ways and, to the worker, the side lane. Where there are more, puts take whichever is free.
 * What a worker's bulk connections bring is read by a thread for each, what a client's do by
 * whoever leads on its command connection, or where there are several by a thread for each too,
 * as they are sent on by one for each: tcp_haul.c.
 *
 * Each direction of a connection is one stream of bytes: frames of messages, which the
 * sender keeps in a buffer, and the bytes of puts between them, which it keeps where they
 * are (struct hole). Both are kept until the other side says that it has them (ACK), so
 * that a new connection can go on at the byte where the old one broke: tcp_resume.c.
 *
 * Locks: lead (connection 0's receiving half), then a receiver's, then a sender's, then
 * land_lock and haul_lock. Who leads only tries a receiver's lock, which is held for long where a
 * connection is resumed. Who receives never waits for a sender's, but tries (tcp_ack()).
 */
#ifndef FDC_TRANSPORT_TCP_H
#define FDC_TRANSPORT_TCP_H

#include <pthread.h>
#include <sys/types.h>

#include "link.h"
#include "seal.h"

enum {
    TCP_COMMAND,
    TCP_BULK, /* the first one */
    TCP_CONNS = FDC_LINK_SOCKS, /* at most */
};

enum frame_kind {
    FRAME_MESSAGE = 1,
    FRAME_PUT = 2,
    FRAME_ACK = 3,
    FRAME_BYE = 4,
    FRAME_AFTER = 5, /* the next message comes after that connection's puts up to this one */
    FRAME_FENCE = 6, /* all messages from here on do */
};

struct frame {
    uint32_t size; /* of the message behind it; else 0 */
    uint16_t kind;
    uint16_t lane; /* or region; of an ACK, AFTER and FENCE: the connection */
};

struct put_frame {
    struct frame frame;
    uint64_t offset, size, ticket;
};

/* ACK: so much of the other direction of that connection has been taken in. AFTER, FENCE:
 * see above. */
struct mark_frame {
    struct frame frame;
    uint64_t position; /* or a put's ticket */
};

enum {
    STAGING_EXTRA = 64 << 10,
    PUT_ALONE = 64 << 10, /* a client's reply is not held up by so much */
    PUT_ACKED = 64 << 10, /* up: acknowledged each by itself, before any answer to it */
    INSERTS_MAX = 4096,
    INSERTS_MIN = 256,
    INSERTS_OWN = 64, /* of them for acknowledgements alone */
    LAND_STEP = 4 << 10,
    SILENCE_MS = 30000,     /* of a peer's machine that should have answered */
    BROKEN_SLICE_US = 20000,
};

/*
 * What is in the stream beside the buffer's messages, at this place: the head of a put, an
 * ACK or a BYE, and a put's bytes. Those are the caller's while put() runs, and this side's
 * view of the region afterwards, which nobody writes into before the other side has them;
 * lent ones are copied there when they are reclaimed and not acknowledged.
 */
struct insert {
    uint64_t at, size; /* bytes behind the head */
    const uint8_t *bytes;
    uint32_t head_size;
    union {
        struct frame frame;
        struct put_frame put;
        struct mark_frame mark;
    } head;
};

/* A place in a stream of messages and inserts. */
struct place {
    uint64_t at;
    uint64_t insert; /* number of the next one, from here on */
    size_t index;    /* in the buffer */
};

/* One connection's sending half. lock guards all of it but acked and ack_turn. */
struct sender {
    pthread_mutex_t lock;
    uint8_t *bytes;
    size_t size;
    struct place kept, next; /* not acknowledged from there on; not sent */
    size_t end;              /* committed up to here, which is end_at in the stream */
    uint64_t end_at;
    size_t claimed; /* behind end; the buffer does not move then */
    struct insert *insert;
    uint32_t inserts;     /* room for so many, a power of two */
    uint64_t insert_end;  /* so many there have been */
    uint64_t sent_ns, puts;
    uint64_t acked;    /* what the other side has said; taken into account under the lock */
    uint32_t ack_turn; /* changes with it, slept on */
    uint32_t eager;    /* so many want the lock before a hauler has it again; slept on */
};

/* A put that one of several bulk connections has yet to send. */
struct load {
    struct load *next;
    struct put_frame put;
    const uint8_t *bytes;
    struct fdc_loan *loan; /* NULL: they are in this side's view */
};

/* What such a connection has to send, and who does it. Under haul_lock. */
struct hauler {
    struct load *first, **last;
    uint64_t size; /* bytes of all of them, and of the one being sent */
    uint64_t puts; /* tickets that were given */
    bool busy;     /* somebody sends one */
    uint32_t turn; /* changes when there may be something for the thread, slept on */
    bool has_thread;
    pthread_t thread;
};

/* One connection's receiving half; one thread at a time, which has the lock, or tcp.lead for
 * the command connection. */
struct receiver {
    pthread_mutex_t lock;
    pthread_t thread;    /* of a bulk connection */
    uint32_t has_thread; /* atomic */
    uint32_t gone; /* no puts will come any more */
    uint64_t landed; /* puts, in order; atomic */
    uint8_t *bytes;
    size_t size, start, end;
    uint64_t put_start, put_offset, put_left, put_ticket;
    uint16_t put_region;
    uint32_t blocked_size; /* of the message that its ring had no room for */
    size_t missing;        /* of a message whose head is there */
    uint64_t position;     /* of the stream, all that was read */
    /* Since the last ACK: bytes of the sender's buffer, and inserts. */
    uint64_t owed;
    uint32_t owed_inserts;
};

enum conn_state { CONN_UP, CONN_BROKEN };

struct tcp_conn {
    struct tcp_link *tcp;
    int number;
    int fd; /* for the link's whole life: a new socket gets the same number */
    dev_t device;
    ino_t inode; /* of the socket, so that nobody else's file is taken for it */
    struct seal *seal; /* NULL: the bytes travel as they are */
    struct sender out;
    struct receiver in;
    struct hauler haul;
    uint32_t state; /* enum conn_state; changes under break_lock */
    uint32_t turn;  /* changes with state, slept on */
    uint32_t tried; /* the newest try to resume that was taken up */
    int trial;      /* 1 + its socket while it lasts, 0: there is none; under break_lock */
    uint64_t broken_ns;
    /* Where the last new connection began, and how many there were since then. */
    uint64_t began_out, began_in;
    uint32_t futile;
    /* Position that the other side is to be told; 0: none. That of a put's end is there
     * before the put has landed: so it travels before any answer to it. */
    uint64_t ack;
};

/* Where the bytes of a put go instead, and how many have. */
struct landing {
    uint8_t *to;
    uint64_t size, landed;
    bool busy; /* some are being stored */
};

/* A message of the command connection whose bytes are not all there yet. */
struct held {
    struct held *next;
    uint64_t after[TCP_CONNS];
    uint32_t size;
    uint8_t bytes[];
};

/* A client's replies and the puts that precede them; tcp_after.c. Whoever leads has it. */
struct tcp_order {
    uint64_t fence[TCP_CONNS], next[TCP_CONNS]; /* of all messages; of the next one */
    uint64_t wanted[TCP_CONNS];                 /* the last that was named */
    bool wants;  /* one that was named is not there yet */
    bool more;   /* bytes have been read that nobody has looked at yet */
    uint32_t brought, seen; /* by connections' threads; as the last look found it */
    bool ended;  /* the command connection will bring no more */
    struct held *held, **last;
    size_t size; /* of what is held */
};

enum haul_state { HAUL_NONE, HAUL_ON, HAUL_OFF };

enum flusher_state { FLUSHER_NONE, FLUSHER_PARKED, FLUSHER_ARMED, FLUSHER_STOP };

struct tcp_link {
    struct fdc_link link;
    struct tcp_conn conn[TCP_CONNS];
    int conns;
    uint32_t stripe; /* where the next put tries first */
    void *ring_memory[FDC_LANES];
    struct fdc_ring fill[FDC_LANES]; /* the producing ends of link.ring */

    /* Who leads on the command connection. */
    pthread_mutex_t lead;
    uint32_t lead_turn; /* changes when somebody stops leading */
    uint32_t polling;   /* the leader is about to sleep in poll() */
    int wake_fd;
    struct fdc_spin spin;

    uint32_t flusher_state; /* written under the command sender's lock, slept on */
    uint32_t flusher_kick;  /* changes where there is something for it now, slept on */
    bool has_flusher;
    pthread_t flusher;

    pthread_mutex_t land_lock; /* of landings; a leaf */
    struct landing *landing;   /* a client's, by where in DOWN; made at first use */
    bool reads;                /* threads read the client's bulk connections */
    uint32_t land_turn;        /* changes when one is busy no more, slept on */
    struct tcp_order order;

    pthread_mutex_t haul_lock; /* a leaf */
    uint32_t haul_state;       /* changes under it */
    bool haul_stop;

    uint32_t landed_waiters, landed_turn;
    uint32_t dead;
    struct fdc_spin landed_spin;

    /* Connections that break; tcp_resume.c. */
    pthread_mutex_t break_lock; /* a leaf */
    struct fdc_link_keep keep;
    uint32_t keeps; /* keep is there */
    uint32_t bye;   /* the other side has said that it ends */
    bool said_bye;  /* this side has; under the command sender's lock */
    uint32_t broken;
    int keeper_fd;
    bool has_keeper;
    pthread_t keeper;
};

static inline struct tcp_link *
tcp_of(struct fdc_link *link)
{
    return (struct tcp_link *)(void *)link;
}

static inline size_t
frame_size(uint32_t size)
{
    return sizeof(struct frame) + FDC_ALIGN_UP((size_t)size, 8);
}

static inline void
count_call(struct tcp_link *tcp)
{
    __atomic_fetch_add(&tcp->link.stats.system_calls, 1, __ATOMIC_RELAXED);
}

/* Replies may have to wait for bytes. */
static inline bool
tcp_order_is_on(const struct tcp_link *tcp)
{
    return tcp->order.wants || tcp->order.held;
}

static inline bool
is_broken(const struct tcp_conn *conn)
{
    return fdc_load_acquire(&conn->state) == CONN_BROKEN;
}

/* Several connections share the puts. */
static inline bool
has_stripes(const struct tcp_link *tcp)
{
    return tcp->conns > TCP_BULK + 1;
}

/* tcp.c */
void tcp_shutdown(struct fdc_link *link);
void tcp_wake_landed(struct tcp_link *tcp);
void tcp_wake_leader(struct tcp_link *tcp);
/* Where the peer's machine has not answered for long: that connection is broken. */
void tcp_end_if_silent(struct tcp_link *tcp);
extern const struct fdc_link_ops tcp_ops;

/*
 * tcp_send.c. All under the sender's lock, which is given back by let_go() alone. send:
 * what is committed, as far as the socket takes it: 0 all gone, or the connection is
 * broken and it goes later; -EAGAIN; -EPIPE.
 */
void tcp_let_go(struct tcp_link *tcp, struct tcp_conn *conn);
int tcp_send(struct tcp_link *tcp, struct tcp_conn *conn);
bool tcp_make_room(struct tcp_link *tcp, struct tcp_conn *conn, size_t need);
/* Room for another insert; and it, at the stream's end. */
bool tcp_may_insert(struct sender *to, uint32_t spare);
struct insert *tcp_insert(struct sender *to, const void *head, uint32_t head_size,
                          const uint8_t *bytes, uint64_t size);
/* Of a bulk connection: before its hauler has it again, which gives it back only for a
 * moment. */
void tcp_lock_sender(struct tcp_conn *conn);
/* Gives up what the other side has. */
void tcp_drop_acked(struct sender *to);
void tcp_await_writable(struct tcp_link *tcp, struct tcp_conn *conn);
void tcp_arm_flusher(struct tcp_link *tcp, struct tcp_conn *conn);
/* ... and it shall go at once. No lock is held. */
void tcp_kick_flusher(struct tcp_link *tcp);
/* The other side has everything up to there and goes on from it. -EPROTO: it cannot be. */
int tcp_send_from(struct sender *to, uint64_t position);
/* Until there is room for a put's head or a mark. Under the sender's lock, which is given
 * back meanwhile. 0, -EPIPE. */
int tcp_await_insert(struct tcp_link *tcp, struct tcp_conn *conn);
/* Any thread, no lock: what has been taken in of the connection is to be told, resp. was. */
void tcp_ack(struct tcp_link *tcp, struct tcp_conn *conn, uint64_t position);
void tcp_acked(struct tcp_link *tcp, struct tcp_conn *conn, uint64_t position);
/* The lock is held. */
void tcp_say_bye(struct tcp_link *tcp);

/* tcp_receive.c. The caller leads, resp. has the receiver's lock. */
bool tcp_try_lead(struct tcp_link *tcp);
void tcp_stop_leading(struct tcp_link *tcp);
void tcp_pump(struct tcp_link *tcp);
int tcp_wait_word(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
                  uint32_t seen, int64_t timeout_us);
void *tcp_bulk_thread(void *conn);
/* What had come on a connection before it broke. */
void tcp_take_rest(struct tcp_link *tcp, struct tcp_conn *conn);
/* 1, 0: the ring has no room, -errno. */
int tcp_fill_ring(struct tcp_link *tcp, enum fdc_lane lane, const uint8_t *bytes,
                  uint32_t size);
const char *tcp_what_broke(int err);

/*
 * tcp_after.c. The caller leads. mark: AFTER or FENCE was read. take: a message whose puts
 * may have to come first is kept or goes into its ring; 1, 0: there is no room for it now,
 * -errno. deliver: what is held and may go does, of whatever came; false: a ring is full.
 */
int tcp_order_mark(struct tcp_link *tcp, const struct mark_frame *mark);
int tcp_order_take(struct tcp_link *tcp, const struct frame *frame, const uint8_t *bytes);
bool tcp_order_deliver(struct tcp_link *tcp);
bool tcp_order_wants(const struct tcp_link *tcp, const struct tcp_conn *conn);
/* Nothing that is held will go any more. */
bool tcp_order_is_over(struct tcp_link *tcp);
void tcp_order_drop(struct tcp_link *tcp);
/* Any thread: bytes have landed, or will no more, that whoever leads did not read itself. */
void tcp_bring(struct tcp_link *tcp);

/* tcp_bulk.c */
int tcp_check_put(const struct tcp_link *tcp, const struct tcp_conn *conn,
                  const struct put_frame *put);
void tcp_place_bytes(struct tcp_link *tcp, struct tcp_conn *conn, const uint8_t *bytes,
                     size_t size);
ssize_t tcp_read_put(struct tcp_link *tcp, struct tcp_conn *conn, int flags, size_t *want);
int tcp_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
            const void *bytes, uint64_t size, uint64_t *ticket);
/* Under the sender's lock, which is given back meanwhile where the connection is broken. Its
 * ticket is the next one, if it has none. send: of the caller's bytes, whole, after what is
 * committed. queue: a worker's, which need not have left yet; nor are they tried (leave). */
int tcp_send_put(struct tcp_link *tcp, struct tcp_conn *conn, struct put_frame *put,
                 const uint8_t *bytes, struct fdc_loan *loan);
int tcp_queue_put(struct tcp_link *tcp, struct tcp_conn *conn, struct put_frame *put,
                  bool leave);
int tcp_lend(struct fdc_link *link, enum fdc_region region, uint64_t offset,
             const void *bytes, uint64_t size, struct fdc_loan *loan, uint64_t *ticket);
void tcp_reclaim(struct fdc_link *link, struct fdc_loan *loan);
/* A ticket as the other side is told it. */
uint64_t tcp_ticket(const struct tcp_link *tcp, const struct tcp_conn *conn,
                    uint64_t number);
/* AFTER or FENCE, of the put with the ticket, between the messages: the command sender's
 * lock is held, and may be given back meanwhile. */
void tcp_mark_put(struct tcp_link *tcp, enum frame_kind kind, uint64_t ticket);
int tcp_put_aside(struct fdc_link *link, uint64_t offset, uint64_t size, uint64_t *ticket);
int tcp_put_wait(struct fdc_link *link, uint64_t ticket, int64_t timeout_us);
bool tcp_land(struct fdc_link *link, uint64_t offset, uint64_t size, void *to);
uint64_t tcp_landed(struct fdc_link *link, uint64_t offset);

/*
 * tcp_haul.c. is_on: several bulk connections share the puts, each with a thread that sends;
 * they start at the first put. haul: the put is on its way there; loan NULL: its bytes are
 * in this side's view. here: it may be that the caller sends. drain: until all have left, or
 * it takes too long.
 */
bool tcp_haul_is_on(struct tcp_link *tcp);
int tcp_haul(struct tcp_link *tcp, struct put_frame *put, const uint8_t *bytes,
             struct fdc_loan *loan, bool here, uint64_t *ticket);
void tcp_drain_haulers(struct tcp_link *tcp, uint64_t limit_ns);
void tcp_stop_haulers(struct tcp_link *tcp);

/*
 * tcp_resume.c. break: the connection is of no use any more. True: there may be another
 * one; false: it was the last. await: until it is resumed, the time is over (0: there is
 * none) or for a moment.
 */
bool tcp_break(struct tcp_link *tcp, struct tcp_conn *conn);
void tcp_await_road(struct tcp_link *tcp, struct tcp_conn *conn, uint64_t limit_ns);
int tcp_keep(struct fdc_link *link, const struct fdc_link_keep *keep);
int tcp_resume(struct fdc_link *link, int which, uint32_t turn, int sock,
               const struct fdc_link_key *key);
uint32_t tcp_away(struct fdc_link *link);
void tcp_stop_keeper(struct tcp_link *tcp);

/* tcp_setup.c */
void tcp_free(struct fdc_link *link, bool abandon);
void tcp_set_socket(int fd);
/* Threads that read the bulk connections; those that there are go on, also on failure. */
int tcp_start_readers(struct tcp_link *tcp);

#endif
