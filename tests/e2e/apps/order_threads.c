/* A launch that one thread made before it signalled is seen by another's synchronise. */
#include "app.h"

enum { N = 4096, ROUNDS = 200 };

static CUcontext context;
static CUmodule module;
static CUfunction fill;
static CUdeviceptr p;
static CUstream stream;
static pthread_barrier_t barrier;

static void *
launcher(void *user)
{
    (void)user;
    CHECK(cuCtxSetCurrent(context));
    for (unsigned i = 0; i < ROUNDS; i++) {
        CHECK(app_fill(fill, p, i + 1, N, stream));
        pthread_barrier_wait(&barrier);         /* launched */
        pthread_barrier_wait(&barrier);         /* looked at */
    }
    return NULL;
}

int
main(void)
{
    pthread_t thread;
    unsigned wrong = 0;

    context = app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&p, N * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, launcher, NULL);
    for (unsigned i = 0; i < ROUNDS; i++) {
        pthread_barrier_wait(&barrier);
        CHECK(cuStreamSynchronize(stream));
        wrong += app_count_wrong(p, i + 1, N);
        pthread_barrier_wait(&barrier);
    }
    pthread_join(thread, NULL);
    printf("%d rounds, %u wrong words\n", ROUNDS, wrong);
    REQUIRE(wrong == 0);
    return app_end();
}
