/*
 * A live session whose pulse is taken: for each line "MS" it makes synchronous calls for
 * so many milliseconds, one every 200 us at most, and answers with a line
 *
 *   calls median_ns p99_ns longest_ns
 *
 * A call is a copy of four bytes to the host, checked against what they were set to.
 */
#include <stdint.h>
#include <time.h>

#include "session.h"

enum { MOST = 1 << 20, EVERY_NS = 200000 };

static uint64_t took[MOST];

static uint64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int
compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static uint32_t
measure(CUdeviceptr memory, uint32_t expected, uint64_t until)
{
    uint64_t begun, next = now_ns();
    uint32_t value, count = 0;
    struct timespec pause;

    while (count < MOST && (begun = now_ns()) < until) {
        value = ~expected;
        check(cuMemcpyDtoH_v2(&value, memory, 4), "cuMemcpyDtoH");
        took[count++] = now_ns() - begun;
        if (value != expected)
            exit(3);
        next += EVERY_NS;
        if (next > begun + EVERY_NS)
            next = begun + EVERY_NS;
        pause = (struct timespec){(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &pause, NULL);
    }
    qsort(took, count, sizeof(took[0]), compare);
    return count;
}

int
main(void)
{
    CUdeviceptr memory = begin(4096);
    uint32_t count, value = 0xfdc0ffee;
    char line[32];

    check(cuMemsetD32_v2(memory, value, 1024), "cuMemsetD32");
    check(cuCtxSynchronize(), "cuCtxSynchronize");
    say_up();
    while (fgets(line, sizeof(line), stdin) != NULL) {
        count = measure(memory, value, now_ns() + (uint64_t)atoi(line) * 1000000u);
        if (count == 0)
            return 4;
        printf("%u %llu %llu %llu\n", count, (unsigned long long)took[count / 2],
               (unsigned long long)took[(uint64_t)count * 99 / 100],
               (unsigned long long)took[count - 1]);
        fflush(stdout);
    }
    return 0;
}
