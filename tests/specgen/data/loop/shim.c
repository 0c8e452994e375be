/* The application's side of the loop: what generated stubs call, as little as will do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "shim/shim.h"
#include "shim_hooks.h"

CUresult loop_serve(const void *message, uint32_t size, void *reply, uint32_t room);

#define EQUAL(a, b) equal(#a, (long long)(a), (long long)(b), __LINE__)

static int failed;

static void
equal(const char *what, long long found, long long wanted, int line)
{
    if (found == wanted)
        return;
    printf("line %d: %s is %lld, not %lld\n", line, what, found, wanted);
    failed = 1;
}

static struct fdc_session session;
static struct fdc_device device = { .session = &session, .ordinal = 3, .remote = 7 };
static struct fdc_stream streams[2];
static struct fdc_func func = { .index = 5 };
static struct fdc_object *objects[64];
static int live, stream_asked, work_asked;
static CUresult open_result;

CUresult
fdc_call_open(struct fdc_call *call, uint16_t id, unsigned needs)
{
    memset(call, 0, sizeof(*call));
    call->session = &session;
    call->id = id;
    EQUAL(needs, id == FDC_ID_cuMissing ? 0 : FDC_NEEDS_CONTEXT);
    return open_result;
}

void *
fdc_call_begin(struct fdc_call *call, uint32_t size)
{
    EQUAL(size % 8, 0);
    call->msg = malloc(size);           /* exactly: a sanitizer sees a byte too many */
    memset(call->msg, 0xa5, size);
    call->msg->size = size;
    call->msg->id = call->id;
    return call->msg;
}

CUresult
fdc_call_wait(struct fdc_call *call, void *reply, uint32_t room)
{
    CUresult result = loop_serve(call->msg, call->msg->size, reply, room);

    free(call->msg);
    return result;
}

CUresult
fdc_call_send(struct fdc_call *call)
{
    loop_serve(call->msg, call->msg->size, NULL, 0);
    free(call->msg);
    return CUDA_SUCCESS;
}

void *
fdc_object_new(struct fdc_session *s, enum fdc_kind kind, size_t size,
               struct fdc_context *context)
{
    struct fdc_object *object = calloc(1, size);

    (void)context;
    EQUAL(s == &session, 1);
    object->session = s;
    live++;
    for (unsigned at = 1; at < FDC_COUNT(objects); at++) {
        if (objects[at] == NULL) {
            objects[at] = object;
            object->handle = FDC_HANDLE(kind, 1, at);
            break;
        }
    }
    return object;
}

void *
fdc_object_find(enum fdc_kind kind, const void *handle)
{
    uint64_t value = (uint64_t)(uintptr_t)handle;

    if (FDC_HANDLE_KIND(value) != kind || FDC_HANDLE_INDEX(value) >= FDC_COUNT(objects))
        return NULL;
    return objects[FDC_HANDLE_INDEX(value)];
}

void
fdc_object_drop(void *object)
{
    struct fdc_object *dropped = object;

    objects[FDC_HANDLE_INDEX(dropped->handle)] = NULL;
    free(dropped);
    live--;
}

struct fdc_device *
fdc_device(CUdevice ordinal)
{
    return ordinal == 3 ? &device : NULL;
}

CUresult
fdc_stream_resolve(struct fdc_call *call, CUstream value, unsigned how,
                   struct fdc_stream **stream)
{
    (void)call;
    (void)value;
    stream_asked++;
    work_asked += (how & FDC_STREAM_WORK) != 0;
    *stream = &streams[(how & FDC_STREAM_PER_THREAD_ZERO) != 0];
    return CUDA_SUCCESS;
}

uint64_t
fdc_stream_wire(const struct fdc_stream *stream)
{
    return 0x40 + (uint64_t)(stream - streams);
}

struct fdc_func *
fdc_func_find(const void *handle)
{
    return handle == NULL ? NULL : &func;
}

