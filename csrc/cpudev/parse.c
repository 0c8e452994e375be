/*
 * Index pass: finds functions, variables and their shapes in PTX text, in one walk.
 * Bodies are skipped here and read by decode.c.
 */
#include "module.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ALIGN = 4096, MAX_NAME = 65536 };
#define MAX_OBJECT (1ull << 40)

/* ---- memory and errors ---- */

struct fdcpu_chunk {
    struct fdcpu_chunk *next;
    char bytes[] __attribute__((aligned(16)));
};

void *
fdcpu_arena_alloc(struct fdcpu_arena *arena, size_t size)
{
    void *p;

    if (size > ((size_t)1 << 40))
        return NULL;
    size = (size + 15) & ~(size_t)15;
    if (!arena->chunks || arena->size - arena->used < size) {
        size_t want = size > 65536 ? size : 65536;
        struct fdcpu_chunk *chunk = calloc(1, sizeof(*chunk) + want);

        if (!chunk)
            return NULL;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->used = 0;
        arena->size = want;
    }
    p = arena->chunks->bytes + arena->used;
    arena->used += size;
    return p;
}

void
fdcpu_arena_free(struct fdcpu_arena *arena)
{
    while (arena->chunks) {
        struct fdcpu_chunk *next = arena->chunks->next;

        free(arena->chunks);
        arena->chunks = next;
    }
    arena->used = arena->size = 0;
}

void
fdcpu_fail(struct fdcpu_reader *r, int result, const char *format, ...)
{
    va_list ap;
    int n = 0;

    if (r->x.line)      /* not of a cubin */
        n = snprintf(r->message, sizeof(r->message), "line %u: ", r->x.line);
    va_start(ap, format);
    vsnprintf(r->message + n, sizeof(r->message) - (size_t)n, format, ap);
    va_end(ap);
    r->result = result;
    longjmp(r->fail, 1);
}

void *
fdcpu_alloc(struct fdcpu_reader *r, size_t size)
{
    void *p = fdcpu_arena_alloc(&r->module->arena, size);

    if (!p)
        fdcpu_fail(r, 2, "out of memory");
    return p;
}

/* ---- small pieces of grammar ---- */

void
fdcpu_expect(struct fdcpu_reader *r, char c)
{
    if (r->x.c != c)
        fdcpu_fail(r, 218, "expected '%c' before '%.*s'", c, r->x.n > 40 ? 40 : (int)r->x.n,
                   r->x.s);
    fdcpu_lex_next(&r->x);
}

bool
fdcpu_accept(struct fdcpu_reader *r, char c)
{
    if (r->x.c != c)
        return false;
    fdcpu_lex_next(&r->x);
    return true;
}

/* Copies a TOK_WORD and moves on. */
static char *
copied_name(struct fdcpu_reader *r)
{
    char *name;

    if (r->x.kind != TOK_WORD)
        fdcpu_fail(r, 218, "expected a name before '%.*s'", r->x.n > 40 ? 40 : (int)r->x.n,
                   r->x.s);
    if (r->x.n > MAX_NAME)
        fdcpu_fail(r, 218, "name of %u characters", r->x.n);
    name = fdcpu_alloc(r, r->x.n + 1);
    memcpy(name, r->x.s, r->x.n);
    fdcpu_lex_next(&r->x);
    return name;
}

uint64_t
fdcpu_integer(struct fdcpu_reader *r)
{
    bool negative = false;
    uint64_t v;

    while (r->x.c == '-' || r->x.c == '+') {
        negative ^= r->x.c == '-';
        fdcpu_lex_next(&r->x);
    }
    if (r->x.kind != TOK_INT)
        fdcpu_fail(r, 218, "expected a number before '%.*s'", r->x.n > 40 ? 40 : (int)r->x.n,
                   r->x.s);
    v = r->x.num;
    fdcpu_lex_next(&r->x);
    return negative ? -v : v;
}

enum fdcpu_type
fdcpu_type_token(struct fdcpu_reader *r)
{
    enum fdcpu_type t = T_NONE;

    if (r->x.kind == TOK_DOT)
        t = fdcpu_type_find(r->x.s + 1, r->x.n - 1);
    if (!t)
        fdcpu_fail(r, 218, "expected a type before '%.*s'", r->x.n > 40 ? 40 : (int)r->x.n,
                   r->x.s);
    fdcpu_lex_next(&r->x);
    return t;
}

