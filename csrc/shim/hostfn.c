/*
 * Host functions: the program's functions that run at a place of a stream. Only a number
 * travels; when the worker says that its turn has come, the service thread (started for the
 * first one) calls the function, with no lock held, and answers on the side lane. The shim's
 * own have another thread and numbers of their own: a function of the program's may take as
 * long as it likes.
 */
#include "managed.h"
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "cuda_calls.h"

struct entry {
    struct entry *next; /* of its bucket */
    uint64_t number;
    void (*fn)(void *user);
    void *user;
    CUstreamCallback callback; /* instead of fn */
    CUstream stream;
    bool keep;
    struct fdc_wrap *wrap; /* a reference, or NULL */
    bool quiet; /* the shim's own: makes calls, and is not answered when it returns */
};

#define BUCKETS 256u
#define QUIET (1ull << 62) /* numbers of the shim's own */

struct fdc_hostfns {
    struct fdc_session *session;
    pthread_mutex_t lock;
    struct entry *bucket[BUCKETS];
    uint64_t last;   /* number given */
    uint64_t *queue; /* numbers that are due: first .. first + count */
    uint32_t room, first, count;
    uint32_t word;    /* changes with each that is added or due */
    uint32_t entries; /* in the buckets */
    uint32_t pending; /* given for one run and not yet run, atomic */
    bool runs;        /* the service thread does */
};

/* Those that the number is among; NULL: none yet. */
static struct fdc_hostfns *
fns_of(struct fdc_session *session, uint64_t number)
{
    return __atomic_load_n(&session->hostfns[(number & QUIET) != 0], __ATOMIC_ACQUIRE);
}

void
fdc_hostfn_due(struct fdc_session *session, uint64_t number)
{
    struct fdc_hostfns *fns = fns_of(session, number);
    uint64_t *queue;
    uint32_t i;

    if (fns == NULL)
        return;
    pthread_mutex_lock(&fns->lock);
    if (fns->count == fns->room) {
        queue = malloc(sizeof(*queue) * (fns->room ? fns->room * 2 : 64));
        if (queue == NULL)
            goto out;
        for (i = 0; i < fns->count; i++)
            queue[i] = fns->queue[(fns->first + i) % fns->room];
        free(fns->queue);
        fns->queue = queue;
        fns->first = 0;
        fns->room = fns->room ? fns->room * 2 : 64;
    }
    fns->queue[(fns->first + fns->count++) % fns->room] = number;
out:
    __atomic_add_fetch(&fns->word, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&fns->lock);
    if (FDC_UNLIKELY(fdc_load_relaxed(&session->dead) != 0))
        fdc_futex_wake(&fns->word, 1, false); /* nobody takes replies in any more */
}

/* ---- the service thread ---- */

/* Where the entry of this number hangs, or one would. */
static struct entry **
find(struct fdc_hostfns *fns, uint64_t number)
{
    struct entry **link = &fns->bucket[number % BUCKETS];

    while (*link != NULL && (*link)->number != number)
        link = &(*link)->next;
    return link;
}

/* The entry of this number; it leaves the table unless it is kept. A copy in *copy. */
static bool
take(struct fdc_hostfns *fns, uint64_t number, struct entry *copy)
{
    struct entry **link = find(fns, number), *entry = *link;

    if (entry == NULL)
        return false;
    *copy = *entry;
    if (entry->keep)
        fdc_wrap_get(entry->wrap);
    if (!entry->keep) {
        *link = entry->next;
        fns->entries--;
        free(entry);
    }
    return true;
}

/* One that is kept, out of the table all the same. */
static void
drop(struct fdc_hostfns *fns, uint64_t number)
{
    struct entry **link = find(fns, number), *entry = *link;

    if (entry == NULL)
        return;
    *link = entry->next;
    fns->entries--;
    fdc_wrap_put(entry->wrap);
    free(entry);
}

/* What the function did with managed memory is the device's again before the stream goes
 * on. */
