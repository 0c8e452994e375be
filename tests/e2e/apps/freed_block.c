/*
 * A block that was freed while a kernel that reads it was still queued is not
 * overwritten: neither by the next owner of the address nor by anything else.
 */
#include "app.h"

enum { N = 1 << 18, ROUNDS = 8 };

int
main(void)
{
    CUmodule module = NULL;
    CUfunction fill, copy;
    CUstream slow, fast;
    unsigned wrong = 0;

    app_begin();
    fill = app_function(&module, "fill");
    copy = app_function(&module, "copy");
    CHECK(cuStreamCreate(&slow, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&fast, CU_STREAM_NON_BLOCKING));
    for (int round = 0; round < ROUNDS; round++) {
        CUdeviceptr a, b, next[4];

        CHECK(cuMemAlloc(&a, N * 4));
        CHECK(cuMemAlloc(&b, N * 4));
        CHECK(app_fill(fill, a, 1000 + round, N, slow));
        CHECK(cuLaunchHostFunc(slow, app_nap, (void *)(size_t)60));
        CHECK(app_copy(copy, b, a, N, slow));
        CHECK(cuMemFree(a));            /* a driver may wait here, or not */
        for (int i = 0; i < 4; i++) {
            CHECK(cuMemAlloc(&next[i], N * 4));
            CHECK(app_fill(fill, next[i], 77, N, fast));
        }
        CHECK(cuStreamSynchronize(fast));
        CHECK(cuStreamSynchronize(slow));
        wrong += app_count_wrong(b, 1000 + round, N);
        for (int i = 0; i < 4; i++) {
            wrong += app_count_wrong(next[i], 77, N);
            CHECK(cuMemFree(next[i]));
        }
        CHECK(cuMemFree(b));
    }
    printf("%d rounds, %u wrong words\n", ROUNDS, wrong);
    REQUIRE(wrong == 0);
    return app_end();
}
