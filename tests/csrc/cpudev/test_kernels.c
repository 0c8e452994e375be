/* Whole kernels: control flow, memory of all kinds, calls, faults and what they say. */
#include "check.h"
#include "ptx.h"

#define REGS                                                                           \
    ".reg .b32 %r<16>; .reg .b64 %rd<16>; .reg .pred %p<8>; .reg .f32 %f<8>;\n"
#define INDEX                                                                          \
    "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;\n"              \
    "mad.lo.s32 %r4, %r1, %r2, %r3;\n"

static const char saxpy[] = PTX_HEAD
    ".visible .entry saxpy(.param .u32 n, .param .f32 a, .param .u64 x, .param .u64 y) {\n" REGS
    INDEX "ld.param.u32 %r5, [n]; setp.ge.s32 %p1, %r4, %r5; @%p1 bra $DONE;\n"
    "ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.f32 %f1, [a];\n"
    "cvta.to.global.u64 %rd3, %rd1; cvta.to.global.u64 %rd4, %rd2;\n"
    "mul.wide.s32 %rd5, %r4, 4; add.s64 %rd6, %rd3, %rd5; add.s64 %rd7, %rd4, %rd5;\n"
    "ld.global.f32 %f2, [%rd6]; ld.global.f32 %f3, [%rd7];\n"
    "fma.rn.f32 %f4, %f2, %f1, %f3; st.global.f32 [%rd7], %f4;\n$DONE: ret;\n}\n";

static void
test_saxpy_with_a_ragged_end(void)
{
    struct fdcpu_module *m = ptx_load(saxpy, NULL);
    float *x = ptx_buffer(1000 * 4), *y = ptx_buffer(1000 * 4);

    CHECK(m);
    for (int k = 0; k < 1000; k++)
        x[k] = (float)k, y[k] = 1;
    CHECK_EQ(ptx_run(m, "saxpy", 4, 256, 4, PTX_INT(1000), PTX_INT(0x40000000), PTX_PTR(x),
                     PTX_PTR(y)), 0);
    for (int k = 0; k < 1000; k++)
        CHECK_EQ(y[k], 2 * k + 1);
    fdcpu_module_unload(m);
}

static void
test_one_element_too_many_is_700_and_names_the_thread(void)
{
    struct fdcpu_module *m = ptx_load(saxpy, NULL);
    float *x = ptx_buffer(999 * 4), *y = ptx_buffer(1000 * 4);

    CHECK_EQ(ptx_run(m, "saxpy", 4, 256, 4, PTX_INT(1000), PTX_INT(0), PTX_PTR(x), PTX_PTR(y)),
             700);
    CHECK(strstr(ptx_fault.report, "kernel saxpy, block (3, 0, 0), thread (231, 0, 0)"));
    CHECK_EQ(ptx_run(m, "saxpy", 1, 32, 4, PTX_INT(1000), PTX_INT(0), PTX_PTR(x) + 2, PTX_PTR(y)),
             716);
    CHECK_EQ(ptx_run(m, "saxpy", 1, 32, 4, PTX_INT(1000), PTX_INT(0), PTX_INT(0), PTX_PTR(y)), 700);
    CHECK_EQ(ptx_run(m, "saxpy", 1, 32, 4, PTX_INT(1000), PTX_INT(0), ~0ull - 3, PTX_PTR(y)), 700);
    fdcpu_module_unload(m);
}

static void
test_mistakes_in_the_text_are_218_with_the_line(void)
{
    static const struct { const char *text, *says; } bad[] = {
        { "nonsense", "line 1" },
        { PTX_HEAD ".visible .entry k() {\n  add.u32 %r1, %r2, %r3;\n}\n", "line 5" },
        { PTX_HEAD ".visible .entry k() {\n  bra $NOWHERE;\n}\n", "line 5" },
        { PTX_HEAD ".visible .entry k() {\n  ret;\n", "no end" },
        { PTX_HEAD ".visible .entry k() {\n .reg .b32 %r<4>; add.u32 %r1;\n}\n", "line 5" },
        { PTX_HEAD ".global .u32 x = y;\n", "line 4" },
        { PTX_HEAD ".visible .entry k() { .reg .b32 %r<99999999>; ret; }\n", "line 4" },
    };

    for (size_t k = 0; k < sizeof(bad) / sizeof(*bad); k++) {
        int result;

        CHECK(!ptx_load(bad[k].text, &result));
        CHECK_EQ(result, 218);
        if (!strstr(ptx_log, bad[k].says)) {
            fprintf(stderr, "log: %s", ptx_log);
            CHECK(!"the log names the place");
        }
    }
}

