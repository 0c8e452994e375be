/* Tokens of PTX text. No memory of its own: tokens point into the text. */
#ifndef FDCPU_LEX_H
#define FDCPU_LEX_H

#include <stdbool.h>
#include <stdint.h>

enum fdcpu_tok {
    TOK_END,
    TOK_WORD,                   /* name, register, opcode's first word */
    TOK_DOT,                    /* .word, the dot included */
    TOK_INT, TOK_F32, TOK_F64,  /* num holds the bits */
    TOK_STR,                    /* s, n: between the quotes, escapes as written */
    TOK_PUNCT,                  /* c */
    TOK_BAD,
};

struct fdcpu_lex {
    const char *p, *end;        /* what is left */
    uint32_t line;              /* of the token */
    enum fdcpu_tok kind;
    const char *s;
    uint32_t n;
    char c;                     /* the character of TOK_PUNCT, else 0 */
    uint64_t num;
    uint32_t next_line;
};

void fdcpu_lex_init(struct fdcpu_lex *x, const char *p, const char *end, uint32_t line);
/* Reads the next token into *x. */
void fdcpu_lex_next(struct fdcpu_lex *x);
/* With x->c == '{': moves past the matching brace. False when there is none. */
bool fdcpu_lex_skip_block(struct fdcpu_lex *x);
bool fdcpu_lex_is(const struct fdcpu_lex *x, const char *word);

#endif
