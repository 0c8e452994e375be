/*
 * Wrong launches, one a line: the error comes from the launch itself, nothing runs, and
 * the next launch works. What the table expects is what cuda.h and drivers say.
 */
#include "app.h"

/* plain(p, n): p[0] = n.  narrow: at most 64 threads.  exact: 32 of them.  roomy: 40,000
 * bytes of shared memory.  empty: no parameters.  odd(p, byte): 9 bytes of parameters. */
static const char ptx[] =
    ".version 7.8\n.target sm_80\n.address_size 64\n"
    ".visible .entry plain(.param .u64 p, .param .u32 n)\n{\n"
    " .reg .b32 %r; .reg .b64 %d;\n"
    " ld.param.u64 %d, [p]; ld.param.u32 %r, [n];\n"
    " cvta.to.global.u64 %d, %d; st.global.u32 [%d], %r; ret;\n}\n"
    ".visible .entry narrow() .maxntid 64, 1, 1\n{ ret; }\n"
    ".visible .entry exact() .reqntid 32, 1, 1\n{ ret; }\n"
    ".visible .entry roomy()\n{\n .shared .align 4 .b8 room[40000];\n .reg .b32 %r;\n"
    " mov.u32 %r, 1; st.shared.u32 [room], %r; ret;\n}\n"
    ".visible .entry empty()\n{ ret; }\n"
    ".visible .entry odd(.param .u64 p, .param .u8 b)\n{\n"
    " .reg .b32 %r; .reg .b64 %d;\n"
    " ld.param.u64 %d, [p]; ld.param.u8 %r, [b];\n"
    " cvta.to.global.u64 %d, %d; st.global.u32 [%d], %r; ret;\n}\n";

enum kernel { PLAIN, NARROW, EXACT, ROOMY, EMPTY, ODD, KERNELS, NONE };

static const char *const names[KERNELS] = { "plain", "narrow", "exact",
                                            "roomy", "empty",  "odd" };

/* What is given: the pointers, a buffer, both of them, neither. */
enum form { PARAMS, BUFFER, BOTH, NEITHER, SHORT_BUFFER, LONG_BUFFER, BAD_MARK, NO_BUFFER };

#define BAD CUDA_ERROR_INVALID_VALUE
#define HANDLE CUDA_ERROR_INVALID_HANDLE
#define LARGE CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE

