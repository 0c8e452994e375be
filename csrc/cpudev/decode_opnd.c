/*
 * Reads operands: registers, special registers, constants, addresses, vectors, and words
 * that are variables, functions or labels. What they become is decided in decode_emit.c.
 */
#include "decode.h"

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

void
dec_word(struct dec *d, struct opnd *o)
{
    struct fdcpu_lex *x = &d->r.x;
    const char *s = x->s;
    uint32_t n = x->n;

    if (n == 1 && *s == '_') {
        o->kind = O_SINK;
        fdcpu_lex_next(x);
        return;
    }
    if (dec_find_reg(d, s, n, &o->reg, &o->type)) {
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
        dec_word(d, &base);
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
        dec_operand(d, v);
        o->vec = v;
        o->nvec++;
    }
    fdcpu_expect(&d->r, ']');
}

/* A predicate behind '|'. what: how it is called where there is none. */
static void
dec_pair(struct dec *d, struct opnd *o, const char *what)
{
    struct opnd q = { 0 };

    fdcpu_lex_next(&d->r.x);
    if (d->r.x.kind != TOK_WORD)
        DEC_FAIL(d, "expected a %s after '|'", what);
    dec_word(d, &q);
    if (q.kind == O_REG && (d->vreg[q.reg].cls != 'p' || d->vreg[q.reg].fixed))
        DEC_FAIL(d, "expected a predicate after '|'");
    o->has_pair = true;
    o->pair = q.kind == O_REG ? q.reg : UINT32_MAX;
}

void
dec_operand(struct dec *d, struct opnd *o)
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
            dec_operand(d, &o->vec[o->nvec++]);
            if (!fdcpu_accept(&d->r, ','))
                break;
        }
        fdcpu_expect(&d->r, '}');
        if (x->c == '|') /* textures: whether it is resident */
            dec_pair(d, o, "predicate");
    } else if (x->kind == TOK_WORD) {
        bool neg = o->neg;

        dec_word(d, o);
        o->neg = neg;
        if (x->c == '|')
            dec_pair(d, o, "register");
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
