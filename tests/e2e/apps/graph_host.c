/*
 * Copies of a graph from and to the program's memory: read anew at each replay, stored at
 * each; together with host functions of the graph, which see and change them.
 */
#include "app.h"

enum { N = 1024, BIG = 300000 };

static CUmodule module;
static CUfunction add, copy;
static CUdeviceptr a, b, c;
static CUstream stream;

static CUresult
sum(CUdeviceptr d, CUdeviceptr x, CUdeviceptr y, unsigned n, CUstream on)
{
    void *params[] = {&d, &x, &y, &n};

    return cuLaunchKernel(add, (n + 127) / 128, 1, 1, 128, 1, 1, 0, on, params, NULL);
}

static void
set_all(unsigned *words, unsigned value, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        words[i] = value + i;
}

static unsigned
wrong(const unsigned *words, unsigned value, unsigned step, unsigned n)
{
    unsigned bad = 0;

    for (unsigned i = 0; i < n; i++)
        bad += words[i] != value + step * i;
    return bad;
}

static CUgraphExec
instantiate(CUgraph graph)
{
    CUgraphExec exec = NULL;

    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    return exec;
}

/* in -> device, doubled, -> out, of n words. */
static void
captured(const char *what, unsigned *in, unsigned *out, unsigned n)
{
    CUgraphNode nodes[4];
    CUgraphNodeType type;
    CUDA_MEMCPY3D params;
    size_t count = 4;
    CUgraphExec exec;
    CUgraph graph;
    unsigned bad = 0, ends = 0;

    printf("captured, %s, %u words\n", what, n);
    set_all(in, 1, n);
    memset(out, 0, n * 4);
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemcpyHtoDAsync(a, in, n * 4, stream));
    CHECK(sum(b, a, a, n, stream));
    CHECK(cuMemcpyDtoHAsync(out, b, n * 4, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphGetNodes(graph, nodes, &count));
    for (size_t i = 0; i < count; i++) {
        CHECK(cuGraphNodeGetType(nodes[i], &type));
        if (type != CU_GRAPH_NODE_TYPE_MEMCPY)
            continue;
        CHECK(cuGraphMemcpyNodeGetParams(nodes[i], &params));
        ends += params.WidthInBytes == n * 4 &&
                ((params.srcHost == in && params.dstDevice == a) ||
                 (params.dstHost == out && params.srcDevice == b));
    }
    printf("%zu nodes, %u copies as they were asked for\n", count, ends);
    exec = instantiate(graph);
    CHECK(cuGraphDestroy(graph));
    printf("nothing ran: %u wrong\n", wrong(out, 0, 0, n));
    for (unsigned turn = 0; turn < 4; turn++) {
        set_all(in, 10 * turn, n);
        CHECK(cuGraphLaunch(exec, stream));
        CHECK(cuStreamSynchronize(stream));
        bad += wrong(out, 20 * turn, 2, n);
    }
    printf("replayed: %u wrong\n", bad);
    CHECK(cuGraphExecDestroy(exec));
}

/* Nobody waits for earlier replays. */
static void
without_waiting(void)
{
    static unsigned in[N], out[4][N];
    CUdeviceptr kept;
    CUgraphExec exec;
    CUgraph graph;
    unsigned bad = 0;

    puts("one replay behind the other");
    CHECK(cuMemAlloc(&kept, sizeof(out)));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemcpyHtoDAsync(a, in, sizeof(in), stream));
    CHECK(sum(b, b, a, N, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    exec = instantiate(graph);
    CHECK(cuMemsetD32Async(b, 0, N, stream));
    set_all(in, 5, N);
    for (unsigned turn = 0; turn < 4; turn++) {
        CHECK(cuGraphLaunch(exec, stream));
        CHECK(cuMemcpyDtoDAsync_v2(kept + turn * sizeof(in), b, sizeof(in), stream));
    }
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(out, kept, sizeof(out)));
    for (unsigned turn = 0; turn < 4; turn++)
        bad += wrong(out[turn], 5 * (turn + 1), turn + 1, N);
    printf("%u wrong\n", bad);
    CHECK(cuMemFree(kept));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
}

