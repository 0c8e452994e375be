/* What a session may have of the host's memory, and drivers that fail half-way. */
#include "client.h"

#define HOST 0x4f8000000000ull
#define SHADOW(i) FDC_HANDLE(FDC_KIND_SHADOW, 1, (i))
#define MIB (1ull << 20)

static void
open_with_host_memory(struct client *client, uint64_t host_memory)
{
    client_open_limited(client, &(struct fdc_serve_limits){
                                    .devices = 1,
                                    .memory = { SLICE },
                                    .host_memory = host_memory,
                                });
    client_attach(client);
}

static uint64_t
host_used(struct client *client)
{
    struct fdc_serve_counters counters;

    fdc_serve_get_counters(client->serve, &counters);
    return counters.host_memory_used;
}

static void
test_shadows_are_pinned_host_memory(void)
{
    static struct client client;

    open_with_host_memory(&client, 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(1), .size = 8 * MIB), 0);
    CHECK_EQ(host_used(&client), 8 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 16 * MIB),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 8 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(3), .size = 1),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 64 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 2 * MIB, .shared = 1),
             CUDA_ERROR_OUT_OF_MEMORY);
    client_close(&client, 0);
}

static void
test_kept_shadows_make_room(void)
{
    static struct client client;
    int fd;

    open_with_host_memory(&client, 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(1), .size = 8 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcShadowDrop, .shadow = SHADOW(1)), 0);
    CHECK_EQ(host_used(&client), 8 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 16 * MIB), 0);
    CHECK_EQ(host_used(&client), 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowDrop, .shadow = SHADOW(2)), 0);
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 64 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 16 * MIB, .shared = 1), 0);
    CHECK_EQ(fdc_link_take_fd(client.link, HOST, &fd), 0);
    close(fd);
    CHECK_EQ(host_used(&client), 16 * MIB);
    SEND(&client, fdcHostShrink, 0, .address = HOST);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(3), .size = 16 * MIB), 0);
    CHECK_EQ(host_used(&client), 16 * MIB);
    client_close(&client, 0);
}

static void
test_shadow_of_a_context_that_ended_makes_room(void)
{
    static struct client client;

    open_with_host_memory(&client, 16 * MIB);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(1), .size = 8 * MIB), 0);
    CHECK_EQ(CALL(&client, fdcShadowDrop, .shadow = SHADOW(1)), 0);
    CHECK_EQ(CALL(&client, fdcContextReset, .context = CTX), 0);
    CHECK_EQ(CALL(&client, fdcContextOpen, .context = CTX), 0);
    CHECK_EQ(CALL(&client, fdcShadowNew, .shadow = SHADOW(2), .size = 16 * MIB), 0);
    CHECK_EQ(host_used(&client), 16 * MIB);
    client_close(&client, 0);
}

/* ---- peer access ---- */

#define SECOND FDC_HANDLE(FDC_KIND_CONTEXT, 1, 2)

static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuMemSetAccess) real;
    int open; /* mappings that others may reach */
    int left; /* calls until one fails */
} access_calls;

