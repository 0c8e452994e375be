/*
 * One device's allocator. An *extent* is what one grow made: a granule that small
 * blocks share, or the memory of one larger block. Extents without a live block are
 * kept empty and given back before a request is refused; as every extent is given back
 * whole and addresses are plentiful, a request fails only when the bytes are not there.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "shim/arena.h"

#define BINS 64u
/* Freed bytes from which a fence is sent: early enough that what is freed and allocated
 * again and again need not grow, and seldom. */
#define LIMBO_FENCE (64ull << 20)
#define LIMBO_PART 4 /* of what there is */
#define LIMBO_BLOCKS 4096u        /* ... and freed blocks */
#define CACHE_MAX (1ull << 30)    /* empty extents kept, unless the limit is small */

enum block_state { BLOCK_FREE, BLOCK_LIVE, BLOCK_LIMBO };

struct extent;

struct block {
    uint64_t address, size;
    struct extent *extent;
    enum block_state state;
    struct block *left, *right;    /* neighbours in the extent */
    struct block *previous, *next; /* in its bin, or in limbo (next alone) */
    uint64_t position;             /* limbo: of the free */
};

struct extent {
    uint64_t address, size;
    bool small;                     /* shared by small blocks */
    uint32_t live, limbo;           /* blocks */
    struct extent *previous, *next; /* in the list of empty ones */
};

struct hole {
    uint64_t base, size;
    uint32_t piece;
};

struct fdc_arena {
    struct fdc_arena_ops ops;
    void *user;
    uint64_t granule, limit;
    pthread_mutex_t lock;
    struct fdc_ranges *live; /* blocks that are live, by address */
    struct block *bin[BINS];
    uint64_t bins;                           /* which are not empty */
    struct extent *empty_first, *empty_last; /* most recently emptied first */
    struct block *limbo_first, *limbo_last;
    struct hole *hole;
    uint32_t holes, hole_room;
    struct {
        uint64_t base, size;
    } *piece;
    uint32_t pieces, piece_room;
    uint64_t created, growing, used, cached, limbo, charged;
    uint32_t limbo_count;
    uint64_t fenced; /* position of the last fence asked for */
};

/* ---- addresses ---- */

static int
hole_insert(struct fdc_arena *arena, uint32_t at, struct hole hole)
{
    if (arena->holes == arena->hole_room) {
        uint32_t room = arena->hole_room ? arena->hole_room * 2 : 64;
        struct hole *grown = realloc(arena->hole, room * sizeof(*grown));

        if (grown == NULL)
            return -ENOMEM;
        arena->hole = grown;
        arena->hole_room = room;
    }
    memmove(&arena->hole[at + 1], &arena->hole[at],
            (arena->holes - at) * sizeof(struct hole));
    arena->hole[at] = hole;
    arena->holes++;
    return 0;
}

static void
hole_delete(struct fdc_arena *arena, uint32_t at)
{
    arena->holes--;
    memmove(&arena->hole[at], &arena->hole[at + 1],
            (arena->holes - at) * sizeof(struct hole));
}

