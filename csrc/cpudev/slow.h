/* Selectors in insn.aux of the handlers that are written by hand. */
#ifndef FDCPU_SLOW_H
#define FDCPU_SLOW_H

enum { CARRY_SUB = 1, CARRY_IN = 2, CARRY_OUT = 4 };

enum { RND_RN, RND_RZ, RND_RM, RND_RP, RND_RNA, RND_NONE, RND_RS };

/* round32, round64: aux = operation | mode << 4 | flags */
enum { ROUND_ADD, ROUND_SUB, ROUND_MUL, ROUND_FMA, ROUND_DIV, ROUND_RCP, ROUND_SQRT };
enum { ROUND_FTZ = 0x100 };

/* cvt: aux = dst type | src type << 6 | rounding << 12 | flags */
enum {
    CVT_INT = 1 << 16,          /* round to an integer in a float */
    CVT_SAT = 1 << 17, CVT_FTZ = 1 << 18, CVT_RELU = 1 << 19, CVT_SATFINITE = 1 << 20,
};

enum { TESTP_FINITE, TESTP_INFINITE, TESTP_NUMBER, TESTP_NAN, TESTP_NORMAL, TESTP_SUBNORMAL };

/* video: aux = op | types; aux2 selectors; see exec_slow.c */
enum {
    VIDEO_ADD, VIDEO_SUB, VIDEO_ABSDIFF, VIDEO_MIN, VIDEO_MAX, VIDEO_SHL, VIDEO_SHR,
    VIDEO_SET, VIDEO_MAD, VIDEO_AVRG,
    VIDEO_OP = 0xf,
    VIDEO_DS = 0x10, VIDEO_AS = 0x20, VIDEO_BS = 0x40,  /* signed */
    VIDEO_SAT = 0x80,
    VIDEO_LANES_SHIFT = 8,      /* 1, 2 or 4 elements */
    VIDEO_MERGE_SHIFT = 12,     /* 0 none, 1 add, 2 min, 3 max, 4 merge into a part */
    VIDEO_WRAP = 1 << 16, VIDEO_CMP_SHIFT = 17, /* CMP_* */
    VIDEO_PO = 1 << 20, VIDEO_SHR7 = 1 << 21, VIDEO_SHR15 = 1 << 22,
};

enum { CMP_EQ, CMP_NE, CMP_LT, CMP_LE, CMP_GT, CMP_GE };

/* atom, red: aux2 = operation | type << 8 | flags */
enum {
    ATOM_ADD, ATOM_MIN, ATOM_MAX, ATOM_AND, ATOM_OR, ATOM_XOR, ATOM_INC, ATOM_DEC, ATOM_EXCH,
    ATOM_CAS,
    ATOM_RED = 1 << 16,
};

enum { SHFL_UP, SHFL_DOWN, SHFL_BFLY, SHFL_IDX };
enum { VOTE_ALL, VOTE_ANY, VOTE_UNI, VOTE_BALLOT };
enum { BAR_SYNC, BAR_ARRIVE, BAR_RED_POPC, BAR_RED_AND, BAR_RED_OR };

enum {
    MBAR_INIT, MBAR_INVAL, MBAR_ARRIVE, MBAR_ARRIVE_DROP, MBAR_TEST_WAIT, MBAR_TRY_WAIT,
    MBAR_PENDING, MBAR_EXPECT_TX, MBAR_COMPLETE_TX,
    MBAR_PARITY = 0x10, MBAR_NOCOMPLETE = 0x20, MBAR_EXPECT = 0x40, MBAR_SINK = 0x80,
};

#endif
