/*
 * The account of a GPU's computing time (fdc/share.h): what a lease has saved or owes, whose
 * turn it is, what work costs. Functions of rows and times, so that a test can have a clock
 * of its own.
 */
#ifndef FDC_SERVER_ACCOUNT_H
#define FDC_SERVER_ACCOUNT_H

#include <stdbool.h>

#include "fdc/base.h"
#include "fdc/share.h"

#define FDC_ACCOUNT_SAVED_NS 100000000ull       /* so much of its time a lease may have saved */
#define FDC_ACCOUNT_LINED_NS 1000000000ull      /* ... and who has stood in line since then */
#define FDC_ACCOUNT_DEBT_NS 60000000000ull      /* and so long it waits at most */
#define FDC_ACCOUNT_LINGER_NS 50000000ull       /* who has wanted the GPU so lately still does */
#define FDC_ACCOUNT_LINE_NS 10000000ull         /* who has looked so lately stands in line */

/* Whether the lease of this row may try for its GPU: nobody else wants that (*alone), or its
 * time is not used up and of those who stand in line nobody has saved more. */
bool fdc_account_may_go(const struct fdc_share_row *rows, const struct fdc_share_row *own,
                        uint64_t now, bool *alone);

/* The lease stands in line. */
void fdc_account_want(struct fdc_share_row *row, uint64_t now);

/* Work that ended now has taken this long. free: it is counted and costs nothing. */
void fdc_account_charge(struct fdc_share_row *row, uint32_t percent, uint64_t took_ns,
                        uint64_t now, bool free);

#endif
