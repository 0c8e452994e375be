/* Loads, stores, atomics, control flow, calls, barriers and whole-warp operations. */
#include "decode.h"
#include "slow.h"

#include <stdio.h>

static struct fdcpu_insn *
nop(struct dec *d)
{
    return dec_emit(d, OP_nop, 0, 0, 0, 0);
}

/* ---- addresses ---- */

struct address {
    uint32_t base, aux;
    int64_t imm;
    int space;
    bool param;                 /* a kernel parameter; imm is its offset */
    struct dec_name *name;
};

static int
space_of(struct dec *d)
{
    for (uint32_t k = 0; k < d->nmod; k++) {
        const char *s = d->mod[k].s;
        uint32_t n = d->mod[k].n;

        if (dec_is(s, n, "global"))
            return SP_GLOBAL;
        if (dec_is(s, n, "shared") || dec_is(s, n, "shared::cta") ||
            dec_is(s, n, "shared::cluster"))
            return SP_SHARED;
        if (dec_is(s, n, "local"))
            return SP_LOCAL;
        if (n >= 5 && !memcmp(s, "const", 5))
            return SP_CONST;
        if (n >= 5 && !memcmp(s, "param", 5))
            return SP_PARAM;
    }
    return SP_GENERIC;
}

static void
address(struct dec *d, const struct opnd *o, int space, struct address *a)
{
    memset(a, 0, sizeof(*a));
    a->space = space;
    if (o->kind != O_ADDR || o->nvec)
        DEC_FAIL(d, "expected an address in %.*s", (int)d->form_n, d->form);
    if (o->reg == UINT32_MAX) {
        a->base = dec_const(d, o->imm, 'l', 0);
    } else if (o->reg == UINT32_MAX - 1) {
        if (o->name && (o->name->kind == N_FRAME || o->name->kind == N_LOCAL)) {
            a->base = dec_const(d, 0, 'l', 0);
            a->imm = (int64_t)(o->name->index + o->imm);
            a->aux = MEM_FRAME;
            a->space = SP_LOCAL;
        } else if (o->name && o->name->kind == N_PARAM) {
            a->param = true;
            a->imm = (int64_t)(o->name->index + o->imm);
            a->name = o->name;
        } else {
            a->base = dec_symbol(d, o, o->imm);
            if (o->sym && o->sym->kind == SYM_VAR && space == SP_GENERIC &&
                d->r.module->var[o->sym->index]->space != VS_SHARED)
                a->space = SP_GLOBAL;
        }
    } else {
        a->base = o->reg;
        a->imm = (int64_t)o->imm;
        if (d->vreg[o->reg].cls == 'w')
            a->aux = MEM_A32;
        else if (d->vreg[o->reg].cls != 'l')
            DEC_FAIL(d, "address register of the wrong width");
        if (space == SP_PARAM)
            a->space = SP_GENERIC;
    }
    if (a->space == SP_CONST)
        a->space = SP_GLOBAL;
    if (a->space == SP_PARAM && !a->param)
        DEC_FAIL(d, "no parameter in %.*s", (int)d->form_n, d->form);
    a->aux |= (uint32_t)a->space << MEM_SPACE_SHIFT;
}

static uint32_t
ordering(struct dec *d)
{
    return (dec_mod(d, "acquire") ? MEM_ACQUIRE : 0) | (dec_mod(d, "release") ? MEM_RELEASE : 0) |
           (dec_mod(d, "volatile") || dec_mod(d, "relaxed") || dec_mod(d, "mmio") ? MEM_VOLATILE
                                                                                   : 0);
}

static uint32_t
vector_length(struct dec *d)
{
    return dec_mod(d, "v2") ? 2 : dec_mod(d, "v4") ? 4 : dec_mod(d, "v8") ? 8 : 1;
}

static void
kernel_parameter(struct dec *d, struct address *a, enum fdcpu_type t, uint32_t n)
{
    uint32_t size = fdcpu_type_size(t);
    char cls = dec_class(t);

    if (size > 8)
        DEC_FAIL(d, "parameter of 128 bits");
    if (a->imm < 0 || (uint64_t)a->imm + size * n > d->func->info.param_size ||
        a->imm % size)
        DEC_FAIL(d, "parameter outside of the parameters");
    for (uint32_t k = 0; k < n; k++) {
        struct opnd *o = n > 1 ? &d->op[0].vec[k] : &d->op[0];
        struct fdcpu_insn *i = dec_emit(d, cls == 'l' ? OP_ldp64 : OP_ldp32,
                                        dec_dst(d, o, cls, fdcpu_type_signed(t)), 0, 0, 0);

        i->imm = a->imm + (int64_t)k * size;
        i->aux = size == 1 ? (fdcpu_type_signed(t) ? T_S8 : T_U8)
                 : size == 2 ? (fdcpu_type_signed(t) ? T_S16 : T_U16) : T_U32;
        dec_finish(d);
    }
}