static const struct {
    const char *what;
    enum kernel kernel;
    unsigned grid[3], block[3], shared;
    enum form form;
    int cooperative;
    CUresult want;
} table[] = {
    { "nothing wrong", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, PARAMS, 0, 0 },
    { "no blocks in x", PLAIN, {0, 1, 1}, {1, 1, 1}, 0, PARAMS, 0, BAD },
    { "no blocks in y", PLAIN, {1, 0, 1}, {1, 1, 1}, 0, PARAMS, 0, BAD },
    { "no blocks in z", PLAIN, {1, 1, 0}, {1, 1, 1}, 0, PARAMS, 0, BAD },
    { "no threads in x", PLAIN, {1, 1, 1}, {0, 1, 1}, 0, PARAMS, 0, BAD },
    { "no threads in y", PLAIN, {1, 1, 1}, {1, 0, 1}, 0, PARAMS, 0, BAD },
    { "no threads in z", PLAIN, {1, 1, 1}, {1, 1, 0}, 0, PARAMS, 0, BAD },
    { "1,025 threads in x", PLAIN, {1, 1, 1}, {1025, 1, 1}, 0, PARAMS, 0, BAD },
    { "1,025 threads in y", PLAIN, {1, 1, 1}, {1, 1025, 1}, 0, PARAMS, 0, BAD },
    { "65 threads in z", PLAIN, {1, 1, 1}, {1, 1, 65}, 0, PARAMS, 0, BAD },
    { "1,056 threads in all", PLAIN, {1, 1, 1}, {33, 32, 1}, 0, PARAMS, 0, BAD },
    { "threads that overflow", PLAIN, {1, 1, 1}, {65536, 65536, 1}, 0, PARAMS, 0, BAD },
    { "grid past 2^31 in x", PLAIN, {0x80000000, 1, 1}, {1, 1, 1}, 0, PARAMS, 0, BAD },
    { "grid of 65,536 in y", PLAIN, {1, 65536, 1}, {1, 1, 1}, 0, PARAMS, 0, BAD },
    { "grid of 65,536 in z", PLAIN, {1, 1, 65536}, {1, 1, 1}, 0, PARAMS, 0, BAD },
    { "all that shared memory has", PLAIN, {1, 1, 1}, {1, 1, 1}, 48 << 10, PARAMS, 0, 0 },
    { "a byte more of it", PLAIN, {1, 1, 1}, {1, 1, 1}, (48 << 10) + 1, PARAMS, 0, BAD },
    { "what is left of it", ROOMY, {1, 1, 1}, {1, 1, 1}, 9152, PARAMS, 0, 0 },
    { "a byte more than is left", ROOMY, {1, 1, 1}, {1, 1, 1}, 9153, PARAMS, 0, BAD },
    { "shared memory of 4 GiB", ROOMY, {1, 1, 1}, {1, 1, 1}, ~0u, PARAMS, 0, BAD },
    { "as many threads as .maxntid", NARROW, {1, 1, 1}, {64, 1, 1}, 0, PARAMS, 0, 0 },
    { "one more than .maxntid", NARROW, {1, 1, 1}, {65, 1, 1}, 0, PARAMS, 0, BAD },
    { "what .reqntid says", EXACT, {1, 1, 1}, {32, 1, 1}, 0, PARAMS, 0, 0 },
    { "no function", NONE, {1, 1, 1}, {1, 1, 1}, 0, PARAMS, 0, HANDLE },
    { "no function and no blocks", NONE, {0, 1, 1}, {1, 1, 1}, 0, PARAMS, 0, HANDLE },
    { "a buffer", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, BUFFER, 0, 0 },
    { "pointers and a buffer", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, BOTH, 0, BAD },
    { "no parameters", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, NEITHER, 0, BAD },
    { "none, and none wanted", EMPTY, {1, 1, 1}, {1, 1, 1}, 0, NEITHER, 0, 0 },
    { "a buffer that is short", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, SHORT_BUFFER, 0, BAD },
    { "a buffer with padding", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, LONG_BUFFER, 0, 0 },
    { "a buffer as long as needed", ODD, {1, 1, 1}, {1, 1, 1}, 0, BUFFER, 0, 0 },
    { "one a byte shorter", ODD, {1, 1, 1}, {1, 1, 1}, 0, SHORT_BUFFER, 0, BAD },
    { "a list of no meaning", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, BAD_MARK, 0, BAD },
    { "a size and no buffer", PLAIN, {1, 1, 1}, {1, 1, 1}, 0, NO_BUFFER, 0, BAD },
    { "a few blocks together", PLAIN, {4, 1, 1}, {32, 1, 1}, 0, PARAMS, 1, 0 },
    { "too many together", PLAIN, {1 << 20, 1, 1}, {1024, 1, 1}, 0, PARAMS, 1, LARGE },
    { "no blocks together", PLAIN, {1, 0, 1}, {1, 1, 1}, 0, PARAMS, 1, BAD },
    { "no function together", NONE, {1, 1, 1}, {1, 1, 1}, 0, PARAMS, 1, HANDLE },
};

static CUfunction functions[KERNELS];
static CUdeviceptr p;

