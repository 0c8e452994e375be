/* ops.def seen as FDCPU_OP(name, sig, forms); define that first. */
#define D_u32 "W"
#define D_s32 "W"
#define D_f32 "W"
#define D_u64 "L"
#define D_s64 "L"
#define D_f64 "L"
#define S_u32 "w"
#define S_s32 "w"
#define S_f32 "w"
#define S_u64 "l"
#define S_s64 "l"
#define S_f64 "l"
#define UN(name, td, ta, expr, forms) FDCPU_OP(name, D_##td S_##ta, forms)
#define BI(name, td, ta, tb, expr, forms) FDCPU_OP(name, D_##td S_##ta S_##tb, forms)
#define TR(name, td, ta, tb, tc, expr, forms) \
    FDCPU_OP(name, D_##td S_##ta S_##tb S_##tc, forms)
#define SUN UN
#define SBI BI
#define STR TR
#define CMP(name, ta, expr, forms) FDCPU_OP(name, "P" S_##ta S_##ta, forms)
#ifndef HAND
#define HAND(name, sig, forms) FDCPU_OP(name, sig, forms)
#endif
#ifndef SLOW
#define SLOW(name, sig, forms) FDCPU_OP(name, sig, forms)
#endif
#include "ops.def"
#undef D_u32
#undef D_s32
#undef D_f32
#undef D_u64
#undef D_s64
#undef D_f64
#undef S_u32
#undef S_s32
#undef S_f32
#undef S_u64
#undef S_s64
#undef S_f64
#undef UN
#undef BI
#undef TR
#undef SUN
#undef SBI
#undef STR
#undef CMP
#undef HAND
#undef SLOW
