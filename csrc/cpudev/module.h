/*
 * A loaded module: what the index pass over the PTX text found. Function bodies stay
 * text (a range of the module's copy) until a launch needs them.
 */
#ifndef FDCPU_MODULE_H
#define FDCPU_MODULE_H

#include <pthread.h>
#include <setjmp.h>

#include "engine.h"
#include "insn.h"
#include "lex.h"

/* Memory that is freed all at once. */
struct fdcpu_arena {
    struct fdcpu_chunk *chunks;
    size_t used, size;          /* of the first chunk */
};
/* Zeroed, aligned to 16; NULL when out of memory. */
void *fdcpu_arena_alloc(struct fdcpu_arena *arena, size_t size);
void fdcpu_arena_free(struct fdcpu_arena *arena);

enum fdcpu_linkage { LINK_NONE, LINK_VISIBLE, LINK_EXTERN, LINK_WEAK, LINK_COMMON };

struct fdcpu_formal {
    const char *name;
    uint32_t size, align, offset;
    enum fdcpu_type type;
    bool reg;                   /* declared .reg, not .param */
};

struct fdcpu_func {
    struct fdcpu_func_info info;
    struct fdcpu_module *module;
    const char *name;
    uint32_t number;            /* in the module; a function pointer holds it */
    uint32_t text;
    bool entry, defined, address_taken;
    bool machine;               /* of a cubin: known by its shape, never decoded */
    enum fdcpu_linkage linkage;
    const char *body, *body_end;
    uint32_t body_line;
    struct fdcpu_formal *params, *rets;
    uint32_t nparams, nrets;
    uint32_t formal_size;       /* parameters, then results, in a .func's local memory */
    struct fdcpu_program *prog; /* entries: decoded, or NULL; under the module's lock */
    int prog_result;            /* CUresult of decoding */
    char *prog_error;
    bool info_full;
};

enum fdcpu_vspace { VS_GLOBAL, VS_CONST, VS_SHARED };

struct fdcpu_gvar {
    struct fdcpu_var pub;
    enum fdcpu_vspace space;
    enum fdcpu_linkage linkage;
    enum fdcpu_type type;
    uint32_t text, align;
    bool dynamic;               /* extern shared x[] */
    bool announced;             /* its range is ours to withdraw */
    const char *init, *init_end;
    uint32_t init_line;
    uint8_t *bytes;             /* of a cubin: pub.size initial bytes, or NULL */
};

enum fdcpu_sym_kind { SYM_FUNC = 1, SYM_VAR };

struct fdcpu_sym {
    struct fdcpu_sym *next;
    const char *name;
    uint32_t text;              /* 0: known to all texts */
    enum fdcpu_sym_kind kind;
    uint32_t index;
};

struct fdcpu_module {
    struct fdcpu_arena arena;
    pthread_mutex_t lock;       /* decoding */
    struct fdcpu_allocator mem;
    uint64_t data;              /* block of all variables */
    struct fdcpu_func **func;
    uint32_t nfunc, cap_func;
    struct fdcpu_func **entry;
    uint32_t nentry;
    struct fdcpu_gvar **var;
    uint32_t nvar, cap_var;
    struct fdcpu_var **pub;     /* global and const only */
    uint32_t npub;
    struct fdcpu_sym **hash;
    uint32_t nhash, nsym;
    uint32_t const_size;
    bool func_addresses;        /* an initialiser or a body takes a function's address */
};

/* Where the reader is and how it gives up. */
struct fdcpu_reader {
    struct fdcpu_lex x;
    struct fdcpu_module *module;
    uint32_t text;              /* number of the text, from 1 */
    uint32_t version, target;
    jmp_buf fail;
    int result;
    char message[512];
};

/* Leaves through r->fail with a message "line N: ...". */
void fdcpu_fail(struct fdcpu_reader *r, int result, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
void fdcpu_expect(struct fdcpu_reader *r, char c);
bool fdcpu_accept(struct fdcpu_reader *r, char c);
void *fdcpu_alloc(struct fdcpu_reader *r, size_t size);
uint64_t fdcpu_integer(struct fdcpu_reader *r); /* constant with sign */
enum fdcpu_type fdcpu_type_token(struct fdcpu_reader *r);
/* "[8][4]" after a name: number of elements; *empty where a dimension is missing. */
uint64_t fdcpu_dims(struct fdcpu_reader *r, bool *empty);

/* parse.c */
void fdcpu_parse_text(struct fdcpu_reader *r);
/* The function or variable of this name, made if need be; linkage LINK_EXTERN then. */
struct fdcpu_func *fdcpu_func_slot(struct fdcpu_reader *r, const char *name,
                                   enum fdcpu_linkage linkage);
struct fdcpu_gvar *fdcpu_var_slot(struct fdcpu_reader *r, const char *name,
                                  enum fdcpu_linkage linkage);
/* The symbol that a text sees under this name, or NULL. */
struct fdcpu_sym *fdcpu_sym_find(struct fdcpu_module *m, uint32_t text, const char *name,
                                 size_t n);

/* cubin.c: takes the kernels and variables of machine code into the index. */
void fdcpu_parse_cubin(struct fdcpu_reader *r, const void *bytes, size_t size);

/* program.c: makes func->prog, once. Takes the module's lock. */
int fdcpu_program_get(struct fdcpu_func *func);
void fdcpu_program_free(struct fdcpu_program *prog);

#endif
