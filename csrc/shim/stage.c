/*
 * The two regions in 4 KiB granules: chunks for bytes on their way up or down. Any
 * thread takes and gives; when there is no room a thread takes replies in until there
 * is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "code.h"

#define GRANULE 4096u

struct fdc_stage {
    struct fdc_session *session;
    enum fdc_region region;
    char *base;
    pthread_mutex_t lock; /* a leaf: taken under intake too */
    uint32_t granules;
    uint32_t freed;   /* counts frees; what takers wait on, atomic */
    uint32_t waiting; /* takers, atomic */
    uint64_t used[];  /* a bit for each granule */
};

static struct fdc_stage *
stage_of(struct fdc_session *session, enum fdc_region region)
{
    return region == FDC_REGION_UP ? session->up : session->down;
}

static struct fdc_stage *
stage_new(struct fdc_session *session, enum fdc_region region)
{
    struct fdc_stage *stage;
    uint64_t size, granules;
    void *base;

    base = fdc_link_region(session->link, region, &size);
    granules = size / GRANULE;
    if (base == NULL || granules == 0 || granules > 1u << 24)
        return NULL;
    stage = calloc(1, sizeof(*stage) + (granules / 64 + 1) * sizeof(uint64_t));
    if (stage == NULL)
        return NULL;
    stage->session = session;
    stage->region = region;
    stage->base = base;
    stage->granules = (uint32_t)granules;
    pthread_mutex_init(&stage->lock, NULL);
    return stage;
}

