/* A client without a shim: fills messages by hand and reads what the worker answers. */
#ifndef CLIENT_H
#define CLIENT_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/socket.h>

#include "check.h"
#include "fdc/copy.h"
#include "fdc/driver.h"
#include "server/server.h"

#define SLICE (64ull << 20)
#define CTX FDC_HANDLE(FDC_KIND_CONTEXT, 1, 1)
enum { DONES = 4096, CLIENT_IDS = 512 };

struct client {
    struct fdc_link *link, *far;
    struct fdc_serve *serve;
    struct fdc_driver driver;
    pthread_t worker;
    int ended;                          /* what fdc_serve_run() said */
    uint32_t serve_ended;
    uint64_t ticket;
    uint32_t ctx;                       /* that messages name; 0: the first one */
    uint8_t *up, *down;
    uint8_t reply[4096];                /* the last one */
    uint64_t done[DONES];               /* tickets of DONE, in order of arrival */
    int done_result[DONES];
    int dones;
    uint64_t host_fn[64];
    int host_fns;
};

#ifdef __SANITIZE_THREAD__
/* A thread that has ended is waited for by glibc before its thread-local memory goes, in a way
 * that ThreadSanitizer does not see: what its destructors read looks like a race with that. */
const char *__tsan_default_suppressions(void);
const char *
__tsan_default_suppressions(void)
{
    return "race:_dl_deallocate_tls\n";
}
#endif

/* Changes the driver's table before anybody uses it. */
static void (*client_prepare)(struct fdc_driver *driver);

static void *
client_worker(void *arg)
{
    struct client *client = arg;

    client->ended = fdc_serve_run(client->serve);
    fdc_store_release(&client->serve_ended, 1);         /* pairs with who looks */
    return NULL;
}

static inline void
client_open_limited(struct client *client, const struct fdc_serve_limits *limits)
{
    struct fdc_link_size size = FDC_LINK_SIZE_DEFAULT;
    int socks[2];

    memset(client, 0, sizeof(*client));
    fdc_log_default(FDC_LOG_WARN, "worker");
    if (access(DRIVER, R_OK) != 0)
        CHECK_SKIP("the CPU device is not built");
    CHECK_EQ(fdc_driver_load(DRIVER, &client->driver), 0);
    if (client_prepare != NULL)
        client_prepare(&client->driver);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
    CHECK_EQ(fdc_link_worker(FDC_ROAD_SHM, &socks[0], 1, &size, &client->far), 0);
    CHECK_EQ(fdc_link_client(FDC_ROAD_SHM, &socks[1], 1, &client->link), 0);
    CHECK_EQ(fdc_serve_new(&client->driver, client->far, limits, &client->serve), 0);
    client->up = fdc_link_region(client->link, FDC_REGION_UP, NULL);
    client->down = fdc_link_region(client->link, FDC_REGION_DOWN, NULL);
    CHECK_EQ(pthread_create(&client->worker, NULL, client_worker, client), 0);
}

static inline void
client_open_sized(struct client *client, uint64_t slice)
{
    client_open_limited(client,
                        &(struct fdc_serve_limits){ .devices = 1, .memory = { slice } });
}

static inline void
client_open(struct client *client)
{
    client_open_sized(client, SLICE);
}

/* The client goes; the worker ends with this. */
static inline void
client_close(struct client *client, int expected)
{
    fdc_link_free(client->link);
    pthread_join(client->worker, NULL);
    CHECK_EQ(client->ended, expected);
    fdc_serve_free(client->serve);
    fdc_link_free(client->far);
}

/* Takes one message from the worker in. 0: none came; -1: the worker has gone. */
static inline int
client_take(struct client *client, int64_t timeout_us)
{
    const struct fdc_reply *reply;
    uint32_t size;
    int err;

    reply = fdc_link_peek(client->link, FDC_LANE_REPLY, &size, &err);
    if (!reply) {
        if (err)
            return -1;
        err = fdc_link_wait(client->link, FDC_LANE_REPLY, timeout_us);
        if (err <= 0)
            return err < 0 ? -1 : 0;
        reply = fdc_link_peek(client->link, FDC_LANE_REPLY, &size, &err);
        if (!reply)
            return err ? -1 : 0;
    }
    CHECK(size >= sizeof(*reply) && size <= sizeof(client->reply));
    CHECK_EQ(reply->size, size);
    if (reply->id == FDC_REPLY_DONE) {
        CHECK(client->dones < DONES);
        client->done_result[client->dones] = reply->result;
        client->done[client->dones++] = reply->ticket;
    } else if (reply->id == FDC_REPLY_HOST_FN) {
        CHECK(client->host_fns < 64);
        client->host_fn[client->host_fns++] = reply->ticket;
    } else {
        memset(client->reply, 0, sizeof(client->reply));
        memcpy(client->reply, reply, size);
    }
    fdc_link_release(client->link, FDC_LANE_REPLY);
    return 1;
}

