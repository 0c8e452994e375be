/*
 * Matrix operations of a warp: mma, wmma, ldmatrix, stmatrix, movmatrix.
 *
 * Fragments of mma lie as PTX documents them. Those of wmma are opaque there; here lane l
 * holds elements l*p to l*p+p-1 of the matrix by rows, as often as registers are left.
 * Products of floats are summed in double precision and rounded once.
 */
#include "decode.h"
#include "fpconv.h"
#include "vm.h"

#include <stdlib.h>

/* insn.aux: m | n << 8 | k << 16 | flags; aux2: types of d, a, b, c; imm: register counts */
enum { MMA_QUADS = 1 << 25, MMA_A_COL = 1 << 26, MMA_B_COL = 1 << 27 };
enum { MMA_WMMA = 1 << 28, MMA_SAT = 1 << 29, MMA_XOR = 1 << 30, MMA_AND = 1u << 31 };
enum { X_S4 = T_COUNT, X_U4, X_B1 };    /* element types that registers never have */
/* wmma loads and stores: aux2: rows | cols << 8 | column-major << 16 | type << 24 */

static unsigned
element_bits(unsigned t)
{
    return t == X_S4 || t == X_U4 ? 4 : t == X_B1 ? 1 : fdcpu_type_size((enum fdcpu_type)t) * 8;
}

static unsigned
element_type(const char *s, uint32_t n)
{
    if (dec_is(s, n, "s4"))
        return X_S4;
    if (dec_is(s, n, "u4"))
        return X_U4;
    if (dec_is(s, n, "b1"))
        return X_B1;
    return fdcpu_type_find(s, n);
}

static bool
shape(struct dec *d, uint32_t out[3])
{
    for (uint32_t k = 0; k < d->nmod; k++) {
        const char *s = d->mod[k].s;
        uint32_t v[3] = { 0, 0, 0 }, at = 0, part;

        if (*s != 'm' || d->mod[k].n > 12)
            continue;
        for (part = 0; part < 3 && at < d->mod[k].n; part++) {
            if (s[at] != "mnk"[part])
                break;
            for (at++; at < d->mod[k].n && s[at] >= '0' && s[at] <= '9'; at++)
                v[part] = v[part] * 10 + (uint32_t)(s[at] - '0');
        }
        if (part >= 2 && at == d->mod[k].n) {
            memcpy(out, v, sizeof(v));
            return true;
        }
    }
    return false;
}

/* ---- decoding ---- */

static uint32_t
fragment(struct dec *d, struct opnd *o, bool dst, unsigned type)
{
    struct opnd *list = o->kind == O_VEC ? o->vec : o;
    uint32_t n = o->kind == O_VEC ? o->nvec : 1;
    char cls = type == T_F64 ? 'l' : 'w';
    uint32_t reg[MAX_VEC];

    for (uint32_t k = 0; k < n; k++)
        reg[k] = dst ? dec_dst(d, &list[k], cls, false)
                     : dec_src(d, &list[k], cls, type == T_F64 ? T_F64 : T_B32);
    for (uint32_t k = 0; k < n; k++)
        dec_ext(d, reg[k], dst ? (char)(cls - 32) : cls, 0);
    return n;
}

/* The lanes of a warp have equal shares of it, as wmma's fragments are dealt out here. */
static bool
is_dealt(uint32_t rows, uint32_t cols)
{
    return rows != 0 && cols != 0 && rows <= 256 && cols <= 256 &&
           rows * cols % FDCPU_LANES == 0;
}

/* Volta's m8n8k4 of f16: the order of a and b, and exactly the registers it has. */
static uint32_t
quad_flags(struct dec *d, const unsigned t[4], const uint32_t n[4])
{
    uint32_t flags = MMA_QUADS, orders = 0;

    for (uint32_t k = 0; k < d->nmod; k++) {
        bool col = dec_is(d->mod[k].s, d->mod[k].n, "col");

        if (!col && !dec_is(d->mod[k].s, d->mod[k].n, "row"))
            continue;
        if (col)
            flags |= orders == 0 ? MMA_A_COL : MMA_B_COL;
        orders++;
    }
    if (orders != 2 || t[2] != T_F16 || n[1] != 2 || n[2] != 2)
        return 0;
    for (int k = 0; k < 4; k += 3)
        if (!(t[k] == T_F16 && n[k] == 4) && !(t[k] == T_F32 && n[k] == 8))
            return 0;
    return flags;
}

