/*
 * The ranges that kernels may touch: a sorted array behind a lock, with a generation
 * number by which workers know that what they cached is still true.
 */
#include "vm.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct fdcpu_range *ranges;
static size_t nranges, cap_ranges;
static uint64_t generation = 1;         /* atomic */

/* Index of the first range that ends above addr. */
static size_t
above(uint64_t addr)
{
    size_t lo = 0, hi = nranges;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (ranges[mid].hi <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int
fdcpu_mem_add(const struct fdcpu_range *range)
{
    size_t at;
    int err = 0;

    if (range->lo >= range->hi || range->hi > FDCPU_WIN_SHARED)
        return -EINVAL;
    pthread_rwlock_wrlock(&lock);
    at = above(range->lo);
    if (at < nranges && ranges[at].lo < range->hi) {
        err = -EEXIST;
        goto out;
    }
    if (nranges == cap_ranges) {
        size_t cap = cap_ranges ? cap_ranges * 2 : 64;
        struct fdcpu_range *bigger = realloc(ranges, cap * sizeof(*bigger));

        if (!bigger) {
            err = -ENOMEM;
            goto out;
        }
        ranges = bigger;
        cap_ranges = cap;
    }
    memmove(&ranges[at + 1], &ranges[at], (nranges - at) * sizeof(*ranges));
    ranges[at] = *range;
    nranges++;
out:
    pthread_rwlock_unlock(&lock);
    return err;
}

int
fdcpu_mem_del(uint64_t lo)
{
    size_t at;
    int err = 0;

    pthread_rwlock_wrlock(&lock);
    at = above(lo);
    if (at < nranges && ranges[at].lo == lo) {
        memmove(&ranges[at], &ranges[at + 1], (nranges - at - 1) * sizeof(*ranges));
        nranges--;
        /* pairs with the load in fdcpu_mem_generation() */
        __atomic_fetch_add(&generation, 1, __ATOMIC_RELEASE);
    } else {
        err = -ENOENT;
    }
    pthread_rwlock_unlock(&lock);
    return err;
}

bool
fdcpu_mem_find(uint64_t addr, struct fdcpu_range *range)
{
    size_t at;
    bool found;

    pthread_rwlock_rdlock(&lock);
    at = above(addr);
    found = at < nranges && ranges[at].lo <= addr;
    if (found)
        *range = ranges[at];
    pthread_rwlock_unlock(&lock);
    return found;
}

bool
fdcpu_mem_nearest(uint64_t addr, struct fdcpu_range *range)
{
    size_t at;
    bool found;

    pthread_rwlock_rdlock(&lock);
    at = above(addr);
    found = nranges > 0;
    if (at == nranges || (at > 0 && ranges[at].lo > addr &&
                          addr - ranges[at - 1].hi < ranges[at].lo - addr))
        at--;
    if (found)
        *range = ranges[at];
    pthread_rwlock_unlock(&lock);
    return found;
}

static bool
may_flip(const struct fdcpu_range *range, uint64_t offset)
{
    return offset < range->hi - range->lo && !(range->flags & FDCPU_MEM_READONLY);
}

void
fdcpu_mem_flip(uint64_t offset)
{
    uint8_t *flipped;

    pthread_rwlock_rdlock(&lock);
    flipped = malloc(nranges);
    /* All are read first: what is mapped twice flips once. */
    for (size_t i = 0; flipped != NULL && i < nranges; i++)
        if (may_flip(&ranges[i], offset))
            flipped[i] = *(volatile uint8_t *)(ranges[i].lo + offset) ^ 8;
    for (size_t i = 0; flipped != NULL && i < nranges; i++)
        if (may_flip(&ranges[i], offset))
            *(volatile uint8_t *)(ranges[i].lo + offset) = flipped[i];
    pthread_rwlock_unlock(&lock);
    free(flipped);
}

void
fdcpu_mem_changed(void)
{
    __atomic_fetch_add(&generation, 1, __ATOMIC_RELEASE);
}

uint64_t
fdcpu_mem_generation(void)
{
    return __atomic_load_n(&generation, __ATOMIC_ACQUIRE);
}

static bool
may_reach(const struct fdcpu_env *env, const struct fdcpu_range *range, bool store)
{
    if (range->flags & FDCPU_MEM_PEERS)
        return range->owner == env->device || env->peers == NULL ||
               (atomic_load_explicit(env->peers, memory_order_relaxed) >> range->owner & 1);
    if (range->readers == 0)
        return !store || !(range->flags & FDCPU_MEM_READONLY);
    return (store ? range->writers : range->readers) >> env->device & 1;
}

bool
fdcpu_check_range(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint64_t lo, uint64_t hi,
                  bool store)
{
    struct fdcpu_hit *hit = &x->hit[((uintptr_t)i / sizeof(*i)) % MEM_CACHE];
    struct fdcpu_range range;

    if (hi < lo || !fdcpu_mem_find(lo, &range) || hi > range.hi ||
        !may_reach(x->job->env, &range, store))
        return false;
    *hit = (struct fdcpu_hit){ i, range.lo, range.hi };
    return true;
}

void *
fdcpu_lane_address(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane, int space,
                   uint64_t addr, uint32_t size, uint32_t align, bool store)
{
    uint64_t off = addr;
    const char *what = "memory";

    if (space == SP_GENERIC || space == SP_LOCAL || space == SP_PARAM || space == SP_SHARED) {
        if (addr >= FDCPU_WIN_SHARED && addr < FDCPU_WIN_LOCAL)
            space = SP_SHARED, off = addr - FDCPU_WIN_SHARED;
        else if (addr >= FDCPU_WIN_LOCAL && addr < FDCPU_WIN_PARAM)
            space = SP_LOCAL, off = addr - FDCPU_WIN_LOCAL;
        else if (addr >= FDCPU_WIN_PARAM && addr < FDCPU_WIN_FUNC)
            space = SP_PARAM, off = addr - FDCPU_WIN_PARAM;
    }
    if (addr & (align - 1)) {
        fdcpu_fault_address(x, i, (int)lane, 716, addr, size, "misaligned");
        return NULL;
    }
    switch (space) {
    case SP_SHARED:
        what = "shared memory";
        if (off < x->shared_size && size <= x->shared_size - off)
            return x->shared + off;
        break;
    case SP_LOCAL:
        what = "local memory";
        if (off < x->local_stride && size <= x->local_stride - off)
            return x->local + (uint64_t)lane * x->local_stride + off;
        break;
    case SP_PARAM:
        what = "parameters";
        if (!store && off < x->param_size && size <= x->param_size - off)
            return (void *)(uintptr_t)(x->params + off);
        break;
    default:
        if (fdcpu_in_range(x, i, addr, addr + size, store))
            return (void *)(uintptr_t)addr;
        break;
    }
    fdcpu_fault_address(x, i, (int)lane, 700, addr, size, what);
    return NULL;
}
