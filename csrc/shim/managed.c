/*
 * Managed memory: device memory of the worker's, and memory of this process at the same
 * address. Which side has the newer bytes is known for each block of 64 KiB, and kept
 * true by the protection of this process's pages: what the device may have written is
 * not readable, what both have is not writable, and a touch ends in
 * fdc_managed_fault(), which fetches. Before a launch everything that the program may
 * have written is pushed and everything is taken from it; nothing happens where nothing
 * was touched.
 *
 * The program's view and a second one, always accessible, are of one memfd: bytes are
 * filled in before the program can see them, and taken after it can no longer change
 * them. Nothing here touches the program's view, so that a lock can be held.
 */
#include "managed.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_DONTFORK
#define MADV_DONTFORK 10
#endif

#define BLOCK (64ull << 10)
#define PAGE 4096ull
#define AHEAD_MAX (2ull << 20) /* fetched at once where a program reads on and on */
#define EAGER_EXTENTS 2        /* extents of small blocks that are fetched unasked */

enum state {
    DEVICE, /* the device's may be newer; no access */
    SAME,   /* both have it; to be read */
    HOST,   /* the program's may be newer */
    FRESH,  /* the same, and what was never written is 0 on both sides */
};

struct extent {
    uint64_t address, size;
    struct fdc_device *device;
    char *alias; /* the second view */
    char *known; /* what the device has of blocks with `eager`, or NULL */
    int fd;
    bool small;    /* blocks of many allocations */
    uint32_t out;  /* blocks that are HOST or FRESH or SAME */
    uint32_t next; /* the block after the last one fetched */
    uint32_t ahead;
    uint8_t *eager; /* blocks that were fetched unasked: known tells what changed */
    uint8_t *state;
    uint16_t live[]; /* allocations that have a part of the block */
};

struct fdc_managed {
    struct fdc_session *session;
    pthread_mutex_t lock; /* extents and states; threads that fault wait for it */
    struct fdc_ranges *extents;
    uint64_t idle; /* work up to this position is over, atomic */
    struct fdc_arena *arena[64]; /* by the program's ordinal in the session; setup lock */
};

bool
fdc_managed_offered(const struct fdc_device *device)
{
    const char *value = getenv("FD_MANAGED");

    return device->snapshot->granularity != 0 &&
           (value == NULL || strcmp(value, "0") != 0);
}

static int
device_place(const struct fdc_device *device)
{
    return (int)(device - device->session->device);
}

static struct fdc_managed *
managed_of(struct fdc_session *session)
{
    return fdc_load_acquire(&session->memory->managed);
}

/* ---- protection and states; under lock ---- */

static bool
protect(struct extent *extent, uint32_t first, uint32_t count, int access)
{
    uint64_t from = extent->address + first * BLOCK;
    bool done = mprotect((void *)(uintptr_t)from, count * BLOCK, access) == 0;

    if (!done)
        /* Too many pieces for the kernel: one for all is right too, but for what the
         * program writes meanwhile without being seen. */
        fdc_log(FDC_LOG_WARN, "managed memory cannot be protected: %s",
                strerror(errno));
    return done;
}

static void
set_state(struct fdc_managed *managed, struct extent *extent, uint32_t first,
          uint32_t count, enum state state)
{
    uint32_t out = 0;

    for (uint32_t i = first; i < first + count; i++) {
        out += extent->state[i] != DEVICE;
        extent->state[i] = (uint8_t)state;
    }
    extent->out -= out;
    __atomic_sub_fetch(&managed->session->memory->managed_out, out, __ATOMIC_RELAXED);
    if (state != DEVICE) {
        extent->out += count;
        __atomic_add_fetch(&managed->session->memory->managed_out, count,
                           __ATOMIC_RELAXED);
    }
}

static uint32_t
block_of(const struct extent *extent, uint64_t address)
{
    return (uint32_t)((address - extent->address) / BLOCK);
}

/* How many blocks from `first` on have the same state, before `end`. */
static uint32_t
run_of(const struct extent *extent, uint32_t first, uint32_t end)
{
    uint32_t i = first + 1;

    while (i < end && extent->state[i] == extent->state[first] &&
           extent->eager[i] == extent->eager[first] &&
           (extent->live[i] != 0) == (extent->live[first] != 0))
        i++;
    return i - first;
}

/* ---- bytes to and fro ---- */

