/*
 * Memory that graphs allocate. It comes from the session's own allocator, when the node is
 * made: so its address is known at once, it is cleared, and the slice's quota holds for
 * it. In the worker's graph an empty node stands for an allocation and for its end. What
 * a driver says of such graphs is said here: an allocation that was not freed is not made
 * again, unless the executable graph frees by itself.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

struct fdc_graph_block {
    uint64_t address, size;
    struct fdc_device *device;
    uint32_t refs;  /* graphs and executable graphs with a node of it; under the lock */
    bool allocated; /* by a launch, and not freed since */
};

struct fdc_graph_memory {
    pthread_mutex_t lock;
    struct {
        uint64_t used, used_high, reserved, reserved_high;
    } device[64];
};

static struct fdc_graph_memory *
books(struct fdc_session *session)
{
    struct fdc_graph_memory *memory = fdc_load_acquire(&session->graph_memory);
    struct fdc_graph_memory *none = NULL;

    if (memory != NULL)
        return memory;
    memory = calloc(1, sizeof(*memory));
    if (memory == NULL)
        return NULL;
    pthread_mutex_init(&memory->lock, NULL);
    if (__atomic_compare_exchange_n(&session->graph_memory, &none, memory, false,
                                    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return memory;
    free(memory);
    return none;
}

/* Under the lock. */
static void
mark(struct fdc_graph_memory *memory, struct fdc_graph_block *block, bool allocated)
{
    int at = (int)(block->device - block->device->session->device);

    if (block->allocated == allocated)
        return;
    block->allocated = allocated;
    if (!allocated) {
        memory->device[at].used -= block->size;
        return;
    }
    memory->device[at].used += block->size;
    if (memory->device[at].used > memory->device[at].used_high)
        memory->device[at].used_high = memory->device[at].used;
}

/* ---- blocks ---- */

static struct fdc_graph_block *
block_find(CUdeviceptr address)
{
    struct fdc_place place;

    if (!fdc_place_find(address, &place) || place.origin != FDC_BY_GRAPH ||
        place.base != address)
        return NULL;
    return (struct fdc_graph_block *)(uintptr_t)place.owner;
}

void
fdc_block_ref(struct fdc_graph_block *block)
{
    struct fdc_graph_memory *memory = block->device->session->graph_memory;

    pthread_mutex_lock(&memory->lock);
    block->refs++;
    pthread_mutex_unlock(&memory->lock);
}

/* Nobody can allocate it again and it is free: its bytes go back. */
static void
block_end(struct fdc_graph_block *block)
{
    struct fdc_place place;
    struct fdc_call call;

    if (fdc_call_open_in(&call, block->device->session, FDC_ID_fdcMemShrink) ==
            CUDA_SUCCESS &&
        fdc_place_find(block->address, &place) &&
        place.owner == (uint64_t)(uintptr_t)block)
        (void)fdc_memory_give(&call, &place);
    free(block);
}

void
fdc_block_unref(struct fdc_graph_block *block)
{
    struct fdc_graph_memory *memory = block->device->session->graph_memory;
    int at = (int)(block->device - block->device->session->device);
    bool last;

    pthread_mutex_lock(&memory->lock);
    last = --block->refs == 0 && !block->allocated;
    if (last)
        memory->device[at].reserved -= block->size;
    pthread_mutex_unlock(&memory->lock);
    if (last)
        block_end(block);
}

CUresult
fdc_graph_memory_free(CUdeviceptr address)
{
    struct fdc_graph_block *block = block_find(address);
    struct fdc_graph_memory *memory;
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (block == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memory = block->device->session->graph_memory;
    pthread_mutex_lock(&memory->lock);
    if (block->allocated) {
        mark(memory, block, false);
        block->refs++;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&memory->lock);
    if (result == CUDA_SUCCESS)
        fdc_block_unref(block);
    return result;
}

/* ---- nodes ---- */

static CUresult
params_check(struct fdc_call *call, const CUDA_MEM_ALLOC_NODE_PARAMS *params,
             struct fdc_device **device)
{
    static uint32_t said;

    if (params->bytesize == 0 ||
        params->poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
        params->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
        (params->accessDescCount != 0 && params->accessDescs == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    *device = fdc_device(params->poolProps.location.id);
    if (*device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if ((*device)->session != call->session)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (params->poolProps.handleTypes != CU_MEM_HANDLE_TYPE_NONE)
        return CUDA_ERROR_NOT_SUPPORTED;
    for (size_t i = 0; i < params->accessDescCount; i++)
        if (params->accessDescs[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
            params->accessDescs[i].location.id != (*device)->ordinal)
            return fdc_refuse("a graph's allocation for another device", &said);
    return CUDA_SUCCESS;
}

/* Takes a reference to the block. */
static bool
list_add(struct fdc_keeps *keeps, struct fdc_graph_block ***list, size_t *count,
         struct fdc_graph_block *block)
{
    struct fdc_graph_block **grown;

    pthread_mutex_lock(&keeps->lock);
    grown = realloc(*list, (*count + 1) * sizeof(*grown));
    if (grown != NULL) {
        *list = grown;
        grown[(*count)++] = block;
    }
    pthread_mutex_unlock(&keeps->lock);
    if (grown != NULL)
        fdc_block_ref(block);
    return grown != NULL;
}

CUresult
fdc_graph_alloc(struct fdc_call *call, struct fdc_graph *graph,
                CUDA_MEM_ALLOC_NODE_PARAMS *params)
{
    struct fdc_graph_memory *memory = books(call->session);
    struct fdc_graph_block *block;
    struct fdc_call own = *call;
    struct fdc_device *device;
    CUdeviceptr address;
    CUresult result;
    int at;

    result = params_check(call, params, &device);
    if (result != CUDA_SUCCESS)
        return result;
    block = memory != NULL ? calloc(1, sizeof(*block)) : NULL;
    if (block == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (own.context->device != device) {
        own.context = device->primary;
        result = fdc_context_activate(own.context);
    }
    if (result == CUDA_SUCCESS)
        result = fdc_memory_alloc(&own, params->bytesize, FDC_BY_GRAPH,
                                  (uint64_t)(uintptr_t)block, &address);
    if (result != CUDA_SUCCESS) {
        free(block);
        return result;
    }
    block->address = address;
    block->size = params->bytesize;
    block->device = device;
    at = (int)(device - call->session->device);
    pthread_mutex_lock(&memory->lock);
    memory->device[at].reserved += block->size;
    if (memory->device[at].reserved > memory->device[at].reserved_high)
        memory->device[at].reserved_high = memory->device[at].reserved;
    block->refs = 1;
    pthread_mutex_unlock(&memory->lock);
    if (!list_add(&graph->keeps, &graph->keeps.alloc, &graph->keeps.allocs, block))
        result = CUDA_ERROR_OUT_OF_MEMORY;
    fdc_block_unref(block);
    if (result == CUDA_SUCCESS)
        params->dptr = address;
    return result;
}

CUresult
fdc_graph_free(struct fdc_call *call, struct fdc_graph *graph, CUdeviceptr address)
{
    struct fdc_graph_block *block = block_find(address);
    struct fdc_keeps *keeps = &graph->keeps;
    bool twice = false;

    if (block == NULL || block->device->session != call->session)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&keeps->lock);
    for (size_t i = 0; i < keeps->frees; i++)
        twice |= keeps->free[i] == block;
    pthread_mutex_unlock(&keeps->lock);
    if (twice)
        return CUDA_ERROR_INVALID_VALUE;
    return list_add(keeps, &keeps->free, &keeps->frees, block)
               ? CUDA_SUCCESS
               : CUDA_ERROR_OUT_OF_MEMORY;
}

void
fdc_graph_memory_undo(struct fdc_graph *graph, uint32_t type)
{
    struct fdc_keeps *keeps = &graph->keeps;
    struct fdc_graph_block *block = NULL;

    pthread_mutex_lock(&keeps->lock);
    if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC && keeps->allocs != 0)
        block = keeps->alloc[--keeps->allocs];
    else if (type == CU_GRAPH_NODE_TYPE_MEM_FREE && keeps->frees != 0)
        block = keeps->free[--keeps->frees];
    pthread_mutex_unlock(&keeps->lock);
    if (block != NULL)
        fdc_block_unref(block);
}

bool
fdc_graph_has_memory(struct fdc_keeps *keeps)
{
    return (fdc_load_relaxed(&keeps->allocs) | fdc_load_relaxed(&keeps->frees)) != 0;
}

/* ---- launches ---- */

static bool
among(struct fdc_graph_block **list, size_t count, const struct fdc_graph_block *block)
{
    while (count > 0)
        if (list[--count] == block)
            return true;
    return false;
}

CUresult
fdc_graph_memory_launch(struct fdc_exec *exec)
{
    bool frees_itself =
        (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
    struct fdc_graph_memory *memory = exec->object.session->graph_memory;
    struct fdc_keeps *keeps = &exec->keeps;
    CUresult result = CUDA_SUCCESS;
    size_t i;

    pthread_mutex_lock(&keeps->lock);
    pthread_mutex_lock(&memory->lock);
    for (i = 0; i < keeps->allocs; i++)
        if (keeps->alloc[i]->allocated && !frees_itself)
            result = CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < keeps->frees; i++)
        if (!keeps->free[i]->allocated &&
            !among(keeps->alloc, keeps->allocs, keeps->free[i]))
            result = CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < keeps->allocs && result == CUDA_SUCCESS; i++)
        mark(memory, keeps->alloc[i], true);
    for (i = 0; i < keeps->frees && result == CUDA_SUCCESS; i++)
        mark(memory, keeps->free[i], false);
    pthread_mutex_unlock(&memory->lock);
    pthread_mutex_unlock(&keeps->lock);
    return result;
}

/* ---- what a device's graphs hold ---- */

static CUresult
books_of(CUdevice ordinal, const void *value, struct fdc_graph_memory **memory, int *at)
{
    struct fdc_device *device;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    device = fdc_device(ordinal);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (value == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *memory = books(device->session);
    *at = (int)(device - device->session->device);
    return *memory != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

FDC_EXPORT CUresult
cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    struct fdc_graph_memory *memory;
    uint64_t word = 0;
    CUresult result;
    int at;

    result = books_of(device, value, &memory, &at);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&memory->lock);
    switch ((int)attr) {
    case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT:
        word = memory->device[at].used;
        break;
    case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH:
        word = memory->device[at].used_high;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT:
        word = memory->device[at].reserved;
        break;
    case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH:
        word = memory->device[at].reserved_high;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_unlock(&memory->lock);
    if (result == CUDA_SUCCESS)
        memcpy(value, &word, sizeof(word));
    return result;
}

/* High marks can only be set back. */
FDC_EXPORT CUresult
cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
    struct fdc_graph_memory *memory;
    uint64_t word;
    CUresult result;
    int at;

    result = books_of(device, value, &memory, &at);
    if (result != CUDA_SUCCESS)
        return result;
    memcpy(&word, value, sizeof(word));
    if (word != 0)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&memory->lock);
    if (attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
        memory->device[at].used_high = memory->device[at].used;
    else if (attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
        memory->device[at].reserved_high = memory->device[at].reserved;
    else
        result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_unlock(&memory->lock);
    return result;
}

/* What is not in use is nobody's already; what is cached goes back to the worker. */
FDC_EXPORT CUresult
cuDeviceGraphMemTrim(CUdevice ordinal)
{
    struct fdc_device *device;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    device = fdc_device(ordinal);
    if (device == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    fdc_memory_trim(device);
    return CUDA_SUCCESS;
}
