/*
 * Libraries: code that belongs to no context, and its kernels. Each context that uses a
 * library gets an instance of it, a module, at first use.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

/* The context that an instance is made for when none is asked for. */
static struct fdcpu_ctx *
some_context(void)
{
    struct fdcpu_ctx *ctx = fdcpu_ctx_current();

    return ctx != NULL && atomic_load(&ctx->active) ? ctx : fdcpu.device[0].primary;
}

static CUresult
make_kernels(struct fdcpu_library *library, const struct fdcpu_module_obj *module)
{
    uint32_t i;

    library->kernels = calloc(module->nfunctions + 1, sizeof(*library->kernels));
    if (library->kernels == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (i = 0; i < module->nfunctions; i++) {
        struct fdcpu_kernel *k = calloc(1, sizeof(*k));

        if (k == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        library->kernels[library->nkernels++] = k;
        memset(k->set, 0xFF, sizeof(k->set));
        k->library = library;
        k->index = i;
        k->name = strdup(module->functions[i]->name);
        k->handle = fdcpu_handle_new(FDCPU_H_KERNEL, k);
        if (k->name == NULL || k->handle == 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

/* Gives a new instance what cuKernelSetAttribute said before it existed. */
static void
apply_settings(const struct fdcpu_library *library, struct fdcpu_module_obj *module)
{
    uint32_t i;
    int a;

    for (i = 0; i < library->nkernels; i++)
        for (a = 0; a < 16; a++)
            if (library->kernels[i]->set[module->ctx->device->ordinal][a] != -1)
                fdcpu_function_set(
                    module->functions[i], a,
                    library->kernels[i]->set[module->ctx->device->ordinal][a]);
}

/* Under library->loading. */
static CUresult
instance(struct fdcpu_library *library, struct fdcpu_ctx *ctx,
         struct fdcpu_jit_log *log, struct fdcpu_module_obj **module)
{
    struct fdcpu_module_obj *m;
    CUresult result;

    for (m = library->instances; m != NULL; m = m->next) {
        if (m->ctx == ctx) {
            *module = m;
            return CUDA_SUCCESS;
        }
    }
    result = fdcpu_module_make(ctx, &library->image, log, &m);
    if (result != CUDA_SUCCESS)
        return result;
    m->library = library;
    if (library->kernels == NULL)
        result = make_kernels(library, m);
    if (result != CUDA_SUCCESS) {
        fdcpu_module_free(m);
        return result;
    }
    apply_settings(library, m);
    /* pairs with the acquire in find_instance() */
    m->next = library->instances;
    __atomic_store_n(&library->instances, m, __ATOMIC_RELEASE);
    *module = m;
    return CUDA_SUCCESS;
}

/* The instance of a context (NULL: any), without a lock; NULL: not made yet. */
static struct fdcpu_module_obj *
find_instance(struct fdcpu_library *library, const struct fdcpu_ctx *ctx)
{
    struct fdcpu_module_obj *m = fdc_load_acquire(&library->instances);

    while (m != NULL && ctx != NULL && m->ctx != ctx)
        m = m->next;
    return m;
}

static CUresult
library_instance(struct fdcpu_library *library, struct fdcpu_ctx *ctx,
                 struct fdcpu_module_obj **module)
{
    CUresult result;

    *module = find_instance(library, ctx);
    if (*module != NULL)
        return CUDA_SUCCESS;
    if (ctx == NULL)
        ctx = some_context();
    pthread_mutex_lock(&library->loading);
    result = instance(library, ctx, NULL, module);
    pthread_mutex_unlock(&library->loading);
    return result;
}

CUresult
fdcpu_function_get(void *handle, struct fdcpu_ctx *ctx,
                   struct fdcpu_function **function)
{
    struct fdcpu_kernel *kernel;
    struct fdcpu_module_obj *module;
    CUresult result;

    *function = FDCPU_GET(FDCPU_H_FUNCTION, handle);
    if (*function != NULL)
        return CUDA_SUCCESS;
    kernel = FDCPU_GET(FDCPU_H_KERNEL, handle);
    if (kernel == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = library_instance(kernel->library, ctx, &module);
    if (result == CUDA_SUCCESS)
        *function = module->functions[kernel->index];
    return result;
}

/* ---- life ---- */

static void
library_free(struct fdcpu_library *library)
{
    struct fdcpu_module_obj *m;
    uint32_t i;

    for (i = 0; i < library->nkernels; i++) {
        if (library->kernels[i]->handle != 0)
            fdcpu_handle_drop(FDCPU_H_KERNEL, library->kernels[i]->handle);
        free(library->kernels[i]->name);
        free(library->kernels[i]);
    }
    while ((m = library->instances) != NULL) {
        library->instances = m->next;
        fdcpu_module_free(m);
    }
    free(library->kernels);
    fdcpu_image_close(&library->image);
    pthread_mutex_destroy(&library->loading);
    free(library);
}

static void
drop_instance(void *obj, void *user)
{
    struct fdcpu_library *library = obj;
    struct fdcpu_module_obj **at, *m;

    pthread_mutex_lock(&library->loading);
    for (at = &library->instances; (m = *at) != NULL;) {
        if (m->ctx == user) {
            *at = m->next;
            fdcpu_module_free(m);
        } else {
            at = &m->next;
        }
    }
    pthread_mutex_unlock(&library->loading);
}

void
fdcpu_library_drop_ctx(struct fdcpu_ctx *ctx)
{
    fdcpu_handle_each(FDCPU_H_LIBRARY, drop_instance, ctx);
}

FDC_EXPORT CUresult
cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions,
                  void **jitOptionsValues, unsigned int numJitOptions,
                  CUlibraryOption *libraryOptions, void **libraryOptionValues,
                  unsigned int numLibraryOptions)
{
    struct fdcpu_module_obj *module;
    struct fdcpu_library *made;
    struct fdcpu_jit jit;
    CUresult result = fdcpu_check();

    (void)libraryOptions;
    (void)libraryOptionValues;
    (void)numLibraryOptions;
    if (result != CUDA_SUCCESS)
        return result;
    if (library == NULL || code == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    made = calloc(1, sizeof(*made));
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_init(&made->loading, NULL);
    result = fdcpu_image_open(&made->image, code);
    if (result == CUDA_SUCCESS) {
        /* The first instance is made at once: it says whether the code is any good. */
        fdcpu_jit_read(&jit, numJitOptions, jitOptions, jitOptionsValues);
        pthread_mutex_lock(&made->loading);
        result = instance(made, some_context(), &jit.log, &module);
        pthread_mutex_unlock(&made->loading);
        fdcpu_jit_write(&jit);
    }
    if (result == CUDA_SUCCESS) {
        made->handle = fdcpu_handle_new(FDCPU_H_LIBRARY, made);
        if (made->handle == 0)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS) {
        library_free(made);
        return result;
    }
    *library = (CUlibrary)(uintptr_t)made->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLibraryLoadFromFile(CUlibrary *library, const char *fileName,
                      CUjit_option *jitOptions, void **jitOptionsValues,
                      unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                      void **libraryOptionValues, unsigned int numLibraryOptions)
{
    CUresult result = fdcpu_check();
    size_t size;
    void *bytes;

    if (result != CUDA_SUCCESS)
        return result;
    if (library == NULL || fileName == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    bytes = fdcpu_file_read(fileName, &size, &result);
    if (bytes == NULL)
        return result;
    result =
        cuLibraryLoadData(library, bytes, jitOptions, jitOptionsValues, numJitOptions,
                          libraryOptions, libraryOptionValues, numLibraryOptions);
    free(bytes);
    return result;
}

FDC_EXPORT CUresult
cuLibraryUnload(CUlibrary handle)
{
    struct fdcpu_library *library;
    CUresult result = fdcpu_check();
    int i;

    if (result == CUDA_SUCCESS)
        result = fdcpu_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    library = fdcpu_handle_drop(FDCPU_H_LIBRARY, (uint64_t)(uintptr_t)handle);
    if (library == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    for (i = 0; i < fdcpu.ndevices; i++)
        fdcpu_device_idle(&fdcpu.device[i]);
    library_free(library);
    return CUDA_SUCCESS;
}

/* ---- what is in a library ---- */

static CUresult
enter_library(CUlibrary handle, struct fdcpu_library **library)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *library = FDCPU_GET(FDCPU_H_LIBRARY, handle);
    return *library == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLibraryGetKernel(CUkernel *pKernel, CUlibrary handle, const char *name)
{
    struct fdcpu_library *library;
    CUresult result = enter_library(handle, &library);
    uint32_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (pKernel == NULL || name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < library->nkernels; i++) {
        if (strcmp(library->kernels[i]->name, name) == 0) {
            *pKernel = (CUkernel)(uintptr_t)library->kernels[i]->handle;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_NOT_FOUND;
}

FDC_EXPORT CUresult
cuLibraryGetKernelCount(unsigned int *count, CUlibrary lib)
{
    struct fdcpu_library *library;
    CUresult result = enter_library(lib, &library);

    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = library->nkernels;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLibraryEnumerateKernels(CUkernel *kernels, unsigned int numKernels, CUlibrary lib)
{
    struct fdcpu_library *library;
    CUresult result = enter_library(lib, &library);
    uint32_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (kernels == NULL || numKernels == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < numKernels && i < library->nkernels; i++)
        kernels[i] = (CUkernel)(uintptr_t)library->kernels[i]->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLibraryGetModule(CUmodule *pMod, CUlibrary handle)
{
    struct fdcpu_library *library;
    struct fdcpu_module_obj *module;
    struct fdcpu_ctx *ctx;
    CUresult result = enter_library(handle, &library);

    if (result == CUDA_SUCCESS)
        result = fdcpu_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (pMod == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = library_instance(library, ctx, &module);
    if (result == CUDA_SUCCESS)
        *pMod = (CUmodule)(uintptr_t)module->handle;
    return result;
}

/* A variable of the current context's instance (managed: of any). */
static CUresult
find_var(CUlibrary handle, const char *name, bool managed, CUdeviceptr *dptr,
         size_t *bytes)
{
    struct fdcpu_library *library;
    struct fdcpu_module_obj *module;
    struct fdcpu_ctx *ctx = NULL;
    const struct fdcpu_var *var;
    CUresult result = enter_library(handle, &library);

    if (result == CUDA_SUCCESS && !managed)
        result = fdcpu_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    result = library_instance(library, ctx, &module);
    if (result != CUDA_SUCCESS)
        return result;
    var = fdcpu_module_var(module->engine, name);
    if (var == NULL || (managed && !var->managed))
        return CUDA_ERROR_NOT_FOUND;
    if (var->managed)
        fdcpu_managed_var(var->addr, var->size);
    if (dptr != NULL)
        *dptr = var->addr;
    if (bytes != NULL)
        *bytes = var->size;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                   const char *name)
{
    return find_var(library, name, false, dptr, bytes);
}

FDC_EXPORT CUresult
cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library,
                    const char *name)
{
    return find_var(library, name, true, dptr, bytes);
}

/* ---- kernels ---- */

static CUresult
enter_kernel(CUkernel handle, struct fdcpu_kernel **kernel)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    *kernel = FDCPU_GET(FDCPU_H_KERNEL, handle);
    return *kernel == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetFunction(CUfunction *pFunc, CUkernel handle)
{
    struct fdcpu_kernel *kernel;
    struct fdcpu_function *function;
    struct fdcpu_ctx *ctx;
    CUresult result = enter_kernel(handle, &kernel);

    if (result == CUDA_SUCCESS)
        result = fdcpu_enter(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    if (pFunc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdcpu_function_get(handle, ctx, &function);
    if (result == CUDA_SUCCESS)
        *pFunc = (CUfunction)(uintptr_t)function->handle;
    return result;
}

FDC_EXPORT CUresult
cuKernelGetLibrary(CUlibrary *pLib, CUkernel handle)
{
    struct fdcpu_kernel *kernel;
    CUresult result = enter_kernel(handle, &kernel);

    if (result != CUDA_SUCCESS)
        return result;
    if (pLib == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *pLib = (CUlibrary)(uintptr_t)kernel->library->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetName(const char **name, CUkernel handle)
{
    struct fdcpu_kernel *kernel;
    CUresult result = enter_kernel(handle, &kernel);

    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *name = kernel->name;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel handle,
                     CUdevice dev)
{
    struct fdcpu_kernel *kernel;
    struct fdcpu_function *function;
    CUresult result = enter_kernel(handle, &kernel);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_device_get(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    if (pi == NULL || (unsigned int)attrib >= 16)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdcpu_function_get(handle, NULL, &function);
    if (result == CUDA_SUCCESS)
        result = fdcpu_function_attribute(function, (int)attrib, pi);
    if (result == CUDA_SUCCESS && kernel->set[dev][attrib] != -1)
        *pi = kernel->set[dev][attrib];
    return result;
}

FDC_EXPORT CUresult
cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel handle,
                     CUdevice dev)
{
    struct fdcpu_kernel *kernel;
    struct fdcpu_module_obj *m;
    struct fdcpu_function *function, probe;
    CUresult result = enter_kernel(handle, &kernel);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_device_get(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    result = fdcpu_function_get(handle, NULL, &function);
    if (result != CUDA_SUCCESS)
        return result;
    probe = *function; /* would it be accepted? */
    result = fdcpu_function_set(&probe, (int)attrib, val);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&kernel->library->loading);
    kernel->set[dev][attrib] = val;
    for (m = kernel->library->instances; m != NULL; m = m->next)
        if (m->ctx->device->ordinal == dev)
            fdcpu_function_set(m->functions[kernel->index], (int)attrib, val);
    pthread_mutex_unlock(&kernel->library->loading);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelSetCacheConfig(CUkernel handle, CUfunc_cache config, CUdevice dev)
{
    struct fdcpu_kernel *kernel;
    CUresult result = enter_kernel(handle, &kernel);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdcpu_device_get(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    return (unsigned int)config > 3 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
