/*
 * Parts of a device. The driver's resources are kept here and named by tokens: they hold
 * addresses of the driver's, which nobody else may say. A green context's own context is
 * adopted like one that the program made, and ends with it.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 65536, GROUPS_MAX = 256, TYPE_SM = 1 };

struct fdc_greens {
    pthread_mutex_t lock;
    CUdevResource *resource;
    uint32_t count, room;
};

struct fdc_greens *
fdc_greens_new(void)
{
    struct fdc_greens *greens = calloc(1, sizeof(*greens));

    if (greens != NULL)
        pthread_mutex_init(&greens->lock, NULL);
    return greens;
}

static void
end_green(struct fdc_serve *serve, void *value, void *aux)
{
    (void)aux;
    if (FDC_HAS(serve->driver, cuGreenCtxDestroy))
        serve->driver->cuGreenCtxDestroy(value);
}

/* After their contexts and streams. */
void
fdc_greens_free(struct fdc_serve *serve)
{
    if (serve->greens == NULL)
        return;
    if (serve->slots != NULL)
        fdc_handle_sweep(serve, FDC_KIND_GREEN_CTX, 0, end_green);
    pthread_mutex_destroy(&serve->greens->lock);
    free(serve->greens->resource);
    free(serve->greens);
    serve->greens = NULL;
}

/* ---- tokens: places in the list, from 1 ---- */

/* Room for so many more in a row; the first one's token. */
static CUresult
keep(struct fdc_greens *greens, const CUdevResource *resource, uint32_t count,
     uint32_t *first)
{
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&greens->lock);
    if (count > TOKENS_MAX - greens->count) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else if (greens->count + count > greens->room) {
        uint32_t room = 2 * greens->room + count;
        CUdevResource *more = realloc(greens->resource, room * sizeof(*more));

        if (more == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            greens->resource = more;
            greens->room = room;
        }
    }
    if (result == CUDA_SUCCESS) {
        memcpy(&greens->resource[greens->count], resource, count * sizeof(*resource));
        *first = greens->count + 1;
        greens->count += count;
    }
    pthread_mutex_unlock(&greens->lock);
    return result;
}

static CUresult
find(struct fdc_greens *greens, uint32_t token, CUdevResource *resource)
{
    CUresult result = CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;

    pthread_mutex_lock(&greens->lock);
    if (token != 0 && token <= greens->count) {
        *resource = greens->resource[token - 1];
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&greens->lock);
    return result;
}

/* ---- calls ---- */

static CUresult
ask(struct fdc_serve *serve, const struct fdc_req_fdcGreenResource *req,
    CUdevResource *resource)
{
    const struct fdc_driver *driver = serve->driver;
    CUdevice device;
    void *value;
    CUresult result;

    switch (req->of) {
    case 0:
        result = fdc_serve_device(serve, req->device, &device);
        if (result != CUDA_SUCCESS)
            return result;
        return FDC_HAS(driver, cuDeviceGetDevResource)
                   ? driver->cuDeviceGetDevResource(device, resource, req->type)
                   : CUDA_ERROR_NOT_SUPPORTED;
    case 1:
        result = fdc_handle_get(serve, FDC_KIND_CONTEXT, req->handle, &value);
        if (result != CUDA_SUCCESS)
            return result;
        return FDC_HAS(driver, cuCtxGetDevResource)
                   ? driver->cuCtxGetDevResource(value, resource, req->type)
                   : CUDA_ERROR_NOT_SUPPORTED;
    default:
        result = fdc_handle_get(serve, FDC_KIND_GREEN_CTX, req->handle, &value);
        if (result != CUDA_SUCCESS)
            return result;
        return FDC_HAS(driver, cuGreenCtxGetDevResource)
                   ? driver->cuGreenCtxGetDevResource(value, resource, req->type)
                   : CUDA_ERROR_NOT_SUPPORTED;
    }
}

