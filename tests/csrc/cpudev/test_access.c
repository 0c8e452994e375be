/* Loads and stores of a whole warp, in every order of addresses that has a short way. */
#include "check.h"
#include "ptx.h"

enum { N = 256 };

/* out[to[t]] = in[from[t]], through shared memory too when that is asked for */
#define KERNEL(name, type, reg, shift, by_global)                                        \
    ".visible .entry " name "(.param .u64 in, .param .u64 out, .param .u64 from,\n"      \
    " .param .u64 to) {\n.reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .b16 %h<2>;\n"          \
    ".shared .align 8 .b8 s[2048];\nld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out];\n" \
    "ld.param.u64 %rd3, [from]; ld.param.u64 %rd4, [to]; mov.u32 %r1, %tid.x;\n"         \
    "mul.wide.u32 %rd5, %r1, 4; add.s64 %rd3, %rd3, %rd5; add.s64 %rd4, %rd4, %rd5;\n"   \
    "ld.global.u32 %r2, [%rd3]; ld.global.u32 %r3, [%rd4];\nshl.b32 %r4, %r2, " shift ";\n" \
    "shl.b32 %r5, %r3, " shift ";\ncvt.u64.u32 %rd6, %r4; add.s64 %rd6, %rd6, %rd1;\n"   \
    "cvt.u64.u32 %rd7, %r5; add.s64 %rd7, %rd7, %rd2;\nmov.u32 %r6, s;\n"                \
    "add.u32 %r5, %r5, %r6; add.u32 %r4, %r4, %r6;\nld.global." type " " reg ", [%rd6];\n" \
    by_global "\nret;\n}\n"
#define DIRECT(type, reg) "st.global." type " [%rd7], " reg ";"
#define SHARED(type, reg)                                                                \
    "st.shared." type " [%r5], " reg "; ld.shared." type " " reg ", [%r5];\n"            \
    "st.global." type " [%rd7], " reg ";"

static const char text[] = PTX_HEAD
    KERNEL("g0", "u8", "%r8", "0", DIRECT("u8", "%r8"))
    KERNEL("g1", "u16", "%h1", "1", DIRECT("u16", "%h1"))
    KERNEL("g2", "u32", "%r8", "2", DIRECT("u32", "%r8"))
    KERNEL("g3", "u64", "%rd8", "3", DIRECT("u64", "%rd8"))
    KERNEL("s0", "u8", "%r8", "0", SHARED("u8", "%r8"))
    KERNEL("s1", "u16", "%h1", "1", SHARED("u16", "%h1"))
    KERNEL("s2", "u32", "%r8", "2", SHARED("u32", "%r8"))
    KERNEL("s3", "u64", "%rd8", "3", SHARED("u64", "%rd8"));

/* Element of lane t: rows, one for all, rows a half, one a half, backwards, mixed. */
static uint32_t
element(int order, uint32_t t)
{
    switch (order) {
    case 0: return t;
    case 1: return 7;
    case 2: return t % 16 + t / 16 * 100;
    case 3: return t % 16;
    case 4: return t / 16 * 50 + 3;
    case 5: return 31 - t;
    case 6: return t < 16 ? t : 9;
    case 7: return t == 15 ? 200 : t;
    default: return t * 3 % 32;
    }
}

/* Where several lanes write one place, the last lane's value stays. */
static void
test_every_order_of_addresses_moves_the_same_bytes(void)
{
    struct fdcpu_module *m = ptx_load(text, NULL);
    uint8_t *in = ptx_buffer(N * 8), *out = ptx_buffer(N * 8), want[N * 8];
    uint32_t *from = ptx_buffer(128), *to = ptx_buffer(128);

    CHECK(m);
    for (uint32_t k = 0; k < N * 8; k++)
        in[k] = (uint8_t)(k * 37 + k / 256);
    for (int kernel = 0; kernel < 8; kernel++)
        for (int a = 0; a < 9; a++)
            for (int b = 0; b < 9; b++)
                for (uint32_t threads = 29; threads <= 32; threads += 3) {
                    size_t size = 1u << kernel % 4;
                    const char name[3] = { kernel < 4 ? 'g' : 's', (char)('0' + kernel % 4) };

                    memset(out, 0, N * 8);
                    memset(want, 0, N * 8);
                    for (uint32_t t = 0; t < 32; t++) {
                        from[t] = element(a, t);
                        to[t] = element(b, t);
                    }
                    for (uint32_t t = 0; t < threads; t++)
                        memcpy(want + to[t] * size, in + from[t] * size, size);
                    CHECK_EQ(ptx_run(m, name, 1, threads, 4, PTX_PTR(in), PTX_PTR(out),
                                     PTX_PTR(from), PTX_PTR(to)), 0);
                    CHECK_BYTES(out, want, N * 8);
                }
    fdcpu_module_unload(m);
}

/* Rows whose last element is outside, not aligned, or beyond the end of shared memory. */
static void
test_a_row_that_leaves_its_memory_names_the_first_lane_outside(void)
{
    struct fdcpu_module *m = ptx_load(text, NULL);
    uint32_t *in = ptx_buffer(31 * 4), *all = ptx_buffer(8192), *out = ptx_buffer(8192);
    uint32_t *from = ptx_buffer(128), *to = ptx_buffer(128);

    CHECK(m);
    for (uint32_t t = 0; t < 32; t++)
        from[t] = to[t] = t;
    CHECK_EQ(ptx_run(m, "g2", 1, 32, 4, PTX_PTR(in), PTX_PTR(out), PTX_PTR(from), PTX_PTR(to)),
             700);
    CHECK(strstr(ptx_fault.report, "thread (31, 0, 0)"));
    CHECK_EQ(ptx_run(m, "g2", 1, 32, 4, PTX_PTR(all) + 2, PTX_PTR(out), PTX_PTR(from),
                     PTX_PTR(to)), 716);
    CHECK(strstr(ptx_fault.report, "thread (0, 0, 0)"));
    CHECK_EQ(ptx_run(m, "g2", 1, 32, 4, PTX_PTR(-64), PTX_PTR(out), PTX_PTR(from), PTX_PTR(to)),
             700);
    CHECK(strstr(ptx_fault.report, "thread (0, 0, 0)"));
    for (uint32_t t = 0; t < 32; t++)
        to[t] = t < 16 ? t : 512 - 15 + t - 16;
    CHECK_EQ(ptx_run(m, "s2", 1, 32, 4, PTX_PTR(all), PTX_PTR(out), PTX_PTR(from),
                     PTX_PTR(to)), 700);
    CHECK(strstr(ptx_fault.report, "thread (31, 0, 0)"));
    CHECK(strstr(ptx_fault.report, "shared memory"));
    for (uint32_t t = 0; t < 32; t++)           /* 32 bits of address do not wrap */
        to[t] = (0xffffffffu >> 2) - 7 + t;
    CHECK_EQ(ptx_run(m, "s2", 1, 32, 4, PTX_PTR(all), PTX_PTR(out), PTX_PTR(from),
                     PTX_PTR(to)), 700);
    fdcpu_module_unload(m);
}

int
main(void)
{
    int failed = 0;

    RUN(test_every_order_of_addresses_moves_the_same_bytes);
    RUN(test_a_row_that_leaves_its_memory_names_the_first_lane_outside);
    return failed;
}
