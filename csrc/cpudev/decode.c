/*
 * From the text of a body to bytecode: statements, operands, names, labels; and from an
 * entry to a program, which is the entry with all that it can call.
 */
#include "decode.h"

#include <stdio.h>
#include <stdlib.h>

/* What the functions of one program share while it is made. */
struct dec_program {
    uint32_t *shared_at;        /* offset + 1 by variable number */
    uint32_t shared_size;
    uint32_t dynamic_align;
    uint8_t *wanted;            /* by function number */
    uint32_t *queue, nqueue;
    bool indirect, grid;
};

enum { MAX_REGS = 1 << 20, MAX_INSNS = 1 << 22, MAX_FRAME = 512 << 10, MAX_SHARED = 1 << 20 };

void *
dec_alloc(struct dec *d, size_t size)
{
    void *p = fdcpu_arena_alloc(&d->arena, size);

    if (!p)
        fdcpu_fail(&d->r, 2, "out of memory");
    return p;
}

/* ---- virtual registers, constants, instructions ---- */

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

/* The from_end-th type among the modifiers, counted from the last (0). */
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

/* ---- names ---- */

static unsigned
hash_of(const char *s, uint32_t n)
{
    uint32_t h = n;

    for (uint32_t k = 0; k < n; k++)
        h = h * 31 + (unsigned char)s[k];
    return (h ^ h >> 8) & 255;
}

static struct dec_name *
declare(struct dec *d, const char *s, uint32_t n, enum name_kind kind)
{
    struct dec_name *name = dec_alloc(d, sizeof(*name));
    unsigned h = hash_of(s, n);

    name->s = s;
    name->n = n;
    name->kind = kind;
    name->next = d->names[h];
    d->names[h] = name;
    name->scope_next = d->scope->names;
    d->scope->names = name;
    return name;
}

struct dec_name *
dec_find(struct dec *d, const char *s, uint32_t n)
{
    struct dec_name *name;

    for (name = d->names[hash_of(s, n)]; name; name = name->next)
        if (name->n == n && name->kind != N_REGS && !memcmp(name->s, s, n))
            return name;
    return NULL;
}

/* A register by name: "%r12" of "%r<20>", or one declared by itself. 0 when unknown. */
static bool
find_reg(struct dec *d, const char *s, uint32_t n, uint32_t *reg, enum fdcpu_type *type)
{
    uint32_t digits = 0, number = 0;
    struct dec_name *name = dec_find(d, s, n);

    if (name) {
        *reg = name->index;
        *type = name->type;
        return name->kind == N_REG;
    }
    while (digits < n && digits < 8 && s[n - digits - 1] >= '0' && s[n - digits - 1] <= '9')
        digits++;
    /* the prefix may itself end in a digit: try the longest number first */
    for (; digits > 0; digits--) {
        uint32_t len = n - digits;

        number = 0;
        for (uint32_t k = len; k < n; k++)
            number = number * 10 + (uint32_t)(s[k] - '0');
        for (name = d->names[hash_of(s, len)]; name; name = name->next)
            if (name->kind == N_REGS && name->n == len && !memcmp(name->s, s, len) &&
                number < name->count) {
                *reg = name->index + number;
                *type = name->type;
                return true;
            }
    }
    return false;
}

static void
open_scope(struct dec *d)
{
    struct dec_scope *scope = dec_alloc(d, sizeof(*scope));

    scope->up = d->scope;
    scope->id = d->nscope;
    DEC_GROW(d, d->scope_up, d->nscope, d->cap_scope);
    d->scope_up[d->nscope++] = d->scope ? d->scope->id : 0;
    d->scope = scope;
    if (d->nscope > MAX_INSNS)
        DEC_FAIL(d, "too many scopes");
}

static void
close_scope(struct dec *d)
{
    struct dec_name *name;

    for (name = d->scope->names; name; name = name->scope_next)
        d->names[hash_of(name->s, name->n)] = name->next;
    d->scope = d->scope->up;
}

static unsigned
label_hash(uint32_t scope, const char *s, uint32_t n)
{
    uint32_t h = scope * 2654435761u;

    for (uint32_t k = 0; k < n; k++)
        h = (h ^ (unsigned char)s[k]) * 16777619u;
    return (h ^ h >> 12) & 1023;
}

static struct dec_label *
find_label(struct dec *d, uint32_t scope, const char *s, uint32_t n)
{
    struct dec_label *l;

    for (l = d->labels[label_hash(scope, s, n)]; l; l = l->next)
        if (l->scope == scope && l->n == n && !memcmp(l->s, s, n))
            return l;
    return NULL;
}