static CUresult
push(const struct extent *extent, uint64_t offset, uint64_t size, bool wait)
{
    return fdc_ferry_push(extent->device, extent->address + offset,
                          extent->alias + offset, size, wait);
}

static void
take(void *user, const void *bytes, uint64_t size)
{
    char **to = user;

    memcpy(*to, bytes, size);
    *to += size;
}

/* From the device to the second view. */
static CUresult
pull(const struct extent *extent, uint64_t offset, uint64_t size)
{
    char *to = extent->alias + offset;

    return fdc_ferry_pull(extent->device, extent->address + offset, size, take, &to);
}

/* ---- what the program has written ---- */

/* Only pages of fresh memory that the program has touched exist. */
static CUresult
push_fresh(const struct extent *extent, uint64_t offset, uint64_t end, bool wait)
{
    CUresult result = CUDA_SUCCESS;

    while (offset < end && result == CUDA_SUCCESS) {
        off_t data = lseek(extent->fd, (off_t)offset, SEEK_DATA), hole;

        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0) /* no descriptor any more: everything */
            return push(extent, offset, end - offset, wait);
        if ((uint64_t)data >= end)
            break;
        hole = lseek(extent->fd, data, SEEK_HOLE);
        if (hole < 0 || (uint64_t)hole > end)
            hole = (off_t)end;
        result = push(extent, (uint64_t)data, (uint64_t)(hole - data), wait);
        offset = (uint64_t)hole;
    }
    return result;
}

/* Pages that differ from what the device has. */
static CUresult
push_changed(const struct extent *extent, uint64_t offset, uint64_t end, bool wait)
{
    CUresult result = CUDA_SUCCESS;

    while (offset < end && result == CUDA_SUCCESS) {
        uint64_t size = 0;

        while (offset + size < end && memcmp(extent->alias + offset + size,
                                             extent->known + offset + size, PAGE) != 0)
            size += PAGE;
        if (size > 0)
            result = push(extent, offset, size, wait);
        offset += size > 0 ? size : PAGE;
    }
    return result;
}

/* The device gets the blocks and the program loses them. Under lock. */
static CUresult
hand_over(struct fdc_managed *managed, struct extent *extent, uint32_t first,
          uint32_t end, bool wait)
{
    CUresult result = CUDA_SUCCESS, now;

    protect(extent, first, end - first, PROT_NONE);
    while (first < end) {
        uint32_t count = run_of(extent, first, end);
        uint64_t offset = first * BLOCK, size = count * BLOCK;

        now = CUDA_SUCCESS;
        if (extent->live[first] == 0)
            ; /* nobody's */
        else if (extent->state[first] == FRESH)
            now = push_fresh(extent, offset, offset + size, wait);
        else if (extent->state[first] == HOST && extent->eager[first])
            now = push_changed(extent, offset, offset + size, wait);
        else if (extent->state[first] == HOST)
            now = push(extent, offset, size, wait);
        if (result == CUDA_SUCCESS)
            result = now;
        memset(extent->eager + first, 0, count);
        set_state(managed, extent, first, count, DEVICE);
        first += count;
    }
    return result;
}

/* ---- between a hand-over and the work that it is for ---- */

/* Nothing is fetched unasked until it has been sent: the work would change what the program
 * seems to have. */
static void
hand_begin(struct fdc_session *session)
{
    struct fdc_thread *self = fdc_thread();

    if (self->handing == session)
        return;
    fdc_managed_sent(self);
    __atomic_add_fetch(&session->memory->handing, 1, __ATOMIC_RELAXED);
    self->handing = session;
}

void
fdc_managed_sent(struct fdc_thread *self)
{
    /* pairs with the acquire in fdc_managed_seen(): who sees this sees that it was issued */
    if (self->handing != NULL)
        __atomic_sub_fetch(&self->handing->memory->handing, 1, __ATOMIC_RELEASE);
    self->handing = NULL;
}

CUresult
fdc_managed_use(struct fdc_session *session, bool wait)
{
    struct fdc_managed *managed = managed_of(session);
    CUresult result = CUDA_SUCCESS, now;
    uint64_t at = 0, size;
    struct extent *extent;

    result = fdc_mirrors_push(session, wait);
    if (managed == NULL || result != CUDA_SUCCESS)
        return result;
    if (!wait) /* after a host function nothing more is sent */
        hand_begin(session);
    pthread_mutex_lock(&managed->lock);
    while ((extent = fdc_ranges_next(managed->extents, at, &at, &size)) != NULL) {
        at += size;
        if (extent->out == 0)
            continue;
        now = hand_over(managed, extent, 0, (uint32_t)(size / BLOCK), wait);
        if (result == CUDA_SUCCESS)
            result = now;
    }
    pthread_mutex_unlock(&managed->lock);
    return result;
}

