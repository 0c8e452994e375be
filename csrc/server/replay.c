/*
 * Replays of graphs with copies from and to the client's memory. The bytes that the copies
 * read come before the launch; they are put into the shadows at the replay's own place in
 * its stream, since an earlier replay may still be reading there, or at once where none
 * is. What the copies wrote is taken out of the shadows when the replay has finished, again
 * at its place, and given to the client on request. Both are done by host functions that
 * only copy bytes. Replays that share a shadow come one after the other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "server/graph.h"
#include "server_hooks.h"

#define JOBS_MAX 4096

struct job {
    struct job *next;
    uint64_t number;
    struct fdc_serve *serve;
    struct fdc_rows *rows; /* a reference */
    uint8_t *up, *down;    /* packed */
    uint64_t charged;      /* bytes of both, as host memory of the session */
    uint64_t fetched;      /* bytes of down that were asked for */
    uint32_t refs;         /* the list, the driver's call back, bytes on their way; atomic */
};

struct fdc_replays {
    pthread_mutex_t lock;
    struct fdc_rows *rows; /* NULL: none any more */
    struct job *jobs;
    int count;
};

struct fdc_replays *
fdc_replays_new(struct fdc_rows *rows)
{
    struct fdc_replays *replays = calloc(1, sizeof(*replays));

    if (replays == NULL)
        return NULL;
    pthread_mutex_init(&replays->lock, NULL);
    replays->rows = rows;
    return replays;
}