/* Sources first: what they need must be emitted before; then ext in the order d a b c. */
static bool
decode_mma(struct dec *d, bool wmma)
{
    uint32_t mnk[3], ntypes = 0, n[4], ext, quads = 0;
    unsigned t[4], bits;
    struct fdcpu_insn *i;

    if (!shape(d, mnk) || dec_mod(d, "sp") || dec_mod(d, "block_scale") ||
        dec_mod(d, "sp::ordered_metadata") || dec_mod(d, "kind::f8f6f4") || d->nop != 4)
        return false;
    for (uint32_t k = 0; k < d->nmod && ntypes < 4; k++) {
        unsigned one = element_type(d->mod[k].s, d->mod[k].n);

        if (one)
            t[ntypes++] = one;
    }
    if (ntypes == 2 && wmma) {          /* wmma of f16 names d and c only */
        t[3] = t[1];
        t[1] = t[2] = T_F16;
    } else if (ntypes != 4) {
        return false;
    }
    ext = d->next;
    n[0] = fragment(d, &d->op[0], true, t[0]);
    n[1] = fragment(d, &d->op[1], false, t[1]);
    n[2] = fragment(d, &d->op[2], false, t[2]);
    n[3] = fragment(d, &d->op[3], false, t[3]);
    /* enough registers for the matrices */
    for (int k = 0; k < 4; k++) {
        uint32_t rows = k == 2 ? mnk[2] : mnk[0], cols = k == 1 ? mnk[2] : mnk[1];

        bits = element_bits(t[k]);
        if ((uint64_t)n[k] * (t[k] == T_F64 ? 64 : 32) * 32 < (uint64_t)rows * cols * bits)
            DEC_FAIL(d, "fragment too small in %.*s", (int)d->form_n, d->form);
    }
    if (mnk[0] > 32 || mnk[1] > 32 || mnk[2] > 256)
        return false;
    if (wmma && (!is_dealt(mnk[0], mnk[2]) || !is_dealt(mnk[2], mnk[1]) ||
                 !is_dealt(mnk[0], mnk[1])))
        return false;
    if (!wmma && mnk[0] == 8 && mnk[1] == 8 && mnk[2] == 4 && t[1] == T_F16) {
        quads = quad_flags(d, t, n);
        if (!quads)
            return false;
    }
    i = dec_emit(d, OP_mma, 0, 0, 0, 0);
    i->ext = ext;
    i->n = (uint16_t)(n[0] + n[1] + n[2] + n[3]);
    i->aux = mnk[0] | mnk[1] << 8 | (mnk[2] & 0xff) << 16 | (mnk[2] == 256 ? 1u << 24 : 0) |
             quads | (wmma ? MMA_WMMA : 0) | (dec_mod(d, "satfinite") ? MMA_SAT : 0) |
             (dec_mod(d, "xor") ? MMA_XOR : 0) | (dec_mod(d, "and") ? MMA_AND : 0);
    i->aux2 = t[0] | t[1] << 8 | t[2] << 16 | t[3] << 24;
    i->imm = (int64_t)(n[0] | n[1] << 8 | n[2] << 16 | n[3] << 24);
    dec_finish(d);
    return true;
}

static uint32_t
address_register(struct dec *d, struct opnd *o, int64_t *imm, uint32_t *aux)
{
    if (o->kind != O_ADDR || o->nvec || o->reg == UINT32_MAX)
        DEC_FAIL(d, "expected an address in %.*s", (int)d->form_n, d->form);
    *imm = 0;
    *aux = 0;
    if (o->reg == UINT32_MAX - 1)
        return dec_symbol(d, o, o->imm);
    *imm = (int64_t)o->imm;
    if (d->vreg[o->reg].cls == 'w')
        *aux = MEM_A32;
    return o->reg;
}

