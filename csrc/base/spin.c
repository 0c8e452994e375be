/*
 * How long a waiter spins before it sleeps, learned from how long its waits take.
 *
 * A sleep costs two to three orders of magnitude more than a message that a spinning
 * waiter sees arrive, so a wait that would have ended within the longest budget raises
 * the budget; one that went on much longer lowers it, down to no spinning at all. With
 * one CPU allowed there is nobody to spin for, and only so many threads spin at a time
 * that the other side keeps a CPU. After a few waits in a row that spinning did not end
 * the next ones do not spin, more and more of them, until one is short again: on a machine
 * with more to do than CPUs whoever spins keeps the other side from its CPU.
 *
 * Two who wait for each other may come to lie on one CPU while others are idle: a scheduler
 * chooses where a thread wakes, and lets two that only yield to each other lie where they
 * are for a long time. So a wait that ended because its CPU was lent counts as one that
 * spinning did not help, and the sleep that follows is what has the scheduler choose again.
 *
 * The first looks of a wait are made without any of this, no clock read: what the other side
 * is about to say anyway is there sooner than a clock is read twice.
 *
 * Fields are read and written by several waiters without a lock: they are hints, and losing
 * an update costs nothing.
 */
#include <sched.h>

#include "fdc/base.h"

enum { SPIN_FIRST_NS = 50000, SPIN_STEP_NS = 20000, SPIN_DOWN = 4 };
enum { LATE_MAX = 3, REST_FIRST = 8, REST_MAX = 256 };
enum { YIELD_ALONE_NS = 1000 }; /* a yield that nobody takes is shorter */
enum { QUICK_LOOKS = 40 };      /* about a microsecond */

uint32_t
fdc_cpus_allowed(void)
{
    cpu_set_t set;
    int count;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return 2; /* more CPUs than the set has room for */
    count = CPU_COUNT(&set);
    return count > 0 ? (uint32_t)count : 1;
}

void
fdc_spin_init(struct fdc_spin *spin)
{
    *spin = (struct fdc_spin){.cpus = fdc_cpus_allowed(), .max_ns = FDC_SPIN_MAX_NS};
    spin->budget_ns = spin->cpus > 1 ? SPIN_FIRST_NS : 0;
}

int
fdc_spin_quick(const struct fdc_spin *spin)
{
    return fdc_load_relaxed(&spin->budget_ns) != 0 && fdc_load_relaxed(&spin->skip) == 0
               ? QUICK_LOOKS
               : 0;
}

uint64_t
fdc_spin_begin(struct fdc_spin *spin)
{
    uint64_t budget_ns = fdc_load_relaxed(&spin->budget_ns);

    uint32_t skip = fdc_load_relaxed(&spin->skip);

    if (budget_ns == 0)
        return 0;
    if (skip > 0) {
        fdc_store_relaxed(&spin->skip, skip - 1);
        return 0;
    }
    if (__atomic_fetch_add(&spin->spinners, 1, __ATOMIC_RELAXED) + 1 >= spin->cpus) {
        __atomic_fetch_sub(&spin->spinners, 1, __ATOMIC_RELAXED);
        return 0;
    }
    return budget_ns;
}

static void
not_late(struct fdc_spin *spin)
{
    fdc_store_relaxed(&spin->late, 0);
    fdc_store_relaxed(&spin->rest, 0);
    fdc_store_relaxed(&spin->skip, 0);
}

/* The next waits sleep at once, twice as many as last time and `first` at least. */
static void
late(struct fdc_spin *spin, uint32_t first)
{
    uint32_t count = fdc_load_relaxed(&spin->late) + 1, rest;

    fdc_store_relaxed(&spin->late, count);
    if (count < LATE_MAX || fdc_load_relaxed(&spin->skip) > 0)
        return;
    rest = 2 * fdc_load_relaxed(&spin->rest);
    if (rest < first)
        rest = first;
    if (rest > REST_MAX)
        rest = REST_MAX;
    fdc_store_relaxed(&spin->rest, rest);
    fdc_store_relaxed(&spin->skip, rest);
}

void
fdc_spin_came(struct fdc_spin *spin)
{
    if (FDC_UNLIKELY(fdc_load_relaxed(&spin->late) != 0))
        not_late(spin);
}

void
fdc_spin_end(struct fdc_spin *spin, bool came, bool lent)
{
    if (came && lent)
        late(spin, 1);
    else if (came)
        fdc_spin_came(spin);
    __atomic_fetch_sub(&spin->spinners, 1, __ATOMIC_RELAXED);
}

bool
fdc_spin_yield(void)
{
    uint64_t start_ns = fdc_now_ns();

    sched_yield();
    return fdc_now_ns() - start_ns > YIELD_ALONE_NS;
}

void
fdc_spin_learn(struct fdc_spin *spin, uint64_t waited_ns, bool came, bool spun)
{
    uint64_t budget_ns = fdc_load_relaxed(&spin->budget_ns);

    if (spin->cpus < 2)
        return;
    if (spun)
        late(spin, REST_FIRST);
    else if (came && waited_ns < spin->max_ns) /* try again sooner */
        fdc_store_relaxed(&spin->skip, fdc_load_relaxed(&spin->skip) / 2);
    if (waited_ns < 2 * spin->max_ns) {
        if (!came)
            return; /* a short time-out says nothing */
        budget_ns = 2 * budget_ns + SPIN_STEP_NS;
        if (budget_ns > spin->max_ns)
            budget_ns = spin->max_ns;
    } else {
        budget_ns -= budget_ns / SPIN_DOWN;
        if (budget_ns < 1000)
            budget_ns = 0;
    }
    fdc_store_relaxed(&spin->budget_ns, budget_ns);
}