struct shared {
    unsigned in[N], out[N];
    unsigned seen, calls;
};

/* Before the copy up. */
static void
produce(void *user)
{
    struct shared *shared = user;

    set_all(shared->in, 100 * ++shared->calls, N);
}

/* After the copy down: it sees the result, and may change it. */
static void
consume(void *user)
{
    struct shared *shared = user;

    shared->seen += wrong(shared->out, 200 * shared->calls, 2, N);
    shared->out[0] = 7;
}

static void
with_host_functions(void)
{
    struct shared *shared; /* pinned: a driver takes pageable bytes as it launches */
    CUgraphExec exec;
    CUgraph graph;

    puts("with host functions");
    CHECK(cuMemAllocHost_v2((void **)&shared, sizeof(*shared)));
    memset(shared, 0, sizeof(*shared));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuLaunchHostFunc(stream, produce, shared));
    CHECK(cuMemcpyHtoDAsync(a, shared->in, sizeof(shared->in), stream));
    CHECK(sum(b, a, a, N, stream));
    CHECK(cuMemcpyDtoHAsync(shared->out, b, sizeof(shared->out), stream));
    CHECK(cuLaunchHostFunc(stream, consume, shared));
    CHECK(cuStreamEndCapture(stream, &graph));
    exec = instantiate(graph);
    CHECK(cuGraphDestroy(graph));
    for (int turn = 0; turn < 3; turn++)
        CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("%u calls, %u wrong, then %u %u\n", shared->calls, shared->seen, shared->out[0],
           shared->out[1]);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuMemFreeHost(shared));
}

static CUDA_MEMCPY3D
box(void)
{
    return (CUDA_MEMCPY3D){.WidthInBytes = 40, .Height = 4, .Depth = 3};
}

static void
made_by_hand(void)
{
    static unsigned char from[3 * 8 * 64], other[3 * 8 * 64], to[3 * 8 * 64];
    CUDA_MEMCPY3D up = box(), down = box(), got;
    CUgraphNode up_node, down_node, child_node, line;
    CUgraph graph, outer, clone, flat;
    CUgraphExec exec;
    CUcontext context;
    unsigned bad = 0, outside = 0;

    puts("made by hand");
    CHECK(cuCtxGetCurrent(&context));
    for (unsigned i = 0; i < sizeof(from); i++) {
        from[i] = (unsigned char)i;
        other[i] = (unsigned char)(3 * i);
    }
    up.srcMemoryType = CU_MEMORYTYPE_HOST;
    up.srcHost = from;
    up.srcPitch = 64;
    up.srcHeight = 8;
    up.srcXInBytes = 4;
    up.srcY = 1;
    up.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    up.dstDevice = a;
    up.dstPitch = 40;
    up.dstHeight = 4;
    down.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    down.srcDevice = a;
    down.srcPitch = 40;
    down.srcHeight = 4;
    down.dstMemoryType = CU_MEMORYTYPE_HOST;
    down.dstHost = to;
    down.dstPitch = 64;
    down.dstHeight = 8;
    down.dstXInBytes = 8;
    down.dstY = 2;
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddMemcpyNode(&up_node, graph, NULL, 0, &up, context));
    CHECK(cuGraphAddMemcpyNode(&down_node, graph, &up_node, 1, &down, context));
    exec = instantiate(graph);
    memset(to, 0xee, sizeof(to));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    for (unsigned z = 0; z < 3; z++)
        for (unsigned y = 0; y < 8; y++)
            for (unsigned x = 0; x < 64; x++) {
                unsigned char byte = to[z * 512 + y * 64 + x];

                if (y >= 2 && y < 6 && x >= 8 && x < 48)
                    bad += byte != from[z * 512 + (y - 1) * 64 + x - 4];
                else
                    outside += byte != 0xee;
            }
    printf("%u wrong, %u touched beside\n", bad, outside);

    CHECK(cuGraphExecDestroy(exec));

    /* Another source, of the executable graph alone; only lines can be changed so. */
    CHECK(cuGraphCreate(&flat, 0));
    got = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = from,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = b,
                          .WidthInBytes = 512, .Height = 1, .Depth = 1};
    CHECK(cuGraphAddMemcpyNode(&line, flat, NULL, 0, &got, context));
    exec = instantiate(flat);
    got.srcHost = other;
    CHECK(cuGraphExecMemcpyNodeSetParams(exec, line, &got, context));
    CHECK(cuGraphMemcpyNodeGetParams(line, &got));
    REQUIRE(got.srcHost == from);
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(to, b, 512));
    printf("from elsewhere: %d\n", memcmp(to, other, 512) == 0);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(flat));

    /* Inside another graph, and in a clone of that. */
    CHECK(cuGraphCreate(&outer, 0));
    CHECK(cuGraphAddChildGraphNode(&child_node, outer, NULL, 0, graph));
    CHECK(cuGraphClone(&clone, outer));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphDestroy(outer));
    exec = instantiate(clone);
    memset(to, 0, sizeof(to));
    from[64 + 4] = 99;
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("in a clone: %d\n", to[2 * 64 + 8]);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(clone));
}