static void
run(struct fdc_session *session, const struct entry *entry, CUresult status)
{
    struct fdc_thread *self = fdc_thread_self();

    if (!entry->quiet)
        fdc_memory_seen(session);
    self->in_hostfn = !entry->quiet;
    if (entry->callback != NULL)
        entry->callback(entry->stream, status, entry->user);
    else
        entry->fn(entry->user);
    self->in_hostfn = false;
    if (!entry->quiet && fdc_managed_out(session))
        (void)fdc_managed_use(session, true);
}

void
fdc_side_send(struct fdc_session *session, const struct fdc_msg *like)
{
    struct fdc_msg *msg;
    int err;

    /* pairs with the acquire in ticket_complete() */
    __atomic_add_fetch(&session->host_done, 1, __ATOMIC_RELEASE);
    pthread_mutex_lock(&session->side);
    for (;;) {
        msg = fdc_link_claim(session->link, FDC_LANE_SIDE, sizeof(*msg), &err);
        if (msg != NULL)
            break;
        if (err == -EAGAIN)
            err =
                fdc_link_wait_room(session->link, FDC_LANE_SIDE, sizeof(*msg), 100000);
        if (err < 0 && err != -ETIMEDOUT) {
            pthread_mutex_unlock(&session->side);
            return;
        }
    }
    *msg = *like;
    msg->size = sizeof(*msg);
    fdc_link_commit(session->link, FDC_LANE_SIDE);
    fdc_link_flush(session->link, FDC_LANE_SIDE);
    pthread_mutex_unlock(&session->side);
}

void
fdc_hostfn_answer(struct fdc_session *session, uint64_t number)
{
    fdc_side_send(session,
                  &(struct fdc_msg){.id = FDC_SIDE_HOST_FN_DONE, .ticket = number});
}

/* While nothing can become due it does not take replies in: the threads that wait for
 * theirs do that sooner by themselves. */
static void *
service(void *arg)
{
    struct fdc_hostfns *fns = arg;
    struct fdc_session *session = fns->session;
    struct entry entry;
    uint64_t number;
    uint32_t seen, entries;
    bool have, found;

    for (;;) {
        seen = fdc_load_acquire(&fns->word);
        pthread_mutex_lock(&fns->lock);
        have = fns->count > 0;
        if (have) {
            number = fns->queue[fns->first];
            fns->first = (fns->first + 1) % fns->room;
            fns->count--;
        }
        found = have && take(fns, number, &entry);
        entries = fns->entries;
        pthread_mutex_unlock(&fns->lock);
        /* Also once the session is over: what waits in vain becomes due then. */
        if (!have && (entries == 0 || fdc_load_ordered(&session->dead))) {
            fdc_futex_wait(&fns->word, seen, -1, false);
            continue;
        }
        if (!have) {
            (void)fdc_intake_until(session, &fns->word, seen, -1);
            continue;
        }
        if (found && entry.wrap != NULL)
            fdc_wrap_run(entry.wrap, false);
        if (found)
            run(session, &entry, CUDA_SUCCESS);
        if (found && entry.wrap != NULL) {
            fdc_wrap_run(entry.wrap, true);
            fdc_wrap_put(entry.wrap);
        }
        if (found && !entry.keep)
            __atomic_sub_fetch(&fns->pending, 1, __ATOMIC_RELEASE);
        if (!found || !entry.quiet)
            fdc_hostfn_answer(session, number);
    }
    return NULL;
}

/* Under the lock. */
static CUresult
service_start(struct fdc_hostfns *fns)
{
    sigset_t all, old;
    pthread_t thread;
    int err;

    if (fns->runs)
        return CUDA_SUCCESS;
    sigfillset(&all); /* the program's signals go to its own threads, */
    sigdelset(&all, SIGSEGV); /* but for those that its functions raise here */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&thread, NULL, service, fns);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return CUDA_ERROR_OPERATING_SYSTEM;
    pthread_detach(thread);
    fns->runs = true;
    return CUDA_SUCCESS;
}

