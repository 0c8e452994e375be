/* Time for timeouts and spin budgets: monotonic, and never the wall clock. */
#include <time.h>

#include "fdc/base.h"

uint64_t
fdc_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
