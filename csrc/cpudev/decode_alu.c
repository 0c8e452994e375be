/* Arithmetic, comparisons, conversions and moves that are more than one row of ops.def. */
#include "decode.h"
#include "slow.h"

#include <stdio.h>

static uint32_t
tmp(struct dec *d, char cls)
{
    return dec_vreg(d, cls);
}

/* ---- mov ---- */

/* Parts of a vector as registers of one class, first the lowest bits. */
static bool
lower_mov(struct dec *d)
{
    enum fdcpu_type t = dec_type(d, 0);
    char cls = dec_class(t), part;
    struct opnd *o = d->op;
    uint32_t v[MAX_VEC], n;

    dec_need(d, 2, 2);
    if (!t)
        return false;
    if (o[0].kind == O_VEC) {           /* unpack */
        uint32_t src = dec_src(d, &o[1], cls, t);

        n = o[0].nvec;
        if (cls == 'q' && n == 2) {
            for (uint32_t k = 0; k < 2; k++)
                dec_emit(d, OP_unpack128, dec_dst(d, &o[0].vec[k], 'l', false), src, 0, 0)
                    ->aux = k;
        } else if (cls == 'l' && n == 2) {
            /* through temporaries: a part may be written over its source's name */
            v[0] = tmp(d, 'w'), v[1] = tmp(d, 'w');
            dec_emit(d, OP_lo32, v[0], src, 0, 0);
            dec_emit(d, OP_hi32, v[1], src, 0, 0);
            for (uint32_t k = 0; k < 2; k++)
                if (o[0].vec[k].kind != O_SINK)
                    dec_emit(d, OP_mov32, dec_dst(d, &o[0].vec[k], 'w', false), v[k], 0, 0);
        } else if (cls == 'l' && n == 4) {
            v[0] = tmp(d, 'w'), v[2] = tmp(d, 'w');
            dec_emit(d, OP_lo32, v[0], src, 0, 0);
            dec_emit(d, OP_hi32, v[2], src, 0, 0);
            for (uint32_t k = 0; k < 4; k++)
                if (o[0].vec[k].kind != O_SINK)
                    dec_emit(d, k & 1 ? OP_hi16 : OP_zext16,
                             dec_dst(d, &o[0].vec[k], 'w', false), v[k & 2], 0, 0);
        } else if (cls == 'w' && n == 2) {
            bool bytes = fdcpu_type_size(t) == 2;

            v[0] = tmp(d, 'w');
            dec_emit(d, OP_mov32, v[0], src, 0, 0);
            for (uint32_t k = 0; k < 2; k++)
                if (o[0].vec[k].kind != O_SINK)
                    dec_emit(d, bytes ? (k ? OP_byte1 : OP_zext8) : (k ? OP_hi16 : OP_zext16),
                             dec_dst(d, &o[0].vec[k], 'w', false), v[0], 0, 0);
        } else if (cls == 'w' && n == 4) {
            v[0] = tmp(d, 'w'), v[1] = tmp(d, 'w');
            dec_emit(d, OP_mov32, v[0], src, 0, 0);
            dec_emit(d, OP_hi16, v[1], v[0], 0, 0);
            for (uint32_t k = 0; k < 4; k++)
                if (o[0].vec[k].kind != O_SINK)
                    dec_emit(d, k & 1 ? OP_byte1 : OP_zext8,
                             dec_dst(d, &o[0].vec[k], 'w', false), v[k >> 1], 0, 0);
        } else {
            return false;
        }
        dec_finish(d);
        return true;
    }
    if (o[1].kind == O_VEC) {           /* pack */
        n = o[1].nvec;
        part = cls == 'q' ? 'l' : 'w';
        if (n != 2 && n != 4)
            return false;
        for (uint32_t k = 0; k < n; k++)
            v[k] = dec_src(d, &o[1].vec[k], part, T_B32);
        if (n == 4) {
            enum fdcpu_op half = cls == 'l' ? OP_pack32 : OP_pack16;
            uint32_t lo = tmp(d, 'w'), hi = tmp(d, 'w');

            if (cls == 'q')
                return false;
            dec_emit(d, half, lo, v[0], v[1], 0);
            dec_emit(d, half, hi, v[2], v[3], 0);
            v[0] = lo, v[1] = hi;
        }
        dec_emit(d, cls == 'q' ? OP_pack128 : cls == 'l' ? OP_pack64
                    : fdcpu_type_size(t) == 2 ? OP_pack16 : OP_pack32,
                 dec_dst(d, &o[0], cls, false), v[0], v[1], 0);
        dec_finish(d);
        return true;
    }
    return false;
}

/* ---- comparisons ---- */

