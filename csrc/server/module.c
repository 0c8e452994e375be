/*
 * Code. An image that has come (image.c) is loaded on a helper thread. The answer carries a
 * table of its kernels with their parameters and attributes (fdc/table.h), so the client
 * asks nothing more about them, and on the wire a kernel is (code handle, index).
 */
#include "server/image.h"
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_BYTES 16384
#define PARAMS_MAX 4096                 /* parameters of one kernel */
#define KERNELS_MAX (1u << 20)

/* ---- loaded code ---- */

struct fdc_code {
    pthread_mutex_t lock;
    struct fdc_serve *serve;
    bool library;
    void *value;                        /* CUmodule or CUlibrary */
    uint32_t kernels;
    void **kernel;                      /* CUfunction or CUkernel, in the table's order */
    uint32_t *param_bytes;
    CUfunction *function;               /* library: of the context below */
    CUcontext context;
    uint32_t epoch;                     /* that context's ctx->opened */
};

void
fdc_code_free(struct fdc_code *code)
{
    if (code == NULL)
        return;
    pthread_mutex_destroy(&code->lock);
    free(code->kernel);
    free(code->param_bytes);
    free(code->function);
    free(code);
}

static struct fdc_code *
code_find(struct fdc_serve *serve, uint64_t handle)
{
    int kind = (int)FDC_HANDLE_KIND(handle);
    struct fdc_slot *slot;

    if (kind != FDC_KIND_MODULE && kind != FDC_KIND_LIBRARY)
        return NULL;
    slot = fdc_slot_find(serve, kind, handle);
    return slot != NULL ? fdc_slot_aux(slot) : NULL;
}

/* A library's kernel as a function of the current context, remembered for one context. */
static CUresult
library_function(struct fdc_code *code, uint32_t index, CUfunction *value)
{
    struct fdc_ctx *ctx = fdc_context_here();
    CUresult result = CUDA_SUCCESS;

    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&code->lock);
    if (code->context != ctx->value || code->epoch != ctx->opened) {
        memset(code->function, 0, code->kernels * sizeof(*code->function));
        code->context = ctx->value;
        code->epoch = ctx->opened;
    }
    if (code->function[index] == NULL) {
        result = code->serve->driver->cuKernelGetFunction(&code->function[index],
                                                          code->kernel[index]);
        (void)fdc_memory_look(code->serve, ctx->device, true); /* it may load only now */
    }
    *value = code->function[index];
    pthread_mutex_unlock(&code->lock);
    return result;
}

CUresult
fdc_code_kernel(struct fdc_serve *serve, struct fdc_wire_func func, CUfunction *value,
                uint32_t *param_bytes)
{
    struct fdc_code *code = code_find(serve, func.code);

    if (code == NULL || func.index >= code->kernels)
        return CUDA_ERROR_INVALID_HANDLE;
    if (param_bytes != NULL)
        *param_bytes = code->param_bytes[func.index];
    if (code->library)
        return library_function(code, func.index, value);
    *value = code->kernel[func.index];
    return CUDA_SUCCESS;
}

static CUresult
param_info(const struct fdc_driver *driver, struct fdc_code *code, void *kernel, size_t i,
           size_t *offset, size_t *size)
{
    if (code->library)
        return FDC_HAS(driver, cuKernelGetParamInfo)
                   ? driver->cuKernelGetParamInfo(kernel, i, offset, size)
                   : CUDA_ERROR_NOT_SUPPORTED;
    return FDC_HAS(driver, cuFuncGetParamInfo)
               ? driver->cuFuncGetParamInfo(kernel, i, offset, size)
               : CUDA_ERROR_NOT_SUPPORTED;
}

/* Which of the code's kernels it is; code->kernels: none. */
static uint32_t
kernel_index(struct fdc_code *code, CUfunction function, CUkernel kernel)
{
    CUfunction own = NULL;

    for (uint32_t i = 0; i < code->kernels; i++) {
        if (!code->library) {
            if (code->kernel[i] == (void *)function)
                return i;
            continue;
        }
        if (code->kernel[i] == (void *)kernel || code->kernel[i] == (void *)function)
            return i;
        if (function != NULL &&
            library_function(code, i, &own) == CUDA_SUCCESS && own == function)
            return i;
    }
    return code->kernels;
}

