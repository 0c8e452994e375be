/* The device's side of the loop: what generated dispatch calls, and a driver. Each message
 * is also served cut short and with every span bent, which must be -EPROTO. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/server.h"

int loop_fills, loop_things, loop_handles;
uint64_t loop_stream;

static void *values[64];
static CUresult last;
static void *reply_to;
static uint32_t reply_room;

static CUresult
thing_make(CUgraph *thing, unsigned int flags)
{
    loop_things++;
    *thing = (CUgraph)(uintptr_t)(0x100 + flags);
    return CUDA_SUCCESS;
}

static CUresult
thing_copy(CUgraph *copy, CUgraph thing, CUcontext context)
{
    (void)context;
    if (thing != (CUgraph)(uintptr_t)0x102)
        return CUDA_ERROR_UNKNOWN;
    return thing_make(copy, 3);
}

static CUresult
thing_drop(CUgraph thing)
{
    (void)thing;
    loop_things--;
    return CUDA_SUCCESS;
}

static CUresult
fill(CUdeviceptr to, unsigned char value, size_t count, CUstream stream)
{
    (void)to;
    (void)count;
    loop_fills += value == 9;
    loop_stream = (uint64_t)(uintptr_t)stream;
    return CUDA_SUCCESS;
}

static CUresult
ask(CUtensorMap *map, int *both, const CUextent3D *maybe, const uint32_t *few,
    const void *bytes, uint32_t count, const char *name, void *reserved, CUdevice device,
    CUfunction function, size_t *size)
{
    uint64_t sum = 0;

    if (*both < 0)
        return CUDA_ERROR_INVALID_IMAGE;
    if (reserved != NULL || device != 8 || function != (CUfunction)(uintptr_t)0x9905 ||
        (uintptr_t)map % _Alignof(CUtensorMap) != 0)
        return CUDA_ERROR_UNKNOWN;
    if (maybe != NULL)
        sum += maybe->width + maybe->height + maybe->depth;
    for (uint32_t at = 0; few != NULL && at < count - 1; at++)
        sum += few[at];
    sum += ((const unsigned char *)bytes)[count - 1];
    map->opaque[15] = sum;
    *size = strlen(name);
    *both += 1;
    return CUDA_SUCCESS;
}

static const struct fdc_driver driver = {
    .cuThingMake = thing_make, .cuThingCopy = thing_copy, .cuThingDrop = thing_drop,
    .cuFillAsync = fill, .cuAsk = ask,
};

void
fdc_request_answer(struct fdc_request *request, CUresult result, void *reply,
                   uint32_t size)
{
    (void)request;
    last = result;
    if (reply_to != NULL && size <= reply_room)
        memcpy(reply_to, reply, size);
}

CUresult
fdc_handle_put(struct fdc_serve *serve, int kind, uint64_t handle, void *value,
               uint32_t ctx)
{
    (void)serve, (void)kind, (void)ctx;
    values[FDC_HANDLE_INDEX(handle)] = value;
    loop_handles++;
    return CUDA_SUCCESS;
}

CUresult
fdc_handle_get(struct fdc_serve *serve, int kind, uint64_t handle, void **value)
{
    (void)serve;
    *value = values[FDC_HANDLE_INDEX(handle)];
    return kind == FDC_KIND_CONTEXT || *value != NULL ? 0 : CUDA_ERROR_INVALID_HANDLE;
}

CUresult
fdc_handle_drop(struct fdc_serve *serve, int kind, uint64_t handle, void **value)
{
    CUresult result = fdc_handle_get(serve, kind, handle, value);

    values[FDC_HANDLE_INDEX(handle)] = NULL;
    loop_handles--;
    return result;
}

CUresult
fdc_handle_stream(struct fdc_serve *serve, uint64_t handle, CUstream *value)
{
    (void)serve;
    *value = (CUstream)(uintptr_t)handle;
    return CUDA_SUCCESS;
}

CUresult
fdc_memory_reach(struct fdc_serve *serve, uint64_t address, unsigned __int128 size)
{
    (void)serve;
    (void)address;
    (void)size;
    return CUDA_SUCCESS;
}

CUresult
fdc_serve_device(struct fdc_serve *serve, int remote, CUdevice *value)
{
    (void)serve;
    *value = remote + 1;
    return CUDA_SUCCESS;
}

CUresult
fdc_code_function(struct fdc_serve *serve, struct fdc_wire_func func, CUfunction *value)
{
    (void)serve;
    *value = (CUfunction)(uintptr_t)(func.code << 8 | func.index);
    return CUDA_SUCCESS;
}

const void *
fdc_request_span(const struct fdc_request *request, struct fdc_span span)
{
    if (span.offset > request->size || span.size > request->size - span.offset)
        return NULL;
    return (const uint8_t *)request->msg + span.offset;
}

static void
must_lie(const struct fdc_serve_entry *entry, struct fdc_request *request,
         const char *how)
{
    if (entry->fn(request) != -EPROTO) {
        printf("%s with %s is served\n", entry->name, how);
        exit(1);
    }
}

static void
bend(const struct fdc_serve_entry *entry, struct fdc_request *request, void *bent)
{
    struct fdc_req_cuAsk *req = bent, kept = *req;
    struct fdc_span *spans[] = { &req->bytes, &req->name };

    for (size_t at = 0; at < FDC_COUNT(spans); at++) {
        spans[at]->size++;
        must_lie(entry, request, "a span too long");
        *req = kept;
        spans[at]->offset = request->size;
        must_lie(entry, request, "a span outside");
        *req = kept;
        spans[at]->offset = 0xfffffff0;
        must_lie(entry, request, "a span far outside");
        *req = kept;
    }
    req->count++;
    must_lie(entry, request, "another count");
    *req = kept;
    req->name.size = 0;
    must_lie(entry, request, "an empty string");
    *req = kept;
}

CUresult
loop_serve(const void *message, uint32_t size, void *reply, uint32_t room)
{
    struct fdc_request request = { .driver = &driver, .size = size };
    const struct fdc_serve_entry *entry;
    void *copy = malloc(size);

    memcpy(copy, message, size);
    request.msg = copy;
    request.id = request.msg->id;
    entry = fdc_serve_entry(request.id);
    if (entry == NULL || fdc_serve_entry(0x7fff) != NULL || entry->min_size > size)
        exit(1);
    request.size = entry->min_size - 1;
    must_lie(entry, &request, "too few bytes");
    request.size = size;
    if (request.id == FDC_ID_cuAsk)
        bend(entry, &request, copy);

    reply_to = reply;
    reply_room = room;
    if (entry->fn(&request))
        exit(1);
    free(copy);
    return last;
}