struct cmp { const char *name; uint8_t cmp; bool un; };     /* un: true for NaN operands */
static const struct cmp cmps[] = {
    { "eq", CMP_EQ, 0 }, { "ne", CMP_NE, 0 }, { "lt", CMP_LT, 0 }, { "le", CMP_LE, 0 },
    { "gt", CMP_GT, 0 }, { "ge", CMP_GE, 0 }, { "lo", CMP_LT, 0 }, { "ls", CMP_LE, 0 },
    { "hi", CMP_GT, 0 }, { "hs", CMP_GE, 0 }, { "equ", CMP_EQ, 1 }, { "neu", CMP_NE, 1 },
    { "ltu", CMP_LT, 1 }, { "leu", CMP_LE, 1 }, { "gtu", CMP_GT, 1 }, { "geu", CMP_GE, 1 },
};
enum { CMP_NUM = 8, CMP_NAN };

/* Emits a comparison of sources a and b into predicate dst. False: no such comparison. */
static bool
compare(struct dec *d, uint32_t dst, const char *s, uint32_t n, enum fdcpu_type t, uint32_t a,
        uint32_t b)
{
    int cmp = -1;
    bool un = false, neg = false, sign = fdcpu_type_signed(t), flt = fdcpu_type_float(t);
    unsigned size = fdcpu_type_size(t), z;
    static const enum fdcpu_op flts[2][5] = {
        { OP_eqf32, OP_nef32, OP_ltf32, OP_lef32, OP_numf32 },
        { OP_eqf64, OP_nef64, OP_ltf64, OP_lef64, OP_numf64 },
    };
    static const enum fdcpu_op ints[3][2][3] = {
        { { OP_eq16, OP_ltu16, OP_leu16 }, { OP_eq16, OP_lts16, OP_les16 } },
        { { OP_eq32, OP_ltu32, OP_leu32 }, { OP_eq32, OP_lts32, OP_les32 } },
        { { OP_eq64, OP_ltu64, OP_leu64 }, { OP_eq64, OP_lts64, OP_les64 } },
    };
    enum fdcpu_op op;
    struct fdcpu_insn *i;

    for (size_t k = 0; k < sizeof(cmps) / sizeof(*cmps); k++)
        if (dec_is(s, n, cmps[k].name))
            cmp = cmps[k].cmp, un = cmps[k].un;
    if (dec_is(s, n, "num"))
        cmp = CMP_NUM;
    if (dec_is(s, n, "nan"))
        cmp = CMP_NAN;
    if (cmp < 0 || ((un || cmp >= CMP_NUM) && !flt) || size > 8)
        return false;
    if (cmp == CMP_GT || cmp == CMP_GE) {
        z = a, a = b, b = z;
        cmp = cmp == CMP_GT ? CMP_LT : CMP_LE;
    }
    if (flt) {
        const enum fdcpu_op *ops = flts[size == 8];

        if (cmp >= CMP_NUM) {
            op = ops[4];
            neg = cmp == CMP_NAN;
        } else if (!un) {
            op = ops[cmp == CMP_EQ ? 0 : cmp == CMP_NE ? 1 : cmp == CMP_LT ? 2 : 3];
        } else {                /* turn round: a ltu b is not b le a */
            neg = true;
            op = ops[cmp == CMP_EQ ? 1 : cmp == CMP_NE ? 0 : cmp == CMP_LT ? 3 : 2];
            if (cmp == CMP_LT || cmp == CMP_LE)
                z = a, a = b, b = z;
        }
    } else {
        const enum fdcpu_op *ops = ints[size <= 2 ? 0 : size == 4 ? 1 : 2][sign];

        neg = cmp == CMP_NE;
        op = ops[cmp == CMP_EQ || cmp == CMP_NE ? 0 : cmp == CMP_LT ? 1 : 2];
    }
    i = dec_emit(d, op, dst, a, b, 0);
    i->aux = neg;
    return true;
}

/* Source of a comparison: half floats become single, .ftz flushes. */
static uint32_t
compare_src(struct dec *d, const struct opnd *o, enum fdcpu_type *t, bool ftz)
{
    uint32_t v = dec_src(d, o, dec_class(*t), *t), w;

    if (*t == T_F16 || *t == T_BF16) {
        w = tmp(d, 'w');
        if (ftz && *t == T_F16) {
            dec_emit(d, OP_ftz16, w, v, 0, 0);
            v = w;
            w = tmp(d, 'w');
        }
        dec_emit(d, *t == T_F16 ? OP_f16f32 : OP_bf16f32, w, v, 0, 0);
        v = w;
    } else if (ftz && *t == T_F32) {
        w = tmp(d, 'w');
        dec_emit(d, OP_ftz32, w, v, 0, 0);
        v = w;
    }
    return v;
}