/* Where a kernel's parameters lie. */
static CUresult
params_read(struct fdc_serve *serve, struct fdc_code *code, struct fdc_code_row *row)
{
    size_t offset, size, room = 0;

    row->param_bytes = code->param_bytes[row->func.index];
    row->param_count = 0;
    row->param = NULL;
    while (row->param_count < PARAMS_MAX &&
           param_info(serve->driver, code, code->kernel[row->func.index],
                      row->param_count, &offset, &size) == CUDA_SUCCESS) {
        if (row->param_count == room) {
            struct fdc_table_param *grown;

            room = room == 0 ? 16 : 2 * room;
            grown = realloc(row->param, room * sizeof(*grown));
            if (grown == NULL) {
                free(row->param);
                return CUDA_ERROR_OUT_OF_MEMORY;
            }
            row->param = grown;
        }
        if (offset > row->param_bytes || size > row->param_bytes - offset)
            break;
        row->param[row->param_count++] =
            (struct fdc_table_param){ (uint32_t)offset, (uint32_t)size };
    }
    return CUDA_SUCCESS;
}

CUresult
fdc_code_row(struct fdc_serve *serve, CUfunction function, CUkernel kernel,
             struct fdc_code_row *row)
{
    static const int kinds[] = { FDC_KIND_MODULE, FDC_KIND_LIBRARY };

    for (size_t k = 0; k < FDC_COUNT(kinds); k++) {
        struct fdc_slots *slots = &serve->slots[kinds[k]];

        for (uint32_t i = 1; i < fdc_load_relaxed(&slots->high); i++) {
            struct fdc_slot *slot = fdc_slot_at(serve, kinds[k], i);
            struct fdc_code *code = NULL;
            uint32_t index, state = 0;

            if (slot != NULL)
                state = fdc_load_acquire(&slot->state); /* pairs with handles.c */
            if (state != 0)
                code = fdc_slot_aux(slot);
            if (code == NULL)
                continue;
            index = kernel_index(code, function, kernel);
            if (index == code->kernels)
                continue;
            row->func = (struct fdc_wire_func){
                FDC_HANDLE(kinds[k], state & 0xffff, i), index, 0,
            };
            return params_read(serve, code, row);
        }
    }
    return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult
fdc_code_function(struct fdc_serve *serve, struct fdc_wire_func func, CUfunction *value)
{
    return fdc_code_kernel(serve, func, value, NULL);
}

/* ---- the table ---- */

struct table {                          /* grows */
    uint8_t *bytes;
    size_t size, room;
    bool failed;
};

/* Appends, 8-byte aligned; gives the offset. */
static uint32_t
append(struct table *table, const void *bytes, size_t size)
{
    size_t at = table->size, wanted = FDC_ALIGN_UP(at + size, (size_t)8);

    if (wanted > UINT32_MAX / 2)
        table->failed = true;
    if (table->failed)
        return 0;
    if (wanted > table->room) {
        size_t room = 2 * wanted;
        uint8_t *grown = realloc(table->bytes, room);

        if (grown == NULL) {
            table->failed = true;
            return 0;
        }
        table->bytes = grown;
        table->room = room;
    }
    memset(table->bytes + at, 0, wanted - at);
    if (bytes != NULL)
        memcpy(table->bytes + at, bytes, size);
    table->size = wanted;
    return (uint32_t)at;
}

static CUresult
kernel_count(const struct fdc_driver *driver, struct fdc_code *code, unsigned *count)
{
    if (code->library)
        return FDC_HAS(driver, cuLibraryGetKernelCount)
                   ? driver->cuLibraryGetKernelCount(count, code->value)
                   : CUDA_ERROR_NOT_SUPPORTED;
    return FDC_HAS(driver, cuModuleGetFunctionCount)
               ? driver->cuModuleGetFunctionCount(count, code->value)
               : CUDA_ERROR_NOT_SUPPORTED;
}

/* One row: name, parameters, attributes. */
static CUresult
describe(struct fdc_serve *serve, struct fdc_code *code, uint32_t n, CUdevice device,
         struct table *table, struct fdc_table_kernel *row)
{
    const struct fdc_driver *driver = serve->driver;
    void *kernel = code->kernel[n];
    const char *name = NULL;
    size_t offset, size;
    CUresult result;
    int value;

