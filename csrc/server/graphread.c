/*
 * Parameters of nodes that the driver made by itself, captured ones and clones, given
 * back in the client's words: functions, events, arrays and host functions as what they
 * are called by the client.
 */
#include <stdlib.h>
#include <string.h>

#include "server/graph.h"
#include "server_hooks.h"

/* A node's parameters as they travel; grows for what follows the fixed part. */
struct told {
    struct fdc_graph_params *params;
    size_t size;
};

/* Makes room for the body: NULL without memory. */
static void *
tell(struct told *told, uint32_t type, size_t size)
{
    told->size = sizeof(*told->params) + FDC_ALIGN_UP(size, (size_t)8);
    told->params = calloc(1, told->size);
    if (told->params == NULL)
        return NULL;
    told->params->type = type;
    told->params->size = (uint32_t)size;
    return told->params->body;
}

/* The driver's parameters, of either form, packed as the kernel lays them out. */
static CUresult
pack(const struct fdc_code_row *row, const CUDA_KERNEL_NODE_PARAMS *kernel, void *to,
     size_t size)
{
    const void *bytes = NULL;
    size_t given = 0;

    for (uint32_t i = 0; kernel->kernelParams != NULL && i < row->param_count; i++)
        memcpy((char *)to + row->param[i].offset, kernel->kernelParams[i],
               row->param[i].size);
    if (kernel->kernelParams != NULL || kernel->extra == NULL)
        return CUDA_SUCCESS;
    for (int i = 0; i < 16 && kernel->extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
        if (kernel->extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER)
            bytes = kernel->extra[i + 1];
        else if (kernel->extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE)
            given = *(const size_t *)kernel->extra[i + 1];
    }
    if (bytes == NULL && given != 0)
        return CUDA_ERROR_UNKNOWN;
    if (given != 0)
        memcpy(to, bytes, given < size ? given : size);
    return CUDA_SUCCESS;
}

