/*
 * A link: what carries one session's messages between a client and a worker. The
 * callers see lanes (ordered messages) and regions (memory that bytes are put into);
 * shm, tcp and rdma implement the same few functions. FD_EMULATE_RTT_US and
 * FD_EMULATE_MBPS, read where the worker runs, make any of them slower (emulate.c).
 *
 * Locking is the caller's: one thread at a time claims..commits on a lane, one thread
 * at a time peeks..releases on a lane, any threads may wait, put() is safe from any
 * thread.
 */
#ifndef FDC_TRANSPORT_H
#define FDC_TRANSPORT_H

#include "fdc/base.h"

enum fdc_lane {
    FDC_LANE_COMMAND, /* client to worker: calls, in the session's total order */
    FDC_LANE_REPLY,   /* worker to client: replies, completions, host functions */
    FDC_LANE_SIDE,    /* client to worker, beside the commands: host functions done */
    FDC_LANES
};

enum fdc_region {
    FDC_REGION_UP,   /* client puts, worker reads: copies to the device, images */
    FDC_REGION_DOWN, /* worker puts, client reads: copies to the host */
    FDC_REGIONS
};

enum fdc_road { FDC_ROAD_SHM = 1, FDC_ROAD_TCP = 2, FDC_ROAD_RDMA = 3 };

struct fdc_link_size {
    uint64_t lane[FDC_LANES]; /* bytes, powers of two, 4 KiB to 256 MiB */
    uint64_t region[FDC_REGIONS];
};
#define FDC_LINK_SIZE_DEFAULT {{1u << 20, 1u << 20, 1u << 16}, {8u << 20, 8u << 20}}

enum { FDC_LINK_SOCKS = 5 }; /* at most */

struct fdc_link;

/*
 * Makes a link over sockets that have done the attach handshake. They belong to the
 * link from then on. On failure -errno, and the sockets are the caller's still.
 *
 * shm: socks[0] is a Unix stream socket; the worker makes and seals the memfds and
 *      passes them over it, the client receives and checks them. It stays open: its
 *      end of file tells that the other side has gone.
 *
 * tcp: socks[0] is the command and reply connection, socks[1] the bulk connection
 *      (puts and the side lane to the worker), and there may be more of those, for puts
 *      alone. Small puts to the client travel on socks[0] between the replies, others on
 *      the bulk connections; a reply says which of those have to be there before it.
 *
 * rdma: socks[0] is any stream socket. The two sides tell each other over it where their
 *      UCX workers are; it stays open for its end of file.
 *
 * The worker's end decides the sizes and tells the client; fdc_attach_ready, if there
 * is one, has been sent and read before. size NULL: the usual ones; over tcp the regions
 * are as much larger, up to 64 MiB, as the road is long.
 */
int fdc_link_client(enum fdc_road road, const int *socks, int nsocks,
                    struct fdc_link **link);
int fdc_link_worker(enum fdc_road road, const int *socks, int nsocks,
                    const struct fdc_link_size *size, struct fdc_link **link);
/*
 * The same over connections whose bytes are encrypted and authenticated from here on:
 * keys[i] is that of socks[i], made in the handshake (fdc/attach.h). tcp only; -ENOSYS
 * where the machine has no cipher, which is logged.
 */
struct fdc_link_key {
    uint8_t bytes[32];
};
int fdc_link_client_sealed(enum fdc_road road, const int *socks, int nsocks,
                           const struct fdc_link_key *keys, struct fdc_link **link);
int fdc_link_worker_sealed(enum fdc_road road, const int *socks, int nsocks,
                           const struct fdc_link_key *keys,
                           const struct fdc_link_size *size, struct fdc_link **link);
/*
 * What an shm link is made of (size: NULL for the usual one), made before there is anybody
 * at the other end: created and sealed, and the pages are there, so that neither side waits
 * for the kernel to clear them: all of the lanes, and the first `filled` bytes of each region
 * (UINT64_MAX: all). fdc_link_worker_of() makes the link out of it, which owns it from then
 * on; on failure it is the caller's still, as the socket is.
 */