static void
define_label(struct dec *d, const char *s, uint32_t n)
{
    unsigned h = label_hash(d->scope->id, s, n);
    struct dec_label *l;

    if (find_label(d, d->scope->id, s, n))
        DEC_FAIL(d, "label '%.*s' is defined twice", (int)n, s);
    l = dec_alloc(d, sizeof(*l));
    *l = (struct dec_label){ d->scope->id, n, d->ninsn, s, d->labels[h] };
    d->labels[h] = l;
    d->nlabels++;
    d->guard = V_TRUE << 1;
    dec_emit(d, OP_chk, 0, 0, 0, 0);
}

void
dec_label_ref(struct dec *d, const struct opnd *o, uint32_t insn, uint32_t table)
{
    if (o->kind != O_WORD)
        DEC_FAIL(d, "expected a label");
    DEC_GROW(d, d->refs, d->nrefs, d->cap_refs);
    d->refs[d->nrefs++] = (struct dec_ref){ insn, table, d->scope->id, d->line, o->n, o->s };
}

static void
resolve_labels(struct dec *d)
{
    for (uint32_t k = 0; k < d->nrefs; k++) {
        const struct dec_ref *ref = &d->refs[k];
        struct dec_label *l;
        uint32_t scope = ref->scope;

        for (;;) {
            l = find_label(d, scope, ref->s, ref->n);
            if (l || !scope)
                break;
            scope = d->scope_up[scope];
        }
        if (!l) {
            d->r.x.line = ref->line;
            DEC_FAIL(d, "no label '%.*s'", (int)ref->n, ref->s);
        }
        if (ref->table)
            d->table[ref->table - 1] = l->at;
        else
            d->insn[ref->insn].imm = (int64_t)l->at - (int64_t)ref->insn;
    }
}

/* ---- operands ---- */

struct special_name {
    const char *name;
    int sr;                     /* -1: a clock, aux in clock */
    char cls;
    uint8_t clock;
};
static const struct special_name specials[] = {
    { "%tid.x", SR_TID_X, 'w', 0 }, { "%tid.y", SR_TID_Y, 'w', 0 },
    { "%tid.z", SR_TID_Z, 'w', 0 }, { "%tid.w", SR_ZERO, 'w', 0 },
    { "%ntid.x", SR_NTID_X, 'w', 0 }, { "%ntid.y", SR_NTID_Y, 'w', 0 },
    { "%ntid.z", SR_NTID_Z, 'w', 0 }, { "%ctaid.x", SR_CTAID_X, 'w', 0 },
    { "%ctaid.y", SR_CTAID_Y, 'w', 0 }, { "%ctaid.z", SR_CTAID_Z, 'w', 0 },
    { "%nctaid.x", SR_NCTAID_X, 'w', 0 }, { "%nctaid.y", SR_NCTAID_Y, 'w', 0 },
    { "%nctaid.z", SR_NCTAID_Z, 'w', 0 }, { "%laneid", SR_LANEID, 'w', 0 },
    { "%warpid", SR_WARPID, 'w', 0 }, { "%nwarpid", SR_NWARPID, 'w', 0 },
    { "%smid", SR_SMID, 'w', 0 }, { "%nsmid", SR_NSMID, 'w', 0 },
    { "%gridid", SR_GRIDID, 'w', 0 }, { "%lanemask_eq", SR_LANEMASK_EQ, 'w', 0 },
    { "%lanemask_le", SR_LANEMASK_LE, 'w', 0 }, { "%lanemask_lt", SR_LANEMASK_LT, 'w', 0 },
    { "%lanemask_ge", SR_LANEMASK_GE, 'w', 0 }, { "%lanemask_gt", SR_LANEMASK_GT, 'w', 0 },
    { "%envreg1", SR_ENVREG1, 'w', 0 }, { "%envreg2", SR_ENVREG2, 'w', 0 },
    { "%dynamic_smem_size", SR_DYNAMIC_SMEM, 'w', 0 },
    { "%total_smem_size", SR_TOTAL_SMEM, 'w', 0 }, { "%aggr_smem_size", SR_TOTAL_SMEM, 'w', 0 },
    { "%reserved_smem_offset_begin", SR_ZERO, 'w', 0 },
    { "%reserved_smem_offset_end", SR_ZERO, 'w', 0 },
    { "%clusterid.x", SR_CLUSTERID_X, 'w', 0 }, { "%clusterid.y", SR_CLUSTERID_Y, 'w', 0 },
    { "%clusterid.z", SR_CLUSTERID_Z, 'w', 0 }, { "%nclusterid.x", SR_NCLUSTERID_X, 'w', 0 },
    { "%nclusterid.y", SR_NCLUSTERID_Y, 'w', 0 }, { "%nclusterid.z", SR_NCLUSTERID_Z, 'w', 0 },
    { "%cluster_ctaid.x", SR_ZERO, 'w', 0 }, { "%cluster_ctaid.y", SR_ZERO, 'w', 0 },
    { "%cluster_ctaid.z", SR_ZERO, 'w', 0 }, { "%cluster_nctaid.x", SR_ONE, 'w', 0 },
    { "%cluster_nctaid.y", SR_ONE, 'w', 0 }, { "%cluster_nctaid.z", SR_ONE, 'w', 0 },
    { "%cluster_ctarank", SR_ZERO, 'w', 0 }, { "%cluster_nctarank", SR_ONE, 'w', 0 },
    { "%clock", -1, 'w', 0 }, { "%clock_hi", -1, 'w', 1 }, { "%clock64", -1, 'l', 0 },
    { "%globaltimer", -1, 'l', 2 }, { "%globaltimer_lo", -1, 'w', 2 },
    { "%globaltimer_hi", -1, 'w', 3 }, { "%current_graph_exec", -1, 'l', 4 },
    { "%is_explicit_cluster", -2, 'p', 0 },
};