/* Halves of packed floats as single precision. */
static uint32_t
half(struct dec *d, uint32_t v, enum fdcpu_type t, int k)
{
    uint32_t h = v, f = tmp(d, 'w');

    if (k) {
        h = tmp(d, 'w');
        dec_emit(d, OP_hi16, h, v, 0, 0);
    }
    dec_emit(d, t == T_F16X2 ? OP_f16f32 : OP_bf16f32, f, h, 0, 0);
    return f;
}

static bool
bool_mod(struct dec *d, uint32_t k, enum fdcpu_op *op)
{
    if (k >= d->nmod)
        return false;
    if (dec_is(d->mod[k].s, d->mod[k].n, "and"))
        *op = OP_pand;
    else if (dec_is(d->mod[k].s, d->mod[k].n, "or"))
        *op = OP_por;
    else if (dec_is(d->mod[k].s, d->mod[k].n, "xor"))
        *op = OP_pxor;
    else
        return false;
    return true;
}

static bool
lower_setp(struct dec *d)
{
    enum fdcpu_type t = dec_type(d, 0), st = t;
    enum fdcpu_op bop = OP_pand;
    bool ftz = dec_mod(d, "ftz"), combine = bool_mod(d, 1, &bop);
    uint32_t a, b, c = 0, p[2], q = 0, v;

    if (!t || !d->nmod)
        return false;
    dec_need(d, combine ? 4 : 3, combine ? 4 : 3);
    if (combine)
        c = dec_pred(d, &d->op[3]);
    if (t == T_F16X2 || t == T_BF16X2) {        /* p|q: one a half */
        uint32_t x = dec_src(d, &d->op[1], 'w', t), y = dec_src(d, &d->op[2], 'w', t);

        p[0] = tmp(d, 'p'), p[1] = tmp(d, 'p');
        for (int k = 0; k < 2; k++) {
            if (!compare(d, p[k], d->mod[0].s, d->mod[0].n, T_F32, half(d, x, t, k),
                         half(d, y, t, k)))
                return false;
            if (combine)
                dec_emit(d, bop, p[k], p[k], c, 0);
        }
        dec_emit(d, OP_pmov, dec_dst(d, &d->op[0], 'p', false), p[0], 0, 0);
        if (d->op[0].has_pair && d->op[0].pair != UINT32_MAX)
            dec_emit(d, OP_pmov, d->op[0].pair, p[1], 0, 0);
        return true;
    }
    a = compare_src(d, &d->op[1], &t, ftz);
    b = compare_src(d, &d->op[2], &t, ftz);
    if (t == T_F16 || t == T_BF16)
        st = T_F32;
    p[0] = dec_dst(d, &d->op[0], 'p', false);
    if (d->op[0].has_pair && d->op[0].pair != UINT32_MAX)
        q = d->op[0].pair;
    if (!combine && !q)
        return compare(d, p[0], d->mod[0].s, d->mod[0].n, st, a, b);
    v = tmp(d, 'p');
    if (!compare(d, v, d->mod[0].s, d->mod[0].n, st, a, b))
        return false;
    if (!combine) {
        dec_emit(d, OP_pmov, p[0], v, 0, 0);
        dec_emit(d, OP_pnot, q, v, 0, 0);
        return true;
    }
    if (q) {                    /* the combining predicate may be the first result */
        uint32_t w = tmp(d, 'p');

        dec_emit(d, bop == OP_pand ? OP_pandn : bop == OP_por ? OP_porn : OP_pxorn, w, v, c, 0);
        dec_emit(d, bop, p[0], v, c, 0);
        dec_emit(d, OP_pmov, q, w, 0, 0);
    } else {
        dec_emit(d, bop, p[0], v, c, 0);
    }
    return true;
}

