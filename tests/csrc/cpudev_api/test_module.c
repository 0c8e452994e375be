/* Code on the CPU device: modules, libraries, launches, linking, faults. */
#include "driver.h"

static const char add_ptx[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .global .align 4 .u32 bias = 100;\n"
    ".visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)\n"
    "{\n .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %rd<12>;\n"
    " ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c];\n"
    " ld.param.u32 %r1, [n];\n"
    " mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;\n"
    " mad.lo.s32 %r5, %r2, %r3, %r4; setp.ge.s32 %p1, %r5, %r1; @%p1 bra DONE;\n"
    " cvta.to.global.u64 %rd1, %rd1; cvta.to.global.u64 %rd2, %rd2;\n"
    " cvta.to.global.u64 %rd3, %rd3; mul.wide.s32 %rd4, %r5, 4;\n"
    " add.s64 %rd5, %rd1, %rd4; add.s64 %rd6, %rd2, %rd4; add.s64 %rd7, %rd3, %rd4;\n"
    " ld.global.u32 %r6, [%rd5]; ld.global.u32 %r7, [%rd6]; add.s32 %r8, %r6, %r7;\n"
    " ld.global.u32 %r6, [bias]; add.s32 %r8, %r8, %r6;\n"
    " st.global.u32 [%rd7], %r8;\nDONE: ret;\n}\n"
    ".visible .entry poke(.param .u64 p)\n"
    "{\n .reg .b64 %rd<3>; .reg .b32 %r<2>; ld.param.u64 %rd1, [p];\n"
    " mov.u32 %r1, 1; st.global.u32 [%rd1], %r1; ret;\n}\n"
    ".visible .entry bounded() .maxntid 128, 1, 1 { ret; }\n";

static const char caller_ptx[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".extern .func (.param .b32 out) twice(.param .b32 in);\n"
    ".visible .entry call_it(.param .u64 p)\n"
    "{\n .reg .b64 %rd<3>; .reg .b32 %r<4>; ld.param.u64 %rd1, [p];\n"
    " ld.global.u32 %r1, [%rd1];\n"
    " { .param .b32 x; st.param.b32 [x], %r1; .param .b32 y;\n"
    " call.uni (y), twice, (x); ld.param.b32 %r2, [y]; }\n"
    " st.global.u32 [%rd1], %r2; ret;\n}\n";

static const char callee_ptx[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .func (.param .b32 out) twice(.param .b32 in)\n"
    "{\n .reg .b32 %r<3>; ld.param.b32 %r1, [in]; add.s32 %r2, %r1, %r1;\n"
    " st.param.b32 [out], %r2; ret;\n}\n";

enum { N = 1000 };

/* Runs `add` over fresh vectors and checks each sum. */
static void
run_add(CUfunction add, CUstream s, unsigned int bias)
{
    unsigned int h[3][N], i, n = N;
    CUdeviceptr d[3];
    void *params[] = {&d[0], &d[1], &d[2], &n};

    for (i = 0; i < N; i++) {
        h[0][i] = i;
        h[1][i] = 3 * i;
    }
    for (i = 0; i < 3; i++)
        OK(cuMemAlloc_v2(&d[i], sizeof(h[0])));
    OK(cuMemcpyHtoD_v2(d[0], h[0], sizeof(h[0])));
    OK(cuMemcpyHtoD_v2(d[1], h[1], sizeof(h[1])));
    OK(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, s, params, NULL));
    OK(cuStreamSynchronize(s));
    OK(cuMemcpyDtoH_v2(h[2], d[2], sizeof(h[2])));
    for (i = 0; i < N; i++)
        CHECK_EQ(h[2][i], 4 * i + bias);
    for (i = 0; i < 3; i++)
        OK(cuMemFree_v2(d[i]));
}

static void
test_module_runs(void)
{
    unsigned int bias = 5, count = 0;
    size_t size, offset, bytes;
    CUfunction add, all[4];
    CUdeviceptr global;
    CUmodule module, of;
    const char *name;
    int value;

    start();
    OK(cuModuleLoadData(&module, add_ptx));
    OK(cuModuleGetFunction(&add, module, "add"));
    FAILS(NOT_FOUND, cuModuleGetFunction(&all[0], module, "no such"));
    OK(cuModuleGetFunctionCount(&count, module));
    CHECK_EQ(count, 3);
    OK(cuModuleEnumerateFunctions(all, 4, module));
    OK(cuFuncGetName(&name, add));
    CHECK_STR(name, "add");
    OK(cuFuncGetModule(&of, add));
    CHECK(of == module);
    OK(cuFuncGetParamInfo(add, 3, &offset, &size));
    CHECK(offset == 24 && size == 4);
    FAILS(INVALID_VALUE, cuFuncGetParamInfo(add, 4, &offset, &size));
    OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_PTX_VERSION, add));
    CHECK_EQ(value, 75);
    run_add(add, NULL, 100);
    OK(cuModuleGetGlobal_v2(&global, &bytes, module, "bias"));
    CHECK_EQ(bytes, 4);
    OK(cuMemcpyHtoD_v2(global, &bias, 4));
    run_add(add, NULL, 5);
    OK(cuModuleUnload(module));
    FAILS(INVALID_HANDLE, cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    FAILS(INVALID_HANDLE, cuModuleUnload(module));
}

static void
test_library_kernels_are_functions_too(void)
{
    CUlibrary library, of;
    CUkernel kernel, other;
    CUfunction function;
    CUdeviceptr global;
    CUstream s;
    unsigned int n;
    size_t bytes;
    int value;

    OK(cuInit(0));
    OK(cuLibraryLoadData(&library, add_ptx, NULL, NULL, 0, NULL, NULL, 0));
    OK(cuLibraryGetKernel(&kernel, library, "add"));
    OK(cuLibraryGetKernelCount(&n, library));
    CHECK_EQ(n, 3);
    OK(cuKernelGetLibrary(&of, kernel));
    CHECK(of == library);
    start();
    OK(cuStreamCreate(&s, 0));
    run_add((CUfunction)kernel, s, 100);
    OK(cuKernelGetFunction(&function, kernel));
    CHECK((void *)function != (void *)kernel);
    run_add(function, s, 100);
    OK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536,
                            kernel, 0));
    OK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                            kernel, 0));
    CHECK_EQ(value, 65536);
    OK(cuLibraryGetGlobal(&global, &bytes, library, "bias"));
    /* Kernels outlive a reset of the context, memory does not. */
    OK(cuDevicePrimaryCtxReset_v2(0));
    start();
    run_add((CUfunction)kernel, NULL, 100);
    OK(cuLibraryUnload(library));
    FAILS(INVALID_HANDLE, cuKernelGetLibrary(&of, kernel));
    FAILS(INVALID_HANDLE, cuLibraryGetKernel(&other, library, "add"));
}

