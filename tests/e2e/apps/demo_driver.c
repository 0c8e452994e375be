/*
 * The smallest whole CUDA program: the driver API, opened at run time, and two kernels
 * as PTX text. It builds with any C compiler and no CUDA toolkit, runs on a GPU and on
 * the CPU device alike, and checks every element that it computes.
 *
 *     demo_driver [ELEMENTS]        exits 0 when everything is right, else 1
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static const char ptx[] =
    ".version 6.0\n"
    ".target sm_50\n"
    ".address_size 64\n"
    /* y[i] = a * x[i] + y[i] */
    ".visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y)\n"
    "{\n"
    "    .reg .pred %p<2>;\n"
    "    .reg .f32 %f<5>;\n"
    "    .reg .b32 %r<6>;\n"
    "    .reg .b64 %d<8>;\n"
    "    ld.param.u32 %r1, [n];\n"
    "    ld.param.f32 %f1, [a];\n"
    "    ld.param.u64 %d1, [x];\n"
    "    ld.param.u64 %d2, [y];\n"
    "    mov.u32 %r2, %ctaid.x;\n"
    "    mov.u32 %r3, %ntid.x;\n"
    "    mov.u32 %r4, %tid.x;\n"
    "    mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "    setp.ge.u32 %p1, %r5, %r1;\n"
    "    @%p1 bra DONE;\n"
    "    cvta.to.global.u64 %d3, %d1;\n"
    "    cvta.to.global.u64 %d4, %d2;\n"
    "    mul.wide.u32 %d5, %r5, 4;\n"
    "    add.s64 %d6, %d3, %d5;\n"
    "    add.s64 %d7, %d4, %d5;\n"
    "    ld.global.f32 %f2, [%d6];\n"
    "    ld.global.f32 %f3, [%d7];\n"
    "    fma.rn.f32 %f4, %f1, %f2, %f3;\n"
    "    st.global.f32 [%d7], %f4;\n"
    "DONE:\n"
    "    ret;\n"
    "}\n"
    /* sum[0] += x[i], a block at a time through shared memory */
    ".visible .entry total(.param .u32 n, .param .u64 x, .param .u64 sum)\n"
    "{\n"
    "    .reg .pred %p<4>;\n"
    "    .reg .b32 %r<16>;\n"
    "    .reg .b64 %d<8>;\n"
    "    .shared .align 4 .b8 part[1024];\n"
    "    ld.param.u32 %r1, [n];\n"
    "    ld.param.u64 %d1, [x];\n"
    "    ld.param.u64 %d2, [sum];\n"
    "    mov.u32 %r2, %ctaid.x;\n"
    "    mov.u32 %r3, %ntid.x;\n"
    "    mov.u32 %r4, %tid.x;\n"
    "    mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "    mov.u32 %r6, 0;\n"
    "    setp.ge.u32 %p1, %r5, %r1;\n"
    "    @%p1 bra STORE;\n"
    "    cvta.to.global.u64 %d3, %d1;\n"
    "    mul.wide.u32 %d4, %r5, 4;\n"
    "    add.s64 %d5, %d3, %d4;\n"
    "    ld.global.u32 %r6, [%d5];\n"
    "STORE:\n"
    "    mov.u32 %r7, part;\n"
    "    shl.b32 %r8, %r4, 2;\n"
    "    add.s32 %r9, %r7, %r8;\n"
    "    st.shared.u32 [%r9], %r6;\n"
    "    bar.sync 0;\n"
    "    shr.u32 %r10, %r3, 1;\n"
    "HALF:\n"
    "    setp.eq.u32 %p2, %r10, 0;\n"
    "    @%p2 bra ADDED;\n"
    "    setp.ge.u32 %p3, %r4, %r10;\n"
    "    @%p3 bra NEXT;\n"
    "    shl.b32 %r11, %r10, 2;\n"
    "    add.s32 %r12, %r9, %r11;\n"
    "    ld.shared.u32 %r13, [%r12];\n"
    "    ld.shared.u32 %r14, [%r9];\n"
    "    add.s32 %r14, %r14, %r13;\n"
    "    st.shared.u32 [%r9], %r14;\n"
    "NEXT:\n"
    "    bar.sync 0;\n"
    "    shr.u32 %r10, %r10, 1;\n"
    "    bra.uni HALF;\n"
    "ADDED:\n"
    "    setp.ne.u32 %p1, %r4, 0;\n"
    "    @%p1 bra DONE;\n"
    "    cvta.to.global.u64 %d6, %d2;\n"
    "    ld.shared.u32 %r15, [part];\n"
    "    red.global.add.u32 [%d6], %r15;\n"
    "DONE:\n"
    "    ret;\n"
    "}\n";

/* The driver API's names as this program needs them. */
#define CALLS(X)                                                                       \
    X(cuInit, (unsigned))                                                              \
    X(cuDriverGetVersion, (int *))                                                     \
    X(cuDeviceGetCount, (int *))                                                       \
    X(cuDeviceGet, (int *, int))                                                       \
    X(cuDeviceGetName, (char *, int, int))                                             \
    X(cuDeviceTotalMem_v2, (size_t *, int))                                            \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                        \
    X(cuDevicePrimaryCtxRelease_v2, (int))                                             \
    X(cuCtxSetCurrent, (void *))                                                       \
    X(cuModuleLoadData, (void **, const void *))                                       \
    X(cuModuleUnload, (void *))                                                        \
    X(cuModuleGetFunction, (void **, void *, const char *))                            \
    X(cuMemAlloc_v2, (uint64_t *, size_t))                                             \
    X(cuMemFree_v2, (uint64_t))                                                        \
    X(cuMemcpyHtoD_v2, (uint64_t, const void *, size_t))                               \
    X(cuMemcpyDtoH_v2, (void *, uint64_t, size_t))                                     \
    X(cuMemsetD8_v2, (uint64_t, unsigned char, size_t))                                \
    X(cuStreamCreate, (void **, unsigned))                                             \
    X(cuStreamSynchronize, (void *))                                                   \
    X(cuStreamDestroy_v2, (void *))                                                    \
    X(cuGetErrorName, (int, const char **))                                            \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned,       \
                       unsigned, unsigned, void *, void **, void **))