static bool
special_register(struct dec *d, struct opnd *o, const char *s, uint32_t n)
{
    for (size_t k = 0; k < sizeof(specials) / sizeof(*specials); k++) {
        const struct special_name *sp = &specials[k];

        if (strlen(sp->name) != n || memcmp(sp->name, s, n))
            continue;
        o->kind = O_REG;
        o->type = sp->cls == 'l' ? T_U64 : sp->cls == 'p' ? T_PRED : T_U32;
        if (sp->sr == -2) {
            o->reg = V_FALSE;
        } else if (sp->sr >= 0) {
            o->reg = dec_special(d, (enum fdcpu_special)sp->sr);
        } else {
            o->reg = dec_vreg(d, sp->cls);
            dec_emit(d, sp->cls == 'l' ? OP_clock64 : OP_clock32, o->reg, 0, 0, 0)->aux =
                sp->clock;
        }
        return true;
    }
    if ((n >= 7 && !memcmp(s, "%envreg", 7)) || (n >= 3 && !memcmp(s, "%pm", 3))) {
        o->kind = O_IMM;
        o->imm_kind = TOK_INT;
        o->imm = 0;
        return true;
    }
    return false;
}

static void operand(struct dec *d, struct opnd *o);

/* A word: register, special register, variable, or a label or function for later. */
static void
word_operand(struct dec *d, struct opnd *o)
{
    struct fdcpu_lex *x = &d->r.x;
    const char *s = x->s;
    uint32_t n = x->n;

    if (n == 1 && *s == '_') {
        o->kind = O_SINK;
        fdcpu_lex_next(x);
        return;
    }
    if (find_reg(d, s, n, &o->reg, &o->type)) {
        o->kind = O_REG;
        fdcpu_lex_next(x);
        if (x->kind == TOK_DOT && x->n == 3 && x->s == s + n) {    /* .b0 .h1 of video */
            o->sel = (char)((x->s[1] == 'h' ? 16 : 0) | (x->s[2] - '0') | 32);
            fdcpu_lex_next(x);
        }
        return;
    }
    fdcpu_lex_next(x);
    if (*s == '%') {
        if (x->kind == TOK_DOT && x->s == s + n) {
            n += x->n;
            fdcpu_lex_next(x);
        }
        if (special_register(d, o, s, n))
            return;
        DEC_FAIL(d, "no register '%.*s'", n > 60 ? 60 : (int)n, s);
    }
    if (n == 7 && !memcmp(s, "WARP_SZ", 7)) {
        o->kind = O_IMM;
        o->imm_kind = TOK_INT;
        o->imm = FDCPU_LANES;
        return;
    }
    o->s = s;
    o->n = n;
    o->name = dec_find(d, s, n);
    o->kind = O_WORD;
    if (!o->name)
        o->sym = fdcpu_sym_find(d->r.module, d->func->text, s, n);
    if (o->name || o->sym) {
        o->kind = O_SYM;
        if (x->c == '+' || x->c == '-')
            o->imm = fdcpu_integer(&d->r);
    }
}

static void
address_operand(struct dec *d, struct opnd *o)
{
    struct fdcpu_lex *x = &d->r.x;
    struct opnd base = { 0 };

    fdcpu_expect(&d->r, '[');
    if (x->kind == TOK_WORD) {
        word_operand(d, &base);
        *o = base;
        if (base.kind == O_REG && (x->c == '+' || x->c == '-'))
            o->imm = fdcpu_integer(&d->r);
        else if (base.kind == O_REG || base.kind == O_WORD)
            o->imm = 0;
    } else {
        o->imm = fdcpu_integer(&d->r);
        o->reg = UINT32_MAX;
    }
    if (base.kind == O_WORD)
        DEC_FAIL(d, "no variable '%.*s'", base.n > 60 ? 60 : (int)base.n, base.s);
    if (base.kind == O_SYM)
        o->reg = UINT32_MAX - 1;
    o->kind = O_ADDR;
    while (fdcpu_accept(&d->r, ',')) {      /* textures: coordinates */
        struct opnd *v = dec_alloc(d, (MAX_VEC + 1) * sizeof(*v));

        if (x->c == '[' || o->nvec == MAX_OPERANDS)
            DEC_FAIL(d, "what is no coordinate in %.*s", (int)d->form_n, d->form);
        operand(d, v);
        o->vec = v;
        o->nvec++;
    }
    fdcpu_expect(&d->r, ']');
}

