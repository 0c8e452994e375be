/* Sleeping on a word of memory, within a process or between two of them. */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fdc/base.h"

int
fdc_futex_wait(uint32_t *word, uint32_t seen, int64_t timeout_us, bool shared)
{
    struct timespec timeout, *limit = NULL;
    int saved = errno, err = 0;

    if (timeout_us >= 0) {
        timeout.tv_sec = timeout_us / 1000000;
        timeout.tv_nsec = timeout_us % 1000000 * 1000;
        limit = &timeout;
    }
    if (syscall(SYS_futex, word, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, seen, limit,
                NULL, 0) < 0 &&
        errno != EAGAIN)
        err = -errno;
    errno = saved;
    return err;
}

void
fdc_futex_wake(uint32_t *word, int count, bool shared)
{
    int saved = errno;

    syscall(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, count, NULL,
            NULL, 0);
    errno = saved;
}
