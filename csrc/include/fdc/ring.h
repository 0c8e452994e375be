/*
 * A byte ring in shared memory: one producer, one consumer, records of 8-byte multiples
 * that never wrap. Free-running indices, one cache line a writer, spin briefly and then
 * sleep on a futex; no system call while the other side is awake.
 *
 * The memory may be written by a hostile peer at any time: every index and length that
 * is read from it is read once, checked, and only then used; -EPROTO says it lied.
 */
#ifndef FDC_RING_H
#define FDC_RING_H

#include "fdc/base.h"

struct fdc_ring_head;           /* the shared part, ring.c */

struct fdc_ring {
    struct fdc_ring_head *head;
    uint8_t *bytes;
    uint64_t size;              /* of bytes, a power of two */
    uint64_t tail, first;       /* this side's own copies of the two indices */
    uint64_t claimed;           /* bytes of the claim in progress */
    uint64_t spin_ns;           /* how long to spin before sleeping, adapts */
    uint64_t waits, sleeps;     /* counters */
};

/* Bytes of memory that a ring of `size` payload bytes takes. */
size_t fdc_ring_footprint(uint64_t size);
/* Makes a new ring in zeroed memory. */
int fdc_ring_make(void *memory, uint64_t size);
/* Attaches to a ring that was made in this memory; checks it. 0, -EPROTO, -EINVAL. */
int fdc_ring_map(struct fdc_ring *ring, void *memory, size_t memory_size);

/* Producer. claim: NULL with *err = -EAGAIN (full), -EMSGSIZE (larger than half the
 * ring), -EPIPE (closed), -EPROTO. Bytes claimed are not visible until commit. */
void *fdc_ring_claim(struct fdc_ring *ring, uint32_t size, int *err);
void fdc_ring_commit(struct fdc_ring *ring);
void fdc_ring_abort(struct fdc_ring *ring);
/* 1: there may be room for size now; 0: timed out; -EPIPE, -EPROTO. timeout < 0: for ever. */
int fdc_ring_wait_room(struct fdc_ring *ring, uint32_t size, int64_t timeout_us);

/* Consumer. peek: the next record or NULL (*err 0: empty, -EPIPE: closed and drained,
 * -EPROTO). The record stays valid until release. */
const void *fdc_ring_peek(struct fdc_ring *ring, uint32_t *size, int *err);
void fdc_ring_release(struct fdc_ring *ring);
int fdc_ring_wait_data(struct fdc_ring *ring, int64_t timeout_us);

/* Either side: no more records; wakes the other side. */
void fdc_ring_close(struct fdc_ring *ring);

#endif
