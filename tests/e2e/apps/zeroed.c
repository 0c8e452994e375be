/*
 * What new memory of every kind holds before its first use: "zero", "dirt" if it is full of
 * one other byte, "mixed" else. All of it is made while one stream stands still and another
 * is being captured, so nothing that prepares memory may wait for the one or break the
 * other.
 */
#include "app.h"

#define BIG (5u << 20)

static CUstream captured;

static const char *
look(const unsigned char *bytes, size_t size)
{
    for (size_t i = 1; i < size; i++)
        if (bytes[i] != bytes[0])
            return "mixed";
    return bytes[0] == 0 ? "zero" : "dirt";
}

static void
say(const char *what, const void *bytes, size_t size)
{
    printf("%s: %s\n", what, look(bytes, size));
}

static void
say_device(const char *what, CUresult made, CUdeviceptr at, size_t size)
{
    unsigned char *bytes = malloc(size);

    if (made == CUDA_ERROR_NOT_SUPPORTED) {
        printf("%s: not supported\n", what);
    } else {
        CHECK(made);
        memset(bytes, 0x5a, size);
        CHECK(cuMemcpyDtoH(bytes, at, size));
        say(what, bytes, size);
    }
    free(bytes);
}

static void
linear(void)
{
    CUmemPoolProps props = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                             .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
    CUdeviceptr at = 0;
    CUmemoryPool pool;
    CUresult made;
    size_t pitch = 0;

    made = cuMemAlloc(&at, 300);
    say_device("few bytes", made, at, 300);
    made = cuMemAlloc(&at, BIG);
    say_device("linear", made, at, BIG);
    made = cuMemAllocPitch_v2(&at, &pitch, 1000, 3000, 4);
    say_device("pitched", made, at, pitch * 3000);
    made = cuMemAllocAsync(&at, BIG, CU_STREAM_PER_THREAD);
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    say_device("stream-ordered", made, at, BIG);
    CHECK(cuMemPoolCreate(&pool, &props));
    made = cuMemAllocFromPoolAsync(&at, BIG, pool, CU_STREAM_PER_THREAD);
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    say_device("of a pool", made, at, BIG);
}

static void
managed(void)
{
    CUdeviceptr at = 0, seen = 0;
    CUresult made = cuMemAllocManaged(&at, BIG, CU_MEM_ATTACH_GLOBAL);

    say_device("managed", made, at, BIG);
    made = cuMemAllocManaged(&seen, BIG, CU_MEM_ATTACH_GLOBAL);
    if (made == CUDA_SUCCESS)
        say("managed, in the program", (void *)(uintptr_t)seen, BIG);
    else
        puts("managed, in the program: not supported");
}

static void
mapped(void)
{
    CUmemAllocationProp prop = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
    CUmemAccessDesc access = { .location = prop.location,
                               .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
    CUmemGenericAllocationHandle handle, spare;
    CUdeviceptr at = 0;
    CUresult made = cuMemCreate(&handle, 4 << 20, &prop, 0);

    if (made == CUDA_SUCCESS) {
        CHECK(cuMemAddressReserve(&at, 4 << 20, 0, 0, 0));
        CHECK(cuMemMap(at, 4 << 20, 0, handle, 0));
        CHECK(cuMemSetAccess(at, 4 << 20, &access, 1));
        CHECK(cuMemCreate(&spare, 2 << 20, &prop, 0)); /* and is never mapped */
    }
    say_device("created and mapped", made, at, 4 << 20);
}

/* ---- arrays ---- */

static void
say_array(const char *what, CUarray array, size_t row, size_t height, size_t depth)
{
    size_t size = row * height * depth;
    CUDA_MEMCPY3D copy = {
        .srcMemoryType = CU_MEMORYTYPE_ARRAY, .srcArray = array,
        .dstMemoryType = CU_MEMORYTYPE_HOST, .dstPitch = row, .dstHeight = height,
        .WidthInBytes = row, .Height = height, .Depth = depth,
    };

    copy.dstHost = malloc(size);
    memset(copy.dstHost, 0x5a, size);
    CHECK(cuMemcpy3D_v2(&copy));
    say(what, copy.dstHost, size);
    free(copy.dstHost);
}

static void
one_array(const char *what, size_t width, size_t height, size_t depth, unsigned int flags)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {
        .Width = width, .Height = height, .Depth = depth,
        .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 4, .Flags = flags,
    };
    CUarray array;

    CHECK(cuArray3DCreate_v2(&array, &desc));
    say_array(what, array, width * 16, height ? height : 1, depth ? depth : 1);
}

