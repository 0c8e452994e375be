/* Attributes of streams: what a new one has, what may be set, and copies. */
#include "app.h"

static CUstreamAttrValue
of(CUstream stream, CUstreamAttrID attr)
{
    CUstreamAttrValue value;

    memset(&value, 0xee, sizeof(value));
    CHECK(cuStreamGetAttribute(stream, attr, &value));
    return value;
}

int
main(void)
{
    CUstream stream, other;
    CUstreamAttrValue value;
    CUdeviceptr memory;
    int priority = 9;

    app_begin();
    CHECK(cuStreamCreate(&stream, 0));
    CHECK(cuStreamCreate(&other, 0));
    REQUIRE(of(stream, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW).accessPolicyWindow.num_bytes ==
            0);
    REQUIRE((int)of(stream, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).syncPolicy == -1);
    REQUIRE(of(stream, CU_LAUNCH_ATTRIBUTE_PRIORITY).priority == 0);
    REQUIRE(of(stream, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP).memSyncDomainMap.remote == 1);
    REQUIRE(of(stream, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN).memSyncDomain == 0);

    for (int id = 0; id < 20; id++) {
        memset(&value, 0, sizeof(value));
        if (id == CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY)
            value.syncPolicy = CU_SYNC_POLICY_YIELD;
        printf("attribute %d: %s, %s\n", id,
               app_error(cuStreamGetAttribute(stream, id, &value)),
               app_error(cuStreamSetAttribute(stream, id, &value)));
    }
    memset(&value, 0, sizeof(value));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_PRIORITY, NULL));

    value.syncPolicy = CU_SYNC_POLICY_SPIN;
    CHECK(cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    memset(&value, 0, sizeof(value));
    value.priority = -2;
    CHECK(cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    CHECK(cuMemAlloc(&memory, 4096));
    memset(&value, 0, sizeof(value));
    value.accessPolicyWindow.base_ptr = (void *)(uintptr_t)memory;
    value.accessPolicyWindow.num_bytes = 4096;
    value.accessPolicyWindow.hitRatio = 0.5f;
    value.accessPolicyWindow.hitProp = CU_ACCESS_PROPERTY_PERSISTING;
    CHECK(cuStreamSetAttribute(stream, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    CHECK(cuStreamCopyAttributes(other, stream));
    REQUIRE(of(other, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).syncPolicy ==
            CU_SYNC_POLICY_SPIN);
    value = of(other, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW);
    REQUIRE(value.accessPolicyWindow.base_ptr == (void *)(uintptr_t)memory &&
            value.accessPolicyWindow.hitRatio == 0.5f);
    CHECK(cuStreamGetPriority(stream, &priority));
    REQUIRE(priority == -2);

    CHECK(cuStreamCopyAttributes(other, NULL));
    REQUIRE((int)of(other, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).syncPolicy == -1);
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamCopyAttributes((CUstream)0x1000, stream));
    CHECK(cuMemFree(memory));
    return app_end();
}
