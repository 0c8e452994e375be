/*
 * Single instructions against values worked out by hand from the PTX manual: the corners
 * where a plain C expression would be wrong.
 */
#include "check.h"
#include "ptx.h"

struct form {
    const char *text;           /* r: %r0..3, d: %rd0..3 hold the operands a, b, c in 1..3 */
    char out;                   /* which register has the result: r, d or p */
    uint64_t a, b, c, want;
};

#define F1 0x3f800000u          /* 1.0f */
#define NAN32 0x7fffffffu

static const struct form forms[] = {
    /* shifts clamp */
    { "shl.b32 %r0, %r1, %r2;", 'r', 1, 31, 0, 0x80000000u },
    { "shl.b32 %r0, %r1, %r2;", 'r', 1, 32, 0, 0 },
    { "shr.s32 %r0, %r1, %r2;", 'r', 0x80000000u, 40, 0, 0xffffffffu },
    { "shr.u64 %rd0, %rd1, %r2;", 'd', 1ull << 63, 64, 0, 0 },
    { "shr.s64 %rd0, %rd1, %r2;", 'd', 1ull << 63, 99, 0, ~0ull },
    { "shf.l.wrap.b32 %r0, %r1, %r2, %r3;", 'r', 0x80000000u, 1, 1, 3 },
    { "shf.r.clamp.b32 %r0, %r1, %r2, %r3;", 'r', 1, 7, 40, 7 },
    /* integer corners */
    { "div.u32 %r0, %r1, %r2;", 'r', 5, 0, 0, 0xffffffffu },
    { "div.s32 %r0, %r1, %r2;", 'r', 0x80000000u, 0xffffffffu, 0, 0x80000000u },
    { "rem.s64 %rd0, %rd1, %rd2;", 'd', 1ull << 63, ~0ull, 0, 0 },
    { "mul.hi.s32 %r0, %r1, %r2;", 'r', 0x80000000u, 2, 0, 0xffffffffu },
    { "mul.hi.u64 %rd0, %rd1, %rd2;", 'd', ~0ull, ~0ull, 0, ~0ull - 1 },
    { "mul.hi.s64 %rd0, %rd1, %rd2;", 'd', ~0ull, 5, 0, ~0ull },
    { "mul.wide.s32 %rd0, %r1, %r2;", 'd', 0xffffffffu, 7, 0, (uint64_t)-7 },
    { "mad.wide.u32 %rd0, %r1, %r2, %rd3;", 'd', 0xffffffffu, 2, 10, 0x200000008ull },
    { "add.sat.s32 %r0, %r1, %r2;", 'r', 0x7fffffffu, 5, 0, 0x7fffffffu },
    { "add.cc.u32 %r0, %r1, %r2; addc.u32 %r0, %r3, 0;", 'r', 0xffffffffu, 1, 4, 5 },
    { "sub.cc.u32 %r0, %r1, %r2; subc.u32 %r0, %r3, 0;", 'r', 0, 1, 4, 3 },
    { "mad.lo.cc.u32 %r0, %r1, %r2, %r3; madc.hi.u32 %r0, %r1, %r2, 0;", 'r', 0xffffffffu,
      0xffffffffu, 0xffffffffu, 0xffffffffu },
    { "abs.s32 %r0, %r1;", 'r', 0xfffffff9u, 0, 0, 7 },
    { "popc.b64 %r0, %rd1;", 'r', ~0ull, 0, 0, 64 },
    { "clz.b32 %r0, %r1;", 'r', 0, 0, 0, 32 },
    { "brev.b64 %rd0, %rd1;", 'd', 1, 0, 0, 1ull << 63 },
    { "bfind.u32 %r0, %r1;", 'r', 0, 0, 0, 0xffffffffu },
    { "bfind.shiftamt.u32 %r0, %r1;", 'r', 0x10, 0, 0, 27 },
    { "bfind.s32 %r0, %r1;", 'r', 0xfffffff0u, 0, 0, 3 },
    { "bfe.u32 %r0, %r1, %r2, %r3;", 'r', 0xabcd1234u, 8, 8, 0x12 },
    { "bfe.s32 %r0, %r1, %r2, %r3;", 'r', 0x0000f000u, 12, 4, 0xffffffffu },
    { "bfe.s32 %r0, %r1, %r2, %r3;", 'r', 0x80000000u, 40, 4, 0xffffffffu },
    { "bfi.b32 %r0, %r1, %r2, 8, 8;", 'r', 0xab, 0xffffffffu, 0, 0xffffabffu },
    { "bfi.b64 %rd0, %rd1, %rd2, 60, 8;", 'd', 0xff, 0, 0, 0xfull << 60 },
    { "bmsk.clamp.b32 %r0, %r1, %r2;", 'r', 4, 8, 0, 0xff0 },
    { "prmt.b32 %r0, %r1, %r2, %r3;", 'r', 0x33221100u, 0x77665544u, 0x7531, 0x77553311u },
    { "prmt.b32 %r0, %r1, %r2, %r3;", 'r', 0x80000000u, 0, 0xbbbb, 0xffffffffu },
    { "lop3.b32 %r0, %r1, %r2, %r3, 0x96;", 'r', 0xf0, 0xcc, 0xaa, 0xf0 ^ 0xcc ^ 0xaa },
    { "sad.s32 %r0, %r1, %r2, %r3;", 'r', 0xfffffffeu, 3, 10, 15 },
    { "dp4a.s32.s32 %r0, %r1, %r2, %r3;", 'r', 0xff01ff01u, 0x02020202u, 100, 100 },
    { "vabsdiff4.u32.u32.u32.add %r0, %r1, %r2, %r3;", 'r', 0x01020304u, 0x04030201u, 1, 9 },
    { "min.s16x2 %r0, %r1, %r2;", 'r', 0x7fff8000u, 0x00010001u, 0, 0x00018000u },
    /* narrow values in wide registers and the other way round */
    { "cvt.s32.s8 %r0, %r1;", 'r', 0x1ff, 0, 0, 0xffffffffu },
    { "cvt.u64.u8 %rd0, %r1;", 'd', 0x1ff, 0, 0, 0xff },
    { "cvt.sat.u8.s32 %r0, %r1;", 'r', 0xfffffff0u, 0, 0, 0 },
    { "cvt.sat.s8.s32 %r0, %r1;", 'r', 300, 0, 0, 127 },
    { "cvt.sat.u32.s64 %r0, %rd1;", 'r', (uint64_t)-5, 0, 0, 0 },
    /* float to integer: clamp, NaN is 0 (the top bit for 64 bits) */
    { "mov.b32 %f1, %r1; cvt.rzi.s32.f32 %r0, %f1;", 'r', 0x7f800000u, 0, 0, 0x7fffffffu },
    { "mov.b32 %f1, %r1; cvt.rzi.s32.f32 %r0, %f1;", 'r', NAN32, 0, 0, 0 },
    { "mov.b32 %f1, %r1; cvt.rzi.u32.f32 %r0, %f1;", 'r', 0xbf800000u, 0, 0, 0 },
    { "mov.b32 %f1, %r1; cvt.rni.s32.f32 %r0, %f1;", 'r', 0x40200000u, 0, 0, 2 },
    { "mov.b32 %f1, %r1; cvt.rpi.s32.f32 %r0, %f1;", 'r', 0x40100000u, 0, 0, 3 },
    { "mov.b32 %f1, %r1; cvt.rmi.s32.f32 %r0, %f1;", 'r', 0xc0100000u, 0, 0, 0xfffffffdu },
    { "mov.b64 %fd1, %rd1; cvt.rzi.s64.f64 %rd0, %fd1;", 'd', 0x7ff8000000000000ull, 0, 0,
      1ull << 63 },
    { "mov.b64 %fd1, %rd1; cvt.rzi.u64.f64 %rd0, %fd1;", 'd', 0x7ff0000000000000ull, 0, 0,
      ~0ull },
    /* integer to float, each rounding */
    { "cvt.rn.f32.u32 %f0, %r1; mov.b32 %r0, %f0;", 'r', 0xffffffffu, 0, 0, 0x4f800000u },
    { "cvt.rz.f32.u32 %f0, %r1; mov.b32 %r0, %f0;", 'r', 0xffffffffu, 0, 0, 0x4f7fffffu },
    { "cvt.rp.f32.s32 %f0, %r1; mov.b32 %r0, %f0;", 'r', 0x7fffffffu, 0, 0, 0x4f000000u },
    { "cvt.rn.f32.s64 %f0, %rd1; mov.b32 %r0, %f0;", 'r', (uint64_t)-1, 0, 0, 0xbf800000u },
    { "mov.b64 %fd1, %rd1; cvt.rn.f32.f64 %f0, %fd1; mov.b32 %r0, %f0;", 'r',
      0x3ff0000010000000ull, 0, 0, F1 },
    { "mov.b64 %fd1, %rd1; cvt.rp.f32.f64 %f0, %fd1; mov.b32 %r0, %f0;", 'r',
      0x3ff0000010000000ull, 0, 0, F1 + 1 },
    /* half floats */
    { "mov.b32 %f1, %r1; cvt.rn.f16.f32 %rs0, %f1; cvt.u32.u16 %r0, %rs0;", 'r', F1, 0, 0,
      0x3c00 },
    { "mov.b32 %f1, %r1; cvt.rn.f16.f32 %rs0, %f1; cvt.u32.u16 %r0, %rs0;", 'r', 0x477ff000u,
      0, 0, 0x7c00 },
    { "mov.b32 %f1, %r1; cvt.rz.f16.f32 %rs0, %f1; cvt.u32.u16 %r0, %rs0;", 'r', 0x477ff000u,
      0, 0, 0x7bff },
    { "mov.b32 %f1, %r1; cvt.rn.f16.f32 %rs0, %f1; cvt.u32.u16 %r0, %rs0;", 'r', 0x33800000u,
      0, 0, 1 },
    { "mov.b32 %f1, %r1; cvt.rn.bf16.f32 %rs0, %f1; cvt.u32.u16 %r0, %rs0;", 'r', 0x3f808000u,
      0, 0, 0x3f80 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; cvt.rn.f16x2.f32 %r0, %f1, %f2;", 'r', F1,
      0x40000000u, 0, 0x3c004000u },
    { "fma.rn.f16x2 %r0, %r1, %r2, %r3;", 'r', 0x3c004000u, 0x40004000u, 0x3c003c00u,
      0x42004500u },
    { "mov.b32 %f1, %r1; cvt.rna.tf32.f32 %r0, %f1;", 'r', 0x3f801000u, 0, 0, 0x3f802000u },
    /* single precision: canonical NaN, flushing, saturation, rounding */
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; add.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      0x7f800000u, 0xff800000u, 0, NAN32 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; add.ftz.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      0x00000001u, 0, 0, 0 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; add.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      0x00000001u, 0, 0, 1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; add.sat.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      F1, F1, 0, F1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; add.rp.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      F1, 1, 0, F1 + 1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; add.rm.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      F1, 0x80000001u, 0, F1 - 1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; min.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      NAN32, F1, 0, F1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; min.NaN.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      NAN32, F1, 0, NAN32 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; min.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      0, 0x80000000u, 0, 0x80000000u },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; max.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      0x80000000u, 0, 0, 0 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; copysign.f32 %f0, %f1, %f2; mov.b32 %r0, %f0;", 'r',
      0x80000000u, F1, 0, 0xbf800000u },
    { "mov.b32 %f1, %r1; sqrt.rz.f32 %f0, %f1; mov.b32 %r0, %f0;", 'r', 0x40000000u, 0, 0,
      0x3fb504f3u },
    { "mov.b32 %f1, %r1; ex2.approx.f32 %f0, %f1; mov.b32 %r0, %f0;", 'r', 0x40400000u, 0, 0,
      0x41000000u },
    { "mov.b32 %f1, %r1; lg2.approx.f32 %f0, %f1; mov.b32 %r0, %f0;", 'r', 0x41000000u, 0, 0,
      0x40400000u },
    { "mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2; mov.b64 %fd3, %rd3; "
      "fma.rn.f64 %fd0, %fd1, %fd2, %fd3; mov.b64 %rd0, %fd0;", 'd', 0x3ff0000000000001ull,
      0x3ff0000000000001ull, 0xbff0000000000002ull, 0x3970000000000000ull },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3; fma.rn.f32 %f0, %f1, %f2, %f3; "
      "mov.b32 %r0, %f0;", 'r', 0x3f800001u, 0x3f800001u, 0xbf800002u, 0x28800000u },
    /* comparisons with NaN, and how predicates are combined */
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; setp.lt.f32 %p0, %f1, %f2;", 'p', NAN32, F1, 0, 0 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; setp.ltu.f32 %p0, %f1, %f2;", 'p', NAN32, F1, 0, 1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; setp.ne.f32 %p0, %f1, %f2;", 'p', NAN32, F1, 0, 0 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; setp.neu.f32 %p0, %f1, %f2;", 'p', NAN32, F1, 0, 1 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; setp.geu.f32 %p0, %f1, %f2;", 'p', F1, 0x40000000u,
      0, 0 },
    { "mov.b32 %f1, %r1; mov.b32 %f2, %r2; setp.num.f32 %p0, %f1, %f2;", 'p', NAN32, F1, 0, 0 },
    { "setp.hi.u32 %p0, %r1, %r2;", 'p', 0x80000000u, 1, 0, 1 },
    { "setp.gt.s32 %p0, %r1, %r2;", 'p', 0x80000000u, 1, 0, 0 },
    { "setp.eq.s32 %p1, %r3, 1; setp.lt.and.s32 %p2|%p0, %r1, %r2, %p1;", 'p', 5, 3, 1, 1 },
    { "setp.eq.s32 %p1, %r3, 1; setp.lt.or.s32 %p0, %r1, %r2, !%p1;", 'p', 5, 3, 0, 1 },
    { "set.gt.u32.s32 %r0, %r1, %r2;", 'r', 5, 3, 0, 0xffffffffu },
    { "set.gt.f32.s32 %f0, %r1, %r2; mov.b32 %r0, %f0;", 'r', 5, 3, 0, F1 },
    { "slct.u32.s32 %r0, %r1, %r2, %r3;", 'r', 5, 3, 0xffffffffu, 3 },
    /* packing */
    { "mov.b64 %rd0, {%r1, %r2};", 'd', 0x11111111u, 0x22222222u, 0, 0x2222222211111111ull },
    { "mov.b64 {%r0, %r3}, %rd1; mov.b32 %r0, %r3;", 'r', 0x2222222211111111ull, 0, 0,
      0x22222222u },
    { "mov.b32 {%rs0, %rs1}, %r1; mov.b32 %r0, {%rs1, %rs0};", 'r', 0x22221111u, 0, 0,
      0x11112222u },
};