CUresult
fdc_stage_make(struct fdc_session *session)
{
    CUresult result;

    session->up = stage_new(session, FDC_REGION_UP);
    session->down = stage_new(session, FDC_REGION_DOWN);
    if (session->up == NULL || session->down == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = fdc_memory_setup(session);
    if (result == CUDA_SUCCESS)
        result = fdc_codes_setup(session);
    return result;
}

static bool
used(const struct fdc_stage *stage, uint32_t granule)
{
    return stage->used[granule / 64] >> (granule % 64) & 1;
}

/* The first run of `count` free granules, or granules. The first, so that copies that are
 * done as fast as they are made use few chunks, which stay in the caches. */
static uint32_t
find_run(const struct fdc_stage *stage, uint32_t count)
{
    uint32_t at = 0, run = 0;

    while (at < stage->granules) {
        if (at % 64 == 0 && stage->used[at / 64] == ~0ull) {
            run = 0;
            at += 64;
            continue;
        }
        run = used(stage, at) ? 0 : run + 1;
        at++;
        if (run == count)
            return at - count;
    }
    return stage->granules;
}

static void
mark(struct fdc_stage *stage, uint32_t first, uint32_t count, bool taken)
{
    for (uint32_t at = first; at < first + count; at++) {
        if (taken)
            stage->used[at / 64] |= 1ull << (at % 64);
        else
            stage->used[at / 64] &= ~(1ull << (at % 64));
    }
}

/* A free run of granules, marked; else what `freed` is now. */
static bool
take(struct fdc_stage *stage, uint32_t count, uint32_t *at, uint32_t *seen)
{
    bool found;

    pthread_mutex_lock(&stage->lock);
    *at = find_run(stage, count);
    found = *at < stage->granules;
    if (found)
        mark(stage, *at, count, true);
    *seen = fdc_load_relaxed(&stage->freed);
    pthread_mutex_unlock(&stage->lock);
    return found;
}

bool
fdc_stage_try(struct fdc_session *session, enum fdc_region region, uint64_t size,
              struct fdc_chunk *chunk)
{
    struct fdc_stage *stage = stage_of(session, region);
    uint32_t at, seen;

    if (size == 0 || size > (uint64_t)stage->granules * GRANULE ||
        !take(stage, (uint32_t)((size + GRANULE - 1) / GRANULE), &at, &seen))
        return false;
    chunk->offset = (uint64_t)at * GRANULE;
    chunk->size = size;
    return true;
}

CUresult
fdc_stage_alloc(struct fdc_session *session, enum fdc_region region, uint64_t size,
                struct fdc_chunk *chunk)
{
    struct fdc_stage *stage = stage_of(session, region);
    uint32_t count, at, seen;

    if (size == 0 || size > (uint64_t)stage->granules * GRANULE)
        return CUDA_ERROR_INVALID_VALUE;
    count = (uint32_t)((size + GRANULE - 1) / GRANULE);
    while (!take(stage, count, &at, &seen)) {
        /* What was sent may still lie in a batch; its DONE is what makes room. */
        fdc_link_flush(session->link, FDC_LANE_COMMAND);
        __atomic_add_fetch(&stage->waiting, 1, __ATOMIC_SEQ_CST);
        int err = fdc_intake_until(session, &stage->freed, seen, -1);
        __atomic_sub_fetch(&stage->waiting, 1, __ATOMIC_SEQ_CST);
        if (err == -EPIPE)
            return (CUresult)fdc_load_relaxed(&session->dead);
    }
    chunk->offset = (uint64_t)at * GRANULE;
    chunk->size = size;
    return CUDA_SUCCESS;
}

void
fdc_stage_free(struct fdc_session *session, enum fdc_region region,
               const struct fdc_chunk *chunk)
{
    struct fdc_stage *stage = stage_of(session, region);
    uint32_t count = (uint32_t)((chunk->size + GRANULE - 1) / GRANULE);

    pthread_mutex_lock(&stage->lock);
    mark(stage, (uint32_t)(chunk->offset / GRANULE), count, false);
    /* pairs with the load in fdc_intake_until() */
    __atomic_add_fetch(&stage->freed, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&stage->lock);
    if (fdc_load_ordered(&stage->waiting) != 0)
        fdc_intake_poke(session);
}

void *
fdc_stage_at(struct fdc_session *session, enum fdc_region region,
             const struct fdc_chunk *chunk)
{
    return stage_of(session, region)->base + chunk->offset;
}

#define BLOB_MAX (1ull << 30) /* more than this no table or linked image is */

/* The first part of a blob came with its call; the rest is fetched in pieces. The chunk
 * is used for all of them, and stays the caller's. */
CUresult
fdc_blob_rest(struct fdc_call *call, const struct fdc_chunk *first, uint64_t total,
              void **bytes)
{
    struct fdc_session *session = call->session;
    uint64_t have = total < first->size ? total : first->size;
    struct fdc_req_fdcBlobRead *req;
    struct fdc_rep_fdcBlobRead rep;
    uint16_t id = call->id;
    CUresult result = CUDA_SUCCESS;
    char *whole;

    if (total > BLOB_MAX)
        return CUDA_ERROR_OUT_OF_MEMORY;
    __atomic_add_fetch(&session->taken, total, __ATOMIC_RELAXED);
    whole = malloc(total + 8);
    if (whole == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(whole + total, 0, 8);
    memcpy(whole, fdc_stage_at(session, FDC_REGION_DOWN, first), have);
    call->id = FDC_ID_fdcBlobRead;
    while (have < total) {
        uint64_t got;

        req = fdc_call_begin(call, sizeof(*req));
        if (req == NULL) {
            result = call->result;
            break;
        }
        req->offset = have;
        req->chunk = *first;
        result = fdc_call_wait(call, &rep, sizeof(rep));
        if (result != CUDA_SUCCESS)
            break;
        got = rep.got;
        if (got == 0 || got > first->size || got > total - have) {
            result = CUDA_ERROR_UNKNOWN;
            break;
        }
        memcpy(whole + have, fdc_stage_at(session, FDC_REGION_DOWN, first), got);
        have += got;
    }
    call->id = id;
    if (result != CUDA_SUCCESS) {
        free(whole);
        return result;
    }
    *bytes = whole;
    return CUDA_SUCCESS;
}
