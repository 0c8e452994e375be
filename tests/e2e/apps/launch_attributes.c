/* Launches with attributes: advice of every kind, and events that a launch records. */
#include "app.h"

static CUfunction fill;
static CUdeviceptr memory;
static unsigned value, n = 256;

static CUresult
launch(CUstream stream, CUlaunchAttribute *attributes, unsigned count)
{
    void *params[] = { &memory, &value, &n };
    CUlaunchConfig config = { .gridDimX = 2, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 128,
                              .blockDimY = 1, .blockDimZ = 1, .hStream = stream,
                              .attrs = attributes, .numAttrs = count };

    value++;
    return cuLaunchKernelEx(&config, fill, params, NULL);
}

static void
advice(CUstream stream)
{
    CUlaunchAttribute some[7];

    memset(some, 0, sizeof(some));
    some[0].id = CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW;
    some[0].value.accessPolicyWindow.base_ptr = (void *)(uintptr_t)memory;
    some[0].value.accessPolicyWindow.num_bytes = 1024;
    some[0].value.accessPolicyWindow.hitRatio = 1.0f;
    some[1].id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
    some[1].value.priority = -1;
    some[2].id = CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN;
    some[2].value.memSyncDomain = CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE;
    some[3].id = CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP;
    some[3].value.memSyncDomainMap.remote = 1;
    some[4].id = CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
    some[4].value.sharedMemCarveout = 50;
    some[5].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    some[5].value.programmaticStreamSerializationAllowed = 1;
    some[6].id = CU_LAUNCH_ATTRIBUTE_IGNORE;
    for (unsigned i = 0; i < 7; i++) {
        CHECK(launch(stream, &some[i], 1));
        CHECK(cuStreamSynchronize(stream));
        REQUIRE(app_count_wrong(memory, value, n) == 0);
    }
    CHECK(launch(stream, some, 7));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(memory, value, n) == 0);
}

static void
events(CUstream stream)
{
    CUlaunchAttribute some[2];
    CUevent timed, event;
    CUstream other;

    CHECK(cuEventCreate(&timed, CU_EVENT_DEFAULT));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    memset(some, 0, sizeof(some));
    some[0].id = CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT;
    some[0].value.launchCompletionEvent.event = timed;
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, launch(stream, some, 1));
    some[0].value.launchCompletionEvent.event = event;
    CHECK(launch(stream, some, 1));
    CHECK(cuEventSynchronize(event));
    CHECK(cuEventQuery(event));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(memory, value, n) == 0);

    /* Nothing in the kernel triggers it: then it comes with the kernel's end. */
    some[0].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT;
    some[0].value.programmaticEvent.event = event;
    CHECK(launch(stream, some, 1));
    CHECK(cuStreamWaitEvent(other, event, 0));
    CHECK(cuMemsetD32Async(memory, 7, n, other));
    CHECK(cuStreamSynchronize(other));
    REQUIRE(app_count_wrong(memory, 7, n) == 0);

    some[1] = some[0];
    CHECK(launch(stream, some, 2));
    CHECK(cuStreamSynchronize(stream));
    some[0].value.programmaticEvent.event = (CUevent)0x1000;
    EXPECT(CUDA_ERROR_INVALID_HANDLE, launch(stream, some, 1));
}

int
main(void)
{
    CUmodule module = NULL;
    CUstream stream;

    app_begin();
    fill = app_function(&module, "fill");
    CHECK(cuMemAlloc(&memory, n * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    advice(stream);
    events(stream);
    return app_end();
}
