/*
 * Places virtual registers in the register file and finishes the code: offsets instead
 * of numbers, handlers instead of op numbers.
 */
#include "decode.h"

#include <stdlib.h>

static uint32_t
slots_of(char cls)
{
    return cls == 'q' ? 4 : cls == 'l' ? 2 : 1;
}

/* ---- liveness ---- */

/*
 * Lanes are threads: each lane of a slot follows its own way through the code, so what is
 * live is found as for one thread. A write under a guard keeps the old value alive. A
 * register's life is one interval of instructions; loops stretch it over their length.
 */
struct block {
    uint32_t first, end;        /* instructions */
    uint32_t succ[2], nsucc;    /* besides a table's */
    uint32_t table, ntable;
    uint64_t *in, *out, *gen, *kill;
};

struct life {
    uint32_t start, end;        /* start > end: never seen */
};

typedef void visit(struct dec *d, uint32_t at, uint32_t vreg, bool written, void *arg);

/* Calls f for each register of an instruction, reads before writes. */
static void
each_register(struct dec *d, uint32_t at, visit *f, void *arg)
{
    const struct fdcpu_insn *i = &d->insn[at];
    const char *sig = fdcpu_ops[i->op].sig;
    uint32_t v[4] = { i->d, i->a, i->b, i->c }, n = (uint32_t)strlen(sig);
    bool guarded = i->pred != V_TRUE << 1;

    f(d, at, i->pred >> 1, false, arg);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t k = 0; k < n && k < 4; k++) {
            bool writes = sig[k] >= 'A' && sig[k] <= 'Z';

            if (sig[k] == '-')
                continue;
            if (pass == 0 && (!writes || guarded || sig[k] == 'X'))
                f(d, at, v[k], false, arg);
            else if (pass == 1 && writes)
                f(d, at, v[k], true, arg);
        }
        for (uint32_t k = 0; k < i->n; k++) {
            const struct fdcpu_ext *e = &d->ext[i->ext + k];
            bool writes = e->cls >= 'A' && e->cls <= 'Z';

            if (e->cls == 'a' || e->cls == 'r')
                continue;
            if (pass == 0 && (!writes || guarded))
                f(d, at, e->reg, false, arg);
            else if (pass == 1 && writes)
                f(d, at, e->reg, true, arg);
        }
    }
}

static bool
ends_block(const struct fdcpu_insn *i)
{
    switch (i->op) {
    case OP_bra: case OP_brap: case OP_brx: case OP_exit: case OP_ret:
        return true;
    default:
        return false;
    }
}

struct liveness {
    struct block *block;
    uint32_t nblock, words;
    uint32_t *block_of;         /* by instruction that begins one */
    uint32_t *global;           /* number + 1 of a register that lives across blocks */
    uint32_t nglobal;
    struct life *life;
    uint32_t current;           /* block, for the visitors */
    uint32_t *defined;          /* block + 1 that last defined a register */
};

static void
find_globals(struct dec *d, uint32_t at, uint32_t v, bool written, void *arg)
{
    struct liveness *l = arg;

    (void)at;
    if (d->vreg[v].fixed)
        return;
    if (written)
        l->defined[v] = l->current + 1;
    else if (l->defined[v] != l->current + 1 && !l->global[v])
        l->global[v] = ++l->nglobal;
}

static void
fill_sets(struct dec *d, uint32_t at, uint32_t v, bool written, void *arg)
{
    struct liveness *l = arg;
    struct block *b = &l->block[l->current];
    uint32_t g = l->global[v];

    (void)at;
    if (d->vreg[v].fixed || !g--)
        return;
    if (written)
        b->kill[g / 64] |= 1ull << g % 64;
    else if (!(b->kill[g / 64] >> g % 64 & 1))
        b->gen[g / 64] |= 1ull << g % 64;
}

static void
stretch(struct life *life, uint32_t at)
{
    if (at < life->start)
        life->start = at;
    if (at > life->end || life->start > life->end)
        life->end = at;
}

