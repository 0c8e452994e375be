/*
 * Trunks (fdc/trunk.h): copies between this session's GPUs and those of the client's session
 * with another server. A trunk goes one way and has one copy at a time. Whoever gives reads
 * a part into a chunk of DOWN, sends it when it is there, and reads the next ones meanwhile;
 * whoever takes does the reverse through UP. The client has lent the chunks for it and says
 * on both sides what the copy is: nothing that the other worker says chooses an address.
 *
 * All of this runs on helper threads. A trunk that breaks, or whose copy fails, is shut on
 * both sides and stays so; the client then carries by itself.
 */
#include "fdc/trunk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "server/serve.h"
#include "server_hooks.h"

#define TRUNKS_MAX 128           /* that a session ever has */
#define CHUNKS_MAX 8

struct trunk {
    struct trunk *next;
    uint64_t number;
    struct fdc_trunk end;
    bool out;                           /* from here; else to here */
    bool busy, broken;                  /* under the lock */
    const struct fdc_ctx *ctx;          /* whose copy it is busy with */
};

struct fdc_trunks {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    struct trunk *first;                 /* none goes before the session's end */
    int count;
    int dialled;                        /* attempts, good and bad */
    bool off;                           /* FD_TRUNKS=0 */
    bool over;
};

struct fdc_trunks *
fdc_trunks_new(void)
{
    const char *wanted = getenv("FD_TRUNKS");
    struct fdc_trunks *trunks = calloc(1, sizeof(*trunks));
    pthread_condattr_t attr;

    if (trunks == NULL)
        return NULL;
    pthread_mutex_init(&trunks->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&trunks->ended, &attr);
    pthread_condattr_destroy(&attr);
    trunks->off = wanted != NULL && strcmp(wanted, "0") == 0;
    return trunks;
}

void
fdc_trunks_free(struct fdc_trunks *trunks)
{
    struct trunk *trunk;

    if (trunks == NULL)
        return;
    while ((trunk = trunks->first) != NULL) {
        trunks->first = trunk->next;
        fdc_trunk_close(&trunk->end);
        free(trunk);
    }
    pthread_cond_destroy(&trunks->ended);
    pthread_mutex_destroy(&trunks->lock);
    free(trunks);
}

void
fdc_trunks_cancel(struct fdc_serve *serve)
{
    struct fdc_trunks *trunks = serve->trunks;

    pthread_mutex_lock(&trunks->lock);
    trunks->over = true;
    for (struct trunk *trunk = trunks->first; trunk != NULL; trunk = trunk->next)
        shutdown(trunk->end.fd, SHUT_RDWR);
    pthread_cond_broadcast(&trunks->ended);
    pthread_mutex_unlock(&trunks->lock);
}

/* Under the lock. */
static struct trunk *
find(const struct fdc_trunks *trunks, uint64_t number, bool out)
{
    struct trunk *trunk = trunks->first;

    while (trunk != NULL && (trunk->number != number || trunk->out != out))
        trunk = trunk->next;
    return trunk;
}

/* Takes the end over, whatever comes of it. */
static int
add(struct fdc_trunks *trunks, uint64_t number, bool out, struct fdc_trunk *end)
{
    struct trunk *trunk = calloc(1, sizeof(*trunk));
    int err = 0;

    if (trunk == NULL) {
        fdc_trunk_close(end);
        return -ENOMEM;
    }
    *trunk = (struct trunk){ .number = number, .out = out, .end = *end };
    pthread_mutex_lock(&trunks->lock);
    if (trunks->over || trunks->off)
        err = -EPIPE;
    else if (trunks->count == TRUNKS_MAX)
        err = -ENOSPC;
    else if (find(trunks, number, out) != NULL)
        err = -EEXIST;
    if (!err) {
        trunks->count++;
        trunk->next = trunks->first;
        trunks->first = trunk;
    }
    pthread_mutex_unlock(&trunks->lock);
    if (err) {
        fdc_trunk_close(end);
        free(trunk);
    }
    return err;
}

/* The trunk for a copy in this context; NULL: there is none, or it is broken, or the context
 * is being closed. */
static struct trunk *
take(struct fdc_trunks *trunks, uint64_t number, bool out, const struct fdc_ctx *ctx)
{
    struct trunk *trunk;

    pthread_mutex_lock(&trunks->lock);
    trunk = find(trunks, number, out);
    /* pairs with context_shut(), which comes to fdc_trunks_shut() after it */
    if (trunk != NULL && (trunk->busy || trunk->broken || !fdc_load_acquire(&ctx->open)))
        trunk = NULL;
    if (trunk != NULL) {
        trunk->busy = true;
        trunk->ctx = ctx;
    }
    pthread_mutex_unlock(&trunks->lock);
    return trunk;
}

