/*
 * Host functions: the driver calls our trampoline on a thread of its own when a stream
 * arrives at the place; the poller then sends the completions that come before it and
 * FDC_REPLY_HOST_FN, and the trampoline blocks until the client has answered on the side
 * lane or the session ends. Never a CUDA call from the trampoline.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct place {                          /* one cuLaunchHostFunc; may run again in a graph */
    struct place *next;
    struct fdc_serve *serve;
    struct fdc_hostfns *fns;
    bool kept;                          /* by a graph: it ends with that */
    uint64_t number;
    struct fdc_ctx *ctx;
    CUstream stream;                    /* NULL: in a graph */
};

struct running {                        /* on the trampoline's stack */
    struct running *next;
    uint64_t number;
    bool sent, done;
};

struct fdc_hostfns {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    struct place *places;
    struct running *running;
    int inside;                         /* trampolines that have not returned */
    int kept;                           /* places that graphs keep */
    bool over, side_runs;
    uint32_t due;                       /* atomic: some are not sent yet */
    pthread_t side;
};

struct fdc_hostfns *
fdc_hostfns_new(struct fdc_serve *serve)
{
    struct fdc_hostfns *fns = calloc(1, sizeof(*fns));

    (void)serve;
    if (fns == NULL)
        return NULL;
    pthread_mutex_init(&fns->lock, NULL);
    pthread_cond_init(&fns->answered, NULL);
    return fns;
}

static void
place_free(struct fdc_hostfns *fns, struct place *place)
{
    for (struct place **at = &fns->places; *at != NULL; at = &(*at)->next)
        if (*at == place) {
            *at = place->next;
            free(place);
            return;
        }
}

static void
trampoline(void *user)
{
    struct place *place = user;
    struct fdc_serve *serve = place->serve;
    struct fdc_hostfns *fns = serve->hostfns;
    struct running me = { .number = place->number };

    pthread_mutex_lock(&fns->lock);
    if (!fns->over) {
        struct running **at = &fns->running;

        while (*at != NULL)
            at = &(*at)->next;
        *at = &me;
        fns->inside++;
        fdc_meter_host(serve, place->ctx, place->stream, true);
        __atomic_store_n(&fns->due, 1, __ATOMIC_RELEASE);
        fdc_poller_kick(serve);
        while (!me.done && !fns->over)
            pthread_cond_wait(&fns->answered, &fns->lock);
        for (at = &fns->running; *at != &me; at = &(*at)->next)
            ;
        *at = me.next;
        fns->inside--;
        fdc_meter_host(serve, place->ctx, place->stream, false);
        pthread_cond_broadcast(&fns->answered);
    }
    if (place->stream != NULL)
        place_free(fns, place);
    pthread_mutex_unlock(&fns->lock);
}

bool
fdc_hostfns_turn(struct fdc_serve *serve)
{
    struct fdc_hostfns *fns = serve->hostfns;
    uint64_t number[32];
    int n = 0;

    /* pairs with the release in trampoline() */
    if (!__atomic_load_n(&fns->due, __ATOMIC_ACQUIRE))
        return false;
    pthread_mutex_lock(&fns->lock);
    __atomic_store_n(&fns->due, 0, __ATOMIC_RELAXED);
    for (struct running *run = fns->running; run != NULL; run = run->next) {
        if (run->sent)
            continue;
        if (n == (int)FDC_COUNT(number)) {
            __atomic_store_n(&fns->due, 1, __ATOMIC_RELAXED);
            break;
        }
        run->sent = true;
        number[n++] = run->number;
    }
    pthread_mutex_unlock(&fns->lock);
    fdc_done_flush(serve);
    for (int i = 0; i < n; i++) {
        struct fdc_reply reply = {
            .size = sizeof(reply), .id = FDC_REPLY_HOST_FN, .ticket = number[i],
        };

        fdc_count(serve, host_functions, 1);
        fdc_send(serve, &reply, sizeof(reply), true);
    }
    return n > 0;
}

/* ---- the side lane ---- */

