/*
 * Loaded code, and modules. One answer at load tells all about an image's kernels, so
 * that handles, names, parameters and attributes are this process's business from then
 * on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "code.h"
#include "managed.h"
#include "process.h"
#include "cuda_calls.h"

#define BLOB_FIRST (64u << 10) /* of a table that comes with the answer itself */

CUresult
fdc_codes_setup(struct fdc_session *session)
{
    session->codes = calloc(1, sizeof(*session->codes));
    if (session->codes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_init(&session->codes->lock, NULL);
    return CUDA_SUCCESS;
}

/* ---- the body ---- */

void
fdc_code_free(struct fdc_code *code)
{
    struct fdc_global *global;

    if (code == NULL)
        return;
    while ((global = code->globals) != NULL) {
        code->globals = global->next;
        free(global->name);
        free(global);
    }
    free(code->function);
    free(code->kernels);
    free(code->by_name);
    free(code->table);
    fdc_code_unkeep(code);
    pthread_mutex_destroy(&code->carry);
    pthread_mutex_destroy(&code->lock);
    free(code);
}

/* Another thread may be between finding a handle and using the table: the body goes
 * when 256 others have gone after it. */
static void
code_retire(struct fdc_session *session, struct fdc_code *code)
{
    struct fdc_codes *codes = session->codes;
    struct fdc_code *old;

    pthread_mutex_lock(&codes->lock);
    old = codes->retired[codes->retired_next];
    codes->retired[codes->retired_next] = code;
    codes->retired_next = (codes->retired_next + 1) % FDC_COUNT(codes->retired);
    pthread_mutex_unlock(&codes->lock);
    fdc_code_free(old);
}

const char *
fdc_code_name(const struct fdc_code *code, uint32_t index)
{
    return (const char *)code->table + code->kernel[index].name_offset;
}

static int
compare_names(const void *a, const void *b, void *user)
{
    const struct fdc_code *code = user;

    return strcmp(fdc_code_name(code, *(const uint32_t *)a),
                  fdc_code_name(code, *(const uint32_t *)b));
}

static bool
in_table(uint64_t offset, uint64_t size, uint64_t total)
{
    return offset <= total && size <= total - offset;
}

/* The worker's word is checked all the same: a wrong offset here would be a crash
 * there. */
static bool
table_sound(const struct fdc_table_module *table, uint64_t total)
{
    const struct fdc_table_kernel *kernel;

    if (total < sizeof(*table) || table->size > total ||
        table->kernel_offset % 8 != 0 ||
        !in_table(table->kernel_offset, (uint64_t)table->kernel_count * sizeof(*kernel),
                  total) ||
        !in_table(table->log_offset, table->log_size, total) ||
        !in_table(table->error_offset, table->error_size, total))
        return false;
    kernel = (const void *)((const char *)table + table->kernel_offset);
    for (uint32_t i = 0; i < table->kernel_count; i++) {
        const struct fdc_table_param *param;

        if (!in_table(kernel[i].name_offset, (uint64_t)kernel[i].name_size + 1,
                      total) ||
            ((const char *)table)[kernel[i].name_offset + kernel[i].name_size] !=
                '\0' ||
            kernel[i].param_offset % 4 != 0 || kernel[i].param_bytes > 1u << 20 ||
            !in_table(kernel[i].param_offset,
                      (uint64_t)kernel[i].param_count * sizeof(*param), total))
            return false;
        param = (const void *)((const char *)table + kernel[i].param_offset);
        for (uint32_t j = 0; j < kernel[i].param_count; j++)
            if (!in_table(param[j].offset, param[j].size, kernel[i].param_bytes))
                return false;
    }
    return true;
}

/* Takes the table over. */
struct fdc_code *
fdc_code_new(struct fdc_table_module *table, bool library)
{
    struct fdc_code *code = calloc(1, sizeof(*code));
    uint32_t count = table->kernel_count;

    if (code == NULL) {
        free(table);
        return NULL;
    }
    pthread_mutex_init(&code->lock, NULL);
    pthread_mutex_init(&code->carry, NULL);
    code->library = library;
    code->table = table;
    code->kernel = (const void *)((const char *)table + table->kernel_offset);
    code->count = count;
    code->by_name = calloc(count + 1, sizeof(*code->by_name));
    code->function = calloc(count + 1, sizeof(*code->function));
    code->kernels = calloc(count + 1, sizeof(*code->kernels));
    if (code->by_name == NULL || code->function == NULL || code->kernels == NULL) {
        fdc_code_free(code);
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++)
        code->by_name[i] = i;
    qsort_r(code->by_name, count, sizeof(*code->by_name), compare_names, code);
    return code;
}

uint32_t
fdc_code_named(const struct fdc_code *code, const char *name)
{
    uint32_t low = 0, high = code->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = strcmp(fdc_code_name(code, code->by_name[middle]), name);

        if (order == 0)
            return code->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return code->count;
}

/* ---- load and unload ---- */

/* The load call; the table comes back also where it fails with logs. missing: nothing was
 * loaded, the worker wants the image's bytes. */
static CUresult
load_announced(struct fdc_call *call, uint64_t handle, uint64_t image, uint32_t kind,
               bool library, const struct fdc_jit *jit, struct fdc_table_module **table,
               uint32_t *missing)
{
    uint32_t size = jit->count * (uint32_t)sizeof(jit->wire[0]);
    struct fdc_rep_fdcModuleLoad rep;
    struct fdc_rep_fdcLibraryLoad library_rep;
    CUresult result, fetched;
    struct fdc_chunk blob;
    uint64_t total = 0;
    void *bytes = NULL;

    *table = NULL;
    result = fdc_stage_alloc(call->session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    if (!library) {
        struct fdc_req_fdcModuleLoad *req;

        call->id = FDC_ID_fdcModuleLoad;
        req = fdc_call_begin(call, (uint32_t)sizeof(*req) + size);
        if (req == NULL) {
            result = call->result;
            goto out;
        }
        req->module = handle;
        req->image = image;
        req->kind = kind;
        req->options = (struct fdc_span){sizeof(*req), size};
        req->options_size = size;
        req->blob = blob;
        memcpy(req + 1, jit->wire, size);
        memset(&rep, 0, sizeof(rep));
        result = fdc_call_wait(call, &rep, sizeof(rep));
        total = call->own.size >= sizeof(rep) ? rep.total : 0;
        *missing = call->own.size >= sizeof(rep) ? rep.missing : 0;
    } else {
        struct fdc_req_fdcLibraryLoad *req;

        call->id = FDC_ID_fdcLibraryLoad;
        req = fdc_call_begin(call, (uint32_t)sizeof(*req) + size);
        if (req == NULL) {
            result = call->result;
            goto out;
        }
        req->library = handle;
        req->image = image;
        req->kind = kind;
        req->options = (struct fdc_span){sizeof(*req), size};
        req->options_size = size;
        req->library_options = (struct fdc_span){sizeof(*req), 0};
        req->library_options_size = 0;
        req->blob = blob;
        memcpy(req + 1, jit->wire, size);
        memset(&library_rep, 0, sizeof(library_rep));
        result = fdc_call_wait(call, &library_rep, sizeof(library_rep));
        total = call->own.size >= sizeof(library_rep) ? library_rep.total : 0;
        *missing = call->own.size >= sizeof(library_rep) ? library_rep.missing : 0;
    }
    if (total != 0) {
        fetched = fdc_blob_rest(call, &blob, total, &bytes);
        if (fetched == CUDA_SUCCESS && !table_sound(bytes, total)) {
            fdc_log(FDC_LOG_ERROR, "the worker's table of kernels makes no sense");
            free(bytes);
            bytes = NULL;
            fetched = CUDA_ERROR_UNKNOWN;
        }
        if (result == CUDA_SUCCESS)
            result = fetched;
        *table = bytes;
    } else if (result == CUDA_SUCCESS && *missing == 0) {
        result = CUDA_ERROR_UNKNOWN;
    }
out:
    fdc_stage_free(call->session, FDC_REGION_DOWN, &blob);
    return result;
}

static CUresult
fetch_fitted(struct fdc_call *call, uint64_t handle, const struct fdc_image *image,
             bool library, const struct fdc_jit *jit, struct fdc_table_module **table)
{
    uint32_t missing = 0;
    uint64_t number;
    CUresult result;

    result = fdc_image_announce(call, image->bytes, image->size, &number);
    if (result != CUDA_SUCCESS)
        return result;
    result = load_announced(call, handle, number, image->kind, library, jit, table, &missing);
    if (result != CUDA_SUCCESS || missing == 0)
        return result;
    if (missing > 1)
        fdc_store_relaxed(&call->session->codes->uncached, 1);
    result = fdc_image_send(call, number, image->bytes, image->size);
    if (result != CUDA_SUCCESS)
        return result;
    missing = 0;
    result = load_announced(call, handle, number, image->kind, library, jit, table, &missing);
    return missing == 0 ? result : CUDA_ERROR_UNKNOWN;
}

CUresult
fdc_code_fetch(struct fdc_call *call, uint64_t handle, const struct fdc_image *image,
               bool library, const struct fdc_jit *jit, struct fdc_table_module **table)
{
    struct fdc_image fitted;
    CUresult result;

    *table = NULL;
    result = fdc_image_fit(call, image, library, &fitted);
    if (result != CUDA_SUCCESS)
        return result;
    result = fetch_fitted(call, handle, &fitted, library, jit, table);
    free(fitted.owned);
    return result;
}

CUresult
fdc_code_drop(struct fdc_call *call, uint64_t handle, bool library)
{
    fdc_memory_unsure(call->session);
    if (library) {
        struct fdc_req_cuLibraryUnload *req;

        call->id = FDC_ID_cuLibraryUnload;
        req = fdc_call_begin(call, sizeof(*req));
        if (req == NULL)
            return call->result;
        req->library = handle;
    } else {
        struct fdc_req_cuModuleUnload *req;

        call->id = FDC_ID_cuModuleUnload;
        req = fdc_call_begin(call, sizeof(*req));
        if (req == NULL)
            return call->result;
        req->hmod = handle;
    }
    return fdc_call_send(call);
}

CUresult
fdc_code_load(struct fdc_call *call, const struct fdc_image *image, bool library,
              const struct fdc_jit *jit, struct fdc_unit **made)
{
    struct fdc_table_module *table;
    struct fdc_unit *unit;
    CUresult result;

    unit = fdc_object_new(call->session, library ? FDC_KIND_LIBRARY : FDC_KIND_MODULE,
                          sizeof(*unit), library ? NULL : call->context);
    if (unit == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = fdc_code_fetch(call, unit->object.handle, image, library, jit, &table);
    if (table != NULL) {
        const char *base = (const char *)table;

        fdc_jit_logs(
            jit, table->log_size ? base + table->log_offset : NULL, table->log_size,
            table->error_size ? base + table->error_offset : NULL, table->error_size);
    } else {
        fdc_jit_logs(jit, NULL, 0, NULL, 0);
    }
    if (result != CUDA_SUCCESS) {
        free(table);
        goto err_unit;
    }
    unit->code = fdc_code_new(table, library);
    if (unit->code == NULL) {
        (void)fdc_code_drop(call, unit->object.handle, library);
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err_unit;
    }
    unit->code->wire = unit->object.handle;
    unit->code->session = call->session;
    unit->code->context = unit->object.context;
    result = fdc_code_keep(unit->code, image, jit);
    if (result != CUDA_SUCCESS)
        goto err_code;
    *made = unit;
    return CUDA_SUCCESS;

err_code:
    (void)fdc_code_drop(call, unit->object.handle, library);
    fdc_code_free(unit->code);

err_unit:
    fdc_object_drop(unit);
    return result;
}

static bool
place_of_code(const struct fdc_place *place, void *user)
{
    const struct fdc_code *code = user;

    return place->origin == FDC_BY_CODE && place->where == FDC_DEVICE &&
           place->owner == code->wire;
}

/* Drops every handle of the code and the unit itself, and says nothing to the worker.
 */
static void
code_forget(struct fdc_session *session, struct fdc_unit *unit)
{
    struct fdc_code *code = unit->code;

    pthread_mutex_lock(&code->lock);
    for (uint32_t i = 0; i < code->count; i++) {
        if (code->function[i] != NULL)
            fdc_object_drop(code->function[i]);
        if (code->kernels[i] != NULL)
            fdc_object_drop(code->kernels[i]);
        code->function[i] = code->kernels[i] = NULL;
    }
    if (code->module != NULL)
        fdc_object_drop(code->module);
    code->module = NULL;
    pthread_mutex_unlock(&code->lock);
    fdc_place_sweep(place_of_code, code);
    fdc_object_drop(unit);
    code_retire(session, code);
}

CUresult
fdc_code_unload(struct fdc_call *call, struct fdc_unit *unit)
{
    struct fdc_code *code = unit->code;
    CUresult result;

    fdc_code_unload_elsewhere(code);
    result = fdc_code_drop(call, code->wire, code->library);
    if (result == CUDA_SUCCESS)
        code_forget(call->session, unit);
    return result;
}

struct units {
    struct fdc_context *context;
    struct fdc_unit *unit[64];
    int count;
};

static void
unit_of_context(void *object, void *user)
{
    struct fdc_unit *unit = object;
    struct units *units = user;

    if (unit->object.context == units->context && !unit->code->library &&
        units->count < 64)
        units->unit[units->count++] = unit;
}

static void
forget_globals(void *object, void *user)
{
    struct fdc_unit *unit = object;
    struct fdc_global **link, *global;

    pthread_mutex_lock(&unit->code->lock);
    for (link = &unit->code->globals; (global = *link) != NULL;) {
        if (global->context != user) {
            link = &global->next;
            continue;
        }
        *link = global->next;
        free(global->name);
        free(global);
    }
    pthread_mutex_unlock(&unit->code->lock);
}

/* Modules die with their context; libraries stay, but their variables in it are new ones. */
void
fdc_code_context_gone(struct fdc_context *context)
{
    struct units units = {.context = context};

    do {
        units.count = 0;
        fdc_object_each(FDC_KIND_MODULE, unit_of_context, &units);
        for (int i = 0; i < units.count; i++)
            code_forget(context->device->session, units.unit[i]);
    } while (units.count == 64);
    fdc_object_each(FDC_KIND_LIBRARY, forget_globals, context);
}

/* ---- functions and variables ---- */

/* Whether parameters fill the buffer to the last byte, each where the one before ends. */
static bool
solid(const struct fdc_func *func)
{
    uint32_t end = 0;

    for (uint32_t i = 0; i < func->kernel->param_count; i++) {
        if (func->params[i].offset != end)
            return false;
        end += func->params[i].size;
    }
    return end == func->kernel->param_bytes;
}

CUresult
fdc_code_func(struct fdc_session *session, struct fdc_code *code, enum fdc_kind kind,
              uint32_t index, struct fdc_func **func)
{
    struct fdc_func **slot = kind == FDC_KIND_KERNEL ? code->kernels : code->function;
    const struct fdc_table_kernel *kernel = &code->kernel[index];
    struct fdc_func *made;

    pthread_mutex_lock(&code->lock);
    made = slot[index];
    if (made == NULL) {
        made = fdc_object_new(session, kind, sizeof(*made), NULL);
        if (made != NULL) {
            made->code = code;
            made->index = index;
            made->kernel = kernel;
            made->params =
                (const void *)((const char *)code->table + kernel->param_offset);
            made->solid = solid(made);
            made->name = fdc_code_name(code, index);
            memcpy(made->attribute, kernel->attribute, sizeof(made->attribute));
            memset(made->told, 0xff, sizeof(made->told));
            slot[index] = made;
        }
    }
    pthread_mutex_unlock(&code->lock);
    *func = made;
    return made != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

struct fdc_func *
fdc_func_find(const void *handle)
{
    struct fdc_func *func = fdc_object_at(FDC_KIND_FUNCTION, handle);

    return func != NULL ? func : fdc_object_at(FDC_KIND_KERNEL, handle);
}

CUresult
fdc_code_global(struct fdc_call *call, struct fdc_code *code, const char *name,
                CUdeviceptr *address, size_t *size, uint32_t *flags)
{
    uint32_t length = (uint32_t)strlen(name) + 1;
    struct fdc_rep_fdcGlobal rep;
    struct fdc_req_fdcGlobal *req;
    struct fdc_global *global;
    struct fdc_place place = {
        .where = FDC_DEVICE,
        .origin = FDC_BY_CODE,
        .owner = code->wire,
        .device = call->context->device,
        .context = call->context,
        .preferred = CU_DEVICE_INVALID,
        .prefetched = CU_DEVICE_INVALID,
    };
    CUresult result;
    int err;

    pthread_mutex_lock(&code->lock);
    for (global = code->globals; global != NULL; global = global->next)
        if (global->context == call->context && strcmp(global->name, name) == 0)
            break;
    if (global != NULL) {
        *address = global->address;
        *size = global->size;
        *flags = global->flags;
    }
    pthread_mutex_unlock(&code->lock);
    if (global != NULL)
        return CUDA_SUCCESS;

    result = fdc_code_here(call, code);
    if (result != CUDA_SUCCESS)
        return result;
    call->id = FDC_ID_fdcGlobal;
    req = fdc_call_begin(call, (uint32_t)sizeof(*req) + FDC_ALIGN_UP(length, 8u));
    if (req == NULL)
        return call->result;
    req->code = code->wire;
    req->name = (struct fdc_span){sizeof(*req), length};
    memcpy(req + 1, name, length);
    result = fdc_call_wait(call, &rep, sizeof(rep));
    if (result != CUDA_SUCCESS)
        return result;
    place.managed = (rep.flags & 1) != 0;
    err = fdc_place_range(place.device, rep.address, rep.size);
    if (err == 0 || err == -EEXIST)
        err = fdc_place_add(rep.address, rep.size, &place);
    if (err == 0 && place.managed) {
        result = fdc_managed_variable(place.device, rep.address, rep.size);
        if (result != CUDA_SUCCESS) {
            (void)fdc_place_del(rep.address);
            return result;
        }
    }
    if (err) {
        fdc_log(FDC_LOG_WARN, "variable %s lies at an address in use here", name);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    global = calloc(1, sizeof(*global));
    if (global != NULL)
        global->name = strdup(name);
    if (global != NULL && global->name != NULL) {
        global->context = call->context;
        global->address = rep.address;
        global->size = rep.size;
        global->flags = rep.flags;
        pthread_mutex_lock(&code->lock);
        global->next = code->globals;
        code->globals = global;
        pthread_mutex_unlock(&code->lock);
    } else {
        free(global);
    }
    *address = rep.address;
    *size = rep.size;
    *flags = rep.flags;
    return CUDA_SUCCESS;
}

/* ---- modules ---- */

static CUresult
module_load(CUmodule *module, const struct fdc_image *image, const struct fdc_jit *jit,
            struct fdc_call *call)
{
    struct fdc_unit *unit;
    CUresult result;

    result = fdc_code_load(call, image, false, jit, &unit);
    if (result == CUDA_SUCCESS)
        *module = (CUmodule)(uintptr_t)unit->object.handle;
    return result;
}

FDC_EXPORT CUresult
cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions,
                   CUjit_option *options, void **optionValues)
{
    struct fdc_image found;
    struct fdc_call call;
    struct fdc_jit jit;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcModuleLoad,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (module == NULL || image == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_jit_read(numOptions, options, optionValues, &jit);
    if (result == CUDA_SUCCESS)
        result = fdc_image_look(image, &found);
    if (result != CUDA_SUCCESS)
        return result;
    result = module_load(module, &found, &jit, &call);
    free(found.owned);
    return result;
}

FDC_EXPORT CUresult
cuModuleLoad(CUmodule *module, const char *fname)
{
    struct fdc_jit jit = {.count = 0};
    struct fdc_image found;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcModuleLoad,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    if (module == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_image_read(fname, &found);
    if (result != CUDA_SUCCESS)
        return result;
    result = module_load(module, &found, &jit, &call);
    free(found.owned);
    return result;
}

FDC_EXPORT CUresult
cuModuleUnload(CUmodule hmod)
{
    struct fdc_unit *unit;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuModuleUnload,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result != CUDA_SUCCESS)
        return result;
    unit = fdc_object_find(FDC_KIND_MODULE, hmod);
    if (unit == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (unit->code->library)
        return CUDA_ERROR_NOT_PERMITTED; /* the library's to unload */
    result = fdc_call_join(&call, &unit->object);
    return result == CUDA_SUCCESS ? fdc_code_unload(&call, unit) : result;
}

FDC_EXPORT CUresult
cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
    const char *value = getenv("CUDA_MODULE_LOADING");
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (mode == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *mode = value != NULL && strcmp(value, "EAGER") == 0 ? CU_MODULE_EAGER_LOADING
                                                         : CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

CUresult
fdc_unit_find(enum fdc_kind kind, const void *handle, struct fdc_unit **unit)
{
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    *unit = fdc_object_find(kind, handle);
    return *unit != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult
fdc_unit_named(enum fdc_kind kind, const void *handle, enum fdc_kind what,
               const char *name, void **named)
{
    struct fdc_unit *unit;
    struct fdc_func *func;
    CUresult result;
    uint32_t index;

    result = fdc_unit_find(kind, handle, &unit);
    if (result != CUDA_SUCCESS)
        return result;
    if (named == NULL || name == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    index = fdc_code_named(unit->code, name);
    if (index == unit->code->count)
        return CUDA_ERROR_NOT_FOUND;
    result = fdc_code_func(unit->object.session, unit->code, what, index, &func);
    if (result == CUDA_SUCCESS)
        *named = (void *)(uintptr_t)func->object.handle;
    return result;
}

CUresult
fdc_unit_count(enum fdc_kind kind, const void *handle, unsigned int *count)
{
    struct fdc_unit *unit;
    CUresult result;

    result = fdc_unit_find(kind, handle, &unit);
    if (result != CUDA_SUCCESS)
        return result;
    if (count == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *count = unit->code->count;
    return CUDA_SUCCESS;
}

CUresult
fdc_unit_each(enum fdc_kind kind, const void *handle, enum fdc_kind what, void **each,
              unsigned int room)
{
    struct fdc_unit *unit;
    struct fdc_func *func;
    CUresult result;

    result = fdc_unit_find(kind, handle, &unit);
    if (result != CUDA_SUCCESS)
        return result;
    if (each == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < room && i < unit->code->count; i++) {
        result = fdc_code_func(unit->object.session, unit->code, what, i, &func);
        if (result != CUDA_SUCCESS)
            return result;
        each[i] = (void *)(uintptr_t)func->object.handle;
    }
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
    return fdc_unit_named(FDC_KIND_MODULE, hmod, FDC_KIND_FUNCTION, name,
                          (void **)hfunc);
}

FDC_EXPORT CUresult
cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
    return fdc_unit_count(FDC_KIND_MODULE, mod, count);
}

FDC_EXPORT CUresult
cuModuleEnumerateFunctions(CUfunction *functions, unsigned int numFunctions,
                           CUmodule mod)
{
    return fdc_unit_each(FDC_KIND_MODULE, mod, FDC_KIND_FUNCTION, (void **)functions,
                         numFunctions);
}

FDC_EXPORT CUresult
cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
    struct fdc_unit *unit;
    struct fdc_call call;
    CUdeviceptr address;
    uint32_t flags;
    CUresult result;
    size_t size;

    result = fdc_call_open(&call, FDC_ID_fdcGlobal, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    unit = fdc_object_find(FDC_KIND_MODULE, hmod);
    if (unit == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (name == NULL || (dptr == NULL && bytes == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    if (!unit->code->library)
        result = fdc_call_join(&call, &unit->object);
    if (result == CUDA_SUCCESS)
        result = fdc_code_global(&call, unit->code, name, &address, &size, &flags);
    if (result != CUDA_SUCCESS)
        return result;
    if (dptr != NULL)
        *dptr = address;
    if (bytes != NULL)
        *bytes = size;
    return CUDA_SUCCESS;
}
