/*
 * Copies between devices 0 and 2, which may be two servers': every byte of many sizes at odd
 * places, both ways, by streams and at once, in boxes; in order with what the streams of both
 * devices do before and after. Prints how many bytes were copied each way in copies that are
 * worth a trunk.
 */
#include "app.h"

enum { WORTH = 64 << 10, MOST = 64 << 20, SLACK = 4096, N = 1 << 18, ROUNDS = 12 };

static const int ordinal[2] = { 0, 2 };
static CUcontext context[2];
static CUdeviceptr p[2], q[2], r[2];
static CUstream stream[2];
static CUfunction fill[2], copy[2], spin[2];
static unsigned long long worth[2]; /* into the one, into the other */

static void
count(int to, size_t size)
{
    if (size >= WORTH)
        worth[to] += size;
}

static void
scramble(unsigned char *bytes, size_t size, unsigned long long seed)
{
    unsigned long long x = seed * 0x9e3779b97f4a7c15ull + 1;

    for (size_t i = 0; i < size; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (unsigned char)x;
    }
}

/* p[from] + at goes to q[to] + there, and nothing beside it changes. */
static void
bytes_are_right(unsigned char *want, unsigned char *got, size_t size, int from, int how)
{
    size_t at = size % 13, there = 64 + size % 7;
    int to = !from;

    scramble(want, size, size + (size_t)how);
    CHECK(cuCtxSetCurrent(context[from]));
    CHECK(cuMemcpyHtoD(p[from] + at, want, size));
    CHECK(cuCtxSetCurrent(context[to]));
    CHECK(cuMemsetD8_v2(q[to], 0xa5, there + size + 64));
    CHECK(cuStreamSynchronize(NULL));
    if (how == 0)
        CHECK(cuMemcpyPeer(q[to] + there, context[to], p[from] + at, context[from], size));
    else
        CHECK(cuMemcpyPeerAsync(q[to] + there, context[to], p[from] + at, context[from], size,
                                stream[to]));
    count(to, size);
    CHECK(cuStreamSynchronize(stream[to]));
    CHECK(cuMemcpyDtoH(got, q[to], there + size + 64));
    for (size_t i = 0; i < there; i++)
        if (got[i] != 0xa5 || got[there + size + 64 - 1 - i % 64] != 0xa5) {
            printf("%zu bytes to %d: there is more\n", size, to);
            app_failures++;
            break;
        }
    if (memcmp(got + there, want, size) != 0) {
        printf("%zu bytes to %d: they are wrong\n", size, to);
        app_failures++;
    }
}

static void
sizes(void)
{
    static const size_t size[] = {
        1, 3, 511, 4097, WORTH - 1, WORTH, WORTH + 1, 512 << 10, (512 << 10) + 1,
        (2 << 20) - 1, (2 << 20) + 1, (5 << 20) + 13, MOST,
    };
    unsigned char *want = malloc(MOST + SLACK), *got = malloc(MOST + SLACK);

    for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
        for (int from = 0; from < 2; from++)
            bytes_are_right(want, got, size[i], from, (int)(i + (size_t)from) % 2);
    free(want);
    free(got);
    puts("every byte is right");
}

/* Rows of the one's box with gaps, into the other's with others. */
static void
boxes(void)
{
    enum { WIDTH = 777, HEIGHT = 301, DEPTH = 5, PITCH = 1024, ROWS = 310, OUT = 896 };
    size_t in = (size_t)PITCH * ROWS * DEPTH, out = (size_t)OUT * HEIGHT * DEPTH, bad = 0;
    unsigned char *want = malloc(in), *got = malloc(out);

    for (int from = 0; from < 2; from++) {
        CUDA_MEMCPY3D_PEER box = {
            .srcXInBytes = 11, .srcY = 3, .srcMemoryType = CU_MEMORYTYPE_DEVICE,
            .srcDevice = p[from], .srcContext = context[from], .srcPitch = PITCH,
            .srcHeight = ROWS, .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = q[!from],
            .dstContext = context[!from], .dstPitch = OUT, .dstHeight = HEIGHT,
            .WidthInBytes = WIDTH, .Height = HEIGHT, .Depth = DEPTH,
        };

        scramble(want, in, (unsigned)from + 99);
        CHECK(cuCtxSetCurrent(context[from]));
        CHECK(cuMemcpyHtoD(p[from], want, in));
        CHECK(cuCtxSetCurrent(context[!from]));
        CHECK(cuMemsetD8_v2(q[!from], 0, out));
        CHECK(cuStreamSynchronize(NULL));
        CHECK(cuMemcpy3DPeerAsync(&box, stream[!from]));
        count(!from, (size_t)WIDTH * HEIGHT * DEPTH);
        CHECK(cuStreamSynchronize(stream[!from]));
        CHECK(cuMemcpyDtoH(got, q[!from], out));
        for (size_t z = 0; z < DEPTH; z++)
            for (size_t y = 0; y < HEIGHT; y++)
                for (size_t x = 0; x < OUT; x++) {
                    const unsigned char *row = want + (z * ROWS + y + 3) * PITCH + 11;

                    bad += got[(z * HEIGHT + y) * OUT + x] != (x < WIDTH ? row[x] : 0);
                }
    }
    REQUIRE(bad == 0);
    free(want);
    free(got);
    puts("boxes are right");
}

