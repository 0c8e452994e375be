/*
 * From an entry to a program: the entry with all that it can call, and the shared memory
 * that they have together.
 */
#include "decode.h"

#include <stdlib.h>

uint32_t
dec_shared_take(struct dec *d, uint64_t size, uint32_t align)
{
    struct dec_program *b = d->build;
    uint32_t at = (b->shared_size + align - 1) & ~(align - 1);

    if (size > MAX_SHARED || at > MAX_SHARED - size)
        DEC_FAIL(d, "too much shared memory");
    b->shared_size = at + (uint32_t)size;
    return at;
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
    if (!b->shared_at[index])
        b->shared_at[index] = dec_shared_take(d, v->pub.size, v->align) + 1;
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

void
dec_code_free(struct fdcpu_code *code)
{
    if (!code)
        return;
    free(code->insn);
    free(code->ext);
    free(code->consts);
    free(code->table);
    free(code);
}

void
fdcpu_program_free(struct fdcpu_program *prog)
{
    if (!prog)
        return;
    for (uint32_t k = 0; k < prog->ncode; k++)
        dec_code_free(prog->code[k]);
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

        result = dec_function(prog, &b, m->func[number], &prog->code[number], message, size);
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
