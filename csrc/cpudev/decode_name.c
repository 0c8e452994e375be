/*
 * Names of a body: registers, variables and parameters in their scopes, and labels, which
 * may be used before they are seen.
 */
#include "decode.h"

static unsigned
hash_of(const char *s, uint32_t n)
{
    uint32_t h = n;

    for (uint32_t k = 0; k < n; k++)
        h = h * 31 + (unsigned char)s[k];
    return (h ^ h >> 8) & 255;
}

struct dec_name *
dec_declare(struct dec *d, const char *s, uint32_t n, enum name_kind kind)
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

bool
dec_find_reg(struct dec *d, const char *s, uint32_t n, uint32_t *reg,
             enum fdcpu_type *type)
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

void
dec_open_scope(struct dec *d)
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

void
dec_close_scope(struct dec *d)
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

void
dec_label(struct dec *d, const char *s, uint32_t n)
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

void
dec_resolve_labels(struct dec *d)
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