static void
arrays(void)
{
    CUDA_ARRAY_DESCRIPTOR plain = {
        .Width = 100, .Height = 70, .Format = CU_AD_FORMAT_UNSIGNED_INT8, .NumChannels = 1,
    };
    CUarray array;

    CHECK(cuArrayCreate_v2(&array, &plain));
    say_array("array", array, 100, 70, 1);
    one_array("array of one row", 9000, 0, 0, 0);
    one_array("array of many rows", 33, 333, 0, CUDA_ARRAY3D_SURFACE_LDST);
    one_array("array of planes", 65, 33, 17, 0);
    one_array("layers of rows", 257, 0, 5, CUDA_ARRAY3D_LAYERED);
    one_array("layers", 1000, 9, 3, CUDA_ARRAY3D_LAYERED);
    one_array("cube", 40, 40, 6, CUDA_ARRAY3D_CUBEMAP);
}

static void
mipmap(const char *what, size_t width, size_t height, size_t depth, unsigned int asked)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {
        .Width = width, .Height = height, .Depth = depth,
        .Format = CU_AD_FORMAT_UNSIGNED_INT16, .NumChannels = 2,
    };
    CUmipmappedArray whole;
    unsigned int levels = 0;
    char name[64];
    CUarray level;

    CHECK(cuMipmappedArrayCreate(&whole, &desc, asked));
    while (levels < asked && cuMipmappedArrayGetLevel(&level, whole, levels) == CUDA_SUCCESS) {
        snprintf(name, sizeof(name), "%s, level %u", what, levels);
        say_array(name, level, width * 4, height ? height : 1, depth ? depth : 1);
        width = width > 1 ? width / 2 : width;
        height = height > 1 ? height / 2 : height;
        depth = depth > 1 ? depth / 2 : depth;
        levels++;
    }
}

/* ---- memory of graphs and modules ---- */

static void
graph(void)
{
    CUdeviceptr at, copy;
    CUgraphExec exec;
    CUstream stream;
    CUgraph made;

    CHECK(cuMemAlloc(&copy, BIG));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuMemAllocAsync(&at, BIG, stream));
    CHECK(cuMemcpyDtoDAsync_v2(copy, at, BIG, stream));
    CHECK(cuMemFreeAsync(at, stream));
    CHECK(cuStreamEndCapture(stream, &made));
    CHECK(cuGraphInstantiateWithFlags(&exec, made, 0));
    CHECK(cuMemsetD32Async(copy, 0x5a5a5a5a, BIG / 4, stream));
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    say_device("of a graph", CUDA_SUCCESS, copy, BIG);
}

static void
variables(void)
{
    static const char ptx[] =
        ".version 7.0\n.target sm_52\n.address_size 64\n"
        ".visible .global .align 4 .b8 room[100000];\n";
    CUdeviceptr at = 0;
    CUmodule module;
    size_t size = 0;

    CHECK(cuModuleLoadData(&module, ptx));
    CHECK(cuModuleGetGlobal_v2(&at, &size, module, "room"));
    say_device("variables", CUDA_SUCCESS, at, size);
}

int
main(void)
{
    struct app_gate gate = APP_GATE;
    size_t nodes = 1;
    CUstream held;
    CUgraph empty;

    app_begin();
    CHECK(cuStreamCreate(&held, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&captured, CU_STREAM_NON_BLOCKING));
    CHECK(cuLaunchHostFunc(held, app_wait, &gate));
    app_arrived(&gate);
    CHECK(cuStreamBeginCapture(captured, CU_STREAM_CAPTURE_MODE_RELAXED));

    linear();
    managed();
    mapped();
    arrays();
    mipmap("mipmap", 300, 200, 0, 20);
    mipmap("mipmap of planes", 32, 16, 8, 3);
    graph();
    variables();

    CHECK(cuStreamEndCapture(captured, &empty));
    CHECK(cuGraphGetNodes(empty, NULL, &nodes));
    REQUIRE(nodes == 0);
    app_open(&gate);
    CHECK(cuStreamSynchronize(held));
    return app_end();
}