static void
launch_spin(int d)
{
    unsigned turns = 20000;
    CUdeviceptr at = r[d] + N * 4;
    void *params[] = { &at, &turns };

    CHECK(cuLaunchKernel(spin[d], 1, 1, 1, 1, 1, 1, 0, stream[d], params, NULL));
}

/* The copy is on the stream of whoever gives, or of whoever takes: kernels before it have
 * written, kernels behind it find the bytes, and what is written later does not travel. */
static void
order(int from, int taker, unsigned value)
{
    int to = !from, on = taker ? to : from;
    CUevent before, after;

    CHECK(cuCtxSetCurrent(context[from]));
    CHECK(cuEventCreate(&before, CU_EVENT_DISABLE_TIMING));
    launch_spin(from);
    CHECK(app_fill(fill[from], p[from], value, N, stream[from]));
    CHECK(cuEventRecord(before, stream[from]));
    CHECK(cuCtxSetCurrent(context[on]));
    CHECK(cuEventCreate(&after, CU_EVENT_DISABLE_TIMING));
    if (taker)
        CHECK(cuStreamWaitEvent(stream[to], before, 0));
    CHECK(cuMemcpyPeerAsync(q[to], context[to], p[from], context[from], N * 4, stream[on]));
    count(to, N * 4);
    CHECK(cuEventRecord(after, stream[on]));
    CHECK(cuCtxSetCurrent(context[from]));
    if (taker)
        CHECK(cuStreamWaitEvent(stream[from], after, 0));
    CHECK(app_fill(fill[from], p[from], ~value, N, stream[from]));
    CHECK(cuCtxSetCurrent(context[to]));
    if (!taker)
        CHECK(cuStreamWaitEvent(stream[to], after, 0));
    CHECK(app_copy(copy[to], r[to], q[to], N, stream[to]));
    CHECK(app_fill(fill[to], q[to], 1, N, stream[to]));
    CHECK(cuStreamSynchronize(stream[to]));
    REQUIRE(app_count_wrong(r[to], value, N) == 0);
    CHECK(cuCtxSetCurrent(context[from]));
    CHECK(cuStreamSynchronize(stream[from]));
    REQUIRE(app_count_wrong(p[from], ~value, N) == 0);
    CHECK(cuEventDestroy(before));
    CHECK(cuEventDestroy(after));
}

int
main(void)
{
    CUmodule module;
    CUdevice device;

    app_begin();
    for (int d = 0; d < 2; d++) {
        CHECK(cuDeviceGet(&device, ordinal[d]));
        CHECK(cuDevicePrimaryCtxRetain(&context[d], device));
        CHECK(cuCtxSetCurrent(context[d]));
        CHECK(cuMemAlloc(&p[d], MOST + SLACK));
        CHECK(cuMemAlloc(&q[d], MOST + SLACK));
        CHECK(cuMemAlloc(&r[d], N * 4 + SLACK));
        CHECK(cuStreamCreate(&stream[d], CU_STREAM_NON_BLOCKING));
        module = NULL;
        fill[d] = app_function(&module, "fill");
        copy[d] = app_function(&module, "copy");
        spin[d] = app_function(&module, "spin");
    }
    sizes();
    boxes();
    for (unsigned i = 0; i < ROUNDS; i++)
        order((int)(i & 1), (int)(i >> 1 & 1), 1000 + i);
    puts("copies are in order");
    printf("worth a trunk: %llu to 0, %llu to 2\n", worth[0], worth[1]);
    return app_end();
}
