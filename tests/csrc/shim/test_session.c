/* Attaching, devices, contexts, forks and dead workers, against a real worker. */
#include <pthread.h>
#include <stdbool.h>

#include "worker.h"

static void
test_nothing_works_before_init(void)
{
    CUcontext context;
    int count;

    CHECK_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    CHECK_EQ(cuCtxGetCurrent(&context), CUDA_ERROR_NOT_INITIALIZED);
}

static void
test_no_session_is_no_device(void)
{
    int version;

    unsetenv("FD_SESSION");
    CHECK_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    CHECK_EQ(cuInit(1), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuDriverGetVersion(&version), 0);
    CHECK_EQ(version, 13000);
}

static void
test_session_file_that_others_may_read_is_refused(void)
{
    worker_start(1);
    CHECK_EQ(chmod(getenv("FD_SESSION"), 0644), 0);
    CHECK_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    unlink(getenv("FD_SESSION"));
    worker_exit();
}

static void
test_device_questions_are_answered(void)
{
    char name[256], bus[32];
    CUuuid uuid;
    CUdevice device, found;
    size_t bytes;
    int count, value, major, minor;

    worker_context();
    CHECK_EQ(cuInit(0), 0);
    CHECK_EQ(cuDeviceGetCount(&count), 0);
    CHECK_EQ(count, 1);
    CHECK_EQ(cuDeviceGet(&device, 0), 0);
    CHECK_EQ(cuDeviceGet(&found, 1), CUDA_ERROR_INVALID_DEVICE);
    CHECK_EQ(cuDeviceGetName(name, sizeof(name), device), 0);
    CHECK(strlen(name) > 0);
    CHECK_EQ(cuDeviceGetUuid_v2(&uuid, device), 0);
    CHECK_EQ(cuDeviceTotalMem_v2(&bytes, device), 0);
    CHECK(bytes > 0);
    CHECK_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device), 0);
    CHECK_EQ(value, 32);
    value = 77;
    CHECK_EQ(cuDeviceGetAttribute(&value, (CUdevice_attribute)900, device),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(value, 77);
    CHECK_EQ(cuDeviceComputeCapability(&major, &minor, device), 0);
    CHECK_EQ(cuDeviceGetPCIBusId(bus, sizeof(bus), device), 0);
    CHECK_EQ(cuDeviceGetByPCIBusId(&found, bus), 0);
    CHECK_EQ(found, device);
    CHECK_EQ(cuDeviceGetPCIBusId(bus, 4, device), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuDeviceCanAccessPeer(&value, 0, 0), 0);
    CHECK_EQ(value, 0);
    worker_exit();
}

