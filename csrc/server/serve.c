/*
 * What every call needs: checking the pieces of a message, answering it, keeping it for
 * later, and the helper threads that serve what may take long. Sending never blocks the
 * caller: what does not fit on the reply lane is queued and the poller sends it.
 */
#include "server/serve.h"
#include "fdc/result.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT_MAX (64ull << 20)           /* bytes of unsent replies before we give up */
#define TASK_BYTES_MAX (64ull << 20)    /* bytes of kept messages likewise */
#define POOL_MAX 1024

/* ---- pieces of a message ---- */

const void *
fdc_request_span(const struct fdc_request *request, struct fdc_span span)
{
    if (span.offset < sizeof(struct fdc_msg) || span.offset > request->size ||
        span.size > request->size - span.offset)
        return NULL;
    return (const uint8_t *)request->msg + span.offset;
}

void *
fdc_request_chunk(const struct fdc_request *request, enum fdc_region region,
                  struct fdc_chunk chunk)
{
    const struct fdc_serve *serve = request->serve;

    if (chunk.offset > serve->region_size[region] ||
        chunk.size > serve->region_size[region] - chunk.offset)
        return NULL;
    return (uint8_t *)serve->region[region] + chunk.offset;
}

CUresult
fdc_serve_device(struct fdc_serve *serve, int remote, CUdevice *value)
{
    if (remote < 0 || remote >= serve->limits.devices)
        return CUDA_ERROR_INVALID_DEVICE;
    *value = serve->device[remote];
    return CUDA_SUCCESS;
}

/* ---- sending ---- */

struct fdc_out {
    struct fdc_out *next;
    uint64_t after;
    uint32_t size;
    bool flush;
    uint8_t bytes[];
};

/* Under reply_lock. 0, -EAGAIN, or the session is over. */
static int
put_now(struct fdc_serve *serve, const void *bytes, uint32_t size, uint64_t after,
        bool flush)
{
    int err = 0;
    void *at = fdc_link_claim(serve->link, FDC_LANE_REPLY, size, &err);

    if (at == NULL)
        return err ? err : -EAGAIN;
    memcpy(at, bytes, size);
    fdc_link_commit_after(serve->link, FDC_LANE_REPLY, after);
    if (flush)
        fdc_link_flush(serve->link, FDC_LANE_REPLY);
    return 0;
}