/* Part of one extent, in whole blocks; NULL: none. Under lock. */
static struct extent *
blocks_of(struct fdc_managed *managed, uint64_t address, uint64_t size, uint32_t *first,
          uint32_t *end)
{
    struct extent *extent = fdc_ranges_find(managed->extents, address, NULL, NULL);

    if (extent == NULL || size == 0)
        return NULL;
    if (size > extent->address + extent->size - address)
        size = extent->address + extent->size - address;
    *first = block_of(extent, address);
    *end = block_of(extent, address + size - 1) + 1;
    return extent;
}

CUresult
fdc_managed_use_range(struct fdc_session *session, uint64_t address, uint64_t size)
{
    struct fdc_managed *managed = managed_of(session);
    CUresult result = fdc_mirrors_push(session, false);
    struct extent *extent;
    uint32_t first, end;

    if (managed == NULL || result != CUDA_SUCCESS)
        return result;
    hand_begin(session);
    pthread_mutex_lock(&managed->lock);
    extent = blocks_of(managed, address, size, &first, &end);
    if (extent != NULL && extent->out != 0)
        result = hand_over(managed, extent, first, end, false);
    pthread_mutex_unlock(&managed->lock);
    return result;
}

/* ---- what the device has written ---- */

/* The program gets the blocks, which are the device's. Where they cannot be had the
 * device is in an error, which its calls tell; the program finds what it had. */
static CUresult
take_over(struct fdc_managed *managed, struct extent *extent, uint32_t first,
          uint32_t count, enum state state)
{
    CUresult result = pull(extent, first * BLOCK, count * BLOCK);

    if (result != CUDA_SUCCESS)
        fdc_log(FDC_LOG_WARN, "managed memory cannot be fetched: %s",
                fdc_result_name(result));
    protect(extent, first, count, state == HOST ? PROT_READ | PROT_WRITE : PROT_READ);
    set_state(managed, extent, first, count, state);
    return result;
}

/* ---- waiting for the device ---- */

struct issued {
    const struct fdc_session *session;
    uint64_t position;
};

static void
issued_in(void *object, void *user)
{
    struct fdc_context *context = object;
    struct issued *issued = user;
    uint64_t position = fdc_load_relaxed(&context->issued);

    if (context->object.session == issued->session && position > issued->position)
        issued->position = position;
}

/* No work of the session is unfinished, as far as is known. */
static bool
is_idle(const struct fdc_managed *managed)
{
    struct issued issued = {.session = managed->session};

    fdc_object_each(FDC_KIND_CONTEXT, issued_in, &issued);
    return issued.position <= fdc_load_acquire(&managed->idle);
}