static bool
load_store(struct dec *d, bool load)
{
    static const enum fdcpu_op loads[] = {
        [SP_GENERIC] = OP_ld_any, [SP_GLOBAL] = OP_ld_global, [SP_SHARED] = OP_ld_shared,
        [SP_LOCAL] = OP_ld_local,
    };
    static const enum fdcpu_op stores[] = {
        [SP_GENERIC] = OP_st_any, [SP_GLOBAL] = OP_st_global, [SP_SHARED] = OP_st_shared,
        [SP_LOCAL] = OP_st_local,
    };
    enum fdcpu_type t = dec_type(d, 0);
    uint32_t n = vector_length(d), ext = 0;
    struct opnd *data = &d->op[load ? 0 : 1];
    struct address a;
    char cls = dec_class(t);
    struct fdcpu_insn *i;
    uint32_t reg[8], one = 0;

    if (!t || t == T_PRED || t == T_OPAQUE)
        return false;
    dec_need(d, 2, 3);                  /* the third: a cache policy */
    if (n > 1 ? data->kind != O_VEC || data->nvec != n : data->kind == O_VEC && data->nvec != 1)
        DEC_FAIL(d, "vector of the wrong length in %.*s", (int)d->form_n, d->form);
    if (n == 1 && data->kind == O_VEC)
        *data = data->vec[0];
    address(d, &d->op[load ? 1 : 0], space_of(d), &a);
    if (a.param) {
        if (!load)
            DEC_FAIL(d, "store to a kernel's parameter");
        kernel_parameter(d, &a, t, n);
        return true;
    }
    for (uint32_t k = 0; k < n; k++) {
        struct opnd *o = n > 1 ? &data->vec[k] : data;

        reg[k] = load ? dec_dst(d, o, cls, fdcpu_type_signed(t)) : dec_src(d, o, cls, t);
    }
    if (n == 1) {
        one = reg[0];
    } else {
        for (uint32_t k = 0; k < n; k++) {
            uint32_t e = dec_ext(d, reg[k], load ? (char)(cls - 32) : cls, 0);

            if (!k)
                ext = e;
        }
    }
    i = dec_emit(d, load ? loads[a.space] : stores[a.space], one, a.base, 0, 0);
    i->imm = a.imm;
    i->aux = a.aux | (uint32_t)t | ordering(d);
    i->ext = ext;
    i->n = n > 1 ? (uint16_t)n : 0;
    dec_finish(d);
    return true;
}

static bool
lower_ld(struct dec *d)
{
    return load_store(d, true);
}

static bool
lower_st(struct dec *d)
{
    return load_store(d, false);
}

static bool
lower_atom(struct dec *d)
{
    static const char *const names[] = { "add", "min", "max", "and", "or", "xor", "inc", "dec",
                                         "exch", "cas" };
    bool red = d->base_n == 3;
    enum fdcpu_type t = dec_type(d, 0);
    uint32_t op, at = red ? 0 : 1, dst, b, c, e;
    char cls = dec_class(t);
    struct address a;
    struct fdcpu_insn *i;

    for (op = 0; op < 10 && !dec_mod(d, names[op]); op++)
        ;
    if (op == 10 || !t || t == T_PRED || vector_length(d) > 1 ||
        (cls == 'q' && op < ATOM_EXCH) || dec_mod(d, "async"))
        return false;
    dec_need(d, at + 2, at + 4);
    if (op == ATOM_CAS && d->nop < at + 3)
        DEC_FAIL(d, "atom.cas with %u operands", d->nop);
    address(d, &d->op[at], space_of(d), &a);
    if (a.param)
        return false;
    b = dec_src(d, &d->op[at + 1], cls, t);
    c = op == ATOM_CAS ? dec_src(d, &d->op[at + 2], cls, t) : b;
    dst = red ? dec_vreg(d, cls) : dec_dst(d, &d->op[0], cls, false);
    e = dec_ext(d, dst, (char)(cls - 32), 0);
    dec_ext(d, b, cls, 0);
    dec_ext(d, c, cls, 0);
    i = dec_emit(d, OP_atom, 0, a.base, 0, 0);
    i->imm = a.imm;
    i->aux = a.aux | (uint32_t)t | ordering(d);
    i->aux2 = op | (uint32_t)t << 8 | (red ? ATOM_RED : 0);
    i->ext = e;
    i->n = 3;
    dec_finish(d);
    return true;
}

