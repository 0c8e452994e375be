/*
 * Machine code: what a cubin says of its kernels and variables. Nothing here is ever
 * executed. It lets a program that brings machine code alone go through all of its calls
 * where FD_CPU_KERNELS=skip has asked for that: kernels are known by name, parameters and
 * limits (.nv.info), variables have memory and their initial values. An initial value that
 * is an address stays 0.
 *
 * Offsets and sizes are the file's word: each is checked before it is followed.
 */
#include "module.h"

#include <elf.h>
#include <string.h>

enum { /* records of .nv.info, by their second byte */
    INFO_MAX_THREADS = 0x05,
    INFO_REQNTID = 0x10,
    INFO_FRAME_SIZE = 0x11,
    INFO_MIN_STACK = 0x12,
    INFO_PARAM = 0x17,
    INFO_PARAM_SIZE = 0x19,
    INFO_REGCOUNT = 0x2f,
    INFO_CLUSTER = 0x3d,
    INFO_PARAM_V2 = 0x45,
};
enum { INFO_HALF = 3, INFO_BYTES = 4 }; /* their first byte: where the value is */
enum { SYM_ENTRY = 0x10, SYM_MANAGED = 0x04 }; /* of st_other */
enum { ABI_NEW = 0x41, RESERVED_SHARED = 1024, MAX_PARAMS = 4096, MAX_PARAM_BYTES = 32764 };

struct cubin {
    struct fdcpu_reader *r;
    const uint8_t *bytes;
    size_t size;
    const Elf64_Shdr *section;
    uint32_t nsections;
    const Elf64_Sym *symbol;
    uint32_t nsymbols;
    const char *strings; /* of the symbols */
    size_t strings_size;
    uint32_t *info, *shared; /* by section of code: of its .nv.info and .nv.shared, or 0 */
    uint32_t const_size;
    uint32_t reserved; /* shared memory at the start of each block that is not the kernel's */
};

struct record { /* one of .nv.info */
    uint8_t attribute;
    uint32_t size; /* of value */
    const uint8_t *value;
};

static uint32_t
word(const uint8_t *at)
{
    uint32_t v;

    memcpy(&v, at, 4);
    return v;
}

static uint16_t
half(const uint8_t *at)
{
    uint16_t v;

    memcpy(&v, at, 2);
    return v;
}

static const uint8_t *
content(const struct cubin *c, const Elf64_Shdr *s)
{
    if (s->sh_type == SHT_NOBITS || s->sh_offset > c->size ||
        s->sh_size > c->size - s->sh_offset)
        fdcpu_fail(c->r, 200, "a cubin whose sections lie outside of it");
    return c->bytes + s->sh_offset;
}

/* A string of a table that is known to end in a NUL. */
static const char *
string(const struct cubin *c, const char *table, size_t size, uint32_t at)
{
    if (at >= size)
        fdcpu_fail(c->r, 200, "a cubin with a name outside of its table");
    return table + at;
}

static const char *
table_of(const struct cubin *c, uint32_t index, size_t *size)
{
    const char *table;

    if (index == 0 || index >= c->nsections)
        fdcpu_fail(c->r, 200, "a cubin without names");
    *size = c->section[index].sh_size;
    table = (const char *)content(c, &c->section[index]);
    if (*size == 0 || table[*size - 1] != '\0')
        fdcpu_fail(c->r, 200, "a cubin whose names have no end");
    return table;
}

static const char *
section_name(const struct cubin *c, const Elf64_Shdr *s)
{
    size_t size;
    const char *table = table_of(c, ((const Elf64_Ehdr *)c->bytes)->e_shstrndx, &size);

    return string(c, table, size, s->sh_name);
}

static const char *
symbol_name(const struct cubin *c, const Elf64_Sym *s)
{
    return string(c, c->strings, c->strings_size, s->st_name);
}

static char *
keep(const struct cubin *c, const char *name)
{
    size_t n = strlen(name) + 1;

    return memcpy(fdcpu_alloc(c->r, n), name, n);
}

/* ---- the file ---- */

/* A copy: libraries write cubins whose tables lie anywhere. */
static const void *
aligned(const struct cubin *c, const uint8_t *bytes, size_t size)
{
    return memcpy(fdcpu_alloc(c->r, size + 1), bytes, size);
}

static bool
begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

/* What the names of the sections say. */
static void
look_around(struct cubin *c)
{
    uint32_t i;

    c->info = fdcpu_alloc(c->r, (c->nsections + 1) * sizeof(*c->info));
    c->shared = fdcpu_alloc(c->r, (c->nsections + 1) * sizeof(*c->shared));
    for (i = 1; i < c->nsections; i++) {
        const Elf64_Shdr *s = &c->section[i];
        const char *name = section_name(c, s);

        if (strcmp(name, ".nv.info") == 0)
            c->info[0] = i;
        else if (begins(name, ".nv.info.") && s->sh_info < c->nsections)
            c->info[s->sh_info] = i;
        else if (begins(name, ".nv.shared.reserved."))
            c->reserved = RESERVED_SHARED;
        else if (begins(name, ".nv.shared.") && s->sh_info < c->nsections)
            c->shared[s->sh_info] = i;
        else if (strcmp(name, ".nv.constant3") == 0)
            c->const_size = (uint32_t)s->sh_size;
    }
}

