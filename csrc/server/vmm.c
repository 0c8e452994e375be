/*
 * The program's own virtual memory management: memory that it creates, maps into the
 * session's pieces and gives devices access to. It counts against the slice from its
 * creation until neither its handle nor a mapping is left.
 */
#include "server/memory.h"
#include "server_hooks.h"

#include <stdlib.h>
#include <string.h>

int
fdc_server_call_fdcMemCreate(struct fdc_request *request,
                             const struct fdc_req_fdcMemCreate *req)
{
    struct fdc_serve *serve = request->serve;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp prop;
    struct fdc_backing *memory;
    CUresult result = CUDA_ERROR_INVALID_DEVICE;

    if (req->device < 0 || req->device >= serve->limits.devices)
        goto answer;
    result = CUDA_ERROR_NOT_SUPPORTED;
    if (serve->memory->granularity[req->device] == 0)
        goto answer;
    result = CUDA_ERROR_INVALID_VALUE;
    if (req->size == 0 || req->size % serve->memory->granularity[req->device])
        goto answer;
    result = fdc_memory_charge(serve, req->device, req->size);
    if (result != CUDA_SUCCESS)
        goto answer;
    memory = calloc(1, sizeof(*memory));
    if (memory == NULL) {
        fdc_memory_refund(serve, req->device, req->size);
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto answer;
    }
    *memory = (struct fdc_backing){ .size = req->size, .device = req->device, .refs = 1 };
    prop = fdc_memory_on(serve, req->device);
    if (req->flags & 1)
        prop.allocFlags.compressionType = CU_MEM_ALLOCATION_COMP_GENERIC;
    result = serve->driver->cuMemCreate(&handle, req->size, &prop, 0);
    if (result == CUDA_SUCCESS) {
        memory->handle = handle;
        result = fdc_backing_zero(serve, memory);
        if (result == CUDA_SUCCESS)
            result = fdc_handle_put_aux(serve, FDC_KIND_MEMORY, req->memory,
                                        (void *)(uintptr_t)handle, memory, 0);
        if (result != CUDA_SUCCESS)
            serve->driver->cuMemRelease(handle);
    }
    if (result != CUDA_SUCCESS)
        fdc_backing_let_go(serve, memory);
    fdc_serve_lost(serve, req->device, result);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcMemRelease(struct fdc_request *request,
                              const struct fdc_req_fdcMemRelease *req)
{
    struct fdc_serve *serve = request->serve;
    void *value, *aux;
    CUresult result;

    result = fdc_handle_drop_aux(serve, FDC_KIND_MEMORY, req->memory, &value, &aux);
    if (result == CUDA_SUCCESS) {
        result = serve->driver->cuMemRelease((CUmemGenericAllocationHandle)(uintptr_t)value);
        fdc_backing_let_go(serve, aux);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcMemMap(struct fdc_request *request, const struct fdc_req_fdcMemMap *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_memory *memory = serve->memory;
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_MEMORY, req->memory);
    struct fdc_mapping entry = {
        .address = req->address, .size = req->size, .ready = true, .public = true,
    };
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (slot == NULL) {
        result = CUDA_ERROR_INVALID_HANDLE;
        goto answer;
    }
    entry.memory = fdc_slot_aux(slot);
    pthread_mutex_lock(&memory->lock);
    if (req->size != 0 && fdc_memory_in_piece(memory, -1, req->address, req->size))
        result = fdc_map_insert(memory, &entry);
    if (result == CUDA_SUCCESS) {
        result = serve->driver->cuMemMap(req->address, req->size, req->offset,
                                         entry.memory->handle, req->flags);
        if (result == CUDA_SUCCESS)
            entry.memory->refs++;
        else
            fdc_map_remove(memory, fdc_map_at(memory, req->address));
    }
    pthread_mutex_unlock(&memory->lock);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Whole mappings of the program's, one or several side by side. */
int
fdc_server_call_fdcMemUnmap(struct fdc_request *request,
                            const struct fdc_req_fdcMemUnmap *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_memory *memory = serve->memory;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    uint64_t end;
    size_t i;

    if (req->size == 0 || __builtin_add_overflow(req->address, req->size, &end))
        goto answer;
    pthread_mutex_lock(&memory->lock);
    i = fdc_map_above(memory, req->address);
    if (i < memory->maps && memory->map[i].address == req->address) {
        result = CUDA_SUCCESS;
        for (size_t j = i; j < memory->maps && memory->map[j].address < end; j++)
            if (!memory->map[j].public || memory->map[j].address + memory->map[j].size > end)
                result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuMemUnmap(req->address, req->size);
    while (result == CUDA_SUCCESS && i < memory->maps && memory->map[i].address < end) {
        struct fdc_backing *behind = memory->map[i].memory;

        fdc_map_remove(memory, &memory->map[i]);
        fdc_backing_unmap(serve, behind);
        fdc_backing_put(serve, behind);
    }
    pthread_mutex_unlock(&memory->lock);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcMemAccess(struct fdc_request *request,
                             const struct fdc_req_fdcMemAccess *req)
{
    struct fdc_serve *serve = request->serve;
    CUmemAccessDesc access;
    CUresult result = CUDA_ERROR_INVALID_DEVICE;
    bool ours;

    if (req->device < 0 || req->device >= serve->limits.devices)
        goto answer;
    pthread_mutex_lock(&serve->memory->lock);
    ours = fdc_memory_in_piece(serve->memory, -1, req->address, req->size);
    pthread_mutex_unlock(&serve->memory->lock);
    result = CUDA_ERROR_INVALID_VALUE;
    if (!ours)
        goto answer;
    memset(&access, 0, sizeof(access));
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = serve->device[req->device];
    access.flags = req->flags;
    result = serve->driver->cuMemSetAccess(req->address, req->size, &access, 1);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

static void
drop_memory(struct fdc_serve *serve, void *value, void *aux)
{
    serve->driver->cuMemRelease((CUmemGenericAllocationHandle)(uintptr_t)value);
    if (aux != NULL)
        fdc_backing_let_go(serve, aux);
}

void
fdc_vmm_free(struct fdc_serve *serve)
{
    fdc_handle_sweep(serve, FDC_KIND_MEMORY, 0, drop_memory);
}