uint64_t
fdcpu_dims(struct fdcpu_reader *r, bool *empty)
{
    uint64_t count = 1;

    *empty = false;
    while (fdcpu_accept(r, '[')) {
        uint64_t n;

        if (r->x.c == ']') {
            *empty = true;
            n = 1;
        } else {
            n = fdcpu_integer(r);
        }
        fdcpu_expect(r, ']');
        if (n > MAX_OBJECT || (n && count > MAX_OBJECT / n))
            fdcpu_fail(r, 218, "array too large");
        count *= n;
    }
    return count;
}

static uint32_t
align_value(struct fdcpu_reader *r)
{
    uint64_t v = fdcpu_integer(r);

    if (!v || v > MAX_ALIGN || (v & (v - 1)))
        fdcpu_fail(r, 218, "alignment %llu", (unsigned long long)v);
    return (uint32_t)v;
}

static bool
is_dot(struct fdcpu_reader *r, const char *word)
{
    return r->x.kind == TOK_DOT && fdcpu_lex_is(&r->x, word);
}

static void
skip_to_semicolon(struct fdcpu_reader *r)
{
    while (r->x.c != ';' && r->x.kind != TOK_END)
        fdcpu_lex_next(&r->x);
    fdcpu_expect(r, ';');
}

static void
skip_line(struct fdcpu_reader *r)
{
    uint32_t line = r->x.line;

    while (r->x.line == line && r->x.kind != TOK_END)
        fdcpu_lex_next(&r->x);
}

/* ---- symbols ---- */

static uint32_t
hash_name(const char *name, size_t n)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)name[i]) * 16777619u;
    return h;
}

static struct fdcpu_sym *
find_exact(struct fdcpu_module *m, uint32_t text, const char *name, size_t n)
{
    struct fdcpu_sym *s;

    if (!m->nhash)
        return NULL;
    for (s = m->hash[hash_name(name, n) & (m->nhash - 1)]; s; s = s->next)
        if (s->text == text && !strncmp(s->name, name, n) && !s->name[n])
            return s;
    return NULL;
}

struct fdcpu_sym *
fdcpu_sym_find(struct fdcpu_module *m, uint32_t text, const char *name, size_t n)
{
    struct fdcpu_sym *s = find_exact(m, text, name, n);

    return s ? s : find_exact(m, 0, name, n);
}

static void
add_symbol(struct fdcpu_reader *r, const char *name, uint32_t text, enum fdcpu_sym_kind kind,
           uint32_t index)
{
    struct fdcpu_module *m = r->module;
    struct fdcpu_sym *s, **slot;

    if (m->nsym >= m->nhash) {
        uint32_t size = m->nhash ? m->nhash * 4 : 256;
        struct fdcpu_sym **hash = fdcpu_alloc(r, size * sizeof(*hash));

        for (uint32_t i = 0; i < m->nhash; i++) {
            struct fdcpu_sym *next;

            for (s = m->hash[i]; s; s = next) {
                next = s->next;
                slot = &hash[hash_name(s->name, strlen(s->name)) & (size - 1)];
                s->next = *slot;
                *slot = s;
            }
        }
        m->hash = hash;
        m->nhash = size;
    }
    s = fdcpu_alloc(r, sizeof(*s));
    s->name = name;
    s->text = text;
    s->kind = kind;
    s->index = index;
    slot = &m->hash[hash_name(name, strlen(name)) & (m->nhash - 1)];
    s->next = *slot;
    *slot = s;
    m->nsym++;
}

/* ---- functions ---- */