static void
touch(struct dec *d, uint32_t at, uint32_t v, bool written, void *arg)
{
    struct liveness *l = arg;

    (void)written;
    if (!d->vreg[v].fixed)
        stretch(&l->life[v], at);
}

static void *
zeroed(struct dec *d, size_t n, size_t size)
{
    return dec_alloc(d, n * size + 16);
}

static void
make_blocks(struct dec *d, struct liveness *l)
{
    uint32_t n = 0;

    l->block_of = zeroed(d, d->ninsn + 1, sizeof(*l->block_of));
    for (uint32_t k = 0; k < d->ninsn; k++)
        n += k == 0 || d->insn[k].op == OP_chk || ends_block(&d->insn[k - 1]);
    l->block = zeroed(d, n + 1, sizeof(*l->block));
    for (uint32_t k = 0; k < d->ninsn; k++) {
        if (k == 0 || d->insn[k].op == OP_chk || ends_block(&d->insn[k - 1])) {
            if (l->nblock)
                l->block[l->nblock - 1].end = k;
            l->block_of[k] = l->nblock;
            l->block[l->nblock++].first = k;
        }
    }
    l->block[l->nblock - 1].end = d->ninsn;
    for (uint32_t b = 0; b < l->nblock; b++) {
        struct block *blk = &l->block[b];
        const struct fdcpu_insn *i = &d->insn[blk->end - 1];
        bool falls = true;

        if (i->op == OP_bra || i->op == OP_brap) {
            blk->succ[blk->nsucc++] =
                l->block_of[(uint32_t)((int64_t)(blk->end - 1) + i->imm)];
            falls = i->op == OP_brap;
        } else if (i->op == OP_brx) {
            blk->table = (uint32_t)i->imm;
            blk->ntable = i->aux;
            falls = i->pred != V_TRUE << 1;
        } else if (i->op == OP_exit || i->op == OP_ret) {
            falls = i->pred != V_TRUE << 1;
        }
        if (falls && b + 1 < l->nblock)
            blk->succ[blk->nsucc++] = b + 1;
    }
}

static bool
flow_into(struct liveness *l, struct block *b, uint32_t succ)
{
    const struct block *s = &l->block[succ];
    bool changed = false;

    for (uint32_t w = 0; w < l->words; w++) {
        uint64_t out = b->out[w] | s->in[w];

        if (out != b->out[w]) {
            b->out[w] = out;
            b->in[w] = b->gen[w] | (out & ~b->kill[w]);
            changed = true;
        }
    }
    return changed;
}

static struct life *
find_lives(struct dec *d)
{
    struct liveness l = { 0 };
    bool changed = true;

    l.life = zeroed(d, d->nvreg, sizeof(*l.life));
    l.global = zeroed(d, d->nvreg, sizeof(*l.global));
    l.defined = zeroed(d, d->nvreg, sizeof(*l.defined));
    for (uint32_t v = 0; v < d->nvreg; v++)
        l.life[v] = (struct life){ UINT32_MAX, 0 };
    make_blocks(d, &l);
    for (uint32_t b = 0; b < l.nblock; b++) {
        l.current = b;
        for (uint32_t k = l.block[b].first; k < l.block[b].end; k++) {
            each_register(d, k, find_globals, &l);
            each_register(d, k, touch, &l);
        }
    }
    l.words = (l.nglobal + 63) / 64;
    for (uint32_t b = 0; b < l.nblock; b++) {
        struct block *blk = &l.block[b];

        blk->in = zeroed(d, 4 * (size_t)l.words, sizeof(uint64_t));
        blk->out = blk->in + l.words;
        blk->gen = blk->out + l.words;
        blk->kill = blk->gen + l.words;
        l.current = b;
        for (uint32_t k = blk->first; k < blk->end; k++)
            each_register(d, k, fill_sets, &l);
        memcpy(blk->in, blk->gen, l.words * sizeof(uint64_t));
    }
    while (changed) {
        changed = false;
        for (uint32_t b = l.nblock; b-- > 0;) {
            struct block *blk = &l.block[b];

            for (uint32_t s = 0; s < blk->nsucc; s++)
                changed |= flow_into(&l, blk, blk->succ[s]);
            for (uint32_t s = 0; s < blk->ntable; s++)
                changed |= flow_into(&l, blk, l.block_of[d->table[blk->table + s]]);
        }
    }
    for (uint32_t v = 0; v < d->nvreg; v++) {
        uint32_t g = l.global[v];

        if (!g--)
            continue;
        for (uint32_t b = 0; b < l.nblock; b++) {
            const struct block *blk = &l.block[b];

            if (blk->in[g / 64] >> g % 64 & 1)
                stretch(&l.life[v], blk->first);
            if (blk->out[g / 64] >> g % 64 & 1)
                stretch(&l.life[v], blk->end - 1);
        }
    }
    return l.life;
}

