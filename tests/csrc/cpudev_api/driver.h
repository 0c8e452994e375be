/* What the tests of the CPU device's driver API share. */
#ifndef DRIVER_H
#define DRIVER_H

#include <pthread.h>
#include <time.h>

#include "check.h"
#include "cuda_calls.h"

#define OK(call) CHECK_EQ(call, CUDA_SUCCESS)
#define FAILS(result, call) CHECK_EQ(call, CUDA_ERROR_##result)

static inline CUcontext
start(void)
{
    CUcontext ctx;

    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    return ctx;
}

/* A host function that waits until it is let through: keeps a stream busy. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t change;
    int open, entered;
};
#define GATE_INIT {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0}

static inline void
gate_wait(void *arg)
{
    struct gate *gate = arg;

    pthread_mutex_lock(&gate->lock);
    gate->entered++;
    pthread_cond_broadcast(&gate->change);
    while (!gate->open)
        pthread_cond_wait(&gate->change, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static inline void
gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = 1;
    pthread_cond_broadcast(&gate->change);
    pthread_mutex_unlock(&gate->lock);
}

static inline void
count(void *arg)
{
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
}

#endif
