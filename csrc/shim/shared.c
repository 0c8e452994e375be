/*
 * Pinned memory that client and worker have at one address: copies from and to it are
 * the driver's own, and kernels reach it. Addresses are kept free in both processes
 * first (the client proposes, the worker says whether it can); the allocator is that of
 * device memory, so many small allocations share one descriptor, and a freed block
 * rests until the work that was accepted before has finished.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memory.h"

#ifndef MADV_DONTFORK
#define MADV_DONTFORK 10
#endif

/* Half a TiB that devices do not come to while there are fewer than sixteen; several
 * sessions of a process find what is left. */
#define SHARED_LO 0x4f8000000000ull
#define SHARED_HI 0x500000000000ull
#define PIECE (16ull << 30)
#define PIECE_MIN (64ull << 20)
#define GRANULE (2ull << 20)

struct fdc_shared {
    struct fdc_session *session;
    struct fdc_arena *arena;
    pthread_mutex_t lock;       /* one grow at a time: descriptors come one by one */
    struct fdc_ranges *extents; /* what was grown -> this; under extents_lock */
    pthread_mutex_t extents_lock;
    uint64_t next; /* where to look for addresses; under lock */
    bool none;     /* the worker cannot: never asked again; atomic */
};

/* ---- addresses ---- */

CUresult
fdc_shared_piece(struct fdc_session *session, uint64_t address, uint64_t size)
{
    struct fdc_req_fdcHostPiece *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open_in(&call, session, FDC_ID_fdcHostPiece);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->address = address;
    req->size = size;
    return fdc_call_wait(&call, &reply, sizeof(reply));
}

/* Both sides keep the addresses free, or neither does. */
static CUresult
try_piece(struct fdc_shared *shared, uint64_t *address, uint64_t size)
{
    CUresult result;
    int err;

    err = fdc_place_reserve(address, size);
    if (err)
        return err == -EEXIST ? CUDA_ERROR_ALREADY_MAPPED : fdc_result(err);
    result = fdc_shared_piece(shared->session, *address, size);
    if (result != CUDA_SUCCESS)
        syscall(SYS_munmap, *address, size);
    return result;
}

/* Under lock. In the range kept for it, then wherever this process's kernel likes. */
static CUresult
new_piece(struct fdc_shared *shared, uint64_t size, uint64_t *base)
{
    CUresult result = CUDA_ERROR_ALREADY_MAPPED;

    while (result == CUDA_ERROR_ALREADY_MAPPED && size <= SHARED_HI - shared->next) {
        *base = shared->next;
        shared->next += size;
        result = try_piece(shared, base, size);
    }
    for (int i = 0; i < 4 && result == CUDA_ERROR_ALREADY_MAPPED; i++) {
        *base = 0;
        result = try_piece(shared, base, size);
    }
    return result;
}

static CUresult
piece(void *user, uint64_t size, uint64_t *base, uint64_t *got)
{
    struct fdc_shared *shared = user;
    uint64_t wanted = PIECE;
    CUresult result;

    size = FDC_ALIGN_UP(size > PIECE_MIN ? size : PIECE_MIN, GRANULE);
    pthread_mutex_lock(&shared->lock);
    for (;; wanted /= 4) { /* less where address space is limited */
        *got = wanted > size ? wanted : size;
        result = new_piece(shared, *got, base);
        if (result != CUDA_ERROR_OUT_OF_MEMORY || wanted <= size)
            break;
    }
    pthread_mutex_unlock(&shared->lock);
    return result;
}

/* ---- memory ---- */

/* The worker's memory of this address, mapped here. Under lock. */
static CUresult
map(struct fdc_shared *shared, uint64_t address, uint64_t size)
{
    void *at = (void *)(uintptr_t)address, *got;
    int fd, err;

    err = fdc_link_take_fd(shared->session->link, address, &fd);
    if (err)
        return fdc_result(err);
    err = fdc_memfd_check(fd, size);
    if (!err) {
        got = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
        if (got == MAP_FAILED)
            err = -errno;
    }
    close(fd);
    if (err)
        return fdc_result(err);
    /* A child that wrote there would write into its parent's memory. */
    madvise(at, size, MADV_DONTFORK);
    return CUDA_SUCCESS;
}

