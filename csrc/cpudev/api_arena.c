/*
 * The arena: the addresses of device memory. Reserved without access in pieces as it
 * fills, between 0x500000000000 and 0x5f0000000000, or wherever the kernel has room if that
 * is taken; as a driver's, they differ from process to process where the kernel's do. Big
 * blocks get pages of their own, small ones share chunks. What is given back stays
 * accessible (and reads as zero), so that a kernel that uses freed memory harms
 * nobody's process. All under fdcpu.mem, held for writing.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cpudev.h"

#define BASE 0x500000000000ull
#define END 0x5f0000000000ull
#define SPREAD (4ull << 40) /* the first piece begins in these: below where programs lie */
#define PIECE (64ull << 30)
#define CHUNK (4ull << 20)
#define SMALL (256u << 10) /* below: from a chunk */
#define PAGE 4096ull

struct hole {
    uint64_t lo, hi;
    struct hole *next;
};

/* Sorted lists of free addresses: of whole pages, and inside the chunks. */
static struct hole *pages, *small;
static uint64_t first_piece, next_piece;

/* Adds [lo, hi) to a list, joined with its neighbours. */
static bool
give(struct hole **list, uint64_t lo, uint64_t hi)
{
    struct hole **at = list, *hole, *next;

    while (*at != NULL && (*at)->hi < lo)
        at = &(*at)->next;
    hole = *at;
    if (hole == NULL || hole->lo > hi) {
        hole = malloc(sizeof(*hole));
        if (hole == NULL)
            return false;
        *hole = (struct hole){lo, hi, *at};
        *at = hole;
        return true;
    }
    if (lo < hole->lo)
        hole->lo = lo;
    if (hi > hole->hi)
        hole->hi = hi;
    next = hole->next;
    if (next != NULL && next->lo <= hole->hi) {
        hole->hi = next->hi;
        hole->next = next->next;
        free(next);
    }
    return true;
}

/* Takes [lo, lo+size) out of the hole at *at. */
static bool
carve(struct hole **at, uint64_t lo, uint64_t size)
{
    struct hole *hole = *at, *rest;

    if (lo > hole->lo && lo + size < hole->hi) {
        rest = malloc(sizeof(*rest));
        if (rest == NULL)
            return false;
        *rest = (struct hole){lo + size, hole->hi, hole->next};
        hole->hi = lo;
        hole->next = rest;
    } else if (lo > hole->lo) {
        hole->hi = lo;
    } else if (lo + size < hole->hi) {
        hole->lo = lo + size;
    } else {
        *at = hole->next;
        free(hole);
    }
    return true;
}

static uint64_t
take(struct hole **list, uint64_t size, uint64_t align)
{
    struct hole **at;
    uint64_t lo;

    for (at = list; *at != NULL; at = &(*at)->next) {
        lo = FDC_ALIGN_UP((*at)->lo, align);
        if (lo < (*at)->hi && size <= (*at)->hi - lo)
            return carve(at, lo, size) ? lo : 0;
    }
    return 0;
}

/* Takes exactly [lo, lo+size), if it is free. */
static bool
take_at(struct hole **list, uint64_t lo, uint64_t size)
{
    struct hole **at;

    for (at = list; *at != NULL && (*at)->lo <= lo; at = &(*at)->next)
        if (lo < (*at)->hi && size <= (*at)->hi - lo)
            return carve(at, lo, size);
    return false;
}

static void *
reserve_at(uint64_t addr, uint64_t size)
{
    void *p;

#ifdef __SANITIZE_THREAD__
    /* It wants all memory in its own ranges, and turns a fixed address into 0. */
    if (addr != 0) {
        errno = EEXIST;
        return MAP_FAILED;
    }
#endif
    p = mmap((void *)addr, size, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
                 (addr != 0 ? MAP_FIXED_NOREPLACE : 0),
             -1, 0);

    if (p != MAP_FAILED && addr != 0 && (uint64_t)p != addr) {
        munmap(p, size); /* a kernel that does not know the flag */
        errno = EEXIST;
        return MAP_FAILED;
    }
    return p;
}