static void
updated(void)
{
    static unsigned first[N], second[N], out[N];
    CUgraphExecUpdateResultInfo info;
    CUgraph graph, other;
    CUgraphExec exec;

    puts("updated");
    set_all(first, 1, N);
    set_all(second, 50, N);
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemcpyHtoDAsync(a, first, sizeof(first), stream));
    CHECK(cuMemcpyDtoHAsync(out, a, sizeof(out), stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    exec = instantiate(graph);
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemcpyHtoDAsync(a, second, sizeof(second), stream));
    CHECK(cuMemcpyDtoHAsync(out, a, sizeof(out), stream));
    CHECK(cuStreamEndCapture(stream, &other));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("%u wrong\n", wrong(out, 1, 1, N));
    CHECK(cuGraphExecUpdate_v2(exec, other, &info));
    CHECK(cuGraphDestroy(other));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    printf("%u wrong\n", wrong(out, 50, 1, N));
    CHECK(cuGraphExecDestroy(exec));
}

/* Adds one to the word that the copies before it have brought. */
static void
count_up(void *user)
{
    ++*(unsigned *)user;
}

/* A chain of many nodes with a few copies of one word among them, each pair with a host
 * function behind it. */
static void
long_chain(void)
{
    unsigned word = 1;
    CUgraphExec exec;
    CUgraph graph;

    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (int i = 0; i < 1200; i++) {
        CHECK(cuMemsetD32Async(b, (unsigned)i, 1, stream));
        if (i % 300 != 0)
            continue;
        CHECK(cuMemcpyHtoDAsync(a, &word, sizeof(word), stream));
        CHECK(cuMemcpyDtoHAsync(&word, a, sizeof(word), stream));
        CHECK(cuLaunchHostFunc(stream, count_up, &word));
    }
    CHECK(cuStreamEndCapture(stream, &graph));
    exec = instantiate(graph);
    for (int i = 0; i < 2; i++) {
        CHECK(cuGraphLaunch(exec, stream));
        CHECK(cuStreamSynchronize(stream));
        printf("a long chain: %u\n", word);
    }
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
}

int
main(void)
{
    unsigned *in, *out, *pinned, *pinned_out;

    app_begin();
    add = app_function(&module, "add");
    copy = app_function(&module, "copy");
    CHECK(cuMemAlloc(&a, BIG * 4));
    CHECK(cuMemAlloc(&b, BIG * 4));
    CHECK(cuMemAlloc(&c, BIG * 4));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    in = malloc(BIG * 4);
    out = malloc(BIG * 4);
    CHECK(cuMemAllocHost_v2((void **)&pinned, BIG * 4));
    CHECK(cuMemAllocHost_v2((void **)&pinned_out, BIG * 4));
    captured("pageable", in, out, N);
    captured("pageable", in, out, BIG);
    captured("pinned", pinned, pinned_out, N);
    captured("pinned", pinned, pinned_out, BIG);
    without_waiting();
    with_host_functions();
    made_by_hand();
    updated();
    long_chain();
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFreeHost(pinned_out));
    free(in);
    free(out);
    return app_end();
}