int
fdc_server_call_fdcGreenResource(struct fdc_request *request,
                                 const struct fdc_req_fdcGreenResource *req)
{
    struct fdc_rep_fdcGreenResource reply = { 0 };
    CUdevResource resource;
    CUresult result = CUDA_ERROR_INVALID_RESOURCE_TYPE;

    memset(&resource, 0, sizeof(resource));
    if (req->type == TYPE_SM)
        result = ask(request->serve, req, &resource);
    if (result == CUDA_SUCCESS)
        result = keep(request->serve->greens, &resource, 1, &reply.token);
    reply.sms = resource.sm.smCount;
    reply.least = resource.sm.minSmPartitionSize;
    reply.align = resource.sm.smCoscheduledAlignment;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGreenSplit(struct fdc_request *request,
                              const struct fdc_req_fdcGreenSplit *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_greens *greens = request->serve->greens;
    struct fdc_rep_fdcGreenSplit reply = { 0 };
    CUdevResource input, rest, *groups = NULL;
    unsigned int made = req->count_only ? 0 : req->wanted;
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    memset(&rest, 0, sizeof(rest));
    if (made > GROUPS_MAX || (!req->count_only && made == 0))
        goto answer;
    result = find(greens, req->token, &input);
    if (result == CUDA_SUCCESS && !FDC_HAS(driver, cuDevSmResourceSplitByCount))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result != CUDA_SUCCESS)
        goto answer;
    if (!req->count_only) {
        groups = calloc(made, sizeof(*groups));
        result = CUDA_ERROR_OUT_OF_MEMORY;
        if (groups == NULL)
            goto answer;
    }
    result = driver->cuDevSmResourceSplitByCount(groups, &made, &input, &rest, req->flags,
                                                 req->each);
    reply.made = made;
    if (result != CUDA_SUCCESS || req->count_only || made == 0 || made > req->wanted)
        goto answer;
    result = keep(greens, groups, made, &reply.first);
    if (result == CUDA_SUCCESS && rest.type == TYPE_SM && rest.sm.smCount != 0)
        result = keep(greens, &rest, 1, &reply.rest);
    reply.sms = groups[0].sm.smCount;
    reply.least = groups[0].sm.minSmPartitionSize;
    reply.align = groups[0].sm.smCoscheduledAlignment;
    reply.rest_sms = rest.sm.smCount;
answer:
    free(groups);
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcGreenCreate(struct fdc_request *request,
                               const struct fdc_req_fdcGreenCreate *req)
{
    const struct fdc_driver *driver = request->driver;
    const uint8_t *tokens = fdc_request_span(request, req->tokens);
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGreenCreate reply = { 0 };
    CUdevResource *resource = NULL;
    CUdevResourceDesc desc;
    unsigned long long id = 0;
    CUgreenCtx green;
    CUdevice device;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    uint32_t token;

    if (req->count > GROUPS_MAX || req->tokens.size != req->count * 4 || tokens == NULL)
        return -EPROTO;
    if (req->count == 0)
        goto answer;
    result = fdc_serve_device(serve, req->device, &device);
    if (result == CUDA_SUCCESS &&
        (!FDC_HAS(driver, cuGreenCtxCreate) || !FDC_HAS(driver, cuDevResourceGenerateDesc)))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result != CUDA_SUCCESS)
        goto answer;
    resource = calloc(req->count, sizeof(*resource));
    if (resource == NULL)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < req->count && result == CUDA_SUCCESS; i++) {
        memcpy(&token, tokens + 4 * i, 4);
        result = find(serve->greens, token, &resource[i]);
    }
    if (result == CUDA_SUCCESS)
        result = driver->cuDevResourceGenerateDesc(&desc, resource, req->count);
    if (result == CUDA_SUCCESS)
        result = driver->cuGreenCtxCreate(&green, desc, device, req->flags);
    if (result != CUDA_SUCCESS)
        goto answer;
    if (FDC_HAS(driver, cuGreenCtxGetId))
        driver->cuGreenCtxGetId(green, &id);
    reply.id = id;
    result = fdc_handle_put(serve, FDC_KIND_GREEN_CTX, req->green, green, 0);
    if (result != CUDA_SUCCESS)
        driver->cuGreenCtxDestroy(green);
answer:
    free(resource);
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_cuGreenCtxDestroy(struct fdc_request *request,
                                  const struct fdc_req_cuGreenCtxDestroy *req)
{
    void *green;
    CUresult result;

    result = fdc_handle_drop(request->serve, FDC_KIND_GREEN_CTX, req->hCtx, &green);
    if (result == CUDA_SUCCESS)
        result = request->driver->cuGreenCtxDestroy(green);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGreenContext(struct fdc_request *request,
                                const struct fdc_req_fdcGreenContext *req)
{
    struct fdc_serve *serve = request->serve;
    CUresult result = CUDA_ERROR_INVALID_DEVICE;
    CUcontext value;
    void *green;

    if (req->device < 0 || req->device >= serve->limits.devices)
        goto answer;
    result = fdc_handle_get(serve, FDC_KIND_GREEN_CTX, req->green, &green);
    if (result == CUDA_SUCCESS)
        result = FDC_HAS(serve->driver, cuCtxFromGreenCtx)
                     ? serve->driver->cuCtxFromGreenCtx(&value, green)
                     : CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS)
        result = fdc_context_borrow(serve, req->context, req->device, value);
answer:
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGreenStream(struct fdc_request *request,
                               const struct fdc_req_fdcGreenStream *req)
{
    const struct fdc_driver *driver = request->driver;
    CUstream stream = NULL;
    CUresult result;
    void *green;

    result = fdc_handle_get(request->serve, FDC_KIND_GREEN_CTX, req->green, &green);
    if (result == CUDA_SUCCESS)
        result = FDC_HAS(driver, cuGreenCtxStreamCreate)
                     ? driver->cuGreenCtxStreamCreate(&stream, green, req->flags,
                                                      req->priority)
                     : CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS)
        result = fdc_handle_put(request->serve, FDC_KIND_STREAM, req->stream, stream,
                                request->ctx);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