/* Reserves at least size more bytes of addresses. */
static bool
grow(uint64_t size)
{
    uint64_t piece = FDC_ALIGN_UP(size, PIECE);
    void *p;

    if (first_piece == 0) {
        /* Where this library lies is chance, unless somebody has turned that off. */
        uint64_t chance = ((uint64_t)(uintptr_t)&first_piece >> 12) *
                          0x9E3779B97F4A7C15ull;

        first_piece = next_piece = BASE + chance % (SPREAD / CHUNK) * CHUNK;
    }
    while (next_piece < END && piece <= END - next_piece) {
        uint64_t at = next_piece;

        p = reserve_at(at, piece);
        if (p != MAP_FAILED) {
            next_piece += piece;
            return give(&pages, at, at + piece);
        }
        if (errno != EEXIST)
            break;
        next_piece += PIECE;
    }
    /* No room there, or a limit on address space: take less, wherever it is. */
    for (piece = FDC_ALIGN_UP(size, FDCPU_GRANULE) + FDCPU_GRANULE;; piece = size) {
        p = reserve_at(0, piece);
        if (p != MAP_FAILED)
            return give(&pages, (uint64_t)p, (uint64_t)p + piece);
        if (piece == size)
            return false;
    }
}

static uint64_t
take_pages(uint64_t size, uint64_t align)
{
    uint64_t addr = take(&pages, size, align);

    if (addr == 0 && grow(size + (align > PAGE ? align : 0)))
        addr = take(&pages, size, align);
    return addr;
}

uint64_t
fdcpu_addr_alloc(size_t size, size_t align)
{
    uint64_t addr;

    if (align < FDCPU_ALIGN)
        align = FDCPU_ALIGN;
    size = FDC_ALIGN_UP(size == 0 ? 1 : size, FDCPU_ALIGN);
    if (size < SMALL && align <= PAGE) {
        addr = take(&small, size, align);
        if (addr != 0)
            return addr;
        addr = take_pages(CHUNK, FDCPU_GRANULE);
        if (addr == 0 || mprotect((void *)addr, CHUNK, PROT_READ | PROT_WRITE) != 0 ||
            !give(&small, addr, addr + CHUNK))
            return 0;
        return take(&small, size, align);
    }
    if (align < PAGE)
        align = size >= FDCPU_GRANULE / 2 ? FDCPU_GRANULE : PAGE;
    size = FDC_ALIGN_UP(size, PAGE);
    addr = take_pages(size, align);
    if (addr == 0)
        return 0;
    if (mprotect((void *)addr, size, PROT_READ | PROT_WRITE) != 0) {
        give(&pages, addr, addr + size);
        return 0;
    }
    return addr;
}

void
fdcpu_addr_free(uint64_t addr, size_t size)
{
    size = FDC_ALIGN_UP(size == 0 ? 1 : size, FDCPU_ALIGN);
    /* A small block with a big alignment came from pages; it joins the small ones. */
    if (size < SMALL) {
        give(&small, addr, addr + size);
        return;
    }
    size = FDC_ALIGN_UP(size, PAGE);
    madvise((void *)addr, size, MADV_DONTNEED);
    give(&pages, addr, addr + size);
}

uint64_t
fdcpu_addr_reserve(size_t size, size_t align, uint64_t hint)
{
    uint64_t addr;

    if (hint != 0 && reserve_at(hint, size) != MAP_FAILED)
        return hint;
    if (hint != 0 && take_at(&pages, hint, size))
        addr = hint;
    else
        addr = take_pages(size, align < FDCPU_GRANULE ? FDCPU_GRANULE : align);
    /* It may have been memory before: no access until it is mapped. */
    if (addr != 0 && mmap((void *)addr, size, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                          0) == MAP_FAILED) {
        give(&pages, addr, addr + size);
        return 0;
    }
    return addr;
}

void
fdcpu_addr_unreserve(uint64_t addr, size_t size)
{
    /* Inside the arena the addresses can be used again, elsewhere they go back. */
    if (addr >= first_piece && addr + size <= next_piece) {
        mmap((void *)addr, size, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        give(&pages, addr, addr + size);
    } else {
        munmap((void *)addr, size);
    }
}
