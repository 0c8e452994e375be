/*
 * What kernels print, while the program itself is in the middle of its standard output: a
 * thread that holds the stream's lock waits for the device, and memory that the device has
 * written is fetched from inside fwrite().
 */
#include "app.h"

#define BYTES (2u << 20) /* too much to be fetched unasked */
#define SHOWN 6000u

static const char speak_ptx[] =
    ".version 7.0\n.target sm_52\n.address_size 64\n"
    ".extern .func (.param .b32 r) vprintf(.param .b64 format, .param .b64 args);\n"
    ".global .align 1 .b8 line[] = {107, 101, 114, 110, 101, 108, 32, 37, 100, 10, 0};\n"
    ".visible .entry speak(.param .u32 n)\n{\n"
    " .local .align 8 .b8 args[8]; .reg .b64 %d<4>; .reg .b32 %r<3>;\n"
    " ld.param.u32 %r1, [n]; mov.u64 %d1, args; st.local.u32 [%d1], %r1;\n"
    " cvta.local.u64 %d2, %d1; mov.u64 %d3, line; cvta.global.u64 %d3, %d3;\n"
    " { .param .b64 p0; .param .b64 p1; .param .b32 got;\n"
    " st.param.b64 [p0], %d3; st.param.b64 [p1], %d2;\n"
    " call.uni (got), vprintf, (p0, p1); ld.param.b32 %r2, [got]; }\n ret;\n}\n";

static CUmodule module, fills;
static CUcontext context;
static CUfunction speak;
static CUstream other;

static void
say(unsigned n, CUstream stream)
{
    void *params[] = { &n };

    CHECK(cuLaunchKernel(speak, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL));
}

/* A query brings nothing out. */
static void
until_idle(CUstream stream)
{
    CUresult result;

    while ((result = cuStreamQuery(stream)) == CUDA_ERROR_NOT_READY)
        app_sleep_ms(1);
    CHECK(result);
}

static void *
waits(void *unused)
{
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamSynchronize(other));
    return unused;
}

static void
lock_is_held(void)
{
    pthread_t thread;
    CUdeviceptr word;
    unsigned value;

    CHECK(cuMemAlloc(&word, 4));
    CHECK(cuMemsetD32(word, 7, 1));
    CHECK(cuCtxSynchronize());
    flockfile(stdout);
    printf("held\n");
    say(1, other);
    pthread_create(&thread, NULL, waits, NULL);
    until_idle(other);
    app_sleep_ms(50); /* the other thread has come to the lock, most likely */
    CHECK(cuMemcpyDtoH(&value, word, 4));
    printf("copied %u\n", value);
    funlockfile(stdout);
    pthread_join(thread, NULL);
    CHECK(cuMemFree(word));
}

static void
memory_is_fetched(void)
{
    CUfunction fill = app_function(&fills, "fill");
    CUdeviceptr at;
    char *bytes;

    CHECK(cuMemAllocManaged(&at, BYTES, CU_MEM_ATTACH_GLOBAL));
    bytes = (char *)(size_t)at;
    for (int round = 0; round < 3; round++) {
        CHECK(app_fill(fill, at, 0x61616161u + (unsigned)round, BYTES / 4, NULL));
        say(2 + (unsigned)round, NULL);
        until_idle(NULL);
        printf("round %d: ", round);
        fwrite(bytes, 1, SHOWN, stdout);
        printf(".\n");
        CHECK(cuCtxSynchronize());
        printf("end of round\n");
    }
    CHECK(cuMemFree(at));
}

int
main(void)
{
    static char buffer[1 << 16];

    context = app_begin();
    setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
    CHECK(cuModuleLoadData(&module, speak_ptx));
    CHECK(cuModuleGetFunction(&speak, module, "speak"));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    lock_is_held();
    memory_is_fetched();
    CHECK(cuStreamDestroy_v2(other));
    return app_end();
}