static void
test_an_unknown_instruction_hurts_only_who_reaches_it(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .entry k(.param .u32 n) {\n" REGS
        "ld.param.u32 %r1, [n]; setp.eq.u32 %p1, %r1, 0;\n"
        "@%p1 bra $DONE;\nfrobnicate.u32 %r1, %r1;\n$DONE: ret;\n}\n", NULL);

    CHECK(m);
    CHECK_EQ(ptx_run(m, "k", 1, 32, 1, PTX_INT(0)), 0);
    CHECK_EQ(ptx_run(m, "k", 1, 32, 1, PTX_INT(1)), 801);
    CHECK(strstr(ptx_fault.report, "frobnicate.u32"));
    fdcpu_module_unload(m);
}

static void
test_a_lock_taken_by_every_lane_is_given_to_each(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .entry spin(.param .u64 lock, .param .u64 count) {\n" REGS
        "ld.param.u64 %rd1, [lock]; ld.param.u64 %rd2, [count];\n"
        "$TRY: atom.global.cas.b32 %r1, [%rd1], 0, 1; setp.ne.s32 %p1, %r1, 0;\n"
        "@%p1 bra $TRY;\n"
        "ld.volatile.global.u32 %r2, [%rd2]; add.s32 %r2, %r2, 1;\n"
        "st.volatile.global.u32 [%rd2], %r2; membar.gl;\n"
        "atom.global.exch.b32 %r3, [%rd1], 0; ret;\n}\n", NULL);
    uint32_t *p = ptx_buffer(8);

    CHECK_EQ(ptx_run(m, "spin", 4, 96, 2, PTX_PTR(p), PTX_PTR(p + 1)), 0);
    CHECK_EQ(p[1], 384);
    fdcpu_module_unload(m);
}

static void
test_barriers_in_both_arms_and_after_early_exits(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .entry k(.param .u64 out) {\n" REGS
        ".shared .align 4 .b8 s[512];\n"
        "mov.u32 %r1, %tid.x; setp.ge.u32 %p1, %r1, 100; @%p1 exit;\n"
        "mov.u32 %r2, s; shl.b32 %r3, %r1, 2; add.s32 %r4, %r2, %r3;\n"
        "and.b32 %r5, %r1, 1; setp.eq.s32 %p2, %r5, 0; @%p2 bra $EVEN;\n"
        "st.shared.u32 [%r4], %r1; bar.sync 0; bra $READ;\n"
        "$EVEN: mul.lo.s32 %r6, %r1, 10; st.shared.u32 [%r4], %r6; bar.sync 0;\n"
        "$READ: mov.u32 %r7, 99; sub.s32 %r8, %r7, %r1; shl.b32 %r8, %r8, 2;\n"
        "add.s32 %r8, %r8, %r2; ld.shared.u32 %r9, [%r8];\n"
        "bar.red.popc.u32 %r10, 0, %p2; add.s32 %r9, %r9, %r10;\n"
        "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;\n"
        "st.global.u32 [%rd1], %r9; ret;\n}\n", NULL);
    uint32_t *out = ptx_buffer(400);

    CHECK(m);
    CHECK_EQ(ptx_run(m, "k", 1, 128, 1, PTX_PTR(out)), 0);
    for (uint32_t t = 0; t < 100; t++)
        CHECK_EQ(out[t], ((99 - t) & 1 ? 99 - t : (99 - t) * 10) + 50);
    fdcpu_module_unload(m);
}

static void
test_a_barrier_that_nobody_else_reaches_is_a_deadlock(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .entry k() {\n" REGS
        "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32; @%p1 bra $A;\nbar.sync 1; ret;\n"
        "$A: bar.sync 2; ret;\n}\n", NULL);

    CHECK_EQ(ptx_run(m, "k", 1, 64, 0), 702);
    CHECK(strstr(ptx_fault.report, "deadlock"));
    fdcpu_module_unload(m);
}