/* ---- checks ---- */

/* Handlers trust the width of every register: what the decoder let pass ends here. */
static void
check_register(struct dec *d, const struct fdcpu_insn *i, uint32_t v, char want)
{
    bool writes = want >= 'A' && want <= 'Z';
    char cls = (char)(want | 32);

    if (cls == 'x')
        cls = 'p';
    if (cls == 'm')
        cls = i->aux & MEM_A32 ? 'w' : 'l';
    if (v == V_TRUE && want == 'w')     /* no operand: the masks have room for a slot */
        return;
    if (v < d->nvreg && d->vreg[v].cls == cls && !(writes && d->vreg[v].fixed))
        return;
    d->r.x.line = i->line;
    DEC_FAIL(d, "operands that do not fit (%s)", fdcpu_ops[i->op].name);
}

static void
check_insn(struct dec *d, const struct fdcpu_insn *i)
{
    const char *sig = fdcpu_ops[i->op].sig;
    uint32_t v[4] = { i->d, i->a, i->b, i->c };

    check_register(d, i, i->pred >> 1, 'p');
    for (uint32_t k = 0; sig[k] && k < 4; k++) {
        char want = sig[k];

        switch (i->op) {
        case OP_ld_global: case OP_ld_shared: case OP_ld_local: case OP_ld_any:
        case OP_st_global: case OP_st_shared: case OP_st_local: case OP_st_any:
            if (k == 0 && i->n)         /* a vector: all in ext */
                continue;
            if (k == 0)
                want = (char)(dec_class((enum fdcpu_type)(i->aux & MEM_TYPE)) -
                              (want == 'W' ? 32 : 0));
            break;
        case OP_cpasync:
            if (k == 2)                 /* the source has a flag of its own */
                want = i->aux2 & 0x100 ? 'w' : 'l';
            break;
        default:
            break;
        }
        if (want != '-')
            check_register(d, i, v[k], want);
    }
    for (uint32_t k = 0; k < i->n; k++) {
        const struct fdcpu_ext *e = &d->ext[i->ext + k];

        if (e->cls != 'a' && e->cls != 'r')
            check_register(d, i, e->reg, e->cls);
        else if (e->reg > d->frame_size || e->size > d->frame_size - e->reg)
            DEC_FAIL(d, "argument outside of the frame");
    }
}

/* ---- places ---- */

struct pool {
    uint32_t *list, n;          /* places that are free */
};

static unsigned
pool_of(char cls)
{
    return cls == 'p' ? 0 : cls == 'w' ? 1 : cls == 'l' ? 2 : 3;
}

