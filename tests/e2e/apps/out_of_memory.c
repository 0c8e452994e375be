/*
 * Takes memory until there is no more, gives some back, and goes on; every answer is
 * what the size of the device (or of the slice) says. argv[1]: MiB that must fit.
 */
#include "app.h"

enum { BLOCK_MIB = 32, MOST = 4096 };

int
main(int argc, char **argv)
{
    static CUdeviceptr block[MOST];
    CUmodule module = NULL;
    CUfunction fill;
    CUdeviceptr big = 0;
    size_t free_bytes, total;
    int expected = argc > 1 ? atoi(argv[1]) : 0, count = 0;
    CUresult result;

    app_begin();
    CHECK(cuMemGetInfo(&free_bytes, &total));
    printf("total %zu MiB\n", total >> 20);
    REQUIRE(free_bytes <= total);
    EXPECT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&big, total + 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&big, 0));
    while (count < MOST) {
        result = cuMemAlloc(&block[count], (size_t)BLOCK_MIB << 20);
        if (result != CUDA_SUCCESS)
            break;
        count++;
    }
    printf("after the last block: %s\n", app_error(result));
    REQUIRE(result == CUDA_ERROR_OUT_OF_MEMORY);
    if (expected)
        REQUIRE(count >= (expected - BLOCK_MIB) / BLOCK_MIB &&
                count <= expected / BLOCK_MIB);
    CHECK(cuMemGetInfo(&free_bytes, &total));
    REQUIRE(free_bytes < (size_t)BLOCK_MIB << 20);

    /* Two neighbours are given back: a block of twice the size fits again. */
    CHECK(cuMemFree(block[count - 1]));
    CHECK(cuMemFree(block[0]));
    CHECK(cuMemAlloc(&big, (size_t)2 * BLOCK_MIB << 20));
    fill = app_function(&module, "fill");
    CHECK(app_fill(fill, big, 9, 1 << 20, NULL));
    REQUIRE(app_count_wrong(big, 9, 1 << 20) == 0);
    CHECK(cuMemFree(big));
    for (int i = 1; i < count - 1; i++)
        CHECK(cuMemFree(block[i]));
    CHECK(cuMemAlloc(&big, (size_t)(count - 2) * BLOCK_MIB << 20));
    CHECK(cuMemFree(big));
    return app_end();
}
