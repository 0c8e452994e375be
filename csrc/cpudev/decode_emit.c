/*
 * What a statement becomes: virtual registers, constants, instructions; operands as
 * registers of the class that an instruction wants, and results of the class that it has.
 */
#include "decode.h"

uint32_t
dec_vreg(struct dec *d, char cls)
{
    if (d->nvreg >= MAX_REGS)
        DEC_FAIL(d, "more than %d registers", MAX_REGS);
    DEC_GROW(d, d->vreg, d->nvreg, d->cap_vreg);
    d->vreg[d->nvreg] = (struct dec_vreg){ .cls = cls };
    return d->nvreg++;
}

uint32_t
dec_const(struct dec *d, uint64_t value, char cls, uint8_t kind)
{
    uint8_t size = cls == 'l' ? 8 : 4;
    unsigned h;
    int at;

    if (cls == 'p')
        return value ? V_TRUE : V_FALSE;
    if (size == 4)
        value = (uint32_t)value;
    h = (unsigned)((value ^ value >> 32 ^ value >> 11) * 2654435761u >> 8) & 255;
    for (at = d->const_hash[h]; at >= 0; at = d->consts[at].next)
        if (d->consts[at].value == value && d->consts[at].size == size &&
            d->consts[at].kind == kind)
            return d->consts[at].vreg;
    DEC_GROW(d, d->consts, d->nconst, d->cap_const);
    d->consts[d->nconst] = (struct dec_const){ value, dec_vreg(d, cls), size, kind,
                                               d->const_hash[h] };
    d->const_hash[h] = (int)d->nconst;
    d->vreg[d->consts[d->nconst].vreg].fixed = true;
    return d->consts[d->nconst++].vreg;
}

uint32_t
dec_special(struct dec *d, enum fdcpu_special sr)
{
    if (!d->special[sr]) {
        d->special[sr] = dec_vreg(d, 'w');
        d->vreg[d->special[sr]].fixed = true;
    }
    if (sr == SR_ENVREG1 || sr == SR_ENVREG2)
        d->build->grid = true;
    return d->special[sr];
}

struct fdcpu_insn *
dec_emit(struct dec *d, enum fdcpu_op op, uint32_t dst, uint32_t a, uint32_t b, uint32_t c)
{
    struct fdcpu_insn *i;

    if (d->ninsn >= MAX_INSNS)
        DEC_FAIL(d, "more than %d instructions", MAX_INSNS);
    DEC_GROW(d, d->insn, d->ninsn, d->cap_insn);
    i = &d->insn[d->ninsn++];
    memset(i, 0, sizeof(*i));
    i->op = (uint16_t)op;
    i->pred = d->guard;
    i->line = d->line;
    i->d = dst;
    i->a = a;
    i->b = b;
    i->c = c;
    return i;
}

uint32_t
dec_ext(struct dec *d, uint32_t reg, char cls, uint32_t size)
{
    DEC_GROW(d, d->ext, d->next, d->cap_ext);
    d->ext[d->next] = (struct fdcpu_ext){ reg, size, cls };
    return d->next++;
}

bool
dec_mod(const struct dec *d, const char *s)
{
    size_t n = strlen(s);

    for (uint32_t k = 0; k < d->nmod; k++)
        if (d->mod[k].n == n && !memcmp(d->mod[k].s, s, n))
            return true;
    return false;
}

enum fdcpu_type
dec_type(const struct dec *d, uint32_t from_end)
{
    for (uint32_t k = d->nmod; k-- > 0;) {
        enum fdcpu_type t = fdcpu_type_find(d->mod[k].s, d->mod[k].n);

        if (t && from_end-- == 0)
            return t;
    }
    return T_NONE;
}

char
dec_class(enum fdcpu_type t)
{
    unsigned size = fdcpu_type_size(t);

    return t == T_PRED ? 'p' : size == 16 ? 'q' : size == 8 ? 'l' : 'w';
}

/* ---- operands as registers ---- */

void
dec_need(struct dec *d, uint32_t lo, uint32_t hi)
{
    if (d->nop < lo || d->nop > hi)
        DEC_FAIL(d, "%.*s with %u operands", (int)d->form_n, d->form, d->nop);
}