static void
operand(struct dec *d, struct opnd *o)
{
    struct fdcpu_lex *x = &d->r.x;

    memset(o, 0, sizeof(*o));
    if (x->c == '!') {
        o->neg = true;
        fdcpu_lex_next(x);
    }
    if (x->c == '[') {
        address_operand(d, o);
    } else if (x->c == '{') {
        o->kind = O_VEC;
        o->vec = dec_alloc(d, MAX_VEC * sizeof(*o->vec));
        fdcpu_lex_next(x);
        while (x->c != '}') {
            if (o->nvec == MAX_VEC)
                DEC_FAIL(d, "vector of more than %d", MAX_VEC);
            if (x->c == '{')
                DEC_FAIL(d, "vector in a vector");
            operand(d, &o->vec[o->nvec++]);
            if (!fdcpu_accept(&d->r, ','))
                break;
        }
        fdcpu_expect(&d->r, '}');
        if (x->c == '|') {      /* textures: whether it is resident */
            struct opnd q = { 0 };

            fdcpu_lex_next(x);
            if (x->kind != TOK_WORD)
                DEC_FAIL(d, "expected a predicate after '|'");
            word_operand(d, &q);
            if (q.kind == O_REG && (d->vreg[q.reg].cls != 'p' || d->vreg[q.reg].fixed))
                DEC_FAIL(d, "expected a predicate after '|'");
            o->has_pair = true;
            o->pair = q.kind == O_REG ? q.reg : UINT32_MAX;
        }
    } else if (x->kind == TOK_WORD) {
        bool neg = o->neg;

        word_operand(d, o);
        o->neg = neg;
        if (x->c == '|') {
            struct opnd q = { 0 };

            fdcpu_lex_next(x);
            if (x->kind != TOK_WORD)
                DEC_FAIL(d, "expected a register after '|'");
            word_operand(d, &q);
            if (q.kind == O_REG && (d->vreg[q.reg].cls != 'p' || d->vreg[q.reg].fixed))
                DEC_FAIL(d, "expected a predicate after '|'");
            o->has_pair = true;
            o->pair = q.kind == O_REG ? q.reg : UINT32_MAX;
        }
    } else {
        bool negative = false;

        while (x->c == '-' || x->c == '+') {
            negative ^= x->c == '-';
            fdcpu_lex_next(x);
        }
        if (x->kind != TOK_INT && x->kind != TOK_F32 && x->kind != TOK_F64)
            DEC_FAIL(d, "expected an operand before '%.*s'", x->n > 40 ? 40 : (int)x->n, x->s);
        o->kind = O_IMM;
        o->imm_kind = x->kind;
        o->imm = x->num;
        if (negative)
            o->imm = x->kind == TOK_INT   ? -o->imm
                     : x->kind == TOK_F32 ? o->imm ^ 0x80000000u
                                          : o->imm ^ 1ull << 63;
        fdcpu_lex_next(x);
    }
}

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
dec_shared_var(struct dec *d, uint32_t index)
{
    struct fdcpu_gvar *v = d->r.module->var[index];
    struct dec_program *b = d->build;

    if (v->dynamic || (v->linkage == LINK_EXTERN && !v->pub.size)) {
        if (v->align > b->dynamic_align)
            b->dynamic_align = v->align;
        return UINT32_MAX;
    }
    if (!b->shared_at[index]) {
        b->shared_size = (b->shared_size + v->align - 1) & ~(v->align - 1);
        b->shared_at[index] = b->shared_size + 1;
        if (v->pub.size > MAX_SHARED - b->shared_size)
            DEC_FAIL(d, "too much shared memory");
        b->shared_size += (uint32_t)v->pub.size;
    }
    return b->shared_at[index] - 1;
}

void
dec_want(struct dec *d, uint32_t func)
{
    struct dec_program *b = d->build;

    if (!b->wanted[func]) {
        b->wanted[func] = 1;
        b->queue[b->nqueue++] = func;
    }
}

/* The address of a variable or function as a 64-bit register. */
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

