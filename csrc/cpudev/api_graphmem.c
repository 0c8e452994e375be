/*
 * Memory of graphs. An allocation node has its memory from the moment it is made to the end
 * of the last graph that names it; `held` says whether a launch has allocated it and
 * nobody has freed it since, which decides what may be launched and freed.
 */
#include <string.h>

#include "cpudev.h"

static void
give_up(struct fdcpu_alloc *alloc, void *result)
{
    if (!alloc->held)
        *(CUresult *)result = CUDA_ERROR_INVALID_VALUE;
    alloc->held = false;
}

CUresult
fdcpu_graph_memory_free(uint64_t addr)
{
    CUresult result = CUDA_SUCCESS;

    if (!fdcpu_alloc_change(addr, give_up, &result))
        return CUDA_ERROR_INVALID_VALUE;
    return result == CUDA_SUCCESS ? fdcpu_pool_free_now(addr) : result;
}

static void
set_held(struct fdcpu_alloc *alloc, void *held)
{
    alloc->held = *(bool *)held;
}

static void
hold(uint64_t addr, bool held)
{
    fdcpu_alloc_change(addr, set_held, &held);
}

static bool
allocates(const struct fdcpu_plan *plan, uint64_t addr)
{
    size_t i;

    for (i = 0; i < plan->nsteps; i++)
        if (plan->steps[i].work->kind == FDCPU_W_ALLOC &&
            plan->steps[i].work->u.alloc.params.dptr == addr)
            return true;
    return false;
}

CUresult
fdcpu_graph_memory_launch(const struct fdcpu_plan *plan, bool frees_itself)
{
    struct fdcpu_alloc alloc;
    size_t i;

    for (i = 0; i < plan->nsteps; i++) {
        const struct fdcpu_work *work = plan->steps[i].work;

        if (work->kind == FDCPU_W_ALLOC && !frees_itself &&
            fdcpu_alloc_find(work->u.alloc.params.dptr, &alloc) && alloc.held)
            return CUDA_ERROR_INVALID_VALUE;
        if (work->kind == FDCPU_W_FREE && !allocates(plan, work->u.free) &&
            (!fdcpu_alloc_find(work->u.free, &alloc) ||
             (alloc.kind == FDCPU_A_GRAPH && !alloc.held)))
            return CUDA_ERROR_INVALID_VALUE;
    }
    for (i = 0; i < plan->nsteps; i++)
        if (plan->steps[i].work->kind == FDCPU_W_ALLOC)
            hold(plan->steps[i].work->u.alloc.params.dptr, true);
    for (i = 0; i < plan->nsteps; i++)
        if (plan->steps[i].work->kind == FDCPU_W_FREE)
            hold(plan->steps[i].work->u.free, false);
    return CUDA_SUCCESS;
}

/* ---- what a device's graphs hold ---- */

FDC_EXPORT CUresult
cuDeviceGraphMemTrim(CUdevice device)
{
    struct fdcpu_device *found;

    return fdcpu_enter_device(device, &found);
}

FDC_EXPORT CUresult
cuDeviceGetGraphMemAttribute(CUdevice ordinal, CUgraphMem_attribute attr, void *value)
{
    struct fdcpu_device *device;
    uint64_t word[2];
    CUresult result = fdcpu_enter_device(ordinal, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL || (unsigned int)attr > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
        return CUDA_ERROR_INVALID_VALUE;
    fdcpu_alloc_graph_bytes(device, &word[0], &word[1]);
    /* Used, then reserved; high marks are kept of each. */
    for (int i = 0; i < 2; i++)
        if (word[i] > device->graph_high[i])
            device->graph_high[i] = word[i];
    memcpy(value, (attr & 1) != 0 ? &device->graph_high[attr / 2] : &word[attr / 2],
           sizeof(uint64_t));
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceSetGraphMemAttribute(CUdevice ordinal, CUgraphMem_attribute attr, void *value)
{
    struct fdcpu_device *device;
    uint64_t word[2];
    CUresult result = fdcpu_enter_device(ordinal, &device);

    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL || *(const uint64_t *)value != 0 ||
        (attr != CU_GRAPH_MEM_ATTR_USED_MEM_HIGH &&
         attr != CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH))
        return CUDA_ERROR_INVALID_VALUE;
    fdcpu_alloc_graph_bytes(device, &word[0], &word[1]);
    device->graph_high[attr / 2] = word[attr / 2];
    return CUDA_SUCCESS;
}
