/*
 * Code on other servers. A library belongs to the process: its kernels run on any device.
 * It is loaded with the session at hand, and with another one when something of it is
 * first used there, under the same handle. For that its image is kept, where there are
 * several sessions at all.
 */
#include <stdlib.h>
#include <string.h>

#include "code.h"
#include "memory.h"

/* What a session that is not the code's own knows of it. */
struct fdc_elsewhere {
    bool same;        /* its kernels have the same places in the table */
    uint32_t place[]; /* else: of each kernel in that session's table */
};

#define NOWHERE UINT32_MAX

CUresult
fdc_code_keep(struct fdc_code *code, const struct fdc_image *image,
              const struct fdc_jit *jit)
{
    struct fdc_kept *kept;

    if (!code->library || fdc_session_at(1) == NULL)
        return CUDA_SUCCESS;
    kept = malloc(sizeof(*kept) + image->size + 1);
    if (kept == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    kept->size = image->size;
    kept->kind = image->kind;
    memset(&kept->jit, 0, sizeof(kept->jit));
    memcpy(kept->jit.wire, jit->wire, sizeof(kept->jit.wire));
    kept->jit.count = jit->count;
    memcpy(kept->bytes, image->bytes, image->size);
    code->kept = kept;
    return CUDA_SUCCESS;
}

void
fdc_code_unkeep(struct fdc_code *code)
{
    free(code->kept);
    for (size_t i = 0; i < FDC_COUNT(code->elsewhere); i++)
        free(code->elsewhere[i]);
}

/* Another GPU may have been given another part of the image: kernels go by name. */
static struct fdc_elsewhere *
compare(const struct fdc_code *code, struct fdc_table_module *table)
{
    struct fdc_elsewhere *here;
    struct fdc_code *theirs;

    here = malloc(sizeof(*here) + code->count * sizeof(here->place[0]));
    theirs = fdc_code_new(table, true);
    if (here == NULL || theirs == NULL) {
        free(here);
        fdc_code_free(theirs);
        return NULL;
    }
    here->same = true;
    for (uint32_t i = 0; i < code->count; i++) {
        uint32_t place = fdc_code_named(theirs, fdc_code_name(code, i));

        here->place[i] = place < theirs->count ? place : NOWHERE;
        here->same = here->same && here->place[i] == i;
    }
    fdc_code_free(theirs);
    return here;
}

/* Loads the code with the call's session. Under code->carry. */
static CUresult
carry(const struct fdc_call *call, struct fdc_code *code, struct fdc_elsewhere **made)
{
    struct fdc_kept *kept = code->kept;
    struct fdc_table_module *table = NULL;
    struct fdc_image image = {kept->bytes, kept->size, kept->kind, NULL};
    struct fdc_call own;
    CUresult result;

    result = fdc_call_open_in(&own, call->session, FDC_ID_fdcLibraryLoad);
    if (result != CUDA_SUCCESS)
        return result;
    own.context = call->context;
    result = fdc_code_fetch(&own, code->wire, &image, true, &kept->jit, &table);
    if (result != CUDA_SUCCESS) {
        free(table);
        return result;
    }
    *made = compare(code, table);
    return *made != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult
find(const struct fdc_call *call, struct fdc_code *code, struct fdc_elsewhere **found)
{
    struct fdc_elsewhere **place = &code->elsewhere[call->session->number];
    CUresult result = CUDA_SUCCESS;

    /* pairs with the release below */
    *found = fdc_load_acquire(place);
    if (FDC_LIKELY(*found != NULL))
        return CUDA_SUCCESS;
    if (code->kept == NULL)
        return CUDA_ERROR_INVALID_HANDLE; /* a module: its context's alone */
    pthread_mutex_lock(&code->carry);
    *found = *place;
    if (*found == NULL) {
        result = carry(call, code, found);
        if (result == CUDA_SUCCESS)
            fdc_store_release(place, *found);
    }
    pthread_mutex_unlock(&code->carry);
    return result;
}

CUresult
fdc_code_here(const struct fdc_call *call, struct fdc_code *code)
{
    struct fdc_elsewhere *found;

    return code->session == call->session ? CUDA_SUCCESS : find(call, code, &found);
}

CUresult
fdc_func_wire(const struct fdc_call *call, const struct fdc_func *func,
              struct fdc_wire_func *wire)
{
    struct fdc_elsewhere *found;
    CUresult result;

    *wire = (struct fdc_wire_func){func->code->wire, func->index, 0};
    if (FDC_LIKELY(func->object.session == call->session))
        return CUDA_SUCCESS;
    result = find(call, func->code, &found);
    if (result != CUDA_SUCCESS)
        return result;
    wire->index = found->same ? func->index : found->place[func->index];
    return wire->index != NOWHERE ? CUDA_SUCCESS : CUDA_ERROR_NO_BINARY_FOR_GPU;
}

void
fdc_code_unload_elsewhere(struct fdc_code *code)
{
    struct fdc_session *session;
    struct fdc_call call;

    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++)
        if (fdc_load_acquire(&code->elsewhere[i]) != NULL &&
            fdc_call_open_in(&call, session, FDC_ID_cuLibraryUnload) == CUDA_SUCCESS)
            (void)fdc_code_drop(&call, code->wire, true);
}
