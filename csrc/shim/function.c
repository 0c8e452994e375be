/* Functions and kernels: what is known of them from the load, and their attributes. */
#include <string.h>

#include "code.h"
#include "cuda_calls.h"

/* ---- attributes ---- */

static CUresult
func_get(const struct fdc_func *func, int attribute, int *value)
{
    if (attribute < 0 || attribute >= CU_FUNC_ATTRIBUTE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    *value = attribute < FDC_FUNC_ATTRIBUTES
                 ? fdc_load_relaxed(&func->attribute[attribute])
                 : 0;
    return CUDA_SUCCESS;
}

/* The value, and which sessions know it. */
static void
remember(struct fdc_func *func, int attribute, int value, unsigned told)
{
    if (func == NULL)
        return;
    if (fdc_load_relaxed(&func->attribute[attribute]) == value)
        told |= fdc_load_relaxed(&func->told[attribute]);
    fdc_store_relaxed(&func->told[attribute], (uint16_t)told);
    fdc_store_relaxed(&func->attribute[attribute], value);
}

/* Whether a driver may refuse a value that is within its range. */
static bool
may_fail(const struct fdc_device *device, const struct fdc_func *func, int attribute,
         int value)
{
    const int32_t *limit = device->snapshot->attribute;

    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        return (int64_t)value + func->attribute[CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES] >
               limit[CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN];
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        return false;
    default:
        return true;
    }
}

static CUresult
func_set(struct fdc_func *func, int attribute, int value)
{
    struct fdc_req_cuFuncSetAttribute *req;
    struct fdc_code *code = func->code;
    struct fdc_wire_func wire;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;
    unsigned bit;

    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        if (value < 0)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        if (value < -1 || value > 100)
            return CUDA_ERROR_INVALID_VALUE;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    result = fdc_call_open(&call, FDC_ID_cuFuncSetAttribute, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    /* The same again says nothing new, and libraries say it at every launch. */
    bit = 1u << call.session->number;
    if (fdc_load_relaxed(&func->attribute[attribute]) == value &&
        (fdc_load_relaxed(&func->told[attribute]) & bit) != 0)
        return CUDA_SUCCESS;
    result = fdc_func_wire(&call, func, &wire);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hfunc = wire;
    req->attrib = (uint32_t)attribute;
    req->value = value;
    result = may_fail(call.context->device, func, attribute, value)
                 ? fdc_call_wait(&call, &reply, sizeof(reply))
                 : fdc_call_send(&call);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&code->lock);
    remember(code->function[func->index], attribute, value, bit);
    remember(code->kernels[func->index], attribute, value, bit);
    pthread_mutex_unlock(&code->lock);
    return CUDA_SUCCESS;
}

static CUresult
find(const void *handle, struct fdc_func **func)
{
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    *func = fdc_func_find(handle);
    return *func != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

FDC_EXPORT CUresult
cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result != CUDA_SUCCESS)
        return result;
    return pi == NULL ? CUDA_ERROR_INVALID_VALUE : func_get(func, (int)attrib, pi);
}

FDC_EXPORT CUresult
cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel,
                     CUdevice dev)
{
    struct fdc_func *func;
    CUresult result = find(kernel, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_device(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    return pi == NULL ? CUDA_ERROR_INVALID_VALUE : func_get(func, (int)attrib, pi);
}

FDC_EXPORT CUresult
cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    return result != CUDA_SUCCESS ? result : func_set(func, (int)attrib, value);
}

FDC_EXPORT CUresult
cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel,
                     CUdevice dev)
{
    struct fdc_func *func;
    CUresult result = find(kernel, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (fdc_device(dev) == NULL)
        return CUDA_ERROR_INVALID_DEVICE;
    return func_set(func, (int)attrib, val);
}

/* A preference that a device is free not to follow. */
FDC_EXPORT CUresult
cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result == CUDA_SUCCESS && (unsigned int)config > CU_FUNC_CACHE_PREFER_EQUAL)
        result = CUDA_ERROR_INVALID_VALUE;
    return result;
}

FDC_EXPORT CUresult
cuKernelSetCacheConfig(CUkernel kernel, CUfunc_cache config, CUdevice dev)
{
    CUresult result = cuFuncSetCacheConfig((CUfunction)kernel, config);

    if (result == CUDA_SUCCESS && fdc_device(dev) == NULL)
        result = CUDA_ERROR_INVALID_DEVICE;
    return result;
}

FDC_EXPORT CUresult
cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result == CUDA_SUCCESS &&
        (unsigned int)config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE)
        result = CUDA_ERROR_INVALID_VALUE;
    return result;
}

/* ---- what it is ---- */

FDC_EXPORT CUresult
cuFuncGetName(const char **name, CUfunction hfunc)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *name = func->name;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetName(const char **name, CUkernel hfunc)
{
    return cuFuncGetName(name, (CUfunction)hfunc);
}

FDC_EXPORT CUresult
cuFuncGetParamCount(CUfunction hfunc, size_t *paramCount)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (paramCount == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *paramCount = func->kernel->param_count;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetParamCount(CUkernel kernel, size_t *paramCount)
{
    return cuFuncGetParamCount((CUfunction)kernel, paramCount);
}

FDC_EXPORT CUresult
cuFuncGetParamInfo(CUfunction hfunc, size_t paramIndex, size_t *paramOffset,
                   size_t *paramSize)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (paramOffset == NULL || paramIndex >= func->kernel->param_count)
        return CUDA_ERROR_INVALID_VALUE;
    *paramOffset = func->params[paramIndex].offset;
    if (paramSize != NULL)
        *paramSize = func->params[paramIndex].size;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset,
                     size_t *paramSize)
{
    return cuFuncGetParamInfo((CUfunction)kernel, paramIndex, paramOffset, paramSize);
}

FDC_EXPORT CUresult
cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    struct fdc_func *func;
    CUresult result = find(function, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (state == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuFuncLoad(CUfunction function)
{
    struct fdc_func *func;

    return find(function, &func);
}

FDC_EXPORT CUresult
cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
    struct fdc_func *func;
    CUresult result = find(hfunc, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (hmod == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (func->code->library)
        return cuLibraryGetModule(hmod, (CUlibrary)(uintptr_t)func->code->wire);
    *hmod = (CUmodule)(uintptr_t)func->code->wire;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
    struct fdc_func *func;
    CUresult result = find(kernel, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (pLib == NULL || !func->code->library)
        return CUDA_ERROR_INVALID_VALUE;
    *pLib = (CUlibrary)(uintptr_t)func->code->wire;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
    struct fdc_func *func, *made;
    CUresult result = find(kernel, &func);

    if (result != CUDA_SUCCESS)
        return result;
    if (pFunc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (fdc_context_current() == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = fdc_code_func(func->object.session, func->code, FDC_KIND_FUNCTION,
                           func->index, &made);
    if (result == CUDA_SUCCESS)
        *pFunc = (CUfunction)(uintptr_t)made->object.handle;
    return result;
}