static bool
lower_cvta(struct dec *d)
{
    int space = space_of(d);
    bool to = dec_mod(d, "to");
    uint32_t a, dst;
    uint64_t win = space == SP_SHARED ? FDCPU_WIN_SHARED : space == SP_LOCAL ? FDCPU_WIN_LOCAL : 0;

    dec_need(d, 2, 2);
    if (!dec_mod(d, "u64"))
        return false;
    if (d->op[1].kind == O_SYM && d->op[1].name && d->op[1].name->kind == N_FRAME)
        win = 0;                /* is generic already */
    a = dec_src(d, &d->op[1], 'l', T_U64);
    dst = dec_dst(d, &d->op[0], 'l', false);
    if (win)
        dec_emit(d, OP_add64, dst, a, dec_const(d, to ? -win : win, 'l', 0), 0);
    else
        dec_emit(d, OP_mov64, dst, a, 0, 0);
    dec_finish(d);
    return true;
}

static bool
lower_isspacep(struct dec *d)
{
    uint32_t a;

    dec_need(d, 2, 2);
    a = dec_src(d, &d->op[1], 'l', T_U64);
    dec_emit(d, OP_isspacep, dec_dst(d, &d->op[0], 'p', 0), a, 0, 0)->aux = (uint32_t)space_of(d);
    return true;
}

/* ---- control ---- */

static bool
lower_bra(struct dec *d)
{
    struct fdcpu_insn *i;

    dec_need(d, 1, 1);
    if (d->guard == V_TRUE << 1) {
        i = dec_emit(d, OP_bra, 0, 0, 0, 0);
    } else {
        uint32_t guard = d->guard;

        d->guard = V_TRUE << 1;
        i = dec_emit(d, OP_brap, 0, guard >> 1, 0, 0);
        i->aux = guard & 1;
        dec_label_ref(d, &d->op[0], d->ninsn - 1, 0);
        dec_emit(d, OP_chk, 0, 0, 0, 0);        /* where lanes that stay begin */
        return true;
    }
    dec_label_ref(d, &d->op[0], d->ninsn - 1, 0);
    return true;
}

static bool
lower_brx(struct dec *d)
{
    struct fdcpu_insn *i;
    struct dec_name *name;
    uint32_t a;

    dec_need(d, 2, 2);
    name = d->op[1].kind == O_SYM ? d->op[1].name : NULL;
    if (!name || name->kind != N_TARGETS)
        DEC_FAIL(d, "brx.idx without a list of targets");
    a = dec_src(d, &d->op[0], 'w', T_U32);
    i = dec_emit(d, OP_brx, 0, a, 0, 0);
    i->imm = name->index;
    i->aux = name->count;
    return true;
}

static bool
lower_ret(struct dec *d)
{
    dec_emit(d, d->func->entry ? OP_exit : OP_ret, 0, 0, 0, 0);
    return true;
}

/* Local memory for an argument that is a register or a number. */
static uint32_t
hidden(struct dec *d, uint32_t size)
{
    uint32_t at = (d->frame_size + size - 1) & ~(size - 1);

    d->frame_size = at + size;
    return at;
}

static struct fdcpu_insn *
frame_access(struct dec *d, enum fdcpu_op op, uint32_t reg, enum fdcpu_type t, uint32_t at)
{
    struct fdcpu_insn *i = dec_emit(d, op, reg, dec_const(d, 0, 'l', 0), 0, 0);

    i->imm = at;
    i->aux = MEM_FRAME | (uint32_t)t | (uint32_t)SP_LOCAL << MEM_SPACE_SHIFT;
    return i;
}

