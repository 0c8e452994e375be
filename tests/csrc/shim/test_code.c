/* Images, functions, launches, links and graphs against a real worker. */

#include "shim/shim.h"
#include "worker.h"

/* saxpy (with a variable it adds), and a kernel without parameters. */
static const char text[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .global .align 4 .u32 bonus = 5;\n"
    ".visible .entry add(.param .u64 out, .param .u32 value, .param .u32 n)\n"
    "{\n"
    "  .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %rd<4>;\n"
    "  ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [value]; ld.param.u32 %r2, [n];\n"
    "  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;\n"
    "  mad.lo.u32 %r6, %r3, %r4, %r5;\n"
    "  setp.ge.u32 %p, %r6, %r2;\n"
    "  @%p ret;\n"
    "  cvta.to.global.u64 %rd1, %rd1;\n"
    "  mul.wide.u32 %rd2, %r6, 4; add.u64 %rd1, %rd1, %rd2;\n"
    "  ld.global.u32 %r7, [bonus]; add.u32 %r1, %r1, %r7;\n"
    "  ld.global.u32 %r7, [%rd1]; add.u32 %r7, %r7, %r1; st.global.u32 [%rd1], %r7;\n"
    "  ret;\n"
    "}\n"
    ".visible .entry nothing() { ret; }\n";

enum { N = 1000 };

static CUdeviceptr
zeroes(void)
{
    CUdeviceptr memory;

    CHECK_EQ(cuMemAlloc_v2(&memory, N * 4), 0);
    CHECK_EQ(cuMemsetD32_v2(memory, 0, N), 0);
    return memory;
}

static void
check_all(CUdeviceptr memory, uint32_t wanted)
{
    static uint32_t got[N];

    CHECK_EQ(cuMemcpyDtoH_v2(got, memory, sizeof(got)), 0);
    for (int i = 0; i < N; i++)
        CHECK_EQ(got[i], wanted);
}

static void
test_module_is_known_after_one_answer(void)
{
    CUfunction add, nothing, all[2];
    CUdeviceptr memory, bonus;
    CUmodule module, of;
    const char *name;
    size_t offset, size;
    uint64_t before;
    unsigned count;
    uint32_t value = 3, n = N, more = 100;
    void *params[] = {&memory, &value, &n};
    int most;

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuModuleLoadData(&module, text), 0);
    before = fdc_session_at(0)->waits;
    CHECK_EQ(cuModuleGetFunction(&add, module, "add"), 0);
    CHECK_EQ(cuModuleGetFunction(&nothing, module, "nothing"), 0);
    CHECK_EQ(cuModuleGetFunction(&nothing, module, "nowhere"), CUDA_ERROR_NOT_FOUND);
    CHECK_EQ(cuModuleGetFunctionCount(&count, module), 0);
    CHECK_EQ(count, 2);
    CHECK_EQ(cuModuleEnumerateFunctions(all, 2, module), 0);
    CHECK(all[0] == add || all[1] == add);
    CHECK_EQ(cuFuncGetName(&name, add), 0);
    CHECK_STR(name, "add");
    CHECK_EQ(cuFuncGetParamInfo(add, 1, &offset, &size), 0);
    CHECK_EQ(offset, 8);
    CHECK_EQ(size, 4);
    CHECK_EQ(cuFuncGetParamInfo(add, 3, &offset, &size), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, add),
             0);
    CHECK(most > 0);
    CHECK_EQ(cuFuncGetModule(&of, add), 0);
    CHECK(of == module);
    CHECK_EQ(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL), 0);
    CHECK_EQ(fdc_session_at(0)->waits, before); /* all of it without asking */
    check_all(memory, 8);
    CHECK_EQ(cuModuleGetGlobal_v2(&bonus, &size, module, "bonus"), 0);
    CHECK_EQ(size, 4);
    CHECK_EQ(cuMemcpyHtoD_v2(bonus, &more, 4), 0);
    CHECK_EQ(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL), 0);
    check_all(memory, 111);
    CHECK_EQ(cuModuleUnload(module), 0);
    CHECK_EQ(cuModuleUnload(module), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuMemcpyHtoD_v2(bonus, &more, 4), CUDA_ERROR_INVALID_VALUE);
    worker_exit();
}