static uint32_t
space_bits(struct dec *d)
{
    uint32_t space = dec_mod(d, "shared") || dec_mod(d, "shared::cta") ? SP_SHARED
                     : dec_mod(d, "global") ? SP_GLOBAL : SP_GENERIC;

    return space << MEM_SPACE_SHIFT;
}

static bool
decode_wmma_memory(struct dec *d, bool load)
{
    uint32_t mnk[3], rows, cols, aux, base, stride, ext, n;
    bool a = dec_mod(d, "a"), b = dec_mod(d, "b");
    unsigned t = element_type(d->mod[d->nmod - 1].s, d->mod[d->nmod - 1].n);
    struct opnd *data = &d->op[load ? 0 : 1];
    bool col = dec_mod(d, "col");
    struct fdcpu_insn *i;
    int64_t imm;

    dec_need(d, 2, 3);
    if (!shape(d, mnk) || !t)
        return false;
    rows = b ? mnk[2] : mnk[0];
    cols = a ? mnk[2] : mnk[1];
    if (!is_dealt(rows, cols))
        return false;
    base = address_register(d, &d->op[load ? 1 : 0], &imm, &aux);
    stride = d->nop == 3 ? dec_src(d, &d->op[2], 'w', T_U32)
                         : dec_const(d, col ? rows : cols, 'w', 0);
    ext = d->next;
    n = fragment(d, data, load, t);
    if ((uint64_t)n * (t == T_F64 ? 64 : 32) * 32 < (uint64_t)rows * cols * element_bits(t))
        DEC_FAIL(d, "fragment too small in %.*s", (int)d->form_n, d->form);
    dec_ext(d, stride, 'w', 0);
    i = dec_emit(d, load ? OP_wmma_load : OP_wmma_store, 0, base, 0, 0);
    i->imm = imm;
    i->aux = aux | space_bits(d);
    i->ext = ext;
    i->n = (uint16_t)(n + 1);
    i->aux2 = (rows & 0xff) | (cols & 0xff) << 8 | (col ? 1u << 16 : 0) | t << 24;
    dec_finish(d);
    return true;
}

static bool
decode_matrix_memory(struct dec *d, bool load)
{
    uint32_t n = dec_mod(d, "x4") ? 4 : dec_mod(d, "x2") ? 2 : 1, aux, base, ext;
    struct fdcpu_insn *i;
    int64_t imm;

    if (!dec_mod(d, "m8n8") || !dec_mod(d, "b16"))
        return false;
    dec_need(d, 2, 2);
    base = address_register(d, &d->op[load ? 1 : 0], &imm, &aux);
    ext = d->next;
    if (fragment(d, &d->op[load ? 0 : 1], load, T_B32) != n)
        DEC_FAIL(d, "%.*s with the wrong number of registers", (int)d->form_n, d->form);
    i = dec_emit(d, load ? OP_ldmatrix : OP_stmatrix, 0, base, 0, 0);
    i->imm = imm;
    i->aux = aux | SP_SHARED << MEM_SPACE_SHIFT;
    i->aux2 = dec_mod(d, "trans");
    i->ext = ext;
    i->n = (uint16_t)n;
    dec_finish(d);
    return true;
}

bool dec_matrix(struct dec *d);
bool
dec_matrix(struct dec *d)
{
    if (!d->nmod)
        return false;
    if (*d->form == 'l')
        return decode_matrix_memory(d, true);
    if (*d->form == 's')
        return decode_matrix_memory(d, false);
    if (*d->form == 'm')
        return decode_mma(d, false);
    if (dec_is(d->mod[0].s, d->mod[0].n, "load"))
        return decode_wmma_memory(d, true);
    if (dec_is(d->mod[0].s, d->mod[0].n, "store"))
        return decode_wmma_memory(d, false);
    return decode_mma(d, true);
}

