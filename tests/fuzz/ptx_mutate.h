/*
 * How libFuzzer changes PTX: most of the time word by word and statement by statement,
 * since text of which a byte has changed rarely gets past the reader.
 */
#ifndef PTX_MUTATE_H
#define PTX_MUTATE_H

#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
    __attribute__((weak));      /* libFuzzer's; a replaying program has none */

static const char *const mutate_words[] = {
    "!", "%clock64", "%d1", "%laneid", "%nctaid.x", "%p1", "%r1", "%tid.x", "(", ")",
    "+", ",", "-", "-1", "-2147483648", ".1d", ".2d", ".3d", ".NaN", ".a", ".a2d",
    ".acq_rel", ".acquire", ".add", ".align", ".aligned", ".all", ".and", ".any",
    ".approx", ".arrive", ".async", ".b", ".b0", ".b128", ".b16", ".b3", ".b32",
    ".b64", ".b8", ".ballot", ".bf16", ".bfly", ".branchtargets", ".c", ".ca",
    ".callprototype", ".calltargets", ".cas", ".cc", ".cg", ".clamp", ".col",
    ".commit_group", ".common", ".const", ".cs", ".cta", ".cube", ".cv", ".d", ".dec",
    ".down", ".entry", ".eq", ".equ", ".exch", ".extern", ".f16", ".f16x2", ".f32",
    ".f64", ".ftz", ".full", ".func", ".ge", ".geu", ".gl", ".global", ".gpu", ".gt",
    ".gtu", ".h1", ".hi", ".idx", ".inc", ".init", ".inval", ".l",
    ".launch_dependents", ".le", ".leu", ".level", ".lo", ".load", ".local", ".lt",
    ".ltu", ".lu", ".m16n16k16", ".m16n16k8", ".m8n8k4", ".max", ".maxntid",
    ".mbarrier", ".min", ".mma", ".nan", ".nc", ".ne", ".neu", ".noftz", ".noreturn",
    ".num", ".or", ".param", ".parity", ".popc", ".pragma", ".pred", ".red", ".reg",
    ".relaxed", ".release", ".relu", ".reqnctapercluster", ".reqntid", ".rm", ".rmi",
    ".rn", ".rna", ".rni", ".row", ".rp", ".rpi", ".rz", ".rzi", ".s16", ".s16x2",
    ".s32", ".s64", ".s8", ".samplerref", ".sat", ".sc", ".section", ".shared",
    ".shared::cluster", ".shiftamt", ".store", ".surfref", ".sync", ".sys",
    ".test_wait", ".tex", ".texref", ".tf32", ".to", ".trap", ".try_wait", ".u16",
    ".u16x2", ".u32", ".u64", ".u8", ".uni", ".up", ".v2", ".v4", ".v8", ".visible",
    ".volatile", ".wait", ".wait_group", ".warp", ".wb", ".weak", ".wide", ".wrap",
    ".wt", ".xor", ".zero", "0", "0d7FF0000000000000", "0f7F800000", "0fFFFFFFFF",
    "0x7fffffffffffffff", "1", "1.5", "18446744073709551615", "2147483647", "3", "31",
    "32", "33", "4294967295", "4294967296", "63", "64", "65535", "65536", "7",
    "9223372036854775807", ":", ";", "<", "=", ">", "@", "WARP_SZ", "[", "]", "_",
    "abs", "activemask", "add", "addc", "and", "atom", "bar", "barrier", "bfi",
    "bfind", "bmsk", "bra", "brev", "call", "clz", "copysign", "cos", "cp",
    "cudaCGGetIntrinsicHandle", "cvt", "cvta", "div", "dp4a", "ex2", "exit", "fence",
    "fma", "free", "generic", "griddepcontrol", "isspacep", "ld", "lg2", "mad", "madc",
    "malloc", "match", "max", "mbarrier", "membar", "min", "mov", "mul", "nanosleep",
    "neg", "not", "or", "pmevent", "popc", "prmt", "rcp", "red", "redux", "rem", "ret",
    "rsqrt", "sad", "selp", "set", "setp", "shf", "shfl", "shl", "shr", "sin", "sqrt",
    "st", "sub", "subc", "suld", "sust", "tanh", "tex", "trap", "vabsdiff4", "vote",
    "vprintf", "wmma", "xor", "{", "|", "}",
};

static uint64_t mutate_state;

static uint32_t
mutate_below(size_t limit)
{
    mutate_state ^= mutate_state << 13;
    mutate_state ^= mutate_state >> 7;
    mutate_state ^= mutate_state << 17;
    return limit != 0 ? (uint32_t)((mutate_state >> 16) % limit) : 0;
}

struct mutate_part {
    size_t at, size;
};

static bool
mutate_is_word(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_' || c == '%' || c == '$' || c == ':';
}

/* A word, with the dot before it, or one other character. */
static struct mutate_part
mutate_word(const uint8_t *data, size_t size)
{
    struct mutate_part part = { mutate_below(size), 1 };

    if (size == 0)
        return (struct mutate_part){ 0, 0 };
    while (part.at + 1 < size && (data[part.at] == ' ' || data[part.at] == '\n'))
        part.at++;
    if (!mutate_is_word(data[part.at]))
        return part;
    while (part.at > 0 && mutate_is_word(data[part.at - 1]))
        part.at--, part.size++;
    if (part.at > 0 && data[part.at - 1] == '.')
        part.at--, part.size++;
    while (part.at + part.size < size && mutate_is_word(data[part.at + part.size]))
        part.size++;
    return part;
}

/* What ends with the next semicolon. */
static struct mutate_part
mutate_statement(const uint8_t *data, size_t size)
{
    struct mutate_part part = { mutate_below(size), 0 };

    while (part.at > 0 && data[part.at - 1] != ';' && data[part.at - 1] != '\n')
        part.at--;
    while (part.at + part.size < size && data[part.at + part.size++] != ';')
        continue;
    return part;
}

/* Puts bytes in the place of a part; gives the new size. */
static size_t
mutate_put(uint8_t *data, size_t size, size_t max_size, struct mutate_part part,
           const void *bytes, size_t count)
{
    if (size - part.size + count > max_size)
        return size;
    memmove(data + part.at + count, data + part.at + part.size,
            size - part.at - part.size);
    memcpy(data + part.at, bytes, count);
    return size - part.size + count;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned int seed);
size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    uint8_t copy[512];
    struct mutate_part from, to;
    const char *word;

    mutate_state = seed * 0x9e3779b97f4a7c15 + 1;
    if (mutate_below(8) == 0 || size < 16)
        return LLVMFuzzerMutate(data, size, max_size);
    for (uint32_t round = 1 + mutate_below(4); round > 0; round--) {
        uint32_t kind = mutate_below(10);

        if (kind < 5) {
            to = mutate_word(data, size);
            to.size = mutate_below(6) != 0 ? to.size : 0;
            word = mutate_words[mutate_below(sizeof(mutate_words) / sizeof(char *))];
            size = mutate_put(data, size, max_size, to, word, strlen(word));
            continue;
        }
        from = kind < 8 ? mutate_word(data, size) : mutate_statement(data, size);
        if (from.size > sizeof(copy))
            continue;
        memcpy(copy, data + from.at, from.size);
        to = kind < 8 ? mutate_word(data, size) : mutate_statement(data, size);
        if (kind == 9)
            to.size = 0;        /* beside it, not instead of it */
        if (kind == 7)
            from.size = 0;      /* dropped */
        size = mutate_put(data, size, max_size, to, copy, from.size);
    }
    return size;
}

#endif