/* set: a number instead of a predicate */
static bool
lower_set(struct dec *d)
{
    enum fdcpu_type st = dec_type(d, 0), dt = dec_type(d, 1), ct = st;
    enum fdcpu_op bop = OP_pand;
    bool ftz = dec_mod(d, "ftz"), combine = bool_mod(d, 1, &bop);
    bool packed = st == T_F16X2 || st == T_BF16X2;
    uint32_t a, b, c = 0, p = tmp(d, 'p'), yes, no, r[2];

    if (!st)
        return false;
    if (!dt)                    /* set.lt.f16x2.f16x2 has two, set.lt.u32 none */
        dt = st;
    dec_need(d, combine ? 4 : 3, combine ? 4 : 3);
    if (combine)
        c = dec_pred(d, &d->op[3]);
    no = dec_const(d, 0, 'w', 0);
    if (packed) {
        uint32_t one = dt == T_F16X2 ? 0x3c00 : dt == T_BF16X2 ? 0x3f80 : 0xffff;

        a = dec_src(d, &d->op[1], 'w', st);
        b = dec_src(d, &d->op[2], 'w', st);
        yes = dec_const(d, one, 'w', 0);
        for (int k = 0; k < 2; k++) {
            if (!compare(d, p, d->mod[0].s, d->mod[0].n, T_F32, half(d, a, st, k),
                         half(d, b, st, k)))
                return false;
            if (combine)
                dec_emit(d, bop, p, p, c, 0);
            r[k] = tmp(d, 'w');
            dec_emit(d, OP_sel32, r[k], yes, no, p);
        }
        dec_emit(d, OP_pack32, dec_dst(d, &d->op[0], 'w', false), r[0], r[1], 0);
        dec_finish(d);
        return true;
    }
    a = compare_src(d, &d->op[1], &ct, ftz);
    b = compare_src(d, &d->op[2], &ct, ftz);
    if (ct == T_F16 || ct == T_BF16)
        ct = T_F32;
    if (!compare(d, p, d->mod[0].s, d->mod[0].n, ct, a, b))
        return false;
    if (combine)
        dec_emit(d, bop, p, p, c, 0);
    yes = dec_const(d, dt == T_F32 ? 0x3f800000 : dt == T_F16 ? 0x3c00
                       : dt == T_BF16 ? 0x3f80 : fdcpu_type_size(dt) == 2 ? 0xffff
                                                                           : 0xffffffffu,
                    'w', 0);
    dec_emit(d, OP_sel32, dec_dst(d, &d->op[0], 'w', false), yes, no, p);
    dec_finish(d);
    return true;
}

static bool
lower_testp(struct dec *d)
{
    static const char *const names[] = { "finite", "infinite", "number", "notanumber", "normal",
                                         "subnormal" };
    enum fdcpu_type t = dec_type(d, 0);

    dec_need(d, 2, 2);
    for (uint32_t k = 0; k < 6; k++)
        if (dec_mod(d, names[k]) && (t == T_F32 || t == T_F64)) {
            uint32_t a = dec_src(d, &d->op[1], dec_class(t), t);

            dec_emit(d, t == T_F64 ? OP_testp64 : OP_testp32, dec_dst(d, &d->op[0], 'p', 0), a,
                     0, 0)->aux2 = k;
            return true;
        }
    return false;
}

/* ---- carries ---- */

static uint32_t
carry(struct dec *d)
{
    if (!d->carry)
        d->carry = tmp(d, 'p');
    return d->carry;
}

static bool
lower_carry(struct dec *d)
{
    bool in = d->form[d->base_n - 1] == 'c', out = dec_mod(d, "cc");
    bool sub = d->form[0] == 's', mad = d->form[0] == 'm';
    enum fdcpu_type t = dec_type(d, 0);
    char cls = dec_class(t);
    uint32_t a, b, v;

    if ((!in && !out) || (cls != 'w' && cls != 'l') || fdcpu_type_size(t) < 4 ||
        fdcpu_type_float(t))
        return false;
    dec_need(d, mad ? 4 : 3, mad ? 4 : 3);
    a = dec_src(d, &d->op[1], cls, t);
    b = dec_src(d, &d->op[2], cls, t);
    if (mad) {
        bool sign = fdcpu_type_signed(t);
        enum fdcpu_op op = dec_mod(d, "lo") ? (cls == 'l' ? OP_mul64 : OP_mul32)
                           : cls == 'l'     ? (sign ? OP_mulhis64 : OP_mulhiu64)
                                            : (sign ? OP_mulhis32 : OP_mulhiu32);

        v = tmp(d, cls);
        dec_emit(d, op, v, a, b, 0);
        a = v;
        b = dec_src(d, &d->op[3], cls, t);
    }
    dec_emit(d, cls == 'l' ? OP_carry64 : OP_carry32, dec_dst(d, &d->op[0], cls, false), a, b,
             carry(d))
        ->aux = (sub ? CARRY_SUB : 0) | (in ? CARRY_IN : 0) | (out ? CARRY_OUT : 0);
    dec_finish(d);
    return true;
}

/* ---- conversions ---- */

static int
rounding(const struct dec *d, bool *integer)
{
    static const struct { const char *name; int mode; bool integer; } modes[] = {
        { "rn", RND_RN, 0 }, { "rz", RND_RZ, 0 }, { "rm", RND_RM, 0 }, { "rp", RND_RP, 0 },
        { "rna", RND_RNA, 0 }, { "rs", RND_RS, 0 }, { "rni", RND_RN, 1 }, { "rzi", RND_RZ, 1 },
        { "rmi", RND_RM, 1 }, { "rpi", RND_RP, 1 },
    };

    *integer = false;
    for (size_t k = 0; k < sizeof(modes) / sizeof(*modes); k++)
        if (dec_mod(d, modes[k].name)) {
            *integer = modes[k].integer;
            return modes[k].mode;
        }
    return RND_NONE;
}