static void
open_file(struct cubin *c)
{
    const Elf64_Ehdr *head = (const void *)c->bytes;
    uint32_t i;

    if (c->size < sizeof(*head) || head->e_ident[EI_CLASS] != ELFCLASS64 ||
        head->e_shentsize != sizeof(Elf64_Shdr) || head->e_shoff > c->size ||
        (c->size - head->e_shoff) / sizeof(Elf64_Shdr) < head->e_shnum)
        fdcpu_fail(c->r, 200, "not a cubin");
    c->section = aligned(c, c->bytes + head->e_shoff, head->e_shnum * sizeof(Elf64_Shdr));
    c->nsections = head->e_shnum;
    /* Cubins before CUDA 13 have the architecture in the lowest byte. */
    c->r->target = head->e_ident[EI_OSABI] == ABI_NEW ? head->e_flags >> 8 & 0xff
                                                      : head->e_flags & 0xff;
    for (i = 1; i < c->nsections; i++) {
        const Elf64_Shdr *s = &c->section[i];

        if (s->sh_type != SHT_SYMTAB)
            continue;
        if (s->sh_entsize != sizeof(Elf64_Sym))
            fdcpu_fail(c->r, 200, "a cubin with an odd table of symbols");
        c->symbol = aligned(c, content(c, s), s->sh_size);
        c->nsymbols = (uint32_t)(s->sh_size / sizeof(Elf64_Sym));
        c->strings = table_of(c, s->sh_link, &c->strings_size);
    }
    look_around(c);
}

/* The next record; false at the end. */
static bool
next_record(const struct cubin *c, const uint8_t **at, const uint8_t *end,
            struct record *record)
{
    uint8_t format;

    if (end - *at < 4)
        return false;
    format = (*at)[0];
    record->attribute = (*at)[1];
    record->value = *at + 2;
    record->size = 2;
    *at += 4;
    if (format != INFO_BYTES)
        return true;
    record->size = half(record->value);
    record->value = *at;
    if ((size_t)(end - *at) < record->size)
        fdcpu_fail(c->r, 200, "a cubin whose .nv.info is cut off");
    *at += record->size;
    return true;
}

/* ---- kernels ---- */

static void
parameter(const struct cubin *c, struct fdcpu_func *f, struct fdcpu_param *list,
          const struct record *record)
{
    uint32_t ordinal, offset, size;

    if (record->size < 12)
        fdcpu_fail(c->r, 200, "a cubin with a short parameter record");
    ordinal = half(record->value + 4);
    offset = half(record->value + 6);
    size = record->attribute == INFO_PARAM ? word(record->value + 8) >> 18
                                           : half(record->value + 8);
    if (ordinal >= MAX_PARAMS || offset + size > MAX_PARAM_BYTES)
        fdcpu_fail(c->r, 200, "a cubin with a parameter at %u of %u bytes", offset, size);
    list[ordinal] = (struct fdcpu_param){offset, size};
    if (ordinal >= f->info.nparams)
        f->info.nparams = ordinal + 1;
    if (offset + size > f->info.param_size)
        f->info.param_size = offset + size;
}

static void
triple(const struct cubin *c, const struct record *record, uint32_t out[3])
{
    int i;

    if (record->size < 12)
        fdcpu_fail(c->r, 200, "a cubin with a short record of three numbers");
    for (i = 0; i < 3; i++)
        out[i] = word(record->value + 4 * i);
}

/* What a kernel's own .nv.info says. */
static void
kernel_info(const struct cubin *c, struct fdcpu_func *f, const Elf64_Shdr *s)
{
    struct fdcpu_param list[MAX_PARAMS] = {{0, 0}}, *kept;
    const uint8_t *at = content(c, s), *end = at + s->sh_size;
    struct record record;
    uint32_t v[3];
    uint64_t all;

    while (next_record(c, &at, end, &record)) {
        switch (record.attribute) {
        case INFO_PARAM:
        case INFO_PARAM_V2:
            parameter(c, f, list, &record);
            break;
        case INFO_PARAM_SIZE:
            if (record.size == 2 && half(record.value) > f->info.param_size &&
                half(record.value) <= MAX_PARAM_BYTES)
                f->info.param_size = half(record.value);
            break;
        case INFO_MAX_THREADS:
        case INFO_REQNTID:
            triple(c, &record, v);
            all = (uint64_t)v[0] * v[1] * v[2];
            if (v[0] <= 1024 && v[1] <= 1024 && v[2] <= 1024 && all > 0 && all <= 1024)
                f->info.max_threads = (uint32_t)all;
            if (record.attribute == INFO_REQNTID)
                memcpy(f->info.reqntid, v, sizeof(v));
            break;
        case INFO_CLUSTER:
            triple(c, &record, v);
            memcpy(f->info.reqnctapercluster, v, sizeof(v));
            break;
        default:
            break;
        }
    }
    kept = fdcpu_alloc(c->r, (f->info.nparams + 1) * sizeof(*kept));
    memcpy(kept, list, f->info.nparams * sizeof(*kept));
    f->info.params = kept;
}