static void
test_a_kernel_without_end_is_stopped_by_deadline_or_cancel(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD ".visible .entry k() {\n$L: bra $L;\n}\n", NULL);
    static _Atomic uint32_t cancel = 1;

    ptx_env.deadline_ms = 50;
    CHECK_EQ(ptx_run(m, "k", 3, 64, 0), 702);
    ptx_env.deadline_ms = 0;
    ptx_env.cancel = &cancel;
    CHECK_EQ(ptx_run(m, "k", 3, 64, 0), 702);
    ptx_env.cancel = NULL;
    ptx_env.deadline_ms = 60000;
    fdcpu_module_unload(m);
}

/* Two to the power of 50 calls, none of them deep, and no jump back. */
static void
test_recursion_without_end_is_stopped_too(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".func f(.param .u32 n) {\n.reg .pred %p; .reg .b32 %r<4>;\n"
        "ld.param.u32 %r1, [n]; setp.eq.u32 %p, %r1, 0; @%p bra $E;\n"
        "sub.u32 %r2, %r1, 1;\n"
        "{ .param .u32 a; st.param.u32 [a], %r2; call.uni f, (a); }\n"
        "{ .param .u32 b; st.param.u32 [b], %r2; call.uni f, (b); }\n"
        "$E: ret;\n}\n"
        ".visible .entry k() {\n" REGS "mov.u32 %r1, %tid.x; add.u32 %r1, %r1, 50;\n"
        "{ .param .u32 a; st.param.u32 [a], %r1; call.uni f, (a); } ret;\n}\n", NULL);

    CHECK(m);
    ptx_env.deadline_ms = 50;
    CHECK_EQ(ptx_run(m, "k", 1, 1, 0), 702);
    CHECK_EQ(ptx_run(m, "k", 3, 64, 0), 702);
    ptx_env.deadline_ms = 60000;
    fdcpu_module_unload(m);
}

static void
test_recursion_and_calls_through_a_table(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".func (.param .b32 r) fib(.param .b32 n);\n"
        ".func (.param .b32 r) twice(.param .b32 n) {\n" REGS
        "ld.param.u32 %r1, [n]; add.s32 %r1, %r1, %r1; st.param.b32 [r], %r1; ret;\n}\n"
        ".visible .global .align 8 .u64 table[2] = {fib, twice};\n"
        ".func (.param .b32 r) fib(.param .b32 n) {\n" REGS
        "ld.param.u32 %r1, [n]; setp.lt.u32 %p1, %r1, 2; @%p1 bra $END;\n"
        "add.s32 %r2, %r1, -1;\n"
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r2;\n"
        "call.uni (b), fib, (a); ld.param.b32 %r3, [b]; }\n"
        "add.s32 %r2, %r1, -2;\n"
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r2;\n"
        "call.uni (b), fib, (a); ld.param.b32 %r4, [b]; }\n"
        "add.s32 %r1, %r3, %r4;\n$END: st.param.b32 [r], %r1; ret;\n}\n"
        ".visible .entry k(.param .u64 out) {\n" REGS
        "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1; mul.wide.u32 %rd1, %r2, 8;\n"
        "mov.u64 %rd2, table; add.s64 %rd2, %rd2, %rd1; ld.global.u64 %rd3, [%rd2];\n"
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1;\n"
        "P: .callprototype (.param .b32 _) _ (.param .b32 _);\n"
        "call (b), %rd3, (a), P; ld.param.b32 %r3, [b]; }\n"
        "ld.param.u64 %rd4, [out]; mul.wide.u32 %rd5, %r1, 4; add.s64 %rd4, %rd4, %rd5;\n"
        "st.global.u32 [%rd4], %r3; ret;\n}\n", NULL);
    uint32_t *out = ptx_buffer(32 * 4), fib[20] = { 0, 1 };

    CHECK(m);
    for (int k = 2; k < 20; k++)
        fib[k] = fib[k - 1] + fib[k - 2];
    CHECK_EQ(ptx_run(m, "k", 1, 18, 1, PTX_PTR(out)), 0);
    for (uint32_t t = 0; t < 18; t++)
        CHECK_EQ(out[t], t & 1 ? 2 * t : fib[t]);
    fdcpu_module_unload(m);
}

