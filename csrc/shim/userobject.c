/*
 * User objects: the program's own things that graphs keep alive. They never travel; when
 * the last reference goes their destructor runs, at once or, for an executable graph that
 * may still be running, when the work of its context so far is over.
 */
#include "process.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

struct fdc_user_object {
    struct fdc_object object;
    void *ptr;
    CUhostFn destroy;
    uint32_t count; /* atomic */
};

static struct fdc_user_object *
object_find(CUuserObject handle)
{
    return fdc_object_find(FDC_KIND_USER_OBJECT, handle);
}

static void
release(struct fdc_user_object *object, unsigned count)
{
    CUhostFn destroy = object->destroy;
    void *ptr = object->ptr;
    uint32_t had = __atomic_load_n(&object->count, __ATOMIC_RELAXED), left;

    do
        left = had > count ? had - count : 0;
    while (!__atomic_compare_exchange_n(&object->count, &had, left, true,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    if (left != 0 || had == 0)
        return;
    fdc_object_drop(object);
    destroy(ptr);
}

/* ---- what graphs keep ---- */

void
fdc_keeps_setup(struct fdc_keeps *keeps)
{
    pthread_mutex_init(&keeps->lock, NULL);
}

/* Room for `more` elements of `size` bytes behind those there are. */
static bool
grow(void *array, size_t count, size_t more, size_t size)
{
    void **place = array, *grown;

    if (more == 0)
        return true;
    grown = realloc(*place, (count + more) * size);
    if (grown == NULL)
        return false;
    *place = grown;
    return true;
}

CUresult
fdc_keeps_share(struct fdc_keeps *to, struct fdc_keeps *from)
{
    struct fdc_keeps copy = {.user = NULL};
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    size_t i;

    pthread_mutex_lock(&from->lock);
    if (!grow(&copy.user, 0, from->users, sizeof(*copy.user)) ||
        !grow(&copy.alloc, 0, from->allocs, sizeof(*copy.alloc)) ||
        !grow(&copy.free, 0, from->frees, sizeof(*copy.free)) ||
        !grow(&copy.shadow, 0, from->shadows, sizeof(*copy.shadow))) {
        pthread_mutex_unlock(&from->lock);
        goto out;
    }
    for (i = 0; i < from->users; i++) {
        copy.user[copy.users++] = from->user[i];
        __atomic_add_fetch(&from->user[i].object->count, from->user[i].count,
                           __ATOMIC_RELAXED);
    }
    for (i = 0; i < from->allocs; i++)
        fdc_block_ref(copy.alloc[copy.allocs++] = from->alloc[i]);
    for (i = 0; i < from->frees; i++)
        fdc_block_ref(copy.free[copy.frees++] = from->free[i]);
    for (i = 0; i < from->shadows; i++)
        fdc_shadow_ref(copy.shadow[copy.shadows++] = from->shadow[i]);
    pthread_mutex_unlock(&from->lock);

    pthread_mutex_lock(&to->lock);
    if (grow(&to->user, to->users, copy.users, sizeof(*to->user)) &&
        grow(&to->alloc, to->allocs, copy.allocs, sizeof(*to->alloc)) &&
        grow(&to->free, to->frees, copy.frees, sizeof(*to->free)) &&
        grow(&to->shadow, to->shadows, copy.shadows, sizeof(*to->shadow))) {
        for (i = 0; i < copy.users; i++)
            to->user[to->users++] = copy.user[i];
        for (i = 0; i < copy.allocs; i++)
            to->alloc[to->allocs++] = copy.alloc[i];
        for (i = 0; i < copy.frees; i++)
            to->free[to->frees++] = copy.free[i];
        for (i = 0; i < copy.shadows; i++)
            to->shadow[to->shadows++] = copy.shadow[i];
        copy.shadows = 0;
        copy.users = copy.allocs = copy.frees = 0;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&to->lock);
out:
    fdc_keeps_setup(&copy);
    fdc_keeps_drop(&copy);
    return result;
}

/* Everything out of it. */
static struct fdc_keeps
take(struct fdc_keeps *keeps)
{
    struct fdc_keeps taken;

    pthread_mutex_lock(&keeps->lock);
    taken = *keeps;
    keeps->user = NULL;
    keeps->alloc = keeps->free = NULL;
    keeps->shadow = NULL;
    keeps->users = keeps->allocs = keeps->frees = keeps->shadows = 0;
    pthread_mutex_unlock(&keeps->lock);
    return taken;
}

static void
users_drop(struct fdc_user_ref *user, size_t users)
{
    for (size_t i = 0; i < users; i++)
        release(user[i].object, user[i].count);
    free(user);
}

static void
memory_drop(struct fdc_keeps *taken)
{
    for (size_t i = 0; i < taken->allocs; i++)
        fdc_block_unref(taken->alloc[i]);
    for (size_t i = 0; i < taken->frees; i++)
        fdc_block_unref(taken->free[i]);
    for (size_t i = 0; i < taken->shadows; i++)
        fdc_shadow_unref(taken->shadow[i]);
    free(taken->alloc);
    free(taken->free);
    free(taken->shadow);
}

void
fdc_keeps_drop(struct fdc_keeps *keeps)
{
    struct fdc_keeps taken = take(keeps);

    memory_drop(&taken);
    users_drop(taken.user, taken.users);
}

/* ---- later ---- */

struct later {
    struct fdc_ticket ticket;
    struct fdc_session *session;
    uint64_t number;
    struct fdc_user_ref *user;
    size_t users;
};

/* On the service thread. */
static void
later_run(void *arg)
{
    struct later *later = arg;

    users_drop(later->user, later->users);
    free(later);
}

static void
later_done(struct fdc_ticket *ticket)
{
    struct later *later = ticket->user;

    fdc_ticket_release(later->session, ticket);
    fdc_hostfn_due(later->session, later->number);
}

/* The references go when everything that the context was given before has finished. False:
 * they are the caller's still. */
static bool
users_drop_later(struct fdc_call *call, struct fdc_user_ref *user, size_t users)
{
    struct fdc_session *session = call->session;
    struct later *later = calloc(1, sizeof(*later));

    if (later == NULL)
        return false;
    later->session = session;
    later->user = user;
    later->users = users;
    later->ticket.user = later;
    later->ticket.on_done = later_done;
    if (fdc_hostfn_add(session, later_run, later, &later->number) != CUDA_SUCCESS)
        goto err_free;
    if (fdc_ticket_take(session, &later->ticket) != CUDA_SUCCESS)
        goto err_forget;
    call->id = FDC_ID_fdcFence;
    call->work = NULL;
    if (fdc_call_begin(call, sizeof(struct fdc_req_fdcFence)) == NULL) {
        fdc_ticket_release(session, &later->ticket);
        goto err_forget;
    }
    if (fdc_call_send_done(call, &later->ticket) != CUDA_SUCCESS)
        goto err_forget;
    fdc_link_flush(session->link, FDC_LANE_COMMAND);
    return true;

err_forget:
    fdc_hostfn_forget(session, later->number);
err_free:
    free(later);
    return false;
}

void
fdc_keeps_drop_later(struct fdc_call *call, struct fdc_exec *exec)
{
    uint64_t handle = __atomic_load_n(&exec->stream, __ATOMIC_RELAXED);
    struct fdc_stream *stream = fdc_object_find(FDC_KIND_STREAM, (void *)(uintptr_t)handle);
    struct fdc_keeps taken = take(&exec->keeps);
    bool over;

    memory_drop(&taken); /* memory rests by itself until the work is over */
    over = handle == 0 ||
           (stream != NULL && __atomic_load_n(&exec->issued, __ATOMIC_RELAXED) <=
                                  __atomic_load_n(&stream->idle, __ATOMIC_ACQUIRE));
    if (taken.users == 0 || over || !users_drop_later(call, taken.user, taken.users))
        users_drop(taken.user, taken.users);
}

CUresult
fdc_keeps_replace(struct fdc_keeps *keeps, struct fdc_keeps *by)
{
    struct fdc_keeps old = take(keeps);
    CUresult result = fdc_keeps_share(keeps, by);

    memory_drop(&old);
    users_drop(old.user, old.users);
    return result;
}

/* ---- the calls ---- */

FDC_EXPORT CUresult
cuUserObjectCreate(CUuserObject *object_out, void *ptr, CUhostFn destroy,
                   unsigned int initialRefcount, unsigned int flags)
{
    struct fdc_user_object *object;
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    if (object_out == NULL || destroy == NULL || initialRefcount == 0 ||
        initialRefcount > INT32_MAX || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)
        return CUDA_ERROR_INVALID_VALUE;
    object = fdc_object_new(fdc_session_at(0), FDC_KIND_USER_OBJECT, sizeof(*object),
                            NULL);
    if (object == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    object->ptr = ptr;
    object->destroy = destroy;
    __atomic_store_n(&object->count, initialRefcount, __ATOMIC_RELEASE);
    *object_out = (CUuserObject)(uintptr_t)object->object.handle;
    return CUDA_SUCCESS;
}

/* The object, if the call may be made with this count. */
static CUresult
counted(CUuserObject handle, unsigned count, struct fdc_user_object **object)
{
    CUresult result = fdc_session_check();

    if (result != CUDA_SUCCESS)
        return result;
    *object = object_find(handle);
    return *object == NULL || count == 0 || count > INT32_MAX ? CUDA_ERROR_INVALID_VALUE
                                                              : CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuUserObjectRetain(CUuserObject handle, unsigned int count)
{
    struct fdc_user_object *object;
    CUresult result = counted(handle, count, &object);

    if (result == CUDA_SUCCESS)
        __atomic_add_fetch(&object->count, count, __ATOMIC_RELAXED);
    return result;
}

FDC_EXPORT CUresult
cuUserObjectRelease(CUuserObject handle, unsigned int count)
{
    struct fdc_user_object *object;
    CUresult result = counted(handle, count, &object);

    if (result == CUDA_SUCCESS)
        release(object, count);
    return result;
}

FDC_EXPORT CUresult
cuGraphRetainUserObject(CUgraph hGraph, CUuserObject handle, unsigned int count,
                        unsigned int flags)
{
    struct fdc_graph *graph = fdc_graph_find(hGraph);
    struct fdc_user_object *object;
    CUresult result = counted(handle, count, &object);

    if (result != CUDA_SUCCESS)
        return result;
    if (graph == NULL || flags > CU_GRAPH_USER_OBJECT_MOVE)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&graph->keeps.lock);
    if (grow(&graph->keeps.user, graph->keeps.users, 1, sizeof(*graph->keeps.user))) {
        graph->keeps.user[graph->keeps.users++] = (struct fdc_user_ref){object, count};
        if ((flags & CU_GRAPH_USER_OBJECT_MOVE) == 0)
            __atomic_add_fetch(&object->count, count, __ATOMIC_RELAXED);
    } else {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    pthread_mutex_unlock(&graph->keeps.lock);
    return result;
}

FDC_EXPORT CUresult
cuGraphReleaseUserObject(CUgraph hGraph, CUuserObject handle, unsigned int count)
{
    struct fdc_graph *graph = fdc_graph_find(hGraph);
    struct fdc_user_object *object;
    CUresult result = counted(handle, count, &object);
    struct fdc_keeps *keeps;
    bool found = false;

    if (result != CUDA_SUCCESS)
        return result;
    if (graph == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    keeps = &graph->keeps;
    pthread_mutex_lock(&keeps->lock);
    for (size_t i = 0; i < keeps->users && !found; i++) {
        if (keeps->user[i].object != object || keeps->user[i].count < count)
            continue;
        keeps->user[i].count -= count;
        if (keeps->user[i].count == 0)
            keeps->user[i] = keeps->user[--keeps->users];
        found = true;
    }
    pthread_mutex_unlock(&keeps->lock);
    if (!found)
        return CUDA_ERROR_INVALID_VALUE;
    release(object, count);
    return CUDA_SUCCESS;
}
