/*
 * How long a waiter spins before it sleeps, learned from how long its waits take.
 *
 * A sleep costs two to three orders of magnitude more than a message that a spinning
 * waiter sees arrive, so a wait that would have ended within the longest budget raises
 * the budget; one that went on much longer lowers it, down to no spinning at all. With
 * one CPU allowed there is nobody to spin for, and only so many threads spin at a time
 * that the other side keeps a CPU. Fields are read and written by several waiters
 * without a lock: they are hints, and losing an update costs nothing.
 */
#include <sched.h>

#include "fdc/base.h"

enum { SPIN_FIRST_NS = 50000, SPIN_STEP_NS = 20000, SPIN_DOWN = 4 };

static uint32_t
cpus_allowed(void)
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
    *spin = (struct fdc_spin){.cpus = cpus_allowed()};
    spin->budget_ns = spin->cpus > 1 ? SPIN_FIRST_NS : 0;
}

uint64_t
fdc_spin_begin(struct fdc_spin *spin)
{
    uint64_t budget_ns = fdc_load_relaxed(&spin->budget_ns);

    if (budget_ns == 0)
        return 0;
    if (__atomic_fetch_add(&spin->spinners, 1, __ATOMIC_RELAXED) + 1 >= spin->cpus) {
        __atomic_fetch_sub(&spin->spinners, 1, __ATOMIC_RELAXED);
        return 0;
    }
    return budget_ns;
}

void
fdc_spin_end(struct fdc_spin *spin)
{
    __atomic_fetch_sub(&spin->spinners, 1, __ATOMIC_RELAXED);
}

void
fdc_spin_learn(struct fdc_spin *spin, uint64_t waited_ns, bool came)
{
    uint64_t budget_ns = fdc_load_relaxed(&spin->budget_ns);

    if (spin->cpus < 2)
        return;
    if (waited_ns < 2 * FDC_SPIN_MAX_NS) {
        if (!came)
            return; /* a short time-out says nothing */
        budget_ns = 2 * budget_ns + SPIN_STEP_NS;
        if (budget_ns > FDC_SPIN_MAX_NS)
            budget_ns = FDC_SPIN_MAX_NS;
    } else {
        budget_ns -= budget_ns / SPIN_DOWN;
        if (budget_ns < 1000)
            budget_ns = 0;
    }
    fdc_store_relaxed(&spin->budget_ns, budget_ns);
}
