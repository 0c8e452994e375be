/*
 * Pinned memory that is this process's own (registered, or of a session that shares
 * none): most of it is only copied from and to. Where a program asks for its device
 * pointer, or gives its address to a kernel, the worker gets memory of its own for it,
 * at the same address where that is free there, and the two are mirrors of each other.
 */
#include <string.h>

#include "managed.h"

/* Where the worker's memory goes when it cannot have the program's addresses: above
 * what shared.c uses first. */
#define OTHER_LO 0x4fc000000000ull
#define OTHER_HI 0x4fe000000000ull
#define TRIES 8

static CUresult
ask_memory(struct fdc_device *device, uint64_t address, uint64_t size,
           uint64_t *pointer)
{
    struct fdc_rep_fdcHostGrow rep;
    struct fdc_req_fdcHostGrow *req;
    struct fdc_call call;
    CUresult result;

    result = fdc_ferry_call(device, FDC_ID_fdcHostGrow, &call);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->address = address;
    req->size = size;
    req->shared = 0;
    result = fdc_call_wait(&call, &rep, sizeof(rep));
    *pointer = rep.device;
    return result;
}

/* Addresses of the worker's for whole pages. Other ones than the program's are kept
 * out of this process, so that it is seen that they are the device's. */
static CUresult
find_room(struct fdc_device *device, uint64_t base, uint64_t size, uint64_t *address)
{
    struct fdc_session *session = device->session;
    struct fdc_memory *memory = session->memory;
    CUresult result;

    *address = base;
    result = fdc_shared_piece(session, base, size);
    for (int i = 0; i < TRIES && result == CUDA_ERROR_ALREADY_MAPPED; i++) {
        if (memory->mapped_next == 0)
            memory->mapped_next = OTHER_LO;
        *address = memory->mapped_next;
        if (size > OTHER_HI - *address)
            return CUDA_ERROR_OUT_OF_MEMORY;
        memory->mapped_next += size;
        if (fdc_place_range(device, *address, size) == 0)
            result = fdc_shared_piece(session, *address, size);
    }
    return result;
}

/* Under the mapping lock. */
static CUresult
make_mirror(const struct fdc_place *place)
{
    uint64_t base = place->base & ~4095ull, inside = place->base - base, at, pointer = 0;
    uint64_t size = FDC_ALIGN_UP(inside + place->size, 4096ull);
    struct fdc_device *device = place->device;
    CUresult result;

    result = find_room(device, base, size, &at);
    if (result != CUDA_SUCCESS)
        return result;
    result = ask_memory(device, at, size, &pointer);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_mirror_add(device, place->base, at + inside, pointer + inside,
                            place->size, false);
    if (result != CUDA_SUCCESS)
        fdc_host_shrink(device->session, at);
    return result;
}

CUresult
fdc_mapped_pointer(const struct fdc_place *place, uint64_t address, uint64_t *pointer)
{
    struct fdc_session *session = place->device->session;
    CUresult result = CUDA_SUCCESS;

    if (fdc_mirror_find(session, address, pointer))
        return CUDA_SUCCESS;
    pthread_mutex_lock(&session->memory->mapping);
    if (!fdc_mirror_find(session, address, pointer)) {
        result = make_mirror(place);
        if (result == CUDA_SUCCESS && !fdc_mirror_find(session, address, pointer))
            result = CUDA_ERROR_INVALID_VALUE; /* given back meanwhile */
    }
    pthread_mutex_unlock(&session->memory->mapping);
    if (result == CUDA_ERROR_ALREADY_MAPPED)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    return result;
}

void
fdc_mapped_end(const struct fdc_place *place)
{
    struct fdc_session *session = place->device->session;
    uint64_t at, position;

    if (!fdc_mirror_find(session, place->base, &at))
        return;
    /* What kernels write there belongs to the program until now. */
    (void)fdc_ferry_wait(session, &position);
    fdc_mirrors_pull(session, true);
    if (fdc_mirror_del(session, place->base, &at))
        fdc_host_shrink(session, at & ~4095ull);
}

void
fdc_mapped_note(const struct fdc_place *place)
{
    struct fdc_memory *memory = place->device->session->memory;
    uint64_t end = place->base + place->size;

    pthread_mutex_lock(&memory->mapping);
    if (memory->pinned_hi == 0 || place->base < memory->pinned_lo)
        __atomic_store_n(&memory->pinned_lo, place->base, __ATOMIC_RELAXED);
    if (end > memory->pinned_hi)
        __atomic_store_n(&memory->pinned_hi, end, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&memory->mapping);
}

CUresult
fdc_mapped_scan(struct fdc_session *session, const void *params, uint32_t size)
{
    struct fdc_memory *memory = session->memory;
    uint64_t low = fdc_load_relaxed(&memory->pinned_lo);
    uint64_t high = fdc_load_acquire(&memory->pinned_hi), word, pointer;
    CUresult result = CUDA_SUCCESS;
    struct fdc_place place;

    for (uint32_t at = 0; at + 8 <= size && result == CUDA_SUCCESS; at += 8) {
        memcpy(&word, (const char *)params + at, 8);
        if (word < low || word >= high || !fdc_place_find(word, &place) ||
            place.where != FDC_HOST_PINNED || place.shared ||
            place.device->session != session)
            continue;
        result = fdc_mapped_pointer(&place, word, &pointer);
        if (result == CUDA_SUCCESS && pointer != word)
            fdc_log(FDC_LOG_WARN, "a kernel is given the address of pinned memory, which "
                                  "is another one to it: cuMemHostGetDevicePointer");
    }
    return result;
}
