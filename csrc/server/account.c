/*
 * The account: a bucket that fills with the lease's percentage of the time, kept as the time
 * up to which the lease has used its part (GCRA), so that one atomic number is both what is
 * saved and what is owed. Several workers of a lease charge the same row.
 */
#include "server/account.h"

/* What a lease has saved, as a time; never more than may be. */
static uint64_t
due_of(const struct fdc_share_row *row, uint64_t now)
{
    uint64_t due = fdc_load_relaxed(&row->due_ns);

    return due > now - FDC_ACCOUNT_LINED_NS ? due : now - FDC_ACCOUNT_LINED_NS;
}

/* No less than least, no more than most, and this much more. */
static void
move_due(struct fdc_share_row *row, uint64_t least, uint64_t most, uint64_t cost)
{
    uint64_t due = fdc_load_relaxed(&row->due_ns), made;

    do {
        made = (due > least ? due : least) + cost;
        if (made > most)
            made = most;
    } while (!__atomic_compare_exchange_n(&row->due_ns, &due, made, false,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

bool
fdc_account_may_go(const struct fdc_share_row *rows, const struct fdc_share_row *own,
                   uint64_t now, bool *alone)
{
    uint32_t gpu = fdc_load_relaxed(&own->gpu);
    uint64_t due = due_of(own, now), other;
    bool first = true;

    *alone = true;
    for (uint32_t n = 0; n < FDC_SHARE_ROWS; n++) {
        const struct fdc_share_row *row = &rows[n];

        if (row == own || fdc_load_relaxed(&row->gpu) != gpu)
            continue;
        if (fdc_load_relaxed(&row->percent) == 0) {
            *alone = false;             /* nobody knows what it does */
            continue;
        }
        if (fdc_load_relaxed(&row->wanted_ns) + FDC_ACCOUNT_LINGER_NS < now)
            continue;
        *alone = false;
        other = due_of(row, now);
        if (fdc_load_relaxed(&row->waiting_ns) + FDC_ACCOUNT_LINE_NS >= now &&
            other <= now && (other < due || (other == due && row < own)))
            first = false;
    }
    return *alone || (due <= now && first);
}

/* Who comes has saved little. Who has wanted it all the time has it all: somebody's kernel
 * may have been long. */
void
fdc_account_want(struct fdc_share_row *row, uint64_t now)
{
    if (fdc_load_relaxed(&row->wanted_ns) + FDC_ACCOUNT_LINGER_NS < now)
        move_due(row, now - FDC_ACCOUNT_SAVED_NS, UINT64_MAX, 0);
    fdc_store_relaxed(&row->wanted_ns, now);
    fdc_store_relaxed(&row->waiting_ns, now);
}

void
fdc_account_charge(struct fdc_share_row *row, uint32_t percent, uint64_t took_ns,
                   uint64_t now, bool free)
{
    __atomic_add_fetch(&row->spent_ns, took_ns, __ATOMIC_RELAXED);
    if (free)
        move_due(row, now - FDC_ACCOUNT_SAVED_NS, UINT64_MAX, 0);
    else
        move_due(row, now - took_ns - FDC_ACCOUNT_LINED_NS, now + FDC_ACCOUNT_DEBT_NS,
                 took_ns * 100 / percent);
}
