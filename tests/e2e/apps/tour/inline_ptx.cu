// PTX in the source: special registers, carries, bit fields, permutes, saturation.
#include "tour.h"

__global__ void kernel(unsigned *o, unsigned long long *w)
{
    unsigned t = threadIdx.x, lane, warp, value, low, high;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm("mov.u32 %0, %%nctaid.x;" : "=r"(warp));
    unsigned *r = o + t * 16;
    r[0] = lane;
    r[1] = warp;
    asm("bfe.u32 %0, %1, 4, 8;" : "=r"(value) : "r"(0x12345678 + t));
    r[2] = value;
    asm("bfi.b32 %0, %1, %2, 8, 4;" : "=r"(value) : "r"(t), "r"(0xffffffff));
    r[3] = value;
    asm("prmt.b32 %0, %1, %2, 0x5140;" : "=r"(value) : "r"(0x04030201), "r"(0x08070605 + t));
    r[4] = value;
    asm("add.cc.u32 %0, %2, %3;\n\taddc.u32 %1, %4, 0;"
        : "=r"(low), "=r"(high) : "r"(0xfffffff0u), "r"(t), "r"(7));
    r[5] = low;
    r[6] = high;
    asm("mad.hi.u32 %0, %1, %2, 5;" : "=r"(value) : "r"(0x80000000u + t), "r"(6));
    r[7] = value;
    asm("brev.b32 %0, %1;" : "=r"(value) : "r"(t));
    r[8] = value;
    asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(value) : "r"(t), "r"(5), "r"(9));
    r[9] = value;
    asm("shf.l.wrap.b32 %0, %1, %2, %3;" : "=r"(value) : "r"(0x89abcdefu), "r"(0x01234567u), "r"(t));
    r[10] = value;
    float f;
    asm("add.sat.f32 %0, %1, %2;" : "=f"(f) : "f"(0.25f), "f"(t * 0.125f));
    r[11] = __float_as_uint(f);
    asm("vabsdiff4.u32.u32.u32.add %0, %1, %2, %3;" : "=r"(value) : "r"(0x01020304), "r"(t), "r"(1));
    r[12] = value;
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(value) : "r"(0x01020304), "r"(0x01010101 * t), "r"(2));
    r[13] = value;
    r[14] = __clz(t) * 100 + __ffs(t) * 10 + __popc(t);
    asm("{\n\t.reg .pred p;\n\tsetp.gt.u32 p, %1, 3;\n\tselp.u32 %0, 11, 22, p;\n\t}"
        : "=r"(value) : "r"(t));
    r[15] = value;
    unsigned long long product;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(0xffffffffu - t), "r"(0xfffffff0u));
    w[t] = product ^ __umul64hi(0x123456789abcdefull * t, 0xfedcba987654321ull);
}

int main()
{
    const int n = 32;
    Array<unsigned> o(n * 16);
    Array<unsigned long long> w(n);
    kernel<<<1, n>>>(o.device, w.device);
    o.down(), w.down();
    for (unsigned t = 0; t < n; t++) {
        unsigned *r = &o[t * 16], reversed = 0, sum = 1, dot = 2;
        for (int i = 0; i < 32; i++)
            reversed |= (t >> i & 1) << (31 - i);
        for (int i = 0; i < 4; i++) {
            sum += abs((int)(0x01020304 >> 8 * i & 255) - (int)(t >> 8 * i & 255));
            dot += (0x01020304 >> 8 * i & 255) * t;
        }
        MUST(r[0] == t && r[1] == 1 && r[2] == ((0x12345678 + t) >> 4 & 255));
        /* 0x5140: bytes 0, 4, 1, 5 of the pair, lowest first */
        unsigned second = 0x08070605 + t;
        MUST(r[3] == (0xfffff0ff | (t & 15) << 8));
        MUST(r[4] == (1u | (second & 255) << 8 | 2u << 16 | (second >> 8 & 255) << 24));
        MUST(r[5] == 0xfffffff0u + t && r[6] == 7 + (t >= 16));
        MUST(r[7] == (unsigned)((0x80000000ull + t) * 6 >> 32) + 5 && r[8] == reversed);
        MUST(r[9] == (t ^ 5 ^ 9));
        MUST(r[10] == (t ? 0x01234567u << t | 0x89abcdefu >> (32 - t) : 0x01234567u));
        float f = 0.25f + t * 0.125f, got;
        memcpy(&got, &r[11], 4);
        MUST(got == (f > 1 ? 1 : f) && r[12] == sum && r[13] == dot);
        MUST(r[14] == (unsigned)((t ? __builtin_clz(t) : 32) * 100 + __builtin_ffs(t) * 10 +
                                 __builtin_popcount(t)));
        MUST(r[15] == (t > 3 ? 11u : 22u));
        unsigned long long high =
            (unsigned long long)((unsigned __int128)(0x123456789abcdefull * t) * 0xfedcba987654321ull >> 64);
        MUST(w[t] == ((unsigned long long)(0xffffffffu - t) * 0xfffffff0u ^ high));
    }
    return tour_end();
}