static CUresult
read_kernel(struct fdc_serve *serve, CUgraphNode node, struct told *told)
{
    const struct fdc_driver *driver = serve->driver;
    CUDA_KERNEL_NODE_PARAMS kernel = {0};
    struct fdc_node_kernel *body;
    struct fdc_code_row row;
    CUresult result;

    if (!FDC_HAS(driver, cuGraphKernelNodeGetParams_v2))
        return CUDA_ERROR_NOT_SUPPORTED;
    result = driver->cuGraphKernelNodeGetParams_v2(node, &kernel);
    if (result == CUDA_SUCCESS)
        result = fdc_code_row(serve, kernel.func, kernel.kern, &row);
    if (result != CUDA_SUCCESS)
        return result;
    body = tell(told, CU_GRAPH_NODE_TYPE_KERNEL, sizeof(*body) + row.param_bytes);
    if (body == NULL) {
        free(row.param);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    body->func = row.func;
    body->grid = (struct fdc_dim3){kernel.gridDimX, kernel.gridDimY, kernel.gridDimZ};
    body->block =
        (struct fdc_dim3){kernel.blockDimX, kernel.blockDimY, kernel.blockDimZ};
    body->shared = kernel.sharedMemBytes;
    body->params_size = row.param_bytes;
    result = pack(&row, &kernel, body + 1, row.param_bytes);
    free(row.param);
    return result;
}

/* One end of a copy. */
static CUresult
read_end(struct fdc_serve *serve, CUmemorytype type, CUdeviceptr device,
         const void *host, CUarray array, struct fdc_copy_end *end)
{
    struct fdc_shadow *shadow;

    switch ((int)type) {
    case CU_MEMORYTYPE_ARRAY:
        end->memory = FDC_COPY_ARRAY;
        end->base = fdc_handle_of(serve, FDC_KIND_ARRAY, array);
        return end->base != 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
    case CU_MEMORYTYPE_DEVICE:
    case CU_MEMORYTYPE_UNIFIED:
        end->memory = FDC_COPY_DEVICE;
        end->base = device;
        if (fdc_memory_check(serve, device, 1) == CUDA_SUCCESS)
            return CUDA_SUCCESS;
        host = (const void *)(uintptr_t)device;
        break;
    default:
        break;
    }
    /* Of the worker's own memory only shadows are anything to the client. */
    if (fdc_host_check(serve, (uint64_t)(uintptr_t)host, 1) == CUDA_SUCCESS) {
        end->memory = FDC_COPY_DEVICE;
        end->base = (uint64_t)(uintptr_t)host;
        return CUDA_SUCCESS;
    }
    shadow = fdc_shadow_at(serve, host);
    if (shadow == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    end->memory = FDC_COPY_SHADOW;
    end->base = shadow->handle;
    end->x += (uint64_t)((const uint8_t *)host - shadow->bytes);
    fdc_shadow_put(serve, shadow);
    return CUDA_SUCCESS;
}

static CUresult
read_memcpy(struct fdc_serve *serve, CUgraphNode node, struct told *told)
{
    struct fdc_node_memcpy *body;
    CUDA_MEMCPY3D copy = {0};
    CUresult result;

    result = serve->driver->cuGraphMemcpyNodeGetParams(node, &copy);
    if (result != CUDA_SUCCESS)
        return result;
    body = tell(told, CU_GRAPH_NODE_TYPE_MEMCPY, sizeof(*body));
    if (body == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    body->copy = (struct fdc_copy3d){
        .src = {.pitch = copy.srcPitch,
                .height = copy.srcHeight,
                .x = copy.srcXInBytes,
                .y = copy.srcY,
                .z = copy.srcZ},
        .dst = {.pitch = copy.dstPitch,
                .height = copy.dstHeight,
                .x = copy.dstXInBytes,
                .y = copy.dstY,
                .z = copy.dstZ},
        .width = copy.WidthInBytes,
        .height = copy.Height,
        .depth = copy.Depth,
    };
    result = read_end(serve, copy.srcMemoryType, copy.srcDevice, copy.srcHost,
                      copy.srcArray,                      &body->copy.src);
    if (result == CUDA_SUCCESS)
        result = read_end(serve, copy.dstMemoryType, copy.dstDevice, copy.dstHost,
                          copy.dstArray,                          &body->copy.dst);
    return result;
}

static CUresult
read_memset(struct fdc_serve *serve, CUgraphNode node, struct told *told)
{
    CUDA_MEMSET_NODE_PARAMS set = {0};
    struct fdc_node_memset *body;
    CUresult result;

    result = serve->driver->cuGraphMemsetNodeGetParams(node, &set);
    if (result != CUDA_SUCCESS)
        return result;
    body = tell(told, CU_GRAPH_NODE_TYPE_MEMSET, sizeof(*body));
    if (body == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *body = (struct fdc_node_memset){set.dst,    set.pitch, set.width,
                                     set.height, set.value, set.elementSize};
    return CUDA_SUCCESS;
}

static CUresult
read_host(struct fdc_serve *serve, CUgraphNode node, struct told *told)
{
    CUDA_HOST_NODE_PARAMS host = {0};
    struct fdc_node_host *body;
    CUresult result;

    result = serve->driver->cuGraphHostNodeGetParams(node, &host);
    if (result != CUDA_SUCCESS)
        return result;
    body = tell(told, CU_GRAPH_NODE_TYPE_HOST, sizeof(*body));
    if (body == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return fdc_hostfn_number(serve, host.fn, host.userData, &body->number);
}

static CUresult
read_event(struct fdc_serve *serve, CUgraphNode node, uint32_t type, struct told *told)
{
    struct fdc_node_handle *body;
    CUevent event = NULL;
    CUresult result;

    result = type == CU_GRAPH_NODE_TYPE_EVENT_RECORD
                 ? serve->driver->cuGraphEventRecordNodeGetEvent(node, &event)
                 : serve->driver->cuGraphEventWaitNodeGetEvent(node, &event);
    if (result != CUDA_SUCCESS)
        return result;
    body = tell(told, type, sizeof(*body));
    if (body == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    body->handle = fdc_handle_of(serve, FDC_KIND_EVENT, event);
    return body->handle != 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

static CUresult
read_memop(struct fdc_serve *serve, CUgraphNode node, struct told *told)
{
    CUDA_BATCH_MEM_OP_NODE_PARAMS memop = {0};
    struct fdc_node_memop *body;
    CUresult result;

    if (!FDC_HAS(serve->driver, cuGraphBatchMemOpNodeGetParams))
        return CUDA_ERROR_NOT_SUPPORTED;
    result = serve->driver->cuGraphBatchMemOpNodeGetParams(node, &memop);
    if (result != CUDA_SUCCESS)
        return result;
    body = tell(told, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
                sizeof(*body) + memop.count * sizeof(body->op[0]));
    if (body == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    body->count = memop.count;
    body->flags = memop.flags;
    memcpy(body->op, memop.paramArray, memop.count * sizeof(body->op[0]));
    return CUDA_SUCCESS;
}

int
fdc_server_call_fdcGraphGet(struct fdc_request *request,
                            const struct fdc_req_fdcGraphGet *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcGraphGet reply = {0};
    CUgraphNodeType type = 0;
    struct told told = {0};
    CUgraphNode node;
    CUresult result;
    int err = 0;

    result = fdc_node_get(serve, req->node, &node);
    if (result == CUDA_SUCCESS)
        result = serve->driver->cuGraphNodeGetType(node, &type);
    if (result != CUDA_SUCCESS)
        goto answer;
    switch ((int)type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        result = read_kernel(serve, node, &told);
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        result = read_memcpy(serve, node, &told);
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        result = read_memset(serve, node, &told);
        break;
    case CU_GRAPH_NODE_TYPE_HOST:
        result = read_host(serve, node, &told);
        break;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        result = read_event(serve, node, (uint32_t)type, &told);
        break;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        result = read_memop(serve, node, &told);
        break;
    case CU_GRAPH_NODE_TYPE_EMPTY:
    case CU_GRAPH_NODE_TYPE_GRAPH:
        result = tell(&told, (uint32_t)type, 0) == NULL ? CUDA_ERROR_OUT_OF_MEMORY
                                                        : CUDA_SUCCESS;
        break;
    default:
        result = CUDA_ERROR_NOT_SUPPORTED;
    }
    if (result == CUDA_SUCCESS) {
        reply.total = told.size;
        err = fdc_blob_give(request, req->blob, told.params, told.size);
        told.params = NULL;
    }
    free(told.params);
    if (err < 0)
        return err;
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- attributes of kernel nodes ---- */

int
fdc_server_call_fdcGraphAttribute(struct fdc_request *request,
                                  const struct fdc_req_fdcGraphAttribute *req)
{
    const struct fdc_driver *driver = request->driver;
    struct fdc_rep_fdcGraphAttribute reply = {0};
    CUkernelNodeAttrValue value;
    CUgraphNode node, from = NULL;
    CUresult result;

    result = fdc_node_get(request->serve, req->node, &node);
    if (result == CUDA_SUCCESS && req->action == FDC_ATTRIBUTE_COPY)
        result = fdc_node_get(request->serve, req->from, &from);
    if (result == CUDA_SUCCESS && (!FDC_HAS(driver, cuGraphKernelNodeGetAttribute) ||
                                   !FDC_HAS(driver, cuGraphKernelNodeSetAttribute) ||
                                   !FDC_HAS(driver, cuGraphKernelNodeCopyAttributes)))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result != CUDA_SUCCESS)
        goto answer;
    memset(&value, 0, sizeof(value));
    switch (req->action) {
    case FDC_ATTRIBUTE_GET:
        result = driver->cuGraphKernelNodeGetAttribute(
            node, (CUkernelNodeAttrID)req->attribute, &value);
        memcpy(&reply.got, &value, sizeof(reply.got));
        break;
    case FDC_ATTRIBUTE_SET:
        memcpy(&value, &req->value, sizeof(value));
        result = fdc_attribute_plain(req->attribute)
                     ? driver->cuGraphKernelNodeSetAttribute(
                           node, (CUkernelNodeAttrID)req->attribute, &value)
                     : CUDA_ERROR_NOT_SUPPORTED;
        break;
    case FDC_ATTRIBUTE_COPY:
        result = driver->cuGraphKernelNodeCopyAttributes(node, from);
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
answer:
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
