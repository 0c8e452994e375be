/* Tables made from ops.def, types, and the choice of the ISA. */
#include "vm.h"

#include <stdlib.h>
#include <string.h>

const struct fdcpu_opinfo fdcpu_ops[OP_COUNT] = {
#define FDCPU_OP(name, sig, forms) { #name, sig, forms },
#include "ops_all.h"
#undef FDCPU_OP
};

fdcpu_handler *fdcpu_handlers[OP_COUNT];

/* Handlers compiled once, by name. */
#define HAND(name, sig, forms)
#define SLOW(name, sig, forms) FDCPU_HANDLER(fdcpu_op_##name);
#define FDCPU_OP(name, sig, forms)
#include "ops_all.h"
#undef FDCPU_OP

static fdcpu_handler *const slow[OP_COUNT] = {
#define HAND(name, sig, forms)
#define SLOW(name, sig, forms) [OP_##name] = fdcpu_op_##name,
#define FDCPU_OP(name, sig, forms)
#include "ops_all.h"
#undef FDCPU_OP
};

#if defined(__x86_64__)
extern fdcpu_handler *const fdcpu_table_v2[OP_COUNT];
extern fdcpu_handler *const fdcpu_table_v3[OP_COUNT];
extern fdcpu_handler *const fdcpu_table_v4[OP_COUNT];
#else
extern fdcpu_handler *const fdcpu_table_plain[OP_COUNT];
#endif

/* ---- forms ---- */

enum { FORM_HASH = 4096 };
static struct form {
    const char *s;
    uint32_t n;
    uint16_t op, used;
} forms[FORM_HASH];

static uint32_t
hash_form(const char *s, unsigned n)
{
    uint32_t h = 2166136261u;

    for (unsigned k = 0; k < n; k++)
        h = (h ^ (unsigned char)s[k]) * 16777619u;
    return (h ^ h >> 15) & (FORM_HASH - 1);
}

static void
add_forms(uint16_t op, const char *list)
{
    while (*list) {
        const char *end = strchr(list, ' ');
        unsigned n = end ? (unsigned)(end - list) : (unsigned)strlen(list);
        uint32_t h = hash_form(list, n);

        if (n) {
            while (forms[h].used)
                h = (h + 1) & (FORM_HASH - 1);
            forms[h] = (struct form){ list, n, op, 1 };
        }
        list += n + (end != NULL);
    }
}

int
fdcpu_form_find(const char *form, unsigned n)
{
    uint32_t h = hash_form(form, n);

    for (; forms[h].used; h = (h + 1) & (FORM_HASH - 1))
        if (forms[h].n == n && !memcmp(forms[h].s, form, n))
            return forms[h].op;
    return -1;
}

static void
init(void)
{
    fdcpu_handler *const *fast;

#if defined(__x86_64__)
    const char *want = getenv("FD_CPU_ISA");
    int isa = 2;

    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c"))
        isa = 3;
    if (isa == 3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd"))
        isa = 4;
    if (want && want[0] == 'v' && want[1] >= '2' && want[1] - '0' < isa)
        isa = want[1] - '0';
    fast = isa == 4 ? fdcpu_table_v4 : isa == 3 ? fdcpu_table_v3 : fdcpu_table_v2;
#else
    fast = fdcpu_table_plain;
#endif
    for (int op = 0; op < OP_COUNT; op++) {
        fdcpu_handlers[op] = fast[op] ? fast[op] : slow[op];
        add_forms((uint16_t)op, fdcpu_ops[op].forms);
    }
}

void
fdcpu_ops_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init);
}

/* ---- types ---- */

static const struct {
    const char *name;
    uint8_t size, sign, flt;
} types[T_COUNT] = {
    [T_NONE] = { "", 4, 0, 0 },
    [T_B8] = { "b8", 1, 0, 0 }, [T_U8] = { "u8", 1, 0, 0 }, [T_S8] = { "s8", 1, 1, 0 },
    [T_B16] = { "b16", 2, 0, 0 }, [T_U16] = { "u16", 2, 0, 0 }, [T_S16] = { "s16", 2, 1, 0 },
    [T_B32] = { "b32", 4, 0, 0 }, [T_U32] = { "u32", 4, 0, 0 }, [T_S32] = { "s32", 4, 1, 0 },
    [T_B64] = { "b64", 8, 0, 0 }, [T_U64] = { "u64", 8, 0, 0 }, [T_S64] = { "s64", 8, 1, 0 },
    [T_F16] = { "f16", 2, 0, 1 }, [T_F16X2] = { "f16x2", 4, 0, 1 },
    [T_BF16] = { "bf16", 2, 0, 1 }, [T_BF16X2] = { "bf16x2", 4, 0, 1 },
    [T_TF32] = { "tf32", 4, 0, 1 }, [T_F32] = { "f32", 4, 0, 1 }, [T_F64] = { "f64", 8, 0, 1 },
    [T_PRED] = { "pred", 1, 0, 0 }, [T_B128] = { "b128", 16, 0, 0 },
    [T_E4M3] = { "e4m3", 1, 0, 1 }, [T_E5M2] = { "e5m2", 1, 0, 1 },
    [T_E4M3X2] = { "e4m3x2", 2, 0, 1 }, [T_E5M2X2] = { "e5m2x2", 2, 0, 1 },
    [T_UE8M0X2] = { "ue8m0x2", 2, 0, 1 }, [T_E2M1X2] = { "e2m1x2", 1, 0, 1 },
    [T_E2M3X2] = { "e2m3x2", 2, 0, 1 }, [T_E3M2X2] = { "e3m2x2", 2, 0, 1 },
    [T_F32X2] = { "f32x2", 8, 0, 1 }, [T_U16X2] = { "u16x2", 4, 0, 0 },
    [T_S16X2] = { "s16x2", 4, 1, 0 }, [T_OPAQUE] = { "\001", 8, 0, 0 },
};

unsigned
fdcpu_type_size(enum fdcpu_type t)
{
    return types[t].size;
}

bool
fdcpu_type_signed(enum fdcpu_type t)
{
    return types[t].sign;
}

bool
fdcpu_type_float(enum fdcpu_type t)
{
    return types[t].flt;
}

enum fdcpu_type
fdcpu_type_find(const char *s, unsigned n)
{
    /* all begin with one of these letters; most modifiers do not */
    if (n < 2 || n > 7 || !strchr("busfpte", *s))
        return T_NONE;
    for (int t = T_NONE + 1; t < T_COUNT; t++)
        if (!strncmp(types[t].name, s, n) && !types[t].name[n])
            return (enum fdcpu_type)t;
    return T_NONE;
}

/* ---- lane bits ---- */

#define ROW4(t, n) (t)1 << (n), (t)1 << ((n) + 1), (t)1 << ((n) + 2), (t)1 << ((n) + 3)
#define ROW32(t)                                                                             \
    ROW4(t, 0), ROW4(t, 4), ROW4(t, 8), ROW4(t, 12), ROW4(t, 16), ROW4(t, 20), ROW4(t, 24), \
        ROW4(t, 28)
const uint32_t fdcpu_bit[FDCPU_LANES] __attribute__((aligned(128))) = { ROW32(uint32_t) };
const uint64_t fdcpu_bit64[FDCPU_LANES] __attribute__((aligned(128))) = { ROW32(uint64_t) };