/* An instruction whose operands are just those of the op's signature, in order. */
void
dec_simple(struct dec *d, enum fdcpu_op op)
{
    const char *sig = fdcpu_ops[op].sig;
    uint32_t v[4] = { 0, 0, 0, 0 }, k, at = 0;
    enum fdcpu_type t = dec_type(d, 0);
    struct fdcpu_insn *i;

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
    i = dec_emit(d, op, v[0], v[1], v[2], v[3]);
    (void)i;
    dec_finish(d);
}

/* The instruction becomes a fault for whoever reaches it. */
void
dec_unsupported(struct dec *d)
{
    char *text = fdcpu_alloc(&d->r, d->form_n + 1);

    memcpy(text, d->form, d->form_n);
    dec_emit(d, OP_unsupported, 0, 0, 0, 0)->imm = (int64_t)(intptr_t)text;
}

/* ---- statements ---- */

static void
skip_statement(struct dec *d)
{
    while (d->r.x.c != ';' && d->r.x.kind != TOK_END)
        fdcpu_lex_next(&d->r.x);
    fdcpu_expect(&d->r, ';');
}

/* .reg .b32 %r<10>, x, y; */
static void
declare_regs(struct dec *d)
{
    struct fdcpu_lex *x = &d->r.x;
    enum fdcpu_type t = T_NONE;

    fdcpu_lex_next(x);
    while (x->kind == TOK_DOT) {
        if (fdcpu_lex_is(x, ".v2") || fdcpu_lex_is(x, ".v4"))
            DEC_FAIL(d, "vector registers are not supported");
        t = fdcpu_type_token(&d->r);
    }
    if (!t || t == T_OPAQUE)
        DEC_FAIL(d, "registers without a type");
    do {
        const char *s = x->s;
        uint32_t n = x->n;
        struct dec_name *name;

        if (x->kind != TOK_WORD)
            DEC_FAIL(d, "expected a register's name");
        fdcpu_lex_next(x);
        if (fdcpu_accept(&d->r, '<')) {
            uint64_t count = fdcpu_integer(&d->r);

            fdcpu_expect(&d->r, '>');
            if (count > MAX_REGS)
                DEC_FAIL(d, "%llu registers", (unsigned long long)count);
            name = declare(d, s, n, N_REGS);
            name->index = d->nvreg;
            name->count = (uint32_t)count;
            for (uint64_t k = 0; k < count; k++)
                dec_vreg(d, dec_class(t));
        } else {
            name = declare(d, s, n, N_REG);
            name->index = dec_vreg(d, dec_class(t));
        }
        name->type = t;
    } while (fdcpu_accept(&d->r, ','));
    fdcpu_expect(&d->r, ';');
}

/* .local, .shared and .param variables of a body */
static void
declare_memory(struct dec *d, enum name_kind kind)
{
    struct fdcpu_lex *x = &d->r.x;
    enum fdcpu_type t = T_NONE;
    uint64_t align = 1;

    fdcpu_lex_next(x);
    while (x->kind == TOK_DOT) {
        if (fdcpu_lex_is(x, ".align")) {
            fdcpu_lex_next(x);
            align = fdcpu_integer(&d->r);
            if (!align || align > 4096 || (align & (align - 1)))
                DEC_FAIL(d, "alignment %llu", (unsigned long long)align);
        } else {
            t = fdcpu_type_token(&d->r);
        }
    }
    if (!t)
        DEC_FAIL(d, "variable without a type");
    if (align < fdcpu_type_size(t))
        align = fdcpu_type_size(t);
    do {
        struct dec_name *name;
        bool empty;
        uint64_t size;
        const char *s = x->s;
        uint32_t n = x->n;

        if (x->kind != TOK_WORD)
            DEC_FAIL(d, "expected a variable's name");
        fdcpu_lex_next(x);
        size = fdcpu_dims(&d->r, &empty) * fdcpu_type_size(t);
        name = declare(d, s, n, kind);
        name->type = t;
        if (size > MAX_FRAME)
            DEC_FAIL(d, "'%.*s' is too large", n > 60 ? 60 : (int)n, s);
        name->size = (uint32_t)size;
        if (kind == N_SHARED) {
            struct dec_program *b = d->build;

            b->shared_size = (b->shared_size + (uint32_t)align - 1) & ~((uint32_t)align - 1);
            name->index = b->shared_size;
            b->shared_size += (uint32_t)size;
            if (b->shared_size > MAX_SHARED)
                DEC_FAIL(d, "too much shared memory");
        } else {
            if (align > 64)
                align = 64;
            d->frame_size = (d->frame_size + (uint32_t)align - 1) & ~((uint32_t)align - 1);
            name->index = d->frame_size;
            d->frame_size += (uint32_t)size;
            if (d->frame_size > MAX_FRAME)
                DEC_FAIL(d, "too much local memory");
        }
    } while (fdcpu_accept(&d->r, ','));
    fdcpu_expect(&d->r, ';');
}

