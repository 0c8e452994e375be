/*
 * What a node is made of: checked, put into a message, remembered as the program gets it
 * back, or asked for where it was a capture that made the node.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

#define BLOB_FIRST (16u << 10)
#define MEMOPS_MAX 256u

/* ---- from the program ---- */

static CUresult
in_context(struct fdc_call *call, CUcontext named)
{
    struct fdc_context *context;
    CUresult result;

    if (named == NULL)
        return CUDA_SUCCESS;
    context = fdc_context_find(named);
    if (context == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    result = fdc_graph_at(call, &context->object);
    if (result != CUDA_SUCCESS)
        return result;
    call->context = context;
    return fdc_context_activate(context);
}

static CUresult
kernel_make(struct fdc_call *call, const CUDA_KERNEL_NODE_PARAMS *params,
            struct fdc_body *body)
{
    struct fdc_wire_func wire;
    struct fdc_shape shape;
    struct fdc_func *func;
    uint32_t size;
    CUresult result;

    result = in_context(call, params->ctx);
    if (result != CUDA_SUCCESS)
        return result;
    func = fdc_func_find(params->func != NULL ? (const void *)params->func
                                              : (const void *)params->kern);
    if (func == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    shape = (struct fdc_shape){
        .grid = {params->gridDimX, params->gridDimY, params->gridDimZ},
        .block = {params->blockDimX, params->blockDimY, params->blockDimZ},
        .shared = params->sharedMemBytes,
    };
    result = fdc_shape_check(call->context->device, func, &shape);
    if (result == CUDA_SUCCESS)
        result = fdc_params_size(func, params->kernelParams, params->extra, &size);
    if (result == CUDA_SUCCESS)
        result = fdc_func_wire(call, func, &wire);
    if (result != CUDA_SUCCESS)
        return result;
    body->func = func;
    body->params = params->kernelParams;
    body->extra = params->extra;
    body->u.kernel = (struct fdc_node_kernel){
        .func = wire,
        .grid = {shape.grid[0], shape.grid[1], shape.grid[2]},
        .block = {shape.block[0], shape.block[1], shape.block[2]},
        .shared = shape.shared,
        .params_size = size,
    };
    body->size = (uint32_t)sizeof(body->u.kernel) + size;
    return CUDA_SUCCESS;
}

static CUresult
memset_make(struct fdc_call *call, const CUDA_MEMSET_NODE_PARAMS_v2 *params,
            struct fdc_body *body)
{
    uint64_t reach;
    CUresult result = in_context(call, params->ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (params->width == 0 || params->height == 0 ||
        (params->elementSize != 1 && params->elementSize != 2 &&
         params->elementSize != 4) ||
        __builtin_mul_overflow(params->height - 1, params->pitch, &reach) ||
        __builtin_add_overflow(reach, params->width * params->elementSize, &reach))
        return CUDA_ERROR_INVALID_VALUE;
    body->size = sizeof(body->u.memset);
    body->u.memset = (struct fdc_node_memset){
        params->dst,    params->pitch, params->width,
        params->height, params->value, params->elementSize,
    };
    return fdc_place_device(call->session, params->dst, reach, NULL);
}

static CUresult
event_make(const void *value, struct fdc_body *body)
{
    struct fdc_event *event = fdc_object_find(FDC_KIND_EVENT, value);

    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    /* Launches record it, of which its own books know nothing. */
    if (body->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD)
        __atomic_store_n(&event->replayed, 1, __ATOMIC_RELAXED);
    body->size = sizeof(body->u.handle);
    body->u.handle.handle = event->object.handle;
    return CUDA_SUCCESS;
}

static CUresult
child_make(struct fdc_graph *into, const CUDA_CHILD_GRAPH_NODE_PARAMS *params,
           struct fdc_body *body)
{
    struct fdc_graph *graph = fdc_graph_find(params->graph);

    if (graph == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    body->size = sizeof(body->u.handle);
    body->u.handle.handle = graph->object.handle;
    switch ((int)params->ownership) {
    case CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE:
        return fdc_graph_has_memory(&graph->keeps) ? CUDA_ERROR_NOT_SUPPORTED
                                                   : CUDA_SUCCESS;
    case CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE:
        body->u.handle.move = 1;
        return graph->inside != 0 || graph->capturing || graph == into
                   ? CUDA_ERROR_INVALID_VALUE
                   : CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult
memop_check(struct fdc_session *session, const CUstreamBatchMemOpParams *op)
{
    static uint32_t said;

    switch ((int)op->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        return fdc_place_device(session, op->waitValue.address, 4, NULL);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        return fdc_place_device(session, op->waitValue.address, 8, NULL);
    case CU_STREAM_MEM_OP_BARRIER:
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return CUDA_SUCCESS;
    default:
        return fdc_refuse("a graph's memory operation of this kind", &said);
    }
}

static CUresult
memop_make(struct fdc_call *call, const CUDA_BATCH_MEM_OP_NODE_PARAMS *params,
           struct fdc_body *body)
{
    CUresult result = in_context(call, params->ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (params->count == 0 || params->count > MEMOPS_MAX || params->paramArray == NULL ||
        params->flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < params->count && result == CUDA_SUCCESS; i++)
        result = memop_check(call->session, &params->paramArray[i]);
    body->ops = params->paramArray;
    body->u.memop.count = params->count;
    body->u.memop.flags = params->flags;
    body->size = (uint32_t)(sizeof(body->u.memop) + params->count * sizeof(body->ops[0]));
    return result;
}

CUresult
fdc_body_make(struct fdc_call *call, struct fdc_graph *graph, struct fdc_keeps *keeps,
              const CUgraphNodeParams *params, struct fdc_body *body)
{
    static uint32_t said;
    CUresult result;

    memset(body, 0, sizeof(*body));
    body->type = (uint32_t)params->type;
    switch ((int)params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return kernel_make(call, &params->kernel, body);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        result = in_context(call, params->memcpy.copyCtx);
        body->size = sizeof(body->u.memcpy);
        return result == CUDA_SUCCESS
                   ? fdc_box_wire(call, keeps, &params->memcpy.copyParams,
                                  &body->u.memcpy.copy)
                   : result;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return memset_make(call, &params->memset, body);
    case CU_GRAPH_NODE_TYPE_HOST:
        if (params->host.fn == NULL)
            return CUDA_ERROR_INVALID_VALUE;
        body->size = sizeof(body->u.host);
        return fdc_hostfn_keep(call->session, params->host.fn, params->host.userData,
                               &body->u.host.number);
    case CU_GRAPH_NODE_TYPE_GRAPH:
        return child_make(graph, &params->graph, body);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return event_make(params->eventWait.event, body);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return event_make(params->eventRecord.event, body);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return memop_make(call, &params->memOp, body);
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        body->type = CU_GRAPH_NODE_TYPE_EMPTY;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
        return fdc_refuse("a graph's conditional node", &said);
    default:
        return fdc_refuse("a graph's node of this type", &said);
    }
}

void
fdc_body_write(const struct fdc_body *body, void *to)
{
    char *at = to;

    if (body->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP) {
        memcpy(at, &body->u.memop, sizeof(body->u.memop));
        memcpy(at + sizeof(body->u.memop), body->ops,
               body->u.memop.count * sizeof(body->ops[0]));
    } else if (body->type == CU_GRAPH_NODE_TYPE_KERNEL) {
        memcpy(at, &body->u.kernel, sizeof(body->u.kernel));
        memset(at + sizeof(body->u.kernel), 0,
               FDC_ALIGN_UP(body->u.kernel.params_size, 8u));
        fdc_params_pack(body->func, body->params, body->extra,
                        at + sizeof(body->u.kernel), body->u.kernel.params_size);
    } else if (body->size != 0) {
        memcpy(at, &body->u, body->size);
    }
}

/* ---- remembered ---- */

/* Takes `saved` over. */
static void
keep(struct fdc_node *node, const CUgraphNodeParams *params, void *saved)
{
    void *old = node->saved;

    node->params = *params;
    node->saved = saved;
    node->type = (uint32_t)params->type;
    node->typed = node->known = true;
    free(old);
}

/* Pointers to a kernel's parameters, and behind them room for the values. */
static void **
kernel_room(const struct fdc_func *func, uint32_t size, char **values)
{
    uint32_t count = func->kernel->param_count;
    void **pointers = calloc(1, (count + 1) * sizeof(*pointers) + size + 8);

    if (pointers == NULL)
        return NULL;
    *values = (char *)(pointers + count + 1);
    for (uint32_t i = 0; i < count; i++)
        pointers[i] = *values + func->params[i].offset;
    return pointers;
}

CUresult
fdc_body_remember(struct fdc_call *call, struct fdc_node *node,
                  const struct fdc_body *body, const CUgraphNodeParams *params)
{
    CUcontext context = (CUcontext)(uintptr_t)call->context->object.handle;
    CUgraphNodeParams own = *params;
    void *saved = NULL;
    char *values;
    size_t size;

    switch ((int)params->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        saved = kernel_room(body->func, body->u.kernel.params_size, &values);
        if (saved == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        fdc_params_pack(body->func, body->params, body->extra, values,
                        body->u.kernel.params_size);
        own.kernel.kernelParams = saved;
        own.kernel.extra = NULL;
        own.kernel.ctx = context;
        break;
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        own.memcpy.copyCtx = context;
        break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
        own.memset.ctx = context;
        break;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        size = params->memOp.count * sizeof(*params->memOp.paramArray);
        saved = malloc(size);
        if (saved == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        memcpy(saved, params->memOp.paramArray, size);
        own.memOp.paramArray = saved;
        own.memOp.ctx = context;
        break;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
        own.alloc.accessDescs = NULL;
        own.alloc.accessDescCount = 0;
        break;
    default:
        break;
    }
    keep(node, &own, saved);
    return CUDA_SUCCESS;
}

/* ---- from the worker ---- */

static struct fdc_code *
code_of(uint64_t handle)
{
    void *name = (void *)(uintptr_t)handle;
    struct fdc_unit *unit = fdc_object_find(FDC_KIND_MODULE, name);

    if (unit == NULL)
        unit = fdc_object_find(FDC_KIND_LIBRARY, name);
    return unit != NULL ? unit->code : NULL;
}

static CUresult
kernel_learn(struct fdc_call *call, const struct fdc_node_kernel *told, uint32_t size,
             CUgraphNodeParams *params, void **saved)
{
    struct fdc_code *code;
    struct fdc_func *func;
    CUresult result;
    char *values;

    if (size < sizeof(*told) || told->params_size > size - sizeof(*told))
        return CUDA_ERROR_UNKNOWN;
    code = code_of(told->func.code);
    if (code == NULL || told->func.index >= code->count)
        return CUDA_ERROR_INVALID_HANDLE;
    if (code->library) {
        result = fdc_code_func(call->session, code, FDC_KIND_KERNEL, told->func.index,
                               &func);
        if (result != CUDA_SUCCESS)
            return result;
        params->kernel.kern = (CUkernel)(uintptr_t)func->object.handle;
    }
    result = fdc_code_func(call->session, code, FDC_KIND_FUNCTION, told->func.index,
                           &func);
    if (result != CUDA_SUCCESS)
        return result;
    if (told->params_size < func->kernel->param_bytes)
        return CUDA_ERROR_UNKNOWN;
    *saved = kernel_room(func, told->params_size, &values);
    if (*saved == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(values, told + 1, told->params_size);
    params->kernel.func = (CUfunction)(uintptr_t)func->object.handle;
    params->kernel.gridDimX = told->grid.x;
    params->kernel.gridDimY = told->grid.y;
    params->kernel.gridDimZ = told->grid.z;
    params->kernel.blockDimX = told->block.x;
    params->kernel.blockDimY = told->block.y;
    params->kernel.blockDimZ = told->block.z;
    params->kernel.sharedMemBytes = told->shared;
    params->kernel.kernelParams = *saved;
    params->kernel.ctx = (CUcontext)(uintptr_t)call->context->object.handle;
    return CUDA_SUCCESS;
}

static CUresult
memop_learn(struct fdc_call *call, const struct fdc_node_memop *told, uint32_t size,
            CUgraphNodeParams *params, void **saved)
{
    if (size < sizeof(*told) ||
        told->count > (size - sizeof(*told)) / sizeof(told->op[0]))
        return CUDA_ERROR_UNKNOWN;
    *saved = malloc(told->count * sizeof(told->op[0]) + 1);
    if (*saved == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(*saved, told->op, told->count * sizeof(told->op[0]));
    params->memOp.ctx = (CUcontext)(uintptr_t)call->context->object.handle;
    params->memOp.count = told->count;
    params->memOp.flags = told->flags;
    params->memOp.paramArray = *saved;
    return CUDA_SUCCESS;
}

static CUresult
learn(struct fdc_call *call, const struct fdc_graph_params *told, uint64_t total,
      CUgraphNodeParams *params, void **saved)
{
    const union {
        struct fdc_node_kernel kernel;
        struct fdc_node_memcpy memcpy;
        struct fdc_node_memset memset;
        struct fdc_node_handle handle;
        struct fdc_node_host host;
        struct fdc_node_memop memop;
    } *body = (const void *)told->body;
    uint32_t size = told->size;

    if (total < sizeof(*told) || size > total - sizeof(*told))
        return CUDA_ERROR_UNKNOWN;
    memset(params, 0, sizeof(*params));
    params->type = (CUgraphNodeType)told->type;
    switch (told->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
        return kernel_learn(call, &body->kernel, size, params, saved);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
        if (size < sizeof(body->memcpy))
            return CUDA_ERROR_UNKNOWN;
        params->memcpy.copyCtx = (CUcontext)(uintptr_t)call->context->object.handle;
        return fdc_box_params(&body->memcpy.copy, &params->memcpy.copyParams);
    case CU_GRAPH_NODE_TYPE_MEMSET:
        if (size < sizeof(body->memset))
            return CUDA_ERROR_UNKNOWN;
        params->memset = (CUDA_MEMSET_NODE_PARAMS_v2){
            .dst = body->memset.dst,
            .pitch = body->memset.pitch,
            .value = body->memset.value,
            .elementSize = body->memset.element,
            .width = body->memset.width,
            .height = body->memset.height,
            .ctx = (CUcontext)(uintptr_t)call->context->object.handle,
        };
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_HOST:
        return size < sizeof(body->host)
                   ? CUDA_ERROR_UNKNOWN
                   : fdc_hostfn_find(call->session, body->host.number,
                                     &params->host.fn, &params->host.userData);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        if (size < sizeof(body->handle))
            return CUDA_ERROR_UNKNOWN;
        if (told->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT)
            params->eventWait.event = (CUevent)(uintptr_t)body->handle.handle;
        else
            params->eventRecord.event = (CUevent)(uintptr_t)body->handle.handle;
        return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
        return memop_learn(call, &body->memop, size, params, saved);
    case CU_GRAPH_NODE_TYPE_GRAPH:
    case CU_GRAPH_NODE_TYPE_EMPTY:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_NOT_SUPPORTED;
    }
}

CUresult
fdc_body_ask(struct fdc_node *node)
{
    struct fdc_req_fdcGraphGet *req;
    struct fdc_rep_fdcGraphGet rep;
    CUgraphNodeParams params;
    void *bytes = NULL, *saved = NULL;
    struct fdc_chunk blob;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcGraphGet, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = fdc_graph_at(&call, &node->object);
    if (result == CUDA_SUCCESS)
        result = fdc_stage_alloc(call.session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req != NULL) {
        req->node = node->object.handle;
        req->blob = blob;
        result = fdc_call_wait(&call, &rep, sizeof(rep));
    } else {
        result = call.result;
    }
    if (result == CUDA_SUCCESS)
        result = fdc_blob_rest(&call, &blob, rep.total, &bytes);
    if (result == CUDA_SUCCESS)
        result = learn(&call, bytes, rep.total, &params, &saved);
    if (result == CUDA_SUCCESS)
        keep(node, &params, saved);
    else
        free(saved);
    free(bytes);
    fdc_stage_free(call.session, FDC_REGION_DOWN, &blob);
    return result;
}
