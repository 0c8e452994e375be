/*
 * The link emulator: any road with a longer delay and a lower bandwidth than it has.
 *
 * FD_EMULATE_RTT_US and FD_EMULATE_MBPS (megabits a second) are read where the worker
 * runs; the client is told at set-up. Each message is then preceded by the time at
 * which it would have arrived, and the receiver does not show it before. Both ends use
 * one clock, so this is for one machine: for tests and for measuring what distance
 * costs.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "link.h"

enum { STEP_NS = 50000, SPIN_LAST_NS = 60000 };

static uint64_t
number_from(const char *name, uint64_t largest)
{
    const char *text = getenv(name);
    unsigned long long number;
    char *end;

    if (!text || !*text)
        return 0;
    number = strtoull(text, &end, 10);
    if (*end || number > largest) {
        fdc_log(FDC_LOG_WARN, "%s is not a number up to %llu", name,
                (unsigned long long)largest);
        return 0;
    }
    return number;
}

void
link_emulation_ask(struct link_emulation *emulation)
{
    emulation->delay_ns = number_from("FD_EMULATE_RTT_US", 10000000) * 1000 / 2;
    emulation->mbps = number_from("FD_EMULATE_MBPS", 1000000);
    emulation->on = emulation->delay_ns > 0 || emulation->mbps > 0;
}

/* When so many bytes that are sent now have arrived. */
uint64_t
link_emulation_send(struct link_emulation *emulation, uint64_t size)
{
    uint64_t start_ns = fdc_now_ns(), free_ns = fdc_load_relaxed(&emulation->free_ns);

    if (start_ns < free_ns)
        start_ns = free_ns;
    if (emulation->mbps > 0) {
        start_ns += size * 8000 / emulation->mbps;
        fdc_store_relaxed(&emulation->free_ns, start_ns);
    }
    return start_ns + emulation->delay_ns;
}

/* Waits for the message that peek has held back. As fdc_link_wait_word(). */
int
link_emulation_wait(uint64_t due_ns, const uint32_t *word, uint32_t seen,
                    int64_t timeout_us)
{
    uint64_t now_ns = fdc_now_ns(), limit_ns = UINT64_MAX;
    struct timespec step = {.tv_nsec = STEP_NS};
    int saved = errno;

    if (timeout_us >= 0)
        limit_ns = now_ns + (uint64_t)timeout_us * 1000;
    for (;;) {
        if (word && fdc_load_acquire(word) != seen)
            return 2; /* pairs with the release before fdc_link_poke() */
        now_ns = fdc_now_ns();
        if (now_ns >= due_ns)
            return 1;
        if (now_ns >= limit_ns)
            return 0;
        if (due_ns - now_ns > SPIN_LAST_NS + STEP_NS)
            nanosleep(&step, NULL);
        else
            fdc_pause();
        errno = saved;
    }
}