/* name: .branchtargets a, b; and .calltargets, .callprototype */
static bool
labelled_directive(struct dec *d, const char *s, uint32_t n)
{
    struct fdcpu_lex *x = &d->r.x;
    struct dec_name *name;

    if (x->kind != TOK_DOT)
        return false;
    if (fdcpu_lex_is(x, ".branchtargets")) {
        name = declare(d, s, n, N_TARGETS);
        name->index = d->ntable;
        fdcpu_lex_next(x);
        do {
            struct opnd o = { .kind = O_WORD, .s = x->s, .n = x->n };

            if (x->kind != TOK_WORD)
                DEC_FAIL(d, "expected a label");
            DEC_GROW(d, d->table, d->ntable, d->cap_table);
            d->table[d->ntable++] = 0;
            dec_label_ref(d, &o, 0, d->ntable);
            name->count++;
            fdcpu_lex_next(x);
        } while (fdcpu_accept(&d->r, ','));
        fdcpu_expect(&d->r, ';');
        return true;
    }
    if (fdcpu_lex_is(x, ".callprototype") || fdcpu_lex_is(x, ".calltargets")) {
        declare(d, s, n, N_PROTO);
        skip_statement(d);
        return true;
    }
    return false;
}

/* call (ret), name, (arguments), prototype; the parts as O_VEC, operands in d->op */
static void
call_operands(struct dec *d)
{
    struct fdcpu_lex *x = &d->r.x;
    uint32_t n = 0;

    while (x->c != ';') {
        struct opnd *o;

        if (n == MAX_OPERANDS)
            DEC_FAIL(d, "call with too many operands");
        o = &d->op[n++];
        if (fdcpu_accept(&d->r, '(')) {
            memset(o, 0, sizeof(*o));
            o->kind = O_VEC;
            o->vec = NULL;
            while (x->c != ')') {
                if ((o->nvec & (o->nvec - 1)) == 0) {   /* grows at powers of two */
                    struct opnd *v = dec_alloc(d, (o->nvec ? o->nvec * 2 : 1) * sizeof(*v));

                    if (o->nvec)
                        memcpy(v, o->vec, o->nvec * sizeof(*v));
                    o->vec = v;
                }
                operand(d, &o->vec[o->nvec++]);
                if (!fdcpu_accept(&d->r, ','))
                    break;
            }
            fdcpu_expect(&d->r, ')');
        } else {
            operand(d, o);
        }
        if (!fdcpu_accept(&d->r, ','))
            break;
    }
    d->nop = n;
}

static void
instruction(struct dec *d)
{
    struct fdcpu_lex *x = &d->r.x;
    const char *s = x->s, *p;
    dec_lower *lower;
    int op;

    /* the lexer stands on the first word; take the modifiers that touch it */
    d->line = x->line;
    d->form = s;
    d->base_n = x->n;
    d->nmod = 0;
    d->nfix = 0;
    for (p = s + x->n; p < x->end && *p == '.';) {
        const char *q = p + 1;

        while (q < x->end && ((*q >= 'a' && *q <= 'z') || (*q >= 'A' && *q <= 'Z') ||
                              (*q >= '0' && *q <= '9') || *q == '_' ||
                              (*q == ':' && q + 1 < x->end && (q[1] == ':' || q[-1] == ':'))))
            q++;
        if (d->nmod == MAX_MODS || q == p + 1)
            DEC_FAIL(d, "opcode '%.*s'", (int)(q - s > 80 ? 80 : q - s), s);
        d->mod[d->nmod].s = p + 1;
        d->mod[d->nmod++].n = (uint32_t)(q - p - 1);
        p = q;
    }
    d->form_n = (uint32_t)(p - s);
    if (d->form_n > 200)
        DEC_FAIL(d, "opcode of %u characters", d->form_n);
    x->p = p;
    fdcpu_lex_next(x);

    d->nop = 0;
    if (d->base_n == 4 && !memcmp(s, "call", 4)) {
        call_operands(d);
    } else {
        while (x->c != ';') {
            if (d->nop == MAX_OPERANDS)
                DEC_FAIL(d, "%.*s has too many operands", (int)d->form_n, d->form);
            operand(d, &d->op[d->nop++]);
            if (!fdcpu_accept(&d->r, ','))
                break;
        }
    }
    if (x->c != ';')
        fdcpu_expect(&d->r, ';');
    /* the ';' is read after the work, so that messages name this line */
    op = fdcpu_form_find(d->form, d->form_n);
    for (uint32_t k = 0; k < d->nop; k++)
        if (d->op[k].kind == O_VEC)
            op = -1;
    if (op >= 0) {
        dec_simple(d, (enum fdcpu_op)op);
    } else {
        lower = dec_find_mem(d->form, d->base_n);
        if (!lower)
            lower = dec_find_alu(d->form, d->base_n);
        if (!(lower && lower(d)) && !dec_arith(d))
            dec_unsupported(d);
    }
    fdcpu_lex_next(x);
}

