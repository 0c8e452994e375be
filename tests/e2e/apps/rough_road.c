/*
 * Counts what arrives: kernels that add to a number on the device, large copies both ways,
 * functions of the host, small copies. Whatever happens to connections meanwhile, each is
 * done once and in its place.
 *
 *   rough_road [ROUNDS [SECONDS]]     SECONDS: so long it asks for nothing, half way
 */
#include "app.h"

enum { WORDS = 1 << 20, LAUNCHES = 150 };

static const char count_ptx[] =
    ".version 7.0\n.target sm_52\n.address_size 64\n"
    ".visible .entry count(.param .u64 p, .param .u64 by)\n{\n"
    " .reg .b64 %d<3>;\n"
    " ld.param.u64 %d1, [p]; ld.param.u64 %d2, [by];\n"
    " cvta.to.global.u64 %d1, %d1; red.global.add.u64 [%d1], %d2; ret;\n}\n";

static unsigned functions;

static void
called(void *user)
{
    functions += (unsigned)(size_t)user;
}

static void
launch(CUfunction count, CUdeviceptr number, unsigned long long by, CUstream stream)
{
    void *params[] = { &number, &by };

    CHECK(cuLaunchKernel(count, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
}

static unsigned
wrong_words(const unsigned *words, unsigned seed)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < WORDS; i++)
        wrong += words[i] != seed * 2654435761u + i;
    return wrong;
}

int
main(int argc, char **argv)
{
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 4;
    unsigned *up = malloc(WORDS * sizeof(*up)), *down = malloc(WORDS * sizeof(*down));
    unsigned long long want = 0, got = 0;
    CUdeviceptr number, bytes;
    CUfunction count = NULL;
    CUmodule module;
    CUstream stream;

    app_begin();
    CHECK(cuModuleLoadData(&module, count_ptx));
    CHECK(cuModuleGetFunction(&count, module, "count"));
    CHECK(cuStreamCreate(&stream, 0));
    CHECK(cuMemAlloc(&number, sizeof(want)));
    CHECK(cuMemAlloc(&bytes, WORDS * sizeof(*up)));
    CHECK(cuMemcpyHtoD(number, &want, sizeof(want)));
    for (unsigned round = 0; round < rounds; round++) {
        if (argc > 2 && round == rounds / 2) {
            puts("asks for nothing");
            app_sleep_ms(1000 * atoi(argv[2]));
        }
        for (unsigned i = 0; i < LAUNCHES; i++) {
            launch(count, number, i + 1, stream);
            want += i + 1;
        }
        CHECK(cuLaunchHostFunc(stream, called, (void *)(size_t)(round + 1)));
        for (unsigned i = 0; i < WORDS; i++)
            up[i] = round * 2654435761u + i;
        CHECK(cuMemcpyHtoDAsync(bytes, up, WORDS * sizeof(*up), stream));
        memset(down, 0, WORDS * sizeof(*down));
        CHECK(cuMemcpyDtoHAsync(down, bytes, WORDS * sizeof(*down), stream));
        CHECK(cuStreamSynchronize(stream));
        REQUIRE(wrong_words(down, round) == 0);
        CHECK(cuMemcpyDtoH(&got, number, sizeof(got)));
        REQUIRE(got == want);
    }
    printf("%llu counted, %u of functions\n", got, functions);
    CHECK(cuMemFree(bytes));
    CHECK(cuMemFree(number));
    return app_end();
}
