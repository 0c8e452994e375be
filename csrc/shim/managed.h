/* Memory that both the program and the device use at one address: managed.c keeps it, and
 * fault.c brings it when the program touches it. */
#ifndef FDC_SHIM_MANAGED_H
#define FDC_SHIM_MANAGED_H

#include "memory.h"

/* Whether the device offers it here: VMM, and FD_MANAGED is not 0. */
bool fdc_managed_offered(const struct fdc_device *device);
CUresult fdc_managed_alloc(struct fdc_call *call, uint64_t size, unsigned flags,
                           CUdeviceptr *address);
void fdc_managed_free(struct fdc_device *device, uint64_t address, uint64_t size);
/* Gives back what is cached; bytes that hold a live block. */
void fdc_managed_trim(struct fdc_device *device);
uint64_t fdc_managed_used(struct fdc_device *device);
void fdc_managed_retire(struct fdc_session *session, uint64_t position);

/* The device is about to use it, all of it or a range: what the program has written goes
 * there, and the program has to fetch before it looks again. wait: it is there when this
 * returns, also for what the worker was given before. */
CUresult fdc_managed_use(struct fdc_session *session, bool wait);
CUresult fdc_managed_use_range(struct fdc_session *session, uint64_t address,
                               uint64_t size);
/* All work up to this position is over. Where that is all there is, small allocations are
 * fetched at once, so that system calls on them work as well. */
void fdc_managed_seen(struct fdc_session *session, uint64_t position);
/* The program has these bytes and may write there. */
CUresult fdc_managed_fetch(struct fdc_session *session, uint64_t address,
                           uint64_t size);
/* A thread stopped at this address: true, it can go on. For the handler. */
bool fdc_managed_fault(struct fdc_session *session, uint64_t address, bool write);

/* Some of it is where the program can write: the only thing to look at on the paths of
 * launches. */
static inline bool
fdc_managed_out(struct fdc_session *session)
{
    return FDC_UNLIKELY(fdc_load_relaxed(&session->memory->managed_out) != 0);
}

/* ferry.c: bytes to the worker's memory, over before later messages are served; wait: before
 * this returns. Bytes of it, as they are now, to take(), in pieces. Waits for all work that
 * was accepted so far; position: up to where all is over now. */
CUresult fdc_ferry_push(const struct fdc_device *device, uint64_t to, const void *from,
                        uint64_t size, bool wait);
CUresult fdc_ferry_pull(const struct fdc_device *device, uint64_t from, uint64_t size,
                        void (*take)(void *user, const void *bytes, uint64_t size),
                        void *user);
CUresult fdc_ferry_wait(struct fdc_session *session, uint64_t *position);

/* fault.c: the one signal handler of the library, from the first managed memory on. */
CUresult fdc_fault_install(void);

#endif
