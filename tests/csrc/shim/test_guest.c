/* The shim as a guest: opened by dlopen, closed, called late, beside forks and threads. */
#include <pthread.h>

#include "worker.h"

static CUresult (*init)(unsigned);
static CUresult (*retain)(CUcontext *, CUdevice);
static CUresult (*release)(CUdevice);
static CUresult (*set_current)(CUcontext);
static CUresult (*get_current)(CUcontext *);
static CUresult (*synchronize)(void);
static CUresult (*host_func)(CUstream, CUhostFn, void *);

static void *
take(void *lib, const char *name)
{
    void *address = dlsym(lib, name);

    CHECK(address != NULL);
    return address;
}

static void
late(void)
{
    CUcontext context;

    if (get_current(&context) != CUDA_SUCCESS || synchronize() != CUDA_SUCCESS)
        _exit(1);
    if (release(0) != CUDA_SUCCESS)
        _exit(1);
}

static void
nothing(void *user)
{
    (void)user;
}

static void *
thread_main(void *context)
{
    CHECK_EQ(set_current(context), 0);
    CHECK_EQ(host_func(CU_STREAM_PER_THREAD, nothing, NULL), 0);
    return NULL; /* its stream goes with it */
}

static void
test_calls_work_after_dlclose_and_while_exiting(void)
{
    char path[PATH_MAX];
    CUcontext context;
    pthread_t thread;
    void *lib;
    int status;
    pid_t child;

    atexit(late);
    worker_start(1);
    worker_path(path, "libcuda.so.1");
    lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(lib != NULL);
    *(void **)&init = take(lib, "cuInit");
    *(void **)&retain = take(lib, "cuDevicePrimaryCtxRetain");
    *(void **)&release = take(lib, "cuDevicePrimaryCtxRelease_v2");
    *(void **)&set_current = take(lib, "cuCtxSetCurrent");
    *(void **)&get_current = take(lib, "cuCtxGetCurrent");
    *(void **)&synchronize = take(lib, "cuCtxSynchronize");
    *(void **)&host_func = take(lib, "cuLaunchHostFunc");
    CHECK_EQ(init(0), 0);
    unlink(getenv("FD_SESSION"));
    CHECK_EQ(retain(&context, 0), 0);
    CHECK_EQ(set_current(context), 0);
    CHECK_EQ(dlclose(lib), 0);
    CHECK_EQ(synchronize(), 0);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(pthread_create(&thread, NULL, thread_main, context), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(get_current(&context) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(synchronize(), 0);
    worker_exit();
}

int
main(void)
{
    char path[PATH_MAX];
    int failed = 0;

    worker_needed();
    worker_path(path, "libcuda.so.1");
    if (access(path, R_OK) != 0)
        CHECK_SKIP("libcuda.so.1 is not built");
    RUN(test_calls_work_after_dlclose_and_while_exiting);
    return failed;
}