static bool
lower_call(struct dec *d)
{
    static const struct { const char *name; enum fdcpu_op op; uint32_t nargs; } builtin[] = {
        { "vprintf", OP_rt_vprintf, 2 }, { "malloc", OP_rt_malloc, 1 },
        { "free", OP_rt_free, 1 }, { "__assertfail", OP_rt_assertfail, 5 },
        { "__cuda_syscall_CGS_get_intrinsic_handle", OP_rt_grid_handle, 1 },
        { "__cuda_syscall_CGS_sync", OP_rt_grid_sync, 2 },
    };
    struct opnd *ret = NULL, *arg = NULL, *callee;
    struct fdcpu_func *f = NULL;
    enum fdcpu_op op = OP_call;
    uint32_t at = 0, ext = d->next, n = 0, target = 0, load[8], nload = 0;
    struct fdcpu_insn *i;

    if (at < d->nop && d->op[at].kind == O_VEC)
        ret = &d->op[at++];
    if (at >= d->nop)
        DEC_FAIL(d, "call of nothing");
    callee = &d->op[at++];
    if (at < d->nop && d->op[at].kind == O_VEC)
        arg = &d->op[at++];
    if (callee->kind == O_SYM && callee->sym && callee->sym->kind == SYM_FUNC) {
        f = d->r.module->func[callee->sym->index];
        if (!f->defined) {
            size_t k;

            for (k = 0; k < sizeof(builtin) / sizeof(*builtin); k++)
                if (!strcmp(f->name, builtin[k].name)) {
                    op = builtin[k].op;
                    if (arg ? arg->nvec != builtin[k].nargs : builtin[k].nargs != 0)
                        DEC_FAIL(d, "%s with the wrong number of arguments", f->name);
                    break;
                }
            if (k == sizeof(builtin) / sizeof(*builtin)) {
                char *text = fdcpu_alloc(&d->r, strlen(f->name) + 40);

                sprintf(text, "call of the undefined function %s", f->name);
                dec_emit(d, OP_unsupported, 0, 0, 0, 0)->imm = (int64_t)(intptr_t)text;
                return true;
            }
        } else {
            if (f->entry)
                return false;
            dec_want(d, f->number);
        }
    } else if (callee->kind == O_REG) {
        op = OP_calli;
        target = dec_src(d, callee, 'l', T_U64);
        d->build->indirect = true;
    } else {
        DEC_FAIL(d, "call of '%.*s'", callee->n > 60 ? 60 : (int)callee->n,
                 callee->s ? callee->s : "?");
    }
    /* results first, then arguments, each a place in the frame's memory */
    for (int pass = 0; pass < 2; pass++) {
        struct opnd *list = pass ? arg : ret;

        for (uint32_t k = 0; list && k < list->nvec; k++) {
            struct opnd *o = &list->vec[k];
            uint32_t off, size;

            if (o->kind == O_SYM && o->name && o->name->kind == N_FRAME) {
                if (o->imm > o->name->size)
                    DEC_FAIL(d, "argument outside of '%.*s'", (int)o->n, o->s);
                off = o->name->index + (uint32_t)o->imm;
                size = o->name->size - (uint32_t)o->imm;
            } else if (o->kind == O_SINK) {
                off = hidden(d, 16);
                size = 16;
            } else if (o->kind == O_REG || (o->kind == O_IMM && pass)) {
                char cls = o->kind == O_REG ? d->vreg[o->reg].cls : 'w';
                enum fdcpu_type t = cls == 'l' ? T_U64 : T_U32;

                if ((cls != 'l' && cls != 'w') || nload == 8)
                    return false;
                size = cls == 'l' ? 8 : 4;
                off = hidden(d, size);
                if (pass)
                    frame_access(d, OP_st_local, dec_src(d, o, cls, t), t, off);
                else
                    load[nload++] = off, load[nload++] = o->reg;
            } else {
                return false;
            }
            if (n == 0)
                ext = d->next;
            dec_ext(d, off, pass ? 'a' : 'r', size);
            n++;
        }
    }
    i = dec_emit(d, op, 0, target, 0, 0);
    i->imm = f ? f->number : 0;
    i->ext = ext;
    i->n = (uint16_t)n;
    i->aux = ret ? ret->nvec : 0;
    d->guard = V_TRUE << 1;
    dec_emit(d, OP_chk, 0, 0, 0, 0);
    d->guard = d->insn[d->ninsn - 2].pred;
    for (uint32_t k = 0; k < nload; k += 2)
        frame_access(d, OP_ld_local, load[k + 1], d->vreg[load[k + 1]].cls == 'l' ? T_U64 : T_U32,
                     load[k]);
    return true;
}

/* ---- warp ---- */

static uint32_t
member_mask(struct dec *d, uint32_t at)
{
    return at < d->nop ? dec_src(d, &d->op[at], 'w', T_B32) : dec_const(d, ~0u, 'w', 0);
}