/* Whoever is in the middle of a copy comes out of it. Under the lock. */
static void
hang_up(struct trunk *trunk)
{
    trunk->broken = true;
    shutdown(trunk->end.fd, SHUT_RDWR);
}

static void
give_back(struct fdc_trunks *trunks, struct trunk *trunk, bool broken)
{
    pthread_mutex_lock(&trunks->lock);
    trunk->busy = false;
    trunk->ctx = NULL;
    if (broken)
        hang_up(trunk);
    pthread_mutex_unlock(&trunks->lock);
}

/* Both ways of it. */
static void
shut(struct fdc_trunks *trunks, uint64_t number)
{
    pthread_mutex_lock(&trunks->lock);
    for (struct trunk *trunk = trunks->first; trunk != NULL; trunk = trunk->next) {
        if (trunk->number == number)
            hang_up(trunk);
    }
    pthread_mutex_unlock(&trunks->lock);
}

void
fdc_trunks_shut(struct fdc_serve *serve, const struct fdc_ctx *ctx)
{
    struct fdc_trunks *trunks = serve->trunks;

    pthread_mutex_lock(&trunks->lock);
    for (struct trunk *trunk = trunks->first; trunk != NULL; trunk = trunk->next)
        if (trunk->busy && trunk->ctx == ctx)
            hang_up(trunk);
    pthread_mutex_unlock(&trunks->lock);
}

/* ---- opening ---- */

int
fdc_serve_trunk(struct fdc_serve *serve, uint64_t number, int fd, const uint8_t *key)
{
    struct fdc_trunks *trunks = serve->trunks;
    struct fdc_trunk end;
    int err = fdc_trunk_accept(fd, key, &end);

    /* The other side may start a copy as soon as it has heard: nothing can fail here then. */
    if (!err)
        err = add(trunks, number, false, &end);
    if (err)
        return err;
    err = fdc_trunk_ready(end.fd);      /* open until the session's end */
    if (err)
        shut(trunks, number);
    return err;
}

/* So that how long it takes says nothing of what is there: until the time is over. */
static void
wait_out(struct fdc_trunks *trunks, const struct timespec *start)
{
    struct timespec until = *start;

    until.tv_sec += FDC_TRUNK_DIAL_US / 1000000;
    pthread_mutex_lock(&trunks->lock);
    while (!trunks->over &&
           pthread_cond_timedwait(&trunks->ended, &trunks->lock, &until) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&trunks->lock);
}

/* Whether such a client may have that dialled: a path of this machine only one that is on
 * it. */
static bool
allowed(struct fdc_serve *serve, const struct fdc_trunk_about *about)
{
    struct fdc_trunks *trunks = serve->trunks;
    bool room;

    pthread_mutex_lock(&trunks->lock);
    room = !trunks->over && !trunks->off && trunks->dialled < TRUNKS_MAX;
    if (room)
        trunks->dialled++;
    pthread_mutex_unlock(&trunks->lock);
    return room && (about->family != FDC_TRUNK_UNIX || fdc_link_is_shared(serve->link));
}