/* ---- elements ---- */

#define OPEN(name) FDCPU_HANDLER(fdcpu_op_##name); FDCPU_HANDLER(fdcpu_op_##name)
#define EXT(k) (x->frame->code->ext[i->ext + (k)].reg)
#define ALL_LANES                                                                            \
    uint32_t q = FDCPU_GUARD;                                                                \
    if (!q)                                                                                  \
        FDCPU_NEXT;                                                                          \
    if (x->live & ~q) {                                                                      \
        x->taken = q;                                                                        \
        FDCPU_STOP(i, WHY_SYNC);                                                             \
    }

/* Where element s of lane l lies. which: 0 d or c, 1 a, 2 b. */
static inline void
place(const struct fdcpu_insn *i, int which, unsigned bits, uint32_t l, uint32_t s,
      uint32_t rows, uint32_t cols, uint32_t *row, uint32_t *col)
{
    uint32_t per = bits >= 32 ? 1 : 32 / bits, reg = s / per, sub = s % per;
    uint32_t g = l >> 2, t = l & 3;

    if (i->aux & MMA_WMMA) {
        uint32_t p = rows * cols / FDCPU_LANES, e = l * p + s % p;

        *row = e / cols;
        *col = e % cols;
    } else if (which == 0) {            /* pairs by rows of eight, whatever the type */
        *row = g + 8 * (s >> 1);
        *col = t * 2 + (s & 1);
    } else if (which == 1) {
        if (rows == 8) {
            *row = g;
            *col = t * per + sub + reg * 4 * per;
        } else {
            *row = g + 8 * (reg & 1);
            *col = t * per + sub + (reg >> 1) * 4 * per;
        }
    } else {
        *row = t * per + sub + reg * 4 * per;
        *col = g;
    }
}

static f64
element_float(unsigned t, u64 raw)
{
    u32 e, f;
    f64 v;

    switch (t) {
    case T_F16: return (f64)h2f((u32)raw & 0xffff);
    case T_BF16: return (f64)bf2f((u32)raw & 0xffff);
    case T_TF32: return (f64)bits_f32((u32)raw & 0xffffe000u);
    case T_F32: return (f64)bits_f32((u32)raw);
    case T_F64: return bits_f64(raw);
    case T_E4M3:
        e = (u32)raw >> 3 & 15, f = (u32)raw & 7;
        v = e == 15 && f == 7 ? (f64)NAN : e ? ldexp(8 + f, (int)e - 10) : ldexp(f, -9);
        return raw & 0x80 ? -v : v;
    case T_E5M2: return (f64)h2f((u32)raw << 8 & 0xff00);
    default: return 0;
    }
}

static s32
element_int(unsigned t, u64 raw)
{
    switch (t) {
    case T_S8: return (s8)raw;
    case T_U8: return (u8)raw;
    case X_S4: return (s32)((u32)raw << 28) >> 28;
    case X_U4: return (s32)(raw & 15);
    case X_B1: return (s32)(raw & 1);
    default: return (s32)raw;
    }
}

static u64
get_raw(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, uint32_t first, unsigned bits,
        uint32_t l, uint32_t s)
{
    uint32_t per = bits >= 32 ? 1 : 32 / bits;

    if (bits == 64)
        return FDCPU_REG(u64, EXT(first + s))[l];
    return FDCPU_REG(u32, EXT(first + s / per))[l] >> (s % per * bits) &
           (bits == 32 ? ~0u : (1u << bits) - 1);
}

static void
put_raw(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, uint32_t first, unsigned bits,
        uint32_t l, uint32_t s, u64 v)
{
    uint32_t per = bits >= 32 ? 1 : 32 / bits, shift = s % per * bits, mask;
    u32 *p;

    if (bits == 64) {
        FDCPU_REG(u64, EXT(first + s))[l] = v;
        return;
    }
    p = &FDCPU_REG(u32, EXT(first + s / per))[l];
    mask = (bits == 32 ? ~0u : (1u << bits) - 1) << shift;
    *p = (*p & ~mask) | ((u32)v << shift & mask);
}