/* Linear scan: places in order of the lives' beginnings, given back at their ends. */
static void
place(struct dec *d, struct fdcpu_code *code)
{
    struct life *life = find_lives(d);
    struct pool pool[4];
    uint32_t *begins, *ends, *chain, *done, preds = 0, slots = 0, base;

    begins = zeroed(d, d->ninsn + 1, sizeof(*begins));
    ends = zeroed(d, d->ninsn + 1, sizeof(*ends));
    chain = zeroed(d, d->nvreg, sizeof(*chain));
    done = zeroed(d, d->nvreg, sizeof(*done));
    for (int k = 0; k < 4; k++)
        pool[k] = (struct pool){ zeroed(d, d->nvreg, sizeof(uint32_t)), 0 };
    for (uint32_t v = 0; v < d->nvreg; v++) {
        if (d->vreg[v].fixed) {
            d->vreg[v].off = d->vreg[v].cls == 'p' ? preds++ : slots;
            slots += d->vreg[v].cls == 'p' ? 0 : slots_of(d->vreg[v].cls);
        } else if (life[v].start <= life[v].end) {
            chain[v] = begins[life[v].start];
            begins[life[v].start] = v;
        }
    }
    for (uint32_t at = 0; at < d->ninsn; at++) {
        for (uint32_t v = begins[at]; v; v = chain[v]) {
            struct pool *p = &pool[pool_of(d->vreg[v].cls)];

            if (p->n) {
                d->vreg[v].off = p->list[--p->n];
            } else if (d->vreg[v].cls == 'p') {
                d->vreg[v].off = preds++;
            } else {
                d->vreg[v].off = slots;
                slots += slots_of(d->vreg[v].cls);
            }
            done[v] = ends[life[v].end];
            ends[life[v].end] = v;
        }
        /* not before the next instruction: a result may differ in width from a source */
        for (uint32_t v = ends[at]; v; v = done[v]) {
            struct pool *p = &pool[pool_of(d->vreg[v].cls)];

            p->list[p->n++] = d->vreg[v].off;
        }
    }
    base = (4 * preds + FDCPU_SLOT - 1) & ~(uint32_t)(FDCPU_SLOT - 1);
    for (uint32_t v = 0; v < d->nvreg; v++)
        d->vreg[v].off = d->vreg[v].cls == 'p' ? 4 * d->vreg[v].off
                                               : base + d->vreg[v].off * FDCPU_SLOT;
    code->nslots = slots;
    code->file_size = base + slots * FDCPU_SLOT;
}

void
dec_allocate(struct dec *d, struct fdcpu_code *code)
{
    for (uint32_t k = 0; k < d->ninsn; k++)
        check_insn(d, &d->insn[k]);
    place(d, code);
    for (uint32_t k = 0; k < d->ninsn; k++) {
        struct fdcpu_insn *i = &d->insn[k];

        i->pred = d->vreg[i->pred >> 1].off | (i->pred & 1);
        i->d = d->vreg[i->d].off;
        i->a = d->vreg[i->a].off;
        i->b = d->vreg[i->b].off;
        i->c = d->vreg[i->c].off;
        i->fn = fdcpu_handlers[i->op];
    }
    for (uint32_t k = 0; k < d->next; k++)
        if (d->ext[k].cls != 'a' && d->ext[k].cls != 'r')
            d->ext[k].reg = d->vreg[d->ext[k].reg].off;
    code->consts = calloc(d->nconst + 1, sizeof(*code->consts));
    if (!code->consts)
        fdcpu_fail(&d->r, 2, "out of memory");
    for (uint32_t k = 0; k < d->nconst; k++) {
        code->consts[k].off = d->vreg[d->consts[k].vreg].off;
        code->consts[k].size = (uint8_t)(d->consts[k].size |
                                         (d->consts[k].kind == K_DYNAMIC ? 0x80 : 0));
        code->consts[k].value = d->consts[k].value;
    }
    code->nconsts = d->nconst;
    for (int s = 0; s < SR_COUNT; s++)
        code->special[s] = d->special[s] ? d->vreg[d->special[s]].off : 0;
    code->insn = d->insn, d->insn = NULL;
    code->ninsn = d->ninsn;
    code->ext = d->ext, d->ext = NULL;
    code->next_ext = d->next;
    code->table = d->table, d->table = NULL;
    code->ntable = d->ntable;
}
