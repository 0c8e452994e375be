/*
 * The allocator of one device: blocks inside address pieces that the worker has
 * reserved, on memory that the worker creates where it is told. Knows nothing of
 * messages: what it needs from the worker are five functions, so that it is tested
 * alone.
 *
 * A freed block is in limbo until everything that was accepted before the free has
 * finished; only then is it given out again or given back. Threads may do all at once.
 */
#ifndef FDC_ARENA_H
#define FDC_ARENA_H

#include "fdc/base.h"
#include "fdc/cuda_abi.h"

#define FDC_ARENA_UNIT 512u        /* alignment of small blocks */
#define FDC_ARENA_SMALL (1u << 20) /* from here on: granules of their own */

struct fdc_arena;

struct fdc_arena_ops {
    /* Memory at [address, address + size), zeroed; no lock is held. OUT_OF_MEMORY: no.
     */
    CUresult (*grow)(void *user, uint64_t address, uint64_t size);
    /* Gives back what one grow made. A lock is held: must not call the arena. */
    void (*shrink)(void *user, uint64_t address);
    /* Another address piece of at least size bytes. */
    CUresult (*piece)(void *user, uint64_t size, uint64_t *base, uint64_t *got);
    /* The position in the order of accepted work, now. A lock is held. */
    uint64_t (*position)(void *user);
    /* All work accepted before this position has finished. A lock is held. */
    uint64_t (*retired)(void *user);
    /* Asks to be told when all work accepted so far has finished, so that retired() knows;
     * with wait it returns after that. No lock is held. */
    CUresult (*fence)(void *user, bool wait);
    /* That others want what is not needed: nothing is cached. A lock is held. NULL: no. */
    bool (*company)(void *user);
};

struct fdc_arena_info {
    uint64_t used;          /* created bytes that hold a live block */
    uint64_t cached, limbo; /* created bytes without one; bytes of freed blocks */
    uint64_t created;
};

/* granule: a power of two, at least 2 MiB; limit: bytes that may be created, 0: any. */
struct fdc_arena *fdc_arena_new(const struct fdc_arena_ops *ops, void *user,
                                uint64_t granule, uint64_t limit);
void fdc_arena_delete(struct fdc_arena *arena);
int fdc_arena_add_piece(struct fdc_arena *arena, uint64_t base, uint64_t size);

/* wait: may wait for a fence where the request does not fit otherwise. */
CUresult fdc_arena_alloc(struct fdc_arena *arena, uint64_t size, bool wait,
                         uint64_t *address);
/* INVALID_VALUE: no live block begins there. */
CUresult fdc_arena_free(struct fdc_arena *arena, uint64_t address);
/* The worker has lost all memory of the device: forgets every block and every grow. */
void fdc_arena_forget(struct fdc_arena *arena);
/* Gives back what is cached; with wait after everything in limbo has left it. */
void fdc_arena_trim(struct fdc_arena *arena, bool wait);
/* Bytes that somebody else takes from (or gives back to) the same limit. */
void fdc_arena_charge(struct fdc_arena *arena, int64_t bytes);
void fdc_arena_stat(struct fdc_arena *arena, struct fdc_arena_info *info);

/* Addresses without memory, for the program's own mappings. hint 0: anywhere. */
CUresult fdc_arena_reserve(struct fdc_arena *arena, uint64_t size, uint64_t align,
                           uint64_t hint, uint64_t *address);
void fdc_arena_unreserve(struct fdc_arena *arena, uint64_t address, uint64_t size);

/* ---- ranges by address: used by the arena, by places, by mappings (rangemap.c) ----
 */

struct fdc_ranges;
struct fdc_ranges *fdc_ranges_new(void);
void fdc_ranges_delete(struct fdc_ranges *ranges);
/* -EEXIST where it overlaps another, -ENOMEM. */
int fdc_ranges_add(struct fdc_ranges *ranges, uint64_t base, uint64_t size,
                   void *value);
/* The range that holds the address, or NULL; base and size may be NULL. */
void *fdc_ranges_find(const struct fdc_ranges *ranges, uint64_t address, uint64_t *base,
                      uint64_t *size);
/* The first range that ends behind the address. */
void *fdc_ranges_next(const struct fdc_ranges *ranges, uint64_t address, uint64_t *base,
                      uint64_t *size);
/* The value of the range that begins there, no longer in the map; NULL: none. */
void *fdc_ranges_del(struct fdc_ranges *ranges, uint64_t base);
size_t fdc_ranges_count(const struct fdc_ranges *ranges);

#endif
