/*
 * Linking: inputs are collected here and go to the worker when the program completes;
 * what comes back is an image in this process's memory, to be loaded like any other.
 */
#include <stdlib.h>
#include <string.h>

#include "code.h"
#include "memory.h"
#include "cuda_calls.h"

#define BLOB_FIRST (256u << 10)

struct input {
    void *bytes;
    size_t size;
    uint32_t type;
    char *name;
};

struct fdc_link_state {
    struct fdc_object object;
    struct fdc_jit jit;
    pthread_mutex_t lock;
    struct input *input;
    uint32_t count, room;
    void *table; /* holds the finished image */
};

FDC_EXPORT CUresult
cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues,
                CUlinkState *stateOut)
{
    struct fdc_link_state *state;
    struct fdc_call call;
    struct fdc_jit jit;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcLinkRun, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (stateOut == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_jit_read(numOptions, options, optionValues, &jit);
    if (result != CUDA_SUCCESS)
        return result;
    state = fdc_object_new(call.session, FDC_KIND_LINK, sizeof(*state), call.context);
    if (state == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_init(&state->lock, NULL);
    state->jit = jit;
    *stateOut = (CUlinkState)(uintptr_t)state->object.handle;
    return CUDA_SUCCESS;
}

static CUresult
state_find(CUlinkState handle, struct fdc_link_state **state)
{
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    *state = fdc_object_find(FDC_KIND_LINK, handle);
    return *state != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

/* Takes bytes over. */
static CUresult
input_add(struct fdc_link_state *state, uint32_t type, void *bytes, size_t size,
          const char *name)
{
    struct input *grown;
    char *copy = strdup(name != NULL ? name : "");

    if (copy == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&state->lock);
    if (state->count == state->room) {
        uint32_t room = state->room != 0 ? 2 * state->room : 8;

        grown = realloc(state->input, room * sizeof(*grown));
        if (grown == NULL) {
            pthread_mutex_unlock(&state->lock);
            free(copy);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        state->input = grown;
        state->room = room;
    }
    state->input[state->count++] = (struct input){bytes, size, type, copy};
    pthread_mutex_unlock(&state->lock);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLinkAddData_v2(CUlinkState handle, CUjitInputType type, void *data, size_t size,
                 const char *name, unsigned int numOptions, CUjit_option *options,
                 void **optionValues)
{
    struct fdc_link_state *state;
    struct fdc_jit jit;
    CUresult result;
    char *bytes;

    result = state_find(handle, &state);
    if (result == CUDA_SUCCESS)
        result = fdc_jit_read(numOptions, options, optionValues, &jit);
    if (result != CUDA_SUCCESS)
        return result;
    if (data == NULL || size == 0 || (unsigned int)type >= CU_JIT_NUM_INPUT_TYPES)
        return CUDA_ERROR_INVALID_VALUE;
    bytes = calloc(1, size + 1);
    if (bytes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(bytes, data, size);
    /* Text ends with a NUL, whether the size says so or not. */
    if (type == CU_JIT_INPUT_PTX && bytes[size - 1] != '\0')
        size++;
    result = input_add(state, (uint32_t)type, bytes, size, name);
    if (result != CUDA_SUCCESS)
        free(bytes);
    return result;
}

FDC_EXPORT CUresult
cuLinkAddFile_v2(CUlinkState handle, CUjitInputType type, const char *path,
                 unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    struct fdc_link_state *state;
    struct fdc_image image;
    struct fdc_jit jit;
    CUresult result;

    result = state_find(handle, &state);
    if (result == CUDA_SUCCESS)
        result = fdc_jit_read(numOptions, options, optionValues, &jit);
    if (result != CUDA_SUCCESS)
        return result;
    if ((unsigned int)type >= CU_JIT_NUM_INPUT_TYPES)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdc_file_read(path, &image);
    if (result != CUDA_SUCCESS)
        return result;
    result = input_add(state, (uint32_t)type, image.owned,
                       image.size + (type == CU_JIT_INPUT_PTX), path);
    if (result != CUDA_SUCCESS)
        free(image.owned);
    return result;
}

static bool
table_sound(const struct fdc_table_link *table, uint64_t total)
{
    return total >= sizeof(*table) && table->image_offset <= total &&
           table->image_size <= total - table->image_offset &&
           table->log_offset <= total && table->log_size <= total - table->log_offset &&
           table->error_offset <= total &&
           table->error_size <= total - table->error_offset;
}

static CUresult
run_send(struct fdc_call *call, struct fdc_link_state *state,
         const struct fdc_link_input *inputs, const char *names, uint32_t names_size,
         uint64_t *missing)
{
    uint32_t inputs_size = state->count * (uint32_t)sizeof(*inputs);
    uint32_t options_size = state->jit.count * (uint32_t)sizeof(state->jit.wire[0]);
    uint32_t at = sizeof(struct fdc_req_fdcLinkRun);
    struct fdc_rep_fdcLinkRun rep;
    struct fdc_req_fdcLinkRun *req;
    struct fdc_table_link *table;
    struct fdc_chunk blob;
    CUresult result, fetched;
    void *bytes = NULL;

    result = fdc_stage_alloc(call->session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    call->id = FDC_ID_fdcLinkRun;
    req = fdc_call_begin(call, at + inputs_size + FDC_ALIGN_UP(names_size, 8u) +
                                   options_size);
    if (req == NULL) {
        result = call->result;
        goto out;
    }
    req->inputs = (struct fdc_span){at, inputs_size};
    req->inputs_size = inputs_size;
    memcpy((char *)req + at, inputs, inputs_size);
    at += inputs_size;
    req->names = (struct fdc_span){at, names_size};
    req->names_size = names_size;
    memcpy((char *)req + at, names, names_size);
    at += FDC_ALIGN_UP(names_size, 8u);
    req->options = (struct fdc_span){at, options_size};
    req->options_size = options_size;
    memcpy((char *)req + at, state->jit.wire, options_size);
    req->blob = blob;
    memset(&rep, 0, sizeof(rep));
    result = fdc_call_wait(call, &rep, sizeof(rep));
    *missing = call->own.size >= sizeof(rep) ? rep.missing : 0;
    if (*missing != 0)
        goto out;
    if (call->own.size < sizeof(rep) || rep.total == 0) {
        if (result == CUDA_SUCCESS)     /* linked, and nothing that came of it */
            result = CUDA_ERROR_UNKNOWN;
        goto out;
    }
    fetched = fdc_blob_rest(call, &blob, rep.total, &bytes);
    if (fetched != CUDA_SUCCESS || !table_sound(bytes, rep.total)) {
        free(bytes);
        if (result == CUDA_SUCCESS)
            result = fetched != CUDA_SUCCESS ? fetched : CUDA_ERROR_UNKNOWN;
        goto out;
    }
    table = bytes;
    fdc_jit_logs(&state->jit, (char *)bytes + table->log_offset, table->log_size,
                 (char *)bytes + table->error_offset, table->error_size);
    free(state->table);
    state->table = bytes;
out:
    fdc_stage_free(call->session, FDC_REGION_DOWN, &blob);
    return result;
}

/* Under the state's lock. */
static CUresult
run(struct fdc_call *call, struct fdc_link_state *state)
{
    struct fdc_link_input *inputs = calloc(state->count + 1, sizeof(*inputs));
    uint32_t names_size = 0, sent = 0;
    uint64_t missing = 0;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    char *names = NULL;

    for (uint32_t i = 0; i < state->count; i++)
        names_size += (uint32_t)strlen(state->input[i].name) + 1;
    if (inputs == NULL || state->count > 4096 || names_size > 1u << 18)
        goto out;
    names = malloc(names_size);
    if (names == NULL)
        goto out;
    names_size = 0;
    for (uint32_t i = 0; i < state->count; i++) {
        uint32_t length = (uint32_t)strlen(state->input[i].name) + 1;

        memcpy(names + names_size, state->input[i].name, length);
        inputs[i].name_offset = names_size;
        inputs[i].type = state->input[i].type;
        names_size += length;
        result = fdc_image_announce(call, state->input[i].bytes, state->input[i].size,
                                    &inputs[i].image);
        if (result == CUDA_SUCCESS && i >= FDC_LINK_ASKED && !call->session->codes->uncached)
            result = fdc_image_send(call, inputs[i].image, state->input[i].bytes,
                                    state->input[i].size);
        if (result != CUDA_SUCCESS)
            goto out;
        sent++;
    }
    result = run_send(call, state, inputs, names, names_size, &missing);
    for (uint32_t i = 0; i < FDC_LINK_ASKED && result == CUDA_SUCCESS; i++)
        if (missing >> i & 1 && i < state->count)
            result = fdc_image_send(call, inputs[i].image, state->input[i].bytes,
                                    state->input[i].size);
    if (result == CUDA_SUCCESS && missing != 0) {
        result = run_send(call, state, inputs, names, names_size, &missing);
        if (result == CUDA_SUCCESS && missing != 0)
            result = CUDA_ERROR_UNKNOWN;
    }
    if (result == CUDA_SUCCESS)
        sent = 0; /* taken, all of them */
out:
    while (sent > 0)
        fdc_image_drop(call, inputs[--sent].image);
    free(names);
    free(inputs);
    return result;
}

FDC_EXPORT CUresult
cuLinkComplete(CUlinkState handle, void **cubinOut, size_t *sizeOut)
{
    struct fdc_link_state *state;
    const struct fdc_table_link *table;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcLinkRun,
                           FDC_NEEDS_CONTEXT | FDC_UNSAFE_IN_CAPTURE);
    if (result == CUDA_SUCCESS)
        result = state_find(handle, &state);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&state->lock);
    result = state->count != 0 ? run(&call, state) : CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) {
        table = state->table;
        if (cubinOut != NULL)
            *cubinOut = (char *)state->table + table->image_offset;
        if (sizeOut != NULL)
            *sizeOut = table->image_size;
    }
    pthread_mutex_unlock(&state->lock);
    return result;
}

FDC_EXPORT CUresult
cuLinkDestroy(CUlinkState handle)
{
    struct fdc_link_state *state;
    CUresult result;

    result = state_find(handle, &state);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_object_drop(state); /* its memory stays a while; what it has goes now */
    pthread_mutex_lock(&state->lock);
    for (uint32_t i = 0; i < state->count; i++) {
        free(state->input[i].bytes);
        free(state->input[i].name);
    }
    free(state->input);
    free(state->table);
    state->input = NULL;
    state->table = NULL;
    state->count = state->room = 0;
    pthread_mutex_unlock(&state->lock);
    return CUDA_SUCCESS;
}