static void
answered(struct fdc_hostfns *fns, uint64_t number)
{
    pthread_mutex_lock(&fns->lock);
    for (struct running *run = fns->running; run != NULL; run = run->next)
        if (run->sent && !run->done && run->number == number) {
            run->done = true;
            break;
        }
    pthread_cond_broadcast(&fns->answered);
    pthread_mutex_unlock(&fns->lock);
}

/* The client has gone. Where the process is the session's alone it ends now, whatever the
 * driver is in the middle of: nothing may hold the client's memory. */
static void
watch(struct fdc_serve *serve)
{
    uint64_t until = fdc_now_ns() + (uint64_t)serve->grace_ms * 1000000;

    if (serve->grace_ms == 0)
        return;
    while (!fdc_load_acquire(&serve->closed)) {         /* pairs with fdc_hostfns_free() */
        uint64_t now = fdc_now_ns();

        if (now >= until) {
            fdc_log(FDC_LOG_WARN, "the driver does not come back: the process ends");
            _exit(1);
        }
        fdc_futex_wait(&serve->closed, 0, (int64_t)((until - now) / 1000) + 1, false);
    }
}

static void *
side_main(void *arg)
{
    struct fdc_serve *serve = arg;
    struct fdc_msg msg;
    const struct fdc_msg *at;
    uint32_t size;
    int err = 0;

    while (err >= 0 && !fdc_load_relaxed(&serve->stop)) {
        at = fdc_link_peek(serve->link, FDC_LANE_SIDE, &size, &err);
        if (at == NULL) {
            if (err == 0)
                err = fdc_link_wait(serve->link, FDC_LANE_SIDE, -1);
            continue;
        }
        if (size < sizeof(msg)) {
            err = -EPROTO;
            break;
        }
        msg = *at;
        fdc_link_release(serve->link, FDC_LANE_SIDE);
        if (msg.id == FDC_SIDE_HOST_FN_DONE)
            answered(serve->hostfns, msg.ticket);
        else if (msg.id == FDC_SIDE_GATE)
            err = fdc_gates_open(serve, msg.ctx, msg.ticket);
        else
            err = -EPROTO;
    }
    if (err == -EPROTO)
        fdc_serve_break(serve, err, "a side message that cannot be true");
    fdc_store_relaxed(&serve->gone, 1);
    fdc_hostfns_cancel(serve);
    fdc_gates_cancel(serve);
    fdc_trunks_cancel(serve);
    watch(serve);
    return NULL;
}

int
fdc_side_start(struct fdc_serve *serve)
{
    if (pthread_create(&serve->hostfns->side, NULL, side_main, serve))
        return -EAGAIN;
    serve->hostfns->side_runs = true;
    return 0;
}

/* The address for cuLaunchHostFunc and host nodes, which are kept for replays: until their
 * graph ends (fdc_hostfn_keep()), else, as what an executable graph is told to call instead,
 * until the session does. */
CUresult
fdc_hostfn_place(struct fdc_serve *serve, uint64_t number, CUstream stream, CUhostFn *fn,
                 void **user)
{
    struct fdc_hostfns *fns = serve->hostfns;
    struct place *place = malloc(sizeof(*place));

    if (place == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *place = (struct place){
        .serve = serve, .fns = fns, .number = number, .ctx = fdc_context_here(),
        .stream = stream,
    };
    pthread_mutex_lock(&fns->lock);
    place->next = fns->places;
    fns->places = place;
    pthread_mutex_unlock(&fns->lock);
    *fn = trampoline;
    *user = place;
    return CUDA_SUCCESS;
}

/* The last graph that had it has ended. Any thread, also one of the driver's. */
static void
let_go(void *user)
{
    struct place *place = user;
    struct fdc_hostfns *fns = place->fns;

    pthread_mutex_lock(&fns->lock);
    if (place->kept) {
        fns->kept--;
        place_free(fns, place);
        pthread_cond_broadcast(&fns->answered);
    }
    pthread_mutex_unlock(&fns->lock);
}

static void
set_kept(struct fdc_hostfns *fns, struct place *place, bool kept)
{
    pthread_mutex_lock(&fns->lock);
    place->kept = kept;
    fns->kept += kept ? 1 : -1;
    pthread_mutex_unlock(&fns->lock);
}

/* A user object goes with the graph, its clones and what is made executable of them; which
 * of them use the place only the driver knows. */
void
fdc_hostfn_keep(struct fdc_serve *serve, CUgraph graph, void *user)
{
    const struct fdc_driver *driver = serve->driver;
    struct place *place = user;
    CUuserObject object;

    if (place == NULL || graph == NULL || !FDC_HAS(driver, cuUserObjectCreate) ||
        !FDC_HAS(driver, cuGraphRetainUserObject) || !FDC_HAS(driver, cuUserObjectRelease) ||
        driver->cuUserObjectCreate(&object, place, let_go, 1,
                                   CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) != CUDA_SUCCESS)
        return;
    set_kept(serve->hostfns, place, true);
    if (driver->cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE) !=
        CUDA_SUCCESS) {
        set_kept(serve->hostfns, place, false);
        driver->cuUserObjectRelease(object, 1);
    }
}