/* ".param .align 8 .b8 name[16]" and its like; the list's parentheses included. */
static struct fdcpu_formal *
formal_list(struct fdcpu_reader *r, uint32_t *count)
{
    struct fdcpu_formal *list = NULL;
    uint32_t n = 0, cap = 0;

    fdcpu_expect(r, '(');
    while (r->x.c != ')') {
        struct fdcpu_formal f = { 0 };
        uint64_t elems, size;
        bool empty;

        if (is_dot(r, ".reg"))
            f.reg = true;
        else if (!is_dot(r, ".param"))
            fdcpu_fail(r, 218, "expected .param before '%.*s'",
                       r->x.n > 40 ? 40 : (int)r->x.n, r->x.s);
        fdcpu_lex_next(&r->x);
        while (r->x.kind == TOK_DOT) {
            if (is_dot(r, ".align")) {
                fdcpu_lex_next(&r->x);
                f.align = align_value(r);
            } else if (is_dot(r, ".ptr")) {
                /* what the pointer points to: of no use here */
                fdcpu_lex_next(&r->x);
                while (r->x.kind == TOK_DOT) {
                    bool align = is_dot(r, ".align");

                    fdcpu_lex_next(&r->x);
                    if (align)
                        align_value(r);
                }
            } else if (!f.type) {
                f.type = fdcpu_type_token(r);
            } else {
                fdcpu_lex_next(&r->x);
            }
        }
        if (!f.type)
            fdcpu_fail(r, 218, "parameter without a type");
        f.name = copied_name(r);
        elems = fdcpu_dims(r, &empty);
        size = elems * fdcpu_type_size(f.type);
        if (size > 65536)
            fdcpu_fail(r, 218, "parameter of %llu bytes", (unsigned long long)size);
        f.size = empty ? 0 : (uint32_t)size;
        if (f.align < fdcpu_type_size(f.type))
            f.align = fdcpu_type_size(f.type);
        if (n == cap) {
            struct fdcpu_formal *bigger;

            cap = cap ? cap * 2 : 8;
            bigger = fdcpu_alloc(r, cap * sizeof(*list));
            if (n)
                memcpy(bigger, list, n * sizeof(*list));
            list = bigger;
        }
        list[n++] = f;
        if (!fdcpu_accept(r, ','))
            break;
    }
    fdcpu_expect(r, ')');
    *count = n;
    return list;
}

static uint32_t
lay_out(struct fdcpu_reader *r, struct fdcpu_formal *list, uint32_t n, uint32_t at)
{
    for (uint32_t i = 0; i < n; i++) {
        at = (at + list[i].align - 1) & ~(list[i].align - 1);
        list[i].offset = at;
        at += list[i].size;
        if (at > (1u << 20))
            fdcpu_fail(r, 218, "parameters of more than a megabyte");
    }
    return at;
}

static void
up_to_three(struct fdcpu_reader *r, uint32_t out[3])
{
    for (int i = 0; i < 3; i++) {
        out[i] = (uint32_t)fdcpu_integer(r);
        if (!fdcpu_accept(r, ','))
            break;
    }
}

static void
performance_directives(struct fdcpu_reader *r, struct fdcpu_func *f)
{
    while (r->x.kind == TOK_DOT) {
        uint32_t v[3] = { 1, 1, 1 };

        if (is_dot(r, ".maxntid") || is_dot(r, ".reqntid")) {
            bool req = r->x.s[1] == 'r';
            uint64_t all;

            fdcpu_lex_next(&r->x);
            up_to_three(r, v);
            all = (uint64_t)v[0] * v[1] * v[2];
            if (all && all <= 1024)
                f->info.max_threads = (uint32_t)all;
            if (req)
                memcpy(f->info.reqntid, v, sizeof(v));
        } else if (is_dot(r, ".reqnctapercluster")) {
            fdcpu_lex_next(&r->x);
            up_to_three(r, v);
            memcpy(f->info.reqnctapercluster, v, sizeof(v));
        } else if (is_dot(r, ".pragma")) {
            skip_to_semicolon(r);
        } else if (is_dot(r, ".noreturn") || is_dot(r, ".explicitcluster") ||
                   is_dot(r, ".blocksareclusters")) {
            fdcpu_lex_next(&r->x);
        } else if (is_dot(r, ".attribute") || is_dot(r, ".abi_preserve") ||
                   is_dot(r, ".abi_preserve_control") || is_dot(r, ".minnctapersm") ||
                   is_dot(r, ".maxnctapersm") || is_dot(r, ".maxnreg") ||
                   is_dot(r, ".maxclusterrank")) {
            fdcpu_lex_next(&r->x);
            while (r->x.kind != TOK_END && r->x.kind != TOK_DOT && r->x.c != '{' &&
                   r->x.c != ';') {
                if (r->x.c == '(') {
                    while (r->x.kind != TOK_END && r->x.c != ')')
                        fdcpu_lex_next(&r->x);
                }
                fdcpu_lex_next(&r->x);
            }
        } else {
            fdcpu_fail(r, 218, "directive '%.*s' on a function",
                       r->x.n > 40 ? 40 : (int)r->x.n, r->x.s);
        }
    }
}