static void
test_wrong_launches_are_told_at_once(void)
{
    struct {
        uint64_t memory;
        uint32_t value, n;
    } packed;
    size_t size = sizeof(packed);
    void *extra[] = {
        CU_LAUNCH_PARAM_BUFFER_POINTER,
        &packed,
        CU_LAUNCH_PARAM_BUFFER_SIZE,
        &size,
        CU_LAUNCH_PARAM_END,
    };
    CUdeviceptr memory;
    uint32_t value = 1, n = N;
    void *params[] = {&memory, &value, &n};
    CUmodule module;
    CUfunction add;
    uint64_t before;

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuModuleLoadData(&module, text), 0);
    CHECK_EQ(cuModuleGetFunction(&add, module, "add"), 0);
    before = fdc_session_at(0)->messages;
    CHECK_EQ(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(
        cuLaunchKernel((CUfunction)module, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
        CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuLaunchKernel(add, 0, 1, 1, 1, 1, 1, 0, NULL, params, NULL),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchKernel(add, 1, 70000, 1, 1, 1, 1, 0, NULL, params, NULL),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchKernel(add, 1, 1, 1, 1025, 1, 1, 0, NULL, params, NULL),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 1 << 20, NULL, params, NULL),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, NULL, params, extra),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, (CUstream)0x1230, params, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuLaunchCooperativeKernel(add, 1 << 20, 1, 1, 256, 1, 1, 0, NULL, params),
             CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    CHECK_EQ(fdc_session_at(0)->messages, before);
    packed.memory = memory;
    packed.value = 2;
    packed.n = N;
    CHECK_EQ(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, NULL, NULL, extra), 0);
    check_all(memory, 7);
    worker_exit();
}

static void
test_library_and_its_kernels(void)
{
    CUlibrary library, of;
    CUkernel kernel, again;
    CUdeviceptr memory, bonus;
    uint32_t value = 4, n = N;
    void *params[] = {&memory, &value, &n};
    CUfunction function;
    CUmodule module;
    size_t size;

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuLibraryLoadData(&library, text, NULL, NULL, 0, NULL, NULL, 0), 0);
    CHECK_EQ(cuLibraryGetKernel(&kernel, library, "add"), 0);
    CHECK_EQ(cuLibraryGetKernel(&again, library, "add"), 0);
    CHECK(kernel == again);
    CHECK_EQ(cuKernelGetLibrary(&of, kernel), 0);
    CHECK(of == library);
    CHECK_EQ(cuKernelGetFunction(&function, kernel), 0);
    CHECK((void *)function != (void *)kernel);
    CHECK_EQ(
        cuLaunchKernel((CUfunction)kernel, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL),
        0);
    CHECK_EQ(cuLaunchKernel(function, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL), 0);
    CHECK_EQ(cuLibraryGetModule(&module, library), 0);
    CHECK_EQ(cuModuleGetFunction(&function, module, "add"), 0);
    CHECK_EQ(cuLaunchKernel(function, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL), 0);
    check_all(memory, 27);
    CHECK_EQ(cuLibraryGetGlobal(&bonus, &size, library, "bonus"), 0);
    CHECK_EQ(cuLibraryGetGlobal(&bonus, &size, library, "malus"), CUDA_ERROR_NOT_FOUND);
    CHECK_EQ(cuLibraryUnload(library), 0);
    CHECK_EQ(
        cuLaunchKernel((CUfunction)kernel, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL),
        CUDA_ERROR_INVALID_HANDLE);
    worker_exit();
}