/* Sends a message whose fields after the head are filled; gives its ticket. */
static inline uint64_t
client_send(struct client *client, void *message, uint32_t size, uint16_t id, unsigned flags)
{
    struct fdc_msg *head = message;
    void *at;
    int err;

    head->size = size;
    head->id = id;
    head->flags = (uint16_t)flags;
    head->ticket = ++client->ticket;
    head->ctx = client->ctx != 0 ? client->ctx : 1;
    head->thread = 1;
    while (!(at = fdc_link_claim(client->link, FDC_LANE_COMMAND, size, &err))) {
        if (err != -EAGAIN)
            return 0;
        fdc_link_wait_room(client->link, FDC_LANE_COMMAND, size, 10000);
        while (client_take(client, 0) > 0)
            continue;
    }
    memcpy(at, message, size);
    fdc_link_commit(client->link, FDC_LANE_COMMAND);
    fdc_link_flush(client->link, FDC_LANE_COMMAND);
    return head->ticket;
}

/* Sends and waits for the answer, which is client->reply; gives its result, or -1. */
static inline int
client_call(struct client *client, void *message, uint32_t size, uint16_t id)
{
    uint64_t ticket = client_send(client, message, size, id, FDC_MSG_REPLY);
    struct fdc_reply *reply = (void *)client->reply;

    reply->ticket = 0;
    while (reply->ticket != ticket)
        if (client_take(client, -1) < 0)
            return -1;
    CHECK_EQ(reply->id, id);
    return reply->result;
}

/* Waits for a DONE; gives its result. */
static inline int
client_wait_done(struct client *client, uint64_t ticket)
{
    for (;;) {
        for (int i = 0; i < client->dones; i++)
            if (client->done[i] == ticket)
                return client->done_result[i];
        CHECK_EQ(client_take(client, -1), 1);
    }
}

static inline bool
client_is_done(struct client *client, uint64_t ticket)
{
    while (client_take(client, 0) > 0)
        continue;
    for (int i = 0; i < client->dones; i++)
        if (client->done[i] == ticket)
            return true;
    return false;
}