static void
now_idle(struct fdc_managed *managed, uint64_t position)
{
    uint64_t seen = fdc_load_relaxed(&managed->idle);

    while (seen < position &&
           !__atomic_compare_exchange_n(&managed->idle, &seen, position, true,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        continue;
}

/* Takes the lock while nothing that may write to managed memory is unfinished. In a
 * function of the program's that runs in stream order what comes after it cannot be
 * waited for, and what came before is over. */
static void
lock_idle(struct fdc_managed *managed)
{
    uint64_t position;

    pthread_mutex_lock(&managed->lock);
    if (fdc_thread()->in_hostfn)
        return;
    for (int turn = 0; turn < 100 && !is_idle(managed); turn++) {
        pthread_mutex_unlock(&managed->lock);
        (void)fdc_ferry_wait(managed->session, &position);
        now_idle(managed, position); /* also after an error: nothing runs then */
        pthread_mutex_lock(&managed->lock);
    }
}

/* ---- what the program gets ---- */

/* How many blocks to fetch: more and more where the program reads on. */
static uint32_t
fetch_size(struct extent *extent, uint32_t at)
{
    uint32_t end = (uint32_t)(extent->size / BLOCK);

    extent->ahead = at == extent->next && extent->ahead != 0 ? extent->ahead * 2 : 1;
    if (extent->ahead > AHEAD_MAX / BLOCK)
        extent->ahead = AHEAD_MAX / BLOCK;
    if (end - at > extent->ahead)
        end = at + extent->ahead;
    return run_of(extent, at, end);
}

bool
fdc_managed_fault(struct fdc_session *session, uint64_t address, bool write)
{
    struct fdc_managed *managed =
        session->memory != NULL ? managed_of(session) : NULL;
    struct extent *extent;
    uint32_t at, count;
    bool can = true;

    if (managed == NULL)
        return false;
    pthread_mutex_lock(&managed->lock);
    extent = fdc_ranges_find(managed->extents, address, NULL, NULL);
    if (extent != NULL && extent->state[block_of(extent, address)] == DEVICE) {
        pthread_mutex_unlock(&managed->lock);
        lock_idle(managed);
        extent = fdc_ranges_find(managed->extents, address, NULL, NULL);
    }
    can = extent != NULL;
    if (!can)
        goto unlock;
    at = block_of(extent, address);
    if (extent->state[at] == DEVICE) {
        count = fetch_size(extent, at);
        extent->next = at + count;
        (void)take_over(managed, extent, at, count, write ? HOST : SAME);
    } else if (extent->state[at] == SAME && write) {
        protect(extent, at, 1, PROT_READ | PROT_WRITE);
        set_state(managed, extent, at, 1, HOST);
    } else { /* another thread was first, or the kernel refused: then this would not end */
        can = protect(extent, at, 1,
                      extent->state[at] == SAME ? PROT_READ : PROT_READ | PROT_WRITE);
    }
unlock:
    pthread_mutex_unlock(&managed->lock);
    return can;
}

CUresult
fdc_managed_fetch(struct fdc_session *session, uint64_t address, uint64_t size)
{
    struct fdc_managed *managed = managed_of(session);
    CUresult result = CUDA_SUCCESS, now;
    struct extent *extent;
    uint32_t first, end;

    if (managed == NULL)
        return CUDA_SUCCESS;
    lock_idle(managed);
    extent = blocks_of(managed, address, size, &first, &end);
    while (extent != NULL && first < end) {
        uint32_t count = run_of(extent, first, end);

        if (extent->state[first] == DEVICE) {
            now = take_over(managed, extent, first, count, HOST);
            if (result == CUDA_SUCCESS)
                result = now;
        } else if (extent->state[first] == SAME) {
            protect(extent, first, count, PROT_READ | PROT_WRITE);
            set_state(managed, extent, first, count, HOST);
        }
        first += count;
    }
    pthread_mutex_unlock(&managed->lock);
    return result;
}

/* Under lock. */
static void
fetch_unasked(struct fdc_managed *managed, struct extent *extent)
{
    uint32_t blocks = (uint32_t)(extent->size / BLOCK), count;
    void *known;

    if (extent->known == NULL) {
        known = mmap(NULL, extent->size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (known == MAP_FAILED)
            return;
        extent->known = known;
    }
    for (uint32_t at = 0; at < blocks; at += count) {
        count = run_of(extent, at, blocks);
        if (extent->state[at] != DEVICE || extent->live[at] == 0)
            continue;
        if (take_over(managed, extent, at, count, HOST) != CUDA_SUCCESS)
            return;
        memcpy(extent->known + at * BLOCK, extent->alias + at * BLOCK, count * BLOCK);
        memset(extent->eager + at, 1, count);
    }
}

void
fdc_managed_seen(struct fdc_session *session, uint64_t position)
{
    struct fdc_managed *managed =
        session->memory != NULL ? managed_of(session) : NULL;
    struct extent *extent;
    uint64_t at = 0, size;
    int done = 0;

    if (managed == NULL)
        return;
    fdc_managed_sent(fdc_thread());
    now_idle(managed, position);
    if (!is_idle(managed))
        return;
    pthread_mutex_lock(&managed->lock);
    /* Who begins to hand over from now on takes back what is fetched here. */
    if (fdc_load_acquire(&session->memory->handing) != 0 || !is_idle(managed))
        done = EAGER_EXTENTS;
    while (done < EAGER_EXTENTS &&
           (extent = fdc_ranges_next(managed->extents, at, &at, &size)) != NULL) {
        at += size;
        if (!extent->small)
            continue;
        fetch_unasked(managed, extent);
        done++;
    }
    pthread_mutex_unlock(&managed->lock);
}

/* ---- extents ---- */

static void
extent_delete(struct extent *extent)
{
    if (extent->alias != MAP_FAILED)
        munmap(extent->alias, extent->size);
    if (extent->known != NULL)
        munmap(extent->known, extent->size);
    if (extent->fd >= 0)
        close(extent->fd);
    free(extent);
}

static void
no_view(uint64_t address, uint64_t size)
{
    mmap((void *)(uintptr_t)address, size, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static struct extent *
extent_new(struct fdc_device *device, uint64_t address, uint64_t size)
{
    size_t blocks = size / BLOCK;
    struct extent *extent =
        calloc(1, sizeof(*extent) + blocks * (sizeof(extent->live[0]) + 2));
    int high;

    if (extent == NULL)
        return NULL;
    extent->address = address;
    extent->size = size;
    extent->device = device;
    extent->alias = MAP_FAILED;
    extent->state = (uint8_t *)(extent->live + blocks);
    extent->eager = extent->state + blocks;
    extent->fd = fdc_memfd_new("fdcore-managed", size);
    if (extent->fd < 0)
        goto err;
    /* Out of the way of programs that close or count low descriptors. */
    high = fcntl(extent->fd, F_DUPFD_CLOEXEC, 200);
    if (high >= 0) {
        close(extent->fd);
        extent->fd = high;
    }
    extent->alias =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, extent->fd, 0);
    if (extent->alias == MAP_FAILED)
        goto err;
    /* These addresses have been this process's, without access, since the piece
     * came. */
    if (mmap((void *)(uintptr_t)address, size, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, extent->fd, 0) == MAP_FAILED)
        goto err;
    madvise((void *)(uintptr_t)address, size, MADV_DONTFORK);
    madvise(extent->alias, size, MADV_DONTFORK);
    return extent;

err:
    extent_delete(extent);
    return NULL;
}

static CUresult
grow(void *user, uint64_t address, uint64_t size)
{
    struct fdc_device *device = user;
    struct fdc_managed *managed = managed_of(device->session);
    struct extent *extent;
    CUresult result;
    int err = -ENOMEM;

    result = fdc_memory_ops.grow(device, address, size);
    if (result != CUDA_SUCCESS)
        return result;
    extent = extent_new(device, address, size);
    if (extent != NULL) {
        pthread_mutex_lock(&managed->lock);
        err = fdc_ranges_add(managed->extents, address, size, extent);
        if (!err)
            set_state(managed, extent, 0, (uint32_t)(size / BLOCK), FRESH);
        pthread_mutex_unlock(&managed->lock);
    }
    if (err) {
        if (extent != NULL) {
            no_view(address, size);
            extent_delete(extent);
        }
        fdc_memory_ops.shrink(device, address);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

static void
shrink(void *user, uint64_t address)
{
    struct fdc_device *device = user;
    struct fdc_managed *managed = managed_of(device->session);
    struct extent *extent;

    pthread_mutex_lock(&managed->lock);
    extent = fdc_ranges_del(managed->extents, address);
    if (extent != NULL) {
        set_state(managed, extent, 0, (uint32_t)(extent->size / BLOCK), DEVICE);
        no_view(address, extent->size);
        extent_delete(extent);
    }
    pthread_mutex_unlock(&managed->lock);
    fdc_memory_ops.shrink(device, address);
}

/* ---- allocation ---- */

static CUresult
managed_make(struct fdc_session *session, struct fdc_managed **managed)
{
    struct fdc_memory *memory = session->memory;

    *managed = managed_of(session);
    if (*managed != NULL)
        return CUDA_SUCCESS;
    pthread_mutex_lock(&memory->setup);
    *managed = memory->managed;
    if (*managed == NULL && fdc_ferry_setup(session) == CUDA_SUCCESS) {
        *managed = calloc(1, sizeof(**managed));
        if (*managed != NULL) {
            (*managed)->session = session;
            (*managed)->extents = fdc_ranges_new();
            pthread_mutex_init(&(*managed)->lock, NULL);
        }
        if (*managed != NULL && (*managed)->extents == NULL) {
            free(*managed);
            *managed = NULL;
        }
        fdc_store_release(&memory->managed, *managed); /* pairs with managed_of() */
    }
    pthread_mutex_unlock(&memory->setup);
    return *managed != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static struct fdc_arena *
arena_of(struct fdc_device *device)
{
    struct fdc_managed *managed =
        device->session->memory != NULL ? managed_of(device->session) : NULL;

    return managed != NULL ? fdc_load_acquire(&managed->arena[device_place(device)])
                           : NULL;
}

static CUresult
arena_make(struct fdc_managed *managed, struct fdc_device *device,
           struct fdc_arena **arena)
{
    struct fdc_memory *memory = device->session->memory;
    struct fdc_arena_ops ops = fdc_memory_ops;

    *arena = arena_of(device);
    if (*arena != NULL)
        return CUDA_SUCCESS;
    ops.grow = grow;
    ops.shrink = shrink;
    pthread_mutex_lock(&memory->setup);
    *arena = managed->arena[device_place(device)];
    if (*arena == NULL) {
        *arena = fdc_arena_new(&ops, device, device->snapshot->granularity,
                               device->snapshot->memory);
        /* pairs with the acquire in arena_of() */
        fdc_store_release(&managed->arena[device_place(device)], *arena);
    }
    pthread_mutex_unlock(&memory->setup);
    return *arena != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

/* An allocation begins or ends. Blocks that were nobody's, or somebody else's and
 * are now its own: what is in them means nothing, so they need not be fetched. */
static void
count_live(struct fdc_managed *managed, uint64_t address, uint64_t size, int change)
{
    struct extent *extent;
    uint32_t first, end;

    pthread_mutex_lock(&managed->lock);
    extent = blocks_of(managed, address, size, &first, &end);
    if (extent != NULL)
        extent->small = size < FDC_ARENA_SMALL;
    for (uint32_t i = first; extent != NULL && i < end; i++) {
        extent->live[i] = (uint16_t)(extent->live[i] + change);
        if (change < 0 || extent->live[i] > 1 || extent->state[i] == FRESH ||
            madvise(extent->alias + i * BLOCK, BLOCK, MADV_REMOVE) != 0)
            continue;
        extent->eager[i] = 0;
        protect(extent, i, 1, PROT_READ | PROT_WRITE);
        set_state(managed, extent, i, 1, FRESH);
    }
    pthread_mutex_unlock(&managed->lock);
}

CUresult
fdc_managed_alloc(struct fdc_call *call, uint64_t size, unsigned flags,
                  CUdeviceptr *address)
{
    struct fdc_device *device = call->context->device;
    struct fdc_place place = {
        .where = FDC_DEVICE,
        .origin = FDC_BY_MANAGED,
        .device = device,
        .context = call->context,
        .flags = flags,
        .managed = true,
        .preferred = CU_DEVICE_INVALID,
        .prefetched = CU_DEVICE_INVALID,
    };
    struct fdc_managed *managed;
    struct fdc_arena *arena;
    uint64_t at = 0;
    CUresult result;

    if (!fdc_managed_offered(device))
        return CUDA_ERROR_NOT_SUPPORTED;
    result = fdc_fault_install();
    if (result == CUDA_SUCCESS)
        result = managed_make(device->session, &managed);
    if (result == CUDA_SUCCESS)
        result = arena_make(managed, device, &arena);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_intake_poll(call->session);
    result = fdc_arena_alloc(arena, size, true, &at);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        fdc_memory_trim(device);
        result = fdc_arena_alloc(arena, size, true, &at);
    }
    if (result != CUDA_SUCCESS)
        return result;
    count_live(managed, at, size, 1);
    if (fdc_place_add(at, size, &place) != 0) {
        fdc_managed_free(device, at, size);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *address = at;
    return CUDA_SUCCESS;
}

void
fdc_managed_free(struct fdc_device *device, uint64_t address, uint64_t size)
{
    struct fdc_arena *arena = arena_of(device);

    if (arena == NULL)
        return;
    count_live(managed_of(device->session), address, size, -1);
    (void)fdc_arena_free(arena, address);
}

void
fdc_managed_trim(struct fdc_device *device)
{
    struct fdc_arena *arena = arena_of(device);

    if (arena != NULL)
        fdc_arena_trim(arena, true);
}

uint64_t
fdc_managed_used(struct fdc_device *device)
{
    struct fdc_arena *arena = arena_of(device);
    struct fdc_arena_info info = {0};

    if (arena != NULL)
        fdc_arena_stat(arena, &info);
    return info.used;
}