static bool
lower_cvt(struct dec *d)
{
    enum fdcpu_type dt = dec_type(d, 1), st = dec_type(d, 0);
    bool integer;
    int mode = rounding(d, &integer);
    char dc, sc;
    uint32_t aux, a, b;
    enum fdcpu_op op;

    if (!dt || !st || mode == RND_RS)
        return false;
    if (dec_mod(d, "pack")) {           /* cvt.pack.sat.u8.s32.b32 d, a, b, c */
        enum fdcpu_type t3 = dec_type(d, 2);
        uint32_t c;

        dec_need(d, 3, 4);
        if (d->nop == 4)
            dt = t3, st = T_S32;
        a = dec_src(d, &d->op[1], 'w', T_S32);
        b = dec_src(d, &d->op[2], 'w', T_S32);
        c = d->nop == 4 ? dec_src(d, &d->op[3], 'w', T_B32) : dec_const(d, 0, 'w', 0);
        if (dt != T_U8 && dt != T_S8 && dt != T_U16 && dt != T_S16)
            return false;
        dec_emit(d, OP_cvt_pack, dec_dst(d, &d->op[0], 'w', false), a, b, c)->aux =
            (uint32_t)dt | CVT_SAT;
        dec_finish(d);
        return true;
    }
    aux = (uint32_t)dt | (uint32_t)st << 6 | (uint32_t)mode << 12 | (integer ? CVT_INT : 0) |
          (dec_mod(d, "sat") ? CVT_SAT : 0) | (dec_mod(d, "ftz") ? CVT_FTZ : 0) |
          (dec_mod(d, "relu") ? CVT_RELU : 0) | (dec_mod(d, "satfinite") ? CVT_SATFINITE : 0);
    if (d->nop == 3) {                  /* two singles into one packed pair */
        switch (dt) {
        case T_F16X2: case T_BF16X2: case T_E4M3X2: case T_E5M2X2: case T_E2M1X2:
        case T_E2M3X2: case T_E3M2X2: case T_UE8M0X2:
            break;
        default:
            return false;
        }
        if (st != T_F32 && !(st == T_BF16X2 && dt == T_UE8M0X2))
            return false;
        a = dec_src(d, &d->op[1], 'w', T_F32);
        b = dec_src(d, &d->op[2], 'w', T_F32);
        dec_emit(d, OP_cvt_pack, dec_dst(d, &d->op[0], 'w', false), a, b,
                 dec_const(d, 0, 'w', 0))
            ->aux = aux;
        dec_finish(d);
        return true;
    }
    dec_need(d, 2, 2);
    if (dt == T_PRED || st == T_PRED)
        return false;
    dc = dec_class(dt), sc = dec_class(st);
    if (dc == 'q' || sc == 'q')
        return false;
    op = dc == 'l' ? (sc == 'l' ? OP_cvt_ll : OP_cvt_lw) : (sc == 'l' ? OP_cvt_wl : OP_cvt_ww);
    a = dec_src(d, &d->op[1], sc, st);
    dec_emit(d, op, dec_dst(d, &d->op[0], dc, fdcpu_type_signed(dt)), a, 0, 0)->aux = aux;
    dec_finish(d);
    return true;
}

/* ---- bits ---- */

static bool
lower_lop3(struct dec *d)
{
    uint32_t a, b, c;
    bool pred = d->nop == 6;

    if (!dec_mod(d, "b32"))
        return false;
    dec_need(d, 5, 6);
    if (d->op[4].kind != O_IMM)
        DEC_FAIL(d, "lop3 without a table");
    a = dec_src(d, &d->op[1], 'w', T_B32);
    b = dec_src(d, &d->op[2], 'w', T_B32);
    c = dec_src(d, &d->op[3], 'w', T_B32);
    if (!pred) {
        dec_emit(d, OP_lop3, dec_dst(d, &d->op[0], 'w', false), a, b, c)->imm =
            (int64_t)(d->op[4].imm & 255);
        dec_finish(d);
        return true;
    }
    {                           /* lop3.or.b32 d|p, a, b, c, table, q */
        uint32_t v = tmp(d, 'w'), p = tmp(d, 'p'), q = dec_pred(d, &d->op[5]);
        bool or = dec_mod(d, "or");

        dec_emit(d, OP_lop3, v, a, b, c)->imm = (int64_t)(d->op[4].imm & 255);
        dec_emit(d, OP_eq32, p, v, dec_const(d, 0, 'w', 0), 0)->aux = 1;
        dec_emit(d, OP_mov32, dec_dst(d, &d->op[0], 'w', false), v, 0, 0);
        dec_finish(d);
        if (d->op[0].has_pair && d->op[0].pair != UINT32_MAX)
            dec_emit(d, or ? OP_por : OP_pand, d->op[0].pair, p, q, 0);
    }
    return true;
}

