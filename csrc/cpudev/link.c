/*
 * Modules: several texts read into one index, variables placed and initialised, and the
 * questions that the driver API asks about them.
 */
#include "fdc/base.h"
#include "module.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EAGER_TEXT = 256 << 10, GAP = 32 };

static void
log_add(char *buf, size_t size, size_t *used, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void
log_add(char *buf, size_t size, size_t *used, const char *format, ...)
{
    va_list ap;
    int n;

    if (!buf || *used + 1 >= size)
        return;
    va_start(ap, format);
    n = vsnprintf(buf + *used, size - *used, format, ap);
    va_end(ap);
    if (n > 0)
        *used = *used + (size_t)n < size ? *used + (size_t)n : size - 1;
}

/* ---- initialisers ---- */

static uint64_t
operand_value(struct fdcpu_reader *r, uint32_t text, unsigned size, bool flt, bool mask)
{
    struct fdcpu_lex *x = &r->x;
    uint64_t v;
    bool negative = false;

    while (x->c == '-' || x->c == '+') {
        negative ^= x->c == '-';
        fdcpu_lex_next(x);
    }
    if (x->kind == TOK_WORD) {          /* an address, perhaps generic(...), perhaps + n */
        struct fdcpu_sym *s;
        bool generic = fdcpu_lex_is(x, "generic");

        if (generic) {
            fdcpu_lex_next(x);
            fdcpu_expect(r, '(');
        }
        s = fdcpu_sym_find(r->module, text, x->s, x->n);
        if (!s)
            fdcpu_fail(r, 218, "no '%.*s'", x->n > 60 ? 60 : (int)x->n, x->s);
        if (s->kind == SYM_FUNC) {
            r->module->func[s->index]->address_taken = true;
            r->module->func_addresses = true;
            v = FDCPU_WIN_FUNC + 16ull * (s->index + 1);
        } else {
            v = r->module->var[s->index]->pub.addr;
        }
        fdcpu_lex_next(x);
        if (generic)
            fdcpu_expect(r, ')');
        if (x->c == '+' || x->c == '-')
            v += fdcpu_integer(r);
        return v;
    }
    if (x->kind == TOK_F32) {
        v = x->num ^ (negative ? 0x80000000u : 0);
        if (size == 8) {
            float f;
            double d;
            uint32_t u = (uint32_t)v;

            memcpy(&f, &u, 4);
            d = (double)f;
            memcpy(&v, &d, 8);
        }
    } else if (x->kind == TOK_F64 || (x->kind == TOK_INT && flt)) {
        double d;

        memcpy(&d, &x->num, 8);
        if (x->kind == TOK_INT)
            d = (double)x->num;
        if (negative)
            d = -d;
        memcpy(&v, &d, 8);
        if (size == 4) {
            float f = (float)d;
            uint32_t u;

            memcpy(&u, &f, 4);
            v = u;
        }
    } else if (x->kind == TOK_INT) {
        v = negative ? -x->num : x->num;
        fdcpu_lex_next(x);
        if (x->c == '(' && mask) {      /* 0xFF00(address): one byte of it */
            uint64_t whole;

            fdcpu_lex_next(x);
            whole = operand_value(r, text, 8, false, false);
            fdcpu_expect(r, ')');
            return v ? (whole & v) >> __builtin_ctzll(v) : 0;
        }
        return v;
    } else {
        fdcpu_fail(r, 218, "expected a value before '%.*s'", x->n > 40 ? 40 : (int)x->n, x->s);
    }
    fdcpu_lex_next(x);
    return v;
}

static void
initialise(struct fdcpu_reader *r, struct fdcpu_gvar *v)
{
    unsigned size = fdcpu_type_size(v->type);
    uint8_t *at = (uint8_t *)(uintptr_t)v->pub.addr, *end = at + v->pub.size;
    int depth = 0;

    fdcpu_lex_init(&r->x, v->init, v->init_end, v->init_line);
    fdcpu_lex_next(&r->x);
    if (v->type == T_OPAQUE)
        return;
    do {
        if (r->x.c == '{') {
            depth++;
            fdcpu_lex_next(&r->x);
        } else if (r->x.c == '}') {
            depth--;
            fdcpu_lex_next(&r->x);
            fdcpu_accept(r, ',');
        } else if (r->x.kind == TOK_END) {
            fdcpu_fail(r, 218, "initialiser has no end");
        } else {
            uint64_t value = operand_value(r, v->text, size, fdcpu_type_float(v->type),
                                           true);

            if (at + size > end)
                fdcpu_fail(r, 218, "too many values for '%s'", v->pub.name);
            memcpy(at, &value, size < 8 ? size : 8);
            at += size;
            fdcpu_accept(r, ',');
        }
    } while (depth > 0);
}

/* Places all variables in one block; gaps between them catch what runs over an end. */
static void
place_variables(struct fdcpu_reader *r)
{
    struct fdcpu_module *m = r->module;
    uint64_t at = 0;
    uint32_t k;

    m->pub = fdcpu_alloc(r, (m->nvar + 1) * sizeof(*m->pub));
    for (k = 0; k < m->nvar; k++) {
        struct fdcpu_gvar *v = m->var[k];

        if (v->space == VS_SHARED || (v->linkage == LINK_EXTERN && !v->pub.size))
            continue;
        at = (at + v->align - 1) & ~((uint64_t)v->align - 1);
        at = (at + 15) & ~15ull;
        v->pub.addr = at + 1;           /* an offset still, never 0 */
        at += v->pub.size + GAP;
        if (at > 1ull << 40)
            fdcpu_fail(r, 2, "variables of %llu bytes", (unsigned long long)at);
        if (v->space == VS_CONST)
            m->const_size += (uint32_t)v->pub.size;
    }
    if (!at)
        return;
    m->data = m->mem.alloc ? m->mem.alloc(m->mem.user, at, 4096) : 0;
    if (!m->data)
        fdcpu_fail(r, 2, "no memory for %llu bytes of variables", (unsigned long long)at);
    memset((void *)(uintptr_t)m->data, 0, at);
    for (k = 0; k < m->nvar; k++) {
        struct fdcpu_gvar *v = m->var[k];
        struct fdcpu_range range = { 0 };

        if (!v->pub.addr)
            continue;
        v->pub.addr += m->data - 1;
        m->pub[m->npub++] = &v->pub;
        if (!v->pub.size)
            continue;
        range.lo = v->pub.addr;
        range.hi = v->pub.addr + v->pub.size;
        range.flags = 0;        /* constants too: a kernel may write them by address */
        v->announced = fdcpu_mem_add(&range) == 0;
    }
    for (k = 0; k < m->nvar; k++) {
        struct fdcpu_gvar *v = m->var[k];

        if (v->bytes && v->pub.addr)
            memcpy((void *)(uintptr_t)v->pub.addr, v->bytes, v->pub.size);
        else if (v->init && v->pub.addr)
            initialise(r, v);
    }
}

/* ---- loading ---- */

void
fdcpu_module_unload(struct fdcpu_module *m)
{
    if (!m)
        return;
    for (uint32_t k = 0; k < m->nvar; k++)
        if (m->var[k]->announced)
            fdcpu_mem_del(m->var[k]->pub.addr);
    for (uint32_t k = 0; k < m->nfunc; k++) {
        fdcpu_program_free(m->func[k]->prog);
        free(m->func[k]->prog_error);
    }
    if (m->data)
        m->mem.free(m->mem.user, m->data);
    pthread_mutex_destroy(&m->lock);
    fdcpu_arena_free(&m->arena);
    free(m);
}

/* Reads all texts and places their variables. Returns 0 or a CUresult, logged. */
static int
read_texts(struct fdcpu_reader *r, const struct fdcpu_text *texts, int ntexts,
           struct fdcpu_jit_log *log)
{
    struct fdcpu_module *m = r->module;

    if (setjmp(r->fail)) {
        const char *name = r->text ? texts[r->text - 1].name : NULL;

        log_add(log->error, log->error_size, &log->error_used, "%s: %s\n",
                name ? name : "ptx", r->message);
        return r->result;
    }
    for (int k = 0; k < ntexts; k++) {
        size_t size = texts[k].size;
        char *copy;

        r->text = (uint32_t)k + 1;
        if (fdcpu_is_cubin(texts[k].ptx, size)) {
            copy = fdcpu_alloc(r, size);        /* aligned */
            memcpy(copy, texts[k].ptx, size);
            fdcpu_parse_cubin(r, copy, size);
            continue;
        }
        while (size && !texts[k].ptx[size - 1])         /* NULs behind the text */
            size--;
        copy = fdcpu_alloc(r, size + 1);
        memcpy(copy, texts[k].ptx, size);
        r->version = r->target = 0;
        fdcpu_lex_init(&r->x, copy, copy + size, 1);
        fdcpu_parse_text(r);
    }
    m->entry = fdcpu_alloc(r, (m->nfunc + 1) * sizeof(*m->entry));
    for (uint32_t k = 0; k < m->nfunc; k++)
        if (m->func[k]->entry)
            m->entry[m->nentry++] = m->func[k];
    place_variables(r);
    for (uint32_t k = 0; k < m->nentry; k++)
        if (!m->entry[k]->machine)
            m->entry[k]->info.const_size = m->const_size;
    return 0;
}

int
fdcpu_module_load(const struct fdcpu_text *texts, int ntexts, const struct fdcpu_allocator *mem,
                  struct fdcpu_jit_log *log, struct fdcpu_module **module)
{
    struct fdcpu_jit_log none = { 0 };
    struct fdcpu_module *m = calloc(1, sizeof(*m));
    struct fdcpu_reader *r = calloc(1, sizeof(*r));
    size_t total = 0;
    int result;

    *module = NULL;
    if (!log)
        log = &none;
    log->error_used = log->info_used = 0;
    if (log->error && log->error_size)
        log->error[0] = 0;
    if (log->info && log->info_size)
        log->info[0] = 0;
    if (!m || !r) {
        free(m);
        free(r);
        return 2;
    }
    fdcpu_ops_init();
    pthread_mutex_init(&m->lock, NULL);
    m->mem = *mem;
    r->module = m;
    result = read_texts(r, texts, ntexts, log);
    free(r);
    if (result) {
        fdcpu_module_unload(m);
        return result;
    }
    for (int k = 0; k < ntexts; k++)
        total += texts[k].size;
    /* small texts are read whole at once, so that mistakes show where they do on a GPU */
    for (uint32_t k = 0; total <= EAGER_TEXT && k < m->nentry; k++) {
        result = m->entry[k]->machine ? 0 : fdcpu_program_get(m->entry[k]);
        if (!result)
            continue;
        log_add(log->error, log->error_size, &log->error_used, "%s: %s\n",
                texts[0].name ? texts[0].name : "ptx", m->entry[k]->prog_error);
        fdcpu_module_unload(m);
        return result;
    }
    log_add(log->info, log->info_size, &log->info_used, "%u kernels, %u variables\n", m->nentry,
            m->npub);
    *module = m;
    return 0;
}

/* ---- questions ---- */

uint32_t
fdcpu_module_func_count(const struct fdcpu_module *m)
{
    return m->nentry;
}

struct fdcpu_func *
fdcpu_module_func_at(struct fdcpu_module *m, uint32_t i)
{
    return i < m->nentry ? m->entry[i] : NULL;
}

struct fdcpu_func *
fdcpu_module_func(struct fdcpu_module *m, const char *name)
{
    struct fdcpu_sym *s = fdcpu_sym_find(m, 0, name, strlen(name));

    return s && s->kind == SYM_FUNC && m->func[s->index]->entry ? m->func[s->index] : NULL;
}

const struct fdcpu_func_info *
fdcpu_func_index(const struct fdcpu_func *f)
{
    return &f->info;
}

const struct fdcpu_func_info *
fdcpu_func_info(const struct fdcpu_func *func)
{
    struct fdcpu_func *f = (struct fdcpu_func *)(uintptr_t)func;

    if (FDC_LIKELY(fdc_load_acquire(&f->info_full))) /* pairs with the release below */
        return &f->info;
    if (fdcpu_program_get(f))
        return &f->info;
    pthread_mutex_lock(&f->module->lock);
    if (!f->info_full) {
        uint32_t regs = f->prog->entry->nslots;

        f->info.static_shared = f->prog->static_shared;
        f->info.local_size = f->prog->entry->local_size;
        /* what occupancy is computed from: a GPU's code would need about this much */
        f->info.num_regs = regs < 16 ? 16 : regs > 64 ? 64 : regs;
        fdc_store_release(&f->info_full, true);
    }
    pthread_mutex_unlock(&f->module->lock);
    return &f->info;
}

uint32_t
fdcpu_module_var_count(const struct fdcpu_module *m)
{
    return m->npub;
}

const struct fdcpu_var *
fdcpu_module_var_at(const struct fdcpu_module *m, uint32_t i)
{
    return i < m->npub ? m->pub[i] : NULL;
}

const struct fdcpu_var *
fdcpu_module_var(const struct fdcpu_module *m, const char *name)
{
    struct fdcpu_sym *s = fdcpu_sym_find((struct fdcpu_module *)(uintptr_t)m, 0, name,
                                         strlen(name));

    if (s && s->kind == SYM_VAR && m->var[s->index]->pub.addr &&
        m->var[s->index]->space != VS_SHARED)
        return &m->var[s->index]->pub;
    for (uint32_t k = 0; k < m->npub; k++)      /* static to one text */
        if (!strcmp(m->pub[k]->name, name))
            return m->pub[k];
    return NULL;
}