static void
test_code_that_does_not_compile_gives_its_log(void)
{
    char error[4096] = "", name[] = "/tmp/fdc-test-XXXXXX";
    CUjit_option options[] = {
        CU_JIT_ERROR_LOG_BUFFER,
        CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    };
    void *values[] = {error, (void *)sizeof(error)};
    CUmodule module;
    int file;

    worker_context();
    CHECK(cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_70\n.entry broken( {",
                             2, options, values) != 0);
    CHECK(strlen(error) > 0);
    CHECK_EQ(cuModuleLoad(&module, "/nonexistent/file.ptx"), CUDA_ERROR_FILE_NOT_FOUND);
    CHECK_EQ(cuModuleLoadData(&module, NULL), CUDA_ERROR_INVALID_VALUE);
    file = mkstemp(name);
    CHECK_EQ(write(file, text, strlen(text)), (ssize_t)strlen(text));
    close(file);
    CHECK_EQ(cuModuleLoad(&module, name), 0);
    unlink(name);
    worker_exit();
}

static void
test_linked_image_can_be_loaded(void)
{
    uint32_t value = 6, n = N;
    CUdeviceptr memory;
    void *params[] = {&memory, &value, &n};
    CUlinkState state;
    CUmodule module;
    CUfunction add;
    void *image, *copy;
    size_t size;

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuLinkCreate_v2(0, NULL, NULL, &state), 0);
    CHECK_EQ(cuLinkAddData_v2(state, CU_JIT_INPUT_PTX, (void *)(uintptr_t)text,
                              sizeof(text), "a name", 0, NULL, NULL),
             0);
    CHECK_EQ(cuLinkComplete(state, &image, &size), 0);
    copy = malloc(size);
    memcpy(copy, image, size);
    CHECK_EQ(cuLinkDestroy(state), 0);
    CHECK_EQ(cuLinkDestroy(state), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuModuleLoadData(&module, copy), 0);
    free(copy);
    CHECK_EQ(cuModuleGetFunction(&add, module, "add"), 0);
    CHECK_EQ(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, NULL, params, NULL), 0);
    check_all(memory, 11);
    worker_exit();
}

static void
count_up(void *user)
{
    __atomic_add_fetch((uint32_t *)user, 1, __ATOMIC_RELAXED);
}

