/*
 * Decoding of one function body: names in scopes, virtual registers, emitted
 * instructions. decode.c reads statements; decode_alu.c and decode_mem.c know opcodes;
 * program.c puts functions together.
 */
#ifndef FDCPU_DECODE_H
#define FDCPU_DECODE_H

#include "module.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_OPERANDS = 8, MAX_MODS = 20, MAX_VEC = 64 };
enum { MAX_REGS = 1 << 20, MAX_INSNS = 1 << 22, MAX_FRAME = 512 << 10, MAX_SHARED = 1 << 20 };

struct dec_vreg {
    char cls;                   /* w l q p */
    bool fixed;                 /* constant or special: its slot is its own */
    uint32_t off;               /* after allocation */
};

enum name_kind { N_REG, N_REGS, N_LOCAL, N_SHARED, N_FRAME, N_PARAM, N_TARGETS, N_PROTO };

struct dec_name {
    struct dec_name *next, *scope_next;
    const char *s;
    uint32_t n;
    enum name_kind kind;
    enum fdcpu_type type;
    uint32_t index;             /* vreg, first vreg, offset, first table entry */
    uint32_t count;             /* registers, table entries */
    uint32_t size;
};

struct dec_scope {
    struct dec_scope *up;
    struct dec_name *names;
    uint32_t id;
};

struct dec_label {
    uint32_t scope, n, at;      /* at: instruction */
    const char *s;
    struct dec_label *next;
};

struct dec_ref {                /* to a label, from an instruction or a table */
    uint32_t insn, table;       /* table: index + 1, or 0 */
    uint32_t scope, line, n;
    const char *s;
};

enum opnd_kind { O_NONE, O_REG, O_IMM, O_SYM, O_ADDR, O_VEC, O_SINK, O_WORD };

struct opnd {
    enum opnd_kind kind;
    enum fdcpu_type type;       /* of the register as declared */
    bool neg;                   /* !p */
    uint32_t reg;
    uint32_t pair;              /* q of p|q, or 0 */
    bool has_pair;
    enum fdcpu_tok imm_kind;
    uint64_t imm;               /* value, or offset from base */
    struct dec_name *name;      /* O_SYM, or O_ADDR with a symbol */
    struct fdcpu_sym *sym;
    const char *s;              /* the word */
    uint32_t n;
    struct opnd *vec;
    uint32_t nvec;
    char sel;                   /* selector of video instructions: "b0".."h1" packed */
};

struct dec_const {
    uint64_t value;
    uint32_t vreg;
    uint8_t size, kind;         /* kind: enum below */
    int next;
};
enum { K_PLAIN, K_DYNAMIC };    /* K_DYNAMIC: + end of static shared memory */

/* What the functions of one program share while it is made. */
struct dec_program {
    uint32_t *shared_at;        /* offset + 1 by variable number */
    uint32_t shared_size;
    uint32_t dynamic_align;
    uint8_t *wanted;            /* by function number */
    uint32_t *queue, nqueue;
    bool indirect, grid;        /* calls through pointers; meets its whole grid */
};

struct dec {
    struct fdcpu_reader r;      /* first: fdcpu_fail takes it */
    struct fdcpu_func *func;
    struct fdcpu_program *prog;
    struct dec_program *build;
    struct fdcpu_arena arena;   /* for names and operands: gone after decoding */
    struct dec_vreg *vreg;
    uint32_t nvreg, cap_vreg;
    struct fdcpu_insn *insn;
    uint32_t ninsn, cap_insn;
    struct fdcpu_ext *ext;
    uint32_t next, cap_ext;
    struct dec_const *consts;
    uint32_t nconst, cap_const;
    int const_hash[256];
    uint32_t special[SR_COUNT]; /* vreg or 0 */
    struct dec_name *names[256];
    struct dec_scope *scope;
    uint32_t *scope_up;         /* parent by scope id */
    uint32_t nscope, cap_scope;
    struct dec_label **labels;
    uint32_t nlabels;
    struct dec_ref *refs;
    uint32_t nrefs, cap_refs;
    uint32_t *table;
    uint32_t ntable, cap_table;
    uint32_t frame_size;
    uint32_t carry;             /* vreg of the carry mask, or 0 */
    /* the statement */
    uint32_t guard;             /* vreg << 1 | negated */
    uint32_t line;
    const char *form;           /* whole opcode */
    uint32_t form_n, base_n;
    struct { const char *s; uint32_t n; } mod[MAX_MODS];
    uint32_t nmod;
    struct opnd op[MAX_OPERANDS];
    uint32_t nop;
    struct { uint32_t real, tmp; bool sign; } fix[MAX_VEC];
    uint32_t nfix;
};

