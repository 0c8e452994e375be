/*
 * fdcMonitor: figures of a device, and who else of the lease has memory on it. What the
 * workers of a lease know of each other is on the lease's board (fdc/monitor.h).
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fdc/gauges.h"
#include "fdc/result.h"

_Static_assert(FDC_FIGURES <= 64, "a bit each");

struct fdc_monitor {
    struct fdc_gauges *gauges;
    bool busy;                          /* the driver keeps busy times */
};

struct fdc_monitor *
fdc_monitor_new(struct fdc_serve *serve)
{
    const struct fdc_serve_limits *limits = &serve->limits;
    struct fdc_monitor *monitor = calloc(1, sizeof(*monitor));

    if (monitor == NULL)
        return NULL;
    monitor->gauges = fdc_gauges_new(serve->driver);
    if (monitor->gauges == NULL) {
        free(monitor);
        return NULL;
    }
    fdc_store_relaxed(&fdc_board_own(serve->board)->worker, (uint32_t)getpid());
    for (int i = 0; i < limits->devices; i++)
        monitor->busy =
            fdc_gauges_busy(monitor->gauges, limits->ordinal[i],
                            &fdc_board_own(serve->board)->busy[i]);
    return monitor;
}

void
fdc_monitor_free(struct fdc_serve *serve)
{
    struct fdc_monitor *monitor = serve->monitor;

    if (monitor == NULL)
        return;
    for (int i = 0; i < serve->limits.devices; i++)
        fdc_gauges_busy(monitor->gauges, serve->limits.ordinal[i], NULL);
    fdc_gauges_free(monitor->gauges);
    free(monitor);
    serve->monitor = NULL;
}

bool
fdc_monitor_taken(struct fdc_serve *serve, int device, uint64_t *bytes, bool *slow)
{
    struct fdc_monitor *monitor = serve->monitor;
    char pci[32] = "";

    if (serve->driver->cuDeviceGetPCIBusId(pci, sizeof(pci), serve->device[device]) !=
        CUDA_SUCCESS)
        return false;
    return fdc_gauges_taken(monitor->gauges, serve->limits.ordinal[device], pci, bytes,
                            slow);
}

void
fdc_monitor_lost(struct fdc_serve *serve, int device, CUresult result)
{
    if (serve->monitor != NULL && device >= 0 && device < FDC_BOARD_DEVICES)
        fdc_store_relaxed(&fdc_board_own(serve->board)->xid[device], fdc_result_xid(result));
}

static uint64_t
busy_of(const struct fdc_busy *busy, uint64_t now)
{
    uint64_t since = fdc_load_relaxed(&busy->since_ns);
    uint64_t total = fdc_load_relaxed(&busy->total_ns);

    return total + (since != 0 && now > since ? now - since : 0);
}

static void
count_fault(struct fdc_monitor_gpu *gpu, uint64_t times, uint32_t xid)
{
    if (xid != 0 && times != 0) {
        gpu->faults += times;
        gpu->xid = xid;
    }
}

/* Whose worker is on the server's list of processes. */
static uint32_t
shares_of(const struct fdc_gauges_shares *shares, unsigned int count, uint32_t worker)
{
    for (unsigned int i = 0; i < count; i++)
        if (shares[i].pid == worker)
            return shares[i].shares;
    return FDC_SHARES_UNKNOWN;
}

/* Others' rows are only looked at; whatever is in them are numbers to show. */
static void
look_around(struct fdc_serve *serve, int device, struct fdc_monitor_gpu *gpu,
            struct fdc_monitor_process *others, const struct fdc_gauges_shares *shares,
            unsigned int count)
{
    const struct fdc_monitor *monitor = serve->monitor;
    const struct fdc_board_row *own = fdc_board_own(serve->board);
    uint64_t used, busy = 0;
    uint32_t pid;

    gpu->beside = fdc_memory_beside(serve, device);
    if (monitor->busy)
        gpu->busy_ns = gpu->own_busy_ns = busy_of(&own->busy[device], gpu->now_ns);
    gpu->own_shares = shares_of(shares, count, (uint32_t)getpid());
    count_fault(gpu, 1, fdc_load_relaxed(&own->xid[device]));
    fdc_board_failed(serve->board, device, &used, &pid);
    count_fault(gpu, used, pid);
    for (uint32_t n = 0; n < FDC_BOARD_ROWS; n++) {
        const struct fdc_board_row *row = fdc_board_other(serve->board, n, &pid);

        if (row == NULL)
            continue;
        used = fdc_load_relaxed(&row->used[device]);
        count_fault(gpu, 1, fdc_load_relaxed(&row->xid[device]));
        if (monitor->busy)
            gpu->busy_ns += busy = busy_of(&row->busy[device], gpu->now_ns);
        if (used != 0)
            others[gpu->others++] = (struct fdc_monitor_process){
                pid, shares_of(shares, count, fdc_load_relaxed(&row->worker)), used, busy};
    }
}

/* What the lease has beyond what this client knows of by itself. */
int
fdc_server_call_fdcMemBeside(struct fdc_request *request,
                             const struct fdc_req_fdcMemBeside *req)
{
    struct fdc_serve *serve = request->serve;
    struct fdc_rep_fdcMemBeside reply = { 0 };
    CUresult result = CUDA_ERROR_INVALID_DEVICE;
    uint64_t all, own;

    if (req->device >= 0 && req->device < serve->limits.devices) {
        own = fdc_memory_used(serve, req->device);
        all = fdc_board_sum(serve->board, req->device);
        reply.bytes = all > own ? all - own : 0;
        result = CUDA_SUCCESS;
    }
    fdc_request_answer(request, result, &reply, sizeof(reply));
    return 0;
}

int
fdc_server_call_fdcMonitor(struct fdc_request *request,
                           const struct fdc_req_fdcMonitor *req)
{
    struct fdc_serve *serve = request->serve;
    const struct fdc_monitor *monitor = serve->monitor;
    struct fdc_rep_fdcMonitor reply = { 0 };
    struct fdc_gauges_shares shares[FDC_BOARD_ROWS];
    struct fdc_monitor_gpu *gpu;
    unsigned int count = 0;
    char pci[32] = "";
    int err;

    if (fdc_request_chunk(request, FDC_REGION_DOWN, req->blob) == NULL)
        return -EPROTO;
    if (req->device < 0 || req->device >= serve->limits.devices) {
        fdc_request_answer(request, CUDA_ERROR_INVALID_DEVICE, NULL, 0);
        return 0;
    }
    gpu = calloc(1, sizeof(*gpu) + FDC_BOARD_ROWS * sizeof(struct fdc_monitor_process));
    if (gpu == NULL) {
        fdc_request_answer(request, CUDA_ERROR_OUT_OF_MEMORY, NULL, 0);
        return 0;
    }
    if (monitor->busy)
        gpu->now_ns = fdc_now_ns();
    if (serve->driver->cuDeviceGetPCIBusId(pci, sizeof(pci),
                                           serve->device[req->device]) == CUDA_SUCCESS) {
        fdc_gauges_read(monitor->gauges, pci, gpu);
        count = fdc_gauges_processes(monitor->gauges, pci, shares, FDC_COUNT(shares));
    }
    look_around(serve, req->device, gpu, (struct fdc_monitor_process *)(gpu + 1), shares,
                count);
    reply.total = sizeof(*gpu) + gpu->others * sizeof(struct fdc_monitor_process);
    err = fdc_blob_give(request, req->blob, gpu, reply.total); /* the blob is freed there */
    if (err == 0)
        fdc_request_answer(request, CUDA_SUCCESS, &reply, sizeof(reply));
    return err;
}
