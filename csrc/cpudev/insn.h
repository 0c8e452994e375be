/*
 * Typed bytecode: what the decoder makes and the handlers run.
 *
 * A register file is one block of memory a frame: guard masks first, then slots of 32
 * lanes. Operands are byte offsets into it, so a handler needs no table. Before
 * register allocation the same fields hold virtual register numbers.
 */
#ifndef FDCPU_INSN_H
#define FDCPU_INSN_H

#include <stdbool.h>
#include <stdint.h>

#define FDCPU_LANES 32
#define FDCPU_SLOT (FDCPU_LANES * 4)        /* bytes of a 32-bit register */
#define FDCPU_FULL 0xffffffffu

struct fdcpu_exec;
struct fdcpu_insn;

/* m: lanes of the split; r: register file of the frame. Ends by running the next one. */
typedef void fdcpu_handler(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m,
                           char *r);

struct fdcpu_insn {
    fdcpu_handler *fn;
    uint32_t pred;              /* offset of the guard mask, lowest bit: negated */
    uint32_t line;              /* in the PTX text */
    uint32_t d, a, b, c;
    int64_t imm;
    uint32_t aux;               /* meaning by op */
    uint32_t ext;               /* first of n entries in the code's ext[] */
    uint16_t op;
    uint16_t n;
    uint32_t aux2;
};

/* Operands beyond d, a, b, c: vectors, call arguments, matrix fragments. */
struct fdcpu_ext {
    uint32_t reg;               /* register, or offset in the frame's memory */
    uint32_t size;              /* for arguments in memory */
    char cls;                   /* as in a signature: w l q p, upper case: written */
};

/* PTX types, and what register class each has. */
enum fdcpu_type {
    T_NONE, T_B8, T_U8, T_S8, T_B16, T_U16, T_S16, T_B32, T_U32, T_S32, T_B64, T_U64,
    T_S64, T_F16, T_F16X2, T_BF16, T_BF16X2, T_TF32, T_F32, T_F64, T_PRED, T_B128,
    T_E4M3, T_E5M2, T_E4M3X2, T_E5M2X2, T_UE8M0X2, T_E2M1X2, T_E2M3X2, T_E3M2X2,
    T_F32X2, T_U16X2, T_S16X2, T_OPAQUE, T_COUNT
};

unsigned fdcpu_type_size(enum fdcpu_type t);
bool fdcpu_type_signed(enum fdcpu_type t);
bool fdcpu_type_float(enum fdcpu_type t);
/* Type of the modifier s (without its dot) of n characters, or T_NONE. */
enum fdcpu_type fdcpu_type_find(const char *s, unsigned n);

enum fdcpu_op {
#define FDCPU_OP(name, sig, forms) OP_##name,
#include "ops_all.h"
#undef FDCPU_OP
    OP_COUNT
};

struct fdcpu_opinfo {
    const char *name;
    const char *sig;            /* d a b c: w l q p or -, upper case: written; m: address */
    const char *forms;          /* PTX forms, separated by blanks */
};
extern const struct fdcpu_opinfo fdcpu_ops[OP_COUNT];

/* Handler of each op for this machine; fdcpu_ops_init() chooses the ISA, once. */
extern fdcpu_handler *fdcpu_handlers[OP_COUNT];
void fdcpu_ops_init(void);
/* The op for a whole PTX form ("add.rn.f32"), or -1. */
int fdcpu_form_find(const char *form, unsigned n);

/* Registers that the scheduler fills in. */
enum fdcpu_special {
    SR_TID_X, SR_TID_Y, SR_TID_Z, SR_NTID_X, SR_NTID_Y, SR_NTID_Z, SR_CTAID_X, SR_CTAID_Y,
    SR_CTAID_Z, SR_NCTAID_X, SR_NCTAID_Y, SR_NCTAID_Z, SR_LANEID, SR_WARPID, SR_NWARPID,
    SR_SMID, SR_NSMID, SR_GRIDID, SR_LANEMASK_EQ, SR_LANEMASK_LE, SR_LANEMASK_LT,
    SR_LANEMASK_GE, SR_LANEMASK_GT, SR_ENVREG1, SR_ENVREG2, SR_DYNAMIC_SMEM, SR_TOTAL_SMEM,
    SR_CLUSTERID_X, SR_CLUSTERID_Y, SR_CLUSTERID_Z, SR_NCLUSTERID_X, SR_NCLUSTERID_Y,
    SR_NCLUSTERID_Z, SR_ONE, SR_ZERO, SR_COUNT
};

struct fdcpu_const {
    uint32_t off;               /* in the register file */
    uint8_t size;               /* 4 or 8 */
    uint64_t value;
};

/* One function, ready to run. */
struct fdcpu_code {
    const struct fdcpu_func *func;
    struct fdcpu_program *prog;
    uint32_t index;             /* in the program */
    struct fdcpu_insn *insn;
    uint32_t ninsn;
    struct fdcpu_ext *ext;
    uint32_t next_ext;
    struct fdcpu_const *consts;
    uint32_t nconsts;
    uint32_t special[SR_COUNT]; /* offset or 0 */
    uint32_t file_size;         /* bytes of a register file */
    uint32_t nslots;
    uint32_t local_size;        /* bytes a lane: parameters, locals, call parameters */
    uint32_t *table;            /* branch tables: instruction indices */
    uint32_t ntable;
};

/* An entry with everything that it can call. */
struct fdcpu_program {
    struct fdcpu_module *module;
    struct fdcpu_code **code;   /* by function number in the module; [entry] is first run */
    uint32_t ncode;
    struct fdcpu_code *entry;
    uint32_t static_shared;
    uint32_t dynamic_at;        /* where dynamic shared memory begins */
    bool indirect;              /* has indirect calls */
    bool uses_grid;             /* reads %envreg1/2 */
};

/* How the scheduler is told why a split stopped. */
enum fdcpu_why {
    WHY_CONT,                   /* only where tail calls are off */
    WHY_MERGE, WHY_YIELD, WHY_DIVERGE, WHY_EXIT, WHY_RET, WHY_CALL, WHY_BAR, WHY_SYNC,
    WHY_SWITCH, WHY_INDEXED, WHY_FAULT
};

/* Address windows: above what mmap gives. */
#define FDCPU_WIN_SHARED 0x0001000000000000ull
#define FDCPU_WIN_LOCAL 0x0001000100000000ull
#define FDCPU_WIN_PARAM 0x0001000200000000ull
#define FDCPU_WIN_FUNC 0x0001000300000000ull
#define FDCPU_WIN_END 0x0001000400000000ull

/* Memory instructions: insn.aux. */
enum {
    MEM_TYPE = 0x3f,            /* enum fdcpu_type of one element */
    MEM_A32 = 0x40,             /* the address register is 32 bits wide */
    MEM_FRAME = 0x80,           /* address is relative to the frame's local memory */
    MEM_ACQUIRE = 0x100, MEM_RELEASE = 0x200, MEM_VOLATILE = 0x400,
    MEM_SPACE = 0x7000, MEM_SPACE_SHIFT = 12,
};
enum { SP_GENERIC, SP_GLOBAL, SP_SHARED, SP_LOCAL, SP_PARAM, SP_CONST };

#endif