static bool
lower_shfl(struct dec *d)
{
    static const char *const modes[] = { "up", "down", "bfly", "idx" };
    uint32_t a, b, c, mask, mode, e, dst;
    struct fdcpu_insn *i;

    for (mode = 0; mode < 4 && !dec_mod(d, modes[mode]); mode++)
        ;
    if (mode == 4)
        return false;
    dec_need(d, 4, 5);
    a = dec_src(d, &d->op[1], 'w', T_B32);
    b = dec_src(d, &d->op[2], 'w', T_B32);
    c = dec_src(d, &d->op[3], 'w', T_B32);
    mask = member_mask(d, 4);
    dst = dec_dst(d, &d->op[0], 'w', false);
    e = dec_ext(d, mask, 'w', 0);
    dec_ext(d, d->op[0].has_pair && d->op[0].pair != UINT32_MAX ? d->op[0].pair
                                                                 : dec_vreg(d, 'p'), 'P', 0);
    i = dec_emit(d, OP_shfl, dst, a, b, c);
    i->aux = mode | (dec_mod(d, "sync") ? 0 : 16);
    i->ext = e;
    i->n = 2;
    dec_finish(d);
    return true;
}

static bool
lower_vote(struct dec *d)
{
    static const char *const modes[] = { "all", "any", "uni", "ballot" };
    uint32_t a, mask, mode, e;
    struct fdcpu_insn *i;

    for (mode = 0; mode < 4 && !dec_mod(d, modes[mode]); mode++)
        ;
    if (mode == 4)
        return false;
    dec_need(d, 2, 3);
    a = dec_pred(d, &d->op[1]);
    mask = member_mask(d, 2);
    e = dec_ext(d, dec_dst(d, &d->op[0], mode == VOTE_BALLOT ? 'w' : 'p', false),
                mode == VOTE_BALLOT ? 'W' : 'P', 0);
    i = dec_emit(d, OP_vote, 0, a, mask, 0);
    i->aux = mode | (dec_mod(d, "sync") ? 0 : 16);
    i->ext = e;
    i->n = 1;
    dec_finish(d);
    return true;
}

static bool
lower_match(struct dec *d)
{
    char cls = dec_mod(d, "b64") ? 'l' : 'w';
    uint32_t v, mask, e, dst;
    struct fdcpu_insn *i;

    dec_need(d, 3, 3);
    v = dec_src(d, &d->op[1], cls, T_B32);
    mask = member_mask(d, 2);
    dst = dec_dst(d, &d->op[0], 'w', false);
    e = dec_ext(d, v, cls, 0);
    dec_ext(d, d->op[0].has_pair && d->op[0].pair != UINT32_MAX ? d->op[0].pair
                                                                 : dec_vreg(d, 'p'), 'P', 0);
    i = dec_emit(d, OP_match, dst, 0, mask, 0);
    i->aux = (dec_mod(d, "all") ? 1 : 0) | (cls == 'l' ? 2 : 0);
    i->ext = e;
    i->n = 2;
    dec_finish(d);
    return true;
}

static bool
lower_redux(struct dec *d)
{
    static const char *const names[] = { "add", "min", "max", "and", "or", "xor" };
    enum fdcpu_type t = dec_type(d, 0);
    uint32_t a, mask, op;

    for (op = 0; op < 6 && !dec_mod(d, names[op]); op++)
        ;
    if (op == 6 || dec_class(t) != 'w' || (fdcpu_type_float(t) && t != T_F32))
        return false;
    dec_need(d, 3, 3);
    a = dec_src(d, &d->op[1], 'w', t);
    mask = member_mask(d, 2);
    dec_emit(d, OP_redux, dec_dst(d, &d->op[0], 'w', false), a, mask, 0)->aux =
        op | (uint32_t)t << 8 | (dec_mod(d, "abs") ? 1u << 16 : 0) |
        (dec_mod(d, "NaN") ? 1u << 17 : 0);
    dec_finish(d);
    return true;
}

static bool
lower_elect(struct dec *d)
{
    uint32_t mask = member_mask(d, 1), e, dst;
    struct fdcpu_insn *i;

    dec_need(d, 2, 2);
    dst = dec_dst(d, &d->op[0], 'w', false);
    e = dec_ext(d, d->op[0].has_pair && d->op[0].pair != UINT32_MAX ? d->op[0].pair
                                                                     : dec_vreg(d, 'p'), 'P', 0);
    i = dec_emit(d, OP_elect, dst, mask, 0, 0);
    i->ext = e;
    i->n = 1;
    dec_finish(d);
    return true;
}