static bool
lower_bfi(struct dec *d)
{
    bool wide = dec_mod(d, "b64");
    char cls = wide ? 'l' : 'w';
    uint32_t a, b, c, len;

    if (!wide && !dec_mod(d, "b32"))
        return false;
    dec_need(d, 5, 5);
    a = dec_src(d, &d->op[1], cls, T_B32);
    b = dec_src(d, &d->op[2], cls, T_B32);
    c = dec_src(d, &d->op[3], 'w', T_U32);
    len = dec_src(d, &d->op[4], 'w', T_U32);
    {
        uint32_t dst = dec_dst(d, &d->op[0], cls, false), e = dec_ext(d, len, 'w', 0);
        struct fdcpu_insn *i = dec_emit(d, wide ? OP_bfi64 : OP_bfi32, dst, a, b, c);

        i->ext = e;
        i->n = 1;
    }
    dec_finish(d);
    return true;
}

/* ---- video ---- */

static bool
lower_video(struct dec *d)
{
    static const struct { const char *name; uint8_t op, lanes; } list[] = {
        { "vadd", VIDEO_ADD, 1 }, { "vsub", VIDEO_SUB, 1 }, { "vabsdiff", VIDEO_ABSDIFF, 1 },
        { "vmin", VIDEO_MIN, 1 }, { "vmax", VIDEO_MAX, 1 }, { "vshl", VIDEO_SHL, 1 },
        { "vshr", VIDEO_SHR, 1 }, { "vset", VIDEO_SET, 1 }, { "vmad", VIDEO_MAD, 1 },
        { "vadd2", VIDEO_ADD, 2 }, { "vsub2", VIDEO_SUB, 2 }, { "vavrg2", VIDEO_AVRG, 2 },
        { "vabsdiff2", VIDEO_ABSDIFF, 2 }, { "vmin2", VIDEO_MIN, 2 }, { "vmax2", VIDEO_MAX, 2 },
        { "vset2", VIDEO_SET, 2 }, { "vadd4", VIDEO_ADD, 4 }, { "vsub4", VIDEO_SUB, 4 },
        { "vavrg4", VIDEO_AVRG, 4 }, { "vabsdiff4", VIDEO_ABSDIFF, 4 },
        { "vmin4", VIDEO_MIN, 4 }, { "vmax4", VIDEO_MAX, 4 }, { "vset4", VIDEO_SET, 4 },
    };
    uint32_t aux = 0, sel = 0, a, b, c, ntypes = 0;
    int lanes = 0;
    enum fdcpu_type t[3];
    struct fdcpu_insn *i;

    for (size_t k = 0; k < sizeof(list) / sizeof(*list); k++)
        if (dec_is(d->form, d->base_n, list[k].name)) {
            lanes = list[k].lanes;
            aux = list[k].op;
        }
    if (!lanes)
        return false;
    dec_need(d, 3, 4);
    for (uint32_t k = 0; k < d->nmod && ntypes < 3; k++) {
        enum fdcpu_type one = fdcpu_type_find(d->mod[k].s, d->mod[k].n);

        if (one)
            t[ntypes++] = one;
    }
    if ((aux & VIDEO_OP) == VIDEO_SET) {
        if (ntypes != 2)
            return false;
        t[2] = t[1], t[1] = t[0], t[0] = T_U32;
    } else if (ntypes != 3) {
        return false;
    }
    aux |= (fdcpu_type_signed(t[0]) ? VIDEO_DS : 0) | (fdcpu_type_signed(t[1]) ? VIDEO_AS : 0) |
           (fdcpu_type_signed(t[2]) ? VIDEO_BS : 0) | (dec_mod(d, "sat") ? VIDEO_SAT : 0) |
           (dec_mod(d, "wrap") ? VIDEO_WRAP : 0) | (dec_mod(d, "po") ? VIDEO_PO : 0) |
           (dec_mod(d, "shr7") ? VIDEO_SHR7 : 0) | (dec_mod(d, "shr15") ? VIDEO_SHR15 : 0) |
           (uint32_t)lanes << VIDEO_LANES_SHIFT;
    for (uint32_t k = 0; k < 10; k++)
        if (dec_mod(d, cmps[k].name))
            aux |= (uint32_t)cmps[k].cmp << VIDEO_CMP_SHIFT;
    if (d->nop == 4 || (lanes > 1 && d->nop == 4)) {
        uint32_t merge = dec_mod(d, "add") ? 1 : dec_mod(d, "min") ? 2 : dec_mod(d, "max") ? 3 : 4;

        if ((aux & VIDEO_OP) != VIDEO_MAD)
            aux |= merge << VIDEO_MERGE_SHIFT;
    }
    /* selectors: destination, a, b; for packed forms the four-bit mask and byte orders */
    for (uint32_t k = 0; k < 3; k++) {
        uint32_t s = (uint8_t)d->op[k].sel;

        if (lanes > 1 && s)
            return false;
        sel |= s << 8 * k;
    }
    a = dec_src(d, &d->op[1], 'w', T_B32);
    b = dec_src(d, &d->op[2], 'w', T_B32);
    c = d->nop == 4 ? dec_src(d, &d->op[3], 'w', T_B32) : dec_const(d, 0, 'w', 0);
    i = dec_emit(d, OP_video, dec_dst(d, &d->op[0], 'w', false), a, b, c);
    i->aux = aux;
    i->aux2 = sel;
    dec_finish(d);
    return true;
}

