/* Calls about the machine rather than its work: dumps, notices, logs, atomics, LUIDs. */
#include "app.h"

static void
notice(CUasyncNotificationInfo *info, void *user, CUasyncCallbackHandle handle)
{
    (void)info;
    (void)user;
    (void)handle;
    puts("a notice");
}

static void
dumps(void)
{
    char name[1024] = "x";
    unsigned char flag = 9;
    unsigned int flags = 9;
    size_t size = 1;

    CHECK(cuCoredumpGetAttributeGlobal(1, &flag, &size));
    REQUIRE(flag == 0);
    CHECK(cuCoredumpGetAttribute(2, &flag, &size));
    REQUIRE(flag == 1);
    CHECK(cuCoredumpSetAttributeGlobal(2, &flag, &size));
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuCoredumpSetAttributeGlobal(1, &flag, &size));
    size = 256;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCoredumpGetAttributeGlobal(1, name, &size));
    CHECK(cuCoredumpGetAttributeGlobal(7, NULL, &size));
    REQUIRE(size == 4);
    CHECK(cuCoredumpGetAttributeGlobal(7, &flags, &size));
    REQUIRE(flags == 0);

    size = sizeof(name);
    CHECK(cuCoredumpGetAttributeGlobal(5, name, &size));
    REQUIRE(name[0] == '\0');
    strcpy(name, "core.cuda.test");
    CHECK(cuCoredumpSetAttributeGlobal(5, name, &size));
    memset(name, 0, sizeof(name));
    CHECK(cuCoredumpGetAttribute(5, name, &size));
    REQUIRE(name[0] == '\0');
    CHECK(cuCoredumpGetAttributeGlobal(5, name, &size));
    REQUIRE(strcmp(name, "core.cuda.test") == 0);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCoredumpSetAttribute(6, name, &size));
    size = 4;
    CHECK(cuCoredumpGetAttributeGlobal(5, name, &size));
    CHECK(cuCoredumpGetAttributeGlobal(5, NULL, &size));
    REQUIRE(size == 1024);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCoredumpGetAttribute(8, name, &size));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCoredumpGetAttribute(5, name, NULL));
}

static void
notices(CUdevice device)
{
    CUasyncCallbackHandle one = NULL, two = NULL;

    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuDeviceRegisterAsyncNotification(device, NULL, NULL, &one));
    EXPECT(CUDA_ERROR_INVALID_DEVICE,
           cuDeviceRegisterAsyncNotification(99, notice, NULL, &one));
    CHECK(cuDeviceRegisterAsyncNotification(device, notice, NULL, &one));
    CHECK(cuDeviceRegisterAsyncNotification(device, notice, NULL, &two));
    REQUIRE(one != NULL && two != NULL && one != two);
    CHECK(cuDeviceUnregisterAsyncNotification(device, one));
    CHECK(cuDeviceUnregisterAsyncNotification(device, two));
}

static void
atomics(CUdevice device)
{
    CUatomicOperation asked[2] = { CU_ATOMIC_OPERATION_INTEGER_ADD,
                                   CU_ATOMIC_OPERATION_CAS };
    unsigned int can[2] = { 7, 7 };

    CHECK(cuDeviceGetHostAtomicCapabilities(can, asked, 2, device));
    REQUIRE(can[0] == 0 && can[1] == 0);
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuDeviceGetHostAtomicCapabilities(can, asked, 0, device));
    asked[1] = CU_ATOMIC_OPERATION_MAX;
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuDeviceGetHostAtomicCapabilities(can, asked, 2, device));
    EXPECT(CUDA_ERROR_INVALID_DEVICE,
           cuDeviceGetP2PAtomicCapabilities(can, asked, 1, device, device));
}

static void
logs(void)
{
    CUlogsCallbackHandle handle = NULL;
    CUlogIterator at = 9;
    char text[8] = "?";
    size_t size = sizeof(text);

    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLogsRegisterCallback(NULL, NULL, &handle));
    CHECK(cuLogsCurrent(&at, 0));
    REQUIRE(at == 0);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLogsCurrent(&at, 1));
    CHECK(cuLogsDumpToMemory(&at, text, &size, 0));
    REQUIRE(size == 0 && text[0] == '\0');
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLogsUnregisterCallback(handle));
}

static void
affinity(CUdevice device)
{
    CUexecAffinityParam param;
    int sms = 0;

    memset(&param, 0, sizeof(param));
    CHECK(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    CHECK(cuCtxGetExecAffinity(&param, CU_EXEC_AFFINITY_TYPE_SM_COUNT));
    REQUIRE(param.type == CU_EXEC_AFFINITY_TYPE_SM_COUNT &&
            param.param.smCount.val == (unsigned)sms);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuCtxGetExecAffinity(NULL, 0));
}

int
main(void)
{
    unsigned int mask = 7;
    CUdevice device;
    char luid[8];
    size_t size = 1;
    char flag;

    CHECK(cuCoredumpGetAttributeGlobal(1, &flag, &size));
    CHECK(cuInit(0));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCoredumpGetAttribute(1, &flag, &size));
    app_begin();
    CHECK(cuCtxGetDevice(&device));
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuDeviceGetLuid(luid, &mask, device));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFlushGPUDirectRDMAWrites(5, 100));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFlushGPUDirectRDMAWrites(0, 1));
    dumps();
    notices(device);
    atomics(device);
    logs();
    affinity(device);
    return app_end();
}
