/*
 * Memory that the program and the device each have a copy of: managed variables of
 * modules, and pinned memory that kernels may reach where it cannot be shared. What
 * both had last is kept beside: from it is seen what the program has changed, which
 * goes to the device before a launch, and what the device has changed, which comes to
 * the program when it has seen work finished. So each finds the other's bytes, as long
 * as both do not write the same ones at once. Nothing is protected and nothing faults;
 * it is for little memory.
 */
#include "managed.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 4096ull

struct mirror {
    struct mirror *next;
    struct fdc_device *device;
    uint64_t host, there; /* where it lies for the program, for the worker */
    uint64_t pointer;     /* ... and for kernels */
    uint64_t size;
    bool stale;  /* the device may have written to it */
    char *both;  /* what both had last */
};

struct fdc_mirrors {
    pthread_mutex_t lock;
    struct mirror *first;
};

static struct fdc_mirrors *
mirrors_of(struct fdc_session *session)
{
    return session->memory != NULL ? fdc_load_acquire(&session->memory->mirrors) : NULL;
}

static struct fdc_mirrors *
mirrors_make(struct fdc_session *session)
{
    struct fdc_memory *memory = session->memory;
    struct fdc_mirrors *mirrors;

    pthread_mutex_lock(&memory->setup);
    if (memory->mirrors == NULL) {
        mirrors = fdc_ferry_setup(session) == CUDA_SUCCESS ? calloc(1, sizeof(*mirrors))
                                                           : NULL;
        if (mirrors != NULL)
            pthread_mutex_init(&mirrors->lock, NULL);
        fdc_store_release(&memory->mirrors, mirrors); /* pairs with mirrors_of() */
    }
    mirrors = memory->mirrors;
    pthread_mutex_unlock(&memory->setup);
    return mirrors;
}

/* ---- towards the device ---- */

/* Under lock. Pages that the program has changed. */
static CUresult
push_changed(struct mirror *mirror, bool wait)
{
    char *host = (char *)(uintptr_t)mirror->host;
    CUresult result = CUDA_SUCCESS;
    uint64_t at = 0, size, part;

    while (at < mirror->size && result == CUDA_SUCCESS) {
        for (size = 0; at + size < mirror->size; size += part) {
            part = mirror->size - at - size < PAGE ? mirror->size - at - size : PAGE;
            if (memcmp(host + at + size, mirror->both + at + size, part) == 0)
                break;
            memcpy(mirror->both + at + size, host + at + size, part);
        }
        if (size > 0)
            result = fdc_ferry_push(mirror->device, mirror->there + at,
                                    mirror->both + at, size, wait);
        at += size > 0 ? size : PAGE;
    }
    return result;
}

/* Copies to the host that are on their way are part of what the device has to see. Not
 * under the lock: a host function before them may want it. */
static CUresult
await_copies(struct fdc_session *session, struct fdc_mirrors *mirrors)
{
    CUresult result = CUDA_SUCCESS;
    struct mirror *mirror;

    for (int n = 0; result == CUDA_SUCCESS; n++) {
        uint64_t host = 0, size = 0;

        if (fdc_load_acquire(&session->memory->pending_count) == 0)
            break;
        pthread_mutex_lock(&mirrors->lock);
        mirror = mirrors->first;
        for (int i = 0; i < n && mirror != NULL; i++)
            mirror = mirror->next;
        if (mirror != NULL) {
            host = mirror->host;
            size = mirror->size;
        }
        pthread_mutex_unlock(&mirrors->lock);
        if (size == 0)
            break;
        result = fdc_pending_wait((void *)(uintptr_t)host, size);
    }
    return result;
}

CUresult
fdc_mirrors_push(struct fdc_session *session, bool wait)
{
    struct fdc_mirrors *mirrors = mirrors_of(session);
    CUresult result;

    if (mirrors == NULL)
        return CUDA_SUCCESS;
    /* Not after a host function: they may be waiting for its end. */
    result = wait ? CUDA_SUCCESS : await_copies(session, mirrors);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&mirrors->lock);
    for (struct mirror *mirror = mirrors->first; mirror != NULL && result == CUDA_SUCCESS;
         mirror = mirror->next) {
        result = push_changed(mirror, wait);
        mirror->stale = true;
    }
    fdc_store_relaxed(&session->memory->mirrors_stale, true);
    pthread_mutex_unlock(&mirrors->lock);
    return result;
}

/* ---- towards the program ---- */

struct merge {
    struct mirror *mirror;
    uint64_t at;
};

/* The device's bytes come: what differs from what both had is what it wrote. */
static void
merge(void *user, const void *bytes, uint64_t size)
{
    struct merge *to = user;
    char *host = (char *)(uintptr_t)to->mirror->host + to->at;
    char *both = to->mirror->both + to->at;
    const char *from = bytes;

    for (uint64_t i = 0; i < size;) {
        uint64_t part = size - i < 64 ? size - i : 64;

        if (memcmp(from + i, both + i, part) != 0)
            for (uint64_t j = i; j < i + part; j++)
                if (from[j] != both[j])
                    host[j] = both[j] = from[j];
        i += part;
    }
    to->at += size;
}