static void
test_launches_are_checked(void)
{
    CUfunction add, bounded;
    CUmodule module;
    CUdeviceptr d = 0;
    unsigned int n = 0;
    void *params[] = {&d, &d, &d, &n};
    char packed[28] = {0};
    size_t size = sizeof(packed);
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, packed,
                     CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};

    start();
    OK(cuModuleLoadData(&module, add_ptx));
    OK(cuModuleGetFunction(&add, module, "add"));
    OK(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    OK(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
    size = 20;
    FAILS(INVALID_VALUE, cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, extra));
    FAILS(INVALID_VALUE, cuLaunchKernel(add, 0, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    FAILS(INVALID_VALUE,
          cuLaunchKernel(add, 1, 1, 1, 1025, 1, 1, 0, NULL, params, NULL));
    FAILS(INVALID_VALUE,
          cuLaunchKernel(add, 1, 65536, 1, 1, 1, 1, 0, NULL, params, NULL));
    FAILS(INVALID_VALUE,
          cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 50000, NULL, params, NULL));
    FAILS(INVALID_VALUE, cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    FAILS(INVALID_HANDLE,
          cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    OK(cuModuleGetFunction(&bounded, module, "bounded"));
    OK(cuLaunchKernel(bounded, 1, 1, 1, 128, 1, 1, 0, NULL, NULL, NULL));
    FAILS(INVALID_VALUE,
          cuLaunchKernel(bounded, 1, 1, 1, 129, 1, 1, 0, NULL, NULL, NULL));
    FAILS(INVALID_HANDLE,
          cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, (CUstream)0x1234, params, NULL));
    FAILS(COOPERATIVE_LAUNCH_TOO_LARGE,
          cuLaunchCooperativeKernel(add, 100000, 1, 1, 32, 1, 1, 0, NULL, params));
    OK(cuLaunchCooperativeKernel(add, 2, 1, 1, 32, 1, 1, 0, NULL, params));
    OK(cuCtxSynchronize());
}

static void
test_faults_stick_and_the_device_is_lost(void)
{
    CUfunction poke;
    CUmodule module;
    CUdeviceptr d, wild = 0x1000;
    void *params[] = {&wild};
    CUcontext context;

    setenv("FD_LOG", "off", 1);
    start();
    OK(cuModuleLoadData(&module, add_ptx));
    OK(cuModuleGetFunction(&poke, module, "poke"));
    OK(cuMemAlloc_v2(&d, 100));
    wild = d + 96;
    OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    OK(cuCtxSynchronize());
    wild = d + 100; /* exact to the byte */
    OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    FAILS(ILLEGAL_ADDRESS, cuCtxSynchronize());
    FAILS(ILLEGAL_ADDRESS, cuMemAlloc_v2(&d, 100));
    FAILS(ILLEGAL_ADDRESS, cuStreamQuery(NULL));
    FAILS(ILLEGAL_ADDRESS,
          cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    OK(cuDevicePrimaryCtxReset_v2(0));
    FAILS(CONTEXT_IS_DESTROYED, cuMemAlloc_v2(&d, 100));
    FAILS(ILLEGAL_ADDRESS, cuDevicePrimaryCtxRetain(&context, 0));
    FAILS(ILLEGAL_ADDRESS, cuCtxCreate_v2(&context, 0, 0));
    OK(cuDevicePrimaryCtxRelease_v2(0));
}

static void
test_linker_joins_ptx(void)
{
    char info[200], error[200];
    CUjit_option options[] = {
        CU_JIT_INFO_LOG_BUFFER,
        CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        CU_JIT_ERROR_LOG_BUFFER,
        CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    };
    void *values[] = {info, (void *)sizeof(info), error, (void *)sizeof(error)};
    unsigned int word = 21;
    CUfunction call_it;
    CUlinkState link;
    CUmodule module;
    CUdeviceptr d;
    void *params[] = {&d}, *file, *copy;
    size_t size;

    start();
    OK(cuLinkCreate_v2(4, options, values, &link));
    OK(cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, (void *)caller_ptx, sizeof(caller_ptx),
                        "caller", 0, NULL, NULL));
    OK(cuLinkAddData_v2(link, CU_JIT_INPUT_PTX, (void *)callee_ptx, sizeof(callee_ptx),
                        "callee", 0, NULL, NULL));
    OK(cuLinkComplete(link, &file, &size));
    CHECK_BYTES(file, "\177ELF", 4);
    copy = malloc(size);
    memcpy(copy, file, size);
    OK(cuLinkDestroy(link));
    OK(cuModuleLoadData(&module, copy));
    free(copy);
    OK(cuModuleGetFunction(&call_it, module, "call_it"));
    OK(cuMemAlloc_v2(&d, 4));
    OK(cuMemcpyHtoD_v2(d, &word, 4));
    OK(cuLaunchKernel(call_it, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    OK(cuMemcpyDtoH_v2(&word, d, 4));
    CHECK_EQ(word, 42);
}

static void
test_bad_code_is_refused(void)
{
    static const char broken[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                 ".visible .entry f( { bar }\n";
    static const uint32_t cubin[20] = {0x464c457f};
    char error[400] = "";
    CUjit_option options[] = {
        CU_JIT_ERROR_LOG_BUFFER,
        CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    };
    void *values[] = {error, (void *)sizeof(error)};
    CUmodule module;

    setenv("FD_LOG", "off", 1);
    start();
    FAILS(INVALID_PTX, cuModuleLoadDataEx(&module, broken, 2, options, values));
    CHECK(error[0] != '\0');
    CHECK((size_t)values[1] > 0 && (size_t)values[1] < sizeof(error));
    FAILS(NO_BINARY_FOR_GPU, cuModuleLoadData(&module, cubin));
    FAILS(INVALID_IMAGE, cuModuleLoadData(&module, "hello"));
    FAILS(FILE_NOT_FOUND, cuModuleLoad(&module, "/no/such/file"));
}

static void
test_kernels_in_graphs(void)
{
    unsigned int word;
    CUDA_KERNEL_NODE_PARAMS p;
    CUgraphNode node;
    CUgraphExec exec;
    CUfunction poke;
    CUmodule module;
    CUgraph graph;
    CUdeviceptr d, where;
    void *params[] = {&where};
    CUstream s;
    size_t n = 1;

    start();
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    OK(cuModuleLoadData(&module, add_ptx));
    OK(cuModuleGetFunction(&poke, module, "poke"));
    OK(cuMemAlloc_v2(&d, 8));
    OK(cuMemsetD32_v2(d, 0, 2));
    OK(cuStreamSynchronize(NULL));
    where = d;
    OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, s, params, NULL));
    OK(cuStreamEndCapture(s, &graph));
    where = 0; /* parameters were taken at capture */
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphLaunch(exec, s));
    OK(cuMemcpyDtoHAsync_v2(&word, d, 4, s));
    CHECK_EQ(word, 1);
    OK(cuGraphGetNodes(graph, &node, &n));
    OK(cuGraphKernelNodeGetParams_v2(node, &p));
    CHECK(p.func == poke && p.blockDimX == 1);
    CHECK_EQ(*(CUdeviceptr *)p.kernelParams[0], d);
    where = d + 4;
    p.kernelParams = params;
    OK(cuGraphExecKernelNodeSetParams_v2(exec, node, &p));
    OK(cuGraphLaunch(exec, s));
    OK(cuMemcpyDtoHAsync_v2(&word, d + 4, 4, s));
    CHECK_EQ(word, 1);
}

static void
test_occupancy(void)
{
    CUfunction add;
    CUmodule module;
    int n, grid, block;
    size_t bytes;

    start();
    OK(cuModuleLoadData(&module, add_ptx));
    OK(cuModuleGetFunction(&add, module, "add"));
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, add, 256, 0));
    CHECK(n >= 1 && n <= 8); /* by threads 8, registers may allow fewer */
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, add, 32, 0));
    CHECK(n >= 1 && n <= 32);
    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, add, 32, 48000));
    CHECK_EQ(n, 3);
    OK(cuOccupancyMaxPotentialBlockSize(&grid, &block, add, NULL, 0, 0));
    CHECK(block > 0 && block % 32 == 0 && block <= 1024);
    CHECK(grid >= 2 && grid % 2 == 0);
    OK(cuOccupancyAvailableDynamicSMemPerBlock(&bytes, add, 2, 128));
    CHECK(bytes > 48 << 10);
}

int
main(void)
{
    int failed = 0;

    RUN(test_module_runs);
    RUN(test_library_kernels_are_functions_too);
    RUN(test_launches_are_checked);
    RUN(test_faults_stick_and_the_device_is_lost);
    RUN(test_linker_joins_ptx);
    RUN(test_bad_code_is_refused);
    RUN(test_kernels_in_graphs);
    RUN(test_occupancy);
    return failed;
}