enum { MAX_A = 32 * 256, MAX_C = 32 * 32 };

struct matrices {
    f64 fa[MAX_A], fb[MAX_A], fc[MAX_C];
    s32 ia[MAX_A], ib[MAX_A];
    s64 ic[MAX_C];
};

static __attribute__((noinline)) bool
do_mma(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r)
{
    struct matrices *mat = x->scratch;
    uint32_t mm = i->aux & 0xff, nn = i->aux >> 8 & 0xff;
    uint32_t kk = (i->aux >> 16 & 0xff) | ((i->aux >> 24 & 1) << 8);
    unsigned type[4], bits[4];
    uint32_t count[4], first[4], row, col, at = 0;
    bool flt;

    if (!mat)
        mat = x->scratch = malloc(sizeof(*mat));
    if (!mat) {
        fdcpu_fault_at(x, i, -1, 2, "no memory for a matrix");
        return false;
    }
    for (int k = 0; k < 4; k++) {
        type[k] = i->aux2 >> 8 * k & 255;
        bits[k] = element_bits(type[k]);
        count[k] = (uint32_t)(i->imm >> 8 * k & 255);
        first[k] = at;
        at += count[k];
        count[k] *= bits[k] >= 32 ? 1 : 32 / bits[k];
    }
    flt = type[1] < T_COUNT && fdcpu_type_float((enum fdcpu_type)type[1]);
    for (int k = 1; k < 4; k++) {
        uint32_t rows = k == 2 ? kk : mm, cols = k == 1 ? kk : nn;

        for (uint32_t l = 0; l < FDCPU_LANES; l++)
            for (uint32_t s = 0; s < count[k]; s++) {
                u64 raw = get_raw(x, i, r, first[k], bits[k], l, s);

                place(i, k == 3 ? 0 : k, bits[k], l, s, rows, cols, &row, &col);
                if (row >= rows || col >= cols)
                    continue;
                if (k == 3 && flt)
                    mat->fc[row * cols + col] = element_float(type[k], raw);
                else if (k == 3)
                    mat->ic[row * cols + col] = element_int(type[k], raw);
                else if (flt)
                    (k == 1 ? mat->fa : mat->fb)[row * cols + col] = element_float(type[k], raw);
                else
                    (k == 1 ? mat->ia : mat->ib)[row * cols + col] = element_int(type[k], raw);
            }
    }
    for (uint32_t p = 0; p < mm; p++)
        for (uint32_t o = 0; o < nn; o++) {
            if (flt && type[1] == T_F64) {
                f64 sum = mat->fc[p * nn + o];

                for (uint32_t k = 0; k < kk; k++)
                    sum = fma(mat->fa[p * kk + k], mat->fb[k * nn + o], sum);
                mat->fc[p * nn + o] = sum;
            } else if (flt) {
                f64 sum = mat->fc[p * nn + o];

                for (uint32_t k = 0; k < kk; k++)
                    sum += mat->fa[p * kk + k] * mat->fb[k * nn + o];
                mat->fc[p * nn + o] = sum;
            } else {
                s64 sum = mat->ic[p * nn + o];

                for (uint32_t k = 0; k < kk; k++) {
                    s32 a = mat->ia[p * kk + k], b = mat->ib[k * nn + o];

                    sum += (i->aux & MMA_XOR) ? (a ^ b) : (i->aux & MMA_AND) ? (a & b) : a * b;
                }
                mat->ic[p * nn + o] = sum;
            }
        }
    for (uint32_t l = 0; l < FDCPU_LANES; l++)
        for (uint32_t s = 0; s < count[0]; s++) {
            u64 v;
            f64 f;

            place(i, 0, bits[0], l, s, mm, nn, &row, &col);
            if (row >= mm || col >= nn)
                continue;
            f = mat->fc[row * nn + col];
            switch (type[0]) {
            case T_F32: v = f32_bits(cn((f32)f)); break;
            case T_F16: v = d2h(f); break;
            case T_BF16: v = f2bf(d2f_odd(f)); break;
            case T_F64: v = f64_bits(f); break;
            default:
                v = (u32)mat->ic[row * nn + col];
                if (i->aux & MMA_SAT)
                    v = (u32)sat_s32(mat->ic[row * nn + col]);
                break;
            }
            put_raw(x, i, r, first[0], bits[0], l, s, v);
        }
    return true;
}

