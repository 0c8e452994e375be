/* Memory that both the program and the device use at one address: managed.c keeps
 * it, and fault.c brings it when the program touches it. */
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

/* The device is about to use it, all of it or a range: what the program has written
 * goes there, and the program has to fetch before it looks again. wait: it is there
 * when this returns, also for what the worker was given before. */
CUresult fdc_managed_use(struct fdc_session *session, bool wait);
CUresult fdc_managed_use_range(struct fdc_session *session, uint64_t address,
                               uint64_t size);
/* All work up to this position is over. Where that is all there is, small
 * allocations are fetched at once, so that system calls on them work as well. */
void fdc_managed_seen(struct fdc_session *session, uint64_t position);
/* The program has these bytes and may write there. */
CUresult fdc_managed_fetch(struct fdc_session *session, uint64_t address,
                           uint64_t size);
/* A thread stopped at this address: true, it can go on. For the handler. */
bool fdc_managed_fault(struct fdc_session *session, uint64_t address, bool write);

/* Some of it is where the program can write, or is mirrored: the only thing to look
 * at on the paths of launches. */
static inline bool
fdc_managed_out(struct fdc_session *session)
{
    return FDC_UNLIKELY((fdc_load_relaxed(&session->memory->managed_out) |
                         fdc_load_relaxed(&session->memory->mirror_count)) != 0);
}

/* A variable of a module at this address of both. */
CUresult fdc_managed_variable(struct fdc_device *device, uint64_t address, uint64_t size);

/* mirror.c: memory that lies at `host` for the program, at `there` for the worker
 * and at `pointer` for kernels. from_device: its bytes are the device's at first,
 * else the program's. */
CUresult fdc_mirror_add(struct fdc_device *device, uint64_t host, uint64_t there,
                        uint64_t pointer, uint64_t size, bool from_device);
/* Kernels' pointer to it; false: not mirrored. */
bool fdc_mirror_find(struct fdc_session *session, uint64_t host, uint64_t *pointer);
/* there: where the worker had it. */
bool fdc_mirror_del(struct fdc_session *session, uint64_t host, uint64_t *there);
/* Before and after what the device does, as fdc_managed_use and _seen. */
CUresult fdc_mirrors_push(struct fdc_session *session, bool wait);
void fdc_mirrors_pull(struct fdc_session *session, bool idle);
/* The program has seen some work finished: what it may look at of mirrors is brought. */
void fdc_memory_seen(struct fdc_session *session);

/* ferry.c: once, before the first of what is below; under the memory's setup lock. */
CUresult fdc_ferry_setup(struct fdc_session *session);
/* Bytes to the worker's memory, over before later messages are served;
 * wait: before this returns. Bytes of it, as they are now, to take(), in pieces.
 * Waits for all work that was accepted so far; position: up to where all is over
 * now. */
CUresult fdc_ferry_push(const struct fdc_device *device, uint64_t to, const void *from,
                        uint64_t size, bool wait);
CUresult fdc_ferry_pull(const struct fdc_device *device, uint64_t from, uint64_t size,
                        void (*take)(void *user, const void *bytes, uint64_t size),
                        void *user);
CUresult fdc_ferry_wait(struct fdc_session *session, uint64_t *position);

/* A call in any context that is open on the device. */
CUresult fdc_ferry_call(const struct fdc_device *device, uint16_t id,
                        struct fdc_call *call);

/* mapped.c: pinned memory that is not shared. The pointer that kernels have to it,
 * which makes it a mirror; its end; that there is some; and all of it whose address
 * is among a kernel's parameters. */
CUresult fdc_mapped_pointer(const struct fdc_place *place, uint64_t address,
                            uint64_t *pointer);
void fdc_mapped_end(const struct fdc_place *place);
void fdc_mapped_note(const struct fdc_place *place);
CUresult fdc_mapped_scan(struct fdc_session *session, const void *params, uint32_t size);

/* fault.c: the one signal handler of the library, from the first managed memory on. */
CUresult fdc_fault_install(void);

#endif