/* In a process of its own: the UUIDs that a program sees with this choice. */
static int
uuids_of(const char *visible, CUuuid uuid[3])
{
    int ends[2], count = 0, status;
    pid_t child;

    CHECK_EQ(pipe(ends), 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        worker_start(3);
        if (visible != NULL)
            setenv("CUDA_VISIBLE_DEVICES", visible, 1);
        if (cuInit(0) == CUDA_SUCCESS)
            CHECK_EQ(cuDeviceGetCount(&count), 0);
        unlink(getenv("FD_SESSION"));
        CHECK_EQ(write(ends[1], &count, sizeof(count)), (ssize_t)sizeof(count));
        for (int i = 0; i < count; i++) {
            CHECK_EQ(cuDeviceGetUuid_v2(&uuid[i], i), 0);
            CHECK_EQ(write(ends[1], &uuid[i], sizeof(uuid[i])),
                     (ssize_t)sizeof(uuid[i]));
        }
        worker_exit();
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(read(ends[0], &count, sizeof(count)), (ssize_t)sizeof(count));
    for (int i = 0; i < count; i++)
        CHECK_EQ(read(ends[0], &uuid[i], sizeof(uuid[i])), (ssize_t)sizeof(uuid[i]));
    close(ends[0]);
    close(ends[1]);
    return count;
}

static bool
same(const CUuuid *one, const CUuuid *other)
{
    return memcmp(one, other, sizeof(*one)) == 0;
}

static void
test_visible_devices_choose_and_order(void)
{
    CUuuid all[3], some[3];
    char text[80], *at = text;

    CHECK_EQ(uuids_of(NULL, all), 3);
    CHECK_EQ(uuids_of("2,0", some), 2);
    CHECK(same(&some[0], &all[2]) && same(&some[1], &all[0]));
    CHECK_EQ(uuids_of(" 1 , 7, 0", some), 1); /* up to the first that is none */
    CHECK(same(&some[0], &all[1]));
    CHECK_EQ(uuids_of("1,1", some), 0);
    CHECK_EQ(uuids_of("-1", some), 0);
    CHECK_EQ(uuids_of("", some), 0);
    CHECK_EQ(uuids_of("GPU-zz", some), 0);
    at += sprintf(at, "0,GPU-");
    for (int i = 0; i < 16; i++)
        at += sprintf(at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                      (unsigned char)all[1].bytes[i]);
    CHECK_EQ(uuids_of(text, some), 2);
    CHECK(same(&some[0], &all[0]) && same(&some[1], &all[1]));
}

static void
test_no_visible_device_is_no_device(void)
{
    int count;

    worker_start(2);
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    CHECK_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE);
    CHECK_EQ(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    unlink(getenv("FD_SESSION"));
    worker_exit();
}

static void
test_context_stack_is_the_threads_own(void)
{
    CUcontext primary, current, made, popped;
    CUdevice device;
    unsigned flags, version;
    int active;

    worker_start(2);
    CHECK_EQ(cuInit(0), 0);
    unlink(getenv("FD_SESSION"));
    CHECK_EQ(cuCtxGetCurrent(&current), 0);
    CHECK(current == NULL);
    CHECK_EQ(cuCtxGetDevice(&device), CUDA_ERROR_INVALID_CONTEXT);
    CHECK_EQ(cuDevicePrimaryCtxGetState(1, &flags, &active), 0);
    CHECK_EQ(active, 0);
    CHECK_EQ(cuDevicePrimaryCtxRetain(&primary, 1), 0);
    CHECK_EQ(cuDevicePrimaryCtxGetState(1, &flags, &active), 0);
    CHECK_EQ(active, 1);
    CHECK_EQ(cuCtxPushCurrent_v2(primary), 0);
    CHECK_EQ(cuCtxGetDevice(&device), 0);
    CHECK_EQ(device, 1);
    CHECK_EQ(cuCtxGetApiVersion(primary, &version), 0);
    CHECK_EQ(cuCtxCreate_v2(&made, 0, 0), 0);
    CHECK_EQ(cuCtxGetCurrent(&current), 0);
    CHECK(current == made);
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(cuCtxDestroy_v2(made), 0);
    CHECK_EQ(cuCtxGetCurrent(&current), 0);
    CHECK(current == primary);
    CHECK_EQ(cuCtxPushCurrent_v2(made), CUDA_ERROR_INVALID_CONTEXT);
    CHECK_EQ(cuCtxPopCurrent_v2(&popped), 0);
    CHECK(popped == primary);
    CHECK_EQ(cuCtxPopCurrent_v2(&popped), CUDA_ERROR_INVALID_CONTEXT);
    CHECK_EQ(cuDevicePrimaryCtxRelease_v2(1), 0);
    CHECK_EQ(cuDevicePrimaryCtxRelease_v2(1), CUDA_ERROR_INVALID_CONTEXT);
    CHECK_EQ(cuDevicePrimaryCtxRetain(&current, 1), 0);
    CHECK(current == primary);
    worker_exit();
}

static void
test_contexts_come_and_go_with_their_streams(void)
{
    CUstream stream;
    CUcontext made;
    unsigned flags;

    worker_context();
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(cuCtxCreate_v2(&made, 0, 0), 0);
        CHECK_EQ(cuStreamCreate(&stream, 0), 0);
        CHECK_EQ(cuStreamGetFlags(CU_STREAM_PER_THREAD, &flags), 0);
        CHECK_EQ(cuStreamSynchronize(stream), 0);
        CHECK_EQ(cuCtxDestroy_v2(made), 0);
        CHECK_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
        CHECK_EQ(cuCtxDestroy_v2(made), CUDA_ERROR_INVALID_CONTEXT);
    }
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_context_that_nobody_holds_can_be_current_and_no_more(void)
{
    CUcontext primary, again;
    CUstream stream;

    worker_start(1);
    CHECK_EQ(cuInit(0), 0);
    unlink(getenv("FD_SESSION"));
    CHECK_EQ(cuDevicePrimaryCtxRetain(&primary, 0), 0);
    CHECK_EQ(cuDevicePrimaryCtxRelease_v2(0), 0);
    CHECK_EQ(cuCtxSetCurrent(primary), 0);
    CHECK_EQ(cuStreamCreate(&stream, 0), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    CHECK_EQ(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    CHECK_EQ(cuDevicePrimaryCtxRetain(&again, 0), 0);
    CHECK(again == primary);
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(cuDevicePrimaryCtxReset_v2(0), 0);
    CHECK_EQ(cuCtxSynchronize(), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    CHECK_EQ(cuDevicePrimaryCtxRetain(&again, 0), 0);
    CHECK(again == primary);
    CHECK_EQ(cuStreamQuery(stream), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_forked_child_is_not_initialized_and_parent_goes_on(void)
{
    CUstream stream;
    int status;
    pid_t child;

    worker_context();
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CUcontext context;
        int count;

        if (cuInit(0) != CUDA_ERROR_NOT_INITIALIZED ||
            cuDeviceGetCount(&count) != CUDA_ERROR_NOT_INITIALIZED ||
            cuCtxGetCurrent(&context) != CUDA_ERROR_NOT_INITIALIZED ||
            cuStreamSynchronize(stream) != CUDA_ERROR_NOT_INITIALIZED)
            _exit(1);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    worker_exit();
}

static void
test_child_forked_before_init_attaches_by_itself(void)
{
    int status, version;
    pid_t child;

    worker_start(1);
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(cuInit(0) == CUDA_SUCCESS ? 0 : 1);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    (void)version;
    unlink(getenv("FD_SESSION"));
    worker_exit();
}

static void *
wait_in_context(void *context)
{
    CUresult result;

    cuCtxSetCurrent(context);
    do
        result = cuCtxSynchronize();
    while (result == CUDA_SUCCESS);
    return (void *)(intptr_t)result;
}

static void
test_dead_worker_ends_every_wait_and_call(void)
{
    CUcontext context = worker_context(), current;
    pthread_t threads[8];
    CUdeviceptr address;
    CUstream stream;
    void *result;
    int count;

    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, wait_in_context, context), 0);
    usleep(20000);
    kill(worker_pid, SIGKILL);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(pthread_join(threads[i], &result), 0);
        CHECK_EQ((intptr_t)result, CUDA_ERROR_DEVICE_UNAVAILABLE);
    }
    CHECK_EQ(cuStreamSynchronize(stream), CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK_EQ(cuMemAlloc_v2(&address, 1024), CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK_EQ(cuCtxGetCurrent(&current), CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK_EQ(cuDeviceGetCount(&count), CUDA_ERROR_DEVICE_UNAVAILABLE);
    CHECK_EQ(cuInit(0), CUDA_ERROR_DEVICE_UNAVAILABLE);
    worker_exit();
}

static void
test_error_names_are_known(void)
{
    const char *text;

    CHECK_EQ(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text), 0);
    CHECK_STR(text, "CUDA_ERROR_OUT_OF_MEMORY");
    CHECK_EQ(cuGetErrorString(CUDA_SUCCESS, &text), 0);
    CHECK_STR(text, "no error");
    CHECK_EQ(cuGetErrorName((CUresult)12345, &text), CUDA_ERROR_INVALID_VALUE);
    CHECK(text == NULL);
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_nothing_works_before_init);
    RUN(test_no_session_is_no_device);
    RUN(test_session_file_that_others_may_read_is_refused);
    RUN(test_device_questions_are_answered);
    RUN(test_visible_devices_choose_and_order);
    RUN(test_no_visible_device_is_no_device);
    RUN(test_context_stack_is_the_threads_own);
    RUN(test_contexts_come_and_go_with_their_streams);
    RUN(test_context_that_nobody_holds_can_be_current_and_no_more);
    RUN(test_forked_child_is_not_initialized_and_parent_goes_on);
    RUN(test_child_forked_before_init_attaches_by_itself);
    RUN(test_dead_worker_ends_every_wait_and_call);
    RUN(test_error_names_are_known);
    return failed;
}
