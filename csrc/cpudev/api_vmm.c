/*
 * Virtual memory management: reservations of addresses, memory made as a memfd, and
 * mappings of it. Mapped memory is reachable (by kernels and copies) once access is
 * set.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpudev.h"

struct reservation {
    uint64_t lo, hi;
    struct reservation *next;
};

static struct reservation *reservations; /* under mem */

static CUresult
enter(void)
{
    CUresult result = fdcpu_check();

    if (result == CUDA_SUCCESS && (fdcpu.opt.strict & FDCPU_STRICT_NOVMM) != 0)
        result = CUDA_ERROR_NOT_SUPPORTED;
    return result;
}

static bool
granular(uint64_t value)
{
    return value % FDCPU_GRANULE == 0;
}

/* ---- addresses ---- */

FDC_EXPORT CUresult
cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr,
                    unsigned long long flags)
{
    struct reservation *r;
    CUresult result = enter();

    if (result != CUDA_SUCCESS)
        return result;
    if (ptr == NULL || size == 0 || !granular(size) || flags != 0 ||
        (alignment & (alignment - 1)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((fdcpu.opt.strict & FDCPU_STRICT_HINTS) != 0 || !granular(addr) ||
        (alignment != 0 && addr % alignment != 0))
        addr = 0;
    r = malloc(sizeof(*r));
    if (r == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_rwlock_wrlock(&fdcpu.mem);
    r->lo = fdcpu_addr_reserve(size, alignment, addr);
    if (r->lo != 0) {
        r->hi = r->lo + size;
        r->next = reservations;
        reservations = r;
        *ptr = r->lo;
    }
    pthread_rwlock_unlock(&fdcpu.mem);
    if (r->lo == 0) {
        free(r);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    struct reservation **at, *r = NULL;
    struct fdcpu_alloc alloc;
    CUresult result = enter();
    uint64_t addr;

    if (result != CUDA_SUCCESS)
        return result;
    for (addr = ptr; addr < ptr + size; addr += FDCPU_GRANULE)
        if (fdcpu_alloc_find(addr, &alloc))
            return CUDA_ERROR_INVALID_VALUE; /* still mapped */
    pthread_rwlock_wrlock(&fdcpu.mem);
    for (at = &reservations; *at != NULL; at = &(*at)->next) {
        if ((*at)->lo == ptr && (*at)->hi == ptr + size) {
            r = *at;
            *at = r->next;
            fdcpu_addr_unreserve(ptr, size);
            break;
        }
    }
    pthread_rwlock_unlock(&fdcpu.mem);
    free(r);
    return r == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

bool
fdcpu_vmm_reserved(uint64_t lo, uint64_t hi)
{
    struct reservation *r;

    pthread_rwlock_rdlock(&fdcpu.mem);
    for (r = reservations; r != NULL; r = r->next)
        if (lo >= r->lo && hi <= r->hi)
            break;
    pthread_rwlock_unlock(&fdcpu.mem);
    return r != NULL;
}

/* ---- memory ---- */

static CUresult
check_prop(const CUmemAllocationProp *prop, struct fdcpu_device **device)
{
    if (prop == NULL || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
        return CUDA_ERROR_INVALID_VALUE;
    if (((int)prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) !=
        0)
        return CUDA_ERROR_NOT_SUPPORTED;
    switch ((int)prop->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
        *device = fdcpu_device_get(prop->location.id);
        return *device == NULL ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
        *device = NULL;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

FDC_EXPORT CUresult
cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                              CUmemAllocationGranularity_flags option)
{
    struct fdcpu_device *device;
    CUresult result = enter();

    (void)option;
    if (result != CUDA_SUCCESS)
        return result;
    if (granularity == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_prop(prop, &device);
    if (result == CUDA_SUCCESS)
        *granularity = FDCPU_GRANULE;
    return result;
}

static CUresult
make(int fd, size_t size, struct fdcpu_device *device, const CUmemAllocationProp *prop,
     CUmemGenericAllocationHandle *handle)
{
    struct fdcpu_memory *memory = calloc(1, sizeof(*memory));

    if (memory == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memory->fd = fd;
    memory->size = size;
    memory->device = device;
    memory->prop = *prop;
    memory->refs = memory->names = 1;
    memory->handle = fdcpu_handle_new(FDCPU_H_MEMORY, memory);
    if (memory->handle == 0) {
        free(memory);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *handle = memory->handle;
    return CUDA_SUCCESS;
}

/* Fills new memory with what might have been there before. Written, not stored: the pages
 * come without a fault each. */
static bool
dirty(int fd, size_t size)
{
    char bytes[1 << 16];
    ssize_t n;

    memset(bytes, FDCPU_DIRT, sizeof(bytes));
    for (size_t at = 0; at < size; at += (size_t)n) {
        n = size - at < sizeof(bytes) ? (ssize_t)(size - at) : (ssize_t)sizeof(bytes);
        n = pwrite(fd, bytes, (size_t)n, (off_t)at);
        if (n <= 0)
            return false;
    }
    return true;
}

FDC_EXPORT CUresult
cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size,
            const CUmemAllocationProp *prop, unsigned long long flags)
{
    struct fdcpu_device *device;
    CUresult result = enter();
    int fd;

    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || size == 0 || !granular(size) || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = check_prop(prop, &device);
    if (result != CUDA_SUCCESS)
        return result;
    if (device != NULL && !fdcpu_charge(device, size))
        return CUDA_ERROR_OUT_OF_MEMORY;
    fd = memfd_create("fdcpu", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
        goto err;
    if ((fdcpu.opt.strict & FDCPU_STRICT_DIRTY) != 0 && !dirty(fd, size))
        goto err;
    result = make(fd, size, device, prop, handle);
    if (result == CUDA_SUCCESS)
        return result;
err:
    if (fd >= 0)
        close(fd);
    if (device != NULL)
        fdcpu_uncharge(device, size);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* Gives up one reference: of the handle (name) or of a mapping. */
static void
put(struct fdcpu_memory *memory, bool name)
{
    bool last, nameless = false;

    pthread_rwlock_wrlock(&fdcpu.mem);
    if (name)
        nameless = --memory->names == 0;
    last = --memory->refs == 0;
    pthread_rwlock_unlock(&fdcpu.mem);
    if (nameless)
        fdcpu_handle_drop(FDCPU_H_MEMORY, memory->handle);
    if (last) {
        close(memory->fd);
        if (memory->device != NULL)
            fdcpu_uncharge(memory->device, memory->size);
        free(memory);
    }
}

FDC_EXPORT CUresult
cuMemRelease(CUmemGenericAllocationHandle handle)
{
    struct fdcpu_memory *memory;
    CUresult result = enter();

    if (result != CUDA_SUCCESS)
        return result;
    memory = FDCPU_GET(FDCPU_H_MEMORY, handle);
    if (memory == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    put(memory, true);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
    struct fdcpu_memory *memory;
    struct fdcpu_alloc alloc;
    CUresult result = enter();

    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL || !fdcpu_alloc_find((uint64_t)addr, &alloc) ||
        alloc.kind != FDCPU_A_MAPPED)
        return CUDA_ERROR_INVALID_VALUE;
    memory = alloc.memory;
    pthread_rwlock_wrlock(&fdcpu.mem);
    memory->refs++;
    if (memory->names++ == 0)
        memory->handle = fdcpu_handle_new(FDCPU_H_MEMORY, memory);
    pthread_rwlock_unlock(&fdcpu.mem);
    *handle = memory->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop,
                                       CUmemGenericAllocationHandle handle)
{
    struct fdcpu_memory *memory;
    CUresult result = enter();

    if (result != CUDA_SUCCESS)
        return result;
    memory = FDCPU_GET(FDCPU_H_MEMORY, handle);
    if (prop == NULL || memory == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *prop = memory->prop;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                             CUmemAllocationHandleType handleType,
                             unsigned long long flags)
{
    struct fdcpu_memory *memory;
    CUresult result = enter();
    int fd;

    if (result != CUDA_SUCCESS)
        return result;
    memory = FDCPU_GET(FDCPU_H_MEMORY, handle);
    if (shareableHandle == NULL || memory == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ||
        ((int)memory->prop.requestedHandleTypes & handleType) == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    fd = fcntl(memory->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return CUDA_ERROR_OPERATING_SYSTEM;
    *(int *)shareableHandle = fd;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle,
                               CUmemAllocationHandleType shHandleType)
{
    CUmemAllocationProp prop = {
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE},
    };
    CUresult result = enter();
    off_t size;
    int fd;

    if (result != CUDA_SUCCESS)
        return result;
    if (handle == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_NOT_SUPPORTED;
    fd = fcntl((int)(intptr_t)osHandle, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return CUDA_ERROR_INVALID_VALUE;
    size = lseek(fd, 0, SEEK_END);
    if (size <= 0 || !granular((uint64_t)size)) {
        close(fd);
        return CUDA_ERROR_INVALID_VALUE;
    }
    /* Somebody else's quota carries it. */
    result = make(fd, (size_t)size, NULL, &prop, handle);
    if (result != CUDA_SUCCESS)
        close(fd);
    return result;
}

/* ---- mappings ---- */

FDC_EXPORT CUresult
cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
         CUmemGenericAllocationHandle handle, unsigned long long flags)
{
    struct fdcpu_alloc alloc = {
        .lo = ptr,
        .hi = ptr + size,
        .kind = FDCPU_A_MAPPED,
    };
    struct fdcpu_memory *memory;
    CUresult result = enter();

    if (result != CUDA_SUCCESS)
        return result;
    memory = FDCPU_GET(FDCPU_H_MEMORY, handle);
    if (memory == NULL || size == 0 || !granular(ptr) || !granular(size) ||
        offset != 0 || size > memory->size || flags != 0 ||
        !fdcpu_vmm_reserved(ptr, ptr + size))
        return CUDA_ERROR_INVALID_VALUE;
    alloc.memory = memory;
    alloc.device = memory->device != NULL ? memory->device : &fdcpu.device[0];
    alloc.ctx = alloc.device->primary;
    if (fdcpu_alloc_add(&alloc) != 0)
        return CUDA_ERROR_INVALID_VALUE; /* something is mapped there */
    if (mmap((void *)ptr, size, PROT_NONE, MAP_SHARED | MAP_FIXED, memory->fd, 0) ==
        MAP_FAILED) {
        fdcpu_alloc_remove(ptr, &alloc);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_rwlock_wrlock(&fdcpu.mem);
    memory->refs++;
    pthread_rwlock_unlock(&fdcpu.mem);
    return CUDA_SUCCESS;
}

void
fdcpu_vmm_free(const struct fdcpu_alloc *alloc)
{
    mmap((void *)alloc->lo, alloc->hi - alloc->lo, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    put(alloc->memory, false);
}

/* Whether [lo, hi) is made of whole mappings. */
static bool
whole_mappings(uint64_t lo, uint64_t hi)
{
    struct fdcpu_alloc alloc;

    while (lo < hi) {
        if (!fdcpu_alloc_find(lo, &alloc) || alloc.kind != FDCPU_A_MAPPED ||
            alloc.lo != lo || alloc.hi > hi)
            return false;
        lo = alloc.hi;
    }
    return true;
}

FDC_EXPORT CUresult
cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    struct fdcpu_fault fault = {.result = CUDA_ERROR_ILLEGAL_ADDRESS};
    struct fdcpu_alloc alloc;
    struct fdcpu_ctx *user;
    CUresult result = enter();
    uint64_t lo;
    int i;

    if (result != CUDA_SUCCESS)
        return result;
    if (size == 0 || ptr + size < ptr || !whole_mappings(ptr, ptr + size))
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < fdcpu.ndevices; i++) {
        if ((fdcpu.opt.strict & FDCPU_STRICT_UNMAP) != 0 &&
            fdcpu_streams_use(&fdcpu.device[i], ptr, ptr + size, &user)) {
            snprintf(fault.report, sizeof(fault.report),
                     "cuMemUnmap of 0x%llx, %zu bytes:"
                     " work that uses it is not finished",
                     (unsigned long long)ptr, size);
            fdcpu_ctx_fault(user, &fault);
        }
        fdcpu_device_idle(&fdcpu.device[i]);
    }
    for (lo = ptr; lo < ptr + size; lo = alloc.hi) {
        if (fdcpu_alloc_remove(lo, &alloc) != 0)
            return CUDA_ERROR_INVALID_VALUE;
        fdcpu_vmm_free(&alloc);
    }
    return CUDA_SUCCESS;
}

struct access {
    int flags[FDCPU_MAX_DEVICES]; /* -1: as it is */
    int err;
};

/* Sets access of one mapping; under mem. The host's page table has the widest of it. */
static void
set_access(struct fdcpu_alloc *alloc, void *user)
{
    struct access *access = user;
    struct fdcpu_range range;
    unsigned int widest;
    int prot;

    for (size_t i = 0; i < FDC_COUNT(access->flags); i++)
        if (access->flags[i] >= 0)
            alloc->access[i] = (uint8_t)access->flags[i];
    widest = fdcpu_alloc_widest(alloc);
    prot = widest == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? PROT_READ | PROT_WRITE
           : widest == CU_MEM_ACCESS_FLAGS_PROT_READ    ? PROT_READ
                                                        : PROT_NONE;
    if (alloc->announced)
        fdcpu_mem_del(alloc->lo);
    alloc->announced = false;
    if (mprotect((void *)alloc->lo, alloc->hi - alloc->lo, prot) != 0) {
        access->err = -errno;
        return;
    }
    if (prot != PROT_NONE) {
        range = fdcpu_alloc_range(alloc);
        access->err = fdcpu_mem_add(&range);
        alloc->announced = access->err == 0;
    }
}

FDC_EXPORT CUresult
cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    struct fdcpu_alloc alloc;
    struct access access = {0};
    CUresult result = enter();
    uint64_t lo;
    size_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (desc == NULL || count == 0 || size == 0 || ptr + size < ptr ||
        !whole_mappings(ptr, ptr + size))
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < FDC_COUNT(access.flags); i++)
        access.flags[i] = -1;
    for (i = 0; i < count; i++) {
        if (desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE &&
            desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
            desc[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            return CUDA_ERROR_INVALID_VALUE;
        if (desc[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
            fdcpu_device_get(desc[i].location.id) == NULL)
            return CUDA_ERROR_INVALID_DEVICE;
        if (desc[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE)
            access.flags[desc[i].location.id] = (int)desc[i].flags;
    }
    for (lo = ptr; lo < ptr + size; lo = alloc.hi) {
        if (!fdcpu_alloc_find(lo, &alloc))
            return CUDA_ERROR_INVALID_VALUE;
        fdcpu_alloc_change(lo, set_access, &access);
        if (access.err != 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location,
               CUdeviceptr ptr)
{
    struct fdcpu_alloc alloc;
    CUresult result = enter();

    if (result != CUDA_SUCCESS)
        return result;
    if (flags == NULL || location == NULL || !fdcpu_alloc_find(ptr, &alloc))
        return CUDA_ERROR_INVALID_VALUE;
    if (location->type == CU_MEM_LOCATION_TYPE_DEVICE &&
        fdcpu_device_get(location->id) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    *flags = alloc.kind != FDCPU_A_MAPPED ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
             : location->type == CU_MEM_LOCATION_TYPE_DEVICE
                 ? alloc.access[location->id]
                 : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
}