static void
every_form_gives_its_value(void)
{
    uint64_t *out = ptx_buffer(16), *in = ptx_buffer(24);
    int bad = 0;

    for (size_t k = 0; k < sizeof(forms) / sizeof(*forms); k++) {
        const struct form *f = &forms[k];
        char text[2048];
        struct fdcpu_module *m;
        int res;

        snprintf(text, sizeof(text),
                 PTX_HEAD
                 ".visible .entry k(.param .u64 out, .param .u64 in) {\n"
                 ".reg .b32 %%r<4>; .reg .b64 %%rd<8>; .reg .f32 %%f<4>; .reg .f64 %%fd<4>;\n"
                 ".reg .b16 %%rs<4>; .reg .pred %%p<4>;\n"
                 "ld.param.u64 %%rd4, [out]; ld.param.u64 %%rd5, [in];\n"
                 "ld.global.u64 %%rd1, [%%rd5]; ld.global.u64 %%rd2, [%%rd5+8];\n"
                 "ld.global.u64 %%rd3, [%%rd5+16]; cvt.u32.u64 %%r1, %%rd1;\n"
                 "cvt.u32.u64 %%r2, %%rd2; cvt.u32.u64 %%r3, %%rd3;\n%s\n%s\n"
                 "st.global.u64 [%%rd4], %%rd0;\nret;\n}\n",
                 f->text, f->out == 'r'   ? "cvt.u64.u32 %rd0, %r0;"
                          : f->out == 'p' ? "selp.b64 %rd0, 1, 0, %p0;" : "");
        m = ptx_load(text, &res);
        if (res) {
            fprintf(stderr, "%s: %d %s", f->text, res, ptx_log);
            bad++;
            continue;
        }
        in[0] = f->a, in[1] = f->b, in[2] = f->c;
        res = ptx_run(m, "k", 1, 32, 2, PTX_PTR(out), PTX_PTR(in));
        if (res || out[0] != f->want) {
            fprintf(stderr, "%s: result %d %s, 0x%llx instead of 0x%llx\n", f->text, res,
                    ptx_fault.report, (unsigned long long)out[0], (unsigned long long)f->want);
            bad++;
        }
        /* and with one lane alone, where handlers take another way */
        out[0] = 0;
        res = ptx_run(m, "k", 1, 1, 2, PTX_PTR(out), PTX_PTR(in));
        if (res || out[0] != f->want) {
            fprintf(stderr, "%s: one lane: result %d, 0x%llx instead of 0x%llx\n", f->text, res,
                    (unsigned long long)out[0], (unsigned long long)f->want);
            bad++;
        }
        fdcpu_module_unload(m);
    }
    CHECK_EQ(bad, 0);
    ptx_free(out);
    ptx_free(in);
}

int
main(void)
{
    int failed = 0;

    RUN(every_form_gives_its_value);
    return failed;
}
