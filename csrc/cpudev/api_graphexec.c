/*
 * Executable graphs. Instantiating flattens a graph, child graphs included, into a
 * plan: its work in an order that respects the edges. A launch is one entry of a stream
 * that runs the plan. A plan that is being run is not changed: an update makes a new
 * one.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

/* ---- plans ---- */

void
fdcpu_plan_unref(struct fdcpu_plan *plan)
{
    size_t i;

    if (plan == NULL || --plan->refs > 0)
        return;
    for (i = 0; i < plan->nsteps; i++)
        fdcpu_work_free(plan->steps[i].work);
    free(plan->steps);
    fdcpu_users_drop(plan->users, plan->nusers);
    free(plan);
}

static bool
plan_add(struct fdcpu_plan *plan, const struct fdcpu_work *work, uint64_t node,
         uint64_t root, bool disabled)
{
    struct fdcpu_step *more;
    struct fdcpu_work *copy;

    if (plan->nsteps == plan->room) {
        size_t room = plan->room == 0 ? 16 : 2 * plan->room;

        more = realloc(plan->steps, room * sizeof(*more));
        if (more == NULL)
            return false;
        plan->steps = more;
        plan->room = room;
    }
    copy = fdcpu_work_clone(work);
    if (copy == NULL)
        return false;
    plan->steps[plan->nsteps++] = (struct fdcpu_step){copy, node, root, disabled};
    return true;
}

/* Adds all of a graph; root 0: it is the one that is instantiated. 0, 1: a cycle (or
 * worse), 2: no memory. */
