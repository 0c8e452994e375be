/*
 * A byte ring in shared memory: one producer, one consumer, records of whole cache lines
 * that never wrap. Free-running indices, one cache line a writer, spin briefly and then
 * sleep on a futex; no system call while the other side is awake.
 *
 * The memory may be written by a hostile peer at any time: every index and length that
 * is read from it is read once, checked, and only then used; -EPROTO says it lied.
 */
#ifndef FDC_RING_H
#define FDC_RING_H

#include "fdc/base.h"

struct fdc_ring_head; /* the shared part, ring.c */

struct fdc_ring {
    struct fdc_ring_head *head;
    uint8_t *bytes;
    uint64_t size;         /* of bytes, a power of two */
    uint64_t tail, first;  /* this side's own copies of the two indices */
    uint64_t claimed, pad; /* bytes of the claim in progress, and before it */
    uint64_t cleared;      /* producer: no header is in the line before this position */
    uint64_t told;         /* consumer: what it last said of first */
    uint32_t streak;       /* consumer: records since it last found nothing */
    uint64_t peeked;       /* bytes that release gives back */
    uint32_t claimed_size, peeked_size;
    struct fdc_spin spin;
    uint64_t waits, sleeps, wakes; /* counters */
    /* Asked now and then while a thread sleeps: 0, or what the wait shall return. A
     * futex does not tell that the peer has died; NULL: it cannot. */
    int (*alive)(void *owner);
    void *owner;
};

/* Bytes of memory that a ring of `size` payload bytes takes. */
size_t fdc_ring_footprint(uint64_t size);
/* Makes a new ring in zeroed memory. */
int fdc_ring_make(void *memory, uint64_t size);
/* Attaches to a ring that was made in this memory; checks it. 0, -EPROTO, -EINVAL. */
int fdc_ring_map(struct fdc_ring *ring, void *memory, size_t memory_size);

/* The largest record: half the ring less two headers, and at most this. */
#define FDC_RING_RECORD_MAX 0x7ffffff0u
uint32_t fdc_ring_max(const struct fdc_ring *ring);

/* Producer. claim: NULL with *err = -EAGAIN (full), -EMSGSIZE (larger than
 * fdc_ring_max()), -EPIPE (closed), -EPROTO. Bytes claimed are not visible until
 * commit. */
void *fdc_ring_claim(struct fdc_ring *ring, uint32_t size, int *err);
void fdc_ring_commit(struct fdc_ring *ring);
void fdc_ring_abort(struct fdc_ring *ring);
/* 1: there may be room for size now; 0: timed out; -EPIPE, -EPROTO. timeout < 0: for
 * ever. */
int fdc_ring_wait_room(struct fdc_ring *ring, uint32_t size, int64_t timeout_us);

/* Consumer. peek: the next record or NULL (*err 0: empty, -EPIPE: closed and drained,
 * -EPROTO). The record stays valid until release. */
const void *fdc_ring_peek(struct fdc_ring *ring, uint32_t *size, int *err);
void fdc_ring_release(struct fdc_ring *ring);
/* 1: something to peek at; 0: timed out; -EPIPE, -EPROTO. timeout < 0: for ever.
 * Threads beside the consuming one may wait too: all wake, and a 1 may then be stale.
 * Whoever stops consuming before the ring is empty pokes, so that another goes on. */
int fdc_ring_wait_data(struct fdc_ring *ring, int64_t timeout_us);
/* Before the first look for what answers that which this side has just said: lets the moment
 * pass in which it cannot have come. */
void fdc_ring_soon(struct fdc_ring *ring);
/* Whether there is something within a few looks (base.h, fdc_spin_quick()). */
bool fdc_ring_quick(struct fdc_ring *ring);
/* As wait_data, and 2 when *word no longer holds seen. The word is of this process; who
 * stores it (with release) pokes after. */
int fdc_ring_wait_word(struct fdc_ring *ring, const uint32_t *word, uint32_t seen,
                       int64_t timeout_us);
void fdc_ring_poke(struct fdc_ring *ring);
/* As wait_word with a second word: 3 when that one changed. */
int fdc_ring_wait_words(struct fdc_ring *ring, const uint32_t *word, uint32_t seen,
                        const uint32_t *second, uint32_t second_seen,
                        int64_t timeout_us);

/* Either side: no more records; wakes the other side. */
void fdc_ring_close(struct fdc_ring *ring);

#endif