static void
kernel(const struct cubin *c, const Elf64_Sym *symbol)
{
    const char *name = symbol_name(c, symbol);
    uint32_t info = c->info[symbol->st_shndx], shared = c->shared[symbol->st_shndx];
    struct fdcpu_func *f;

    f = fdcpu_func_slot(c->r, keep(c, name), LINK_VISIBLE);
    if (f->defined)
        fdcpu_fail(c->r, 218, "'%s' is defined twice", name);
    f->defined = f->entry = f->machine = true;
    f->linkage = LINK_VISIBLE;
    f->text = c->r->text;
    f->info.name = f->name;
    f->info.max_threads = 1024;
    f->info.target = (uint16_t)c->r->target;
    f->info.const_size = c->const_size;
    if (info != 0)
        kernel_info(c, f, &c->section[info]);
    if (shared != 0 && c->section[shared].sh_size < 1u << 20 &&
        c->section[shared].sh_size > c->reserved)
        f->info.static_shared = (uint32_t)c->section[shared].sh_size - c->reserved;
}

/* Registers and local memory are in the file's own .nv.info, by number of the symbol. */
static void
sizes(const struct cubin *c)
{
    const Elf64_Shdr *s = &c->section[c->info[0]];
    const uint8_t *at, *end;
    struct record record;

    if (c->info[0] == 0)
        return;
    at = content(c, s);
    end = at + s->sh_size;
    while (next_record(c, &at, end, &record)) {
        const struct fdcpu_sym *found;
        const char *name;
        struct fdcpu_func *f;

        if (record.size < 8 || word(record.value) >= c->nsymbols)
            continue;
        name = symbol_name(c, &c->symbol[word(record.value)]);
        found = fdcpu_sym_find(c->r->module, c->r->text, name, strlen(name));
        if (found == NULL || found->kind != SYM_FUNC)
            continue;
        f = c->r->module->func[found->index];
        if (record.attribute == INFO_REGCOUNT)
            f->info.num_regs = word(record.value + 4) & 0xff;
        else if (record.attribute == INFO_FRAME_SIZE ||
                 record.attribute == INFO_MIN_STACK)
            f->info.local_size = word(record.value + 4) > f->info.local_size
                                     ? word(record.value + 4)
                                     : f->info.local_size;
    }
}

/* ---- variables ---- */

static void
variable(const struct cubin *c, const Elf64_Sym *symbol)
{
    const Elf64_Shdr *s = &c->section[symbol->st_shndx];
    const char *where = section_name(c, s), *name = symbol_name(c, symbol);
    bool constant = strcmp(where, ".nv.constant3") == 0;
    struct fdcpu_gvar *v;

    if (!constant && strcmp(where, ".nv.global") != 0 &&
        strcmp(where, ".nv.global.init") != 0)
        return;
    if (symbol->st_value > s->sh_size || symbol->st_size > s->sh_size - symbol->st_value)
        fdcpu_fail(c->r, 200, "a cubin whose '%s' lies outside of its section", name);
    v = fdcpu_var_slot(c->r, keep(c, name), LINK_NONE);
    if (v->linkage != LINK_EXTERN)
        return; /* two of one name: both static, the first is found */
    v->space = constant ? VS_CONST : VS_GLOBAL;
    v->linkage = LINK_NONE;
    v->type = T_B8;
    v->text = c->r->text;
    v->align = s->sh_addralign > 16 && s->sh_addralign <= 4096 ? (uint32_t)s->sh_addralign
                                                               : 16;
    v->pub.size = symbol->st_size;
    v->pub.managed = (symbol->st_other & SYM_MANAGED) != 0;
    v->pub.space = constant ? FDCPU_CONST : FDCPU_GLOBAL;
    if (s->sh_type == SHT_NOBITS)
        return;
    v->bytes = fdcpu_alloc(c->r, symbol->st_size + 1);
    memcpy(v->bytes, content(c, s) + symbol->st_value, symbol->st_size);
}

bool
fdcpu_is_cubin(const void *bytes, size_t size)
{
    return size > SELFMAG && memcmp(bytes, ELFMAG, SELFMAG) == 0;
}

void
fdcpu_parse_cubin(struct fdcpu_reader *r, const void *bytes, size_t size)
{
    struct cubin c = {.r = r, .bytes = bytes, .size = size};
    uint32_t i;

    r->x.line = 0;
    open_file(&c);
    for (i = 0; i < c.nsymbols; i++) {
        const Elf64_Sym *s = &c.symbol[i];

        if (s->st_shndx == SHN_UNDEF || s->st_shndx >= c.nsections)
            continue;
        if (ELF64_ST_TYPE(s->st_info) == STT_FUNC && (s->st_other & SYM_ENTRY) != 0)
            kernel(&c, s);
        else if (ELF64_ST_TYPE(s->st_info) == STT_OBJECT)
            variable(&c, s);
    }
    sizes(&c);
}
