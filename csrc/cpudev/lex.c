/* Tokens of PTX text: one pass, no copies. */
#include "lex.h"

#include <stdlib.h>
#include <string.h>

enum { C_SPACE = 1, C_WORD = 2, C_FIRST = 4, C_DIGIT = 8 };

static inline unsigned
klass(char ch)
{
    unsigned char c = (unsigned char)ch;

    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%')
        return C_WORD | C_FIRST;
    if (c >= '0' && c <= '9')
        return C_WORD | C_DIGIT;
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v')
        return C_SPACE;
    return 0;
}

void
fdcpu_lex_init(struct fdcpu_lex *x, const char *p, const char *end, uint32_t line)
{
    memset(x, 0, sizeof(*x));
    x->p = p;
    x->end = end;
    x->line = x->next_line = line;
}

/* Moves past blanks and comments. */
static void
skip_blank(struct fdcpu_lex *x)
{
    const char *p = x->p;

    for (;;) {
        while (p < x->end && (klass(*p) & C_SPACE))
            x->next_line += *p++ == '\n';
        if (p + 1 < x->end && p[0] == '/' && p[1] == '/') {
            while (p < x->end && *p != '\n')
                p++;
        } else if (p + 1 < x->end && p[0] == '/' && p[1] == '*') {
            for (p += 2; p < x->end; p++) {
                x->next_line += *p == '\n';
                if (p[0] == '*' && p + 1 < x->end && p[1] == '/') {
                    p += 2;
                    break;
                }
            }
        } else {
            break;
        }
    }
    x->p = p;
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

static void
lex_number(struct fdcpu_lex *x)
{
    const char *p = x->p;
    char buf[64];
    unsigned base = 10, n;

    x->kind = TOK_INT;
    x->num = 0;
    if (*p == '0' && p + 1 < x->end) {
        char c = p[1];
        unsigned digits = c == 'f' || c == 'F' ? 8 : c == 'd' || c == 'D' ? 16 : 0;

        if (digits && p + 2 + digits <= x->end && hex_digit(p[2]) < 16) {
            x->kind = digits == 8 ? TOK_F32 : TOK_F64;
            for (n = 0; n < digits; n++)
                x->num = x->num << 4 | (unsigned)(hex_digit(p[2 + n]) & 15);
            x->p = p + 2 + digits;
            return;
        }
        if (c == 'x' || c == 'X')
            base = 16, p += 2;
        else if (c == 'b' || c == 'B')
            base = 2, p += 2;
        else if (c >= '0' && c <= '7')
            base = 8, p += 1;
    }
    if (base == 10) {
        const char *q = p;

        while (q < x->end && hex_digit(*q) < 10)
            q++;
        if (q < x->end && (*q == '.' || *q == 'e' || *q == 'E') &&
            (*q != '.' || (q + 1 < x->end && hex_digit(q[1]) < 10))) {
            double v;

            while (q < x->end && (hex_digit(*q) < 10 || *q == '.' || *q == 'e' || *q == 'E' ||
                                  ((*q == '+' || *q == '-') && (q[-1] | 32) == 'e')))
                q++;
            n = (unsigned)(q - p) < sizeof(buf) - 1 ? (unsigned)(q - p) : sizeof(buf) - 1;
            memcpy(buf, p, n);
            buf[n] = 0;
            v = strtod(buf, NULL);
            memcpy(&x->num, &v, 8);
            x->kind = TOK_F64;
            x->p = q;
            return;
        }
    }
    while (p < x->end && (unsigned)hex_digit(*p) < base)
        x->num = x->num * base + (unsigned)hex_digit(*p++);
    if (p < x->end && *p == 'U')
        p++;
    x->p = p;
}

void
fdcpu_lex_next(struct fdcpu_lex *x)
{
    const char *p;

    skip_blank(x);
    x->line = x->next_line;
    x->c = 0;
    p = x->s = x->p;
    if (p >= x->end) {
        x->kind = TOK_END;
        x->n = 0;
        return;
    }
    if (klass(*p) & C_FIRST) {
        do
            p++;
        while (p < x->end && (klass(*p) & C_WORD));
        x->kind = TOK_WORD;
    } else if (*p == '.' && p + 1 < x->end && (klass(p[1]) & C_WORD)) {
        do {
            p++;
            if (p + 2 < x->end && p[0] == ':' && p[1] == ':' && (klass(p[2]) & C_WORD))
                p += 2;
        } while (p < x->end && (klass(*p) & C_WORD));
        x->kind = TOK_DOT;
    } else if (klass(*p) & C_DIGIT) {
        lex_number(x);
        p = x->p;
    } else if (*p == '"') {
        for (p++; p < x->end && *p != '"' && *p != '\n'; p++)
            if (*p == '\\' && p + 1 < x->end)
                p++;
        x->kind = p < x->end && *p == '"' ? TOK_STR : TOK_BAD;
        x->s++;
        x->n = (uint32_t)(p - x->s);
        x->p = p < x->end ? p + 1 : p;
        return;
    } else {
        x->kind = (unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e ? TOK_BAD : TOK_PUNCT;
        x->c = *p++;
    }
    x->p = p;
    x->n = (uint32_t)(p - x->s);
}

bool
fdcpu_lex_skip_block(struct fdcpu_lex *x)
{
    const char *p = x->p;
    unsigned depth = 1;

    for (; p < x->end; p++) {
        switch (*p) {
        case '\n':
            x->next_line++;
            break;
        case '{':
            depth++;
            break;
        case '}':
            if (--depth == 0) {
                x->p = p + 1;
                return true;
            }
            break;
        case '"':
            for (p++; p < x->end && *p != '"' && *p != '\n'; p++)
                if (*p == '\\')
                    p++;
            if (p < x->end && *p == '\n')
                x->next_line++;
            break;
        case '/':
            if (p + 1 < x->end && (p[1] == '/' || p[1] == '*')) {
                x->p = p;
                skip_blank(x);
                p = x->p - 1;
            }
            break;
        default:
            break;
        }
    }
    x->p = x->end;
    return false;
}

bool
fdcpu_lex_is(const struct fdcpu_lex *x, const char *word)
{
    return x->n == strlen(word) && !memcmp(x->s, word, x->n);
}
