/* Modules, their functions and variables, and function attributes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "cpudev.h"

/* ---- options of the just-in-time compiler ---- */

void
fdcpu_jit_read(struct fdcpu_jit *jit, unsigned int n, CUjit_option *options,
               void **values)
{
    unsigned int i;

    memset(jit, 0, sizeof(*jit));
    if (options == NULL || values == NULL)
        return;
    for (i = 0; i < n; i++) {
        switch ((int)options[i]) {
        case CU_JIT_INFO_LOG_BUFFER:
            jit->log.info = values[i];
            break;
        case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
            jit->log.info_size = (uint32_t)(uintptr_t)values[i];
            jit->info_used = &values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER:
            jit->log.error = values[i];
            break;
        case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
            jit->log.error_size = (uint32_t)(uintptr_t)values[i];
            jit->error_used = &values[i];
            break;
        default:
            break; /* advice to a compiler */
        }
    }
    if (jit->log.info == NULL)
        jit->log.info_size = 0;
    if (jit->log.error == NULL)
        jit->log.error_size = 0;
    if (jit->log.info_size > 0)
        jit->log.info[0] = '\0';
    if (jit->log.error_size > 0)
        jit->log.error[0] = '\0';
}

void
fdcpu_jit_write(struct fdcpu_jit *jit)
{
    if (jit->info_used != NULL)
        *jit->info_used = (void *)(uintptr_t)jit->log.info_used;
    if (jit->error_used != NULL)
        *jit->error_used = (void *)(uintptr_t)jit->log.error_used;
}

/* ---- loading ---- */