static void
test_shuffles_votes_and_partial_masks(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .entry k(.param .u64 out) {\n" REGS
        "mov.u32 %r1, %laneid; setp.lt.u32 %p1, %r1, 16; @!%p1 bra $HIGH;\n"
        "shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffff; bra $JOIN;\n"
        "$HIGH: shfl.sync.down.b32 %r2|%p2, %r1, 4, 31, 0xffff0000;\n"
        "$JOIN: vote.sync.ballot.b32 %r3, %p1, -1; popc.b32 %r4, %r3; add.s32 %r2, %r2, %r4;\n"
        "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;\n"
        "st.global.u32 [%rd1], %r2; ret;\n}\n", NULL);
    uint32_t *out = ptx_buffer(128);

    CHECK(m);
    CHECK_EQ(ptx_run(m, "k", 1, 32, 1, PTX_PTR(out)), 0);
    for (uint32_t t = 0; t < 32; t++)
        CHECK_EQ(out[t], 16 + (t < 16 ? t ^ 1 : t + 4 > 31 ? t : t + 4));
    fdcpu_module_unload(m);
}

static void
test_constants_are_read_and_written_by_address(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .const .align 4 .u32 c[2] = {7, 8};\n.visible .global .align 4 .f32 g = 0f40400000;\n"
        ".visible .entry get(.param .u64 out) {\n" REGS
        "ld.const.u32 %r1, [c+4]; ld.param.u64 %rd1, [out]; st.global.u32 [%rd1], %r1; ret;\n}\n"
        ".visible .entry set() {\n" REGS
        "mov.u64 %rd1, c; cvta.const.u64 %rd1, %rd1; st.u32 [%rd1], 5; ret;\n}\n", NULL);
    const struct fdcpu_var *c, *g;
    uint32_t *out = ptx_buffer(4);

    CHECK(m);
    c = fdcpu_module_var(m, "c");
    g = fdcpu_module_var(m, "g");
    CHECK(c && g);
    CHECK_EQ(c->space, FDCPU_CONST);
    CHECK_EQ(c->size, 8);
    CHECK_EQ(*(uint32_t *)(uintptr_t)g->addr, 0x40400000);
    CHECK_EQ(ptx_run(m, "get", 1, 1, 1, PTX_PTR(out)), 0);
    CHECK_EQ(*out, 8);
    CHECK_EQ(ptx_run(m, "set", 1, 1, 0), 0);
    CHECK_EQ(*(uint32_t *)(uintptr_t)c->addr, 5);
    fdcpu_module_unload(m);
}

static void
test_printf_comes_in_the_order_of_blocks_and_assert_stops(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n"
        ".extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, "
        ".param .b64 s);\n"
        ".global .align 1 .b8 text[16] = {98, 61, 37, 100, 32, 37, 115, 37, 110, 10};\n"
        ".global .align 1 .b8 word[3] = {104, 105};\n"
        ".visible .entry say() {\n" REGS ".local .align 8 .b8 depot[16]; .reg .b64 %SP, %SPL;\n"
        "mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL; mov.u32 %r1, %ctaid.x;\n"
        "st.local.u32 [%SPL], %r1; mov.u64 %rd1, word; cvta.global.u64 %rd1, %rd1;\n"
        "st.local.u64 [%SPL+8], %rd1; mov.u64 %rd2, text; cvta.global.u64 %rd2, %rd2;\n"
        "{ .param .b64 a; .param .b64 b; .param .b32 c; st.param.b64 [a], %rd2;\n"
        "st.param.b64 [b], %SP; call.uni (c), vprintf, (a, b); } ret;\n}\n"
        ".visible .entry die() {\n" REGS
        "mov.u64 %rd1, word; cvta.global.u64 %rd1, %rd1;\n"
        "{ .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;\n"
        "st.param.b64 [a], %rd1; st.param.b64 [b], %rd1; st.param.b32 [c], 12;\n"
        "st.param.b64 [d], %rd1; st.param.b64 [e], 1;\n"
        "call.uni __assertfail, (a, b, c, d, e); } ret;\n}\n", NULL);
    char want[400] = "";

    CHECK(m);
    ptx_printed_size = 0;
    CHECK_EQ(ptx_run(m, "say", 20, 1, 0), 0);
    for (int k = 0; k < 20; k++)
        snprintf(want + strlen(want), sizeof(want) - strlen(want), "b=%d hi%%n\n", k);
    CHECK_STR(ptx_printed, want);
    ptx_printed_size = 0;
    CHECK_EQ(ptx_run(m, "die", 1, 1, 0), 710);
    CHECK(strstr(ptx_printed, "hi:12: hi: block: [0,0,0], thread: [0,0,0] Assertion `hi` failed."));
    fdcpu_module_unload(m);
}

