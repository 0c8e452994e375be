/*
 * What a C test program is written with: each RUN() is a test in a process of its own,
 * with a time limit and a count of open descriptors. Exits 0, 1, or 77 (skipped).
 */
#ifndef CHECK_H
#define CHECK_H

#include <dirent.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHECK_SKIPPED = 77, CHECK_SECONDS = 120 };

#define CHECK(condition)                                                               \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* Integers of any kind; prints both. */
#define CHECK_EQ(left, right)                                                          \
    do {                                                                               \
        intmax_t left_value = (intmax_t)(left), right_value = (intmax_t)(right);       \
        if (left_value != right_value) {                                               \
            fprintf(stderr, "%s:%d: %s is %jd (0x%jx), %s is %jd (0x%jx)\n", __FILE__, \
                    __LINE__, #left, left_value, (uintmax_t)left_value, #right,        \
                    right_value, (uintmax_t)right_value);                              \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#define CHECK_STR(left, right)                                                         \
    do {                                                                               \
        const char *left_text = (left), *right_text = (right);                         \
        if (strcmp(left_text, right_text) != 0) {                                      \
            fprintf(stderr, "%s:%d: %s is \"%s\", %s is \"%s\"\n", __FILE__, __LINE__, \
                    #left, left_text, #right, right_text);                             \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#define CHECK_BYTES(left, right, size)                                                 \
    check_bytes((left), (right), (size), #left, #right, __FILE__, __LINE__)

static inline void
check_bytes(const void *left, const void *right, size_t size, const char *left_name,
            const char *right_name, const char *file, int line)
{
    const uint8_t *one = left, *other = right;

    for (size_t at = 0; at < size; at++) {
        if (one[at] == other[at])
            continue;
        fprintf(stderr, "%s:%d: byte %zu of %s is %02x, of %s %02x\n", file, line, at,
                left_name, one[at], right_name, other[at]);
        exit(1);
    }
}

#define CHECK_SKIP(reason)                                                             \
    do {                                                                               \
        fprintf(stderr, "%s\n", reason);                                               \
        exit(CHECK_SKIPPED);                                                           \
    } while (0)

/* The next of a row of numbers that a state, not 0, begins. */
static inline uint64_t
check_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline int
check_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;

    if (!dir)
        return 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static inline int
check_run(const char *name, void (*test)(void))
{
    int status = 0, before;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child < 0) {
        perror("fork");
        return 1;
    }
    if (child == 0) {
        alarm(CHECK_SECONDS);
        before = check_open_fds();
        test();
        CHECK_EQ(check_open_fds(), before);
        exit(0);
    }
    while (waitpid(child, &status, 0) < 0)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED) {
        fprintf(stderr, "%s: skipped\n", name);
        return 0;
    }
    if (WIFSIGNALED(status))
        fprintf(stderr, "%s: died of signal %d\n", name, WTERMSIG(status));
    else
        fprintf(stderr, "%s: exit %d\n", name, WEXITSTATUS(status));
    return 1;
}

/* int main(void) { int failed = 0; RUN(test_...); return failed; } */
#define RUN(test) (failed |= check_run(#test, (test)))

#endif