static CUresult
add(struct fdc_session *session, const struct entry *like, uint64_t *number)
{
    uint64_t base = like->quiet ? QUIET : 0;
    struct fdc_hostfns *fns = fns_of(session, base), *none = NULL;
    struct entry *entry;
    CUresult result;

    if (fns == NULL) {
        fns = calloc(1, sizeof(*fns));
        if (fns == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        fns->session = session;
        pthread_mutex_init(&fns->lock, NULL);
        if (!__atomic_compare_exchange_n(&session->hostfns[like->quiet], &none, fns,
                                         false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            free(fns);
            fns = none;
        }
    }
    entry = malloc(sizeof(*entry));
    if (entry == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *entry = *like;
    pthread_mutex_lock(&fns->lock);
    result = service_start(fns);
    if (result == CUDA_SUCCESS) {
        entry->number = base | ++fns->last;
        *number = entry->number;
        entry->next = fns->bucket[entry->number % BUCKETS];
        fns->bucket[entry->number % BUCKETS] = entry;
        if (!entry->keep)
            __atomic_add_fetch(&fns->pending, 1, __ATOMIC_RELAXED);
        if (fns->entries++ == 0) {
            __atomic_add_fetch(&fns->word, 1, __ATOMIC_RELEASE);
            fdc_futex_wake(&fns->word, 1, false);
        }
    }
    pthread_mutex_unlock(&fns->lock);
    if (result != CUDA_SUCCESS)
        free(entry);
    return result;
}

void
fdc_hostfn_wrap(struct fdc_session *session, uint64_t number, struct fdc_wrap *wrap)
{
    struct fdc_hostfns *fns = fns_of(session, number);
    struct entry *entry = NULL;

    if (fns == NULL) {
        fdc_wrap_put(wrap);
        return;
    }
    pthread_mutex_lock(&fns->lock);
    for (entry = fns->bucket[number % BUCKETS]; entry != NULL; entry = entry->next)
        if (entry->number == number)
            break;
    if (entry != NULL) {
        struct fdc_wrap *old = entry->wrap;

        entry->wrap = wrap;
        wrap = old;
    }
    pthread_mutex_unlock(&fns->lock);
    fdc_wrap_put(wrap);
}

CUresult
fdc_hostfn_find(struct fdc_session *session, uint64_t number, CUhostFn *fn, void **user)
{
    struct fdc_hostfns *fns = fns_of(session, number);
    const struct entry *entry = NULL;

    if (fns == NULL)
        return CUDA_ERROR_NOT_FOUND;
    pthread_mutex_lock(&fns->lock);
    for (entry = fns->bucket[number % BUCKETS]; entry != NULL; entry = entry->next)
        if (entry->number == number)
            break;
    if (entry != NULL) {
        *fn = entry->fn;
        *user = entry->user;
    }
    pthread_mutex_unlock(&fns->lock);
    return entry != NULL && *fn != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

void
fdc_hostfn_forget(struct fdc_session *session, uint64_t number)
{
    struct fdc_hostfns *fns = fns_of(session, number);
    struct entry entry;

    pthread_mutex_lock(&fns->lock);
    if (take(fns, number, &entry)) {
        fdc_wrap_put(entry.wrap);
        if (entry.keep)
            drop(fns, number);
        else
            __atomic_sub_fetch(&fns->pending, 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&fns->lock);
}

bool
fdc_hostfn_pending(struct fdc_session *session)
{
    struct fdc_hostfns *fns = fns_of(session, 0);

    return fns != NULL && fdc_load_acquire(&fns->pending) != 0;
}

CUresult
fdc_hostfn_send(struct fdc_call *call, struct fdc_stream *stream, void (*fn)(void *user),
                void *user)
{
    struct entry entry = {.fn = fn, .user = user};
    struct fdc_req_fdcHostFn *req;
    uint64_t number;
    CUresult result;

    result = add(call->session, &entry, &number);
    if (result != CUDA_SUCCESS)
        return result;
    call->id = FDC_ID_fdcHostFn;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL) {
        fdc_hostfn_forget(call->session, number);
        return call->result;
    }
    req->stream = fdc_stream_wire(stream);
    req->number = number;
    result = fdc_call_send(call);
    fdc_link_flush(call->session->link, FDC_LANE_COMMAND);
    return result;
}

CUresult
fdc_hostfn_add(struct fdc_session *session, void (*fn)(void *user), void *user,
               uint64_t *number)
{
    return add(session, &(struct entry){.fn = fn, .user = user}, number);
}

CUresult
fdc_hostfn_keep(struct fdc_session *session, void (*fn)(void *user), void *user,
                uint64_t *number)
{
    return add(session, &(struct entry){.fn = fn, .user = user, .keep = true}, number);
}

CUresult
fdc_hostfn_quiet(struct fdc_session *session, void (*fn)(void *user), void *user,
                 uint64_t *number)
{
    return add(session, &(struct entry){.fn = fn, .user = user, .quiet = true}, number);
}

/* ---- the calls ---- */

CUresult
fdc_hostfn_put(struct fdc_call *call, struct fdc_stream *stream, uint64_t number)
{
    struct fdc_req_fdcHostFn *req;
    CUresult result;

    call->id = FDC_ID_fdcHostFn;
    call->context = stream->object.context;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->stream = fdc_stream_wire(stream);
    req->number = number;
    /* The service thread is what takes in the notice, so it has to have left. */
    result = fdc_call_send(call);
    fdc_link_flush(call->session->link, FDC_LANE_COMMAND);
    return result;
}

static CUresult
launch(CUstream value, unsigned how, struct entry *entry)
{
    struct fdc_stream *stream;
    struct fdc_call call;
    uint64_t number;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_fdcHostFn, FDC_NEEDS_CONTEXT);
    if (result != CUDA_SUCCESS)
        return result;
    if (entry->fn == NULL && entry->callback == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (entry->callback != NULL) {
        result = fdc_stream_resolve(&call, value, how, &stream);
        if (result == CUDA_SUCCESS && fdc_stream_capturing(stream))
            result = fdc_capture_refuse(stream);
        if (result != CUDA_SUCCESS)
            return result;
    }
    result = fdc_stream_resolve(&call, value, how | FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    entry->keep = fdc_stream_capturing(stream); /* each replay runs it */
    result = add(call.session, entry, &number);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_hostfn_put(&call, stream, number);
    if (result != CUDA_SUCCESS)
        fdc_hostfn_forget(call.session, number);
    return result;
}

FDC_EXPORT CUresult
cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
    return launch(hStream, 0, &(struct entry){.fn = fn, .user = userData});
}

FDC_EXPORT CUresult
cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void *userData)
{
    return launch(hStream, FDC_STREAM_PER_THREAD_ZERO,
                  &(struct entry){.fn = fn, .user = userData});
}

/* syncMode says how the driver waits for the function; that is the worker's matter. */
FDC_EXPORT CUresult
cuLaunchHostFunc_v2(CUstream hStream, CUhostFn fn, void *userData,
                    unsigned int syncMode)
{
    if (syncMode > 1)
        return CUDA_ERROR_INVALID_VALUE;
    return launch(hStream, 0, &(struct entry){.fn = fn, .user = userData});
}

FDC_EXPORT CUresult
cuLaunchHostFunc_v2_ptsz(CUstream hStream, CUhostFn fn, void *userData,
                         unsigned int syncMode)
{
    if (syncMode > 1)
        return CUDA_ERROR_INVALID_VALUE;
    return launch(hStream, FDC_STREAM_PER_THREAD_ZERO,
                  &(struct entry){.fn = fn, .user = userData});
}

static CUresult
add_callback(CUstream stream, CUstreamCallback callback, void *user, unsigned flags,
             unsigned how)
{
    struct entry entry = {.callback = callback, .user = user, .stream = stream};

    if (flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return launch(stream, how, &entry);
}

FDC_EXPORT CUresult
cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData,
                    unsigned int flags)
{
    return add_callback(hStream, callback, userData, flags, 0);
}

FDC_EXPORT CUresult
cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback, void *userData,
                         unsigned int flags)
{
    return add_callback(hStream, callback, userData, flags, FDC_STREAM_PER_THREAD_ZERO);
}