CUresult
fdc_func_wire(const struct fdc_call *call, const struct fdc_func *f,
              struct fdc_wire_func *wire)
{
    EQUAL(call->session == &session, 1);
    EQUAL(f->index, 5);
    *wire = (struct fdc_wire_func){ 0x99, f->index, 0 };
    return CUDA_SUCCESS;
}

CUresult
fdc_across_begin(struct fdc_call *call, struct fdc_stream **stream, uint64_t address)
{
    (void)call;
    (void)stream;
    (void)address;
    return CUDA_SUCCESS;
}

CUresult
fdc_across_end(struct fdc_call *call, struct fdc_stream *stream, CUresult result)
{
    (void)call;
    (void)stream;
    return result;
}

/* Two allocations of 256 bytes in a row at 0x1000; a pinned page at 0x9000. */
CUresult
fdc_place_check(struct fdc_call *call, uint64_t address, uint64_t size)
{
    (void)call;
    if (address == 0x9000)
        return CUDA_ERROR_NOT_SUPPORTED;
    return size == 0 || (address >= 0x1000 && address + size <= 0x1200)
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

CUresult
fdc_refuse(const char *name, uint32_t *said)
{
    (void)name;
    (void)said;
    return CUDA_ERROR_NOT_SUPPORTED;
}

static int before, after;

CUresult
fdc_shim_before_cuAsk(struct fdc_call *call, CUtensorMap **map, int **both,
                      const CUextent3D **maybe, const uint32_t **few,
                      const void **bytes, uint32_t *count, const char **name,
                      void **reserved, CUdevice *dev, CUfunction *function,
                      size_t **size)
{
    (void)call, (void)map, (void)both, (void)maybe, (void)few, (void)bytes, (void)name;
    (void)reserved, (void)dev, (void)function, (void)size;
    before++;
    return *count == 1000 ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}

CUresult
fdc_shim_after_cuAsk(struct fdc_call *call, CUtensorMap *map, int *both,
                     const CUextent3D *maybe, const uint32_t *few,
                     const void *bytes, uint32_t count, const char *name,
                     void *reserved, CUdevice dev, CUfunction function, size_t *size,
                     CUresult result, const struct fdc_rep_cuAsk *rep)
{
    (void)call, (void)map, (void)both, (void)maybe, (void)few, (void)bytes, (void)count;
    (void)name, (void)reserved, (void)dev, (void)function, (void)size;
    after++;
    EQUAL(rep != NULL, result == CUDA_SUCCESS);
    return result;
}

extern int loop_fills, loop_things, loop_handles;
extern uint64_t loop_stream;

int
main(void)
{
    CUextent3D maybe = { 1, 2, 3 };
    uint32_t few[] = { 11, 12, 13, 14, 15 };
    CUfunction function = (CUfunction)(uintptr_t)0x77;
    CUcontext context;
    struct fdc_context *made;
    CUgraph thing = NULL, copy = NULL;
    CUtensorMap map;
    size_t size = 0;
    int both = 40, n = 0;

    EQUAL(cuThingMake(NULL, 2), CUDA_ERROR_INVALID_VALUE);
    EQUAL(live, 0);
    EQUAL(cuThingMake(&thing, 2), CUDA_SUCCESS);
    EQUAL(loop_things, 1);
    EQUAL(cuThingCopy(&copy, thing, NULL), CUDA_ERROR_INVALID_HANDLE);
    made = fdc_object_new(&session, FDC_KIND_CONTEXT, sizeof(*made), NULL);
    context = (CUcontext)(uintptr_t)made->object.handle;
    EQUAL(cuThingCopy(&copy, thing, context), CUDA_SUCCESS);
    EQUAL(live, 3);
    EQUAL(copy != thing, 1);
    EQUAL(cuThingDrop(thing), CUDA_SUCCESS);
    EQUAL(cuThingDrop(thing), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(loop_things, 1);
    EQUAL(loop_handles, 1);
    EQUAL(cuThingDrop(copy), CUDA_SUCCESS);
    EQUAL(loop_handles, 0);
    EQUAL(live, 1);
    fdc_object_drop(made);

    EQUAL(cuFillAsync(0x1080, 9, 0x180, NULL), CUDA_SUCCESS);
    EQUAL(cuFillAsync(0x1080, 9, 0x181, NULL), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuFillAsync(0x2000, 9, 1, NULL), CUDA_ERROR_INVALID_VALUE);
    EQUAL(cuFillAsync(0x2000, 9, 0, NULL), CUDA_SUCCESS);
    EQUAL(cuFillAsync(0x9000, 9, 1, NULL), CUDA_ERROR_NOT_SUPPORTED);
    EQUAL(loop_stream, 0x40);
    EQUAL(cuFillAsync_ptsz(0x1000, 9, 1, NULL), CUDA_SUCCESS);
    EQUAL(loop_stream, 0x41);
    EQUAL(cuFill(0x1000, 9, 1), CUDA_SUCCESS);
    EQUAL(loop_stream, 0x40);
    EQUAL(cuFill_ptds(0x1000, 9, 1), CUDA_SUCCESS);
    EQUAL(loop_stream, 0x41);
    EQUAL(loop_fills, 5);
    EQUAL(stream_asked, 8); /* ranges are looked at last */
    EQUAL(work_asked, 8);

#define ASK(maybe, few, bytes, count, name, reserved, device, function) \
    cuAsk(&map, &both, maybe, few, bytes, count, name, reserved, device, function, &size)
    EQUAL(ASK(&maybe, few, "abcde", 5, "name", NULL, 3, function), CUDA_SUCCESS);
    EQUAL(both, 41);
    EQUAL(size, 4);
    EQUAL(map.opaque[15], 1 + 2 + 3 + 11 + 12 + 13 + 14 + 'e');
    EQUAL(before, 1);
    EQUAL(after, 1);
    EQUAL(ASK(NULL, NULL, "a", 1, "", NULL, 3, function), CUDA_SUCCESS);
    EQUAL(map.opaque[15], 'a');
    EQUAL(size, 0);
    EQUAL(cuAsk(&map, &both, NULL, NULL, "a", 1, "x", NULL, 3, function, NULL), 0);
    EQUAL(cuAsk(NULL, &both, NULL, NULL, "a", 1, "x", NULL, 3, function, NULL),
          CUDA_ERROR_INVALID_VALUE);
    EQUAL(ASK(NULL, few, "abcdef", 6, "name", NULL, 3, function),
          CUDA_ERROR_INVALID_VALUE);
    EQUAL(ASK(NULL, NULL, "", 0, "name", NULL, 3, function), CUDA_ERROR_INVALID_VALUE);
    EQUAL(ASK(NULL, NULL, NULL, 1, "name", NULL, 3, function), CUDA_ERROR_INVALID_VALUE);
    EQUAL(ASK(NULL, NULL, "a", 1, NULL, NULL, 3, function), CUDA_ERROR_INVALID_VALUE);
    EQUAL(ASK(NULL, NULL, "a", 1, "x", &n, 3, function), CUDA_ERROR_NOT_SUPPORTED);
    EQUAL(ASK(NULL, NULL, "a", 1, "x", NULL, 4, function), CUDA_ERROR_INVALID_DEVICE);
    EQUAL(ASK(NULL, NULL, "a", 1, "x", NULL, 3, NULL), CUDA_ERROR_INVALID_HANDLE);
    EQUAL(ASK(NULL, NULL, "a", 1000, "x", NULL, 3, function), CUDA_ERROR_UNKNOWN);
    both = -1;
    EQUAL(ASK(NULL, NULL, "a", 1, "x", NULL, 3, function), CUDA_ERROR_INVALID_IMAGE);
    EQUAL(both, -1);

    EQUAL(cuMissing(&n), CUDA_ERROR_NOT_SUPPORTED);
    open_result = CUDA_ERROR_NOT_INITIALIZED;
    EQUAL(cuMissing(&n), CUDA_ERROR_NOT_INITIALIZED);
    return failed;
}
