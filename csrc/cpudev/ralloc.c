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

/* Every register a place of its own. */
static void
place(struct dec *d, struct fdcpu_code *code)
{
    uint32_t preds = 0, slots = 0, base;

    for (uint32_t v = 0; v < d->nvreg; v++)
        if (d->vreg[v].cls == 'p')
            d->vreg[v].off = 4 * preds++;
    base = (4 * preds + FDCPU_SLOT - 1) & ~(uint32_t)(FDCPU_SLOT - 1);
    for (uint32_t v = 0; v < d->nvreg; v++)
        if (d->vreg[v].cls != 'p') {
            d->vreg[v].off = base + slots * FDCPU_SLOT;
            slots += slots_of(d->vreg[v].cls);
        }
    code->nslots = slots;
    code->file_size = base + slots * FDCPU_SLOT;
}

void
dec_allocate(struct dec *d, struct fdcpu_code *code)
{
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