CUresult
fdc_hostfn_number(struct fdc_serve *serve, CUhostFn fn, void *user, uint64_t *number)
{
    struct fdc_hostfns *fns = serve->hostfns;
    const struct place *place;

    pthread_mutex_lock(&fns->lock);
    place = fns->places;
    while (place != NULL && place != user)
        place = place->next;
    if (place != NULL)
        *number = place->number;
    pthread_mutex_unlock(&fns->lock);
    return fn == trampoline && place != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

void
fdc_hostfn_unplace(struct fdc_serve *serve, void *user)
{
    pthread_mutex_lock(&serve->hostfns->lock);
    place_free(serve->hostfns, user);
    pthread_mutex_unlock(&serve->hostfns->lock);
}

int
fdc_server_call_fdcHostFn(struct fdc_request *request, const struct fdc_req_fdcHostFn *req)
{
    struct fdc_serve *serve = request->serve;
    CUstream stream;
    bool captured = false;
    CUhostFn fn;
    void *user;
    CUresult result;

    result = fdc_handle_stream(serve, req->stream, &stream);
    if (result == CUDA_SUCCESS) {
        captured = fdc_stream_is_capturing(serve, stream);
        result = fdc_hostfn_place(serve, req->number, captured ? NULL : stream, &fn, &user);
    }
    if (result == CUDA_SUCCESS) {
        result = request->driver->cuLaunchHostFunc(stream, fn, user);
        if (result != CUDA_SUCCESS)
            fdc_hostfn_unplace(serve, user);
        else if (captured)
            fdc_hostfn_keep(serve, fdc_capture_graph(serve, stream), user);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

void
fdc_hostfns_cancel(struct fdc_serve *serve)
{
    struct fdc_hostfns *fns = serve->hostfns;

    pthread_mutex_lock(&fns->lock);
    fns->over = true;
    pthread_cond_broadcast(&fns->answered);
    pthread_mutex_unlock(&fns->lock);
}

void
fdc_hostfns_free(struct fdc_serve *serve)
{
    struct fdc_hostfns *fns = serve->hostfns;
    struct place *place;

    fdc_hostfns_cancel(serve);
    fdc_store_release(&serve->closed, 1);       /* pairs with watch() */
    fdc_futex_wake(&serve->closed, 1, false);
    fdc_link_shutdown(serve->link);
    if (fns->side_runs)
        pthread_join(fns->side, NULL);
    pthread_mutex_lock(&fns->lock);
    while (fns->inside > 0)
        pthread_cond_wait(&fns->answered, &fns->lock);
    if (fns->kept > 0) {
        /* A driver tells of graphs' ends when it likes: then there is still something to
         * look at. The process is about to end. */
        pthread_mutex_unlock(&fns->lock);
        serve->hostfns = NULL;
        return;
    }
    while ((place = fns->places) != NULL) {
        fns->places = place->next;
        free(place);
    }
    pthread_mutex_unlock(&fns->lock);
    pthread_cond_destroy(&fns->answered);
    pthread_mutex_destroy(&fns->lock);
    free(fns);
    serve->hostfns = NULL;
}