void
fdc_serve_break(struct fdc_serve *serve, int err, const char *format, ...)
{
    char what[160];
    uint32_t none = 0;
    va_list args;

    /* The first thread to say why is the one that is heard. */
    if (!__atomic_compare_exchange_n(&serve->broken, &none, (uint32_t)-err, false,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    fdc_log(FDC_LOG_ERROR, "session ends: %s", what);
    if (pthread_mutex_trylock(&serve->reply_lock) == 0) {
        struct fdc_reply bye = {
            .size = sizeof(bye), .id = FDC_REPLY_BYE, .result = CUDA_ERROR_DEVICE_UNAVAILABLE,
        };

        put_now(serve, &bye, sizeof(bye), 0, true);
        pthread_mutex_unlock(&serve->reply_lock);
    }
    fdc_serve_stop(serve);
}

/* Under reply_lock. */
static void
put_later(struct fdc_serve *serve, const void *bytes, uint32_t size, uint64_t after,
          bool flush)
{
    struct fdc_out *out = NULL;

    if (serve->out_bytes + size <= OUT_MAX)
        out = malloc(sizeof(*out) + size);
    if (out == NULL) {
        fdc_serve_break(serve, -ENOBUFS, "the client takes no replies in");
        return;
    }
    memcpy(out->bytes, bytes, size);
    out->next = NULL;
    out->after = after;
    out->size = size;
    out->flush = flush;
    if (serve->out_last != NULL)
        serve->out_last->next = out;
    else
        serve->out_first = out;
    serve->out_last = out;
    serve->out_bytes += size;
}

static void
send_locked(struct fdc_serve *serve, const void *bytes, uint32_t size, uint64_t after,
            bool flush)
{
    int err = -EAGAIN;

    if (serve->out_first == NULL)
        err = put_now(serve, bytes, size, after, flush);
    if (err == -EAGAIN) {
        put_later(serve, bytes, size, after, flush);
        fdc_poller_kick(serve);
    } else if (err == -EMSGSIZE) {
        fdc_serve_break(serve, err, "a reply of %u bytes does not fit", size);
    }
}

void
fdc_send(struct fdc_serve *serve, const void *bytes, uint32_t size, bool flush)
{
    pthread_mutex_lock(&serve->reply_lock);
    send_locked(serve, bytes, size, 0, flush);
    pthread_mutex_unlock(&serve->reply_lock);
}

bool
fdc_send_rest(struct fdc_serve *serve)
{
    bool left;

    pthread_mutex_lock(&serve->reply_lock);
    while (serve->out_first != NULL) {
        struct fdc_out *out = serve->out_first;

        if (put_now(serve, out->bytes, out->size, out->after, out->flush) == -EAGAIN)
            break;
        serve->out_first = out->next;
        if (out->next == NULL)
            serve->out_last = NULL;
        serve->out_bytes -= out->size;
        free(out);
    }
    left = serve->out_first != NULL;
    pthread_mutex_unlock(&serve->reply_lock);
    return left;
}

void
fdc_send_drop(struct fdc_serve *serve)
{
    struct fdc_out *out;

    while ((out = serve->out_first) != NULL) {
        serve->out_first = out->next;
        free(out);
    }
    serve->out_last = NULL;
}

void
fdc_send_flush(struct fdc_serve *serve)
{
    pthread_mutex_lock(&serve->reply_lock);
    fdc_link_flush(serve->link, FDC_LANE_REPLY);
    pthread_mutex_unlock(&serve->reply_lock);
}

enum { NO_DEVICE = -1 };

static int
device_of_ctx(const struct fdc_ctx *ctx)
{
    return ctx != NULL ? ctx->device : NO_DEVICE;
}

/* The device that a call was to work on. Whether its context is current is another matter: a
 * driver may refuse to make one current that it has lost. */
static int
device_of(const struct fdc_request *request)
{
    const struct fdc_serve_entry *entry = fdc_serve_entry(request->id);

    if (entry != NULL && entry->context)
        return device_of_ctx(fdc_context_at(request->serve, request->ctx));
    return request->serve->limits.devices == 1 ? 0 : NO_DEVICE;
}

/* Under reply_lock. */
static void
note_lost(struct fdc_serve *serve, int device, CUresult result)
{
    serve->lost = (uint16_t)(1 + device);
    serve->lost_result = (uint16_t)result;
    fdc_monitor_lost(serve, device, result);
}

void
fdc_serve_lost(struct fdc_serve *serve, int device, CUresult result)
{
    if (FDC_LIKELY(!fdc_result_is_final(result)))
        return;
    pthread_mutex_lock(&serve->reply_lock);
    note_lost(serve, device, result);
    pthread_mutex_unlock(&serve->reply_lock);
}

static uint16_t
company_of(const struct fdc_serve *serve)
{
    return (uint16_t)(fdc_load_relaxed(&serve->weighed) << 1 |
                      (fdc_board_company(serve->board) ? FDC_COMPANY : 0));
}

void
fdc_serve_company(struct fdc_serve *serve)
{
    struct fdc_reply note = { .size = sizeof(note), .id = FDC_REPLY_NOTE };

    pthread_mutex_lock(&serve->reply_lock);
    note.company = company_of(serve);
    send_locked(serve, &note, sizeof(note), 0, true);
    pthread_mutex_unlock(&serve->reply_lock);
}

/* Remembers what this result says of the device, and tells the client which device was lost
 * last. Under reply_lock. */
static void
tell_lost(struct fdc_serve *serve, int device, CUresult result, struct fdc_reply *head)
{
    if (FDC_UNLIKELY(result != CUDA_SUCCESS) && device != NO_DEVICE &&
        fdc_result_is_final(result))
        note_lost(serve, device, result);
    if (head != NULL) {
        head->lost = serve->lost;
        head->lost_result = serve->lost_result;
        head->company = company_of(serve);
    }
}

/* The first failure of a call without an answer, once. Under reply_lock. */
static void
tell_first(struct fdc_serve *serve, struct fdc_reply *head)
{
    head->first_result = serve->first_result;
    head->first_id = serve->first_id;
    serve->first_result = CUDA_SUCCESS;
    serve->first_id = 0;
}

static void
send_done(struct fdc_serve *serve, int device, uint64_t ticket, CUresult result,
          uint64_t after, bool flush)
{
    struct fdc_reply reply = {
        .size = sizeof(reply), .id = FDC_REPLY_DONE, .ticket = ticket, .result = result,
    };

    pthread_mutex_lock(&serve->reply_lock);
    fdc_count_own(serve, dones);
    tell_lost(serve, device, result, &reply);
    tell_first(serve, &reply);
    send_locked(serve, &reply, sizeof(reply), after, flush);
    pthread_mutex_unlock(&serve->reply_lock);
}

void
fdc_send_done(struct fdc_serve *serve, const struct fdc_ctx *ctx, uint64_t ticket,
              CUresult result, bool flush)
{
    send_done(serve, device_of_ctx(ctx), ticket, result, 0, flush);
}

void
fdc_send_done_after(struct fdc_serve *serve, const struct fdc_ctx *ctx, uint64_t ticket,
                    CUresult result, uint64_t after)
{
    send_done(serve, device_of_ctx(ctx), ticket, result, after, false);
}

void
fdc_request_put(struct fdc_request *request, struct fdc_chunk down)
{
    fdc_link_put_aside(request->serve->link, down.offset, down.size, &request->after);
    fdc_count(request->serve, down_bytes, down.size);
}

/* ---- answers ---- */

static void
keep_failure(const struct fdc_request *request, CUresult result)
{
    const struct fdc_serve_entry *entry = fdc_serve_entry(request->id);
    struct fdc_serve *serve = request->serve;

    fdc_count(serve, failures, 1);
    pthread_mutex_lock(&serve->reply_lock);
    tell_lost(serve, device_of(request), result, NULL);
    if (serve->first_result == CUDA_SUCCESS) {
        serve->first_result = result;
        serve->first_id = request->id;
    }
    pthread_mutex_unlock(&serve->reply_lock);
    fdc_log(FDC_LOG_INFO, "%s failed: %d", entry ? entry->name : "?", result);
}

void
fdc_request_answer(struct fdc_request *request, CUresult result, void *reply, uint32_t size)
{
    if (result != CUDA_SUCCESS)
        reply = NULL;
    fdc_request_answer_always(request, result, reply, size);
}

void
fdc_request_answer_always(struct fdc_request *request, CUresult result, void *reply,
                          uint32_t size)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_reply bare, *head = reply;
    int device = NO_DEVICE;

    if (request->answered)
        return;
    request->answered = true;
    if (FDC_UNLIKELY(result != CUDA_SUCCESS) && fdc_result_is_final(result))
        fdc_print_turn(serve, true); /* why it was lost: the program may ask nothing more */
    if (request->flags & FDC_MSG_DONE) {
        if (result != CUDA_SUCCESS && !request->done) {
            request->done = true;
            send_done(serve, device_of(request), request->ticket, result, 0, true);
        }
        return;
    }
    if (!(request->flags & FDC_MSG_REPLY)) {
        if (result != CUDA_SUCCESS)
            keep_failure(request, result);
        return;
    }
    if (head == NULL) {
        head = &bare;
        size = sizeof(bare);
    }
    memset(head, 0, sizeof(*head));
    head->size = size;
    head->id = request->id;
    head->ticket = request->ticket;
    head->result = result;
    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        device = device_of(request);
    pthread_mutex_lock(&serve->reply_lock);
    fdc_count_own(serve, replies);
    tell_lost(serve, device, result, head);
    tell_first(serve, head);
    send_locked(serve, head, size, request->after, true);
    pthread_mutex_unlock(&serve->reply_lock);
}

struct fdc_request *
fdc_request_keep(const struct fdc_request *request)
{
    size_t head = FDC_ALIGN_UP(sizeof(struct fdc_request), (size_t)FDC_MESSAGE_ALIGN);
    struct fdc_request *kept;

    kept = aligned_alloc(FDC_MESSAGE_ALIGN,
                         FDC_ALIGN_UP(head + request->size, (size_t)FDC_MESSAGE_ALIGN));
    if (kept == NULL)
        return NULL;
    *kept = *request;
    kept->msg = memcpy((uint8_t *)kept + head, request->msg, request->size);
    kept->answered = kept->kept = kept->done = false;
    /* Whoever keeps it answers it: fdc_entry_run() need not. */
    ((struct fdc_request *)request)->kept = true;
    return kept;
}

void
fdc_request_free(struct fdc_request *request)
{
    free(request);
}

void
fdc_request_finish(struct fdc_request *request, CUresult result, void *reply, uint32_t size)
{
    fdc_request_answer(request, result, reply, size);
    if ((request->flags & FDC_MSG_DONE) && !request->done)
        fdc_send_done(request->serve, NULL, request->ticket, CUDA_SUCCESS, true);
    fdc_request_free(request);
}

/* Calls that only wait, ask, mark or copy: no kernel comes of them, and where they work on
 * the NULL stream its handle says so. */
static bool
launches_nothing(uint16_t id)
{
    return id == FDC_ID_cuCtxSynchronize || id == FDC_ID_cuStreamSynchronize ||
           id == FDC_ID_cuEventSynchronize || id == FDC_ID_cuStreamQuery ||
           id == FDC_ID_cuEventQuery || id == FDC_ID_cuEventRecordWithFlags ||
           id == FDC_ID_fdcMark || id == FDC_ID_fdcCopyUpInline || id == FDC_ID_fdcCopyUp ||
           id == FDC_ID_fdcCopyDown || id == FDC_ID_fdcCopyShared;
}

int
fdc_entry_run(const struct fdc_serve_entry *entry, struct fdc_request *request)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx;
    CUresult result;
    int err;

    if (entry->context) {
        result = fdc_context_use(serve, request->ctx);
        if (FDC_UNLIKELY(result != CUDA_SUCCESS)) {
            fdc_request_answer(request, result, NULL, 0);
            return 0;
        }
        /* Calls that name no stream work on the NULL stream; over-counting costs little. */
        ctx = fdc_context_here();
        if (!launches_nothing(request->id)) {
            __atomic_add_fetch(&ctx->given, 1, __ATOMIC_RELAXED);
            if (request->id != FDC_ID_fdcLaunch && !fdc_load_relaxed(&ctx->legacy_work))
                __atomic_store_n(&ctx->legacy_work, 1, __ATOMIC_RELAXED);
        }
    }
    err = entry->fn(request);
    if (FDC_UNLIKELY(err != 0)) {
        fdc_serve_break(serve, err, "%s: a message that cannot be true", entry->name);
        return err;
    }
    if (FDC_UNLIKELY((request->flags & FDC_MSG_DONE) && !request->done && !request->kept)) {
        request->done = true;
        fdc_send_done(serve, NULL, request->ticket, CUDA_SUCCESS, true);
    }
    if (FDC_UNLIKELY((request->flags & FDC_MSG_REPLY) && !request->answered &&
                     !request->kept)) {
        fdc_log(FDC_LOG_ERROR, "%s gave no answer", entry->name);
        fdc_request_answer(request, CUDA_ERROR_UNKNOWN, NULL, 0);
    }
    return 0;
}