/* ---- block ---- */

static bool
lower_bar(struct dec *d)
{
    bool red = dec_mod(d, "red"), cluster = dec_mod(d, "cluster");
    uint32_t id, count, kind, e = 0, at = red ? 1 : 0, n = 0;
    struct fdcpu_insn *i;

    if (dec_mod(d, "warp")) {
        dec_need(d, 1, 1);
        dec_emit(d, OP_bar_warp, 0, dec_src(d, &d->op[0], 'w', T_B32), 0, 0);
        return true;
    }
    if (cluster) {              /* a cluster is one block: arriving needs nothing, waiting all */
        if (dec_mod(d, "arrive"))
            return nop(d) != NULL;
        dec_emit(d, OP_bar, 0, dec_const(d, 15, 'w', 0), dec_const(d, 0, 'w', 0), 0)->aux =
            BAR_SYNC;
        d->guard = V_TRUE << 1;
        dec_emit(d, OP_chk, 0, 0, 0, 0);
        return true;
    }
    kind = dec_mod(d, "arrive") ? BAR_ARRIVE : !red ? BAR_SYNC : dec_mod(d, "popc") ? BAR_RED_POPC
           : dec_mod(d, "and") ? BAR_RED_AND : BAR_RED_OR;
    dec_need(d, red ? 3 : kind == BAR_ARRIVE ? 2 : 1, red ? 4 : 2);
    id = dec_src(d, &d->op[at], 'w', T_U32);
    count = dec_const(d, 0, 'w', 0);
    if (red) {
        uint32_t p = dec_pred(d, &d->op[d->nop - 1]), r;

        if (d->nop == 4)
            count = dec_src(d, &d->op[2], 'w', T_U32);
        r = dec_dst(d, &d->op[0], kind == BAR_RED_POPC ? 'w' : 'p', false);
        e = dec_ext(d, p, 'p', 0);
        dec_ext(d, r, kind == BAR_RED_POPC ? 'W' : 'P', 0);
        n = 2;
    } else if (d->nop == 2) {
        count = dec_src(d, &d->op[1], 'w', T_U32);
    }
    i = dec_emit(d, OP_bar, 0, id, count, 0);
    i->aux = kind;
    i->ext = e;
    i->n = (uint16_t)n;
    if (kind != BAR_ARRIVE) {   /* splits that come out of it may join */
        uint32_t guard = d->guard;

        d->guard = V_TRUE << 1;
        dec_emit(d, OP_chk, 0, 0, 0, 0);
        d->guard = guard;
    }
    dec_finish(d);
    return true;
}

static bool
lower_fence(struct dec *d)
{
    dec_emit(d, OP_fence, 0, 0, 0, 0);
    return true;
}

static bool
lower_nop(struct dec *d)
{
    return nop(d) != NULL;
}