/* ---- what is left of arithmetic: .sat, .ftz and directed rounding around plain rows ---- */

static void
without(const struct dec *d, const char *drop, char *buf, size_t size)
{
    size_t n = d->base_n, len = strlen(drop);

    memcpy(buf, d->form, n);
    for (uint32_t k = 0; k < d->nmod; k++) {
        if (d->mod[k].n == len && !memcmp(d->mod[k].s, drop, len))
            continue;
        if (n + d->mod[k].n + 2 > size)
            break;
        buf[n++] = '.';
        memcpy(buf + n, d->mod[k].s, d->mod[k].n);
        n += d->mod[k].n;
    }
    buf[n] = 0;
}

static bool
lower_rounded(struct dec *d)
{
    static const struct { const char *name; int op; uint32_t n; } list[] = {
        { "add", ROUND_ADD, 2 }, { "sub", ROUND_SUB, 2 }, { "mul", ROUND_MUL, 2 },
        { "fma", ROUND_FMA, 3 }, { "mad", ROUND_FMA, 3 }, { "div", ROUND_DIV, 2 },
        { "rcp", ROUND_RCP, 1 }, { "sqrt", ROUND_SQRT, 1 },
    };
    enum fdcpu_type t = dec_type(d, 0);
    bool integer, sat = dec_mod(d, "sat");
    int mode = rounding(d, &integer);
    char cls = dec_class(t);
    uint32_t v[3] = { 0, 0, 0 }, dst;

    if ((t != T_F32 && t != T_F64) || mode > RND_RP || integer)
        return false;
    for (size_t k = 0; k < sizeof(list) / sizeof(*list); k++) {
        if (!dec_is(d->form, d->base_n, list[k].name))
            continue;
        dec_need(d, list[k].n + 1, list[k].n + 1);
        for (uint32_t s = 0; s < 3; s++)
            v[s] = s < list[k].n ? dec_src(d, &d->op[s + 1], cls, t) : dec_const(d, 0, cls, 0);
        dst = sat ? tmp(d, cls) : dec_dst(d, &d->op[0], cls, false);
        dec_emit(d, cls == 'l' ? OP_round64 : OP_round32, dst, v[0], v[1], v[2])->aux =
            (uint32_t)list[k].op | (uint32_t)mode << 4 | (dec_mod(d, "ftz") ? ROUND_FTZ : 0);
        if (sat)
            dec_emit(d, cls == 'l' ? OP_satf64 : OP_satf32, dec_dst(d, &d->op[0], cls, false),
                     dst, 0, 0);
        dec_finish(d);
        return true;
    }
    return false;
}

/* Runs row op with its result, or its operands too, sent through another row. */
static void
wrapped(struct dec *d, enum fdcpu_op op, enum fdcpu_op post, enum fdcpu_op pre)
{
    const char *sig = fdcpu_ops[op].sig;
    uint32_t v[4] = { 0, 0, 0, 0 }, n = (uint32_t)strlen(sig), last;
    char cls = (char)(sig[0] | 32);

    dec_need(d, n, n);
    for (uint32_t k = 1; k < n; k++) {
        v[k] = dec_src(d, &d->op[k], sig[k], dec_type(d, 0));
        if (pre != OP_nop) {
            uint32_t z = tmp(d, 'w');

            dec_emit(d, pre, z, v[k], 0, 0);
            v[k] = z;
        }
    }
    last = tmp(d, cls);
    dec_emit(d, op, last, v[1], v[2], v[3]);
    dec_emit(d, post, dec_dst(d, &d->op[0], cls, false), last, 0, 0);
    dec_finish(d);
}