/* ---- helper threads ---- */

struct fdc_task {
    struct fdc_task *next;
    struct fdc_request *request;
    void (*fn)(struct fdc_request *, void *);
    void *user;
};

static void *
pool_main(void *arg)
{
    struct fdc_serve *serve = arg;

    pthread_mutex_lock(&serve->pool_lock);
    for (;;) {
        struct fdc_task *task = serve->task_first;

        if (task == NULL) {
            if (serve->pool_stop)
                break;
            serve->pool_idle++;
            pthread_cond_wait(&serve->pool_cond, &serve->pool_lock);
            serve->pool_idle--;
            continue;
        }
        serve->task_first = task->next;
        if (task->next == NULL)
            serve->task_last = NULL;
        serve->task_bytes -= task->request->size;
        serve->task_count--;
        pthread_mutex_unlock(&serve->pool_lock);
        task->fn(task->request, task->user);
        free(task);
        pthread_mutex_lock(&serve->pool_lock);
    }
    serve->pool_threads--;
    pthread_cond_broadcast(&serve->pool_gone);
    pthread_mutex_unlock(&serve->pool_lock);
    return NULL;
}

int
fdc_pool_add(struct fdc_serve *serve, struct fdc_request *kept,
             void (*fn)(struct fdc_request *, void *), void *user)
{
    struct fdc_task *task = malloc(sizeof(*task));
    pthread_attr_t attr;
    pthread_t thread;
    int err = 0;

    if (task == NULL)
        return -ENOMEM;
    *task = (struct fdc_task){ .request = kept, .fn = fn, .user = user };
    pthread_mutex_lock(&serve->pool_lock);
    if (serve->pool_stop || serve->task_bytes + kept->size > TASK_BYTES_MAX) {
        err = -EAGAIN;
        goto unlock;
    }
    if (serve->pool_idle <= serve->task_count && serve->pool_threads < POOL_MAX) {
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        if (pthread_create(&thread, &attr, pool_main, serve) == 0)
            serve->pool_threads++;
        else if (serve->pool_threads == 0)
            err = -EAGAIN;
        pthread_attr_destroy(&attr);
        if (err)
            goto unlock;
    }
    if (serve->task_last != NULL)
        serve->task_last->next = task;
    else
        serve->task_first = task;
    serve->task_last = task;
    serve->task_bytes += kept->size;
    serve->task_count++;
    task = NULL;
    pthread_cond_signal(&serve->pool_cond);
unlock:
    pthread_mutex_unlock(&serve->pool_lock);
    free(task);
    return err;
}

void
fdc_pool_stop(struct fdc_serve *serve)
{
    pthread_mutex_lock(&serve->pool_lock);
    serve->pool_stop = true;
    pthread_cond_broadcast(&serve->pool_cond);
    while (serve->pool_threads > 0)
        pthread_cond_wait(&serve->pool_gone, &serve->pool_lock);
    pthread_mutex_unlock(&serve->pool_lock);
}
