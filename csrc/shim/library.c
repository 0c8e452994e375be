/* Libraries: code that belongs to no context, and its kernels. */
#include <stdlib.h>
#include <string.h>

#include "code.h"
#include "memory.h"
#include "cuda_calls.h"

/* A library may be loaded before any context is current: then device 0's does the work. It
 * may be in a capture: a kernel's first launch there loads its library.
 */
static CUresult
library_open(struct fdc_call *call)
{
    CUresult result;

    result = fdc_call_open(call, FDC_ID_fdcLibraryLoad, FDC_NEEDS_INIT);
    if (result != CUDA_SUCCESS)
        return result;
    if (call->context == NULL) {
        struct fdc_device *device = fdc_device(0);

        if (device == NULL)
            return CUDA_ERROR_NO_DEVICE;
        call->context = device->primary;
        call->session = device->session;
    }
    return fdc_context_activate(call->context);
}

static CUresult
library_load(struct fdc_call *call, CUlibrary *library, const struct fdc_image *image,
             CUjit_option *options, void **values, unsigned int count,
             CUlibraryOption *libraryOptions, unsigned int libraryCount)
{
    struct fdc_unit *unit;
    struct fdc_jit jit;
    CUresult result;

    if (libraryCount != 0 && libraryOptions == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < libraryCount; i++)
        if ((unsigned int)libraryOptions[i] >= CU_LIBRARY_NUM_OPTIONS)
            return CUDA_ERROR_INVALID_VALUE;
    /* They speak of this process's memory; the worker has a copy of its own. */
    result = fdc_jit_read(count, options, values, &jit);
    if (result == CUDA_SUCCESS)
        result = fdc_code_load(call, image, true, &jit, &unit);
    if (result == CUDA_SUCCESS)
        *library = (CUlibrary)(uintptr_t)unit->object.handle;
    return result;
}

FDC_EXPORT CUresult
cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                  void **jitOptionsValues, unsigned int numJitOptions,
                  CUlibraryOption *libraryOptions, void **libraryOptionValues,
                  unsigned int numLibraryOptions)
{
    struct fdc_image found;
    struct fdc_call call;
    CUresult result;

    (void)libraryOptionValues;
    result = library_open(&call);
    if (result != CUDA_SUCCESS)
        return result;
    if (library == NULL || code == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_image_look(code, &found);
    if (result != CUDA_SUCCESS)
        return result;
    result = library_load(&call, library, &found, jitOptions, jitOptionsValues,
                          numJitOptions, libraryOptions, numLibraryOptions);
    free(found.owned);
    return result;
}

FDC_EXPORT CUresult
cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                      CUjit_option *jitOptions, void **jitOptionsValues,
                      unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                      void **libraryOptionValues, unsigned int numLibraryOptions)
{
    struct fdc_image found;
    struct fdc_call call;
    CUresult result;

    (void)libraryOptionValues;
    result = library_open(&call);
    if (result != CUDA_SUCCESS)
        return result;
    if (library == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_image_read(fileName, &found);
    if (result != CUDA_SUCCESS)
        return result;
    result = library_load(&call, library, &found, jitOptions, jitOptionsValues,
                          numJitOptions, libraryOptions, numLibraryOptions);
    free(found.owned);
    return result;
}

FDC_EXPORT CUresult
cuLibraryUnload(CUlibrary library)
{
    struct fdc_unit *unit;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuLibraryUnload,
                           FDC_NEEDS_INIT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    unit = fdc_object_find(FDC_KIND_LIBRARY, library);
    if (unit == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = fdc_call_join(&call, &unit->object);
    return result == CUDA_SUCCESS ? fdc_code_unload(&call, unit) : result;
}

FDC_EXPORT CUresult
cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
    return fdc_unit_named(FDC_KIND_LIBRARY, library, FDC_KIND_KERNEL, name,
                          (void **)pKernel);
}

FDC_EXPORT CUresult
cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib)
{
    return fdc_unit_count(FDC_KIND_LIBRARY, lib, count);
}

FDC_EXPORT CUresult
cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
    return fdc_unit_each(FDC_KIND_LIBRARY, lib, FDC_KIND_KERNEL, (void **)kernels,
                         numKernels);
}

/* The module of a library in the current context: another handle of the same code. */
FDC_EXPORT CUresult
cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
    struct fdc_unit *unit, *module;
    CUresult result;

    result = fdc_unit_find(FDC_KIND_LIBRARY, library, &unit);
    if (result != CUDA_SUCCESS)
        return result;
    if (pMod == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_context_current() == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&unit->code->lock);
    module = unit->code->module;
    if (module == NULL) {
        module = fdc_object_new(unit->object.session, FDC_KIND_MODULE, sizeof(*module),
                                NULL);
        if (module != NULL)
            module->code = unit->code;
        unit->code->module = module;
    }
    pthread_mutex_unlock(&unit->code->lock);
    if (module == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *pMod = (CUmodule)(uintptr_t)module->object.handle;
    return CUDA_SUCCESS;
}

static CUresult
variable(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name,
         bool managed)
{
    struct fdc_unit *unit;
    struct fdc_call call;
    CUdeviceptr address;
    uint32_t flags;
    CUresult result;
    size_t size;

    if (managed) {
        result = library_open(&call);
    } else {
        result = fdc_call_open(&call, FDC_ID_fdcGlobal, FDC_NEEDS_CONTEXT);
    }
    if (result != CUDA_SUCCESS)
        return result;
    unit = fdc_object_find(FDC_KIND_LIBRARY, library);
    if (unit == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_code_global(&call, unit->code, name, &address, &size, &flags);
    if (result != CUDA_SUCCESS)
        return result;
    if (managed && !(flags & 1))
        return CUDA_ERROR_NOT_FOUND;
    if (dptr != NULL)
        *dptr = address;
    if (bytes != NULL)
        *bytes = size;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                   const char *name)
{
    return variable(dptr, bytes, library, name, false);
}

FDC_EXPORT CUresult
cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                    const char *name)
{
    return variable(dptr, bytes, library, name, true);
}