/* Under lock. */
static CUresult
pull_changed(struct mirror *mirror)
{
    struct merge to = {mirror, 0};

    return fdc_ferry_pull(mirror->device, mirror->there, mirror->size, merge, &to);
}

void
fdc_mirrors_pull(struct fdc_session *session, bool idle)
{
    struct fdc_mirrors *mirrors = mirrors_of(session);

    if (mirrors == NULL)
        return;
    pthread_mutex_lock(&mirrors->lock);
    for (struct mirror *mirror = mirrors->first; mirror != NULL; mirror = mirror->next) {
        CUresult result;

        if (!mirror->stale)
            continue;
        result = pull_changed(mirror);
        if (result != CUDA_SUCCESS)
            fdc_log(FDC_LOG_WARN, "mirrored memory cannot be fetched: %s",
                    fdc_result_name(result));
        mirror->stale = !idle;
    }
    if (idle)
        fdc_store_relaxed(&session->memory->mirrors_stale, false);
    pthread_mutex_unlock(&mirrors->lock);
}

/* ---- the list ---- */

static struct mirror **
find(struct fdc_mirrors *mirrors, uint64_t host)
{
    struct mirror **link;

    for (link = &mirrors->first; *link != NULL; link = &(*link)->next)
        if (host - (*link)->host < (*link)->size)
            break;
    return link;
}

CUresult
fdc_mirror_add(struct fdc_device *device, uint64_t host, uint64_t there,
               uint64_t pointer, uint64_t size, bool from_device)
{
    struct fdc_session *session = device->session;
    struct fdc_mirrors *mirrors = mirrors_make(session);
    struct mirror *mirror = calloc(1, sizeof(*mirror));
    CUresult result;

    if (mirror != NULL)
        mirror->both = malloc(size);
    if (mirrors == NULL || mirror == NULL || mirror->both == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err_free;
    }
    mirror->device = device;
    mirror->host = host;
    mirror->there = there;
    mirror->pointer = pointer;
    mirror->size = size;
    if (from_device) {
        /* What both had is what the program has: all of the device's that differs
         * comes. */
        memcpy(mirror->both, (void *)(uintptr_t)host, size);
        result = pull_changed(mirror);
    } else {
        memcpy(mirror->both, (void *)(uintptr_t)host, size);
        result = fdc_ferry_push(device, there, mirror->both, size, false);
    }
    if (result != CUDA_SUCCESS)
        goto err_free;
    pthread_mutex_lock(&mirrors->lock);
    mirror->next = mirrors->first;
    mirrors->first = mirror;
    __atomic_add_fetch(&session->memory->mirror_count, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&mirrors->lock);
    return CUDA_SUCCESS;

err_free:
    if (mirror != NULL)
        free(mirror->both);
    free(mirror);
    return result;
}

bool
fdc_mirror_find(struct fdc_session *session, uint64_t host, uint64_t *pointer)
{
    struct fdc_mirrors *mirrors = mirrors_of(session);
    struct mirror *mirror;

    if (mirrors == NULL)
        return false;
    pthread_mutex_lock(&mirrors->lock);
    mirror = *find(mirrors, host);
    if (mirror != NULL)
        *pointer = mirror->pointer + (host - mirror->host);
    pthread_mutex_unlock(&mirrors->lock);
    return mirror != NULL;
}

bool
fdc_mirror_del(struct fdc_session *session, uint64_t host, uint64_t *there)
{
    struct fdc_mirrors *mirrors = mirrors_of(session);
    struct mirror **link, *mirror = NULL;

    if (mirrors == NULL)
        return false;
    pthread_mutex_lock(&mirrors->lock);
    link = find(mirrors, host);
    if (*link != NULL && (*link)->host == host) {
        mirror = *link;
        *link = mirror->next;
        __atomic_sub_fetch(&session->memory->mirror_count, 1, __ATOMIC_RELEASE);
        *there = mirror->there;
    }
    pthread_mutex_unlock(&mirrors->lock);
    if (mirror == NULL)
        return false;
    free(mirror->both);
    free(mirror);
    return true;
}

CUresult
fdc_managed_variable(struct fdc_device *device, uint64_t address, uint64_t size)
{
    static uint32_t said;

    if (!fdc_managed_offered(device))
        return fdc_refuse("a managed variable", &said);
    if (fdc_place_open(device, address, size) != 0) {
        fdc_log(FDC_LOG_WARN, "a managed variable lies at an address in use here");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    return fdc_mirror_add(device, address, address, address, size, true);
}