static CUresult
launch(size_t row, CUstream stream)
{
    const unsigned *grid = table[row].grid, *block = table[row].block;
    CUfunction function = table[row].kernel < KERNELS ? functions[table[row].kernel] : NULL;
    unsigned char packed[64] = {0};
    unsigned n = 7;
    void *params[] = { &p, &n };
    size_t size = table[row].kernel == ODD ? 9 : 12;
    void *extra[] = { CU_LAUNCH_PARAM_BUFFER_POINTER, packed, CU_LAUNCH_PARAM_BUFFER_SIZE,
                      &size, CU_LAUNCH_PARAM_END };
    void **given = NULL, **list = NULL;

    memcpy(packed, &p, 8);
    memcpy(packed + 8, &n, 4);
    switch (table[row].form) {
    case PARAMS:
        given = params;
        break;
    case BOTH:
        given = params;
        list = extra;
        break;
    case NEITHER:
        break;
    case SHORT_BUFFER:
        size--;
        list = extra;
        break;
    case LONG_BUFFER:
        size = 32;
        list = extra;
        break;
    case BAD_MARK:
        extra[2] = (void *)99;
        list = extra;
        break;
    case NO_BUFFER:
        extra[1] = NULL;
        list = extra;
        break;
    default:
        list = extra;
        break;
    }
    if (table[row].cooperative)
        return cuLaunchCooperativeKernel(function, grid[0], grid[1], grid[2], block[0],
                                         block[1], block[2], table[row].shared, stream,
                                         given);
    return cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2],
                          table[row].shared, stream, given, list);
}

/* What no driver tells of a kernel, a server's client hears with the next call that waits. */
static void
other_block_than_required(CUstream stream)
{
    static const unsigned sides[][2] = { {16, 1}, {16, 2} };

    for (int i = 0; i < 2; i++) {
        CUresult result = cuLaunchKernel(functions[EXACT], 1, 1, 1, sides[i][0], sides[i][1],
                                         1, 0, stream, NULL, NULL);

        if (result == CUDA_SUCCESS)
            result = cuStreamSynchronize(stream);
        EXPECT(BAD, result);
        CHECK(cuStreamSynchronize(stream));
    }
}

static CUresult
launch_ex(const CUlaunchConfig *config, CUfunction function)
{
    unsigned n = 7;
    void *params[] = { &p, &n };

    return cuLaunchKernelEx(config, function, params, NULL);
}

/* The form with attributes: the same, and what is wrong with attributes. */
static void
with_attributes(CUstream stream)
{
    CUlaunchAttribute attribute;
    CUlaunchConfig config;
    CUevent timed, gone;
    CUfunction plain = functions[PLAIN];

    memset(&config, 0, sizeof(config));
    memset(&attribute, 0, sizeof(attribute));
    config.gridDimX = config.gridDimY = config.gridDimZ = 1;
    config.blockDimX = config.blockDimY = config.blockDimZ = 1;
    config.hStream = stream;
    CHECK(launch_ex(&config, plain));
    EXPECT(HANDLE, launch_ex(&config, NULL));
    EXPECT(BAD, launch_ex(NULL, plain));
    config.numAttrs = 1;
    EXPECT(BAD, launch_ex(&config, plain));             /* and none there */
    config.attrs = &attribute;
    CHECK(launch_ex(&config, plain));                   /* one to be ignored */
    attribute.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    EXPECT(BAD, launch_ex(&config, plain));             /* of no blocks */
    attribute.value.clusterDim.x = 2;
    attribute.value.clusterDim.y = attribute.value.clusterDim.z = 1;
    EXPECT(CUDA_ERROR_INVALID_CLUSTER_SIZE, launch_ex(&config, plain)); /* grid of 1 */
    config.gridDimX = 64;
    attribute.value.clusterDim.x = 32;
    EXPECT(CUDA_ERROR_INVALID_CLUSTER_SIZE, launch_ex(&config, plain));
    config.gridDimX = 1;
    memset(&attribute, 0, sizeof(attribute));
    attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attribute.value.cooperative = 1;
    CHECK(launch_ex(&config, plain));
    config.gridDimX = 1 << 20;
    EXPECT(LARGE, launch_ex(&config, plain));
    config.gridDimX = 1;
    attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT;
    EXPECT(HANDLE, launch_ex(&config, plain));          /* no event */
    CHECK(cuEventCreate(&timed, CU_EVENT_DISABLE_TIMING));
    gone = timed;
    CHECK(cuEventDestroy_v2(timed));
    attribute.value.programmaticEvent.event = gone;
    EXPECT(HANDLE, launch_ex(&config, plain));
    CHECK(cuStreamSynchronize(stream));
}