/* min and max .xorsign.abs: of the magnitudes, with the sign that a product would have. */
static bool
lower_xorsign(struct dec *d)
{
    enum fdcpu_type t = dec_type(d, 0);
    bool two = t == T_F16X2 || t == T_BF16X2;
    enum fdcpu_op put = t == T_F32 ? OP_sign32 : t == T_F16 ? OP_signf16 : t == T_BF16 ? OP_signbf16
                        : t == T_F16X2 ? OP_signf16x2 : OP_signbf16x2;
    uint32_t rest = dec_const(d, t == T_F32 ? 0x7fffffffu : two ? 0x7fff7fffu : 0x7fff, 'w', 0);
    uint32_t a, b, m[2], s = tmp(d, 'w'), v = tmp(d, 'w');
    char form[256], *p;
    int op;

    if (!dec_mod(d, "abs") || dec_class(t) != 'w' || !fdcpu_type_float(t))
        return false;
    snprintf(form, sizeof(form), "%.*s", (int)d->form_n, d->form);
    p = strstr(form, ".xorsign.abs");
    if (!p)
        return false;
    memmove(p, p + 12, strlen(p + 12) + 1);
    p = strstr(form, ".ftz");
    if (p && t == T_F16)
        return false;
    op = fdcpu_form_find(form, (unsigned)strlen(form));
    if (p && op < 0) {          /* magnitudes are flushed before */
        memmove(p, p + 4, strlen(p + 4) + 1);
        op = fdcpu_form_find(form, (unsigned)strlen(form));
    }
    if (op < 0)
        return false;
    dec_need(d, 3, 3);
    a = dec_src(d, &d->op[1], 'w', t);
    b = dec_src(d, &d->op[2], 'w', t);
    dec_emit(d, OP_xor32, s, a, b, 0);
    for (int k = 0; k < 2; k++) {
        m[k] = tmp(d, 'w');
        dec_emit(d, OP_and32, m[k], k ? b : a, rest, 0);
        if (p && t == T_F32)
            dec_emit(d, OP_ftz32, m[k], m[k], 0, 0);
    }
    dec_emit(d, (enum fdcpu_op)op, v, m[0], m[1], 0);
    dec_emit(d, put, dec_dst(d, &d->op[0], 'w', false), v, s, 0);
    dec_finish(d);
    return true;
}

bool
dec_arith(struct dec *d)
{
    enum fdcpu_type t = dec_type(d, 0);
    char form[256];
    int op;

    if (lower_rounded(d))
        return true;
    if (dec_mod(d, "xorsign"))
        return lower_xorsign(d);
    if (dec_mod(d, "sat") && fdcpu_type_float(t)) {
        enum fdcpu_op pre = OP_nop, post = t == T_F64 ? OP_satf64 : t == T_F16 ? OP_satf16
                                           : t == T_F16X2 ? OP_satf16x2 : OP_satf32;

        without(d, "sat", form, sizeof(form));
        op = fdcpu_form_find(form, (unsigned)strlen(form));
        if (op < 0 && dec_mod(d, "ftz") && (t == T_F16 || t == T_F16X2)) {
            char *p = strstr(form, ".ftz");     /* what saturates has no subnormals flushed */

            memmove(p, p + 4, strlen(p + 4) + 1);
            op = fdcpu_form_find(form, (unsigned)strlen(form));
            pre = t == T_F16 ? OP_ftz16 : OP_ftz16x2;
        }
        if (op >= 0) {
            wrapped(d, (enum fdcpu_op)op, post, pre);
            return true;
        }
    }
    if (dec_mod(d, "ftz") && (t == T_F32 || t == T_F16 || t == T_F16X2)) {
        enum fdcpu_op flush = t == T_F32 ? OP_ftz32 : t == T_F16 ? OP_ftz16 : OP_ftz16x2;

        without(d, "ftz", form, sizeof(form));
        op = fdcpu_form_find(form, (unsigned)strlen(form));
        if (op >= 0) {
            wrapped(d, (enum fdcpu_op)op, flush, flush);
            return true;
        }
    }
    /* modifiers that change nothing here */
    for (uint32_t k = 0; k < d->nmod; k++) {
        static const char *const idle[] = { "uni", "aligned", "rn", "noftz", "approx" };

        for (size_t j = 0; j < sizeof(idle) / sizeof(*idle); j++)
            if (dec_is(d->mod[k].s, d->mod[k].n, idle[j])) {
                without(d, idle[j], form, sizeof(form));
                op = fdcpu_form_find(form, (unsigned)strlen(form));
                if (op >= 0) {
                    dec_simple(d, (enum fdcpu_op)op);
                    return true;
                }
            }
    }
    return false;
}

static const struct dec_entry alu[] = {
    { "mov", lower_mov }, { "setp", lower_setp }, { "set", lower_set },
    { "testp", lower_testp }, { "add", lower_carry }, { "addc", lower_carry },
    { "sub", lower_carry }, { "subc", lower_carry }, { "mad", lower_carry },
    { "madc", lower_carry }, { "cvt", lower_cvt }, { "lop3", lower_lop3 },
    { "bfi", lower_bfi },
};

dec_lower *
dec_find_alu(const char *s, uint32_t n)
{
    for (size_t k = 0; k < sizeof(alu) / sizeof(*alu); k++)
        if (dec_is(s, n, alu[k].name))
            return alu[k].lower;
    if (n > 3 && *s == 'v')
        return lower_video;
    return NULL;
}