    result = code->library ? driver->cuKernelGetName(&name, kernel)
                           : driver->cuFuncGetName(&name, kernel);
    if (result != CUDA_SUCCESS)
        return result;
    row->name_size = (uint32_t)strlen(name);
    row->name_offset = append(table, name, row->name_size + 1u);
    row->param_offset = (uint32_t)table->size;
    while (row->param_count < PARAMS_MAX &&
           param_info(driver, code, kernel, row->param_count, &offset, &size) ==
               CUDA_SUCCESS) {
        struct fdc_table_param param = { (uint32_t)offset, (uint32_t)size };

        append(table, &param, sizeof(param));
        row->param_count++;
        if (param.offset + param.size > row->param_bytes)
            row->param_bytes = param.offset + param.size;
    }
    code->param_bytes[n] = row->param_bytes;
    for (int i = 0; i < FDC_FUNC_ATTRIBUTES; i++) {
        value = 0;
        result = code->library ? driver->cuKernelGetAttribute(&value, i, kernel, device)
                               : driver->cuFuncGetAttribute(&value, i, kernel);
        if (result == CUDA_SUCCESS)
            row->attribute[i] = value;
    }
    return CUDA_SUCCESS;
}

static CUresult
enumerate(struct fdc_serve *serve, struct fdc_code *code)
{
    const struct fdc_driver *driver = serve->driver;
    unsigned count = 0;
    CUresult result;

    result = kernel_count(driver, code, &count);
    if (result != CUDA_SUCCESS) {
        fdc_log(FDC_LOG_WARN, "the driver does not list kernels: result %d", result);
        return result;
    }
    if (count > KERNELS_MAX)
        return CUDA_ERROR_NOT_SUPPORTED;
    code->kernel = calloc(count + 1, sizeof(*code->kernel));
    code->param_bytes = calloc(count + 1, sizeof(*code->param_bytes));
    code->function = calloc(count + 1, sizeof(*code->function));
    if (code->kernel == NULL || code->param_bytes == NULL || code->function == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    code->kernels = count;
    if (count == 0)
        return CUDA_SUCCESS;
    return code->library
               ? driver->cuLibraryEnumerateKernels((CUkernel *)code->kernel, count,
                                                   code->value)
               : driver->cuModuleEnumerateFunctions((CUfunction *)code->kernel, count,
                                                    code->value);
}

static CUresult
table_make(struct fdc_serve *serve, struct fdc_code *code, const char *info,
           const char *error, struct table *table)
{
    struct fdc_ctx *ctx = fdc_context_here();
    CUdevice device = serve->device[ctx != NULL ? ctx->device : 0];
    struct fdc_table_module head = { 0 };
    CUresult result = CUDA_SUCCESS;

    append(table, &head, sizeof(head));
    if (code != NULL) {
        head.kernel_count = code->kernels;
        head.kernel_offset =
            append(table, NULL, code->kernels * sizeof(struct fdc_table_kernel));
        for (uint32_t i = 0; i < code->kernels && result == CUDA_SUCCESS; i++) {
            struct fdc_table_kernel row = { 0 };

            result = describe(serve, code, i, device, table, &row);
            if (!table->failed)
                memcpy(table->bytes + head.kernel_offset + i * sizeof(row), &row,
                       sizeof(row));
        }
    }
    head.log_size = (uint32_t)strlen(info);
    head.log_offset = append(table, info, head.log_size + 1u);
    head.error_size = (uint32_t)strlen(error);
    head.error_offset = append(table, error, head.error_size + 1u);
    if (table->failed)
        return CUDA_ERROR_OUT_OF_MEMORY;
    head.size = (uint32_t)table->size;
    memcpy(table->bytes, &head, sizeof(head));
    return result;
}

/* ---- loading ---- */

struct options {
    CUjit_option jit[64];
    void *jit_value[64];
    unsigned njit;
};

struct wire_option {
    uint32_t option, pad;
    uint64_t value;
};

/* Options whose value is a number: nothing of the client's is ever an address here. */
static bool
is_scalar(uint32_t option)
{
    static const uint8_t scalar[] = {
        CU_JIT_MAX_REGISTERS, CU_JIT_THREADS_PER_BLOCK, CU_JIT_OPTIMIZATION_LEVEL,
        CU_JIT_TARGET_FROM_CUCONTEXT, CU_JIT_TARGET, CU_JIT_FALLBACK_STRATEGY,
        CU_JIT_GENERATE_DEBUG_INFO, CU_JIT_LOG_VERBOSE, CU_JIT_GENERATE_LINE_INFO,
        CU_JIT_CACHE_MODE, CU_JIT_LTO, CU_JIT_FTZ, CU_JIT_PREC_DIV, CU_JIT_PREC_SQRT,
        CU_JIT_FMA, CU_JIT_OPTIMIZE_UNUSED_DEVICE_VARIABLES,
        CU_JIT_POSITION_INDEPENDENT_CODE, CU_JIT_MIN_CTA_PER_SM,
        CU_JIT_MAX_THREADS_PER_BLOCK, CU_JIT_OVERRIDE_DIRECTIVE_VALUES,
    };

    for (size_t i = 0; i < FDC_COUNT(scalar); i++)
        if (scalar[i] == option)
            return true;
    return false;
}

static void
jit(struct options *options, CUjit_option option, void *value)
{
    options->jit[options->njit] = option;
    options->jit_value[options->njit++] = value;
}

/* The client's options, a library's apart. 0, -EPROTO, or a CUresult. */
static int
options_read(const struct fdc_request *request, struct fdc_span jit_span,
             struct fdc_span library_span, struct options *options)
{
    const struct fdc_span span[] = { jit_span, library_span };
    struct wire_option one;

    memset(options, 0, sizeof(*options));
    for (int list = 0; list < 2; list++) {
        const uint8_t *bytes;

        if (span[list].size == 0)
            continue;
        bytes = fdc_request_span(request, span[list]);
        if (bytes == NULL || span[list].size % sizeof(one) ||
            span[list].size / sizeof(one) > 48)
            return -EPROTO;
        for (uint32_t at = 0; at < span[list].size; at += sizeof(one)) {
            memcpy(&one, bytes + at, sizeof(one));
            if (list == 0 && is_scalar(one.option))
                jit(options, one.option, (void *)(uintptr_t)one.value);
            /* The image is the worker's own and goes after the load: not "preserved". */
            else if (list == 0 || one.option != CU_LIBRARY_BINARY_IS_PRESERVED)
                return CUDA_ERROR_INVALID_VALUE;
        }
    }
    return 0;
}

/* Loads what is sound and makes the code object and its table. */
static CUresult
load(struct fdc_serve *serve, const void *bytes, bool library,
     struct options *options, struct fdc_code **made, struct table *table)
{
    const struct fdc_driver *driver = serve->driver;
    struct fdc_code *code = calloc(1, sizeof(*code));
    char *info = calloc(2, LOG_BYTES);
    char *error = info ? info + LOG_BYTES : NULL;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY, more;

    if (code == NULL || info == NULL) {
        free(info);
        free(code);
        return result;
    }
    pthread_mutex_init(&code->lock, NULL);
    code->serve = serve;
    code->library = library;
    jit(options, CU_JIT_INFO_LOG_BUFFER, info);
    jit(options, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, (void *)(uintptr_t)(LOG_BYTES - 1));
    jit(options, CU_JIT_ERROR_LOG_BUFFER, error);
    jit(options, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, (void *)(uintptr_t)(LOG_BYTES - 1));
    if (!library)
        result = driver->cuModuleLoadDataEx((CUmodule *)&code->value, bytes,
                                            options->njit, options->jit,
                                            options->jit_value);
    else if (FDC_HAS(driver, cuLibraryLoadData))
        result = driver->cuLibraryLoadData((CUlibrary *)&code->value, bytes,
                                           options->jit, options->jit_value,
                                           options->njit, NULL, NULL, 0);
    else
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS) {
        result = enumerate(serve, code);
        if (result == CUDA_SUCCESS)
            result = table_make(serve, code, info, error, table);
        if (result != CUDA_SUCCESS) {
            if (library)
                driver->cuLibraryUnload(code->value);
            else
                driver->cuModuleUnload(code->value);
        }
    } else {
        /* The logs travel all the same. */
        more = table_make(serve, NULL, info, error, table);
        if (more != CUDA_SUCCESS)
            table->size = 0;
    }
    free(info);
    if (result != CUDA_SUCCESS) {
        fdc_code_free(code);
        code = NULL;
    }
    *made = code;
    return result;
}

/* What serve_load() leaves for after the answer. */
struct loaded {
    struct fdc_image *image;
    uint64_t total;
    uint32_t missing;
};

/* Code takes memory of the slice. */
static CUresult
weigh(struct fdc_serve *serve)
{
    struct fdc_ctx *ctx = fdc_context_here();

    return ctx != NULL ? fdc_memory_look(serve, ctx->device, true) : CUDA_SUCCESS;
}

static int
serve_load(struct fdc_request *request, bool library, uint64_t handle, uint64_t number,
           uint32_t image_kind, struct fdc_span jit_span, struct fdc_span library_span,
           struct fdc_chunk blob, struct loaded *loaded)
{
    struct fdc_serve *serve = request->serve;
    struct options options;
    struct table table = { 0 };
    struct fdc_code *code = NULL;
    struct fdc_wrapper *wrapper = NULL;
    int kind = library ? FDC_KIND_LIBRARY : FDC_KIND_MODULE;
    struct fdc_image *image;
    CUresult result;
    int err;