/* How many holes begin at or before the address. */
static uint32_t
hole_place(const struct fdc_arena *arena, uint64_t address)
{
    uint32_t low = 0, high = arena->holes;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (arena->hole[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Cuts [base, base + size) out of a hole that holds it. */
static int
hole_cut(struct fdc_arena *arena, uint32_t at, uint64_t base, uint64_t size)
{
    struct hole *hole = &arena->hole[at];
    uint64_t end = hole->base + hole->size;
    struct hole right = {base + size, end - (base + size), hole->piece};

    if (base == hole->base) {
        if (right.size == 0)
            hole_delete(arena, at);
        else
            *hole = right;
        return 0;
    }
    if (right.size != 0 && hole_insert(arena, at + 1, right) != 0)
        return -ENOMEM;
    arena->hole[at].size = base - arena->hole[at].base;
    return 0;
}

static uint64_t
address_take(struct fdc_arena *arena, uint64_t size, uint64_t align)
{
    for (uint32_t i = 0; i < arena->holes; i++) {
        uint64_t base = FDC_ALIGN_UP(arena->hole[i].base, align);
        uint64_t skipped = base - arena->hole[i].base;

        if (arena->hole[i].size < skipped || arena->hole[i].size - skipped < size)
            continue;
        return hole_cut(arena, i, base, size) == 0 ? base : 0;
    }
    return 0;
}

static uint32_t
piece_of(const struct fdc_arena *arena, uint64_t address)
{
    uint32_t i;

    for (i = 0; i < arena->pieces; i++)
        if (address - arena->piece[i].base < arena->piece[i].size)
            break;
    return i;
}

static void
address_give(struct fdc_arena *arena, uint64_t base, uint64_t size)
{
    uint32_t at = hole_place(arena, base), piece = piece_of(arena, base);
    struct hole *left = at > 0 ? &arena->hole[at - 1] : NULL;
    struct hole *right = at < arena->holes ? &arena->hole[at] : NULL;

    if (left != NULL && (left->piece != piece || left->base + left->size != base))
        left = NULL;
    if (right != NULL && (right->piece != piece || base + size != right->base))
        right = NULL;
    if (left != NULL && right != NULL) {
        left->size += size + right->size;
        hole_delete(arena, at);
    } else if (left != NULL) {
        left->size += size;
    } else if (right != NULL) {
        right->base = base;
        right->size += size;
    } else {
        /* No memory for the note: these addresses are lost, nothing else. */
        (void)hole_insert(arena, at, (struct hole){base, size, piece});
    }
}

static int
piece_add(struct fdc_arena *arena, uint64_t base, uint64_t size)
{
    uint64_t first = FDC_ALIGN_UP(base, arena->granule);

    if (first - base >= size)
        return -EINVAL;
    size = (size - (first - base)) & ~(arena->granule - 1);
    if (size == 0)
        return -EINVAL;
    if (arena->pieces == arena->piece_room) {
        uint32_t room = arena->piece_room ? arena->piece_room * 2 : 8;
        void *grown = realloc(arena->piece, room * sizeof(*arena->piece));

        if (grown == NULL)
            return -ENOMEM;
        arena->piece = grown;
        arena->piece_room = room;
    }
    arena->piece[arena->pieces].base = first;
    arena->piece[arena->pieces].size = size;
    arena->pieces++;
    address_give(arena, first, size);
    return 0;
}

int
fdc_arena_add_piece(struct fdc_arena *arena, uint64_t base, uint64_t size)
{
    int err;

    pthread_mutex_lock(&arena->lock);
    err = piece_add(arena, base, size);
    pthread_mutex_unlock(&arena->lock);
    return err;
}

/* Takes addresses, asking for another piece where there are none. The lock is dropped
 * while it asks. */
static CUresult
address_get(struct fdc_arena *arena, uint64_t size, uint64_t align, uint64_t *address)
{
    uint64_t base, got;
    CUresult result;

    for (int asked = 0;; asked++) {
        *address = address_take(arena, size, align);
        if (*address != 0)
            return CUDA_SUCCESS;
        if (asked == 3)
            return CUDA_ERROR_OUT_OF_MEMORY;
        pthread_mutex_unlock(&arena->lock);
        result = arena->ops.piece(arena->user, size + align, &base, &got);
        pthread_mutex_lock(&arena->lock);
        if (result != CUDA_SUCCESS)
            return result;
        (void)piece_add(arena, base, got);
    }
}

/* ---- free blocks in bins by size ---- */

/* Four bins for each power of two of units: exact below eight. */
static uint32_t
bin_of(uint64_t size)
{
    uint32_t units = (uint32_t)(size / FDC_ARENA_UNIT), log;

    if (units < 8)
        return units;
    log = 31 - (uint32_t)__builtin_clz(units);
    return (log - 1) * 4 + ((units >> (log - 2)) & 3);
}

static void
bin_put(struct fdc_arena *arena, struct block *block)
{
    uint32_t bin = bin_of(block->size);

    block->state = BLOCK_FREE;
    block->previous = NULL;
    block->next = arena->bin[bin];
    if (block->next != NULL)
        block->next->previous = block;
    arena->bin[bin] = block;
    arena->bins |= 1ull << bin;
}

static void
bin_del(struct fdc_arena *arena, struct block *block)
{
    uint32_t bin = bin_of(block->size);

    if (block->previous != NULL)
        block->previous->next = block->next;
    else
        arena->bin[bin] = block->next;
    if (block->next != NULL)
        block->next->previous = block->previous;
    if (arena->bin[bin] == NULL)
        arena->bins &= ~(1ull << bin);
    block->previous = block->next = NULL;
}

/* A free block of at least this size, still in its bin. Misses none. */
static struct block *
bin_find(struct fdc_arena *arena, uint64_t size)
{
    uint32_t bin = bin_of(size);
    uint64_t larger = bin + 1 < 64 ? arena->bins & ~((2ull << bin) - 1) : 0;

    for (struct block *block = arena->bin[bin]; block != NULL; block = block->next)
        if (block->size >= size)
            return block;
    return larger != 0 ? arena->bin[__builtin_ctzll(larger)] : NULL;
}

/* ---- extents ---- */

static void
empty_put(struct fdc_arena *arena, struct extent *extent)
{
    extent->previous = NULL;
    extent->next = arena->empty_first;
    if (extent->next != NULL)
        extent->next->previous = extent;
    else
        arena->empty_last = extent;
    arena->empty_first = extent;
    arena->cached += extent->size;
}

static void
empty_del(struct fdc_arena *arena, struct extent *extent)
{
    if (extent->previous != NULL)
        extent->previous->next = extent->next;
    else
        arena->empty_first = extent->next;
    if (extent->next != NULL)
        extent->next->previous = extent->previous;
    else
        arena->empty_last = extent->previous;
    extent->previous = extent->next = NULL;
    arena->cached -= extent->size;
}

static struct extent *
empty_find(struct fdc_arena *arena, uint64_t size)
{
    struct extent *extent = arena->empty_first;

    while (extent != NULL && extent->size != size)
        extent = extent->next;
    return extent;
}

/* Gives empty extents back, the oldest first, until at most `keep` bytes are cached. */
static void
empty_drop(struct fdc_arena *arena, uint64_t keep)
{
    while (arena->cached > keep) {
        struct extent *extent = arena->empty_last;

        empty_del(arena, extent);
        arena->ops.shrink(arena->user, extent->address);
        arena->created -= extent->size;
        address_give(arena, extent->address, extent->size);
        free(extent);
    }
}

static void
extent_live(struct fdc_arena *arena, struct extent *extent)
{
    if (extent->live++ == 0)
        arena->used += extent->size;
}

/* Makes the block (free, in no bin) part of the extent's free space. */
static void
block_release(struct fdc_arena *arena, struct block *block)
{
    struct extent *extent = block->extent;
    struct block *left = block->left, *right = block->right;

    if (left != NULL && left->state == BLOCK_FREE) {
        bin_del(arena, left);
        left->size += block->size;
        left->right = right;
        if (right != NULL)
            right->left = left;
        free(block);
        block = left;
    }
    if (right != NULL && right->state == BLOCK_FREE) {
        bin_del(arena, right);
        block->size += right->size;
        block->right = right->right;
        if (block->right != NULL)
            block->right->left = block;
        free(right);
    }
    if (block->size == extent->size) {
        free(block);
        extent->small = false;
        empty_put(arena, extent);
        return;
    }
    bin_put(arena, block);
}

/* Blocks whose work has finished leave limbo. */
static void
limbo_collect(struct fdc_arena *arena)
{
    uint64_t retired = arena->ops.retired(arena->user);
    uint64_t keep = CACHE_MAX;

    while (arena->limbo_first != NULL && arena->limbo_first->position <= retired) {
        struct block *block = arena->limbo_first;

        arena->limbo_first = block->next;
        if (arena->limbo_first == NULL)
            arena->limbo_last = NULL;
        arena->limbo -= block->size;
        arena->limbo_count--;
        block->extent->limbo--;
        block->next = NULL;
        block_release(arena, block);
    }
    if (arena->limit != 0 && arena->limit / 4 < keep)
        keep = arena->limit / 4;
    if (keep < 32 * arena->granule)
        keep = 32 * arena->granule;
    if (arena->ops.company != NULL && arena->ops.company(arena->user))
        keep = 0;
    empty_drop(arena, keep);
}

/* Makes size bytes at the block's start live and puts the rest back. */
static CUresult
block_cut(struct fdc_arena *arena, struct block *block, uint64_t size)
{
    struct block *rest;

    if (block->size > size) {
        rest = calloc(1, sizeof(*rest));
        if (rest == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        rest->address = block->address + size;
        rest->size = block->size - size;
        rest->extent = block->extent;
        rest->left = block;
        rest->right = block->right;
        if (rest->right != NULL)
            rest->right->left = rest;
        block->right = rest;
        block->size = size;
        bin_put(arena, rest);
    }
    block->state = BLOCK_LIVE;
    if (fdc_ranges_add(arena->live, block->address, block->size, block) != 0) {
        block_release(arena, block);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    extent_live(arena, block->extent);
    return CUDA_SUCCESS;
}

/* An extent in no list becomes the home of a block of this size. */
static CUresult
extent_use(struct fdc_arena *arena, struct extent *extent, uint64_t size, bool small,
           uint64_t *address)
{
    struct block *block = calloc(1, sizeof(*block));

    if (block == NULL) {
        empty_put(arena, extent);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    extent->small = small;
    block->address = extent->address;
    block->size = extent->size;
    block->extent = extent;
    *address = block->address;
    return block_cut(arena, block, small ? size : extent->size);
}

/* From what is there already. OUT_OF_MEMORY: nothing fits. */
static CUresult
alloc_local(struct fdc_arena *arena, uint64_t size, bool small, uint64_t need,
            uint64_t *address)
{
    struct extent *extent;
    struct block *block;

    if (small) {
        block = bin_find(arena, size);
        if (block != NULL) {
            bin_del(arena, block);
            *address = block->address;
            return block_cut(arena, block, size);
        }
    }
    extent = empty_find(arena, need);
    if (extent == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    empty_del(arena, extent);
    return extent_use(arena, extent, size, small, address);
}

/* Created anew, at addresses of its own. The lock is dropped meanwhile. */
static CUresult
alloc_grow(struct fdc_arena *arena, uint64_t size, bool small, uint64_t need,
           uint64_t *address)
{
    struct extent *extent = calloc(1, sizeof(*extent));
    CUresult result;
    uint64_t base;

    if (extent == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = address_get(arena, need, arena->granule, &base);
    if (result != CUDA_SUCCESS)
        goto err_extent;

    arena->growing += need;
    pthread_mutex_unlock(&arena->lock);
    result = arena->ops.grow(arena->user, base, need);
    pthread_mutex_lock(&arena->lock);
    arena->growing -= need;
    if (result != CUDA_SUCCESS)
        goto err_address;

    arena->created += need;
    extent->address = base;
    extent->size = need;
    return extent_use(arena, extent, size, small, address);

err_address:
    address_give(arena, base, need);
err_extent:
    free(extent);
    return result;
}

static bool
limit_allows(const struct fdc_arena *arena, uint64_t need)
{
    uint64_t taken = arena->created + arena->growing + arena->charged;

    return arena->limit == 0 || (taken <= arena->limit && need <= arena->limit - taken);
}

CUresult
fdc_arena_alloc(struct fdc_arena *arena, uint64_t size, bool wait, uint64_t *address)
{
    bool small, refused = false;
    CUresult result;
    uint64_t need;

    if (size == 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (size > 1ull << 60)
        return CUDA_ERROR_OUT_OF_MEMORY;
    small = size < FDC_ARENA_SMALL;
    need = small ? arena->granule : FDC_ALIGN_UP(size, arena->granule);
    size = FDC_ALIGN_UP(size, (uint64_t)FDC_ARENA_UNIT);

    pthread_mutex_lock(&arena->lock);
    for (;;) {
        limbo_collect(arena);
        result = alloc_local(arena, size, small, need, address);
        if (result != CUDA_ERROR_OUT_OF_MEMORY)
            break;
        if (!refused && limit_allows(arena, need)) {
            result = alloc_grow(arena, size, small, need, address);
            if (result != CUDA_ERROR_OUT_OF_MEMORY)
                break;
            refused = true; /* by the worker: until something was given back */
        }
        if (arena->cached > 0) {
            uint64_t keep = 0;

            /* Just enough where the limit tells how much that is. */
            if (!refused) {
                uint64_t over = arena->created + arena->growing + arena->charged +
                                need - arena->limit;

                keep = arena->cached > over ? arena->cached - over : 0;
            }
            empty_drop(arena, keep);
            refused = false;
            continue;
        }
        if (arena->limbo_first == NULL || !wait)
            break;
        pthread_mutex_unlock(&arena->lock);
        result = arena->ops.fence(arena->user, true);
        pthread_mutex_lock(&arena->lock);
        if (result != CUDA_SUCCESS)
            break;
        refused = false;
    }
    pthread_mutex_unlock(&arena->lock);
    return result;
}

CUresult
fdc_arena_free(struct fdc_arena *arena, uint64_t address)
{
    struct extent *extent;
    struct block *block;
    bool fence = false;

    pthread_mutex_lock(&arena->lock);
    block = fdc_ranges_del(arena->live, address);
    if (block == NULL) {
        pthread_mutex_unlock(&arena->lock);
        return CUDA_ERROR_INVALID_VALUE;
    }
    extent = block->extent;
    if (--extent->live == 0)
        arena->used -= extent->size;
    extent->limbo++;
    block->state = BLOCK_LIMBO;
    block->position = arena->ops.position(arena->user);
    block->next = NULL;
    if (arena->limbo_last != NULL)
        arena->limbo_last->next = block;
    else
        arena->limbo_first = block;
    arena->limbo_last = block;
    arena->limbo += block->size;
    arena->limbo_count++;
    limbo_collect(arena);

    if ((arena->limbo >= LIMBO_FENCE || arena->limbo >= arena->created / LIMBO_PART ||
         arena->limbo_count >= LIMBO_BLOCKS) &&
        arena->fenced <= arena->ops.retired(arena->user)) {
        arena->fenced = arena->limbo_last->position;
        fence = true;
    }
    pthread_mutex_unlock(&arena->lock);
    if (fence)
        (void)arena->ops.fence(arena->user, false);
    return CUDA_SUCCESS;
}

void
fdc_arena_trim(struct fdc_arena *arena, bool wait)
{
    bool fence;

    pthread_mutex_lock(&arena->lock);
    limbo_collect(arena);
    fence = wait && arena->limbo_first != NULL;
    pthread_mutex_unlock(&arena->lock);
    if (fence)
        (void)arena->ops.fence(arena->user, true);
    pthread_mutex_lock(&arena->lock);
    limbo_collect(arena);
    empty_drop(arena, 0);
    pthread_mutex_unlock(&arena->lock);
}

void
fdc_arena_charge(struct fdc_arena *arena, int64_t bytes)
{
    pthread_mutex_lock(&arena->lock);
    arena->charged += (uint64_t)bytes;
    pthread_mutex_unlock(&arena->lock);
}

void
fdc_arena_stat(struct fdc_arena *arena, struct fdc_arena_info *info)
{
    pthread_mutex_lock(&arena->lock);
    limbo_collect(arena);
    info->used = arena->used + arena->charged;
    info->cached = arena->cached;
    info->limbo = arena->limbo;
    info->created = arena->created;
    pthread_mutex_unlock(&arena->lock);
}

CUresult
fdc_arena_reserve(struct fdc_arena *arena, uint64_t size, uint64_t align, uint64_t hint,
                  uint64_t *address)
{
    CUresult result;

    if (align < arena->granule)
        align = arena->granule;
    if (size == 0 || (size & (arena->granule - 1)) != 0 || (align & (align - 1)) != 0 ||
        size > 1ull << 60)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&arena->lock);
    if (hint != 0 && (hint & (align - 1)) == 0) {
        uint32_t at = hole_place(arena, hint);

        if (at > 0 && hint - arena->hole[at - 1].base < arena->hole[at - 1].size &&
            arena->hole[at - 1].size - (hint - arena->hole[at - 1].base) >= size &&
            hole_cut(arena, at - 1, hint, size) == 0) {
            *address = hint;
            pthread_mutex_unlock(&arena->lock);
            return CUDA_SUCCESS;
        }
    }
    result = address_get(arena, size, align, address);
    pthread_mutex_unlock(&arena->lock);
    return result;
}

void
fdc_arena_unreserve(struct fdc_arena *arena, uint64_t address, uint64_t size)
{
    pthread_mutex_lock(&arena->lock);
    address_give(arena, address, size);
    pthread_mutex_unlock(&arena->lock);
}

/* Every block of an extent, and the extent, without telling anybody. */
static void
extent_forget(struct fdc_arena *arena, struct block *block)
{
    struct extent *extent = block->extent;

    while (block->left != NULL)
        block = block->left;
    while (block != NULL) {
        struct block *right = block->right;

        if (block->state == BLOCK_FREE)
            bin_del(arena, block);
        else if (block->state == BLOCK_LIVE)
            (void)fdc_ranges_del(arena->live, block->address);
        free(block);
        block = right;
    }
    if (extent->live != 0)
        arena->used -= extent->size;
    arena->created -= extent->size;
    address_give(arena, extent->address, extent->size);
    free(extent);
}

void
fdc_arena_forget(struct fdc_arena *arena)
{
    struct block *block;

    pthread_mutex_lock(&arena->lock);
    /* Limbo is in no order by extent: everything in it becomes free space first. */
    arena->fenced = 0;
    while ((block = arena->limbo_first) != NULL) {
        arena->limbo_first = block->next;
        block->extent->limbo--;
        block->next = NULL;
        block_release(arena, block);
    }
    arena->limbo_last = NULL;
    arena->limbo = 0;
    arena->limbo_count = 0;
    while ((block = fdc_ranges_next(arena->live, 0, NULL, NULL)) != NULL)
        extent_forget(arena, block);
    while (arena->empty_first != NULL) {
        struct extent *extent = arena->empty_first;

        empty_del(arena, extent);
        arena->created -= extent->size;
        address_give(arena, extent->address, extent->size);
        free(extent);
    }
    pthread_mutex_unlock(&arena->lock);
}

struct fdc_arena *
fdc_arena_new(const struct fdc_arena_ops *ops, void *user, uint64_t granule,
              uint64_t limit)
{
    struct fdc_arena *arena = calloc(1, sizeof(*arena));

    if (arena == NULL)
        return NULL;
    arena->live = fdc_ranges_new();
    if (arena->live == NULL) {
        free(arena);
        return NULL;
    }
    if (granule < 2u << 20)
        granule = 2u << 20;
    arena->ops = *ops;
    arena->user = user;
    arena->granule = granule;
    arena->limit = limit;
    pthread_mutex_init(&arena->lock, NULL);
    return arena;
}

void
fdc_arena_delete(struct fdc_arena *arena)
{
    if (arena == NULL)
        return;
    fdc_arena_forget(arena);
    fdc_ranges_delete(arena->live);
    free(arena->hole);
    free(arena->piece);
    pthread_mutex_destroy(&arena->lock);
    free(arena);
}