#define DECLARE(name, args) static int(*name) args;
CALLS(DECLARE)

static int
open_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);

    if (!driver) {
        fprintf(stderr, "demo: %s\n", dlerror());
        return -1;
    }
#define FIND(name, args)                                                               \
    *(void **)&name = dlsym(driver, #name);                                            \
    if (!name) {                                                                       \
        fprintf(stderr, "demo: the driver has no " #name "\n");                        \
        return -1;                                                                     \
    }
    CALLS(FIND)
    return 0;
}

static int failed;

static int
check(int result, const char *what)
{
    const char *name = NULL;

    if (result == 0)
        return 1;
    failed = 1;
    cuGetErrorName(result, &name);
    fprintf(stderr, "demo: %s: %s (%d)\n", what, name ? name : "?", result);
    return 0;
}
#define OK(call) check((call), #call)

static int
run_saxpy(void *module, void *stream, unsigned n)
{
    float *x = malloc(n * sizeof(*x)), *y = malloc(n * sizeof(*y)), a = 2.5f;
    uint64_t dx = 0, dy = 0;
    void *saxpy = NULL, *args[] = { &n, &a, &dx, &dy };
    unsigned i, wrong = 0;

    for (i = 0; i < n; i++) {
        x[i] = (float)i;
        y[i] = (float)(i % 7);
    }
    if (OK(cuModuleGetFunction(&saxpy, module, "saxpy")) &&
        OK(cuMemAlloc_v2(&dx, n * sizeof(*x))) &&
        OK(cuMemAlloc_v2(&dy, n * sizeof(*y))) &&
        OK(cuMemcpyHtoD_v2(dx, x, n * sizeof(*x))) &&
        OK(cuMemcpyHtoD_v2(dy, y, n * sizeof(*y))) &&
        OK(cuLaunchKernel(saxpy, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, args,
                          NULL)) &&
        OK(cuStreamSynchronize(stream)) &&
        OK(cuMemcpyDtoH_v2(y, dy, n * sizeof(*y))) && OK(cuMemFree_v2(dx)) &&
        OK(cuMemFree_v2(dy))) {
        for (i = 0; i < n; i++) {
            /* Both are exact, or rounded once as fma does. */
            float want = (float)((double)a * (double)i + (double)(i % 7));

            if (y[i] != want && wrong++ == 0)
                fprintf(stderr, "demo: y[%u] is %g, not %g\n", i, y[i], want);
        }
        printf("saxpy  %u elements, %u wrong\n", n, wrong);
    }
    free(x);
    free(y);
    return wrong == 0 && !failed;
}

static int
run_total(void *module, void *stream, unsigned n)
{
    uint32_t *x = malloc(n * sizeof(*x)), sum = 0, want = 0;
    uint64_t dx = 0, dsum = 0;
    void *total = NULL, *args[] = { &n, &dx, &dsum };
    unsigned i;

    for (i = 0; i < n; i++) {
        x[i] = i * 2654435761u;
        want += x[i];
    }
    if (OK(cuModuleGetFunction(&total, module, "total")) &&
        OK(cuMemAlloc_v2(&dx, n * sizeof(*x))) &&
        OK(cuMemAlloc_v2(&dsum, sizeof(sum))) &&
        OK(cuMemcpyHtoD_v2(dx, x, n * sizeof(*x))) &&
        OK(cuMemsetD8_v2(dsum, 0, sizeof(sum))) &&
        OK(cuLaunchKernel(total, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, args,
                          NULL)) &&
        OK(cuStreamSynchronize(stream)) &&
        OK(cuMemcpyDtoH_v2(&sum, dsum, sizeof(sum))) && OK(cuMemFree_v2(dx)) &&
        OK(cuMemFree_v2(dsum)))
        printf("total  %u, expected %u\n", sum, want);
    free(x);
    return sum == want && !failed;
}

int
main(int argc, char **argv)
{
    unsigned n = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 0) : 100000;
    int version = 0, count = 0, device = 0, right = 0;
    void *context = NULL, *module = NULL, *stream = NULL;
    char name[256] = "";
    size_t memory = 0;

    if (n == 0 || n > 1u << 28 || open_driver())
        return 1;
    if (OK(cuInit(0)) && OK(cuDriverGetVersion(&version)) &&
        OK(cuDeviceGetCount(&count)) && OK(cuDeviceGet(&device, 0)) &&
        OK(cuDeviceGetName(name, sizeof(name), device)) &&
        OK(cuDeviceTotalMem_v2(&memory, device)) &&
        OK(cuDevicePrimaryCtxRetain(&context, device)) &&
        OK(cuCtxSetCurrent(context)) && OK(cuStreamCreate(&stream, 0)) &&
        OK(cuModuleLoadData(&module, ptx))) {
        printf("device %s, %zu MiB, 1 of %d, CUDA %d.%d\n", name, memory >> 20, count,
               version / 1000, version % 1000 / 10);
        right = run_saxpy(module, stream, n);
        right &= run_total(module, stream, n);
        OK(cuModuleUnload(module));
        OK(cuStreamDestroy_v2(stream));
        OK(cuDevicePrimaryCtxRelease_v2(device));
    }
    puts(right && !failed ? "PASS" : "FAIL");
    return !right || failed;
}
