/*
 * What an address belongs to: device memory of a session, pinned memory of this
 * process, or nothing we know. Also keeps this process out of the sessions' addresses,
 * so that they can always be told apart.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "managed.h"
#include "process.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define OPENED_BY_PAGE (1ull << 30) /* at most: 262,144 pages take 0.2 s */

CUresult
fdc_space_setup(void)
{
    struct fdc_space *space;

    if (fdc_process.space != NULL)
        return CUDA_SUCCESS;
    space = calloc(1, sizeof(*space));
    if (space == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    space->places = fdc_ranges_new();
    space->ranges = fdc_ranges_new();
    space->reserved = fdc_ranges_new();
    if (space->places == NULL || space->ranges == NULL || space->reserved == NULL) {
        fdc_ranges_delete(space->places);
        fdc_ranges_delete(space->ranges);
        fdc_ranges_delete(space->reserved);
        free(space);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_rwlock_init(&space->lock, NULL);
    fdc_process.space = space;
    return CUDA_SUCCESS;
}

struct fdc_space *
fdc_space(void)
{
    return fdc_process.space;
}

bool
fdc_place_find(uint64_t address, struct fdc_place *place)
{
    struct fdc_space *space = fdc_space();
    struct fdc_place *found;
    struct fdc_device *device = NULL;

    pthread_rwlock_rdlock(&space->lock);
    found = fdc_ranges_find(space->places, address, NULL, NULL);
    if (found != NULL)
        *place = *found;
    else
        device = fdc_ranges_find(space->ranges, address, NULL, NULL);
    pthread_rwlock_unlock(&space->lock);
    if (found != NULL)
        return true;
    memset(place, 0, sizeof(*place));
    place->where = device != NULL ? FDC_NOWHERE : FDC_HOST_PAGEABLE;
    place->device = device;
    place->base = address;
    return false;
}

void
fdc_place_look(struct fdc_session *session, uint64_t address, struct fdc_place *place)
{
    (void)fdc_place_find(address, place);
    if (place->shared && place->device->session != session)
        place->shared = false;
}

CUresult
fdc_place_device(struct fdc_session *session, uint64_t address, uint64_t size,
                 struct fdc_place *place)
{
    struct fdc_place here;
    uint64_t left = size;

    if (!fdc_place_find(address, &here) || !fdc_place_reached(&here) ||
        here.device->session != session)
        return CUDA_ERROR_INVALID_VALUE;
    if (place != NULL)
        *place = here;
    for (;;) {
        uint64_t inside = here.base + here.size - address;

        if (left <= inside)
            return here.managed
                       ? fdc_managed_use_range(session, address, left)
                       : CUDA_SUCCESS;
        /* Mappings of the program's own may lie side by side. */
        if (here.origin != FDC_BY_MAP)
            return CUDA_ERROR_INVALID_VALUE;
        left -= inside;
        address += inside;
        if (!fdc_place_find(address, &here) || here.origin != FDC_BY_MAP ||
            here.device->session != session)
            return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult
fdc_place_check(struct fdc_call *call, uint64_t address, uint64_t size)
{
    struct fdc_place place;
    CUresult result;
    uint64_t rest;

    while (size > 0) {
        fdc_place_look(call->session, address, &place);
        if (place.where == FDC_HOST_PINNED && !place.shared)
            return CUDA_ERROR_NOT_SUPPORTED;
        if (!fdc_place_reached(&place) || place.device->session != call->session)
            return CUDA_ERROR_INVALID_VALUE;
        rest = place.base + place.size - address;
        if (rest > size)
            rest = size;
        result = place.managed
                     ? fdc_managed_use_range(call->session, address, rest)
                     : CUDA_SUCCESS;
        if (result != CUDA_SUCCESS)
            return result;
        address += rest;
        size -= rest;
    }
    return CUDA_SUCCESS;
}

int
fdc_place_add(uint64_t base, uint64_t size, const struct fdc_place *place)
{
    struct fdc_space *space = fdc_space();
    struct fdc_place *copy = malloc(sizeof(*copy));
    int err;

    if (copy == NULL)
        return -ENOMEM;
    *copy = *place;
    copy->base = base;
    copy->size = size;
    copy->buffer_id = __atomic_add_fetch(&space->buffers, 1, __ATOMIC_RELAXED);
    pthread_rwlock_wrlock(&space->lock);
    err = fdc_ranges_add(space->places, base, size, copy);
    pthread_rwlock_unlock(&space->lock);
    if (err)
        free(copy);
    return err;
}

int
fdc_place_del(uint64_t base)
{
    struct fdc_space *space = fdc_space();
    struct fdc_place *place;

    pthread_rwlock_wrlock(&space->lock);
    place = fdc_ranges_del(space->places, base);
    pthread_rwlock_unlock(&space->lock);
    free(place);
    return place != NULL ? 0 : -ENOENT;
}

int
fdc_place_set_sync(uint64_t address, bool on)
{
    struct fdc_space *space = fdc_space();
    struct fdc_place *place;

    pthread_rwlock_wrlock(&space->lock);
    place = fdc_ranges_find(space->places, address, NULL, NULL);
    if (place != NULL)
        place->sync_memops = on;
    pthread_rwlock_unlock(&space->lock);
    return place != NULL ? 0 : -ENOENT;
}

void
fdc_place_set_access(uint64_t address, uint64_t size, int device, unsigned flags)
{
    struct fdc_space *space = fdc_space();
    uint64_t at = address, base, length;
    struct fdc_place *place;

    if (device < 0 || device >= 32)
        return;
    pthread_rwlock_wrlock(&space->lock);
    while ((place = fdc_ranges_next(space->places, at, &base, &length)) != NULL &&
           base < address + size) {
        place->access &= ~(3ull << (2 * device));
        place->access |= (uint64_t)(flags & 3) << (2 * device);
        at = base + length;
    }
    pthread_rwlock_unlock(&space->lock);
}

void
fdc_place_change(uint64_t address, uint64_t size,
                 void (*change)(struct fdc_place *place, int what, int device),
                 int what, int device)
{
    struct fdc_space *space = fdc_space();
    uint64_t at = address, base, length;
    struct fdc_place *place;

    pthread_rwlock_wrlock(&space->lock);
    while ((place = fdc_ranges_next(space->places, at, &base, &length)) != NULL &&
           base < address + size) {
        change(place, what, device);
        at = base + length;
    }
    pthread_rwlock_unlock(&space->lock);
}

void
fdc_place_sweep(bool (*drop)(const struct fdc_place *place, void *user), void *user)
{
    struct fdc_space *space = fdc_space();
    uint64_t at = 0, base, size;
    struct fdc_place *place;

    pthread_rwlock_wrlock(&space->lock);
    while ((place = fdc_ranges_next(space->places, at, &base, &size)) != NULL) {
        at = base + size;
        if (drop(place, user)) {
            if (place->managed && place->origin == FDC_BY_CODE)
                (void)fdc_mirror_del(place->device->session, base, &size);
            fdc_ranges_del(space->places, base);
            free(place);
        }
    }
    pthread_rwlock_unlock(&space->lock);
}

/* Whether something readable of this process is mapped in the range. */
static bool
readable_inside(uint64_t base, uint64_t size)
{
    char line[512], access[8];
    bool found = false;
    uint64_t from, to;
    FILE *maps;

    maps = fopen("/proc/self/maps", "re");
    if (maps == NULL)
        return false;
    while (!found && fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, access) != 3)
            continue;
        found = from < base + size && to > base && access[0] == 'r';
    }
    fclose(maps);
    return found;
}

int
fdc_place_reserve(uint64_t *address, uint64_t size)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    long got;

    if (*address != 0)
        flags |= MAP_FIXED_NOREPLACE;
#ifdef __SANITIZE_THREAD__
    if (*address != 0)
        return -EEXIST; /* nothing lives outside of its own ranges */
#endif
    got = syscall(SYS_mmap, *address, size, PROT_NONE, flags, -1, 0);
    if (got == -1)
        return -errno;
    if (*address != 0 && (uint64_t)got != *address) {
        syscall(SYS_munmap, got, size); /* a kernel that does not know the flag */
        return -EEXIST;
    }
    *address = (uint64_t)got;
    return 0;
}

int
fdc_place_range(struct fdc_device *device, uint64_t base, uint64_t size)
{
    struct fdc_space *space = fdc_space();
    uint64_t first = base & ~4095ull, end = FDC_ALIGN_UP(base + size, 4096ull);
    long got;
    int err;

    /* The raw call: sanitizers would refuse what they intercept. */
    got = syscall(SYS_mmap, first, end - first, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
                  0);
    if (got != (long)first) {
        if (got != -1)
            syscall(SYS_munmap, got, end - first);
        if (readable_inside(first, end - first)) {
            fdc_log(FDC_LOG_INFO, "device addresses from 0x%" PRIx64 " are in use here",
                    first);
            return -EEXIST;
        }
    }
    pthread_rwlock_wrlock(&space->lock);
    err = fdc_ranges_add(space->ranges, base, size, device);
    pthread_rwlock_unlock(&space->lock);
    return err;
}

/* Page by page, since some of them may be open already for another variable, or this one. */
static int
open_pages(uint64_t first, uint64_t end)
{
    struct fdc_space *space = fdc_space();
    uint64_t kept;
    bool ours;
    long got;

    for (uint64_t page = first; page < end; page += 4096) {
        got = syscall(SYS_mmap, page, 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == (long)page)
            continue;
        if (got != -1)
            syscall(SYS_munmap, got, 4096);
        pthread_rwlock_rdlock(&space->lock);
        ours = fdc_ranges_next(space->ranges, page, &kept, NULL) != NULL &&
               kept < page + 4096;
        pthread_rwlock_unlock(&space->lock);
        if (!ours || mprotect((void *)(uintptr_t)page, 4096, PROT_READ | PROT_WRITE) != 0)
            return -EEXIST;
    }
    return 0;
}

int
fdc_place_open(struct fdc_device *device, uint64_t base, uint64_t size)
{
    struct fdc_space *space = fdc_space();
    uint64_t first = base & ~4095ull, end;
    long got;

    /* Both come from the worker, which is not to keep us busy with what no device has. */
    if (size > device->snapshot->memory || base > UINT64_MAX - size - 4095)
        return -EINVAL;
    end = FDC_ALIGN_UP(base + size, 4096ull);
    got = syscall(SYS_mmap, first, end - first, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (got != (long)first) {
        if (got != -1)
            syscall(SYS_munmap, got, end - first);
        if (end - first > OPENED_BY_PAGE || open_pages(first, end) != 0)
            return -EEXIST;
    }
    pthread_rwlock_wrlock(&space->lock);
    (void)fdc_ranges_add(space->ranges, base, size, device); /* or it is there already */
    pthread_rwlock_unlock(&space->lock);
    return 0;
}
