/*
 * Host memory that client and worker have at one address. The client proposes addresses,
 * the worker keeps them free in its own process; later it makes the memory there (over
 * shared memory: a sealed memfd, filled, that the client maps too) and registers it with
 * the driver, so that copies from and to it are the driver's own and kernels reach it. It
 * takes nothing of the GPU's; how much a lease may have is a setting of the server.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fdc/monitor.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define ADDRESS_LO (1ull << 32) /* below and above are no addresses of a client's */
#define ADDRESS_HI (1ull << 47)
#define PAGE 4096ull
#define PIECES_MAX 1024

struct piece {
    uint64_t base, size;
};

struct extent {                         /* sorted by address */
    uint64_t address, size;
    CUdeviceptr device;
    struct fdc_ctx *ctx;                /* that it is registered in, or NULL */
    bool ready, shared;
};

struct fdc_host {
    pthread_mutex_t lock;
    struct piece piece[PIECES_MAX];
    int pieces;
    struct extent *extent;
    size_t extents, room;
    struct fdc_board *board;
    uint64_t used, limit;               /* ours; the lease's */
    bool said;                          /* that the limit is reached */
};

struct fdc_host *
fdc_host_new(struct fdc_serve *serve)
{
    struct fdc_host *host = calloc(1, sizeof(*host));

    if (host == NULL)
        return NULL;
    pthread_mutex_init(&host->lock, NULL);
    host->board = serve->board;
    host->limit = serve->limits.host_memory;
    if (host->limit == 0)
        host->limit = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
    return host;
}

uint64_t
fdc_host_used(const struct fdc_host *host)
{
    return __atomic_load_n(&host->used, __ATOMIC_RELAXED);
}

/* ---- how much a lease may have ---- */

static bool
charge(struct fdc_host *host, uint64_t size)
{
    bool fits;

    pthread_mutex_lock(&host->lock);
    fits = fdc_board_take(host->board, FDC_BOARD_HOST, size, host->limit);
    if (fits)
        __atomic_store_n(&host->used, host->used + size, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&host->lock);
    return fits;
}

static void
say_limit(struct fdc_host *host)
{
    uint64_t used;
    bool said;

    pthread_mutex_lock(&host->lock);
    said = host->said;
    used = fdc_board_sum(host->board, FDC_BOARD_HOST);
    host->said = true;
    pthread_mutex_unlock(&host->lock);
    if (!said)
        fdc_log(FDC_LOG_WARN,
                "the lease has %llu MiB of pinned host memory and may have %llu: "
                "--host-memory of fdserver", (unsigned long long)used >> 20,
                (unsigned long long)host->limit >> 20);
}

CUresult
fdc_host_charge_now(struct fdc_serve *serve, uint64_t size)
{
    if (charge(serve->host, size))
        return CUDA_SUCCESS;
    say_limit(serve->host);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult
fdc_host_charge(struct fdc_serve *serve, uint64_t size)
{
    if (charge(serve->host, size))
        return CUDA_SUCCESS;
    fdc_shadows_trim(serve);
    return fdc_host_charge_now(serve, size);
}

void
fdc_host_refund(struct fdc_serve *serve, uint64_t size)
{
    struct fdc_host *host = serve->host;

    pthread_mutex_lock(&host->lock);
    __atomic_store_n(&host->used, host->used - size, __ATOMIC_RELAXED);
    fdc_board_give(host->board, FDC_BOARD_HOST, size);
    pthread_mutex_unlock(&host->lock);
}

/* ---- addresses ---- */

static void *
keep_free(uint64_t address, uint64_t size, int extra)
{
    return mmap((void *)(uintptr_t)address, size, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | extra, -1, 0);
}

static CUresult
piece_take(struct fdc_host *host, uint64_t address, uint64_t size)
{
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    void *got;

    if (address % PAGE || size % PAGE || size == 0 || address < ADDRESS_LO ||
        address >= ADDRESS_HI || size > ADDRESS_HI - address)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&host->lock);
    if (host->pieces == PIECES_MAX)
        goto unlock;
    got = keep_free(address, size, MAP_FIXED_NOREPLACE);
    if (got == MAP_FAILED) {
        if (errno == EEXIST)
            result = CUDA_ERROR_ALREADY_MAPPED;
    } else if ((uint64_t)(uintptr_t)got != address) {
        munmap(got, size); /* a kernel that does not know the flag */
        result = CUDA_ERROR_ALREADY_MAPPED;
    } else {
        host->piece[host->pieces++] = (struct piece){ address, size };
        result = CUDA_SUCCESS;
    }
unlock:
    pthread_mutex_unlock(&host->lock);
    return result;
}

