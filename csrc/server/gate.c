/*
 * Gates: places where a stream stands still until the client says otherwise, however long
 * that is. The stream waits for the value of a word of pinned memory, so no thread of the
 * driver's does (it has one for the host functions of all streams). Each context has words
 * of its own, which lie in this process's memory until the session ends and are pinned
 * while the context is open. The client says which word and which value; a word only grows,
 * so an opening may come before its gate and is never lost. Openings come on the side lane:
 * the executor may be in the driver, which may wait for the very stream.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BYTES (FDC_GATE_WORDS * sizeof(uint32_t))

struct words {
    struct words *next;
    uint32_t ctx;
    uint32_t *word;                     /* what streams look at */
    uint32_t asked[FDC_GATE_WORDS];     /* the value of each one's last gate */
    CUdeviceptr device;
    bool pinned;
    bool shut;                          /* the context ends: nothing stands still any more */
};

struct fdc_gates {
    pthread_mutex_t lock;
    struct words *words;                /* none goes before the session's end */
    bool over;
};

struct fdc_gates *
fdc_gates_new(void)
{
    struct fdc_gates *gates = calloc(1, sizeof(*gates));

    if (gates != NULL)
        pthread_mutex_init(&gates->lock, NULL);
    return gates;
}

void
fdc_gates_free(struct fdc_gates *gates)
{
    struct words *words;

    if (gates == NULL)
        return;
    while ((words = gates->words) != NULL) {
        gates->words = words->next;
        munmap(words->word, BYTES);
        free(words);
    }
    pthread_mutex_destroy(&gates->lock);
    free(gates);
}

/* Under the lock. */
static struct words *
find(const struct fdc_gates *gates, uint32_t ctx)
{
    struct words *words = gates->words;

    while (words != NULL && words->ctx != ctx)
        words = words->next;
    return words;
}

static struct words *
words_new(uint32_t ctx)
{
    struct words *words = calloc(1, sizeof(*words));
    void *got;

    if (words == NULL)
        return NULL;
    got = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) {
        free(words);
        return NULL;
    }
    words->ctx = ctx;
    words->word = got;
    return words;
}

/* Whether streams of the context can wait for them is tried out: word 0 is always 0. */
static CUresult
pin(struct fdc_ctx *ctx, struct words *words)
{
    const struct fdc_driver *driver = ctx->serve->driver;
    CUresult result;

    if (!FDC_HAS(driver, cuStreamWaitValue32_v2) || !FDC_HAS(driver, cuMemHostRegister_v2) ||
        !FDC_HAS(driver, cuMemHostGetDevicePointer_v2))
        return CUDA_ERROR_NOT_SUPPORTED;
    result = driver->cuMemHostRegister_v2(words->word, BYTES, CU_MEMHOSTREGISTER_DEVICEMAP);
    if (result != CUDA_SUCCESS)
        return result;
    fdc_context_stir(ctx);
    result = driver->cuMemHostGetDevicePointer_v2(&words->device, words->word, 0);
    if (result == CUDA_SUCCESS)
        result = driver->cuStreamWaitValue32_v2(ctx->own, words->device, 0,
                                                CU_STREAM_WAIT_VALUE_GEQ);
    if (result != CUDA_SUCCESS)
        driver->cuMemHostUnregister(words->word);
    return result;
}

/* Under context_lock. */
static CUresult
make(struct fdc_gates *gates, struct fdc_ctx *ctx)
{
    CUresult result = CUDA_SUCCESS;
    struct words *words;

    pthread_mutex_lock(&gates->lock);
    words = find(gates, ctx->index);
    if (words == NULL) {
        words = words_new(ctx->index);
        if (words == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            words->next = gates->words;
            gates->words = words;
        }
    }
    pthread_mutex_unlock(&gates->lock);
    if (result == CUDA_SUCCESS && !words->pinned)
        result = pin(ctx, words);
    if (result != CUDA_SUCCESS) {
        fdc_log(FDC_LOG_INFO, "streams cannot wait for values: result %d", result);
        return result;
    }
    pthread_mutex_lock(&gates->lock);
    words->pinned = true;
    words->shut = false;
    pthread_mutex_unlock(&gates->lock);
    return CUDA_SUCCESS;
}