enum { V_TRUE = 0, V_FALSE = 1 };       /* vregs that always exist */

#define DEC_FAIL(d, ...) fdcpu_fail(&(d)->r, 218, __VA_ARGS__)

void *dec_alloc(struct dec *d, size_t size);
/* Makes room for one more element of a growing array. */
#define DEC_GROW(d, list, n, cap)                                                            \
    do {                                                                                     \
        if ((n) >= (cap)) {                                                                  \
            uint32_t cap_ = (cap) ? (cap) * 2 : 64;                                          \
            void *new_ = realloc((list), cap_ * sizeof(*(list)));                            \
            if (!new_)                                                                       \
                fdcpu_fail(&(d)->r, 2, "out of memory");                                     \
            (list) = new_;                                                                   \
            (cap) = cap_;                                                                    \
        }                                                                                    \
    } while (0)

/* decode_emit.c */
uint32_t dec_vreg(struct dec *d, char cls);
uint32_t dec_const(struct dec *d, uint64_t value, char cls, uint8_t kind);
uint32_t dec_special(struct dec *d, enum fdcpu_special sr);
struct fdcpu_insn *dec_emit(struct dec *d, enum fdcpu_op op, uint32_t dst, uint32_t a,
                            uint32_t b, uint32_t c);
uint32_t dec_ext(struct dec *d, uint32_t reg, char cls, uint32_t size);
/* Whether these n characters are the word; whether it is among the modifiers. */
static inline bool
dec_is(const char *s, size_t n, const char *word)
{
    return strlen(word) == n && !memcmp(s, word, n);
}
bool dec_mod(const struct dec *d, const char *s);
/* The from_end-th type among the modifiers, counted from the last (0). */
enum fdcpu_type dec_type(const struct dec *d, uint32_t from_end);
char dec_class(enum fdcpu_type t);
/* Operands as virtual registers of a class; dec_dst needs dec_finish afterwards. */
uint32_t dec_src(struct dec *d, const struct opnd *o, char cls, enum fdcpu_type t);
uint32_t dec_pred(struct dec *d, const struct opnd *o);
uint32_t dec_dst(struct dec *d, const struct opnd *o, char cls, bool sign);
void dec_finish(struct dec *d);
void dec_need(struct dec *d, uint32_t lo, uint32_t hi);
/* The instruction becomes a fault for whoever reaches it. */
void dec_unsupported(struct dec *d);
/* The address of a variable or function as a 64-bit register. */
uint32_t dec_symbol(struct dec *d, const struct opnd *o, uint64_t add);
/* An instruction whose operands are just those of the op's signature, in order. */
void dec_simple(struct dec *d, enum fdcpu_op op);

/* decode_name.c */
struct dec_name *dec_declare(struct dec *d, const char *s, uint32_t n, enum name_kind kind);
struct dec_name *dec_find(struct dec *d, const char *s, uint32_t n);
/* A register by name: "%r12" of "%r<20>", or one declared by itself. False: unknown. */
bool dec_find_reg(struct dec *d, const char *s, uint32_t n, uint32_t *reg,
                  enum fdcpu_type *type);
void dec_open_scope(struct dec *d);
void dec_close_scope(struct dec *d);
void dec_label(struct dec *d, const char *s, uint32_t n);
void dec_label_ref(struct dec *d, const struct opnd *o, uint32_t insn, uint32_t table);
void dec_resolve_labels(struct dec *d);

/* decode_opnd.c */
void dec_operand(struct dec *d, struct opnd *o);
/* A word: register, special register, variable, or a label or function for later. */
void dec_word(struct dec *d, struct opnd *o);

/* program.c */
uint32_t dec_shared_var(struct dec *d, uint32_t var);   /* its offset, or UINT32_MAX: dynamic */
uint32_t dec_shared_take(struct dec *d, uint64_t size, uint32_t align);
void dec_want(struct dec *d, uint32_t func);            /* it becomes part of the program */
void dec_code_free(struct fdcpu_code *code);
/* Decodes one function. Returns 0 or a CUresult with a message. (decode.c) */
int dec_function(struct fdcpu_program *prog, struct dec_program *build, struct fdcpu_func *f,
                 struct fdcpu_code **out, char *message, size_t size);

/* One opcode: true when done, false: not one of mine. */
typedef bool dec_lower(struct dec *d);
struct dec_entry { const char *name; dec_lower *lower; };
dec_lower *dec_find_alu(const char *s, uint32_t n);
dec_lower *dec_find_mem(const char *s, uint32_t n);
bool dec_arith(struct dec *d);

/* ralloc.c: gives every virtual register its place and fills in the code. */
void dec_allocate(struct dec *d, struct fdcpu_code *code);

#endif
