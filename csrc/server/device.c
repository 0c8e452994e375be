/*
 * What the client is told of the leased devices when it attaches, so that it never has to
 * ask: one snapshot with every attribute, the slice's memory and the first address piece.
 * No context is made for it.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Without a context the driver does not say its limits: these are its documented
 * defaults, by CUlimit; a program that sets one asks anyway. */
static const uint64_t default_limit[16] = {
    1024,               /* stack bytes a thread */
    1u << 20,           /* printf buffer */
    8u << 20,           /* heap of device malloc */
    2, 2048,            /* device runtime: sync depth, pending launches */
    64,                 /* L2 fetch granularity */
    0,                  /* persisting L2 */
};

static CUresult
describe(struct fdc_serve *serve, int n, struct fdc_snapshot_device *out)
{
    const struct fdc_driver *driver = serve->driver;
    CUdevice device = serve->device[n];
    CUuuid uuid;
    size_t total = 0;
    CUresult result;
    int value;

    result = driver->cuDeviceGetName(out->name, sizeof(out->name) - 1, device);
    if (result == CUDA_SUCCESS)
        result = driver->cuDeviceTotalMem_v2(&total, device);
    if (result == CUDA_SUCCESS)
        result = FDC_HAS(driver, cuDeviceGetUuid_v2)
                     ? driver->cuDeviceGetUuid_v2(&uuid, device)
                     : driver->cuDeviceGetUuid(&uuid, device);
    if (result != CUDA_SUCCESS)
        return result;
    memcpy(out->uuid, uuid.bytes, sizeof(out->uuid));
    if (driver->cuDeviceGetPCIBusId(out->pci, sizeof(out->pci), device) != CUDA_SUCCESS)
        memset(out->pci, 0, sizeof(out->pci));
    out->pci[sizeof(out->pci) - 1] = '\0';
    for (int i = 1; i < FDC_SNAPSHOT_ATTRIBUTES; i++) {
        value = 0;
        if (driver->cuDeviceGetAttribute(&value, i, device) == CUDA_SUCCESS)
            out->attribute[i] = value;
    }
    out->physical_memory = total;
    out->memory = fdc_memory_limit(serve, n);
    out->granularity = fdc_memory_granularity(serve, n);
    if (out->granularity != 0)
        fdc_memory_piece(serve, n, 0, &out->piece_base, &out->piece_size);
    if (out->attribute[CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED])
        out->priority_high = -5;
    memcpy(out->limit, default_limit, sizeof(out->limit));
    return CUDA_SUCCESS;
}

/* FDC_PEER_... of one device's access to another's memory. */
static uint8_t
between(struct fdc_serve *serve, int from, int to)
{
    static const struct { CUdevice_P2PAttribute attribute; uint8_t bit; } asked[] = {
        { CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, FDC_PEER_ATOMICS },
        { CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED, FDC_PEER_ARRAYS },
        { CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED,
          FDC_PEER_SOME_ATOMICS },
    };
    const struct fdc_driver *driver = serve->driver;
    CUdevice src = serve->device[from], dst = serve->device[to];
    uint8_t word = 0;
    int value = 0;

    if (driver->cuDeviceCanAccessPeer(&value, src, dst) != CUDA_SUCCESS || value == 0)
        return 0;
    word = FDC_PEER_ACCESS;
    if (!FDC_HAS(driver, cuDeviceGetP2PAttribute))
        return word;
    for (size_t i = 0; i < FDC_COUNT(asked); i++)
        if (driver->cuDeviceGetP2PAttribute(&value, asked[i].attribute, src, dst) ==
                CUDA_SUCCESS &&
            value != 0)
            word |= asked[i].bit;
    if (driver->cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK,
                                        src, dst) == CUDA_SUCCESS)
        word |= (uint8_t)((value < 0 ? 0 : value > 15 ? 15 : value) << FDC_PEER_RANK);
    return word;
}

/* The snapshot of the leased devices, malloc; NULL: no memory. */
static void *
snapshot_make(struct fdc_serve *serve, uint64_t *size, CUresult *result)
{
    const struct fdc_driver *driver = serve->driver;
    uint32_t n = (uint32_t)serve->limits.devices;
    uint32_t peers = sizeof(struct fdc_snapshot) + n * sizeof(struct fdc_snapshot_device);
    struct fdc_snapshot *snapshot;
    struct fdc_snapshot_device *device;
    uint8_t *peer;
    int version = 0;

    *size = FDC_ALIGN_UP((uint64_t)peers + n * n, 8);
    snapshot = calloc(1, *size);
    *result = CUDA_ERROR_OUT_OF_MEMORY;
    if (snapshot == NULL)
        return NULL;
    *result = driver->cuDriverGetVersion(&version);
    device = (struct fdc_snapshot_device *)(snapshot + 1);
    peer = (uint8_t *)snapshot + peers;
    for (uint32_t i = 0; i < n && *result == CUDA_SUCCESS; i++)
        *result = describe(serve, (int)i, &device[i]);
    if (*result != CUDA_SUCCESS) {
        free(snapshot);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            peer[i * n + j] = i != j ? between(serve, (int)i, (int)j) : 0;
        }
    snapshot->size = (uint32_t)*size;
    snapshot->driver_version = (uint32_t)version;
    snapshot->device_count = n;
    snapshot->device_offset = sizeof(*snapshot);
    snapshot->peer_offset = peers;
    memcpy(snapshot->session, serve->limits.session, sizeof(snapshot->session));
    return snapshot;
}

int
fdc_server_call_fdcAttach(struct fdc_request *request, const struct fdc_req_fdcAttach *req)
{
    struct fdc_rep_fdcAttach reply = { 0 };
    CUresult result;
    uint64_t size;
    void *snapshot;
    int err;

    if (fdc_request_chunk(request, FDC_REGION_DOWN, req->blob) == NULL)
        return -EPROTO;
    /* Once: what is agreed here cannot change under what has been made since. */
    if (__atomic_exchange_n(&request->serve->attached, 1, __ATOMIC_ACQ_REL)) {
        fdc_request_answer(request, CUDA_ERROR_INVALID_VALUE, NULL, 0);
        return 0;
    }
    if (!fdc_memory_range(request->serve, req->range, req->range_size)) {
        __atomic_store_n(&request->serve->attached, 0, __ATOMIC_RELEASE);
        fdc_request_answer(request, CUDA_ERROR_INVALID_VALUE, NULL, 0);
        return 0;
    }
    if (req->contexts != 0)
        fdc_store_relaxed(&request->serve->contexts_first, req->contexts);
    snapshot = snapshot_make(request->serve, &size, &result);
    if (snapshot == NULL) {
        fdc_request_answer(request, result, NULL, 0);
        return 0;
    }
    reply.total = size;
    err = fdc_blob_give(request, req->blob, snapshot, size);
    if (err == 0)
        fdc_request_answer(request, CUDA_SUCCESS, &reply, sizeof(reply));
    return err;
}
