/*
 * From the text of a body to bytecode, statement by statement. What opcodes become is in
 * decode_alu.c and decode_mem.c; dec_function() does one function of a program.
 */
#include "decode.h"

#include <stdio.h>
#include <stdlib.h>

void *
dec_alloc(struct dec *d, size_t size)
{
    void *p = fdcpu_arena_alloc(&d->arena, size);

    if (!p)
        fdcpu_fail(&d->r, 2, "out of memory");
    return p;
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
            name = dec_declare(d, s, n, N_REGS);
            name->index = d->nvreg;
            name->count = (uint32_t)count;
            for (uint64_t k = 0; k < count; k++)
                dec_vreg(d, dec_class(t));
        } else {
            name = dec_declare(d, s, n, N_REG);
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
        name = dec_declare(d, s, n, kind);
        name->type = t;
        if (size > MAX_FRAME)
            DEC_FAIL(d, "'%.*s' is too large", n > 60 ? 60 : (int)n, s);
        name->size = (uint32_t)size;
        if (kind == N_SHARED) {
            name->index = dec_shared_take(d, size, (uint32_t)align);
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
        name = dec_declare(d, s, n, N_TARGETS);
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
        dec_declare(d, s, n, N_PROTO);
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
                dec_operand(d, &o->vec[o->nvec++]);
                if (!fdcpu_accept(&d->r, ','))
                    break;
            }
            fdcpu_expect(&d->r, ')');
        } else {
            dec_operand(d, o);
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
            dec_operand(d, &d->op[d->nop++]);
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
        dec_open_scope(d);
        fdcpu_lex_next(x);
    } else if (x->c == '}') {
        if (!d->scope->up)
            DEC_FAIL(d, "'}' without '{'");
        dec_close_scope(d);
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
        dec_word(d, &o);
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
                dec_label(d, s, n);
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
        struct dec_name *name = dec_declare(d, list[k].name, (uint32_t)strlen(list[k].name),
                                            d->func->entry ? N_PARAM : N_FRAME);

        if (list[k].reg)
            DEC_FAIL(d, "parameters in registers are not supported");
        name->index = list[k].offset;
        name->size = list[k].size;
        name->type = list[k].type;
    }
}

/* ---- a function ---- */

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

int
dec_function(struct fdcpu_program *prog, struct dec_program *build, struct fdcpu_func *f,
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
        dec_code_free(made);
        dec_free(d);
        return result;
    }
    d->labels = dec_alloc(d, 1024 * sizeof(*d->labels));
    dec_vreg(d, 'p');
    dec_vreg(d, 'p');
    d->vreg[V_TRUE].fixed = d->vreg[V_FALSE].fixed = true;
    dec_open_scope(d);
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
    dec_resolve_labels(d);

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
