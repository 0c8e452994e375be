/*
 * A kernel writes where nothing is, while other threads wait, launch and copy: every call
 * of every thread gives the error from then on, in other contexts of the device too.
 */
#include "app.h"

enum { THREADS = 8 };

static CUcontext context;
static CUmodule module;
static CUfunction fill;
static pthread_barrier_t barrier;
static const char *first[THREADS], *then[THREADS];

/* Calls of one kind until one fails; then all kinds. */
static CUresult
one(int kind, CUstream stream, CUevent event, CUdeviceptr p)
{
    unsigned word = 0;
    CUresult result;

    switch (kind) {
    case 0:
        return cuStreamSynchronize(stream);
    case 1:
        return cuCtxSynchronize();
    case 2:
        return cuMemcpyDtoH(&word, p, 4);
    case 3:
        return cuMemcpyHtoD(p, &word, 4);
    case 4:
        result = app_fill(fill, p, 1, 32, stream);
        return result != CUDA_SUCCESS ? result : cuStreamSynchronize(stream);
    case 5:
        result = cuEventRecord(event, stream);
        return result != CUDA_SUCCESS ? result : cuEventSynchronize(event);
    case 6:
        result = cuMemsetD32Async(p, 1, 4, stream);
        return result != CUDA_SUCCESS ? result : cuStreamQuery(stream);
    default:
        result = cuMemAlloc(&p, 64);
        return result != CUDA_SUCCESS ? result : cuMemFree(p);
    }
}

static void *
work(void *user)
{
    int kind = (int)(size_t)user, calls = 0;
    CUresult result;
    CUstream stream;
    CUevent event;
    CUdeviceptr p;

    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemAlloc(&p, 4096));
    pthread_barrier_wait(&barrier);     /* everybody works */
    do {
        result = one(kind, stream, event, p);
        if (++calls % 16 == 0)
            app_sleep_ms(1);
    } while (result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY);
    first[kind] = app_error(result);
    for (int i = 0; i < THREADS; i++) {
        result = one(i, stream, event, p);
        if (then[kind] == NULL || result != CUDA_ERROR_ILLEGAL_ADDRESS)
            then[kind] = app_error(result);
    }
    (void)cuEventDestroy_v2(event);     /* either is allowed, a crash is not */
    (void)cuStreamDestroy_v2(stream);
    return NULL;
}

/* A thread that comes when all is over. */
static void *
late(void *user)
{
    CUdeviceptr p;
    CUstream stream;
    size_t free_bytes, total;

    (void)user;
    CHECK(cuCtxSetCurrent(context));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc(&p, 64));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamCreate(&stream, 0));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemGetInfo(&free_bytes, &total));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    return NULL;
}

int
main(void)
{
    pthread_t threads[THREADS], another;
    CUcontext other, current;
    CUdevice device;
    CUfunction wild;
    CUdeviceptr p;

    context = app_begin();
    fill = app_function(&module, "fill");
    wild = app_function(&module, "wild");
    CHECK(cuCtxGetDevice(&device));
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CHECK(cuCtxPopCurrent_v2(&current));
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    pthread_barrier_wait(&barrier);
    app_sleep_ms(20);
    CHECK(cuLaunchKernel(wild, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_PER_THREAD, NULL, NULL));
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        printf("thread %d: %s, then %s\n", i, first[i], then[i]);
        REQUIRE(strcmp(first[i], "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
        REQUIRE(strcmp(then[i], "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
    }
    pthread_create(&another, NULL, late, NULL);
    pthread_join(another, NULL);
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(CU_STREAM_PER_THREAD));

    CHECK(cuCtxPushCurrent_v2(other));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc(&p, 64));
    EXPECT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxCreate_v2(&other, 0, device));
    return app_end();
}