static uint64_t
immediate(const struct opnd *o, char cls, enum fdcpu_type t)
{
    double v;
    float f;
    uint32_t u;

    if (o->imm_kind == TOK_INT) {
        if (t == T_F32 || t == T_F64) { /* "1" where a float stands */
            v = (double)(int64_t)o->imm;
            f = (float)v;
            if (t == T_F64)
                return memcpy(&u, &f, 4), ({ uint64_t w; memcpy(&w, &v, 8); w; });
            return memcpy(&u, &f, 4), u;
        }
        return o->imm;
    }
    if (o->imm_kind == TOK_F32) {
        u = (uint32_t)o->imm;
        if (cls == 'w')
            return u;
        memcpy(&f, &u, 4);
        v = (double)f;
        return ({ uint64_t w; memcpy(&w, &v, 8); w; });
    }
    if (cls == 'l')
        return o->imm;
    memcpy(&v, &o->imm, 8);
    f = (float)v;
    memcpy(&u, &f, 4);
    return u;
}

uint32_t
dec_symbol(struct dec *d, const struct opnd *o, uint64_t add)
{
    if (o->name) {
        uint32_t reg;

        switch (o->name->kind) {
        case N_LOCAL:
        case N_FRAME:
            reg = dec_vreg(d, 'l');
            {
                struct fdcpu_insn *i = dec_emit(d, OP_lea_local, reg, 0, 0, 0);

                i->imm = (int64_t)(o->name->index + add);
                i->aux = o->name->kind == N_FRAME;
            }
            return reg;
        case N_SHARED:
            return dec_const(d, o->name->index + add, 'l', K_PLAIN);
        case N_PARAM:
            return dec_const(d, FDCPU_WIN_PARAM + o->name->index + add, 'l', K_PLAIN);
        default:
            DEC_FAIL(d, "'%.*s' has no address", (int)o->n, o->s);
        }
    }
    if (o->sym->kind == SYM_FUNC) {
        struct fdcpu_func *f = d->r.module->func[o->sym->index];

        f->address_taken = true;
        if (f->defined && !f->entry)
            dec_want(d, f->number);
        return dec_const(d, FDCPU_WIN_FUNC + 16ull * (f->number + 1), 'l', K_PLAIN);
    }
    {
        struct fdcpu_gvar *v = d->r.module->var[o->sym->index];

        if (v->space == VS_SHARED) {
            uint32_t at = dec_shared_var(d, o->sym->index);

            return dec_const(d, (at == UINT32_MAX ? 0 : at) + add, 'l',
                             at == UINT32_MAX ? K_DYNAMIC : K_PLAIN);
        }
        return dec_const(d, v->pub.addr + add, 'l', K_PLAIN);
    }
}

uint32_t
dec_src(struct dec *d, const struct opnd *o, char cls, enum fdcpu_type t)
{
    uint32_t reg, tmp;
    char have;

    switch (o->kind) {
    case O_REG:
        reg = o->reg;
        break;
    case O_IMM:
        if (cls == 'q')
            DEC_FAIL(d, "immediate operand of 128 bits");
        return dec_const(d, immediate(o, cls, t), cls, K_PLAIN);
    case O_SYM:
        reg = dec_symbol(d, o, o->imm);
        break;
    case O_WORD:
        DEC_FAIL(d, "no '%.*s'", o->n > 60 ? 60 : (int)o->n, o->s);
    default:
        DEC_FAIL(d, "operand of the wrong kind in %.*s", (int)d->form_n, d->form);
    }
    have = d->vreg[reg].cls;
    if (cls == 'p' && have == 'p' && o->neg) {
        tmp = dec_vreg(d, 'p');
        dec_emit(d, OP_pnot, tmp, reg, 0, 0);
        return tmp;
    }
    if (have == cls)
        return reg;
    if (have == 'p' || cls == 'p')
        DEC_FAIL(d, "predicate and register mixed in %.*s", (int)d->form_n, d->form);
    tmp = dec_vreg(d, cls);
    if (cls == 'w' && have == 'l')
        dec_emit(d, OP_lo32, tmp, reg, 0, 0);
    else if (cls == 'l' && have == 'w')
        dec_emit(d, fdcpu_type_size(o->type) == 2
                        ? (fdcpu_type_signed(t) ? OP_sext64_16 : OP_zext64_16)
                        : (fdcpu_type_signed(t) ? OP_sext : OP_zext), tmp, reg, 0, 0);
    else if (cls == 'l' && have == 'q')
        dec_emit(d, OP_unpack128, tmp, reg, 0, 0);
    else
        DEC_FAIL(d, "operand of the wrong width in %.*s", (int)d->form_n, d->form);
    return tmp;
}

