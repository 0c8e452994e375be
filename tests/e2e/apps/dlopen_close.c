/*
 * The library opened by name, closed and opened again, by a program that is not linked with
 * it: what it had is still there, or it starts afresh; nothing crashes, now or at the end.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef APP_VENDOR_HEADER
#include <cuda.h>
#else
#include "cuda_calls.h"
#endif

static int failures;

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            failures++; \
            printf("line %d: not so: %s\n", __LINE__, #condition); \
        } \
    } while (0)

struct calls {
    CUresult (*init)(unsigned);
    CUresult (*retain)(CUcontext *, CUdevice);
    CUresult (*set_current)(CUcontext);
    CUresult (*alloc)(CUdeviceptr *, size_t);
    CUresult (*free)(CUdeviceptr);
    CUresult (*up)(CUdeviceptr, const void *, size_t);
    CUresult (*down)(void *, CUdeviceptr, size_t);
    CUresult (*synchronize)(void);
    CUresult (*host)(CUstream, CUhostFn, void *);
    CUresult (*address)(const char *, void **, int, cuuint64_t,
                        CUdriverProcAddressQueryResult *);
};

static void *
take(void *lib, const char *name)
{
    void *found = dlsym(lib, name);

    REQUIRE(found != NULL);
    return found;
}

static void *
open_it(struct calls *calls, int how)
{
    void *lib = dlopen("libcuda.so.1", how);

    if (lib == NULL) {
        printf("%s\n", dlerror());
        exit(2);
    }
    *(void **)&calls->init = take(lib, "cuInit");
    *(void **)&calls->retain = take(lib, "cuDevicePrimaryCtxRetain");
    *(void **)&calls->set_current = take(lib, "cuCtxSetCurrent");
    *(void **)&calls->alloc = take(lib, "cuMemAlloc_v2");
    *(void **)&calls->free = take(lib, "cuMemFree_v2");
    *(void **)&calls->up = take(lib, "cuMemcpyHtoD_v2");
    *(void **)&calls->down = take(lib, "cuMemcpyDtoH_v2");
    *(void **)&calls->synchronize = take(lib, "cuCtxSynchronize");
    *(void **)&calls->host = take(lib, "cuLaunchHostFunc");
    *(void **)&calls->address = take(lib, "cuGetProcAddress_v2");
    return lib;
}

static int ran;

static void
count(void *user)
{
    (void)user;
    __atomic_add_fetch(&ran, 1, __ATOMIC_RELAXED);
}

static void
work(const struct calls *calls, unsigned value)
{
    CUcontext context = NULL;
    CUdeviceptr p = 0;
    unsigned word = 0;
    int before = __atomic_load_n(&ran, __ATOMIC_RELAXED);

    REQUIRE(calls->init(0) == CUDA_SUCCESS);
    REQUIRE(calls->retain(&context, 0) == CUDA_SUCCESS);
    REQUIRE(calls->set_current(context) == CUDA_SUCCESS);
    REQUIRE(calls->alloc(&p, 4096) == CUDA_SUCCESS);
    REQUIRE(calls->up(p, &value, 4) == CUDA_SUCCESS);
    REQUIRE(calls->down(&word, p, 4) == CUDA_SUCCESS);
    REQUIRE(word == value);
    REQUIRE(calls->host(NULL, count, NULL) == CUDA_SUCCESS);
    REQUIRE(calls->synchronize() == CUDA_SUCCESS);
    REQUIRE(__atomic_load_n(&ran, __ATOMIC_RELAXED) == before + 1);
    REQUIRE(calls->free(p) == CUDA_SUCCESS);
}

/* Opens, works and closes, while others do the same. */
static void *
in_thread(void *user)
{
    unsigned number = (unsigned)(size_t)user;
    struct calls calls;

    for (unsigned i = 0; i < 10; i++) {
        CUresult (*synchronize)(void) = NULL;
        CUdriverProcAddressQueryResult status;
        CUcontext context = NULL;
        void *lib = open_it(&calls, i % 2 ? RTLD_NOW | RTLD_GLOBAL : RTLD_LAZY);
        CUdeviceptr p = 0;
        unsigned word = 0, value = 100 * number + i;

        REQUIRE(calls.init(0) == CUDA_SUCCESS);
        REQUIRE(calls.retain(&context, 0) == CUDA_SUCCESS);
        REQUIRE(calls.set_current(context) == CUDA_SUCCESS);
        REQUIRE(calls.address("cuCtxSynchronize", (void **)&synchronize, 12000, 0,
                              &status) == CUDA_SUCCESS);
        REQUIRE(calls.alloc(&p, 4096) == CUDA_SUCCESS);
        REQUIRE(calls.up(p, &value, 4) == CUDA_SUCCESS);
        REQUIRE(calls.down(&word, p, 4) == CUDA_SUCCESS);
        REQUIRE(word == value);
        REQUIRE(synchronize != NULL && synchronize() == CUDA_SUCCESS);
        REQUIRE(calls.free(p) == CUDA_SUCCESS);
        REQUIRE(dlclose(lib) == 0);
    }
    return NULL;
}

int
main(void)
{
    pthread_t threads[6];
    struct calls calls;
    void *lib;

    REQUIRE(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) == NULL);
    lib = open_it(&calls, RTLD_NOW);
    REQUIRE(dlclose(lib) == 0);         /* before anything was called */
    for (unsigned i = 0; i < 5; i++) {
        lib = open_it(&calls, RTLD_NOW);
        work(&calls, 17 + i);
        REQUIRE(dlclose(lib) == 0);
    }
    puts("opened and closed, one after the other");
    lib = open_it(&calls, RTLD_NOW);
    for (size_t i = 0; i < 6; i++)
        pthread_create(&threads[i], NULL, in_thread, (void *)i);
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    puts("by threads at once");
    work(&calls, 5);
    REQUIRE(dlclose(lib) == 0);
    puts(failures ? "FAIL" : "PASS");
    return failures != 0;
}