static void
statement(struct dec *d)
{
    struct fdcpu_lex *x = &d->r.x;

    d->guard = V_TRUE << 1;
    d->line = x->line;
    if (x->c == ';') {
        fdcpu_lex_next(x);
    } else if (x->c == '{') {
        open_scope(d);
        fdcpu_lex_next(x);
    } else if (x->c == '}') {
        if (!d->scope->up)
            DEC_FAIL(d, "'}' without '{'");
        close_scope(d);
        fdcpu_lex_next(x);
    } else if (x->kind == TOK_DOT) {
        if (fdcpu_lex_is(x, ".reg"))
            declare_regs(d);
        else if (fdcpu_lex_is(x, ".local"))
            declare_memory(d, N_LOCAL);
        else if (fdcpu_lex_is(x, ".param"))
            declare_memory(d, N_FRAME);
        else if (fdcpu_lex_is(x, ".shared"))
            declare_memory(d, N_SHARED);
        else if (fdcpu_lex_is(x, ".pragma") || fdcpu_lex_is(x, ".global") ||
                 fdcpu_lex_is(x, ".const"))
            skip_statement(d);
        else if (fdcpu_lex_is(x, ".loc") || fdcpu_lex_is(x, ".file")) {
            uint32_t line = x->line;

            while (x->line == line && x->kind != TOK_END)
                fdcpu_lex_next(x);
        } else
            DEC_FAIL(d, "directive '%.*s'", x->n > 40 ? 40 : (int)x->n, x->s);
    } else if (x->c == '@') {
        struct opnd o = { 0 };
        bool neg;

        fdcpu_lex_next(x);
        neg = fdcpu_accept(&d->r, '!');
        if (x->kind != TOK_WORD)
            DEC_FAIL(d, "expected a predicate after '@'");
        word_operand(d, &o);
        if (o.kind != O_REG || d->vreg[o.reg].cls != 'p')
            DEC_FAIL(d, "guard is no predicate");
        d->guard = o.reg << 1 | neg;
        if (x->kind != TOK_WORD)
            DEC_FAIL(d, "expected an instruction after the guard");
        instruction(d);
    } else if (x->kind == TOK_WORD) {
        const char *s = x->s, *p = x->p;
        uint32_t n = x->n;

        while (p < x->end && (*p == ' ' || *p == '\t'))
            p++;
        if (p < x->end && *p == ':' && !(p + 1 < x->end && p[1] == ':')) {
            fdcpu_lex_next(x);
            fdcpu_lex_next(x);
            if (!labelled_directive(d, s, n))
                define_label(d, s, n);
        } else {
            instruction(d);
        }
    } else {
        DEC_FAIL(d, "'%.*s' where an instruction was expected", x->n > 40 ? 40 : (int)x->n,
                 x->s);
    }
}

/* Parameters of the function as names. */
static void
declare_formals(struct dec *d, const struct fdcpu_formal *list, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        struct dec_name *name = declare(d, list[k].name, (uint32_t)strlen(list[k].name),
                                        d->func->entry ? N_PARAM : N_FRAME);

        if (list[k].reg)
            DEC_FAIL(d, "parameters in registers are not supported");
        name->index = list[k].offset;
        name->size = list[k].size;
        name->type = list[k].type;
    }
}

static void
dec_free(struct dec *d)
{
    fdcpu_arena_free(&d->arena);
    free(d->vreg);
    free(d->insn);
    free(d->ext);
    free(d->consts);
    free(d->scope_up);
    free(d->refs);
    free(d->table);
    free(d);
}

static void
code_free(struct fdcpu_code *code)
{
    if (!code)
        return;
    free(code->insn);
    free(code->ext);
    free(code->consts);
    free(code->table);
    free(code);
}

/* Decodes one function. Returns 0 or a CUresult with a message in func->prog_error. */
static int
decode(struct fdcpu_program *prog, struct dec_program *build, struct fdcpu_func *f,
       struct fdcpu_code **out, char *message, size_t size)
{
    struct fdcpu_code *volatile made = NULL;
    struct fdcpu_code *code;
    struct dec *d = calloc(1, sizeof(*d));