/* Who is current, and whose the stream and the function are. */
static void
other_contexts(CUcontext context, CUstream stream)
{
    CUmodule module, gone;
    CUlibrary library;
    CUkernel anywhere;
    CUfunction theirs, lost;
    CUstream their_stream, dead;
    CUcontext other;
    CUdevice device;
    unsigned n = 7;
    void *params[] = { &p, &n };

#define LAUNCH(function, on) cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, on, params, NULL)
    CHECK(cuCtxGetDevice(&device));
    CHECK(cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetKernel(&anywhere, library, "plain"));
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetFunction(&theirs, module, "plain"));
    CHECK(cuStreamCreate(&their_stream, CU_STREAM_NON_BLOCKING));
    printf("a function and another context's stream: %s\n",
           app_error(LAUNCH(theirs, stream)));
    printf("another context's function and a stream: %s\n",
           app_error(LAUNCH(functions[PLAIN], their_stream)));
    printf("another context's function, the current stream: %s\n",
           app_error(LAUNCH(functions[PLAIN], NULL)));
    CHECK(LAUNCH((CUfunction)anywhere, stream));        /* a library's: the stream says where */
    CHECK(LAUNCH((CUfunction)anywhere, their_stream));
    CHECK(LAUNCH((CUfunction)anywhere, NULL));
    printf("function and stream of a context that is not current: %s\n",
           app_error(LAUNCH(functions[PLAIN], stream)));
    CHECK(cuCtxSetCurrent(NULL));       /* takes the topmost context away */
    CHECK(cuCtxSetCurrent(NULL));
    printf("nothing current, and a stream: %s\n", app_error(LAUNCH(theirs, their_stream)));
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, LAUNCH(theirs, NULL));
    CHECK(cuCtxSetCurrent(other));
    CHECK(cuCtxSynchronize());
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuCtxSetCurrent(context));
    printf("a stream of a context that is gone: %s\n",
           app_error(LAUNCH(functions[PLAIN], their_stream)));
    printf("a function of a context that is gone: %s\n", app_error(LAUNCH(theirs, NULL)));

    CHECK(cuStreamCreate(&dead, 0));
    CHECK(cuStreamDestroy_v2(dead));
    printf("a stream that is gone: %s\n", app_error(LAUNCH(functions[PLAIN], dead)));
    CHECK(cuModuleLoadData(&gone, ptx));
    CHECK(cuModuleGetFunction(&lost, gone, "plain"));
    CHECK(cuModuleUnload(gone));
    printf("a function of a module that is gone: %s\n", app_error(LAUNCH(lost, NULL)));
    EXPECT(HANDLE, LAUNCH((CUfunction)(void *)dead, NULL));
#undef LAUNCH
}

int
main(void)
{
    CUcontext context = app_begin();
    CUmodule module;
    CUstream stream;

    CHECK(cuModuleLoadData(&module, ptx));
    for (int i = 0; i < KERNELS; i++)
        CHECK(cuModuleGetFunction(&functions[i], module, names[i]));
    CHECK(cuMemAlloc(&p, 4096));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        CUresult result;

        CHECK(cuMemsetD32(p, 0, 16));
        CHECK(cuCtxSynchronize());
        result = launch(i, stream);
        printf("%s: %s\n", table[i].what, app_error(result));
        app_expect(result, table[i].want, table[i].what, __LINE__);
        CHECK(cuStreamSynchronize(stream));
        if (table[i].kernel == PLAIN)   /* ran, or did not */
            REQUIRE(app_count_wrong(p, result == CUDA_SUCCESS ? 7 : 0, 1) == 0);
    }
    other_block_than_required(stream);
    with_attributes(stream);
    other_contexts(context, stream);
    CHECK(cuCtxSynchronize());
    return app_end();
}
