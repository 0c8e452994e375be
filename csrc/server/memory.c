/*
 * Device memory. The worker reserves address pieces that the client agrees on, and creates,
 * maps and clears memory inside them where the client says, up to the lease's slice
 * (quota.c). Where the driver has no virtual memory management, blocks are the driver's own
 * allocations. What the program does with the public calls (vmm.c) happens in the same
 * pieces and counts too.
 */
#include "server/memory.h"
#include "server_hooks.h"

#include <stdlib.h>
#include <string.h>

#define RANGE_LO 0x400000000000ull      /* what every kind of client leaves free */
#define RANGE_HI 0x500000000000ull
#define PER_DEVICE (1ull << 40)
#define PIECE (64ull << 30)
#define PIECE_MIN (256ull << 20)

CUmemAllocationProp
fdc_memory_on(struct fdc_serve *serve, int device)
{
    CUmemAllocationProp prop;

    memset(&prop, 0, sizeof(prop));
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = serve->device[device];
    return prop;
}

static uint64_t
granularity_of(struct fdc_serve *serve, int device)
{
    const struct fdc_driver *driver = serve->driver;
    CUmemAllocationProp prop = fdc_memory_on(serve, device);
    size_t granularity = 0;
    int has = 0;

    driver->cuDeviceGetAttribute(
        &has, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, serve->device[device]);
    if (!has || !FDC_HAS(driver, cuMemAddressReserve) || !FDC_HAS(driver, cuMemCreate) ||
        driver->cuMemGetAllocationGranularity(
            &granularity, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM) != CUDA_SUCCESS)
        return 0;
    return granularity;
}

/* What each device has of a range: enough for several times its memory. */
static uint64_t
part_of(uint64_t size, int devices)
{
    size /= (uint64_t)devices;
    size = size < PER_DEVICE ? size : PER_DEVICE;
    return size - size % PIECE_MIN;
}

bool
fdc_memory_range(struct fdc_serve *serve, uint64_t base, uint64_t size)
{
    struct fdc_memory *memory = serve->memory;
    uint64_t part;
    bool fits;

    if (size == 0)
        return true;
    part = part_of(size, serve->limits.devices);
    fits = base >= RANGE_LO && base < RANGE_HI && size <= RANGE_HI - base &&
           base % PIECE_MIN == 0 && part != 0;
    pthread_mutex_lock(&memory->lock);
    if (memory->pieces != 0)            /* it had to be said before */
        fits = fits && memory->base == base && memory->part == part;
    if (fits) {
        memory->base = base;
        memory->part = part;
    }
    pthread_mutex_unlock(&memory->lock);
    return fits;
}

struct fdc_memory *
fdc_memory_new(struct fdc_serve *serve)
{
    struct fdc_memory *memory = calloc(1, sizeof(*memory));
    size_t total;

    if (memory == NULL)
        return NULL;
    pthread_mutex_init(&memory->lock, NULL);
    memory->serve = serve;
    memory->base = RANGE_LO;
    memory->part = part_of(RANGE_HI - RANGE_LO, serve->limits.devices);
    for (int i = 0; i < serve->limits.devices; i++) {
        total = 0;
        serve->driver->cuDeviceTotalMem_v2(&total, serve->device[i]);
        memory->limit[i] = serve->limits.memory[i];
        if (memory->limit[i] == 0 || memory->limit[i] > total)
            memory->limit[i] = total;
        memory->granularity[i] = granularity_of(serve, i);
    }
    return memory;
}

uint64_t
fdc_memory_granularity(struct fdc_serve *serve, int device)
{
    return serve->memory->granularity[device];
}

/* ---- pieces ---- */

/* Reserves at the hint. Takes what the driver gives if it lies in the session's range, or at
 * all. */
