/*
 * What the fuzzing programs share. Each target is one file that defines
 * LLVMFuzzerTestOneInput(); libFuzzer drives it (make TARGET=...), and so does replay.c,
 * which hands over files one by one.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property of the code under test does not hold. */
#define FUZZ_CHECK(condition)                                                          \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);            \
            abort();                                                                   \
        }                                                                              \
    } while (0)

/* Values read off the front of an input; zeroes behind its end. */
struct fuzz_bytes {
    const uint8_t *at;
    size_t left;
};

static inline uint64_t
fuzz_take(struct fuzz_bytes *bytes, size_t size)
{
    uint64_t value = 0;

    if (size > bytes->left)
        size = bytes->left;
    if (size != 0)
        memcpy(&value, bytes->at, size);
    bytes->at += size;
    bytes->left -= size;
    return value;
}

#endif