    if (!d)
        return 2;
    d->func = f;
    d->prog = prog;
    d->build = build;
    d->r.module = f->module;
    d->r.text = f->text;
    memset(d->const_hash, -1, sizeof(d->const_hash));
    fdcpu_lex_init(&d->r.x, f->body, f->body_end, f->body_line);
    if (setjmp(d->r.fail)) {
        int result = d->r.result;

        snprintf(message, size, "%s: %s", f->name, d->r.message);
        code_free(made);
        dec_free(d);
        return result;
    }
    d->labels = dec_alloc(d, 1024 * sizeof(*d->labels));
    dec_vreg(d, 'p');
    dec_vreg(d, 'p');
    d->vreg[V_TRUE].fixed = d->vreg[V_FALSE].fixed = true;
    open_scope(d);
    declare_formals(d, f->params, f->nparams);
    declare_formals(d, f->rets, f->nrets);
    d->frame_size = f->entry ? 0 : f->formal_size;
    fdcpu_lex_next(&d->r.x);
    while (d->r.x.kind != TOK_END)
        statement(d);
    if (d->scope->up)
        DEC_FAIL(d, "'{' without '}'");
    d->guard = V_TRUE << 1;
    dec_emit(d, f->entry ? OP_exit : OP_ret, 0, 0, 0, 0);
    resolve_labels(d);

    if (d->frame_size > MAX_FRAME)
        DEC_FAIL(d, "too much local memory");
    made = code = calloc(1, sizeof(*code));
    if (!code)
        fdcpu_fail(&d->r, 2, "out of memory");
    code->func = f;
    code->prog = prog;
    code->index = f->number;
    code->local_size = (d->frame_size + 63) & ~63u;
    dec_allocate(d, code);
    *out = code;
    dec_free(d);
    return 0;
}

void
fdcpu_program_free(struct fdcpu_program *prog)
{
    if (!prog)
        return;
    for (uint32_t k = 0; k < prog->ncode; k++)
        code_free(prog->code[k]);
    free(prog->code);
    free(prog);
}

static int
build_program(struct fdcpu_func *f, char *message, size_t size)
{
    struct fdcpu_module *m = f->module;
    struct dec_program b = { .dynamic_align = 16 };
    struct fdcpu_program *prog = calloc(1, sizeof(*prog));
    uint32_t end;
    int result = 2;

    b.shared_at = calloc(m->nvar + 1, sizeof(*b.shared_at));
    b.wanted = calloc(m->nfunc + 1, 1);
    b.queue = calloc(m->nfunc + 1, sizeof(*b.queue));
    if (!prog || !b.shared_at || !b.wanted || !b.queue)
        goto out;
    prog->module = m;
    prog->code = calloc(m->nfunc + 1, sizeof(*prog->code));
    if (!prog->code)
        goto out;
    prog->ncode = m->nfunc;
    b.wanted[f->number] = 1;
    b.queue[b.nqueue++] = f->number;
    for (uint32_t k = 0; k < b.nqueue; k++) {
        uint32_t number = b.queue[k];

        result = decode(prog, &b, m->func[number], &prog->code[number], message, size);
        if (result)
            goto out;
        if (k + 1 == b.nqueue && b.indirect && !prog->indirect) {
            /* any function whose address may be in memory can be called */
            prog->indirect = true;
            for (uint32_t g = 0; g < m->nfunc; g++)
                if (m->func[g]->defined && !m->func[g]->entry && !b.wanted[g] &&
                    (m->func[g]->address_taken || m->nfunc <= 256)) {
                    b.wanted[g] = 1;
                    b.queue[b.nqueue++] = g;
                }
        }
    }
    prog->entry = prog->code[f->number];
    prog->uses_grid = b.grid;
    prog->static_shared = b.shared_size;
    end = (b.shared_size + b.dynamic_align - 1) & ~(b.dynamic_align - 1);
    prog->dynamic_at = end;
    for (uint32_t k = 0; k < prog->ncode; k++)
        for (uint32_t c = 0; prog->code[k] && c < prog->code[k]->nconsts; c++)
            if (prog->code[k]->consts[c].size & 0x80) {         /* K_DYNAMIC */
                prog->code[k]->consts[c].size &= 0x7f;
                prog->code[k]->consts[c].value += end;
            }
    f->prog = prog;
    prog = NULL;
    result = 0;
out:
    fdcpu_program_free(prog);
    free(b.shared_at);
    free(b.wanted);
    free(b.queue);
    return result;
}

/* Marks that the program calls through pointers; for decode_mem.c. */
void dec_indirect(struct dec *d);
void
dec_indirect(struct dec *d)
{
    d->build->indirect = true;
}

int
fdcpu_program_get(struct fdcpu_func *f)
{
    struct fdcpu_module *m = f->module;
    int result;

    if (f->machine)
        return 209;
    pthread_mutex_lock(&m->lock);
    if (!f->prog && !f->prog_result) {
        char message[600] = "";

        fdcpu_ops_init();
        f->prog_result = build_program(f, message, sizeof(message));
        if (f->prog_result)
            f->prog_error = strdup(message);
    }
    result = f->prog_result;
    pthread_mutex_unlock(&m->lock);
    return result;
}