/* Where element s of lane l lies in the 8 x 8 matrix of its quad pair. */
static inline uint32_t
quad_place(unsigned type, uint32_t l, uint32_t s)
{
    uint32_t half = l >> 4 << 2;

    if (type == T_F16)
        return ((l & 3) + half) * 8 + s;
    return ((l & 1) + (s & 2) + half) * 8 + (s & 4) + (l & 2) + (s & 1);
}

/*
 * Four products of 8 x 4 and 4 x 8, one for each pair of quads: lanes 4q to 4q+3 and 16 more.
 * The lower quad holds four rows of a and four columns of b, the upper one the other four.
 */
static __attribute__((noinline)) void
do_quads(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r)
{
    unsigned dt = i->aux2 & 255, ct = i->aux2 >> 24;
    uint32_t first_c = (uint32_t)(i->imm & 255) + 4;
    unsigned dbits = element_bits(dt), cbits = element_bits(ct);

    for (uint32_t q = 0; q < 4; q++) {
        f64 a[8][4], b[4][8], c[64];

        for (uint32_t k = 0; k < 8; k++) {
            uint32_t l = q * 4 + (k & 3) + (k >> 2) * 16, half = k & 4;

            for (uint32_t s = 0; s < 4; s++) {
                f64 va = element_float(T_F16, get_raw(x, i, r, first_c - 4, 16, l, s));
                f64 vb = element_float(T_F16, get_raw(x, i, r, first_c - 2, 16, l, s));

                if (i->aux & MMA_A_COL)
                    a[s + half][k & 3] = va;
                else
                    a[k][s] = va;
                if (i->aux & MMA_B_COL)
                    b[s][k] = vb;
                else
                    b[k & 3][s + half] = vb;
            }
            for (uint32_t s = 0; s < 8; s++)
                c[quad_place(ct, l, s)] =
                    element_float(ct, get_raw(x, i, r, first_c, cbits, l, s));
        }
        for (uint32_t e = 0; e < 64; e++)
            for (uint32_t k = 0; k < 4; k++)
                c[e] += a[e / 8][k] * b[k][e % 8];
        for (uint32_t k = 0; k < 8; k++) {
            uint32_t l = q * 4 + (k & 3) + (k >> 2) * 16;

            for (uint32_t s = 0; s < 8; s++) {
                f64 f = c[quad_place(dt, l, s)];

                put_raw(x, i, r, 0, dbits, l, s, dt == T_F16 ? d2h(f) : f32_bits(cn((f32)f)));
            }
        }
    }
}

enum { MMA_FUEL = 32 };        /* takes longer than most loops do for one round */