static bool
lower_cp(struct dec *d)
{
    struct address to, from;
    uint32_t size;
    struct fdcpu_insn *i;

    if (!dec_mod(d, "async") || dec_mod(d, "bulk") || dec_mod(d, "tensor") ||
        dec_mod(d, "reduce"))
        return false;
    if (dec_mod(d, "commit_group") || dec_mod(d, "wait_group") || dec_mod(d, "wait_all"))
        return nop(d) != NULL;
    if (dec_mod(d, "mbarrier")) {
        if (!dec_mod(d, "noinc"))
            return nop(d) != NULL;
        dec_need(d, 1, 1);
        address(d, &d->op[0], space_of(d), &to);
        i = dec_emit(d, OP_mbarrier, 0, to.base, 0, 0);
        i->imm = to.imm;
        i->aux = to.aux | T_B64;
        i->aux2 = MBAR_ARRIVE | MBAR_SINK;
        i->ext = dec_ext(d, dec_vreg(d, 'l'), 'L', 0);
        dec_ext(d, dec_const(d, 1, 'w', 0), 'w', 0);
        i = &d->insn[d->ninsn - 1];
        i->n = 2;
        return true;
    }
    dec_need(d, 3, 5);
    if (d->op[2].kind != O_IMM)
        DEC_FAIL(d, "cp.async without a size");
    size = (uint32_t)d->op[2].imm;
    if (size != 4 && size != 8 && size != 16)
        DEC_FAIL(d, "cp.async of %u bytes", size);
    address(d, &d->op[0], SP_SHARED, &to);
    address(d, &d->op[1], SP_GLOBAL, &from);
    {
        /* the rest: source size, or a predicate that ignores the source, or a policy */
        uint32_t take = dec_const(d, size, 'w', 0), e;

        if (d->nop > 3 && (d->op[3].kind == O_IMM ||
                           (d->op[3].kind == O_REG && d->vreg[d->op[3].reg].cls == 'w')))
            take = dec_src(d, &d->op[3], 'w', T_U32);
        else if (d->nop > 3 && d->op[3].kind == O_REG && d->vreg[d->op[3].reg].cls == 'p') {
            uint32_t p = dec_pred(d, &d->op[3]);

            take = dec_vreg(d, 'w');
            dec_emit(d, OP_sel32, take, dec_const(d, 0, 'w', 0), dec_const(d, size, 'w', 0), p);
        }
        e = dec_ext(d, take, 'w', 0);
        i = dec_emit(d, OP_cpasync, 0, to.base, from.base, 0);
        i->imm = to.imm;
        i->aux = to.aux;
        i->aux2 = size | (from.aux & MEM_A32 ? 0x100 : 0);
        i->c = 0;
        i->ext = e;
        i->n = 1;
        /* the source's offset has no field of its own: add it before */
        if (from.imm) {
            uint32_t sum = dec_vreg(d, 'l');
            struct fdcpu_insn copy = d->insn[--d->ninsn];

            dec_emit(d, OP_add64, sum, from.base, dec_const(d, (uint64_t)from.imm, 'l', 0), 0);
            copy.b = sum;
            *dec_emit(d, OP_cpasync, 0, 0, 0, 0) = copy;
        }
    }
    return true;
}

static bool
lower_mbarrier(struct dec *d)
{
    static const struct { const char *name; uint32_t op; } list[] = {
        { "init", MBAR_INIT }, { "inval", MBAR_INVAL }, { "arrive", MBAR_ARRIVE },
        { "arrive_drop", MBAR_ARRIVE_DROP }, { "test_wait", MBAR_TEST_WAIT },
        { "try_wait", MBAR_TRY_WAIT }, { "pending_count", MBAR_PENDING },
        { "expect_tx", MBAR_EXPECT_TX }, { "complete_tx", MBAR_COMPLETE_TX },
    };
    uint32_t op = 99, e, at, dst, val, flags = 0;
    char vcls = 'w', dcls = 'l';
    struct address a;
    struct fdcpu_insn *i;

    for (size_t k = 0; d->nmod && k < sizeof(list) / sizeof(*list); k++)
        if (dec_is(d->mod[0].s, d->mod[0].n, list[k].name))
            op = list[k].op;
    if (op == 99)
        return false;
    if (op == MBAR_PENDING) {           /* the state word holds it, bits 0 to 19 */
        uint32_t s, w = dec_vreg(d, 'w');

        dec_need(d, 2, 2);
        s = dec_src(d, &d->op[1], 'l', T_B64);
        dec_emit(d, OP_lo32, w, s, 0, 0);
        dec_emit(d, OP_and32, dec_dst(d, &d->op[0], 'w', false), w,
                 dec_const(d, 0xfffff, 'w', 0), 0);
        dec_finish(d);
        return true;
    }
    if (dec_mod(d, "parity"))
        flags |= MBAR_PARITY;
    if (dec_mod(d, "noComplete"))
        flags |= MBAR_NOCOMPLETE;
    if (op != MBAR_EXPECT_TX && dec_mod(d, "expect_tx"))
        flags |= MBAR_EXPECT;
    at = op == MBAR_INIT || op == MBAR_INVAL || op == MBAR_EXPECT_TX || op == MBAR_COMPLETE_TX ? 0 : 1;
    dec_need(d, at + 1, at + 3);
    address(d, &d->op[at], space_of(d), &a);
    if (a.param)
        return false;
    if (op == MBAR_TEST_WAIT || op == MBAR_TRY_WAIT) {
        dcls = 'p';
        if (!(flags & MBAR_PARITY))
            vcls = 'l';
        if (d->nop < 3)
            DEC_FAIL(d, "wait for nothing");
    }
    val = at + 1 < d->nop ? dec_src(d, &d->op[at + 1], vcls, T_B32) : dec_const(d, 1, vcls, 0);
    dst = at ? dec_dst(d, &d->op[0], dcls, false) : dec_vreg(d, 'l');
    e = dec_ext(d, dst, (char)(dcls - 32), 0);
    dec_ext(d, val, vcls, 0);
    i = dec_emit(d, OP_mbarrier, 0, a.base, 0, 0);
    i->imm = a.imm;
    i->aux = a.aux | T_B64;
    i->aux2 = op | flags;
    i->ext = e;
    i->n = 2;
    dec_finish(d);
    return true;
}