static void
test_graph_of_every_kind_of_node(void)
{
    CUgraphNode set, copy, kernel, host, empty, nodes[8], from[8], to[8], found;
    CUDA_MEMSET_NODE_PARAMS setting = {.elementSize = 4, .width = N, .height = 1};
    CUDA_KERNEL_NODE_PARAMS launch =
                                {
                                    .gridDimX = 4,
                                    .gridDimY = 1,
                                    .gridDimZ = 1,
                                    .blockDimX = 256,
                                    .blockDimY = 1,
                                    .blockDimZ = 1,
                                },
                            again;
    CUDA_MEMCPY3D copying = {
        .srcMemoryType = CU_MEMORYTYPE_DEVICE,
        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
        .WidthInBytes = N * 4,
        .Height = 1,
        .Depth = 1,
    };
    CUgraphExecUpdateResultInfo info;
    CUDA_HOST_NODE_PARAMS call = {count_up, NULL};
    uint32_t value = 1, n = N, called = 0;
    CUgraph graph, clone;
    CUgraphNodeType type;
    CUgraphExec exec;
    CUdeviceptr a, b;
    void *params[] = {&b, &value, &n};
    CUcontext context = worker_context();
    CUmodule module;
    CUstream stream;
    size_t count;

    a = zeroes();
    b = zeroes();
    CHECK_EQ(cuModuleLoadData(&module, text), 0);
    CHECK_EQ(cuModuleGetFunction(&launch.func, module, "add"), 0);
    launch.kernelParams = params;
    setting.dst = a;
    setting.value = 10;
    copying.srcDevice = a;
    copying.dstDevice = b;
    call.userData = &called;
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(cuGraphCreate(&graph, 0), 0);
    CHECK_EQ(cuGraphAddMemsetNode(&set, graph, NULL, 0, &setting, context), 0);
    CHECK_EQ(cuGraphAddMemcpyNode(&copy, graph, &set, 1, &copying, context), 0);
    CHECK_EQ(cuGraphAddKernelNode_v2(&kernel, graph, &copy, 1, &launch), 0);
    CHECK_EQ(cuGraphAddHostNode(&host, graph, &kernel, 1, &call), 0);
    CHECK_EQ(cuGraphAddEmptyNode(&empty, graph, NULL, 0), 0);
    CHECK_EQ(cuGraphAddDependencies(graph, &empty, &set, 1), 0);
    value = 77; /* taken when the node was made */
    CHECK_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(cuGraphLaunch(exec, stream), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    CHECK_EQ(called, 3);
    check_all(b, 16);

    CHECK_EQ(cuGraphGetNodes(graph, NULL, &count), 0);
    CHECK_EQ(count, 5);
    count = 8;
    CHECK_EQ(cuGraphGetNodes(graph, nodes, &count), 0);
    CHECK_EQ(count, 5);
    for (size_t i = 0; i < 5; i++)
        CHECK(nodes[i] == set || nodes[i] == copy || nodes[i] == kernel ||
              nodes[i] == host || nodes[i] == empty);
    count = 8;
    CHECK_EQ(cuGraphGetRootNodes(graph, nodes, &count), 0);
    CHECK_EQ(count, 1);
    CHECK(nodes[0] == empty);
    count = 8;
    CHECK_EQ(cuGraphGetEdges(graph, from, to, &count), 0);
    CHECK_EQ(count, 4);
    count = 8;
    CHECK_EQ(cuGraphNodeGetDependencies(kernel, nodes, &count), 0);
    CHECK_EQ(count, 1);
    CHECK(nodes[0] == copy);
    CHECK_EQ(cuGraphNodeGetType(kernel, &type), 0);
    CHECK_EQ(type, CU_GRAPH_NODE_TYPE_KERNEL);
    CHECK_EQ(cuGraphKernelNodeGetParams_v2(kernel, &again), 0);
    CHECK_EQ(*(uint32_t *)again.kernelParams[1], 1);

    value = 20;
    CHECK_EQ(cuGraphExecKernelNodeSetParams_v2(exec, kernel, &launch), 0);
    CHECK_EQ(cuGraphLaunch(exec, stream), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    check_all(b, 35);
    CHECK_EQ(cuGraphClone(&clone, graph), 0);
    CHECK_EQ(cuGraphNodeFindInClone(&found, kernel, clone), 0);
    CHECK(found != kernel);
    value = 30;
    CHECK_EQ(cuGraphKernelNodeSetParams_v2(found, &launch), 0);
    CHECK_EQ(cuGraphExecUpdate_v2(exec, clone, &info), 0);
    CHECK_EQ(info.result, CU_GRAPH_EXEC_UPDATE_SUCCESS);
    CHECK_EQ(cuGraphLaunch(exec, stream), 0);
    CHECK_EQ(cuStreamSynchronize(stream), 0);
    check_all(b, 45);
    CHECK_EQ(cuGraphDestroy(clone), 0);
    CHECK_EQ(cuGraphDestroy(graph), 0);
    CHECK_EQ(cuGraphDestroyNode(kernel), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuGraphLaunch(exec, stream), 0);
    CHECK_EQ(cuGraphExecDestroy(exec), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(called, 6);
    worker_exit();
}

/* A driver's handles would dangle: ours are refused, whoever names them. */
static void
test_names_end_with_their_graph(void)
{
    CUstreamCaptureStatus status;
    CUgraphNodeParams params;
    const CUgraphNode *deps;
    CUgraphNode empty, child, captured;
    CUgraph graph, other, inner, holder;
    unsigned int id, other_id;
    unsigned long long tools;
    CUgraphNodeType type;
    CUdeviceptr memory;
    CUstream stream;
    cuuint64_t number;
    size_t count;

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuGraphCreate(&graph, 0), 0);
    CHECK_EQ(cuGraphCreate(&other, 0), 0);
    CHECK_EQ(cuGraphAddEmptyNode(&empty, other, NULL, 0), 0);
    CHECK_EQ(cuGraphAddChildGraphNode(&child, graph, NULL, 0, other), 0);
    CHECK_EQ(cuGraphChildGraphNodeGetGraph(child, &inner), 0);
    CHECK(inner != other);
    CHECK_EQ(cuGraphDestroy(inner), CUDA_ERROR_INVALID_VALUE); /* the node's own */
    CHECK_EQ(cuGraphGetId(graph, &id), 0);
    CHECK_EQ(cuGraphGetId(other, &other_id), 0);
    CHECK(id != other_id);
    CHECK_EQ(cuGraphNodeGetLocalId(child, &id), 0);
    CHECK_EQ(cuGraphNodeGetToolsId(child, &tools), 0);
    CHECK_EQ(cuGraphNodeGetContainingGraph(child, &holder), 0);
    CHECK(holder == graph);
    CHECK_EQ(cuGraphDestroyNode(child), 0);
    CHECK_EQ(cuGraphGetNodes(inner, NULL, &count), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuGraphDestroy(other), 0);
    CHECK_EQ(cuGraphNodeGetType(empty, &type), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuGraphNodeGetParams(empty, &params), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuGraphDestroy(other), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuGraphAddDependencies(graph, &empty, &empty, 1), CUDA_ERROR_INVALID_VALUE);

    CHECK_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), 0);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), 0);
    CHECK_EQ(cuMemsetD8Async(memory, 0, N, stream), 0);
    CHECK_EQ(cuStreamGetCaptureInfo_v2(stream, &status, &number, &other, &deps, &count),
             0);
    CHECK_EQ(count, 1);
    captured = deps[0];
    CHECK_EQ(cuGraphDestroy(other), CUDA_ERROR_INVALID_VALUE); /* the capture's own */
    CHECK_EQ(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CHECK_EQ(cuStreamEndCapture(stream, &inner), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CHECK_EQ(cuGraphNodeGetType(captured, &type), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(cuGraphGetNodes(other, NULL, &count), CUDA_ERROR_INVALID_HANDLE);
    worker_exit();
}

static void
test_nodes_of_a_captured_graph_keep_their_names(void)
{
    uint32_t value = 1, n = N;
    CUgraphNode first[4], second[4];
    CUdeviceptr memory;
    void *params[] = {&memory, &value, &n};
    CUfunction add;
    CUmodule module;
    CUstream stream;
    CUgraph graph;
    CUgraphNodeType type;
    size_t count;

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuModuleLoadData(&module, text), 0);
    CHECK_EQ(cuModuleGetFunction(&add, module, "add"), 0);
    CHECK_EQ(cuStreamCreate(&stream, 0), 0);
    CHECK_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
    CHECK_EQ(cuMemsetD8Async(memory, 0, N * 4, stream), 0);
    CHECK_EQ(cuLaunchKernel(add, 4, 1, 1, 256, 1, 1, 0, stream, params, NULL), 0);
    CHECK_EQ(cuStreamEndCapture(stream, &graph), 0);
    count = 4;
    CHECK_EQ(cuGraphGetNodes(graph, first, &count), 0);
    CHECK_EQ(count, 2);
    count = 4;
    CHECK_EQ(cuGraphGetNodes(graph, second, &count), 0);
    CHECK(first[0] == second[0] && first[1] == second[1] && first[0] != first[1]);
    CHECK(second[2] == NULL);
    count = 4;
    CHECK_EQ(cuGraphGetEdges(graph, first, second, &count), 0);
    CHECK_EQ(count, 1);
    CHECK_EQ(cuGraphNodeGetType(second[0], &type), 0);
    CHECK_EQ(type, CU_GRAPH_NODE_TYPE_KERNEL);
    CHECK_EQ(cuGraphDestroy(graph), 0);
    worker_exit();
}

/* A fat binary of one PTX text, as the compiler writes it. */
static void *
fatbin_of(const char *ptx)
{
    struct {
        uint32_t magic;
        uint16_t version, head_size;
        uint64_t size;
        uint16_t kind, entry_version;
        uint32_t entry_size, text_size, pad0, compressed, options;
        uint16_t minor, major;
        uint32_t arch, name_offset, name_size;
        uint64_t flags, pad1, full_size;
    } head = {
        .magic = 0xba55ed50,
        .version = 1,
        .head_size = 16,
        .kind = 1,
        .entry_version = 0x101,
        .entry_size = 64,
        .text_size = (uint32_t)FDC_ALIGN_UP(strlen(ptx) + 1, 8),
        .major = 7,
        .arch = 70,
    };
    char *made = calloc(1, sizeof(head) + head.text_size);

    _Static_assert(sizeof(head) == 80, "no gaps");
    head.size = 64 + head.text_size;
    memcpy(made, &head, sizeof(head));
    memcpy(made + sizeof(head), ptx, strlen(ptx));
    return made;
}

/* Relocatable device code: the wrapper names a fat binary for each unit. */
static void
test_wrapper_of_several_units_is_linked_at_load(void)
{
    static const char caller[] =
        ".version 7.0\n.target sm_70\n.address_size 64\n"
        ".extern .func (.param .b32 out) seven();\n"
        ".visible .entry add(.param .u64 out)\n{\n"
        "  .reg .b32 %r<4>; .reg .b64 %rd<4>;\n"
        "  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;\n"
        "  mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2;\n"
        "  { .param .b32 back; call.uni (back), seven, (); ld.param.b32 %r2, [back]; }\n"
        "  st.global.u32 [%rd1], %r2;\n  ret;\n}\n";
    static const char callee[] =
        ".version 7.0\n.target sm_70\n.address_size 64\n"
        ".visible .func (.param .b32 out) seven()\n{\n"
        "  .reg .b32 %r<2>;\n  mov.u32 %r1, 7; st.param.b32 [out], %r1;\n  ret;\n}\n";
    const void *units[3] = {fatbin_of(caller), fatbin_of(callee), NULL};
    void *linked = fatbin_of(callee);
    struct {
        uint32_t magic, version;
        const void *data;
        const void *const *units;
    } wrapper = {0x466243b1, 2, linked, units};
    CUdeviceptr memory;
    CUlibrary library;
    CUfunction add;
    CUmodule module;
    CUkernel kernel;
    void *params[] = {&memory};

    worker_context();
    memory = zeroes();
    CHECK_EQ(cuModuleLoadData(&module, &wrapper), 0);
    CHECK_EQ(cuModuleGetFunction(&add, module, "add"), 0);
    CHECK_EQ(cuLaunchKernel(add, 1, 1, 1, N, 1, 1, 0, NULL, params, NULL), 0);
    check_all(memory, 7);
    CHECK_EQ(cuModuleUnload(module), 0);
    CHECK_EQ(cuMemsetD32_v2(memory, 0, N), 0);
    CHECK_EQ(cuLibraryLoadData(&library, &wrapper, NULL, NULL, 0, NULL, NULL, 0), 0);
    CHECK_EQ(cuLibraryGetKernel(&kernel, library, "add"), 0);
    CHECK_EQ(cuLaunchKernel((CUfunction)kernel, 1, 1, 1, N, 1, 1, 0, NULL, params, NULL), 0);
    check_all(memory, 7);
    CHECK_EQ(cuLibraryUnload(library), 0);
    free((void *)units[0]);
    free((void *)units[1]);
    free(linked);
    worker_exit();
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_module_is_known_after_one_answer);
    RUN(test_wrong_launches_are_told_at_once);
    RUN(test_library_and_its_kernels);
    RUN(test_code_that_does_not_compile_gives_its_log);
    RUN(test_linked_image_can_be_loaded);
    RUN(test_graph_of_every_kind_of_node);
    RUN(test_names_end_with_their_graph);
    RUN(test_nodes_of_a_captured_graph_keep_their_names);
    RUN(test_wrapper_of_several_units_is_linked_at_load);
    return failed;
}