static CUresult
reserve(struct fdc_serve *serve, uint64_t hint, uint64_t size, bool anywhere, uint64_t *base)
{
    const struct fdc_driver *driver = serve->driver;
    uint64_t lo = serve->memory->base;
    uint64_t hi = lo + (uint64_t)serve->limits.devices * serve->memory->part;
    CUdeviceptr got = 0;
    CUresult result;

    result = driver->cuMemAddressReserve(&got, size, 0, hint, 0);
    if (result != CUDA_SUCCESS)
        return result;
    if (got == hint || anywhere || (got >= lo && got <= hi - size)) {
        *base = got;
        return CUDA_SUCCESS;
    }
    driver->cuMemAddressFree(got, size);
    return CUDA_ERROR_NOT_FOUND;
}

void
fdc_memory_piece(struct fdc_serve *serve, int device, uint64_t size, uint64_t *base,
                 uint64_t *got)
{
    struct fdc_memory *memory = serve->memory;
    uint64_t floor, wanted = size, start, part, step, offset = 0;
    CUresult result = CUDA_ERROR_NOT_FOUND;

    *base = *got = 0;
    if (memory->granularity[device] == 0)
        return;
    pthread_mutex_lock(&memory->lock);
    part = memory->part;
    start = memory->base + (uint64_t)device * part;
    if (memory->pieces == FDC_PIECES_MAX || size > part)
        goto unlock;
    floor = FDC_ALIGN_UP(size > PIECE_MIN ? size : PIECE_MIN, 2ull << 20);
    size = 2 * memory->limit[device] > PIECE ? 2 * memory->limit[device] : PIECE;
    size = FDC_ALIGN_UP(size > floor ? size : floor, PIECE_MIN);
    step = FDC_ALIGN_UP(part / 8, 2ull << 20);
    for (int i = 0; i < memory->pieces; i++)
        if (memory->piece[i].device == device && memory->piece[i].base >= start &&
            memory->piece[i].base < start + part)
            offset = memory->piece[i].base + memory->piece[i].size - start;
    /* Smaller ones, then other places, before whatever the driver gives. */
    for (; size >= floor && result != CUDA_SUCCESS; size /= 2) {
        for (uint64_t i = 0; i < 4 && result != CUDA_SUCCESS; i++)
            if (offset + i * step + size <= part)
                result = reserve(serve, start + offset + i * step, size, false, base);
        if (result != CUDA_SUCCESS)
            result = reserve(serve, 0, size, true, base);
        if (result == CUDA_SUCCESS)
            break;
    }
    if (result == CUDA_SUCCESS) {
        *got = size;
        memory->piece[memory->pieces++] = (struct fdc_piece){ *base, size, device };
        fdc_log(FDC_LOG_DEBUG, "device %d: piece at 0x%llx, %llu MiB", device,
                (unsigned long long)*base, (unsigned long long)(size >> 20));
    } else {
        fdc_log(FDC_LOG_WARN, "device %d: no addresses for %llu bytes: result %d", device,
                (unsigned long long)wanted, result);
    }
unlock:
    pthread_mutex_unlock(&memory->lock);
}