static CUresult
plan_graph(struct fdcpu_plan *plan, const struct fdcpu_graph *graph, uint64_t root)
{
    struct fdcpu_node **order = fdcpu_graph_order(graph);
    CUresult result = CUDA_SUCCESS;
    size_t i;

    if (order == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    fdcpu_users_share(&plan->users, &plan->nusers, graph->users, graph->nusers);
    for (i = 0; i < graph->nnodes && result == CUDA_SUCCESS; i++) {
        uint64_t own = root != 0 ? root : order[i]->handle;

        if (order[i]->work->kind == FDCPU_W_CHILD)
            result = plan_graph(plan, order[i]->work->u.child, own);
        else if (!plan_add(plan, order[i]->work, order[i]->handle, own, false))
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    free(order);
    return result;
}

static CUresult
plan_new(const struct fdcpu_graph *graph, struct fdcpu_plan **out)
{
    struct fdcpu_plan *plan = calloc(1, sizeof(*plan));
    CUresult result;

    if (plan == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    plan->refs = 1;
    result = plan_graph(plan, graph, 0);
    if (result != CUDA_SUCCESS) {
        fdcpu_plan_unref(plan);
        return result;
    }
    *out = plan;
    return CUDA_SUCCESS;
}

/* A plan of exec's own that may be changed. */
static struct fdcpu_plan *
plan_own(struct fdcpu_exec *exec)
{
    struct fdcpu_plan *plan;
    size_t i;

    if (exec->plan->refs == 1)
        return exec->plan;
    plan = calloc(1, sizeof(*plan));
    if (plan == NULL)
        return NULL;
    plan->refs = 1;
    fdcpu_users_share(&plan->users, &plan->nusers, exec->plan->users, exec->plan->nusers);
    for (i = 0; i < exec->plan->nsteps; i++) {
        const struct fdcpu_step *step = &exec->plan->steps[i];

        if (!plan_add(plan, step->work, step->node, step->root, step->disabled)) {
            fdcpu_plan_unref(plan);
            return NULL;
        }
    }
    fdcpu_plan_unref(exec->plan);
    exec->plan = plan;
    return plan;
}

void
fdcpu_plan_run(struct fdcpu_plan *plan, struct fdcpu_stream *stream)
{
    size_t i;

    for (i = 0; i < plan->nsteps; i++)
        if (!plan->steps[i].disabled && plan->steps[i].work->kind != FDCPU_W_RECORD)
            fdcpu_work_run(plan->steps[i].work, stream);
}

bool
fdcpu_plan_uses(const struct fdcpu_plan *plan, uint64_t lo, uint64_t hi)
{
    size_t i;

    for (i = 0; i < plan->nsteps; i++)
        if (fdcpu_work_uses(plan->steps[i].work, lo, hi))
            return true;
    return false;
}

static struct fdcpu_step *
find_step(struct fdcpu_plan *plan, uint64_t node)
{
    size_t i;

    for (i = 0; i < plan->nsteps; i++)
        if (plan->steps[i].node == node)
            return &plan->steps[i];
    return NULL;
}

CUresult
fdcpu_exec_replace(struct fdcpu_exec *exec, uint64_t node, struct fdcpu_work *work)
{
    struct fdcpu_plan *plan;
    struct fdcpu_step *step = find_step(exec->plan, node);

    if (step == NULL || step->work->kind != work->kind)
        return CUDA_ERROR_INVALID_VALUE;
    plan = plan_own(exec);
    if (plan == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    step = find_step(plan, node);
    fdcpu_work_free(step->work);
    step->work = work;
    return CUDA_SUCCESS;
}

CUresult
fdcpu_exec_replace_child(struct fdcpu_exec *exec, uint64_t node,
                         const struct fdcpu_graph *graph)
{
    struct fdcpu_plan *other, *plan;
    CUresult result = plan_new(graph, &other);
    size_t first = 0, n = 0, i;

    if (result != CUDA_SUCCESS)
        return result;
    plan = plan_own(exec);
    if (plan == NULL) {
        fdcpu_plan_unref(other);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    while (first < plan->nsteps && plan->steps[first].root != node)
        first++;
    while (first + n < plan->nsteps && plan->steps[first + n].root == node)
        n++;
    result = n != 0 && n == other->nsteps ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < n && result == CUDA_SUCCESS; i++)
        if (plan->steps[first + i].work->kind != other->steps[i].work->kind ||
            plan->steps[first + i].node == node) /* it is no child graph */
            result = CUDA_ERROR_INVALID_VALUE;
    for (i = 0; i < n && result == CUDA_SUCCESS; i++) {
        struct fdcpu_work *old = plan->steps[first + i].work;

        plan->steps[first + i].work = other->steps[i].work;
        other->steps[i].work = old;
    }
    if (result == CUDA_SUCCESS)
        fdcpu_users_share(&plan->users, &plan->nusers, other->users, other->nusers);
    fdcpu_plan_unref(other);
    return result;
}

/* ---- instantiating ---- */

static CUresult
instantiate(CUgraphExec *out, CUgraph hGraph, unsigned long long flags)
{
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct fdcpu_exec *exec;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || graph == NULL || (flags & ~15ull) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) {
        fdcpu_log_once("graphs launched by kernels are not supported");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    exec = calloc(1, sizeof(*exec));
    if (exec == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&fdcpu.sched);
    result = plan_new(graph, &exec->plan);
    pthread_mutex_unlock(&fdcpu.sched);
    exec->flags = flags;
    exec->id = atomic_fetch_add(&fdcpu.next_id, 1) + 1;
    if (result == CUDA_SUCCESS) {
        exec->handle = fdcpu_handle_new(FDCPU_H_EXEC, exec);
        *out = (CUgraphExec)(uintptr_t)exec->handle;
    } else {
        free(exec);
    }
    return result;
}

FDC_EXPORT CUresult
cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                            unsigned long long flags)
{
    return instantiate(phGraphExec, hGraph, flags);
}

FDC_EXPORT CUresult
cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph,
                      CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    if (phErrorNode != NULL)
        *phErrorNode = NULL;
    if (logBuffer != NULL && bufferSize > 0)
        logBuffer[0] = '\0';
    return instantiate(phGraphExec, hGraph, 0);
}

static CUresult
instantiate_params(CUgraphExec *out, CUgraph hGraph,
                   CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
    CUresult result;

    if (params == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    params->hErrNode_out = NULL;
    result = instantiate(out, hGraph, params->flags);
    params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS
                         : result == CUDA_ERROR_NOT_SUPPORTED
                             ? CUDA_GRAPH_INSTANTIATE_NODE_OPERATION_NOT_SUPPORTED
                             : CUDA_GRAPH_INSTANTIATE_ERROR;
    return result;
}

FDCPU_TWIN(cuGraphInstantiateWithParams, _ptsz,
           (CUgraphExec * phGraphExec, CUgraph hGraph,
            CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams),
           ((void)twin, instantiate_params(phGraphExec, hGraph, instantiateParams)))

FDC_EXPORT CUresult
cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    struct fdcpu_exec *exec;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    exec = fdcpu_handle_drop(FDCPU_H_EXEC, (uint64_t)(uintptr_t)hGraphExec);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_plan_unref(exec->plan);
    pthread_mutex_unlock(&fdcpu.sched);
    free(exec);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    struct fdcpu_exec *exec = FDCPU_GET(FDCPU_H_EXEC, hGraphExec);

    if (exec == NULL || flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

/* ---- launching ---- */

/* Pushes the plan and does what its event nodes say; under sched. */
static CUresult
push(struct fdcpu_stream *stream, struct fdcpu_plan *plan)
{
    struct fdcpu_work *work = fdcpu_work_new(FDCPU_W_GRAPH, stream->ctx);
    struct fdcpu_event *event;
    size_t i;

    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.plan = plan;
    plan->refs++;
    for (i = 0; i < plan->nsteps; i++) {
        const struct fdcpu_step *step = &plan->steps[i];

        if (step->disabled || step->work->kind != FDCPU_W_WAIT)
            continue;
        event = FDCPU_GET(FDCPU_H_EVENT, step->work->u.event.handle);
        if (event != NULL && event->record != NULL)
            fdcpu_stream_depend(stream, event->record->stream, event->record->ticket);
    }
    fdcpu_stream_push(stream, work);
    for (i = 0; i < plan->nsteps; i++)
        if (!plan->steps[i].disabled && plan->steps[i].work->kind == FDCPU_W_RECORD)
            fdcpu_event_record_at(plan->steps[i].work->u.event.handle, stream);
    return CUDA_SUCCESS;
}

static CUresult
launch(CUgraphExec hExec, CUstream hStream)
{
    struct fdcpu_stream *stream;
    struct fdcpu_exec *exec;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    exec = FDCPU_GET(FDCPU_H_EXEC, hExec);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    if (stream->capture != NULL) {
        fdcpu_capture_spoil(stream->capture); /* as a driver does (580) */
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    } else {
        result = fdcpu_capture_implicit(stream);
        if (result == CUDA_SUCCESS)
            result = fdcpu_graph_memory_launch(
                exec->plan,
                (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0);
        if (result == CUDA_SUCCESS)
            result = push(stream, exec->plan);
    }
    pthread_mutex_unlock(&fdcpu.sched);
    if (result == CUDA_SUCCESS && fdcpu.opt.blocking && stream->capture == NULL)
        result = fdcpu_stream_wait(stream);
    return result;
}

FDCPU_TWIN(cuGraphLaunch, _ptsz, (CUgraphExec hGraphExec, CUstream hStream),
           launch(hGraphExec, S(hStream)))

static CUresult
upload(CUgraphExec hExec, CUstream hStream)
{
    struct fdcpu_stream *stream;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    return FDCPU_GET(FDCPU_H_EXEC, hExec) == NULL ? CUDA_ERROR_INVALID_VALUE
                                                  : CUDA_SUCCESS;
}

FDCPU_TWIN(cuGraphUpload, _ptsz, (CUgraphExec hGraphExec, CUstream hStream),
           upload(hGraphExec, S(hStream)))

/* ---- changing ---- */

FDC_EXPORT CUresult
cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
    struct fdcpu_exec *exec = FDCPU_GET(FDCPU_H_EXEC, hGraphExec);
    struct fdcpu_step *step;
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    step = find_step(exec->plan, (uint64_t)(uintptr_t)hNode);
    if (step != NULL &&
        (step->work->kind == FDCPU_W_KERNEL || step->work->kind == FDCPU_W_COPY ||
         step->work->kind == FDCPU_W_SET)) {
        if (plan_own(exec) == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            find_step(exec->plan, (uint64_t)(uintptr_t)hNode)->disabled =
                isEnabled == 0;
            result = CUDA_SUCCESS;
        }
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDC_EXPORT CUresult
cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                      unsigned int *isEnabled)
{
    struct fdcpu_exec *exec = FDCPU_GET(FDCPU_H_EXEC, hGraphExec);
    struct fdcpu_step *step;

    if (exec == NULL || isEnabled == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&fdcpu.sched);
    step = find_step(exec->plan, (uint64_t)(uintptr_t)hNode);
    if (step != NULL)
        *isEnabled = !step->disabled;
    pthread_mutex_unlock(&fdcpu.sched);
    return step == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                     CUgraphExecUpdateResultInfo *info)
{
    struct fdcpu_exec *exec = FDCPU_GET(FDCPU_H_EXEC, hGraphExec);
    struct fdcpu_graph *graph = FDCPU_GET(FDCPU_H_GRAPH, hGraph);
    struct fdcpu_plan *plan;
    CUgraphExecUpdateResult why = CU_GRAPH_EXEC_UPDATE_SUCCESS;
    CUresult result;
    size_t i = 0;

    if (exec == NULL || graph == NULL || info == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memset(info, 0, sizeof(*info));
    pthread_mutex_lock(&fdcpu.sched);
    result = plan_new(graph, &plan);
    if (result != CUDA_SUCCESS)
        goto out;
    if (plan->nsteps != exec->plan->nsteps)
        why = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    for (; why == CU_GRAPH_EXEC_UPDATE_SUCCESS && i < plan->nsteps; i++) {
        struct fdcpu_step *old = &exec->plan->steps[i], *new = &plan->steps[i];

        if (old->work->kind != new->work->kind) {
            why = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
            info->errorNode = (CUgraphNode)(uintptr_t)new->node;
        } else if (new->work->kind == FDCPU_W_ALLOC &&
                   new->work->u.alloc.params.bytesize !=
                       old->work->u.alloc.params.bytesize) {
            why = CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
            info->errorNode = (CUgraphNode)(uintptr_t)new->node;
        }
    }
    if (why != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
        fdcpu_plan_unref(plan);
        result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
        goto out;
    }
    /* The nodes stay those of the graph that it was made from. */
    for (i = 0; i < plan->nsteps; i++) {
        plan->steps[i].node = exec->plan->steps[i].node;
        plan->steps[i].root = exec->plan->steps[i].root;
        plan->steps[i].disabled = exec->plan->steps[i].disabled;
    }
    fdcpu_plan_unref(exec->plan);
    exec->plan = plan;
out:
    pthread_mutex_unlock(&fdcpu.sched);
    info->result = result == CUDA_SUCCESS || why != CU_GRAPH_EXEC_UPDATE_SUCCESS
                       ? why
                       : CU_GRAPH_EXEC_UPDATE_ERROR;
    return result;
}
