/*
 * cuGetProcAddress: names and requested CUDA versions to this library's own entry points,
 * over the generated table. Nothing is held back for the version of the worker's driver:
 * runtimes ask before there is a session, and what the driver lacks answers so when it is
 * called.
 *
 * The rules are those of a real driver: names come without suffix; the newest revision not
 * younger than the requested version is given; a name that has per-thread twins is looked
 * up among the twins alone when those are asked for.
 */
#include <string.h>

#include "cuda_calls.h"
#include "fdc/base.h"

struct row {
    const char *name;
    int since;
    int per_thread;
    const char *symbol;
    void *fn;
};

static const struct row rows[] = {
#include "procaddr_names.h"
};

/* The first row of this name; SIZE_MAX: there is none. */
static size_t
first_of(const char *name)
{
    size_t low = 0, high = FDC_COUNT(rows), middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (strcmp(rows[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == FDC_COUNT(rows) || strcmp(rows[low].name, name) != 0)
        return SIZE_MAX;
    return low;
}

static void *
look_up(const char *name, int version, bool per_thread,
        CUdriverProcAddressQueryResult *status)
{
    const struct row *best = NULL;
    size_t first = first_of(name), at;
    bool twins = false;

    if (first == SIZE_MAX) {
        *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
        return NULL;
    }
    /* Rows of a name stand together, twins last, oldest first. */
    for (at = first; at < FDC_COUNT(rows) && !strcmp(rows[at].name, name); at++)
        twins = twins || rows[at].per_thread;
    for (at = first; at < FDC_COUNT(rows) && !strcmp(rows[at].name, name); at++) {
        if (rows[at].per_thread == (twins && per_thread) && rows[at].since <= version)
            best = &rows[at];
    }
    if (best == NULL) {
        *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
        return NULL;
    }
    *status = CU_GET_PROC_ADDRESS_SUCCESS;
    return best->fn;
}

FDC_EXPORT CUresult
cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                    CUdriverProcAddressQueryResult *symbolStatus)
{
    CUdriverProcAddressQueryResult status;

    if (symbol == NULL || pfn == NULL ||
        flags > CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    *pfn = look_up(symbol, cudaVersion,
                   flags == CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status);
    if (symbolStatus != NULL)
        *symbolStatus = status;
    return CUDA_SUCCESS;
}

/* The older form fails where the newer one reports, and then leaves *pfn alone. */
FDC_EXPORT CUresult
cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
    CUdriverProcAddressQueryResult status;
    void *fn;

    if (symbol == NULL || pfn == NULL ||
        flags > CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM)
        return CUDA_ERROR_INVALID_VALUE;
    fn = look_up(symbol, cudaVersion,
                 flags == CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &status);
    if (fn == NULL)
        return CUDA_ERROR_NOT_FOUND;
    *pfn = fn;
    return CUDA_SUCCESS;
}