int
fdc_server_call_fdcHostPiece(struct fdc_request *request,
                             const struct fdc_req_fdcHostPiece *req)
{
    CUresult result = piece_take(request->serve->host, req->address, req->size);

    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- the sorted list of extents; under the lock ---- */

/* The first extent that ends above the address. */
static size_t
extent_above(const struct fdc_host *host, uint64_t address)
{
    size_t lo = 0, hi = host->extents, mid;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (host->extent[mid].address + host->extent[mid].size <= address)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct extent *
extent_at(struct fdc_host *host, uint64_t address)
{
    size_t i = extent_above(host, address);

    return i < host->extents && host->extent[i].address == address ? &host->extent[i]
                                                                   : NULL;
}

static CUresult
extent_add(struct fdc_host *host, uint64_t address, uint64_t size)
{
    size_t i = extent_above(host, address);
    bool inside = false;

    for (int n = 0; n < host->pieces && !inside; n++)
        inside = address >= host->piece[n].base && size <= host->piece[n].size &&
                 address - host->piece[n].base <= host->piece[n].size - size;
    if (!inside || size == 0 || address % PAGE || size % PAGE ||
        (i < host->extents && host->extent[i].address < address + size))
        return CUDA_ERROR_INVALID_VALUE;
    if (host->extents == host->room) {
        size_t room = host->room ? 2 * host->room : 64;
        struct extent *grown = realloc(host->extent, room * sizeof(*grown));

        if (grown == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        host->extent = grown;
        host->room = room;
    }
    memmove(&host->extent[i + 1], &host->extent[i],
            (host->extents - i) * sizeof(*host->extent));
    host->extent[i] = (struct extent){ .address = address, .size = size };
    host->extents++;
    return CUDA_SUCCESS;
}

static void
extent_remove(struct fdc_host *host, struct extent *extent)
{
    size_t i = (size_t)(extent - host->extent);

    host->extents--;
    memmove(&host->extent[i], &host->extent[i + 1],
            (host->extents - i) * sizeof(*host->extent));
}

/* ---- grow and shrink ---- */

/* Memory at the address, and its descriptor where the link shares memory: else -1. */
static CUresult
make(uint64_t address, uint64_t size, bool shared, int *fd)
{
    int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
    void *got;

    *fd = -1;
    if (shared) {
        *fd = fdc_memfd_new_filled("fdcore-host", size);
        if (*fd < 0) {
            fdc_log(FDC_LOG_WARN, "no %llu bytes of host memory: %s",
                    (unsigned long long)size, strerror(-*fd));
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        flags = MAP_FIXED | MAP_SHARED;
    }
    got = mmap((void *)(uintptr_t)address, size, PROT_READ | PROT_WRITE, flags, *fd, 0);
    if (got != MAP_FAILED)
        return CUDA_SUCCESS;
    if (*fd >= 0)
        close(*fd);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult
enlist(struct fdc_serve *serve, uint64_t address, uint64_t size, CUdeviceptr *device)
{
    const struct fdc_driver *driver = serve->driver;
    void *memory = (void *)(uintptr_t)address;
    CUresult result;

    if (!FDC_HAS(driver, cuMemHostRegister_v2) ||
        !FDC_HAS(driver, cuMemHostGetDevicePointer_v2))
        return CUDA_ERROR_NOT_SUPPORTED;
    result = driver->cuMemHostRegister_v2(
        memory, size, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
    if (result != CUDA_SUCCESS)
        return result;
    result = driver->cuMemHostGetDevicePointer_v2(device, memory, 0);
    if (result != CUDA_SUCCESS)
        driver->cuMemHostUnregister(memory);
    return result;
}

/* Memory that the driver knows; then the client gets it too. It takes a descriptor for each
 * answer that is good, so what fails must not have sent one. */
static CUresult
make_known(struct fdc_serve *serve, uint64_t address, uint64_t size, bool shared,
           CUdeviceptr *device)
{
    CUresult result;
    int fd;

    result = make(address, size, shared, &fd);
    if (result != CUDA_SUCCESS)
        return result;
    result = enlist(serve, address, size, device);
    if (result != CUDA_SUCCESS)
        fdc_log(FDC_LOG_INFO, "host memory cannot be registered: result %d", result);
    if (result == CUDA_SUCCESS && fd >= 0 && fdc_link_give_fd(serve->link, address, fd)) {
        serve->driver->cuMemHostUnregister((void *)(uintptr_t)address);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (fd >= 0)
        close(fd);
    if (result != CUDA_SUCCESS)
        keep_free(address, size, MAP_FIXED);
    return result;
}

static CUresult
grow(struct fdc_serve *serve, uint64_t address, uint64_t size, bool shared,
     CUdeviceptr *device)
{
    struct fdc_host *host = serve->host;
    struct extent *extent;
    CUresult result;

    result = fdc_host_charge(serve, size);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&host->lock);
    result = extent_add(host, address, size);
    pthread_mutex_unlock(&host->lock);
    if (result != CUDA_SUCCESS) {
        fdc_host_refund(serve, size);
        return result;
    }
    result = make_known(serve, address, size, shared, device);
    pthread_mutex_lock(&host->lock);
    extent = extent_at(host, address);
    if (result == CUDA_SUCCESS) {
        extent->device = *device;
        extent->ctx = fdc_context_here();
        extent->shared = shared;
        extent->ready = true;
    } else {
        extent_remove(host, extent);
    }
    pthread_mutex_unlock(&host->lock);
    if (result != CUDA_SUCCESS)
        fdc_host_refund(serve, size);
    return result;
}

int
fdc_server_call_fdcHostGrow(struct fdc_request *request,
                            const struct fdc_req_fdcHostGrow *req)
{
    struct fdc_rep_fdcHostGrow reply = { 0 };
    CUdeviceptr device = 0;
    CUresult result;

    result = req->shared && !fdc_link_is_shared(request->serve->link)
                 ? CUDA_ERROR_NOT_SUPPORTED
                 : grow(request->serve, req->address, req->size, req->shared != 0,
                        &device);
    reply.device = device;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

static void
give_back(struct fdc_serve *serve, const struct extent *extent)
{
    if (extent->ctx != NULL && fdc_context_use_ctx(serve, extent->ctx) == CUDA_SUCCESS)
        serve->driver->cuMemHostUnregister((void *)(uintptr_t)extent->address);
    keep_free(extent->address, extent->size, MAP_FIXED);
}

/* A piece that was made for one extent goes with it; those of shared memory stay, since the
 * client has the addresses for others. */
static void
piece_drop(struct fdc_host *host, const struct extent *extent)
{
    for (int i = 0; i < host->pieces && !extent->shared; i++)
        if (host->piece[i].base == extent->address &&
            host->piece[i].size == extent->size) {
            munmap((void *)(uintptr_t)extent->address, extent->size);
            host->piece[i] = host->piece[--host->pieces];
            return;
        }
}

int
fdc_server_call_fdcHostShrink(struct fdc_request *request,
                              const struct fdc_req_fdcHostShrink *req)
{
    struct fdc_serve *serve = request->serve;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    struct extent *at, extent;

    pthread_mutex_lock(&serve->host->lock);
    at = extent_at(serve->host, req->address);
    if (at != NULL && at->ready) {
        extent = *at;
        extent_remove(serve->host, at);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&serve->host->lock);
    if (result == CUDA_SUCCESS) {
        give_back(serve, &extent);
        fdc_host_refund(serve, extent.size);
        pthread_mutex_lock(&serve->host->lock);
        piece_drop(serve->host, &extent);
        pthread_mutex_unlock(&serve->host->lock);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Under the lock. */
static bool
is_there(const struct fdc_host *host, uint64_t address, uint64_t size)
{
    size_t i = extent_above(host, address);

    return i < host->extents && host->extent[i].ready &&
           host->extent[i].address <= address &&
           size <= host->extent[i].size - (address - host->extent[i].address);
}

CUresult
fdc_host_check(struct fdc_serve *serve, uint64_t address, uint64_t size)
{
    struct fdc_host *host = serve->host;
    bool ours;

    pthread_mutex_lock(&host->lock);
    ours = is_there(host, address, size);
    pthread_mutex_unlock(&host->lock);
    return ours ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

bool
fdc_host_read(struct fdc_serve *serve, void *to, uint64_t address, uint64_t size)
{
    struct fdc_host *host = serve->host;
    bool ours;

    pthread_mutex_lock(&host->lock);
    ours = is_there(host, address, size);
    if (ours)
        memcpy(to, (const void *)(uintptr_t)address, size);
    pthread_mutex_unlock(&host->lock);
    return ours;
}

/* ---- contexts: a registration ends with the one it was made in ---- */

void
fdc_host_release_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    struct fdc_host *host = serve->host;

    if (host == NULL)
        return; /* the session's end: all of it has been let go already */
    pthread_mutex_lock(&host->lock);
    for (size_t i = 0; i < host->extents; i++)
        if (host->extent[i].ready && host->extent[i].ctx == ctx) {
            serve->driver->cuMemHostUnregister((void *)(uintptr_t)host->extent[i].address);
            host->extent[i].ctx = NULL;
        }
    pthread_mutex_unlock(&host->lock);
}

void
fdc_host_register(struct fdc_serve *serve)
{
    struct fdc_host *host = serve->host;
    CUdeviceptr device;

    pthread_mutex_lock(&host->lock);
    for (size_t i = 0; i < host->extents; i++) {
        struct extent *extent = &host->extent[i];

        if (!extent->ready || extent->ctx != NULL)
            continue;
        if (enlist(serve, extent->address, extent->size, &device) != CUDA_SUCCESS)
            continue;
        if (device != extent->device)
            fdc_log(FDC_LOG_WARN, "host memory has another address for kernels now");
        extent->ctx = fdc_context_here();
    }
    pthread_mutex_unlock(&host->lock);
}

void
fdc_host_free(struct fdc_serve *serve)
{
    struct fdc_host *host = serve->host;

    for (size_t i = 0; i < host->extents; i++)
        if (host->extent[i].ready)
            give_back(serve, &host->extent[i]);
    for (int i = 0; i < host->pieces; i++)
        munmap((void *)(uintptr_t)host->piece[i].base, host->piece[i].size);
    free(host->extent);
    pthread_mutex_destroy(&host->lock);
    free(host);
    serve->host = NULL;
}