static CUresult
count_access(CUdeviceptr address, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    CUresult result;

    if (access_calls.left > 0 && --access_calls.left == 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    result = access_calls.real(address, size, desc, count);
    if (result == CUDA_SUCCESS)
        access_calls.open += desc->flags == CU_MEM_ACCESS_FLAGS_PROT_NONE ? -1 : 1;
    return result;
}

/* Two devices; three mappings of the second one's memory. */
static void
open_peers(struct client *client)
{
    const struct fdc_snapshot *snapshot;
    const struct fdc_snapshot_device *device;
    uint64_t base;

    CHECK_EQ(setenv("FD_CPU_DEVICES", "2", 1), 0);
    client_open_limited(client, &(struct fdc_serve_limits){
                                    .devices = 2,
                                    .ordinal = { 0, 1 },
                                    .memory = { SLICE, SLICE },
                                });
    client_attach(client);
    snapshot = (void *)client->down;
    device = (void *)(client->down + snapshot->device_offset);
    base = device[1].piece_base;
    CHECK_EQ(CALL(client, fdcContextOpen, .device = 1, .context = SECOND), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(CALL(client, fdcMemGrow, .device = 1,
                      .address = base + (uint64_t)i * 4 * MIB, .size = 2 * MIB), 0);
    access_calls.real = client->driver.cuMemSetAccess;
    access_calls.open = access_calls.left = 0;
    client->driver.cuMemSetAccess = count_access;
}

static void
test_peer_access_that_fails_halfway_is_off(void)
{
    static struct client client;

    open_peers(&client);
    access_calls.left = 2;
    CHECK_EQ(CALL(&client, cuCtxEnablePeerAccess, .peerContext = SECOND),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK(access_calls.open <= 0); /* taken away at least where it was given */
    CHECK_EQ(CALL(&client, cuCtxDisablePeerAccess, .peerContext = SECOND),
             CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    access_calls.open = 0;
    CHECK_EQ(CALL(&client, cuCtxEnablePeerAccess, .peerContext = SECOND), 0);
    CHECK_EQ(access_calls.open, 3);
    client_close(&client, 0);
}

static void
test_peer_access_that_ends_halfway_is_off(void)
{
    static struct client client;

    open_peers(&client);
    CHECK_EQ(CALL(&client, cuCtxEnablePeerAccess, .peerContext = SECOND), 0);
    access_calls.left = 2;
    CHECK_EQ(CALL(&client, cuCtxDisablePeerAccess, .peerContext = SECOND),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(access_calls.open, 1); /* all but the one that failed */
    CHECK_EQ(CALL(&client, cuCtxDisablePeerAccess, .peerContext = SECOND),
             CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    CHECK_EQ(CALL(&client, cuCtxEnablePeerAccess, .peerContext = SECOND), 0);
    client_close(&client, 0);
}

/* ---- devices that fail ---- */

static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuCtxSetCurrent) real;
    CUcontext lost;
} current;

static CUresult
refuse_lost(CUcontext ctx)
{
    if (ctx != NULL && ctx == current.lost)
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    return current.real(ctx);
}

/* The driver does not even make the context current; another device's still is. */
static void
test_lost_device_is_told_by_its_own_number(void)
{
    static struct client client;
    const struct fdc_reply *reply = (void *)client.reply;

    open_peers(&client);
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(client.driver.cuDevicePrimaryCtxRetain(&current.lost, 0), 0);
    client.ctx = 2;
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(reply->lost, 0);
    current.real = client.driver.cuCtxSetCurrent;
    client.driver.cuCtxSetCurrent = refuse_lost;
    client.ctx = 1;
    CHECK_EQ(CALL(&client, cuCtxSynchronize), CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK_EQ(reply->lost, 1);
    client.ctx = 2;
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(reply->lost, 1);
    client.driver.cuCtxSetCurrent = current.real;
    client.driver.cuDevicePrimaryCtxRelease_v2(0);
    client_close(&client, 0);
}

/* ---- what cannot be zeroed ---- */

static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuMemMap) map;
    __typeof__(((struct fdc_driver *)NULL)->cuMemUnmap) unmap;
    __typeof__(((struct fdc_driver *)NULL)->cuMemSetAccess) access;
    __typeof__(((struct fdc_driver *)NULL)->cuMemsetD8Async) zero;
    uint64_t known;     /* the client knows it */
    int mapped;         /* mappings that are there */
    int readable;       /* how often a kernel could read what the client knows */
    uint64_t dirt;      /* bytes that were not zero by then */
    CUresult refuses, refuses_zero;     /* to map what the client knows; to zero anything */
} grown;

static CUresult
see_map(CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
        unsigned long long flags)
{
    CUresult result = address == grown.known ? grown.refuses : CUDA_SUCCESS;

    if (result == CUDA_SUCCESS)
        result = grown.map(address, size, offset, handle, flags);
    grown.mapped += result == CUDA_SUCCESS;
    return result;
}

static CUresult
see_unmap(CUdeviceptr address, size_t size)
{
    CUresult result = grown.unmap(address, size);

    grown.mapped -= result == CUDA_SUCCESS;
    return result;
}

/* The CPU device's addresses are the process's. */
static CUresult
see_access(CUdeviceptr address, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    CUresult result = grown.access(address, size, desc, count);

    if (result != CUDA_SUCCESS || address != grown.known)
        return result;
    grown.readable++;
    for (size_t i = 0; i < size; i++)
        grown.dirt += ((const volatile uint8_t *)address)[i] != 0;
    return result;
}

static CUresult
see_zero(CUdeviceptr address, unsigned char value, size_t size, CUstream stream)
{
    if (grown.refuses_zero != CUDA_SUCCESS)
        return grown.refuses_zero;
    return grown.zero(address, value, size, stream);
}

static uint64_t
open_dirty(struct client *client)
{
    CHECK_EQ(setenv("FD_CPU_STRICT", "dirty", 1), 0);
    client_open(client);
    grown.known = client_attach(client);
    grown.map = client->driver.cuMemMap;
    grown.unmap = client->driver.cuMemUnmap;
    grown.access = client->driver.cuMemSetAccess;
    grown.zero = client->driver.cuMemsetD8Async;
    client->driver.cuMemMap = see_map;
    client->driver.cuMemUnmap = see_unmap;
    client->driver.cuMemSetAccess = see_access;
    client->driver.cuMemsetD8Async = see_zero;
    return grown.known;
}

/* A kernel that runs meanwhile may look there all the time. */
static void
test_grown_memory_is_zero_before_it_is_there(void)
{
    static struct client client;
    uint64_t base = open_dirty(&client);

    for (int i = 0; i < 2; i++) {
        client_grow(&client, base, SLICE);
        CHECK_EQ(grown.readable, i + 1);
        CHECK_EQ(grown.dirt, 0);
        CHECK_EQ(CALL(&client, fdcMemShrink, .address = base), 0);
        CHECK_EQ(grown.mapped, 0);
    }
    client_close(&client, 0);
}

static void
test_memory_that_does_not_grow_leaves_nothing(void)
{
    static struct client client;
    uint64_t base = open_dirty(&client);

    grown.refuses = CUDA_ERROR_OUT_OF_MEMORY;
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base, .size = SLICE),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(grown.mapped, 0);
    grown.refuses = CUDA_SUCCESS;
    grown.refuses_zero = CUDA_ERROR_OUT_OF_MEMORY;
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base, .size = SLICE),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(grown.mapped, 0);
    CHECK_EQ(grown.readable, 0);
    grown.refuses_zero = CUDA_SUCCESS;
    client_grow(&client, base, SLICE); /* all of it is there still */
    client_close(&client, 0);
}

static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuMipmappedArrayGetLevel) real;
    int asked;
    unsigned int fails; /* at this level; 0: at none */
} levels;