struct fdc_link_memory;
int fdc_link_memory_new(const struct fdc_link_size *size, uint64_t filled,
                        struct fdc_link_memory **memory);
void fdc_link_memory_free(struct fdc_link_memory *memory); /* NULL: nothing */
int fdc_link_worker_of(struct fdc_link_memory *memory, int sock, struct fdc_link **link);
void fdc_link_free(struct fdc_link *link); /* closes; safe while the peer is alive */
/* In a forked child: gives this copy up without a word to the peer or to the parent. */
void fdc_link_abandon(struct fdc_link *link);
/* Closes for all threads: every wait returns -EPIPE. Not for signal handlers. */
void fdc_link_shutdown(struct fdc_link *link);

/*
 * Links that survive their connections, on both ends alike; tcp only (else -EOPNOTSUPP).
 * Before the first message and the first put. What was sent and did not arrive goes once
 * more over the new connection, each message counts once, and whoever uses the link
 * meanwhile waits; after the grace time all get -EPIPE, as without this at once.
 *
 * dial (a client's, in a thread of the link's): connects anew, in place of the connection
 * socks[which], and does what makes the worker's end have fdc_link_resume() called with the
 * other end and the same turn, which is higher each time. Of a sealed link it gives the
 * new key, which must be a fresh one. 0; -EACCES: there is no going on; else it is called
 * again.
 *
 * news_fd (a worker's; -1: none): 8 bytes are written there, without waiting, when
 * fdc_link_away() may have changed: whether a connection is gone.
 *
 * resume: the socket is the link's, also on failure. -ESTALE: the turn is not a newer one.
 */
struct fdc_link_keep {
    uint64_t grace_us;
    int (*dial)(void *user, int which, uint32_t turn, int *sock, struct fdc_link_key *key);
    void *user;
    int news_fd;
};
int fdc_link_keep(struct fdc_link *link, const struct fdc_link_keep *keep);
int fdc_link_resume(struct fdc_link *link, int which, uint32_t turn, int sock,
                    const struct fdc_link_key *key);
bool fdc_link_away(struct fdc_link *link);

/* Sending. claim gives size bytes, 8-byte aligned, or NULL and *err: -EAGAIN (no room
 * now, see wait_room), -EMSGSIZE (more than fdc_link_max_message()), -EPIPE. */
void *fdc_link_claim(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
                     int *err);
void fdc_link_commit(struct fdc_link *link, enum fdc_lane lane);
/* A reply, which the bytes of a put aside with this ticket precede too. */
void fdc_link_commit_after(struct fdc_link *link, enum fdc_lane lane, uint64_t ticket);
void fdc_link_abort(struct fdc_link *link, enum fdc_lane lane);
int fdc_link_wait_room(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
                       int64_t timeout_us);
/* What was committed leaves now, without waiting for a slow peer (what its socket does
 * not take follows by itself). Without flush it leaves when the batch is large, or
 * soon. */
int fdc_link_flush(struct fdc_link *link, enum fdc_lane lane);
uint32_t fdc_link_max_message(const struct fdc_link *link, enum fdc_lane lane);

/* Receiving. peek: the next message or NULL (*err 0: none now; -EPIPE, -EPROTO). wait:
 * 1 something to peek at, 0 timed out (timeout < 0: never), -EPIPE, -EPROTO. Several
 * threads may wait on one lane; all of them wake, and a 1 may be stale: peek tells. The
 * thread that stops consuming before peek gave NULL pokes, so that another goes on. */
const void *fdc_link_peek(struct fdc_link *link, enum fdc_lane lane, uint32_t *size,
                          int *err);
void fdc_link_release(struct fdc_link *link, enum fdc_lane lane);
int fdc_link_wait(struct fdc_link *link, enum fdc_lane lane, int64_t timeout_us);
/* As fdc_ring_soon() where the other side writes into shared memory; else returns at once. */
void fdc_link_soon(struct fdc_link *link, enum fdc_lane lane);
/* Whether a few looks find a message, where the other side writes them into shared memory. */
bool fdc_link_quick(struct fdc_link *link, enum fdc_lane lane);
/* As wait, and also returns (2) when *word no longer holds seen; whoever changes the
 * word calls fdc_link_poke(link, lane) after. Lets a thread wait for its reply or for
 * another thread having taken it in. */
