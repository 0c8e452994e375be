/*
 * Copies between a graph and this process's memory. For each range that they name the
 * worker has a shadow; at each launch the bytes that are read are sent along, and those
 * that were written come back as every copy to the host does. A host function of the graph
 * gets what the copies before it wrote, and what it has written goes up after it.
 */
#include "process.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "graph.h"

#define BLOB_FIRST (16u << 10)
#define WHOLE_MAX (256ull << 20) /* pinned allocations up to here are shadowed whole */
#define HOST_CHUNK (64u << 10)

struct fdc_shadow {
    struct fdc_object object;
    uint64_t lo, size;
    uint32_t refs; /* atomic */
};

/* ---- shadows ---- */

void
fdc_shadow_ref(struct fdc_shadow *shadow)
{
    __atomic_add_fetch(&shadow->refs, 1, __ATOMIC_RELAXED);
}

void
fdc_shadow_unref(struct fdc_shadow *shadow)
{
    struct fdc_req_fdcShadowDrop *req;
    struct fdc_call call;

    if (__atomic_sub_fetch(&shadow->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (fdc_call_open_in(&call, shadow->object.session, FDC_ID_fdcShadowDrop) ==
        CUDA_SUCCESS) {
        req = fdc_call_begin(&call, sizeof(*req));
        if (req != NULL) {
            req->shadow = shadow->object.handle;
            (void)fdc_call_send(&call);
        }
    }
    fdc_object_drop(shadow);
}

static CUresult
shadow_make(struct fdc_call *call, uint64_t lo, uint64_t size, struct fdc_shadow **made)
{
    struct fdc_call own = *call;
    struct fdc_req_fdcShadowNew *req;
    struct fdc_shadow *shadow;
    struct fdc_reply reply;
    CUresult result;

    shadow = fdc_object_new(call->session, FDC_KIND_SHADOW, sizeof(*shadow), NULL);
    if (shadow == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    shadow->lo = lo;
    shadow->size = size;
    shadow->refs = 1;
    own.id = FDC_ID_fdcShadowNew;
    own.work = NULL;
    req = fdc_call_begin(&own, sizeof(*req));
    if (req != NULL) {
        req->shadow = shadow->object.handle;
        req->size = size;
        result = fdc_call_wait(&own, &reply, sizeof(reply));
    } else {
        result = own.result;
    }
    if (result != CUDA_SUCCESS) {
        fdc_object_drop(shadow);
        return result;
    }
    *made = shadow;
    return CUDA_SUCCESS;
}

/* What is shadowed for a range: all of a pinned allocation, else the range alone. */
static void
extend(struct fdc_session *session, uint64_t *lo, uint64_t *size)
{
    struct fdc_place place;

    fdc_place_look(session, *lo, &place);
    if (place.where == FDC_HOST_PINNED && place.size <= WHOLE_MAX &&
        *lo - place.base <= place.size && *size <= place.size - (*lo - place.base)) {
        *lo = place.base;
        *size = place.size;
    }
}

CUresult
fdc_shadow_end(struct fdc_call *call, struct fdc_keeps *keeps, const void *bytes,
               uint64_t size, struct fdc_copy_end *end)
{
    static uint32_t said;
    uint64_t address = (uint64_t)(uintptr_t)bytes, lo = address, span = size;
    struct fdc_shadow *shadow = NULL, **grown;
    bool beside = false;
    CUresult result;

    pthread_mutex_lock(&keeps->lock);
    for (size_t i = 0; i < keeps->shadows && shadow == NULL; i++) {
        struct fdc_shadow *known = keeps->shadow[i];

        if (address >= known->lo && address + size <= known->lo + known->size)
            shadow = known;
        else if (address < known->lo + known->size && address + size > known->lo)
            beside = true;
    }
    pthread_mutex_unlock(&keeps->lock);
    if (shadow == NULL && beside)
        return fdc_refuse("a graph whose host memory overlaps in parts", &said);
    if (shadow == NULL) {
        extend(call->session, &lo, &span);
        result = shadow_make(call, lo, span, &shadow);
        if (result == CUDA_ERROR_OUT_OF_MEMORY && span != size) /* the range alone */
            result = shadow_make(call, address, size, &shadow);
        if (result != CUDA_SUCCESS)
            return result;
        pthread_mutex_lock(&keeps->lock);
        grown = realloc(keeps->shadow, (keeps->shadows + 1) * sizeof(*grown));
        if (grown != NULL) {
            keeps->shadow = grown;
            grown[keeps->shadows++] = shadow;
        }
        pthread_mutex_unlock(&keeps->lock);
        if (grown == NULL) {
            fdc_shadow_unref(shadow);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    end->memory = FDC_COPY_SHADOW;
    end->base = shadow->object.handle;
    end->x = address - shadow->lo;
    return CUDA_SUCCESS;
}

/* Where a shadow's bytes are in this process; 0: it has ended. */
static uint64_t
address_of(uint64_t handle)
{
    struct fdc_shadow *shadow =
        fdc_object_find(FDC_KIND_SHADOW, (void *)(uintptr_t)handle);

    return shadow != NULL ? shadow->lo : 0;
}

void *
fdc_shadow_address(const struct fdc_copy_end *end)
{
    uint64_t lo = address_of(end->base);

    return lo != 0 ? (void *)(uintptr_t)(lo + end->x) : NULL;
}

/* ---- host functions of a graph ---- */

struct wrapped {
    char *at; /* the first byte here */
    bool after;
    struct fdc_graph_copy copy;
};

struct fdc_wrap {
    uint32_t refs; /* atomic */
    struct fdc_session *session;
    size_t count;
    struct wrapped copy[];
};

void
fdc_wrap_put(struct fdc_wrap *wrap)
{
    if (wrap != NULL && __atomic_sub_fetch(&wrap->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(wrap);
}

void
fdc_wrap_get(struct fdc_wrap *wrap)
{
    if (wrap != NULL)
        __atomic_add_fetch(&wrap->refs, 1, __ATOMIC_RELAXED);
}

static CUresult
line_down(struct fdc_session *session, const struct wrapped *wrapped, uint64_t offset,
          char *at, uint64_t size)
{
    struct fdc_req_fdcShadowRead *req;
    struct fdc_chunk chunk = session->host_chunk;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result = CUDA_SUCCESS;

    while (size > 0 && result == CUDA_SUCCESS) {
        chunk.size = size < HOST_CHUNK ? size : HOST_CHUNK;
        result = fdc_call_open_in(&call, session, FDC_ID_fdcShadowRead);
        if (result != CUDA_SUCCESS)
            break;
        req = fdc_call_begin(&call, sizeof(*req));
        if (req == NULL)
            return call.result;
        req->shadow = wrapped->copy.shadow;
        req->offset = offset;
        req->chunk = chunk;
        result = fdc_call_wait(&call, &reply, sizeof(reply));
        if (result == CUDA_SUCCESS)
            memcpy(at, fdc_stage_at(session, FDC_REGION_DOWN, &chunk), chunk.size);
        at += chunk.size;
        offset += chunk.size;
        size -= chunk.size;
    }
    return result;
}

static CUresult
line_up(struct fdc_session *session, const struct wrapped *wrapped, uint64_t offset,
        char *at, uint64_t size)
{
    struct fdc_req_fdcShadowWrite *req;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result = CUDA_SUCCESS;

    while (size > 0 && result == CUDA_SUCCESS) {
        uint32_t part = size < FDC_INLINE_MAX ? (uint32_t)size : FDC_INLINE_MAX;

        result = fdc_call_open_in(&call, session, FDC_ID_fdcShadowWrite);
        if (result != CUDA_SUCCESS)
            break;
        req = fdc_call_begin(&call, (uint32_t)sizeof(*req) + FDC_ALIGN_UP(part, 8u));
        if (req == NULL)
            return call.result;
        req->shadow = wrapped->copy.shadow;
        req->offset = offset;
        req->bytes = (struct fdc_span){sizeof(*req), part};
        req->size = part;
        memcpy(req + 1, at, part);
        result = fdc_call_wait(&call, &reply, sizeof(reply));
        at += part;
        offset += part;
        size -= part;
    }
    return result;
}

void
fdc_wrap_run(const struct fdc_wrap *wrap, bool after)
{
    CUresult result = CUDA_SUCCESS;

    for (size_t i = 0; i < wrap->count && result == CUDA_SUCCESS; i++) {
        const struct wrapped *wrapped = &wrap->copy[i];
        const struct fdc_graph_copy *copy = &wrapped->copy;

        if (wrapped->after != after)
            continue;
        for (uint64_t z = 0; z < copy->depth && result == CUDA_SUCCESS; z++)
            for (uint64_t y = 0; y < copy->height && result == CUDA_SUCCESS; y++) {
                uint64_t offset = z * copy->slice + y * copy->pitch;

                result = (after ? line_up : line_down)(
                    wrap->session, wrapped, copy->offset + offset,
                    wrapped->at + offset, copy->width);
            }
    }
    if (result != CUDA_SUCCESS)
        fdc_log(FDC_LOG_WARN, "bytes of a graph's host function are lost: %s",
                fdc_result_name(result));
}

/* ---- what each replay takes and gives ---- */

struct fdc_rows {
    uint32_t refs; /* atomic */
    uint64_t up, down;
    uint32_t count;
    struct wrapped row[];
};

static void
rows_put(struct fdc_rows *rows)
{
    if (rows != NULL && __atomic_sub_fetch(&rows->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(rows);
}

static struct fdc_rows *
rows_get(struct fdc_exec *exec)
{
    struct fdc_rows *rows;

    pthread_mutex_lock(&exec->keeps.lock);
    rows = exec->rows;
    if (rows != NULL)
        __atomic_add_fetch(&rows->refs, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&exec->keeps.lock);
    return rows;
}

static void
rows_set(struct fdc_exec *exec, struct fdc_rows *rows)
{
    struct fdc_rows *old;

    pthread_mutex_lock(&exec->keeps.lock);
    old = exec->rows;
    exec->rows = rows;
    pthread_mutex_unlock(&exec->keeps.lock);
    rows_put(old);
}

void
fdc_replay_drop(struct fdc_exec *exec)
{
    rows_set(exec, NULL);
}

/* The chunk that bytes for host functions come down in: theirs alone, so that they never
 * wait for copies that wait for them. */
static CUresult
host_chunk(struct fdc_session *session)
{
    struct fdc_memory *memory = session->memory;
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&memory->setup);
    if (session->host_chunk.size == 0)
        result = fdc_stage_alloc(session, FDC_REGION_DOWN, HOST_CHUNK,
                                 &session->host_chunk);
    pthread_mutex_unlock(&memory->setup);
    return result;
}

static CUresult
hosts_learn(struct fdc_session *session, const struct fdc_rows *rows,
            const struct fdc_graph_host *host, uint32_t count)
{
    CUresult result = count != 0 ? host_chunk(session) : CUDA_SUCCESS;

    for (uint32_t i = 0; i < count && result == CUDA_SUCCESS; i++) {
        struct fdc_wrap *wrap;
        uint32_t first = 0;

        while (host[first].number != host[i].number)
            first++;
        if (first != i)
            continue;
        wrap = calloc(1, sizeof(*wrap) + count * sizeof(wrap->copy[0]));
        if (wrap == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        wrap->refs = 1;
        wrap->session = session;
        for (uint32_t k = i; k < count; k++) {
            if (host[k].number != host[i].number || host[k].row >= rows->count)
                continue;
            wrap->copy[wrap->count] = rows->row[host[k].row];
            wrap->copy[wrap->count++].after = host[k].after != 0;
        }
        fdc_hostfn_wrap(session, host[i].number, wrap);
    }
    return result;
}

/* Checks what was told. */
static CUresult
rows_learn(struct fdc_call *call, struct fdc_exec *exec,
           const struct fdc_graph_rows *told, uint64_t total)
{
    struct fdc_rows *rows;
    CUresult result;
    uint64_t need;

    if (total < sizeof(*told))
        return CUDA_ERROR_UNKNOWN;
    need = sizeof(*told) + (uint64_t)told->count * sizeof(told->row[0]) +
           (uint64_t)told->hosts * sizeof(struct fdc_graph_host);
    if (need > total)
        return CUDA_ERROR_UNKNOWN;
    if (told->count == 0) {
        rows_set(exec, NULL);
        return CUDA_SUCCESS;
    }
    rows = calloc(1, sizeof(*rows) + told->count * sizeof(rows->row[0]));
    if (rows == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    rows->refs = 1;
    rows->count = told->count;
    for (uint32_t i = 0; i < told->count; i++) {
        const struct fdc_graph_copy *copy = &told->row[i];
        struct fdc_shadow *shadow =
            fdc_object_find(FDC_KIND_SHADOW, (void *)(uintptr_t)copy->shadow);
        uint64_t reach;

        if (shadow == NULL || copy->width == 0 || copy->height == 0 ||
            copy->depth == 0 ||
            (copy->width | copy->height | copy->depth | copy->pitch) >= 1ull << 40 ||
            __builtin_mul_overflow(copy->depth - 1, copy->slice, &reach) ||
            __builtin_add_overflow(reach, (copy->height - 1) * copy->pitch, &reach) ||
            __builtin_add_overflow(reach, copy->width, &reach) ||
            copy->offset > shadow->size || reach > shadow->size - copy->offset) {
            rows_put(rows);
            return CUDA_ERROR_UNKNOWN;
        }
        rows->row[i].copy = *copy;
        rows->row[i].at = (char *)(uintptr_t)(shadow->lo + copy->offset);
        if (copy->up)
            rows->up += copy->width * copy->height * copy->depth;
        if (copy->down == FDC_COPY_AT_END)
            rows->down += copy->width * copy->height * copy->depth;
    }
    result = hosts_learn(call->session, rows, (const void *)&told->row[told->count],
                         told->hosts);
    if (result == CUDA_SUCCESS)
        rows_set(exec, rows);
    else
        rows_put(rows);
    return result;
}

CUresult
fdc_replay_learn(struct fdc_call *call, struct fdc_exec *exec)
{
    struct fdc_req_fdcGraphRows *req;
    struct fdc_rep_fdcGraphRows rep;
    struct fdc_call own = *call;
    struct fdc_chunk blob;
    void *bytes = NULL;
    CUresult result;

    result = fdc_stage_alloc(own.session, FDC_REGION_DOWN, BLOB_FIRST, &blob);
    if (result != CUDA_SUCCESS)
        return result;
    own.id = FDC_ID_fdcGraphRows;
    own.work = NULL;
    req = fdc_call_begin(&own, sizeof(*req));
    if (req != NULL) {
        req->exec = exec->object.handle;
        req->blob = blob;
        result = fdc_call_wait(&own, &rep, sizeof(rep));
    } else {
        result = own.result;
    }
    if (result == CUDA_SUCCESS)
        result = fdc_blob_rest(&own, &blob, rep.total, &bytes);
    if (result == CUDA_SUCCESS)
        result = rows_learn(&own, exec, bytes, rep.total);
    free(bytes);
    fdc_stage_free(own.session, FDC_REGION_DOWN, &blob);
    return result;
}

/* ---- a replay ---- */

/* Where in the packed bytes we are. */
struct cursor {
    const struct fdc_rows *rows;
    uint32_t row;
    uint64_t x, y, z;
};

/* The next bytes of what goes up. */
static void
pack(struct cursor *cursor, char *to, uint64_t size)
{
    while (size > 0) {
        const struct wrapped *row = &cursor->rows->row[cursor->row];
        const struct fdc_graph_copy *copy = &row->copy;
        uint64_t part;

        if (!copy->up || cursor->z == copy->depth) {
            cursor->row++;
            cursor->x = cursor->y = cursor->z = 0;
            continue;
        }
        part = copy->width - cursor->x < size ? copy->width - cursor->x : size;
        memcpy(to, row->at + cursor->z * copy->slice + cursor->y * copy->pitch + cursor->x,
               part);
        to += part;
        size -= part;
        cursor->x += part;
        if (cursor->x < copy->width)
            continue;
        cursor->x = 0;
        if (++cursor->y < copy->height)
            continue;
        cursor->y = 0;
        cursor->z++;
    }
}

static CUresult
send_up(struct fdc_call *call, struct fdc_exec *exec, struct cursor *cursor,
        uint64_t size, uint64_t number)
{
    struct fdc_session *session = call->session;
    struct fdc_req_fdcReplayUp *req;
    struct fdc_ticket *ticket;
    struct fdc_chunk chunk;
    uint64_t put, offset = 0;
    CUresult result;
    int err;

    call->id = FDC_ID_fdcReplayUp;
    while (offset < size) {
        uint64_t part =
            size - offset < FDC_PIECE_MAX ? size - offset : FDC_PIECE_MAX;
        char *at;

        result = fdc_up_new(session, part, &chunk, &ticket);
        if (result != CUDA_SUCCESS)
            return result;
        at = fdc_stage_at(session, FDC_REGION_UP, &chunk);
        pack(cursor, at, part);
        err = fdc_link_put(session->link, FDC_REGION_UP, chunk.offset, at, part, &put);
        req = err == 0 ? fdc_call_begin(call, sizeof(*req)) : NULL;
        if (req == NULL) {
            fdc_up_cancel(session, ticket);
            return err ? fdc_result(err) : call->result;
        }
        req->exec = exec->object.handle;
        req->replay = number;
        req->offset = offset;
        req->chunk = chunk;
        fdc_call_uses_put(call, put);
        result = fdc_call_send_done(call, ticket);
        if (result != CUDA_SUCCESS) {
            fdc_up_cancel(session, ticket);
            return result;
        }
        offset += part;
    }
    return CUDA_SUCCESS;
}

static CUresult
fetch(struct fdc_call *call, struct fdc_exec *exec, struct fdc_stream *stream,
      uint64_t number, uint64_t offset, const struct fdc_pending *what)
{
    struct fdc_req_fdcReplayDown *req;
    struct fdc_pending *pending;
    CUresult result;

    result = fdc_pending_new(call->session, what, NULL, &pending);
    if (result != CUDA_SUCCESS)
        return result;
    call->id = FDC_ID_fdcReplayDown;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL) {
        fdc_pending_cancel(pending);
        return call->result;
    }
    req->exec = exec->object.handle;
    req->stream = fdc_stream_wire(stream);
    req->replay = number;
    req->offset = offset;
    req->chunk = pending->chunk;
    return fdc_pending_send(call, pending);
}

/* The bytes of one copy, in pieces that fit a chunk: lines, or parts of a line. */
static CUresult
fetch_row(struct fdc_call *call, struct fdc_exec *exec, struct fdc_stream *stream,
          uint64_t number, uint64_t offset, const struct wrapped *row)
{
    const struct fdc_graph_copy *copy = &row->copy;
    uint64_t most = copy->width < FDC_PIECE_MAX ? FDC_PIECE_MAX / copy->width : 1;
    struct fdc_pending what = {.depth = 1, .pitch = copy->pitch};
    CUresult result = CUDA_SUCCESS;

    for (uint64_t z = 0; z < copy->depth; z++)
        for (uint64_t y = 0; y < copy->height; y += what.rows) {
            what.rows = copy->height - y < most ? copy->height - y : most;
            for (uint64_t x = 0; x < copy->width && result == CUDA_SUCCESS;
                 x += what.width) {
                what.width = copy->width - x < FDC_PIECE_MAX ? copy->width - x
                                                             : FDC_PIECE_MAX;
                what.to = row->at + z * copy->slice + y * copy->pitch + x;
                result = fetch(call, exec, stream, number, offset, &what);
                offset += what.width * what.rows;
            }
            if (result != CUDA_SUCCESS)
                return result;
        }
    return result;
}

/* Nothing on its way from an earlier copy is going to be stored into what is read. */
static CUresult
rest(const struct fdc_rows *rows)
{
    CUresult result = CUDA_SUCCESS;

    for (uint32_t i = 0; i < rows->count && result == CUDA_SUCCESS; i++) {
        const struct fdc_graph_copy *copy = &rows->row[i].copy;

        if (copy->up)
            result = fdc_pending_wait(rows->row[i].at,
                                      (copy->depth - 1) * copy->slice +
                                          (copy->height - 1) * copy->pitch +
                                          copy->width);
    }
    return result;
}

CUresult
fdc_replay(struct fdc_call *call, struct fdc_exec *exec, struct fdc_stream *stream)
{
    struct fdc_rows *rows = rows_get(exec);
    struct cursor cursor = {.rows = rows};
    uint64_t number = fdc_process_id(), offset = 0;
    struct fdc_req_fdcReplay *req;
    CUresult result;
    uint32_t size;

    if (rows == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    result = rest(rows);
    size = rows->up <= FDC_INLINE_MAX ? (uint32_t)rows->up : 0;
    if (result == CUDA_SUCCESS && size != rows->up)
        result = send_up(call, exec, &cursor, rows->up, number);
    if (result != CUDA_SUCCESS)
        goto out;
    call->id = FDC_ID_fdcReplay;
    req = fdc_call_begin(call, (uint32_t)sizeof(*req) + FDC_ALIGN_UP(size, 8u));
    if (req == NULL) {
        result = call->result;
        goto out;
    }
    req->exec = exec->object.handle;
    req->stream = fdc_stream_wire(stream);
    req->replay = number;
    req->bytes = (struct fdc_span){sizeof(*req), size};
    req->size = size;
    pack(&cursor, (char *)(req + 1), size);
    result = fdc_call_send(call);
    for (uint32_t i = 0; i < rows->count && result == CUDA_SUCCESS; i++) {
        const struct fdc_graph_copy *copy = &rows->row[i].copy;

        if (copy->down != FDC_COPY_AT_END)
            continue;
        result = fetch_row(call, exec, stream, number, offset, &rows->row[i]);
        offset += copy->width * copy->height * copy->depth;
    }
    __atomic_add_fetch(&call->session->moved, rows->up + rows->down, __ATOMIC_RELAXED);
    if (result == CUDA_SUCCESS && call->session->sync && rows->down != 0)
        result = fdc_stream_drain(call, stream);
out:
    rows_put(rows);
    return result;
}