static void
test_several_texts_become_one_module(void)
{
    static const char one[] = PTX_HEAD
        ".extern .func (.param .b32 r) other(.param .b32 a);\n.extern .global .u32 counter;\n"
        ".visible .entry k(.param .u64 out) {\n" REGS
        "{ .param .b32 a; .param .b32 b; st.param.b32 [a], 4; call.uni (b), other, (a);\n"
        "ld.param.b32 %r1, [b]; } ld.global.u32 %r2, [counter]; add.s32 %r1, %r1, %r2;\n"
        "ld.param.u64 %rd1, [out]; st.global.u32 [%rd1], %r1; ret;\n}\n";
    static const char two[] = PTX_HEAD
        ".visible .global .u32 counter = 30;\n.weak .global .u32 unused;\n"
        ".visible .func (.param .b32 r) other(.param .b32 a) {\n" REGS
        "ld.param.u32 %r1, [a]; mul.lo.s32 %r1, %r1, 3; st.param.b32 [r], %r1; ret;\n}\n";
    struct fdcpu_text texts[2] = { { "one", one, strlen(one) }, { "two", two, strlen(two) } };
    struct fdcpu_module *m;
    uint32_t *out = ptx_buffer(4);

    CHECK_EQ(fdcpu_module_load(texts, 2, &ptx_memory, NULL, &m), 0);
    CHECK_EQ(ptx_run(m, "k", 1, 1, 1, PTX_PTR(out)), 0);
    CHECK_EQ(*out, 42);
    fdcpu_module_unload(m);
}

static void
test_a_branch_table_and_a_guarded_store(void)
{
    struct fdcpu_module *m = ptx_load(PTX_HEAD
        ".visible .entry k(.param .u64 out) {\n" REGS
        "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3; mov.u32 %r3, 5;\n"
        "T: .branchtargets $A, $B, $C, $A;\n@%p1 bra $A;\nbrx.idx %r2, T;\n"
        "$A: mov.u32 %r3, 10; bra $END;\n$B: mov.u32 %r3, 20; bra $END;\n$C: mov.u32 %r3, 30;\n"
        "$END: setp.ne.u32 %p2, %r1, 9; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4;\n"
        "add.s64 %rd1, %rd1, %rd2; @%p2 st.global.u32 [%rd1], %r3; ret;\n}\n", NULL);
    uint32_t *out = ptx_buffer(128);

    CHECK(m);
    CHECK_EQ(ptx_run(m, "k", 1, 32, 1, PTX_PTR(out)), 0);
    for (uint32_t t = 0; t < 32; t++)
        CHECK_EQ(out[t], t == 9 ? 0 : t % 4 == 1 ? 20 : t % 4 == 2 ? 30 : 10);
    fdcpu_module_unload(m);
}

int
main(void)
{
    int failed = 0;

    RUN(test_saxpy_with_a_ragged_end);
    RUN(test_one_element_too_many_is_700_and_names_the_thread);
    RUN(test_mistakes_in_the_text_are_218_with_the_line);
    RUN(test_an_unknown_instruction_hurts_only_who_reaches_it);
    RUN(test_a_lock_taken_by_every_lane_is_given_to_each);
    RUN(test_barriers_in_both_arms_and_after_early_exits);
    RUN(test_a_barrier_that_nobody_else_reaches_is_a_deadlock);
    RUN(test_a_kernel_without_end_is_stopped_by_deadline_or_cancel);
    RUN(test_recursion_without_end_is_stopped_too);
    RUN(test_recursion_and_calls_through_a_table);
    RUN(test_shuffles_votes_and_partial_masks);
    RUN(test_constants_are_read_and_written_by_address);
    RUN(test_printf_comes_in_the_order_of_blocks_and_assert_stops);
    RUN(test_several_texts_become_one_module);
    RUN(test_a_branch_table_and_a_guarded_store);
    return failed;
}