int
fdc_server_call_fdcGateWords(struct fdc_request *request,
                             const struct fdc_req_fdcGateWords *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx = fdc_context_here();
    CUresult result = CUDA_ERROR_INVALID_CONTEXT;

    (void)req;
    fdc_context_lock(serve);
    if (ctx != NULL && fdc_load_relaxed(&ctx->open))
        result = make(serve->gates, ctx);
    pthread_mutex_unlock(&serve->context_lock);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

/* Under the lock. Modulo 2^32, as the device compares. */
static void
grow(struct words *words, uint32_t word, uint32_t value)
{
    if ((int32_t)(value - words->word[word]) > 0)
        fdc_store_release(&words->word[word], value);
}

/* Where the device shall look; 0: nothing stands still here. */
static CUresult
ask(struct fdc_gates *gates, uint32_t ctx, uint32_t word, uint32_t value,
    CUdeviceptr *device)
{
    CUresult result = CUDA_ERROR_NOT_SUPPORTED;
    struct words *words;

    pthread_mutex_lock(&gates->lock);
    words = find(gates, ctx);
    if (words != NULL && words->pinned) {
        words->asked[word] = value;
        if (gates->over || words->shut)
            grow(words, word, value);
        *device = words->device + word * sizeof(uint32_t);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&gates->lock);
    return result;
}

/* A mark before the gate, if DONE is wanted; both are one message, so that nothing comes
 * between them. */
static CUresult
stand(struct fdc_request *request, const struct fdc_req_fdcGate *req, CUstream stream)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_ctx *ctx = fdc_context_here();
    struct fdc_mark *mark = NULL;
    CUdeviceptr device;
    CUresult result;

    if (ctx == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (fdc_stream_is_capturing(serve, stream))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    result = ask(serve->gates, ctx->index, req->word, req->value, &device);
    if (result == CUDA_SUCCESS && request->flags & FDC_MSG_DONE)
        result = fdc_mark_stream(ctx, stream, &mark);
    if (result == CUDA_SUCCESS) {
        fdc_meter_stands(serve);
        result = serve->driver->cuStreamWaitValue32_v2(stream, device, req->value,
                                                       CU_STREAM_WAIT_VALUE_GEQ);
        fdc_meter_stood(serve);
    }
    if (result == CUDA_SUCCESS && mark != NULL) {
        if (fdc_done_add(serve, request->ticket, mark, stream, (struct fdc_chunk){ 0 }))
            result = CUDA_ERROR_OUT_OF_MEMORY;
        else
            request->done = true;
    }
    if (result != CUDA_SUCCESS && mark != NULL)
        fdc_mark_put(mark);
    return result;
}

int
fdc_server_call_fdcGate(struct fdc_request *request, const struct fdc_req_fdcGate *req)
{
    CUstream stream;
    CUresult result;

    if (req->word == 0 || req->word >= FDC_GATE_WORDS)
        return -EPROTO;
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = stand(request, req, stream);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_gates_open(struct fdc_serve *serve, uint32_t ctx, uint64_t what)
{
    struct fdc_gates *gates = serve->gates;
    uint32_t word = (uint32_t)(what >> 32);
    struct words *words;

    if (word == 0 || word >= FDC_GATE_WORDS)
        return -EPROTO;
    pthread_mutex_lock(&gates->lock);
    words = find(gates, ctx);
    if (words != NULL)
        grow(words, word, (uint32_t)what);
    pthread_mutex_unlock(&gates->lock);
    return words != NULL ? 0 : -EPROTO;
}

/* ---- the end, of a context or of all ---- */

/* Under the lock. */
static void
open_all(struct words *words)
{
    for (uint32_t i = 1; i < FDC_GATE_WORDS; i++)
        grow(words, i, words->asked[i]);
}

void
fdc_gates_shut(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    struct fdc_gates *gates = serve->gates;
    struct words *words;

    pthread_mutex_lock(&gates->lock);
    words = find(gates, ctx->index);
    if (words != NULL) {
        words->shut = true;
        open_all(words);
    }
    pthread_mutex_unlock(&gates->lock);
}

void
fdc_gates_release_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    struct fdc_gates *gates = serve->gates;
    struct words *words;
    bool pinned;

    pthread_mutex_lock(&gates->lock);
    words = find(gates, ctx->index);
    pinned = words != NULL && words->pinned;
    if (pinned)
        words->pinned = false;
    pthread_mutex_unlock(&gates->lock);
    if (pinned)
        serve->driver->cuMemHostUnregister(words->word);
}

void
fdc_gates_cancel(struct fdc_serve *serve)
{
    struct fdc_gates *gates = serve->gates;

    pthread_mutex_lock(&gates->lock);
    gates->over = true;
    for (struct words *words = gates->words; words != NULL; words = words->next)
        open_all(words);
    pthread_mutex_unlock(&gates->lock);
}