struct fdcpu_func *
fdcpu_func_slot(struct fdcpu_reader *r, const char *name, enum fdcpu_linkage linkage)
{
    struct fdcpu_module *m = r->module;
    uint32_t scope = linkage == LINK_NONE ? r->text : 0;
    struct fdcpu_sym *s = fdcpu_sym_find(m, r->text, name, strlen(name));
    struct fdcpu_func *f;

    if (s && (s->text || linkage != LINK_NONE)) {
        if (s->kind != SYM_FUNC)
            fdcpu_fail(r, 218, "'%s' is a variable already", name);
        return m->func[s->index];
    }
    if (m->nfunc == m->cap_func) {
        struct fdcpu_func **bigger;

        m->cap_func = m->cap_func ? m->cap_func * 2 : 64;
        bigger = fdcpu_alloc(r, m->cap_func * sizeof(*bigger));
        if (m->nfunc)
            memcpy(bigger, m->func, m->nfunc * sizeof(*bigger));
        m->func = bigger;
    }
    f = fdcpu_alloc(r, sizeof(*f));
    f->module = m;
    f->name = name;
    f->number = m->nfunc;
    f->linkage = LINK_EXTERN;
    m->func[m->nfunc++] = f;
    add_symbol(r, name, scope, SYM_FUNC, f->number);
    return f;
}

static void
function(struct fdcpu_reader *r, bool entry, enum fdcpu_linkage linkage)
{
    struct fdcpu_formal *rets = NULL, *params = NULL;
    uint32_t nrets = 0, nparams = 0, size;
    struct fdcpu_func *f, fresh = { 0 };
    char *name;

    fdcpu_lex_next(&r->x);
    while (is_dot(r, ".attribute")) {
        while (r->x.kind != TOK_END && r->x.c != ')')
            fdcpu_lex_next(&r->x);
        fdcpu_expect(r, ')');
    }
    if (!entry && r->x.c == '(')
        rets = formal_list(r, &nrets);
    name = copied_name(r);
    if (r->x.c == '(')
        params = formal_list(r, &nparams);
    f = fdcpu_func_slot(r, name, linkage);
    fresh.info.max_threads = 1024;
    performance_directives(r, &fresh);
    size = lay_out(r, params, nparams, 0);
    if (r->x.c != '{') {
        fdcpu_expect(r, ';');
        if (f->defined)
            return;
        f->rets = rets, f->nrets = nrets, f->params = params, f->nparams = nparams;
        f->formal_size = lay_out(r, rets, nrets, size);
        return;
    }
    if (f->defined && linkage != LINK_WEAK && f->linkage != LINK_WEAK)
        fdcpu_fail(r, 218, "'%s' is defined twice", name);
    if (f->defined && linkage == LINK_WEAK) {
        if (!fdcpu_lex_skip_block(&r->x))
            fdcpu_fail(r, 218, "body of '%s' has no end", name);
        fdcpu_lex_next(&r->x);
        return;
    }
    f->info = fresh.info;
    f->defined = true;
    f->linkage = linkage;
    f->entry = entry;
    f->text = r->text;
    f->rets = rets, f->nrets = nrets, f->params = params, f->nparams = nparams;
    f->formal_size = lay_out(r, rets, nrets, size);
    f->info.name = f->name;
    f->info.ptx_version = (uint16_t)r->version;
    f->info.target = (uint16_t)r->target;
    if (entry) {
        struct fdcpu_param *list = fdcpu_alloc(r, (nparams + 1) * sizeof(*list));

        for (uint32_t i = 0; i < nparams; i++)
            list[i] = (struct fdcpu_param){ params[i].offset, params[i].size };
        f->info.params = list;
        f->info.nparams = nparams;
        f->info.param_size = size;
    }
    f->body = r->x.p;
    f->body_line = r->x.next_line;
    if (!fdcpu_lex_skip_block(&r->x))
        fdcpu_fail(r, 218, "body of '%s' has no end", name);
    f->body_end = r->x.p - 1;
    fdcpu_lex_next(&r->x);
}

/* ---- variables ---- */

struct fdcpu_gvar *
fdcpu_var_slot(struct fdcpu_reader *r, const char *name, enum fdcpu_linkage linkage)
{
    struct fdcpu_module *m = r->module;
    uint32_t scope = linkage == LINK_NONE ? r->text : 0;
    struct fdcpu_sym *s = fdcpu_sym_find(m, r->text, name, strlen(name));
    struct fdcpu_gvar *v;

    if (s && (s->text || linkage != LINK_NONE)) {
        if (s->kind != SYM_VAR)
            fdcpu_fail(r, 218, "'%s' is a function already", name);
        return m->var[s->index];
    }
    if (m->nvar == m->cap_var) {
        struct fdcpu_gvar **bigger;

        m->cap_var = m->cap_var ? m->cap_var * 2 : 64;
        bigger = fdcpu_alloc(r, m->cap_var * sizeof(*bigger));
        if (m->nvar)
            memcpy(bigger, m->var, m->nvar * sizeof(*bigger));
        m->var = bigger;
    }
    v = fdcpu_alloc(r, sizeof(*v));
    v->pub.name = name;
    v->linkage = LINK_EXTERN;
    m->var[m->nvar] = v;
    add_symbol(r, name, scope, SYM_VAR, m->nvar++);
    return v;
}