static bool
lower_createpolicy(struct dec *d)
{
    dec_need(d, 1, 5);
    dec_emit(d, OP_mov64, dec_dst(d, &d->op[0], 'l', false), dec_const(d, 0, 'l', 0), 0, 0);
    return true;
}

static bool
lower_mapa(struct dec *d)
{
    char cls = dec_mod(d, "u32") ? 'w' : 'l';

    dec_need(d, 2, 3);
    dec_emit(d, cls == 'l' ? OP_mov64 : OP_mov32, dec_dst(d, &d->op[0], cls, false),
             dec_src(d, &d->op[1], cls, T_U64), 0, 0);
    dec_finish(d);
    return true;
}

static bool
lower_getctarank(struct dec *d)
{
    dec_need(d, 2, 2);
    dec_emit(d, OP_mov32, dec_dst(d, &d->op[0], 'w', false), dec_const(d, 0, 'w', 0), 0, 0);
    dec_finish(d);
    return true;
}

static bool
lower_stack(struct dec *d)
{
    char cls = dec_mod(d, "u32") ? 'w' : 'l';
    uint32_t a;

    if (d->base_n == 6) {               /* alloca d, size{, align} */
        dec_need(d, 2, 3);
        a = dec_src(d, &d->op[1], 'l', T_U64);
        dec_emit(d, OP_alloca, dec_dst(d, &d->op[0], 'l', false), a, 0, 0)->imm =
            d->nop == 3 && d->op[2].kind == O_IMM ? (int64_t)d->op[2].imm : 8;
    } else if (d->base_n == 9) {        /* stacksave d */
        dec_need(d, 1, 1);
        dec_emit(d, OP_stacksave, dec_dst(d, &d->op[0], 'l', false), 0, 0, 0);
    } else {
        dec_need(d, 1, 1);
        dec_emit(d, OP_stackrestore, 0, dec_src(d, &d->op[0], 'l', T_U64), 0, 0);
    }
    (void)cls;
    dec_finish(d);
    return true;
}

bool dec_matrix(struct dec *d);
bool dec_texture(struct dec *d);

static const struct dec_entry mem[] = {
    { "ld", lower_ld }, { "ldu", lower_ld }, { "st", lower_st }, { "atom", lower_atom },
    { "red", lower_atom }, { "cvta", lower_cvta }, { "isspacep", lower_isspacep },
    { "bra", lower_bra }, { "brx", lower_brx }, { "ret", lower_ret }, { "call", lower_call },
    { "shfl", lower_shfl }, { "vote", lower_vote }, { "match", lower_match },
    { "redux", lower_redux }, { "elect", lower_elect }, { "bar", lower_bar },
    { "barrier", lower_bar }, { "fence", lower_fence }, { "membar", lower_fence },
    { "cp", lower_cp }, { "mbarrier", lower_mbarrier }, { "prefetch", lower_nop },
    { "prefetchu", lower_nop }, { "applypriority", lower_nop }, { "discard", lower_nop },
    { "pmevent", lower_nop }, { "griddepcontrol", lower_nop }, { "setmaxnreg", lower_nop },
    { "createpolicy", lower_createpolicy }, { "mapa", lower_mapa },
    { "getctarank", lower_getctarank }, { "alloca", lower_stack },
    { "stacksave", lower_stack }, { "stackrestore", lower_stack }, { "mma", dec_matrix },
    { "wmma", dec_matrix }, { "ldmatrix", dec_matrix }, { "stmatrix", dec_matrix },
    { "tex", dec_texture }, { "tld4", dec_texture }, { "txq", dec_texture },
    { "suld", dec_texture }, { "sust", dec_texture }, { "sured", dec_texture },
    { "suq", dec_texture },
};

dec_lower *
dec_find_mem(const char *s, uint32_t n)
{
    for (size_t k = 0; k < sizeof(mem) / sizeof(*mem); k++)
        if (dec_is(s, n, mem[k].name))
            return mem[k].lower;
    return NULL;
}