#define CALL(client, call, ...)                                                            \
    ({                                                                                     \
        struct fdc_req_##call message_ = { { 0 }, __VA_ARGS__ };                           \
        client_call((client), &message_, sizeof(message_), FDC_ID_##call);                 \
    })
#define SEND(client, call, how, ...)                                                       \
    ({                                                                                     \
        struct fdc_req_##call message_ = { { 0 }, __VA_ARGS__ };                           \
        client_send((client), &message_, sizeof(message_), FDC_ID_##call, (how));          \
    })
#define REPLY(client, call) ((const struct fdc_rep_##call *)(client)->reply)

/* The program's host function has returned. */
static inline void
client_answer_host_fn(struct client *client, uint64_t number)
{
    struct fdc_msg *message;
    int err;

    message = fdc_link_claim(client->link, FDC_LANE_SIDE, sizeof(*message), &err);
    CHECK(message != NULL);
    *message = (struct fdc_msg){
        .size = sizeof(*message), .id = FDC_SIDE_HOST_FN_DONE, .ticket = number,
    };
    fdc_link_commit(client->link, FDC_LANE_SIDE);
    fdc_link_flush(client->link, FDC_LANE_SIDE);
}

static inline void
client_open_gate(struct client *client, uint32_t word, uint32_t value)
{
    struct fdc_msg *message;
    int err;

    message = fdc_link_claim(client->link, FDC_LANE_SIDE, sizeof(*message), &err);
    CHECK(message != NULL);
    *message = (struct fdc_msg){
        .size = sizeof(*message), .id = FDC_SIDE_GATE, .ctx = 1,
        .ticket = (uint64_t)word << 32 | value,
    };
    fdc_link_commit(client->link, FDC_LANE_SIDE);
    fdc_link_flush(client->link, FDC_LANE_SIDE);
}

/* Attaches and opens the first device; gives the start of its address piece. */
static inline uint64_t
client_attach(struct client *client)
{
    const struct fdc_snapshot *snapshot = (void *)client->down;
    const struct fdc_snapshot_device *device;

    CHECK_EQ(CALL(client, fdcAttach, .blob = { 0, 65536 }), 0);
    device = (void *)(client->down + snapshot->device_offset);
    CHECK_EQ(CALL(client, fdcContextOpen, .context = CTX), 0);
    return device->piece_base;
}

static inline void
client_grow(struct client *client, uint64_t address, uint64_t size)
{
    CHECK_EQ(CALL(client, fdcMemGrow, .address = address, .size = size), 0);
}

/* Loads PTX text as module or library `handle`; the table is in DOWN. */
static inline int
client_load(struct client *client, uint16_t id, uint64_t handle, const char *text)
{
    struct fdc_req_fdcImageBegin begin = { .image = handle, .size = strlen(text) };
    uint64_t ticket;

    fdc_sha256(text, strlen(text), begin.sha256.bytes);
    client_send(client, &begin, sizeof(begin), FDC_ID_fdcImageBegin, 0);
    memcpy(client->up, text, strlen(text));
    ticket = SEND(client, fdcImageChunk, FDC_MSG_DONE, .image = handle,
                  .chunk = { 0, strlen(text) });
    CHECK_EQ(client_wait_done(client, ticket), 0);
    if (id == FDC_ID_fdcLibraryLoad)
        return CALL(client, fdcLibraryLoad, .library = handle, .image = handle,
                    .blob = { 0, 65536 });
    return CALL(client, fdcModuleLoad, .module = handle, .image = handle,
                .blob = { 0, 65536 });
}

static const char client_ptx[] =
    ".version 7.0\n.target sm_50\n.address_size 64\n"
    ".global .align 4 .u32 counter = 7;\n"
    ".visible .entry add(.param .u64 to, .param .u64 from, .param .u32 n)\n{\n"
    "  .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %d<8>;\n"
    "  ld.param.u64 %d1, [to]; ld.param.u64 %d2, [from]; ld.param.u32 %r1, [n];\n"
    "  mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;\n"
    "  mad.lo.s32 %r5, %r2, %r3, %r4;\n"
    "  setp.ge.u32 %p, %r5, %r1;\n  @%p bra DONE;\n"
    "  mul.wide.u32 %d3, %r5, 4;\n  add.s64 %d1, %d1, %d3;\n  add.s64 %d2, %d2, %d3;\n"
    "  ld.global.u32 %r6, [%d1];\n  ld.global.u32 %r7, [%d2];\n"
    "  add.s32 %r6, %r6, %r7;\n  st.global.u32 [%d1], %r6;\n"
    "DONE:\n  ret;\n}\n";

/* add(to, from, n) over n words. */
static inline uint64_t
client_launch_add(struct client *client, uint64_t code, uint64_t stream, unsigned flags,
                  uint64_t to, uint64_t from, uint32_t n)
{
    struct {
        struct fdc_req_fdcLaunch req;
        struct { uint64_t to, from; uint32_t n, pad; } params;
    } message = {
        .req = {
            .func = { .code = code },
            .grid = { (n + 127) / 128, 1, 1 },
            .block = { 128, 1, 1 },
            .stream = stream,
            .params = { sizeof(struct fdc_req_fdcLaunch), 20 },
            .params_size = 20,
        },
        .params = { to, from, n, 0 },
    };

    return client_send(client, &message, sizeof(message), FDC_ID_fdcLaunch, flags);
}

/* Bytes of device memory, through DOWN. */
static inline void
client_read(struct client *client, uint64_t address, uint64_t stream, void *bytes,
            uint64_t size)
{
    uint64_t ticket = SEND(client, fdcCopyDown, FDC_MSG_DONE, .src = address,
                           .stream = stream, .chunk = { 1 << 20, size });

    CHECK_EQ(client_wait_done(client, ticket), 0);
    memcpy(bytes, client->down + (1 << 20), size);
}

static inline void
client_write(struct client *client, uint64_t address, uint64_t stream, const void *bytes,
             uint64_t size)
{
    uint64_t ticket;

    memcpy(client->up + (1 << 20), bytes, size);
    ticket = SEND(client, fdcCopyUp, FDC_MSG_DONE, .dst = address, .stream = stream,
                  .chunk = { 1 << 20, size });
    CHECK_EQ(client_wait_done(client, ticket), 0);
}

/* A message beside the lane of commands. */
static inline void
client_side(struct client *client, uint16_t id, uint32_t ctx, uint64_t ticket)
{
    struct fdc_msg *message;
    int err;

    message = fdc_link_claim(client->link, FDC_LANE_SIDE, sizeof(*message), &err);
    if (message == NULL)
        return;
    *message = (struct fdc_msg){
        .size = sizeof(*message), .id = id, .ctx = ctx, .ticket = ticket,
    };
    fdc_link_commit(client->link, FDC_LANE_SIDE);
    fdc_link_flush(client->link, FDC_LANE_SIDE);
}

/* The calls that may be tried with anything; returns how many. */
static inline uint32_t
client_ids(uint16_t ids[CLIENT_IDS])
{
    uint32_t n = 0;

    for (uint32_t id = 0; id < 0x10000 && n < CLIENT_IDS; id++)
        /* Nothing ever ends a wait for a value in memory but the driver's end. */
        if (fdc_serve_entry((uint16_t)id) && id != FDC_ID_cuStreamWaitValue32_v2 &&
            id != FDC_ID_cuStreamWaitValue64_v2)
            ids[n++] = (uint16_t)id;
    CHECK(n > 50);
    return n;
}

#endif