    err = options_read(request, jit_span, library_span, &options);
    if (err != 0)
        return err;
    result = fdc_image_get(serve, number, &image, &loaded->missing);
    if (result != CUDA_SUCCESS || loaded->missing != 0)
        return (int)result;
    result = CUDA_ERROR_INVALID_IMAGE;
    if (image_kind == FDC_IMAGE_UNITS)
        wrapper = fdc_image_wrapper(image);
    if (wrapper != NULL || (image_kind != FDC_IMAGE_UNITS && fdc_image_sound(image)))
        result = load(serve, wrapper != NULL ? (void *)wrapper : image->bytes, library,
                      &options, &code, &table);
    if (result == CUDA_SUCCESS) {
        result = weigh(serve);
        if (result == CUDA_SUCCESS)
            result = fdc_handle_put_aux(serve, kind, handle, code->value, code,
                                        library ? 0 : request->ctx);
        if (result != CUDA_SUCCESS) {
            if (library)
                serve->driver->cuLibraryUnload(code->value);
            else
                serve->driver->cuModuleUnload(code->value);
            fdc_code_free(code);
            (void)weigh(serve);
        }
    }
    loaded->total = table.size;
    free(wrapper);
    if (result == CUDA_SUCCESS)
        loaded->image = image; /* worth keeping */
    else
        fdc_image_free(image);
    err = fdc_blob_give(request, blob, table.bytes, table.size);
    return err < 0 ? err : (int)result;
}

/* Answers, and then keeps the image: nobody waits for the disk. */
static int
answer_load(struct fdc_request *request, int result, void *reply, uint32_t size,
            struct fdc_image *image)
{
    struct fdc_cache *cache = request->serve->cache;