static void
job_put(struct job *job)
{
    /* pairs with itself: the last one out sees all that the others did */
    if (__atomic_sub_fetch(&job->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    fdc_host_refund(job->serve, job->charged);
    fdc_rows_put(job->serve, job->rows);
    free(job->up);
    free(job->down);
    free(job);
}

void
fdc_replays_put(struct fdc_serve *serve, struct fdc_replays *replays)
{
    struct job *job;

    if (replays == NULL)
        return;
    while ((job = replays->jobs) != NULL) {
        replays->jobs = job->next;
        job_put(job);
    }
    fdc_rows_put(serve, replays->rows);
    pthread_mutex_destroy(&replays->lock);
    free(replays);
}

void
fdc_replays_set(struct fdc_serve *serve, struct fdc_replays *replays,
                struct fdc_rows *rows)
{
    struct fdc_rows *old;

    pthread_mutex_lock(&replays->lock);
    old = replays->rows;
    replays->rows = rows;
    pthread_mutex_unlock(&replays->lock);
    fdc_rows_put(serve, old);
}

/* A reference, or NULL. */
struct fdc_rows *
fdc_replays_rows(struct fdc_replays *replays)
{
    struct fdc_rows *rows;

    if (replays == NULL)
        return NULL;
    pthread_mutex_lock(&replays->lock);
    rows = replays->rows;
    if (rows != NULL)
        __atomic_add_fetch(&rows->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&replays->lock);
    return rows;
}

static struct fdc_replays *
replays_of(struct fdc_serve *serve, uint64_t exec)
{
    struct fdc_slot *slot = fdc_slot_find(serve, FDC_KIND_GRAPH_EXEC, exec);

    return slot != NULL ? fdc_slot_aux(slot) : NULL;
}

/* ---- jobs ---- */

/* Room for the bytes, which count as the shadows do. */
static bool
job_room(struct job *job)
{
    uint64_t size = job->rows->up + job->rows->down;

    if (fdc_host_charge_now(job->serve, size) != CUDA_SUCCESS)
        return false;
    job->charged = size;
    job->up = malloc(job->rows->up + 1);
    job->down = malloc(job->rows->down + 1);
    return job->up != NULL && job->down != NULL;
}

/* The job of this number, made if it is not there; the list's reference. */
static struct job *
job_get(struct fdc_serve *serve, struct fdc_replays *replays, uint64_t number, bool make)
{
    struct job *job;

    for (job = replays->jobs; job != NULL; job = job->next)
        if (job->number == number)
            return job;
    if (!make || replays->count == JOBS_MAX)
        return NULL;
    job = calloc(1, sizeof(*job));
    if (job == NULL)
        return NULL;
    job->refs = 1;
    job->number = number;
    job->serve = serve;
    job->rows = fdc_replays_rows(replays);
    if (job->rows == NULL || !job_room(job)) {
        job_put(job);
        return NULL;
    }
    job->next = replays->jobs;
    replays->jobs = job;
    replays->count++;
    return job;
}

/* Out of the list. */
static void
job_end(struct fdc_replays *replays, struct job *job)
{
    struct job **link;

    for (link = &replays->jobs; *link != job; link = &(*link)->next)
        ;
    *link = job->next;
    replays->count--;
    job_put(job);
}

/* Between the packed bytes and the shadows. */
static void
move(const struct fdc_rows *rows, uint8_t *packed, bool up)
{
    for (uint32_t i = 0; i < rows->count; i++) {
        const struct fdc_graph_copy *copy = &rows->row[i].copy;
        uint8_t *base = rows->row[i].shadow->bytes + copy->offset;

        if (up ? !copy->up : copy->down != FDC_COPY_AT_END)
            continue;
        for (uint64_t z = 0; z < copy->depth; z++)
            for (uint64_t y = 0; y < copy->height; y++) {
                uint8_t *line = base + z * copy->slice + y * copy->pitch;

                if (up)
                    memcpy(line, packed, copy->width);
                else
                    memcpy(packed, line, copy->width);
                packed += copy->width;
            }
    }
}

/* On a thread of the driver's: no CUDA call. */
static void
begin_fn(void *user)
{
    struct job *job = user;

    move(job->rows, job->up, true);
    job_put(job);
}

static void
end_fn(void *user)
{
    struct job *job = user;

    if (job->rows->down != 0)
        move(job->rows, job->down, false);
    job_put(job);
}

/* ---- launching ---- */

/* The stream waits for the last replay with any of the shadows, in whatever context. Whether
 * none is running. */
static CUresult
queue_up(struct fdc_serve *serve, const struct fdc_rows *rows, CUstream stream,
         bool *quiet)
{
    CUresult result = CUDA_SUCCESS;

    *quiet = true;
    for (uint32_t i = 0; i < rows->count && result == CUDA_SUCCESS; i++) {
        struct fdc_mark *last = rows->row[i].shadow->last;

        if (last == NULL || !fdc_load_acquire(&last->ctx->open) ||
            last->epoch != last->ctx->opened ||
            serve->driver->cuEventQuery(last->event) == CUDA_SUCCESS)
            continue; /* or it went with its context */
        *quiet = false;
        result = serve->driver->cuStreamWaitEvent(stream, last->event, 0);
    }
    return result;
}

static CUresult
remember(struct fdc_ctx *ctx, const struct fdc_rows *rows, CUstream stream)
{
    CUresult result = CUDA_SUCCESS;

    for (uint32_t i = 0; i < rows->count && result == CUDA_SUCCESS; i++) {
        struct fdc_shadow *shadow = rows->row[i].shadow;
        struct fdc_mark *mark;

        result = fdc_mark_stream(ctx, stream, &mark);
        if (result != CUDA_SUCCESS)
            break;
        if (shadow->last != NULL)
            fdc_mark_put(shadow->last);
        shadow->last = mark;
    }
    return result;
}

static CUresult
launch(struct fdc_serve *serve, CUgraphExec exec, CUstream stream, struct job *job)
{
    const struct fdc_driver *driver = serve->driver;
    CUresult result, marked;
    bool quiet;

    result = queue_up(serve, job->rows, stream, &quiet);
    if (result == CUDA_SUCCESS && job->rows->up != 0) {
        __atomic_add_fetch(&job->refs, 1, __ATOMIC_RELAXED);
        if (quiet)
            begin_fn(job);
        else
            result = driver->cuLaunchHostFunc(stream, begin_fn, job);
        if (result != CUDA_SUCCESS)
            job_put(job);
    }
    if (result == CUDA_SUCCESS)
        result = driver->cuGraphLaunch(exec, stream);
    if (result != CUDA_SUCCESS)
        return result;
    __atomic_add_fetch(&job->refs, 1, __ATOMIC_RELAXED);
    result = driver->cuLaunchHostFunc(stream, end_fn, job);
    if (result != CUDA_SUCCESS)
        job_put(job);
    /* It runs even if its end cannot be told: the next one has to wait for it. */
    marked = remember(fdc_context_here(), job->rows, stream);
    return result == CUDA_SUCCESS ? marked : result;
}

int
fdc_server_call_fdcReplayUp(struct fdc_request *request,
                            const struct fdc_req_fdcReplayUp *req)
{
    const void *bytes = fdc_request_chunk(request, FDC_REGION_UP, req->chunk);
    struct fdc_replays *replays = replays_of(request->serve, req->exec);
    CUresult result = CUDA_ERROR_INVALID_HANDLE;
    struct job *job;

    if (bytes == NULL)
        return -EPROTO;
    job = replays != NULL ? job_get(request->serve, replays, req->replay, true) : NULL;
    if (job != NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
        if (req->offset <= job->rows->up &&
            req->chunk.size <= job->rows->up - req->offset) {
            memcpy(job->up + req->offset, bytes, req->chunk.size);
            fdc_count(request->serve, up_bytes, req->chunk.size);
            result = CUDA_SUCCESS;
        }
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcReplay(struct fdc_request *request,
                          const struct fdc_req_fdcReplay *req)
{
    const void *bytes = fdc_request_span(request, req->bytes);
    struct fdc_serve *serve = request->serve;
    struct fdc_replays *replays = replays_of(serve, req->exec);
    struct job *job = NULL;
    CUstream stream;
    void *exec;
    CUresult result;

    if (req->bytes.size != req->size || (req->size != 0 && bytes == NULL))
        return -EPROTO;
    result = fdc_handle_stream(serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_handle_get(serve, FDC_KIND_GRAPH_EXEC, req->exec, &exec);
    if (result == CUDA_SUCCESS && fdc_context_here() == NULL)
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS) {
        job = replays != NULL ? job_get(serve, replays, req->replay, true) : NULL;
        if (job == NULL)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS && req->size > job->rows->up)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS) {
        if (req->size != 0)
            memcpy(job->up, bytes, req->size);
        fdc_count(serve, up_bytes, req->size);
        result = launch(serve, exec, stream, job);
    }
    if (job != NULL && (result != CUDA_SUCCESS || job->rows->down == 0))
        job_end(replays, job);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* ---- what a replay gives ---- */

struct fetch {
    struct job *job; /* a reference */
    uint64_t offset;
};

/* Under done_lock, by whoever tells the client. */
static void
fill(struct fdc_serve *serve, void *user, void *view, uint64_t size)
{
    struct fetch *fetch = user;

    (void)serve;
    if (view != NULL)
        memcpy(view, fetch->job->down + fetch->offset, size);
    job_put(fetch->job);
    free(fetch);
}

int
fdc_server_call_fdcReplayDown(struct fdc_request *request,
                              const struct fdc_req_fdcReplayDown *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_replays *replays = replays_of(serve, req->exec);
    struct fdc_done item = {.down = req->chunk, .ticket = request->ticket, .fill = fill};
    struct job *job = replays != NULL ? job_get(serve, replays, req->replay, false) : NULL;
    struct fdc_ctx *ctx = fdc_context_here();
    struct fetch *fetch = NULL;
    CUresult result;

    if (fdc_request_chunk(request, FDC_REGION_DOWN, req->chunk) == NULL)
        return -EPROTO;
    result = fdc_handle_stream(serve, req->stream, &item.stream);
    if (result == CUDA_SUCCESS && (job == NULL || ctx == NULL))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && (req->offset > job->rows->down ||
                                   req->chunk.size > job->rows->down - req->offset))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && !(request->flags & FDC_MSG_DONE))
        return 0;
    if (result == CUDA_SUCCESS) {
        fetch = malloc(sizeof(*fetch));
        if (fetch == NULL)
            result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (result == CUDA_SUCCESS)
        result = fdc_mark_stream(ctx, item.stream, &item.mark);
    if (result == CUDA_SUCCESS) {
        __atomic_add_fetch(&job->refs, 1, __ATOMIC_RELAXED);
        *fetch = (struct fetch){job, req->offset};
        item.user = fetch;
        if (fdc_done_add_filled(serve, &item)) {
            fdc_mark_put(item.mark);
            job_put(job);
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            request->done = true;
            fetch = NULL;
        }
    }
    free(fetch);
    if (job != NULL) {
        job->fetched += req->chunk.size;
        if (job->fetched >= job->rows->down)
            job_end(replays, job);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcGraphRows(struct fdc_request *request,
                             const struct fdc_req_fdcGraphRows *req)
{
    struct fdc_rep_fdcGraphRows reply = {0};
    struct fdc_rows *rows;
    struct fdc_graph_rows *told;
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    size_t size;
    int err = 0;

    rows = fdc_replays_rows(replays_of(request->serve, req->exec));
    size = sizeof(*told);
    if (rows != NULL)
        size += rows->count * sizeof(told->row[0]) + rows->hosts * sizeof(rows->host[0]);
    told = calloc(1, size);
    if (told != NULL) {
        result = CUDA_SUCCESS;
        if (rows != NULL) {
            told->count = rows->count;
            told->hosts = rows->hosts;
            for (uint32_t i = 0; i < rows->count; i++)
                told->row[i] = rows->row[i].copy;
            if (rows->hosts != 0)
                memcpy(&told->row[rows->count], rows->host,
                       rows->hosts * sizeof(rows->host[0]));
        }
        reply.total = size;
        err = fdc_blob_give(request, req->blob, told, size);
    }
    fdc_rows_put(request->serve, rows);
    if (err < 0)
        return err;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

/* ---- the end of executable graphs ---- */

void
fdc_exec_forget(struct fdc_serve *serve, void *value, void *aux)
{
    (void)value;
    fdc_replays_put(serve, aux);
}

void
fdc_exec_end(struct fdc_serve *serve, void *value, void *aux)
{
    serve->driver->cuGraphExecDestroy(value);
    fdc_replays_put(serve, aux);
}

int
fdc_server_call_cuGraphExecDestroy(struct fdc_request *request,
                                   const struct fdc_req_cuGraphExecDestroy *req)
{
    void *exec = NULL, *replays = NULL;
    CUresult result;

    result = fdc_handle_drop_aux(request->serve, FDC_KIND_GRAPH_EXEC, req->hGraphExec,
                                 &exec, &replays);
    if (result == CUDA_SUCCESS) /* a helper may be updating it */
        fdc_retire(request->serve, exec, replays, fdc_exec_end);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