void *
fdcpu_file_read(const char *path, size_t *size, CUresult *result)
{
    struct stat st;
    FILE *file = fopen(path, "re");
    char *bytes = NULL;

    if (file == NULL) {
        *result =
            errno == ENOENT ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_INVALID_SOURCE;
        return NULL;
    }
    *result = CUDA_ERROR_INVALID_SOURCE;
    if (fstat(fileno(file), &st) == 0 && S_ISREG(st.st_mode)) {
        *size = (size_t)st.st_size;
        bytes = malloc(*size + 1);
        if (bytes != NULL && fread(bytes, 1, *size, file) != *size) {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(file);
    if (bytes != NULL) {
        bytes[*size] = '\0';
        *result = CUDA_SUCCESS;
    }
    return bytes;
}

static CUresult
make_functions(struct fdcpu_module_obj *module)
{
    uint32_t n = fdcpu_module_func_count(module->engine), i;

    module->functions = calloc(n + 1, sizeof(*module->functions));
    if (module->functions == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (i = 0; i < n; i++) {
        struct fdcpu_function *f = calloc(1, sizeof(*f));

        if (f == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        module->functions[module->nfunctions++] = f;
        atomic_store(&f->refs, 1);
        f->module = module;
        f->func = fdcpu_module_func_at(module->engine, i);
        f->name = strdup(fdcpu_func_index(f->func)->name); /* decodes nothing */
        f->stand_in_ns = f->name != NULL ? fdcpu_stand_in_ns(f->name) : 0;
        f->carveout = f->max_dynamic_shared = -1;
        f->handle = fdcpu_handle_new(FDCPU_H_FUNCTION, f);
        if (f->name == NULL || f->handle == 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

CUresult
fdcpu_module_make(struct fdcpu_ctx *ctx, const struct fdcpu_image *image,
                  struct fdcpu_jit_log *log, struct fdcpu_module_obj **out)
{
    struct timespec nap = {0, 50000000};
    struct fdcpu_allocator allocator = fdcpu_allocator_of(ctx);
    struct fdcpu_jit_log own = {0};
    struct fdcpu_module_obj *module;
    char words[512] = "";
    CUresult result;

    if ((fdcpu.opt.strict & FDCPU_STRICT_SLOW) != 0)
        nanosleep(&nap, NULL);
    if (log == NULL || log->error_size == 0) {
        own.error = words;
        own.error_size = sizeof(words);
        if (log != NULL) {
            own.info = log->info;
            own.info_size = log->info_size;
        }
    } else {
        own = *log;
    }
    module = calloc(1, sizeof(*module));
    if (module == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    module->ctx = ctx;
    result = (CUresult)fdcpu_module_load(image->texts, image->ntexts, &allocator, &own,
                                         &module->engine);
    if (log != NULL) {
        log->error_used = own.error == words ? 0 : own.error_used;
        log->info_used = own.info_used;
    }
    if (result != CUDA_SUCCESS) {
        if (own.error != NULL && own.error[0] != '\0')
            fdc_log(FDC_LOG_ERROR, "%s", own.error);
        free(module);
        return result;
    }
    result = make_functions(module);
    if (result == CUDA_SUCCESS) {
        module->handle = fdcpu_handle_new(FDCPU_H_MODULE, module);
        if (module->handle == 0)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result != CUDA_SUCCESS) {
        fdcpu_module_free(module);
        return result;
    }
    *out = module;
    return CUDA_SUCCESS;
}

void
fdcpu_function_unref(struct fdcpu_function *function)
{
    if (atomic_fetch_sub(&function->refs, 1) > 1)
        return;
    free(function->name);
    free(function);
}

void
fdcpu_module_free(struct fdcpu_module_obj *module)
{
    uint32_t i;

    if (module->handle != 0)
        fdcpu_handle_drop(FDCPU_H_MODULE, module->handle);
    for (i = 0; i < module->nfunctions; i++) {
        struct fdcpu_function *f = module->functions[i];

        if (f->handle != 0)
            fdcpu_handle_drop(FDCPU_H_FUNCTION, f->handle);
        /* A graph may still name it, and finds it dead. */
        atomic_store(&f->dead, true);
        fdcpu_function_unref(f);
    }
    free(module->functions);
    fdcpu_module_unload(module->engine);
    free(module);
}

static void
drop_module(void *obj, void *user)
{
    struct fdcpu_module_obj *module = obj;

    if (module->ctx == user && module->library == NULL)
        fdcpu_module_free(module);
}

void
fdcpu_module_drop_ctx(struct fdcpu_ctx *ctx)
{
    fdcpu_handle_each(FDCPU_H_MODULE, drop_module, ctx);
}

FDC_EXPORT CUresult
cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                   CUjit_option *options, void **optionValues)
{
    struct fdcpu_module_obj *made;
    struct fdcpu_image opened;
    struct fdcpu_jit jit;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (module == NULL || image == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdcpu_capture_unsafe();
    if (result == CUDA_SUCCESS)
        result = fdcpu_image_open(&opened, image);
    if (result != CUDA_SUCCESS)
        return result;
    fdcpu_jit_read(&jit, numOptions, options, optionValues);
    result = fdcpu_module_make(ctx, &opened, &jit.log, &made);
    fdcpu_jit_write(&jit);
    fdcpu_image_close(&opened);
    if (result == CUDA_SUCCESS)
        *module = (CUmodule)(uintptr_t)made->handle;
    return result;
}

FDC_EXPORT CUresult
cuModuleLoad(CUmodule *module, const char *fname)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);
    size_t size;
    void *bytes;

    if (result != CUDA_SUCCESS)
        return result;
    if (module == NULL || fname == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    bytes = fdcpu_file_read(fname, &size, &result);
    if (bytes == NULL)
        return result;
    result = cuModuleLoadDataEx(module, bytes, 0, NULL, NULL);
    free(bytes);
    return result;
}

FDC_EXPORT CUresult
cuModuleUnload(CUmodule hmod)
{
    struct fdcpu_module_obj *module;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result == CUDA_SUCCESS)
        result = fdcpu_capture_unsafe();
    if (result != CUDA_SUCCESS)
        return result;
    module = FDCPU_GET(FDCPU_H_MODULE, hmod);
    if (module == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (module->library != NULL)
        return CUDA_ERROR_NOT_PERMITTED;
    fdcpu_device_idle(module->ctx->device);
    fdcpu_module_free(module);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (mode == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = fdcpu.opt.eager ? CU_MODULE_EAGER_LOADING : CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

/* ---- what is in a module ---- */

static CUresult
enter_module(CUmodule hmod, struct fdcpu_module_obj **module)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    *module = FDCPU_GET(FDCPU_H_MODULE, hmod);
    return *module == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    struct fdcpu_module_obj *module;
    CUresult result = enter_module(hmod, &module);
    uint32_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (hfunc == NULL || name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < module->nfunctions; i++) {
        if (strcmp(module->functions[i]->name, name) == 0) {
            *hfunc = (CUfunction)(uintptr_t)module->functions[i]->handle;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_NOT_FOUND;
}

FDC_EXPORT CUresult
cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
    struct fdcpu_module_obj *module;
    CUresult result = enter_module(mod, &module);

    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = module->nfunctions;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions,
                           CUmodule mod)
{
    struct fdcpu_module_obj *module;
    CUresult result = enter_module(mod, &module);
    uint32_t i;

    if (result != CUDA_SUCCESS)
        return result;
    if (functions == NULL || numFunctions == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < numFunctions && i < module->nfunctions; i++)
        functions[i] = (CUfunction)(uintptr_t)module->functions[i]->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
    struct fdcpu_module_obj *module;
    const struct fdcpu_var *var;
    CUresult result = enter_module(hmod, &module);

    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    var = fdcpu_module_var(module->engine, name);
    if (var == NULL)
        return CUDA_ERROR_NOT_FOUND;
    if (var->managed)
        fdcpu_managed_var(var->addr, var->size);
    if (dptr != NULL)
        *dptr = var->addr;
    if (bytes != NULL)
        *bytes = var->size;
    return CUDA_SUCCESS;
}

/* ---- functions ---- */

int
fdcpu_function_dynamic(const struct fdcpu_function *f,
                       const struct fdcpu_func_info *info)
{
    int room = FDCPU_SHARED - (int)info->static_shared;

    return f->max_dynamic_shared >= 0 ? f->max_dynamic_shared : room > 0 ? room : 0;
}

CUresult
fdcpu_function_attribute(const struct fdcpu_function *f, int attribute, int *value)
{
    const struct fdcpu_func_info *info = fdcpu_func_info(f->func);

    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = (int)info->max_threads;
        break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)info->static_shared;
        break;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
        *value = (int)info->const_size;
        break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = (int)info->local_size;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = (int)info->num_regs;
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = info->target;
        break;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
        *value = 0;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = fdcpu_function_dynamic(f, info);
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        *value = f->carveout;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
        *value = f->cluster_required;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        attribute -= CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
        *value = f->cluster[attribute] != 0 ? f->cluster[attribute]
                                            : (int)info->reqnctapercluster[attribute];
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        *value = f->nonportable;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        *value = f->sched_policy;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult
fdcpu_function_set(struct fdcpu_function *f, int attribute, int value)
{
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        if (value < 0 ||
            value > fdcpu_shared_optin() - (int)fdcpu_func_info(f->func)->static_shared)
            return CUDA_ERROR_INVALID_VALUE;
        f->max_dynamic_shared = value;
        break;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        if (value < -1 || value > 100)
            return CUDA_ERROR_INVALID_VALUE;
        f->carveout = value;
        break;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
        if (value < 0)
            return CUDA_ERROR_INVALID_VALUE;
        f->cluster[attribute - CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH] = value;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        f->nonportable = value != 0;
        break;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
        f->sched_policy = value;
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

static CUresult
enter_function(void *handle, struct fdcpu_function **function)
{
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    return fdcpu_function_get(handle, ctx, function);
}

FDC_EXPORT CUresult
cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(hfunc, &f);

    if (result != CUDA_SUCCESS)
        return result;
    if (pi == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    return fdcpu_function_attribute(f, (int)attrib, pi);
}

FDC_EXPORT CUresult
cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(hfunc, &f);

    return result == CUDA_SUCCESS ? fdcpu_function_set(f, (int)attrib, value) : result;
}

FDC_EXPORT CUresult
cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(hfunc, &f);

    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned int)config > 3)
        return CUDA_ERROR_INVALID_VALUE;
    f->cache_config = (int)config;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
    struct fdcpu_function *f;

    (void)config;
    return enter_function(hfunc, &f);
}

FDC_EXPORT CUresult
cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(hfunc, &f);

    if (result != CUDA_SUCCESS)
        return result;
    if (hmod == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *hmod = (CUmodule)(uintptr_t)f->module->handle;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuFuncGetName(const char **name, CUfunction hfunc)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(hfunc, &f);

    if (result != CUDA_SUCCESS)
        return result;
    if (name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *name = f->name;
    return CUDA_SUCCESS;
}

static CUresult
param_info(const struct fdcpu_function *f, size_t index, size_t *offset, size_t *size)
{
    const struct fdcpu_func_info *info = fdcpu_func_index(f->func);

    if (offset == NULL || index >= info->nparams)
        return CUDA_ERROR_INVALID_VALUE;
    *offset = info->params[index].offset;
    if (size != NULL)
        *size = info->params[index].size;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t *paramOffset,
                   size_t *paramSize)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(func, &f);

    return result == CUDA_SUCCESS ? param_info(f, paramIndex, paramOffset, paramSize)
                                  : result;
}

FDC_EXPORT CUresult
cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t *paramOffset,
                     size_t *paramSize)
{
    struct fdcpu_function *f;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    result = fdcpu_function_get(kernel, NULL, &f);
    return result == CUDA_SUCCESS ? param_info(f, paramIndex, paramOffset, paramSize)
                                  : result;
}

FDC_EXPORT CUresult
cuFuncGetParamCount(CUfunction func, size_t *paramCount)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(func, &f);

    if (result != CUDA_SUCCESS)
        return result;
    if (paramCount == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *paramCount = fdcpu_func_index(f->func)->nparams;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuKernelGetParamCount(CUkernel kernel, size_t *paramCount)
{
    struct fdcpu_function *f;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    result = fdcpu_function_get(kernel, NULL, &f);
    if (result != CUDA_SUCCESS)
        return result;
    if (paramCount == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *paramCount = fdcpu_func_index(f->func)->nparams;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
    struct fdcpu_function *f;
    CUresult result = enter_function(function, &f);

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
    struct fdcpu_function *f;

    return enter_function(function, &f);
}