/* Elements of "{ {1, 2}, {3} }", for arrays whose first dimension is left open. */
static uint64_t
count_elements(struct fdcpu_reader *r)
{
    struct fdcpu_lex save = r->x;
    uint64_t n = 0;
    bool item = false;
    int depth = 0, parens = 0;

    do {
        if (r->x.kind == TOK_END)
            fdcpu_fail(r, 218, "initialiser has no end");
        if (r->x.c == '{') {
            depth++;
        } else if (r->x.c == '}' || (r->x.c == ',' && !parens)) {
            depth -= r->x.c == '}';
            n += item;
            item = false;
        } else {
            parens += (r->x.c == '(') - (r->x.c == ')');
            item = true;
        }
        fdcpu_lex_next(&r->x);
    } while (depth > 0);
    r->x = save;
    return n;
}

static void
variable(struct fdcpu_reader *r, enum fdcpu_vspace space, enum fdcpu_linkage linkage)
{
    bool managed = false;
    uint32_t align = 0;
    enum fdcpu_type type = T_NONE;

    fdcpu_lex_next(&r->x);
    while (r->x.kind == TOK_DOT) {
        if (is_dot(r, ".align")) {
            fdcpu_lex_next(&r->x);
            align = align_value(r);
        } else if (is_dot(r, ".attribute")) {
            while (r->x.kind != TOK_END && r->x.c != ')') {
                managed |= is_dot(r, ".managed");
                fdcpu_lex_next(&r->x);
            }
            fdcpu_expect(r, ')');
        } else if (is_dot(r, ".texref") || is_dot(r, ".samplerref") || is_dot(r, ".surfref")) {
            type = T_OPAQUE;
            fdcpu_lex_next(&r->x);
        } else if (is_dot(r, ".v2") || is_dot(r, ".v4")) {
            fdcpu_fail(r, 801, "vector variables are not supported");
        } else {
            type = fdcpu_type_token(r);
        }
    }
    if (!type)
        fdcpu_fail(r, 218, "variable without a type");
    do {
        char *name = copied_name(r);
        struct fdcpu_gvar *v = fdcpu_var_slot(r, name, linkage);
        bool empty, init = false;
        uint64_t elems = fdcpu_dims(r, &empty), size;
        struct fdcpu_lex from = r->x;

        if (fdcpu_accept(r, '=')) {
            int depth = 0;

            init = true;
            if (empty && r->x.c == '{') {
                elems = count_elements(r);
                empty = false;
            }
            from = r->x;
            while (r->x.kind != TOK_END && r->x.c != ';' && !(r->x.c == ',' && !depth)) {
                depth += (r->x.c == '{' || r->x.c == '(') - (r->x.c == '}' || r->x.c == ')');
                fdcpu_lex_next(&r->x);
            }
        }
        size = type == T_OPAQUE ? 256 : elems * fdcpu_type_size(type);
        if (size > MAX_OBJECT)
            fdcpu_fail(r, 218, "'%s' is too large", name);
        if (v->linkage != LINK_EXTERN) {        /* defined before */
            if (linkage == LINK_EXTERN || linkage == LINK_WEAK || linkage == LINK_COMMON) {
                if (linkage == LINK_COMMON && size > v->pub.size && v->linkage == LINK_COMMON)
                    v->pub.size = size;
                continue;
            }
            if (v->linkage != LINK_WEAK && v->linkage != LINK_COMMON)
                fdcpu_fail(r, 218, "'%s' is defined twice", name);
        }
        v->space = space;
        v->linkage = linkage;
        v->type = type;
        v->text = r->text;
        v->align = align > fdcpu_type_size(type) ? align : fdcpu_type_size(type);
        v->pub.size = empty ? 0 : size;
        v->pub.managed = managed;
        v->pub.space = space == VS_CONST ? FDCPU_CONST : FDCPU_GLOBAL;
        v->dynamic = space == VS_SHARED && (empty || !elems) && linkage == LINK_EXTERN;
        if (init) {
            v->init = from.s;
            v->init_end = r->x.s;
            v->init_line = from.line;
        }
    } while (fdcpu_accept(r, ','));
    fdcpu_expect(r, ';');
}