int
fdc_server_call_fdcMemPiece(struct fdc_request *request,
                            const struct fdc_req_fdcMemPiece *req)
{
    struct fdc_rep_fdcMemPiece reply = { 0 };
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->device >= 0 && req->device < request->serve->limits.devices) {
        fdc_memory_piece(request->serve, req->device, req->size, &reply.base, &reply.got);
        result = reply.got != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- the sorted list of mappings; under the lock ---- */

size_t
fdc_map_above(const struct fdc_memory *memory, uint64_t address)
{
    size_t lo = 0, hi = memory->maps, mid;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (memory->map[mid].address + memory->map[mid].size <= address)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct fdc_mapping *
fdc_map_at(const struct fdc_memory *memory, uint64_t address)
{
    size_t i = fdc_map_above(memory, address);

    return i < memory->maps && memory->map[i].address == address ? &memory->map[i] : NULL;
}

CUresult
fdc_map_insert(struct fdc_memory *memory, const struct fdc_mapping *entry)
{
    size_t i = fdc_map_above(memory, entry->address);

    if (i < memory->maps && memory->map[i].address < entry->address + entry->size)
        return CUDA_ERROR_INVALID_VALUE;
    if (memory->maps == memory->room) {
        size_t room = memory->room ? 2 * memory->room : 64;
        struct fdc_mapping *map = realloc(memory->map, room * sizeof(*map));

        if (map == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        memory->map = map;
        memory->room = room;
    }
    memmove(&memory->map[i + 1], &memory->map[i],
            (memory->maps - i) * sizeof(*memory->map));
    memory->map[i] = *entry;
    memory->maps++;
    return CUDA_SUCCESS;
}

void
fdc_map_remove(struct fdc_memory *memory, struct fdc_mapping *entry)
{
    size_t i = (size_t)(entry - memory->map);

    memory->maps--;
    memmove(&memory->map[i], &memory->map[i + 1],
            (memory->maps - i) * sizeof(*memory->map));
}

bool
fdc_memory_in_piece(const struct fdc_memory *memory, int device, uint64_t address, uint64_t size)
{
    for (int i = 0; i < memory->pieces; i++) {
        const struct fdc_piece *piece = &memory->piece[i];

        if ((device < 0 || piece->device == device) && address >= piece->base &&
            size <= piece->size && address - piece->base <= piece->size - size)
            return true;
    }
    return false;
}

static bool
in_mapping(const struct fdc_memory *memory, uint64_t address, uint64_t size)
{
    size_t i = fdc_map_above(memory, address);

    return i < memory->maps && memory->map[i].address <= address &&
           size <= memory->map[i].size - (address - memory->map[i].address);
}

CUresult
fdc_memory_check(struct fdc_serve *serve, uint64_t address, uint64_t size)
{
    struct fdc_memory *memory = serve->memory;
    bool ours;

    pthread_mutex_lock(&memory->lock);
    ours = fdc_memory_in_piece(memory, -1, address, size) || in_mapping(memory, address, size);
    for (size_t i = 0; i < memory->globals && !ours; i++)
        ours = address >= memory->global[i].base &&
               address - memory->global[i].base <= memory->global[i].size &&
               size <= memory->global[i].size - (address - memory->global[i].base);
    pthread_mutex_unlock(&memory->lock);
    return ours ? CUDA_SUCCESS : fdc_host_check(serve, address, size);
}

CUresult
fdc_memory_reach(struct fdc_serve *serve, uint64_t address, unsigned __int128 size)
{
    if (size == 0)
        return CUDA_SUCCESS;
    return size >> 64 ? CUDA_ERROR_INVALID_VALUE
                      : fdc_memory_check(serve, address, (uint64_t)size);
}

CUresult
fdc_memory_allow(struct fdc_serve *serve, uint64_t address, uint64_t size)
{
    struct fdc_memory *memory = serve->memory;
    CUresult result = CUDA_SUCCESS;
    struct fdc_piece *grown;

    pthread_mutex_lock(&memory->lock);
    for (size_t i = 0; i < memory->globals; i++)
        if (memory->global[i].base == address && memory->global[i].size >= size)
            goto unlock;
    grown = realloc(memory->global, (memory->globals + 1) * sizeof(*grown));
    if (grown != NULL) {
        memory->global = grown;
        grown[memory->globals++] = (struct fdc_piece){ address, size, 0 };
    } else {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
unlock:
    pthread_mutex_unlock(&memory->lock);
    return result;
}

void
fdc_backing_unmap(struct fdc_serve *serve, struct fdc_backing *backing)
{
    if (backing->scratch == 0)
        return;
    serve->driver->cuMemUnmap(backing->scratch, backing->size);
    serve->driver->cuMemAddressFree(backing->scratch, backing->size);
    backing->scratch = 0;
}

void
fdc_backing_put(struct fdc_serve *serve, struct fdc_backing *memory)
{
    if (--memory->refs != 0)
        return;
    fdc_backing_unmap(serve, memory);
    fdc_quota_give(serve->memory, memory->device, memory->size);
    free(memory);
}

/* ---- grow and shrink ---- */

CUresult
fdc_memory_use(struct fdc_serve *serve, int device)
{
    struct fdc_ctx *ctx = fdc_context_of_device(serve, device);

    fdc_context_lock(serve);
    for (struct fdc_ctx *at = serve->contexts; at != NULL && ctx == NULL; at = at->next)
        if (at->device == device && fdc_load_relaxed(&at->open))
            ctx = at;
    pthread_mutex_unlock(&serve->context_lock);
    return ctx != NULL ? fdc_context_use_ctx(serve, ctx) : CUDA_ERROR_INVALID_CONTEXT;
}

/* ---- other devices' access to what is mapped; under the lock ---- */

static CUresult
set_access(struct fdc_serve *serve, const struct fdc_mapping *at, int reader, bool enable)
{
    CUmemAccessDesc access;

    memset(&access, 0, sizeof(access));
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = serve->device[reader];
    access.flags = enable ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                          : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return serve->driver->cuMemSetAccess(at->address, at->size, &access, 1);
}

/* New memory: who reaches the device's reaches it too. */
static CUresult
share_new(struct fdc_serve *serve, const struct fdc_mapping *at)
{
    CUresult result = CUDA_SUCCESS;

    for (int i = 0; i < serve->limits.devices && result == CUDA_SUCCESS; i++)
        if (serve->memory->shared[at->memory->device][i] != 0)
            result = set_access(serve, at, i, true);
    return result;
}

/* The reader's access to all that is mapped of the owner. Allocations that the driver made
 * (plain) follow what contexts enable, and mappings of the program's own (public) what it
 * says itself. Stops at the first that cannot be enabled; taking away goes through. */
static CUresult
share_all(struct fdc_serve *serve, int owner, int reader, bool enable)
{
    const struct fdc_memory *memory = serve->memory;
    CUresult result = CUDA_SUCCESS, one;

    for (size_t i = 0; i < memory->maps && (result == CUDA_SUCCESS || !enable); i++) {
        const struct fdc_mapping *at = &memory->map[i];

        if (!at->ready || at->public || at->memory->plain || at->memory->device != owner)
            continue;
        one = set_access(serve, at, reader, enable);
        result = result == CUDA_SUCCESS ? one : result;
    }
    return result;
}

CUresult
fdc_memory_share(struct fdc_serve *serve, int owner, int reader, bool enable)
{
    struct fdc_memory *memory = serve->memory;
    uint32_t *count = &memory->shared[owner][reader];
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&memory->lock);
    if (!enable && *count == 0) {
        result = CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    } else if (!enable) {
        if (--*count == 0)
            result = share_all(serve, owner, reader, false);
    } else if (++*count == 1) {
        result = share_all(serve, owner, reader, true);
        if (result != CUDA_SUCCESS) {
            --*count;
            (void)share_all(serve, owner, reader, false);
        }
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

/* Maps created memory for its own device. */
static CUresult
map(struct fdc_serve *serve, const struct fdc_backing *backing, uint64_t address)
{
    const struct fdc_driver *driver = serve->driver;
    CUmemAccessDesc access;
    CUresult result;

    result = driver->cuMemMap(address, backing->size, 0, backing->handle, 0);
    if (result != CUDA_SUCCESS)
        return result;
    memset(&access, 0, sizeof(access));
    access.location = fdc_memory_on(serve, backing->device).location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    result = driver->cuMemSetAccess(address, backing->size, &access, 1);
    if (result != CUDA_SUCCESS)
        driver->cuMemUnmap(address, backing->size);
    return result;
}

CUresult
fdc_backing_zero(struct fdc_serve *serve, struct fdc_backing *backing)
{
    CUdeviceptr address = 0;
    CUresult result;

    result = serve->driver->cuMemAddressReserve(&address, backing->size, 0, 0, 0);
    if (result != CUDA_SUCCESS)
        return result;
    result = map(serve, backing, address);
    if (result != CUDA_SUCCESS) {
        serve->driver->cuMemAddressFree(address, backing->size);
        return result;
    }
    backing->scratch = address;
    result = fdc_zero_memory(serve, backing->device, address, backing->size);
    if (result != CUDA_SUCCESS)
        fdc_backing_unmap(serve, backing);
    return result;
}

/* The client knows the address already: nothing is there before it is zero. */
static CUresult
back(struct fdc_serve *serve, struct fdc_backing *backing, uint64_t address)
{
    const struct fdc_driver *driver = serve->driver;
    CUmemAllocationProp prop = fdc_memory_on(serve, backing->device);
    CUresult result;

    result = driver->cuMemCreate(&backing->handle, backing->size, &prop, 0);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_backing_zero(serve, backing);
    if (result == CUDA_SUCCESS) {
        result = map(serve, backing, address);
        if (result != CUDA_SUCCESS)
            fdc_backing_unmap(serve, backing);
    }
    if (result != CUDA_SUCCESS)
        driver->cuMemRelease(backing->handle);
    return result;
}

static CUresult
grow(struct fdc_serve *serve, int device, uint64_t address, uint64_t size)
{
    struct fdc_memory *memory = serve->memory;
    struct fdc_mapping entry = { .address = address, .size = size }, *at;
    uint64_t granularity = memory->granularity[device];
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (granularity == 0 || size == 0 || size % granularity || address % granularity)
        return CUDA_ERROR_INVALID_VALUE;
    entry.memory = calloc(1, sizeof(*entry.memory));
    if (entry.memory == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *entry.memory = (struct fdc_backing){ .size = size, .device = device, .refs = 1 };

    pthread_mutex_lock(&memory->lock);
    if (fdc_memory_in_piece(memory, device, address, size))
        result = fdc_quota_take(memory, device, size);
    if (result == CUDA_SUCCESS) {
        result = fdc_map_insert(memory, &entry);
        if (result != CUDA_SUCCESS)
            fdc_quota_give(memory, device, size);
    }
    pthread_mutex_unlock(&memory->lock);
    if (result != CUDA_SUCCESS) {
        free(entry.memory);
        return result;
    }

    result = back(serve, entry.memory, address);
    pthread_mutex_lock(&memory->lock);
    at = fdc_map_at(memory, address);
    if (result == CUDA_SUCCESS) {
        result = share_new(serve, at);
        if (result != CUDA_SUCCESS) {
            serve->driver->cuMemUnmap(address, size);
            serve->driver->cuMemRelease(entry.memory->handle);
        }
    }
    if (result == CUDA_SUCCESS) {
        at->ready = true;
    } else {
        fdc_map_remove(memory, at);
        fdc_backing_put(serve, entry.memory);
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

int
fdc_server_call_fdcMemGrow(struct fdc_request *request, const struct fdc_req_fdcMemGrow *req)
{
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->device >= 0 && req->device < request->serve->limits.devices)
        result = grow(request->serve, req->device, req->address, req->size);
    fdc_serve_lost(request->serve, req->device, result);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Takes a whole former grow (or plain allocation) out of the list. */
static CUresult
take_out(struct fdc_serve *serve, uint64_t address, bool plain, struct fdc_mapping *entry)
{
    struct fdc_memory *memory = serve->memory;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    struct fdc_mapping *at;

    pthread_mutex_lock(&memory->lock);
    at = fdc_map_at(memory, address);
    if (at != NULL && at->ready && !at->public && at->memory->plain == plain) {
        *entry = *at;
        fdc_map_remove(memory, at);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

void
fdc_backing_let_go(struct fdc_serve *serve, struct fdc_backing *memory)
{
    pthread_mutex_lock(&serve->memory->lock);
    fdc_backing_put(serve, memory);
    pthread_mutex_unlock(&serve->memory->lock);
}

int
fdc_server_call_fdcMemShrink(struct fdc_request *request,
                             const struct fdc_req_fdcMemShrink *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_mapping entry;
    CUresult result;

    result = take_out(serve, req->address, false, &entry);
    if (result == CUDA_SUCCESS) {
        result = serve->driver->cuMemUnmap(entry.address, entry.size);
        serve->driver->cuMemRelease(entry.memory->handle);
        fdc_backing_unmap(serve, entry.memory); /* not under the lock: it may wait */
        fdc_backing_let_go(serve, entry.memory);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- without virtual memory management ---- */

int
fdc_server_call_fdcMemAllocPlain(struct fdc_request *request,
                                 const struct fdc_req_fdcMemAllocPlain *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_memory *memory = serve->memory;
    struct fdc_rep_fdcMemAllocPlain reply = { 0 };
    struct fdc_mapping entry = { .size = req->size, .ready = true };
    CUdeviceptr address = 0;
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->device < 0 || req->device >= serve->limits.devices)
        goto answer;
    result = CUDA_ERROR_INVALID_VALUE;
    if (req->size == 0)
        goto answer;
    result = CUDA_ERROR_OUT_OF_MEMORY;
    entry.memory = calloc(1, sizeof(*entry.memory));
    if (entry.memory == NULL)
        goto answer;
    *entry.memory = (struct fdc_backing){
        .size = req->size, .device = req->device, .refs = 1, .plain = true,
    };
    result = fdc_memory_charge(serve, req->device, req->size);
    if (result != CUDA_SUCCESS) {
        free(entry.memory);
        goto answer;
    }
    result = fdc_memory_use(serve, req->device);
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuMemAlloc_v2(&address, req->size);
    if (result == CUDA_SUCCESS) {
        result = fdc_zero_memory(serve, req->device, address, req->size);
        entry.address = address;
    }
    pthread_mutex_lock(&memory->lock);
    if (result == CUDA_SUCCESS)
        result = fdc_map_insert(memory, &entry);
    if (result != CUDA_SUCCESS)
        fdc_backing_put(serve, entry.memory);
    pthread_mutex_unlock(&memory->lock);
    if (result != CUDA_SUCCESS && address != 0)
        serve->driver->cuMemFree_v2(address);
    reply.address = address;
    fdc_serve_lost(serve, req->device, result);
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcMemFreePlain(struct fdc_request *request,
                                const struct fdc_req_fdcMemFreePlain *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_mapping entry;
    CUresult result;

    result = take_out(serve, req->address, true, &entry);
    if (result == CUDA_SUCCESS) {
        fdc_memory_use(serve, entry.memory->device);
        result = serve->driver->cuMemFree_v2(entry.address);
        fdc_serve_lost(serve, entry.memory->device, result);
        fdc_backing_let_go(serve, entry.memory);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- the end ---- */

void
fdc_memory_free(struct fdc_serve *serve)
{
    const struct fdc_driver *driver = serve->driver;
    struct fdc_memory *memory = serve->memory;

    for (size_t i = 0; i < memory->maps; i++) {
        struct fdc_mapping *at = &memory->map[i];

        if (!at->ready)
            continue;
        if (at->memory->plain)
            driver->cuMemFree_v2(at->address);
        else
            driver->cuMemUnmap(at->address, at->size);
        if (!at->memory->plain && !at->public)
            driver->cuMemRelease(at->memory->handle);
        fdc_backing_put(serve, at->memory);
    }
    memory->maps = 0;
    if (serve->slots != NULL)
        fdc_vmm_free(serve);
    for (int i = 0; i < memory->pieces; i++)
        driver->cuMemAddressFree(memory->piece[i].base, memory->piece[i].size);
    free(memory->map);
    free(memory->global);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
    serve->memory = NULL;
}
