/* What transport.c and the roads share. */
#ifndef FDC_TRANSPORT_LINK_H
#define FDC_TRANSPORT_LINK_H

#include "fdc/ring.h"
#include "fdc/transport.h"

struct fdc_link_ops {
    void (*free)(struct fdc_link *link, bool abandon);
    void (*shutdown)(struct fdc_link *link);
    void *(*claim)(struct fdc_link *link, enum fdc_lane lane, uint32_t size, int *err);
    void (*commit)(struct fdc_link *link, enum fdc_lane lane);
    void (*abort)(struct fdc_link *link, enum fdc_lane lane);
    int (*wait_room)(struct fdc_link *link, enum fdc_lane lane, uint32_t size,
                     int64_t timeout_us);
    int (*flush)(struct fdc_link *link, enum fdc_lane lane);
    const void *(*peek)(struct fdc_link *link, enum fdc_lane lane, uint32_t *size,
                        int *err);
    int (*wait_word)(struct fdc_link *link, enum fdc_lane lane, const uint32_t *word,
                     uint32_t seen, int64_t timeout_us);
    void (*poke)(struct fdc_link *link, enum fdc_lane lane);
    int (*put)(struct fdc_link *link, enum fdc_region region, uint64_t offset,
               const void *bytes, uint64_t size, uint64_t *ticket);
    /* Roads where put() has no use for the bytes any more have neither. */
    int (*lend)(struct fdc_link *link, enum fdc_region region, uint64_t offset,
                const void *bytes, uint64_t size, struct fdc_loan *loan,
                uint64_t *ticket);
    void (*reclaim)(struct fdc_link *link, struct fdc_loan *loan);
    /* Roads where a reply waits for none but those before it have neither. */
    int (*put_aside)(struct fdc_link *link, uint64_t offset, uint64_t size,
                     uint64_t *ticket);
    void (*commit_after)(struct fdc_link *link, enum fdc_lane lane, uint64_t ticket);
    int (*put_wait)(struct fdc_link *link, uint64_t ticket, int64_t timeout_us);
    bool (*land)(struct fdc_link *link, uint64_t offset, uint64_t size, void *to);
    uint64_t (*landed)(struct fdc_link *link, uint64_t offset);
    /* Roads that cannot have none. */
    int (*keep)(struct fdc_link *link, const struct fdc_link_keep *keep);
    int (*resume)(struct fdc_link *link, int which, uint32_t turn, int sock,
                  const struct fdc_link_key *key);
    uint32_t (*away)(struct fdc_link *link);
    /* Roads that share no memory have neither. */
    int (*give_fd)(struct fdc_link *link, uint64_t tag, int fd);
    int (*take_fd)(struct fdc_link *link, uint64_t tag, int *fd);
};

/* emulate.c; all zero where nothing is emulated. */
struct link_emulation {
    bool on;
    uint64_t delay_ns;          /* one way */
    uint64_t mbps;              /* 0: as fast as it goes */
    uint64_t free_ns;           /* until when this end's line is busy */
    uint64_t due_ns[FDC_LANES]; /* of the message that peek holds back */
};

enum { LINK_STAMP = 8 }; /* bytes in front of each emulated message */

void link_emulation_ask(struct link_emulation *emulation);
uint64_t link_emulation_send(struct link_emulation *emulation, uint64_t size);
int link_emulation_wait(uint64_t due_ns, const uint32_t *word, uint32_t seen,
                        int64_t timeout_us);

/*
 * Common part of every road. Received lanes are rings on all of them: shared ones, or
 * rings of this process that the road fills.
 */
struct fdc_link {
    const struct fdc_link_ops *ops;
    enum fdc_road road;
    bool worker;
    uint32_t stripes; /* puts that go at once; 0: one */
    struct fdc_link_size size;
    struct fdc_ring ring[FDC_LANES];
    uint8_t *region[FDC_REGIONS];
    uint32_t claimed[FDC_LANES], peeked[FDC_LANES];
    uint8_t *claimed_at[FDC_LANES]; /* kept only for emulation */
    struct link_emulation emulation;
    struct fdc_link_stats stats;
};

/* First thing that the worker's end sends, with the descriptors where there are any. */
struct link_setup {
    uint32_t magic, road;
    uint64_t lane[FDC_LANES];
    uint64_t region[FDC_REGIONS];
    uint64_t delay_ns, mbps; /* emulated */
};

enum { LINK_SETUP_MAGIC = 0x4c434446, LINK_SETUP_TIMEOUT_US = 30000000 };

static inline bool
link_sends(const struct fdc_link *link, enum fdc_lane lane)
{
    return link->worker == (lane == FDC_LANE_REPLY);
}

int link_size_check(const struct fdc_link_size *size);
/* The worker's set-up, with what it emulates; and the client's reading of it. */
void link_setup_fill(struct link_setup *setup, struct fdc_link *link);
int link_setup_take(const struct link_setup *setup, enum fdc_road road,
                    struct fdc_link_size *size, struct link_emulation *emulation);
/* The largest record of a lane's ring. */
uint32_t link_max_record(const struct fdc_link *link, enum fdc_lane lane);
/* Memory of this process alone, for rings and regions that other roads than shm fill. */
void *link_map(size_t size);
void link_unmap(void *memory, size_t size);     /* NULL: nothing */
/* A lane's receiving ring in new memory: link->ring[lane] takes out, fill puts in. What was
 * mapped is in *memory also on failure. */
int link_make_ring(struct fdc_link *link, enum fdc_lane lane, void **memory,
                   struct fdc_ring *fill);
/* Waits until the socket has something to read, for the set-up. */
int link_await_setup(int sock);

int shm_link_client(int sock, struct fdc_link **link);
/* filled: so many bytes of each region have their pages; the rings have in any case. */
int shm_memory_new(const struct fdc_link_size *size, uint64_t filled,
                   struct fdc_link_memory **memory);
int shm_link_worker(int sock, const struct fdc_link_size *size, struct fdc_link **link);
/* keys: one for each connection; NULL where bytes travel as they are. */
int tcp_link_client(const int *socks, int count, const struct fdc_link_key *keys,
                    struct fdc_link **link);
/* As large as the regions have to be on that road. */
void tcp_widen(struct fdc_link_size *size, int sock);
int tcp_link_worker(const int *socks, int count, const struct fdc_link_key *keys,
                    const struct fdc_link_size *size, struct fdc_link **link);
int rdma_link_client(int sock, struct fdc_link **link);
int rdma_link_worker(int sock, const struct fdc_link_size *size, struct fdc_link **link);

#endif