OPEN(mma)
{
    ALL_LANES
    if ((x->fuel -= MMA_FUEL) < 0)
        x->fuel = 0;
    if (i->aux & MMA_QUADS) {
        do_quads(x, i, r);
        FDCPU_NEXT;
    }
    if (!do_mma(x, i, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* One element of memory of a wmma matrix, below a byte too. */
static __attribute__((noinline)) bool
do_wmma_memory(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, uint32_t q, bool load)
{
    uint32_t rows = i->aux2 & 0xff, cols = i->aux2 >> 8 & 0xff, nreg = i->n - 1u;
    unsigned type = i->aux2 >> 24, bits = element_bits(type);
    uint32_t count, p;
    bool column = i->aux2 >> 16 & 1;
    int space = (int)(i->aux >> MEM_SPACE_SHIFT & 7);

    if (!cols)
        cols = 256;
    if (!rows)
        rows = 256;
    p = rows * cols / FDCPU_LANES;
    count = nreg * (bits >= 32 ? 1 : 32 / bits);
    FDCPU_EACH(l, q) {
        uint64_t base = fdcpu_address(x, i, r, l);
        uint32_t stride = FDCPU_REG(u32, EXT(nreg))[l];

        for (uint32_t s = 0; s < (load ? count : p); s++) {
            uint32_t e = l * p + s % p, row = e / cols, col = e % cols;
            uint64_t at = column ? (uint64_t)col * stride + row : (uint64_t)row * stride + col;
            uint64_t addr = base + at * bits / 8;
            uint32_t size = bits < 8 ? 1 : bits / 8;
            void *mem = fdcpu_lane_address(x, i, l, space, addr, size, size, !load);
            u64 v = 0;

            if (!mem)
                return false;
            if (load) {
                memcpy(&v, mem, size);
                if (bits < 8)
                    v = v >> (at * bits % 8) & ((1u << bits) - 1);
                put_raw(x, i, r, 0, bits, l, s, v);
            } else {
                v = get_raw(x, i, r, 0, bits, l, s);
                memcpy(mem, &v, size);
            }
        }
    }
    return true;
}

OPEN(wmma_load)
{
    ALL_LANES
    if (!do_wmma_memory(x, i, r, q, true))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

OPEN(wmma_store)
{
    ALL_LANES
    if (!do_wmma_memory(x, i, r, q, false))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* Rows of eight 16-bit elements; lane 8 j + k has the address of row k of matrix j. */
static __attribute__((noinline)) bool
do_matrix_rows(struct fdcpu_exec *x, const struct fdcpu_insn *i, char *r, bool load)
{
    for (uint32_t j = 0; j < i->n; j++) {
        u32 *reg = FDCPU_REG(u32, EXT(j));
        u16 m8[8][8];
        u16 *rows[8];

        for (uint32_t k = 0; k < 8; k++) {
            rows[k] = fdcpu_lane_address(x, i, 8 * j + k, SP_SHARED,
                                         fdcpu_address(x, i, r, 8 * j + k), 16, 16, !load);
            if (!rows[k])
                return false;
            if (load)
                memcpy(m8[k], rows[k], 16);
        }
        for (uint32_t l = 0; l < FDCPU_LANES; l++) {
            uint32_t a = l >> 2, b = (l & 3) * 2;
            u16 *lo = i->aux2 ? &m8[b][a] : &m8[a][b];
            u16 *hi = i->aux2 ? &m8[b + 1][a] : &m8[a][b + 1];

            if (load) {
                reg[l] = x2(*lo, *hi);
            } else {
                *lo = (u16)reg[l];
                *hi = (u16)(reg[l] >> 16);
            }
        }
        if (!load)
            for (uint32_t k = 0; k < 8; k++)
                memcpy(rows[k], m8[k], 16);
    }
    return true;
}

OPEN(ldmatrix)
{
    ALL_LANES
    if (!do_matrix_rows(x, i, r, true))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

OPEN(stmatrix)
{
    ALL_LANES
    if (!do_matrix_rows(x, i, r, false))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

OPEN(movmatrix)
{
    u32 *a = FDCPU_REG(u32, i->a), *d = FDCPU_REG(u32, i->d), t[FDCPU_LANES];

    ALL_LANES
    for (uint32_t l = 0; l < FDCPU_LANES; l++) {
        uint32_t v[2];

        for (uint32_t h = 0; h < 2; h++) {      /* element [2 (l % 4) + h][l / 4] */
            uint32_t row = (l & 3) * 2 + h, col = l >> 2;

            v[h] = a[row * 4 + col / 2] >> 16 * (col & 1) & 0xffff;
        }
        t[l] = x2(v[0], v[1]);
    }
    memcpy(d, t, sizeof(t));
    FDCPU_NEXT;
}