static CUresult
give_level(CUarray *array, CUmipmappedArray mipmap, unsigned int level)
{
    levels.asked++;
    if (levels.fails != 0 && level == levels.fails)
        return CUDA_ERROR_OUT_OF_MEMORY;
    return levels.real(array, mipmap, level);
}

static CUresult
make_mipmap(struct client *client, uint64_t index, unsigned int asked)
{
    return CALL(client, cuMipmappedArrayCreate,
                .pHandle = FDC_HANDLE(FDC_KIND_MIPMAP, 1, index),
                .pMipmappedArrayDesc = { .Width = 16, .Height = 16, .NumChannels = 1,
                                         .Format = CU_AD_FORMAT_FLOAT },
                .numMipmapLevels = asked);
}

/* That there are fewer levels than were asked for is no failure, and nothing else is so. */
static void
test_mipmap_with_a_level_that_is_not_zeroed_is_nobodys(void)
{
    static struct client client;

    client_open(&client);
    client_attach(&client);
    levels.real = client.driver.cuMipmappedArrayGetLevel;
    client.driver.cuMipmappedArrayGetLevel = give_level;
    levels.fails = 1;
    CHECK_EQ(make_mipmap(&client, 1, 5), CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, cuMipmappedArrayDestroy,
                  .hMipmappedArray = FDC_HANDLE(FDC_KIND_MIPMAP, 1, 1)),
             CUDA_ERROR_INVALID_HANDLE);
    levels.fails = levels.asked = 0;
    CHECK_EQ(make_mipmap(&client, 1, 5), 0);
    CHECK_EQ(levels.asked, 5);
    CHECK_EQ(make_mipmap(&client, 2, 9), 0);
    CHECK_EQ(levels.asked, 11); /* the last one is not there */
    client_close(&client, 0);
}

static void
test_session_is_attached_once(void)
{
    static struct client client;

    client_open(&client);
    client_attach(&client);
    CHECK_EQ(CALL(&client, fdcAttach, .blob = { 0, 65536 }, .contexts = 7),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(CALL(&client, fdcContextOpen, .context = CTX), 0);
    client_close(&client, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_shadows_are_pinned_host_memory);
    RUN(test_kept_shadows_make_room);
    RUN(test_shadow_of_a_context_that_ended_makes_room);
    RUN(test_peer_access_that_fails_halfway_is_off);
    RUN(test_peer_access_that_ends_halfway_is_off);
    RUN(test_lost_device_is_told_by_its_own_number);
    RUN(test_grown_memory_is_zero_before_it_is_there);
    RUN(test_memory_that_does_not_grow_leaves_nothing);
    RUN(test_mipmap_with_a_level_that_is_not_zeroed_is_nobodys);
    RUN(test_session_is_attached_once);
    return failed;
}