    if (image != NULL && result >= 0)
        fdc_cache_hold(cache);
    if (result >= 0)
        fdc_request_answer_always(request, result, reply, size);
    if (image != NULL && result >= 0)
        fdc_cache_keep(cache, &image, 1);
    if (image != NULL)
        fdc_image_free(image);
    return result < 0 ? result : 0;
}

int
fdc_server_call_fdcModuleLoad(struct fdc_request *request,
                              const struct fdc_req_fdcModuleLoad *req)
{
    struct fdc_rep_fdcModuleLoad reply = { 0 };
    struct loaded loaded = { 0 };
    int result;

    result = serve_load(request, false, req->module, req->image, req->kind, req->options,
                        (struct fdc_span){ 0 }, req->blob, &loaded);
    reply.total = loaded.total;
    reply.missing = loaded.missing;
    return answer_load(request, result, &reply, sizeof(reply), loaded.image);
}

int
fdc_server_call_fdcLibraryLoad(struct fdc_request *request,
                               const struct fdc_req_fdcLibraryLoad *req)
{
    struct fdc_rep_fdcLibraryLoad reply = { 0 };
    struct loaded loaded = { 0 };
    int result;

    result = serve_load(request, true, req->library, req->image, req->kind, req->options,
                        req->library_options, req->blob, &loaded);
    reply.total = loaded.total;
    reply.missing = loaded.missing;
    return answer_load(request, result, &reply, sizeof(reply), loaded.image);
}

/* ---- unloading, globals ---- */

static CUresult
unload(struct fdc_request *request, int kind, uint64_t handle)
{
    void *value = NULL, *aux = NULL;
    CUresult result;

    result = fdc_handle_drop_aux(request->serve, kind, handle, &value, &aux);
    if (result != CUDA_SUCCESS)
        return result;
    result = kind == FDC_KIND_LIBRARY ? request->driver->cuLibraryUnload(value)
                                      : request->driver->cuModuleUnload(value);
    fdc_code_free(aux);
    (void)weigh(request->serve);
    return result;
}

int
fdc_server_call_cuModuleUnload(struct fdc_request *request,
                               const struct fdc_req_cuModuleUnload *req)
{
    fdc_request_answer(request, unload(request, FDC_KIND_MODULE, req->hmod), NULL, 0);
    return 0;
}

int
fdc_server_call_cuLibraryUnload(struct fdc_request *request,
                                const struct fdc_req_cuLibraryUnload *req)
{
    fdc_request_answer(request, unload(request, FDC_KIND_LIBRARY, req->library), NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGlobal(struct fdc_request *request, const struct fdc_req_fdcGlobal *req)
{
    const struct fdc_driver *driver = request->driver;
    const char *name = fdc_request_span(request, req->name);
    struct fdc_code *code = code_find(request->serve, req->code);
    struct fdc_rep_fdcGlobal reply = { 0 };
    CUdeviceptr address = 0;
    size_t size = 0;
    CUresult result;

    if (name == NULL || req->name.size == 0 || name[req->name.size - 1] != '\0')
        return -EPROTO;
    if (code == NULL) {
        result = CUDA_ERROR_INVALID_HANDLE;
    } else if (!code->library) {
        unsigned int managed = 0;

        result = driver->cuModuleGetGlobal_v2(&address, &size, code->value, name);
        if (result == CUDA_SUCCESS &&
            driver->cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                          address) == CUDA_SUCCESS)
            reply.flags = managed != 0;
    } else {
        result = CUDA_ERROR_NOT_FOUND;
        if (FDC_HAS(driver, cuLibraryGetManaged))
            result = driver->cuLibraryGetManaged(&address, &size, code->value, name);
        reply.flags = result == CUDA_SUCCESS;
        if (result == CUDA_ERROR_NOT_FOUND)
            result = driver->cuLibraryGetGlobal(&address, &size, code->value, name);
    }
    if (result == CUDA_SUCCESS)
        result = fdc_memory_allow(request->serve, address, size);
    reply.address = address;
    reply.size = size;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- linking ---- */

static CUresult
link_add(struct fdc_serve *serve, CUlinkState state, const struct fdc_link_input *input,
         const char *name, struct fdc_image *image)
{
    if (!fdc_image_sound(image))
        return CUDA_ERROR_INVALID_IMAGE;
    return serve->driver->cuLinkAddData_v2(state, input->type, image->bytes, image->size,
                                           name, 0, NULL, NULL);
}

static CUresult
link_run(struct fdc_serve *serve, struct fdc_span names, const struct fdc_link_input *input,
         struct fdc_image *const *image, uint32_t count, const char *name,
         struct options *options, struct table *table)
{
    const struct fdc_driver *driver = serve->driver;
    struct fdc_table_link head = { 0 };
    char *info = calloc(2, LOG_BYTES), *error;
    CUlinkState state;
    size_t size = 0;
    void *cubin = NULL;
    CUresult result;

    if (info == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    error = info + LOG_BYTES;
    jit(options, CU_JIT_INFO_LOG_BUFFER, info);
    jit(options, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, (void *)(uintptr_t)(LOG_BYTES - 1));
    jit(options, CU_JIT_ERROR_LOG_BUFFER, error);
    jit(options, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, (void *)(uintptr_t)(LOG_BYTES - 1));
    result = driver->cuLinkCreate_v2(options->njit, options->jit, options->jit_value, &state);
    if (result != CUDA_SUCCESS) {
        free(info);
        return result;
    }
    for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = input[i].name_offset < names.size
                     ? link_add(serve, state, &input[i], name + input[i].name_offset,
                                image[i])
                     : CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = driver->cuLinkComplete(state, &cubin, &size);
    append(table, &head, sizeof(head));
    if (result == CUDA_SUCCESS) {
        head.image_size = size;
        head.image_offset = append(table, cubin, size);
    }
    head.log_size = (uint32_t)strlen(info);
    head.log_offset = append(table, info, head.log_size + 1u);
    head.error_size = (uint32_t)strlen(error);
    head.error_offset = append(table, error, head.error_size + 1u);
    driver->cuLinkDestroy(state);
    free(info);
    if (table->failed)
        return CUDA_ERROR_OUT_OF_MEMORY;
    head.size = (uint32_t)table->size;
    memcpy(table->bytes, &head, sizeof(head));
    return result;
}

/* All images of a link; none of them where one is missing. */
static CUresult
link_images(struct fdc_serve *serve, const struct fdc_link_input *input, uint32_t count,
            struct fdc_image **image, uint64_t *missing)
{
    CUresult result = CUDA_SUCCESS;
    uint32_t absent, have = 0;

    for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        absent = 0;
        result = fdc_image_get(serve, input[i].image, &image[have], &absent);
        if (result == CUDA_SUCCESS && absent == 0)
            have++;
        else if (result == CUDA_SUCCESS)
            *missing |= 1ull << (i < FDC_LINK_ASKED ? i : FDC_LINK_ASKED - 1);
    }
    if (result == CUDA_SUCCESS && *missing == 0)
        return CUDA_SUCCESS;
    while (have > 0) {
        if (result == CUDA_SUCCESS)
            fdc_image_return(serve, image[--have]);
        else
            fdc_image_free(image[--have]);
    }
    return result;
}

int
fdc_server_call_fdcLinkRun(struct fdc_request *request, const struct fdc_req_fdcLinkRun *req)
{
    const struct fdc_link_input *input = fdc_request_span(request, req->inputs);
    const char *names = fdc_request_span(request, req->names);
    struct fdc_serve *serve = request->serve;
    uint32_t count = req->inputs.size / (uint32_t)sizeof(*input);
    struct fdc_rep_fdcLinkRun reply = { 0 };
    struct table table = { 0 };
    struct fdc_image **image;
    struct options options;
    CUresult result;
    int err;

    if (input == NULL || names == NULL || req->inputs.size % sizeof(*input) != 0 ||
        req->names.size == 0 || names[req->names.size - 1] != '\0')
        return -EPROTO;
    err = options_read(request, req->options, (struct fdc_span){ 0 }, &options);
    if (err < 0)
        return err;
    image = calloc(count + 1, sizeof(*image));
    result = image == NULL ? CUDA_ERROR_OUT_OF_MEMORY : (CUresult)err;
    if (result == CUDA_SUCCESS)
        result = link_images(serve, input, count, image, &reply.missing);
    if (result != CUDA_SUCCESS || reply.missing != 0) {
        fdc_request_answer(request, result, &reply, sizeof(reply));
        free(image);
        return 0;
    }
    result = link_run(serve, req->names, input, image, count, names, &options, &table);
    reply.total = table.failed ? 0 : table.size;
    if (table.failed) {
        free(table.bytes);
        table.bytes = NULL;
        table.size = 0;
    }
    err = fdc_blob_give(request, req->blob, table.bytes, table.size);
    if (err == 0) {
        fdc_cache_hold(serve->cache);
        fdc_request_answer_always(request, result, &reply, sizeof(reply));
        fdc_cache_keep(serve->cache, image, result == CUDA_SUCCESS ? count : 0);
    }
    for (uint32_t i = 0; i < count; i++)
        fdc_image_free(image[i]);
    free(image);
    return err;
}