int fdc_link_wait_word(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
                       uint32_t seen, int64_t timeout_us);
void fdc_link_poke(struct fdc_link *link, enum fdc_lane lane);

/*
 * Regions. base is this side's view; over shm it is the same memory on both sides, so a
 * caller may also fill it in place and put(bytes == base + offset) copies nothing.
 * put gives a ticket (0: already there); put_wait on the receiving side returns when
 * the bytes of that ticket have landed: 0, -ETIMEDOUT, -EPIPE. Messages carry the
 * ticket in fdc_msg.put; towards the client, a put made before a reply is committed has
 * landed when the reply is peeked at. Only the side that the region is put from may
 * call put (else -EINVAL, as for bytes outside it); the sender's view need not show
 * what was put where it is not shared. A worker's bytes that lie in its view are sent
 * from there: they stay as they are until the client has them.
 */
void *fdc_link_region(struct fdc_link *link, enum fdc_region region, uint64_t *size);
int fdc_link_put(struct fdc_link *link, enum fdc_region region, uint64_t offset,
                 const void *bytes, uint64_t size, uint64_t *ticket);
int fdc_link_put_wait(struct fdc_link *link, enum fdc_region region, uint64_t ticket,
                      int64_t timeout_us);
/*
 * For a client: as put, of bytes that are lent, a loan (all zero) for each: they stay as they
 * are until reclaim(). So puts go beside each other, as many as there are stripes, and what
 * the worker has by then need not be kept for a connection that breaks. settle: the bytes
 * have left (0, or -EPIPE). Whoever tells the worker of a put settles first, since the
 * worker waits for the bytes, and others behind it.
 */
struct fdc_loan {
    uint32_t out, lost;
    uint32_t conn; /* where they may be asked for again; 0: nowhere */
    uint64_t insert, until;
};
int fdc_link_lend(struct fdc_link *link, enum fdc_region region, uint64_t offset,
                  const void *bytes, uint64_t size, struct fdc_loan *loan,
                  uint64_t *ticket);
int fdc_link_settle(struct fdc_loan *loan);
void fdc_link_reclaim(struct fdc_link *link, struct fdc_loan *loan);
uint32_t fdc_link_stripes(const struct fdc_link *link);
/*
 * For a worker: as put into DOWN, of bytes that lie in its view, but only one reply has them
 * behind it: the one that is committed with the ticket (0: any has). All others may
 * overtake them.
 */
int fdc_link_put_aside(struct fdc_link *link, uint64_t offset, uint64_t size,
                       uint64_t *ticket);
/*
 * For a client: what is put into DOWN at this offset (a multiple of 4096), up to size
 * bytes, goes to `to` instead. False: it goes into the region all the same, as on roads
 * that share it. landed() ends it, says how many bytes went there, and none does any more;
 * the rest, if the kernel could not write there, is in the region.
 */
bool fdc_link_land(struct fdc_link *link, uint64_t offset, uint64_t size, void *to);
uint64_t fdc_link_landed(struct fdc_link *link, uint64_t offset);
/* True where both sides share the region's memory. */
bool fdc_link_is_shared(const struct fdc_link *link);
enum fdc_road fdc_link_road(const struct fdc_link *link);
/*
 * Where it is so, more memory can be shared: the worker gives the descriptor of a sealed
 * memfd (which stays its own), and after that tells the client, which takes it. One thread
 * of the client takes at a time; the tag, any number but 0, says that it is the one that it
 * was told of. 0 or -errno; *fd is the client's from then on.
 */
int fdc_link_give_fd(struct fdc_link *link, uint64_t tag, int fd);
int fdc_link_take_fd(struct fdc_link *link, uint64_t tag, int *fd);

struct fdc_link_stats {
    uint64_t messages[FDC_LANES], bytes[FDC_LANES], waits[FDC_LANES], sleeps[FDC_LANES];
    uint64_t put_bytes[FDC_REGIONS], flushes, system_calls, resumes;
};
void fdc_link_get_stats(struct fdc_link *link, struct fdc_link_stats *stats);

#endif
