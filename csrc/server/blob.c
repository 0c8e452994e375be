/*
 * Blobs: what a call has to say beyond its reply's fields (snapshots, kernel tables,
 * logs). Its beginning goes into the DOWN chunk that came with the call; what did not fit
 * is kept until the same client thread's next blob, for fdcBlobRead.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BLOBS_MAX (256ull << 20)        /* bytes kept for all threads */

struct blob {
    struct blob *next;
    uint32_t thread;
    uint64_t size;
    uint8_t *bytes;
};

struct fdc_blobs {
    pthread_mutex_t lock;
    struct blob *first;
    uint64_t bytes;
};

struct fdc_blobs *
fdc_blobs_new(void)
{
    struct fdc_blobs *blobs = calloc(1, sizeof(*blobs));

    if (blobs != NULL)
        pthread_mutex_init(&blobs->lock, NULL);
    return blobs;
}

/* Under the lock. */
static void
drop(struct fdc_blobs *blobs, uint32_t thread)
{
    for (struct blob **at = &blobs->first; *at != NULL; at = &(*at)->next) {
        struct blob *blob = *at;

        if (blob->thread != thread)
            continue;
        *at = blob->next;
        blobs->bytes -= blob->size;
        free(blob->bytes);
        free(blob);
        return;
    }
}

void
fdc_blobs_free(struct fdc_blobs *blobs)
{
    if (blobs == NULL)
        return;
    while (blobs->first != NULL)
        drop(blobs, blobs->first->thread);
    pthread_mutex_destroy(&blobs->lock);
    free(blobs);
}

/* Copies into the chunk and sees that it gets there. */
static int
fill(struct fdc_request *request, struct fdc_chunk chunk, const uint8_t *bytes,
     uint64_t size)
{
    void *view = fdc_request_chunk(request, FDC_REGION_DOWN, chunk);

    if (view == NULL)
        return -EPROTO;
    if (size == 0)
        return 0;
    memcpy(view, bytes, size);
    fdc_request_put(request, (struct fdc_chunk){ chunk.offset, size });
    return 0;
}

int
fdc_blob_give(struct fdc_request *request, struct fdc_chunk chunk, void *bytes,
              uint64_t size)
{
    struct fdc_blobs *blobs = request->serve->blobs;
    struct blob *blob;
    int err;

    err = fill(request, chunk, bytes, size < chunk.size ? size : chunk.size);
    pthread_mutex_lock(&blobs->lock);
    drop(blobs, request->msg->thread);
    if (err == 0 && size > chunk.size && blobs->bytes + size <= BLOBS_MAX) {
        blob = malloc(sizeof(*blob));
        if (blob != NULL) {
            *blob = (struct blob){ blobs->first, request->msg->thread, size, bytes };
            blobs->first = blob;
            blobs->bytes += size;
            bytes = NULL;
        }
    }
    pthread_mutex_unlock(&blobs->lock);
    free(bytes);
    return err;
}

int
fdc_server_call_fdcBlobRead(struct fdc_request *request,
                            const struct fdc_req_fdcBlobRead *req)
{
    struct fdc_blobs *blobs = request->serve->blobs;
    struct fdc_rep_fdcBlobRead reply = { 0 };
    CUresult result = CUDA_ERROR_NOT_FOUND;
    struct blob *blob;
    int err = 0;

    pthread_mutex_lock(&blobs->lock);
    for (blob = blobs->first; blob != NULL; blob = blob->next)
        if (blob->thread == request->msg->thread)
            break;
    if (blob != NULL && req->offset <= blob->size) {
        reply.got = blob->size - req->offset;
        if (reply.got > req->chunk.size)
            reply.got = req->chunk.size;
        err = fill(request, req->chunk, blob->bytes + req->offset, reply.got);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&blobs->lock);
    if (err == 0)
        fdc_request_answer(request, result, &reply, sizeof(reply));
    return err;
}