static void
unmap(uint64_t address, uint64_t size)
{
    syscall(SYS_mmap, address, size, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void
fdc_host_shrink(struct fdc_session *session, uint64_t address)
{
    struct fdc_req_fdcHostShrink *req;
    struct fdc_call call;

    if (fdc_call_open_in(&call, session, FDC_ID_fdcHostShrink) != CUDA_SUCCESS)
        return;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return;
    req->address = address;
    (void)fdc_call_send(&call);
}

static CUresult
grow(void *user, uint64_t address, uint64_t size)
{
    struct fdc_shared *shared = user;
    struct fdc_rep_fdcHostGrow rep;
    struct fdc_req_fdcHostGrow *req;
    struct fdc_call call;
    CUresult result;
    int err;

    result = fdc_call_open(&call, FDC_ID_fdcHostGrow, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&shared->lock);
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->address = address;
        req->size = size;
        req->shared = 1;
        result = fdc_call_wait(&call, &rep, sizeof(rep));
    } else {
        result = call.result;
    }
    if (result == CUDA_SUCCESS) {
        result = map(shared, address, size);
        /* Where kernels have another name for it, it is not the same memory to them. */
        if (result == CUDA_SUCCESS && rep.device != address)
            result = CUDA_ERROR_NOT_SUPPORTED;
        if (result != CUDA_SUCCESS) {
            unmap(address, size);
            fdc_host_shrink(shared->session, address);
        }
    }
    pthread_mutex_unlock(&shared->lock);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&shared->extents_lock);
    err = fdc_ranges_add(shared->extents, address, size, shared);
    pthread_mutex_unlock(&shared->extents_lock);
    if (err) {
        unmap(address, size);
        fdc_host_shrink(shared->session, address);
    }
    return fdc_result(err);
}

static void
shrink(void *user, uint64_t address)
{
    struct fdc_shared *shared = user;
    uint64_t size = 0;

    pthread_mutex_lock(&shared->extents_lock);
    if (fdc_ranges_find(shared->extents, address, NULL, &size) != NULL)
        (void)fdc_ranges_del(shared->extents, address);
    pthread_mutex_unlock(&shared->extents_lock);
    unmap(address, size);
    fdc_host_shrink(shared->session, address);
}

static uint64_t
position(void *user)
{
    struct fdc_shared *shared = user;

    return fdc_load_acquire(&shared->session->position);
}

static uint64_t
retired(void *user)
{
    struct fdc_shared *shared = user;

    return fdc_memory_retired(shared->session->memory);
}

static CUresult
fence(void *user, bool wait)
{
    struct fdc_shared *shared = user;

    return fdc_memory_fence(shared->session, wait);
}

static bool
company(void *user)
{
    struct fdc_shared *shared = user;

    return fdc_load_relaxed(&shared->session->company) & FDC_COMPANY;
}

static const struct fdc_arena_ops ops = {grow,  shrink, piece, position, retired,
                                        fence, company};

/* ---- the session's ---- */

static struct fdc_shared *
shared_new(struct fdc_session *session)
{
    struct fdc_shared *shared = calloc(1, sizeof(*shared));

    if (shared == NULL)
        return NULL;
    shared->session = session;
    shared->next = SHARED_LO;
    shared->extents = fdc_ranges_new();
    shared->arena = fdc_arena_new(&ops, shared, GRANULE, 0);
    if (shared->extents == NULL || shared->arena == NULL) {
        fdc_ranges_delete(shared->extents);
        fdc_arena_delete(shared->arena);
        free(shared);
        return NULL;
    }
    pthread_mutex_init(&shared->lock, NULL);
    pthread_mutex_init(&shared->extents_lock, NULL);
    return shared;
}

static CUresult
shared_of(struct fdc_session *session, struct fdc_shared **shared)
{
    struct fdc_memory *memory = session->memory;

    *shared = fdc_load_acquire(&memory->shared);
    if (*shared == NULL) {
        pthread_mutex_lock(&memory->setup);
        if (memory->shared == NULL)
            fdc_store_release(&memory->shared, shared_new(session)); /* with the above */
        *shared = memory->shared;
        pthread_mutex_unlock(&memory->setup);
    }
    return *shared != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult
fdc_shared_alloc(struct fdc_session *session, uint64_t size, uint64_t *address)
{
    struct fdc_shared *shared;
    CUresult result;

    if (!session->shared)
        return CUDA_ERROR_NOT_SUPPORTED;
    result = shared_of(session, &shared);
    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_load_relaxed(&shared->none))
        return CUDA_ERROR_NOT_SUPPORTED;
    fdc_intake_poll(session);
    result = fdc_arena_alloc(shared->arena, size, true, address);
    if (result == CUDA_ERROR_ALREADY_MAPPED || result == CUDA_ERROR_NOT_SUPPORTED) {
        fdc_log(FDC_LOG_INFO, "pinned memory is not shared: %s",
                result == CUDA_ERROR_NOT_SUPPORTED ? "the driver takes none"
                                                   : "no common addresses");
        fdc_store_relaxed(&shared->none, true);
        result = CUDA_ERROR_NOT_SUPPORTED;
    }
    return result;
}

void
fdc_shared_free(struct fdc_session *session, uint64_t address)
{
    (void)fdc_arena_free(session->memory->shared->arena, address);
}