int
fdc_server_call_fdcTrunkOpen(struct fdc_request *request,
                            const struct fdc_req_fdcTrunkOpen *req)
{
    static const uint8_t protocol[32] = FDC_PROTO_HASH;
    const void *bytes = fdc_request_span(request, req->about);
    struct fdc_trunks *trunks = request->serve->trunks;
    struct fdc_rep_fdcTrunkOpen reply = { .open = 0 };
    struct fdc_trunk_about about;
    struct timespec start;
    struct fdc_trunk end;

    if (bytes == NULL || req->about.size != req->about_size ||
        req->about_size != sizeof(about))
        return -EPROTO;
    memcpy(&about, bytes, sizeof(about));
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (allowed(request->serve, &about)) {
        if (fdc_trunk_dial(&about, protocol, &end) == 0 &&
            add(trunks, fdc_trunk_number(about.nonce), true, &end) == 0)
            reply.open = 1;
        else
            wait_out(trunks, &start);
    }
    explicit_bzero(&about, sizeof(about));
    fdc_request_answer(request, CUDA_SUCCESS, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcTrunkShut(struct fdc_request *request,
                            const struct fdc_req_fdcTrunkShut *req)
{
    shut(request->serve->trunks, req->trunk);
    fdc_request_answer(request, CUDA_SUCCESS, NULL, 0);
    return 0;
}

/* ---- copies ---- */

struct slot {
    uint8_t *bytes;
    struct fdc_mark *mark;              /* what the device does with the bytes; NULL: nothing */
    uint64_t offset;
    uint32_t size;
};

struct work {
    struct fdc_request *request;
    struct fdc_ctx *ctx;
    struct trunk *trunk;
    uint64_t number;
    const struct fdc_copy3d *copy;
    CUstream stream;
    struct slot slot[CHUNKS_MAX];
    unsigned slots;
    uint64_t room;
    bool out, broken;
};

/* The device's end of the copy. */
static const struct fdc_copy_end *
near_end(const struct work *work)
{
    return work->out ? &work->copy->src : &work->copy->dst;
}

static bool
is_plain(const struct work *work)
{
    const struct fdc_copy3d *copy = work->copy;

    return copy->height == 1 && copy->depth == 1 && near_end(work)->memory == FDC_COPY_DEVICE;
}

static CUresult
enqueue_plain(struct work *work, const struct fdc_part *part, struct slot *slot)
{
    const struct fdc_driver *driver = work->request->driver;
    uint64_t at = near_end(work)->base + near_end(work)->x + part->x;
    CUresult result = fdc_memory_check(work->request->serve, at, part->width);

    if (result != CUDA_SUCCESS)
        return result;
    return work->out ? driver->cuMemcpyDtoHAsync_v2(slot->bytes, at, part->width, work->stream)
                     : driver->cuMemcpyHtoDAsync_v2(at, slot->bytes, part->width, work->stream);
}

static CUresult
enqueue_box(struct work *work, const struct fdc_part *part, struct slot *slot)
{
    struct fdc_copy3d copy = *work->copy;
    struct fdc_copy_end *end = work->out ? &copy.src : &copy.dst;
    CUDA_MEMCPY3D box;
    CUresult result;

    end->x += part->x;
    end->y += part->y;
    end->z += part->z;
    copy.width = part->width;
    copy.height = part->height;
    copy.depth = part->depth;
    result = fdc_copy3d_fill(work->request, &copy, work->out ? NULL : slot->bytes,
                             work->out ? slot->bytes : NULL, &box);
    return result == CUDA_SUCCESS
               ? work->request->driver->cuMemcpy3DAsync_v2(&box, work->stream)
               : result;
}

/* Between the slot and the device. */
static CUresult
enqueue(struct work *work, const struct fdc_part *part, struct slot *slot)
{
    CUresult result = is_plain(work) ? enqueue_plain(work, part, slot)
                                     : enqueue_box(work, part, slot);

    if (result == CUDA_SUCCESS) {
        result = fdc_mark_stream(work->ctx, work->stream, &slot->mark);
        if (result != CUDA_SUCCESS) {
            /* Not before that is over has the client its chunk back. */
            slot->mark = NULL;
            work->request->driver->cuStreamSynchronize(work->stream);
        }
    }
    if (result == CUDA_SUCCESS && !work->out)
        fdc_count(work->request->serve, up_bytes, slot->size);
    return result;
}

/* The device has done with the slot. */
static CUresult
settle(struct work *work, struct slot *slot)
{
    CUresult result;

    if (slot->mark == NULL)
        return CUDA_SUCCESS;
    result = work->request->driver->cuEventSynchronize(slot->mark->event);
    fdc_mark_put(slot->mark);
    slot->mark = NULL;
    return result;
}

static CUresult
give_slot(struct work *work, struct slot *slot)
{
    CUresult result = settle(work, slot);

    if (result == CUDA_SUCCESS && fdc_trunk_send(&work->trunk->end, work->number, slot->offset,
                                                slot->bytes, slot->size))
        work->broken = true;
    if (result == CUDA_SUCCESS && !work->broken)
        fdc_count(work->request->serve, down_bytes, slot->size);
    return result;
}

static CUresult
take_slot(struct work *work, struct slot *slot)
{
    CUresult result = settle(work, slot);

    if (result == CUDA_SUCCESS && fdc_trunk_receive(&work->trunk->end, work->number,
                                                   slot->offset, slot->bytes, slot->size))
        work->broken = true;
    return result;
}

/* All parts; of what is given, several are read ahead. */
static CUresult
run(struct work *work)
{
    struct fdc_part part = { 0 };
    uint64_t asked = 0, sent = 0, offset = 0;
    CUresult result = CUDA_SUCCESS;

    while (result == CUDA_SUCCESS && !work->broken &&
           fdc_part_cut(work->room, work->copy->width, work->copy->height,
                        work->copy->depth, &part)) {
        struct slot *slot = &work->slot[asked % work->slots];

        if (work->out && asked - sent == work->slots)
            result = give_slot(work, &work->slot[sent++ % work->slots]);
        if (result != CUDA_SUCCESS || work->broken)
            break;
        slot->offset = offset;
        slot->size = (uint32_t)(part.width * part.height * part.depth);
        offset += slot->size;
        if (!work->out)
            result = take_slot(work, slot);
        if (result == CUDA_SUCCESS && !work->broken)
            result = enqueue(work, &part, slot);
        if (result == CUDA_SUCCESS && !work->broken)
            asked++;
    }
    while (work->out && result == CUDA_SUCCESS && !work->broken && sent < asked)
        result = give_slot(work, &work->slot[sent++ % work->slots]);
    for (unsigned i = 0; i < work->slots; i++) {
        CUresult last = settle(work, &work->slot[i]);

        if (result == CUDA_SUCCESS)
            result = last;
    }
    return result;
}

static bool
sound(const struct fdc_copy3d *copy)
{
    uint64_t most = 1ull << 40;

    return copy->width >= 1 && copy->height >= 1 && copy->depth >= 1 &&
           (copy->width | copy->height | copy->depth) < most;
}

/* The chunks that the client lends, all of one size. 0 or -EPROTO. */
static int
take_chunks(struct work *work, const void *bytes, uint32_t size, uint32_t said)
{
    enum fdc_region region = work->out ? FDC_REGION_DOWN : FDC_REGION_UP;
    struct fdc_chunk chunk;

    if (bytes == NULL || size != said || size == 0 || size % sizeof(chunk) != 0 ||
        size / sizeof(chunk) > CHUNKS_MAX)
        return -EPROTO;
    work->slots = (unsigned)(size / sizeof(chunk));
    for (unsigned i = 0; i < work->slots; i++) {
        memcpy(&chunk, (const uint8_t *)bytes + i * sizeof(chunk), sizeof(chunk));
        if (i == 0)
            work->room = chunk.size;
        work->slot[i].bytes = fdc_request_chunk(work->request, region, chunk);
        if (work->slot[i].bytes == NULL || chunk.size != work->room)
            return -EPROTO;
    }
    return work->room >= 1 && work->room <= FDC_TRUNK_PIECE_MAX ? 0 : -EPROTO;
}

/* Whether the copy may be, before anybody waits for its bytes. */
static CUresult
check(struct work *work)
{
    uint8_t *any = work->slot[0].bytes;
    CUDA_MEMCPY3D box;

    if (!sound(work->copy))
        return CUDA_ERROR_INVALID_VALUE;
    return fdc_copy3d_fill(work->request, work->copy, work->out ? NULL : any,
                           work->out ? any : NULL, &box);
}

static CUresult
serve_copy(struct work *work, uint64_t trunk, uint64_t stream)
{
    struct fdc_serve *serve = work->request->serve;
    CUresult result;

    work->ctx = fdc_context_here();
    if (work->ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    work->trunk = take(serve->trunks, trunk, work->out, work->ctx);
    if (work->trunk == NULL) {
        work->broken = true;
        return CUDA_SUCCESS;
    }
    result = fdc_handle_stream(serve, stream, &work->stream);
    if (result == CUDA_SUCCESS)
        result = check(work);
    if (result == CUDA_SUCCESS)
        result = run(work);
    give_back(serve->trunks, work->trunk, result != CUDA_SUCCESS || work->broken);
    fdc_done_flush(serve);
    return result;
}

int
fdc_server_call_fdcTrunkCopy(struct fdc_request *request,
                            const struct fdc_req_fdcTrunkCopy *req)
{
    struct work work = {
        .request = request, .number = req->number, .copy = &req->copy,
        .out = req->give != 0,
    };
    struct fdc_rep_fdcTrunkCopy reply;
    CUresult result;

    if (take_chunks(&work, fdc_request_span(request, req->chunks), req->chunks.size,
                    req->chunks_size))
        return -EPROTO;
    result = serve_copy(&work, req->trunk, req->stream);
    reply.broken = work.broken;
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}