uint32_t
dec_pred(struct dec *d, const struct opnd *o)
{
    return dec_src(d, o, 'p', T_PRED);
}

uint32_t
dec_dst(struct dec *d, const struct opnd *o, char cls, bool sign)
{
    uint32_t tmp;

    if (o->kind == O_SINK || (o->kind == O_REG && o->reg == UINT32_MAX))
        return dec_vreg(d, cls);
    if (o->kind != O_REG || d->vreg[o->reg].fixed || o->reg <= V_FALSE)
        DEC_FAIL(d, "result of %.*s is no register", (int)d->form_n, d->form);
    if (d->vreg[o->reg].cls == cls)
        return o->reg;
    if (d->vreg[o->reg].cls == 'p' || cls == 'p')
        DEC_FAIL(d, "predicate and register mixed in %.*s", (int)d->form_n, d->form);
    tmp = dec_vreg(d, cls);
    if (d->nfix == MAX_VEC)
        DEC_FAIL(d, "too many results");
    d->fix[d->nfix].real = o->reg;
    d->fix[d->nfix].tmp = tmp;
    d->fix[d->nfix++].sign = sign;
    return tmp;
}

void
dec_finish(struct dec *d)
{
    for (uint32_t k = 0; k < d->nfix; k++) {
        uint32_t real = d->fix[k].real, tmp = d->fix[k].tmp;
        char from = d->vreg[tmp].cls, to = d->vreg[real].cls;

        if (from == 'w' && to == 'l')
            dec_emit(d, d->fix[k].sign ? OP_sext : OP_zext, real, tmp, 0, 0);
        else if (from == 'l' && to == 'w')
            dec_emit(d, OP_lo32, real, tmp, 0, 0);
        else if (from == 'l' && to == 'q')
            dec_emit(d, OP_pack128, real, tmp, dec_const(d, 0, 'l', K_PLAIN), 0);
        else
            DEC_FAIL(d, "result of the wrong width in %.*s", (int)d->form_n, d->form);
    }
    d->nfix = 0;
}

/* Only cvt has a result in a register wider than its type, extended by its own sign. */
static bool
is_cvt(const struct dec *d)
{
    return d->base_n == 3 && !memcmp(d->form, "cvt", 3);
}

void
dec_simple(struct dec *d, enum fdcpu_op op)
{
    const char *sig = fdcpu_ops[op].sig;
    uint32_t v[4] = { 0, 0, 0, 0 }, k, at = 0;
    enum fdcpu_type t = dec_type(d, 0);

    for (k = 0; sig[k]; k++)
        if (sig[k] != '-') {
            if (at >= d->nop)
                DEC_FAIL(d, "%.*s with %u operands", (int)d->form_n, d->form, d->nop);
            if (sig[k] >= 'a')
                v[k] = dec_src(d, &d->op[at], sig[k], t);
            at++;
        }
    dec_need(d, at, at);
    if (sig[0] >= 'A' && sig[0] <= 'Z')
        v[0] = dec_dst(d, &d->op[0], (char)(sig[0] | 32),
                       fdcpu_type_signed(is_cvt(d) ? dec_type(d, 1) : t));
    dec_emit(d, op, v[0], v[1], v[2], v[3]);
    dec_finish(d);
}

void
dec_unsupported(struct dec *d)
{
    char *text = fdcpu_alloc(&d->r, d->form_n + 1);

    memcpy(text, d->form, d->form_n);
    dec_emit(d, OP_unsupported, 0, 0, 0, 0)->imm = (int64_t)(intptr_t)text;
}