/* ---- the text ---- */

static void
header(struct fdcpu_reader *r)
{
    uint64_t major, v;

    if (!is_dot(r, ".version"))
        fdcpu_fail(r, 218, "no .version");
    fdcpu_lex_next(&r->x);
    if (r->x.kind != TOK_F64 && r->x.kind != TOK_INT)
        fdcpu_fail(r, 218, "no version number");
    if (r->x.kind == TOK_INT) {
        major = r->x.num * 10;
    } else {
        double d;

        memcpy(&d, &r->x.num, 8);
        major = d >= 1 && d < 100 ? (uint64_t)(d * 10 + 0.5) : 0;
    }
    if (major < 10 || major > 999)
        fdcpu_fail(r, 222, ".version %llu.%llu", (unsigned long long)(major / 10),
                   (unsigned long long)(major % 10));
    r->version = (uint32_t)major;
    fdcpu_lex_next(&r->x);
    if (!is_dot(r, ".target"))
        fdcpu_fail(r, 218, "no .target");
    fdcpu_lex_next(&r->x);
    do {
        if (r->x.kind == TOK_WORD && r->x.n > 3 && !memcmp(r->x.s, "sm_", 3)) {
            for (v = 0; v < r->x.n - 3 && r->x.s[3 + v] >= '0' && r->x.s[3 + v] <= '9'; v++)
                r->target = r->target * 10 + (uint32_t)(r->x.s[3 + v] - '0');
            if (r->target > 999)
                fdcpu_fail(r, 218, ".target sm_%u", r->target);
        }
        fdcpu_lex_next(&r->x);
    } while (fdcpu_accept(r, ','));
    if (is_dot(r, ".address_size")) {
        fdcpu_lex_next(&r->x);
        if (fdcpu_integer(r) != 64)
            fdcpu_fail(r, 218, "only .address_size 64 is supported");
    }
}

void
fdcpu_parse_text(struct fdcpu_reader *r)
{
    fdcpu_lex_next(&r->x);
    header(r);
    while (r->x.kind != TOK_END) {
        enum fdcpu_linkage linkage = LINK_NONE;

        for (;; fdcpu_lex_next(&r->x)) {
            if (is_dot(r, ".visible"))
                linkage = LINK_VISIBLE;
            else if (is_dot(r, ".extern"))
                linkage = LINK_EXTERN;
            else if (is_dot(r, ".weak"))
                linkage = LINK_WEAK;
            else if (is_dot(r, ".common"))
                linkage = LINK_COMMON;
            else
                break;
        }
        if (is_dot(r, ".entry")) {
            /* an entry is known outside whatever its linkage says */
            function(r, true, linkage == LINK_NONE ? LINK_VISIBLE : linkage);
        } else if (is_dot(r, ".func")) {
            function(r, false, linkage);
        } else if (is_dot(r, ".global")) {
            variable(r, VS_GLOBAL, linkage);
        } else if (is_dot(r, ".const")) {
            variable(r, VS_CONST, linkage);
        } else if (is_dot(r, ".shared") || is_dot(r, ".shared::cta")) {
            variable(r, VS_SHARED, linkage);
        } else if (is_dot(r, ".tex")) {
            variable(r, VS_GLOBAL, linkage);
        } else if (is_dot(r, ".file") || r->x.c == '@') {
            skip_line(r);
        } else if (is_dot(r, ".section")) {
            while (r->x.kind != TOK_END && r->x.c != '{')
                fdcpu_lex_next(&r->x);
            if (r->x.kind == TOK_END || !fdcpu_lex_skip_block(&r->x))
                fdcpu_fail(r, 218, ".section has no end");
            fdcpu_lex_next(&r->x);
        } else if (is_dot(r, ".pragma") || is_dot(r, ".alias")) {
            skip_to_semicolon(r);
        } else if (is_dot(r, ".loc")) {
            skip_line(r);
        } else if (r->x.c == ';') {
            fdcpu_lex_next(&r->x);
        } else {
            fdcpu_fail(r, 218, "'%.*s' where a declaration was expected",
                       r->x.n > 40 ? 40 : (int)r->x.n, r->x.s);
        }
    }
}
