/* The worker's side of a session, on the CPU device, with a client that fills messages by
 * hand. */
#include <signal.h>
#include <sys/stat.h>

#include "client.h"
#include "fdc/graph.h"

enum { N = 10000 };

#define STREAM(n) FDC_HANDLE(FDC_KIND_STREAM, 1, n)
#define EVENT(n) FDC_HANDLE(FDC_KIND_EVENT, 1, n)
#define MODULE FDC_HANDLE(FDC_KIND_MODULE, 1, 1)
#define LIBRARY FDC_HANDLE(FDC_KIND_LIBRARY, 1, 1)
#define GRAPH FDC_HANDLE(FDC_KIND_GRAPH, 1, 1)
#define EXEC FDC_HANDLE(FDC_KIND_GRAPH_EXEC, 1, 1)
#define LEGACY 1

static void
test_snapshot_shows_the_slice(void)
{
    static struct client client;
    struct fdc_snapshot snapshot;
    struct fdc_snapshot_device device;
    uint8_t pieces[65536];
    uint64_t total, at;

    client_open(&client);
    CHECK_EQ(CALL(&client, fdcAttach, .blob = { 0, 1000 }), 0);
    total = REPLY(&client, fdcAttach)->total;
    CHECK(total > 1000 && total < sizeof(pieces));
    /* The rest of the blob, in small helpings. */
    memcpy(pieces, client.down, 1000);
    for (at = 1000; at < total; at += 300) {
        CHECK_EQ(CALL(&client, fdcBlobRead, .offset = at, .chunk = { 64, 300 }), 0);
        CHECK_EQ(REPLY(&client, fdcBlobRead)->got, total - at < 300 ? total - at : 300);
        memcpy(pieces + at, client.down + 64, REPLY(&client, fdcBlobRead)->got);
    }
    memcpy(&snapshot, pieces, sizeof(snapshot));
    CHECK_EQ(snapshot.size, total);
    CHECK_EQ(snapshot.device_count, 1);
    memcpy(&device, pieces + snapshot.device_offset, sizeof(device));
    CHECK(strstr(device.name, "CPU device") != NULL);
    CHECK_EQ(device.memory, SLICE);
    CHECK(device.physical_memory >= SLICE);
    CHECK(device.granularity != 0);
    CHECK(device.piece_base >= 0x400000000000 && device.piece_base < 0x500000000000);
    CHECK(device.piece_size >= 2 * SLICE);
    CHECK_EQ(device.attribute[CU_DEVICE_ATTRIBUTE_WARP_SIZE], 32);
    client_close(&client, 0);
}

static void
test_memory_stops_at_the_slice(void)
{
    static struct client client;
    uint8_t bytes[4096], zero[4096] = { 0 };
    uint64_t base;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 32 << 20);
    client_grow(&client, base + (64 << 20), 32 << 20);
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base + (128 << 20), .size = 2 << 20),
             CUDA_ERROR_OUT_OF_MEMORY);
    /* Not inside a piece, not aligned, already there. */
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = 0x100000000, .size = 2 << 20),
             CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base + 4096, .size = 2 << 20),
             CUDA_ERROR_INVALID_VALUE);
    SEND(&client, fdcMemShrink, 0, .address = base + (64 << 20));
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base + (30 << 20), .size = 4 << 20),
             CUDA_ERROR_INVALID_VALUE);
    client_grow(&client, base + (128 << 20), 32 << 20);
    client_read(&client, base + (128 << 20), LEGACY, bytes, sizeof(bytes));
    CHECK_BYTES(bytes, zero, sizeof(bytes));
    client_close(&client, 0);
}

static void
test_bytes_go_up_and_come_down(void)
{
    static struct client client;
    static uint8_t bytes[300000], back[300000];
    struct {
        struct fdc_req_fdcCopyUpInline req;
        uint8_t bytes[64];
    } small = { .req = { .stream = LEGACY, .size = 64,
                         .bytes = { sizeof(struct fdc_req_fdcCopyUpInline), 64 } } };
    struct fdc_copy3d box = {
        .dst = { .memory = FDC_COPY_DEVICE, .pitch = 256, .height = 8, .x = 16, .y = 2 },
        .width = 64, .height = 4, .depth = 2,
    };
    uint64_t base, ticket;

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 4 << 20);
    client_write(&client, base, LEGACY, bytes, sizeof(bytes));
    client_read(&client, base, LEGACY, back, sizeof(back));
    CHECK_BYTES(back, bytes, sizeof(bytes));

    memset(small.bytes, 0xab, 64);
    small.req.dst = base + 100;
    client_send(&client, &small, sizeof(small), FDC_ID_fdcCopyUpInline, 0);
    client_read(&client, base + 100, LEGACY, back, 64);
    CHECK_BYTES(back, small.bytes, 64);

    /* A box of 2 slices of 4 rows of 64 bytes into a picture of 256 by 8. */
    SEND(&client, cuMemsetD8Async, 0, .dstDevice = base, .N = 1 << 20, .hStream = LEGACY);
    box.dst.base = base;
    memcpy(client.up, bytes, 512);
    ticket = SEND(&client, fdcCopy3DUp, FDC_MSG_DONE, .copy = box, .stream = LEGACY,
                  .chunk = { 0, 512 });
    CHECK_EQ(client_wait_done(&client, ticket), 0);
    for (int z = 0; z < 2; z++)
        for (int y = 0; y < 4; y++) {
            client_read(&client, base + (uint64_t)(z * 8 + y + 2) * 256, LEGACY, back, 256);
            CHECK_BYTES(back + 16, bytes + (z * 4 + y) * 64, 64);
            CHECK_EQ(back[15], 0);
            CHECK_EQ(back[80], 0);
        }
    box.src = box.dst;
    memset(&box.dst, 0, sizeof(box.dst));
    ticket = SEND(&client, fdcCopy3DDown, FDC_MSG_DONE, .copy = box, .stream = LEGACY,
                  .chunk = { 4096, 512 });
    CHECK_EQ(client_wait_done(&client, ticket), 0);
    CHECK_BYTES(client.down + 4096, bytes, 512);

    /* Not the session's memory: the worker's own, for one. */
    ticket = SEND(&client, fdcCopyDown, FDC_MSG_DONE, .src = (uintptr_t)bytes,
                  .stream = LEGACY, .chunk = { 0, 64 });
    CHECK_EQ(client_wait_done(&client, ticket), CUDA_ERROR_INVALID_VALUE);
    client_close(&client, 0);
}

static void
check_add(struct client *client, uint16_t id, uint64_t code)
{
    const struct fdc_table_module *table = (void *)client->down;
    const struct fdc_table_kernel *kernel;
    const struct fdc_table_param *param;
    static uint32_t a[N], b[N], sum[N];
    uint64_t base;

    base = client_attach(client);
    client_grow(client, base, 4 << 20);
    CHECK_EQ(client_load(client, id, code, client_ptx), 0);
    CHECK_EQ(table->kernel_count, 1);
    kernel = (void *)(client->down + table->kernel_offset);
    CHECK_STR((char *)client->down + kernel->name_offset, "add");
    CHECK_EQ(kernel->param_count, 3);
    CHECK_EQ(kernel->param_bytes, 20);
    param = (void *)(client->down + kernel->param_offset);
    CHECK_EQ(param[2].offset, 16);
    CHECK_EQ(param[2].size, 4);
    CHECK(kernel->attribute[CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK] >= 128);

    for (int i = 0; i < N; i++) {
        a[i] = (uint32_t)i;
        b[i] = (uint32_t)(i * i);
    }
    client_write(client, base, LEGACY, a, sizeof(a));
    client_write(client, base + (1 << 20), LEGACY, b, sizeof(b));
    client_launch_add(client, code, LEGACY, 0, base, base + (1 << 20), N);
    client_read(client, base, LEGACY, sum, sizeof(sum));
    for (int i = 0; i < N; i++)
        CHECK_EQ(sum[i], a[i] + b[i]);
}

static void
test_module_adds(void)
{
    static struct client client;
    struct {
        struct fdc_req_fdcGlobal req;
        char name[8];
    } global = { .req = { .code = MODULE, .name = { sizeof(struct fdc_req_fdcGlobal), 8 } },
                 .name = "counter" };
    uint32_t value;

    client_open(&client);
    check_add(&client, FDC_ID_fdcModuleLoad, MODULE);
    CHECK_EQ(client_call(&client, &global, sizeof(global), FDC_ID_fdcGlobal), 0);
    CHECK_EQ(REPLY(&client, fdcGlobal)->size, 4);
    client_read(&client, REPLY(&client, fdcGlobal)->address, LEGACY, &value, 4);
    CHECK_EQ(value, 7);
    SEND(&client, cuModuleUnload, 0, .hmod = MODULE);
    CHECK_EQ(client_call(&client, &global, sizeof(global), FDC_ID_fdcGlobal),
             CUDA_ERROR_INVALID_HANDLE);
    client_close(&client, 0);
}

static void
test_library_adds(void)
{
    static struct client client;

    client_open(&client);
    check_add(&client, FDC_ID_fdcLibraryLoad, LIBRARY);
    SEND(&client, cuLibraryUnload, 0, .library = LIBRARY);
    client_close(&client, 0);
}

static void
test_image_must_have_its_hash(void)
{
    static struct client client;
    struct fdc_req_fdcImageBegin begin = { .image = 5, .size = sizeof(client_ptx) };
    const struct fdc_table_module *table = (void *)client.down;

    client_open(&client);
    client_attach(&client);
    client_send(&client, &begin, sizeof(begin), FDC_ID_fdcImageBegin, 0);
    /* Announced, and nobody has its bytes. */
    CHECK_EQ(CALL(&client, fdcModuleLoad, .module = MODULE, .image = 5,
                  .blob = { 0, 65536 }), 0);
    CHECK_EQ(REPLY(&client, fdcModuleLoad)->missing, 2);
    CHECK_EQ(REPLY(&client, fdcModuleLoad)->total, 0);
    SEND(&client, fdcImageChunk, FDC_MSG_DONE, .image = 5, .chunk = { 0, 8 });
    CHECK_EQ(CALL(&client, fdcModuleLoad, .module = MODULE, .image = 5,
                  .blob = { 0, 65536 }), CUDA_ERROR_INVALID_IMAGE);
    /* It went with the load; and what is no PTX comes back with a log. */
    CHECK_EQ(CALL(&client, fdcModuleLoad, .module = MODULE, .image = 5,
                  .blob = { 0, 65536 }), CUDA_ERROR_INVALID_VALUE);
    CHECK(client_load(&client, FDC_ID_fdcModuleLoad, MODULE,
                      ".version 7.0\n.target sm_50\n.address_size 64\n.entry f( { }") > 0);
    table = (void *)client.down;
    CHECK(REPLY(&client, fdcModuleLoad)->total >= sizeof(*table));
    CHECK(table->error_size > 0);
    client_close(&client, 0);
}

/* Loads or links bytes as an image of this kind. */
static int
load_bytes(struct client *client, const void *bytes, size_t size, uint32_t kind, bool link)
{
    struct fdc_req_fdcImageBegin begin = { .image = 77, .size = size };
    struct {
        struct fdc_req_fdcLinkRun req;
        struct fdc_link_input input;
        char name[8];
    } run = {
        .req = {
            .inputs = { sizeof(run.req), sizeof(run.input) },
            .inputs_size = sizeof(run.input),
            .names = { sizeof(run.req) + sizeof(run.input), 8 },
            .names_size = 8,
            .blob = { 0, 65536 },
        },
        .input = { .image = 77, .type = CU_JIT_INPUT_FATBINARY },
        .name = "input",
    };
    uint64_t ticket;

    fdc_sha256(bytes, size, begin.sha256.bytes);
    client_send(client, &begin, sizeof(begin), FDC_ID_fdcImageBegin, 0);
    memcpy(client->up, bytes, size);
    ticket = SEND(client, fdcImageChunk, FDC_MSG_DONE, .image = 77, .chunk = { 0, size });
    CHECK_EQ(client_wait_done(client, ticket), 0);
    if (link)
        return client_call(client, &run, sizeof(run), FDC_ID_fdcLinkRun);
    return CALL(client, fdcModuleLoad, .module = FDC_HANDLE(FDC_KIND_MODULE, 1, 9),
                .image = 77, .kind = kind, .blob = { 0, 65536 });
}

/* An image is bytes, never addresses: not as a whole, and not where it has parts. */
static void
test_images_that_lie_are_refused(void)
{
    static struct client client;
    struct { uint32_t magic, version; uint64_t data, aux; } wrapper = {
        0x466243b1, 2, 0x1000, 0x1000,
    };
    struct { uint32_t magic; uint16_t version, head; uint64_t size; } fatbin = {
        0xba55ed50, 1, 16, 0,
    };
    struct {
        uint32_t count, pad;
        struct { uint64_t offset, size; } unit[2];
        uint8_t bytes[64];
    } units = { .count = 2, .unit = { { 40, 16 }, { 56, 16 } } };

    client_open(&client);
    client_attach(&client);
    CHECK_EQ(load_bytes(&client, &wrapper, sizeof(wrapper), FDC_IMAGE_FATBIN, false),
             CUDA_ERROR_INVALID_IMAGE);
    CHECK_EQ(load_bytes(&client, &wrapper, sizeof(wrapper), 0, true),
             CUDA_ERROR_INVALID_IMAGE);
#define UNITS load_bytes(&client, &units, sizeof(units), FDC_IMAGE_UNITS, false)
    CHECK_EQ(UNITS, CUDA_ERROR_INVALID_IMAGE);          /* no fat binaries */
    memcpy(units.bytes, &fatbin, 16);
    memcpy(units.bytes + 16, &fatbin, 16);
    CHECK(UNITS != CUDA_ERROR_INVALID_IMAGE);           /* sound, but empty */
    units.count = UINT32_MAX;
    CHECK_EQ(UNITS, CUDA_ERROR_INVALID_IMAGE);
    units.count = 2;
    units.unit[1].offset = UINT64_MAX - 7;
    CHECK_EQ(UNITS, CUDA_ERROR_INVALID_IMAGE);
    units.unit[1].offset = sizeof(units) - 8;
    CHECK_EQ(UNITS, CUDA_ERROR_INVALID_IMAGE);
    units.unit[1].offset = 56;
    fatbin.size = 4096;
    memcpy(units.bytes + 16, &fatbin, 16);
    CHECK_EQ(UNITS, CUDA_ERROR_INVALID_IMAGE);
    client_close(&client, 0);
}

static void
test_streams_and_events_keep_order(void)
{
    static struct client client;
    static uint32_t words[N];
    uint64_t base, mark;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 4 << 20);
    CHECK_EQ(client_load(&client, FDC_ID_fdcModuleLoad, MODULE, client_ptx), 0);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(2), .flags = 1);
    SEND(&client, cuEventCreate, 0, .phEvent = EVENT(1), .Flags = CU_EVENT_DISABLE_TIMING);
    SEND(&client, cuMemsetD32Async, 0, .dstDevice = base, .ui = 1, .N = N,
         .hStream = STREAM(1));
    SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(1), .hStream = STREAM(1));
    SEND(&client, cuStreamWaitEvent, 0, .hStream = STREAM(2), .hEvent = EVENT(1));
    for (int i = 0; i < 10; i++)
        client_launch_add(&client, MODULE, STREAM(2), 0, base, base, N);
    mark = SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(2));
    CHECK_EQ(CALL(&client, cuEventSynchronize, .hEvent = EVENT(1)), 0);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(2)), 0);
    /* What was complete before is known before. */
    CHECK(client_is_done(&client, mark));
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(2)), 0);
    CHECK_EQ(CALL(&client, cuEventQuery, .hEvent = EVENT(1)), 0);
    client_read(&client, base, STREAM(1), words, sizeof(words));
    for (int i = 0; i < N; i++)
        CHECK_EQ(words[i], 1024);

    /* The work of a destroyed stream counts for the context. */
    client_launch_add(&client, MODULE, STREAM(2), 0, base, base, N);
    SEND(&client, cuStreamDestroy_v2, 0, .hStream = STREAM(2));
    mark = SEND(&client, fdcFence, FDC_MSG_DONE);
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK(client_is_done(&client, mark));
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(2)), CUDA_ERROR_INVALID_HANDLE);
    client_read(&client, base, STREAM(1), words, sizeof(words));
    CHECK_EQ(words[N - 1], 2048);
    SEND(&client, cuEventDestroy_v2, 0, .hEvent = EVENT(1));
    client_close(&client, 0);
}

static uint64_t
marked(struct client *client)
{
    struct fdc_serve_counters counters;

    fdc_serve_get_counters(client->serve, &counters);
    return counters.waits;
}

static void
test_what_is_idle_is_waited_for_without_a_mark(void)
{
    static struct client client;
    uint32_t word = 0;
    uint64_t base, before;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 4 << 20);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    SEND(&client, cuMemsetD32Async, 0, .dstDevice = base, .ui = 7, .N = 1,
         .hStream = STREAM(1));
    before = marked(&client);
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(marked(&client), before + 1);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
        CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)), 0);
    }
    CHECK_EQ(marked(&client), before + 1);
    SEND(&client, cuMemsetD32Async, 0, .dstDevice = base, .ui = 8, .N = 1,
         .hStream = STREAM(1));
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    client_read(&client, base, STREAM(1), &word, sizeof(word));
    CHECK_EQ(word, 8);
    client_close(&client, 0);
}

static void
test_host_function_holds_its_stream(void)
{
    static struct client client;
    uint64_t base, mark, down;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 2 << 20);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    SEND(&client, cuEventCreate, 0, .phEvent = EVENT(1));
    down = SEND(&client, fdcCopyDown, FDC_MSG_DONE, .src = base, .stream = STREAM(1),
                .chunk = { 0, 4096 });
    SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = 77);
    SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(1), .hStream = STREAM(1));
    mark = SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(1));
    while (client.host_fns == 0)
        CHECK_EQ(client_take(&client, -1), 1);
    CHECK_EQ(client.host_fn[0], 77);
    CHECK(client_is_done(&client, down));       /* its bytes are there first */
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_NOT_READY);
    CHECK(!client_is_done(&client, mark));

    /* Somebody waits for the event; recording it again does not make that longer. */
    {
        struct fdc_req_cuEventSynchronize wait = { .hEvent = EVENT(1) };
        uint64_t ticket = client_send(&client, &wait, sizeof(wait),
                                      FDC_ID_cuEventSynchronize, FDC_MSG_REPLY);
        struct fdc_reply *reply = (void *)client.reply;

        SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = 78);
        SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(1), .hStream = STREAM(1));
        client_answer_host_fn(&client, 77);
        while (reply->ticket != ticket)
            CHECK_EQ(client_take(&client, -1), 1);
        CHECK_EQ(reply->result, 0);
    }
    CHECK_EQ(client_wait_done(&client, mark), 0);
    while (client.host_fns < 2)
        CHECK_EQ(client_take(&client, -1), 1);
    CHECK_EQ(CALL(&client, cuEventQuery, .hEvent = EVENT(1)), CUDA_ERROR_NOT_READY);
    client_answer_host_fn(&client, 78);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)), 0);

    /* Nobody answers this one: the session ends all the same. */
    SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = 79);
    while (client.host_fns < 3)
        CHECK_EQ(client_take(&client, -1), 1);
    client_close(&client, 0);
}

/* A synchronous copy that the client did not wait for, on a stream that stands still. */
static void
test_copy_comes_before_later_work_elsewhere(void)
{
    static struct client client;
    uint64_t base, down, before, behind;
    struct {
        struct fdc_req_fdcCopyUpInline req;
        uint8_t bytes[64];
    } small = { .req = { .stream = LEGACY, .size = 64,
                         .bytes = { sizeof(struct fdc_req_fdcCopyUpInline), 64 } } };

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 2 << 20);
    memset(small.bytes, 0xab, 64);
    small.req.dst = base;
    for (int i = 1; i <= 3; i++)
        SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(i), .flags = 1);
    SEND(&client, fdcHostFn, 0, .stream = LEGACY, .number = 77);
    before = SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(1));
    client_send(&client, &small, sizeof(small), FDC_ID_fdcCopyUpInline, FDC_MSG_FIRST);
    down = SEND(&client, fdcCopyDown, FDC_MSG_DONE, .src = base, .stream = STREAM(1),
                .chunk = { 0, 64 });
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(4), .flags = 1);
    behind = SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(4));
    while (client.host_fns == 0)
        CHECK_EQ(client_take(&client, -1), 1);
    CHECK_EQ(client_wait_done(&client, before), 0);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_NOT_READY);
    CHECK(!client_is_done(&client, down));
    CHECK(!client_is_done(&client, behind));
    client_answer_host_fn(&client, 77);
    CHECK_EQ(client_wait_done(&client, down), 0);
    CHECK_EQ(client_wait_done(&client, behind), 0);
    CHECK_BYTES(client.down, small.bytes, 64);
    /* It is over, so nothing waits for it any more. */
    SEND(&client, fdcHostFn, 0, .stream = LEGACY, .number = 78);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(3)), 0);
    while (client.host_fns == 1)
        CHECK_EQ(client_take(&client, -1), 1);
    client_answer_host_fn(&client, 78);
    client_close(&client, 0);
}

static void
test_waiting_thread_holds_up_nobody(void)
{
    static struct client client;
    struct fdc_reply *reply = (void *)client.reply;
    struct fdc_req_cuCtxSynchronize wait = { .head.size = 0 };
    uint64_t ticket;

    client_open(&client);
    client_attach(&client);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(2), .flags = 1);
    SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = 1);
    ticket = client_send(&client, &wait, sizeof(wait), FDC_ID_cuCtxSynchronize,
                         FDC_MSG_REPLY);
    for (int i = 0; i < 50; i++)
        CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(2)), 0);
    CHECK(reply->ticket != ticket);
    while (client.host_fns == 0)
        CHECK_EQ(client_take(&client, -1), 1);
    client_answer_host_fn(&client, 1);
    while (reply->ticket != ticket)
        CHECK_EQ(client_take(&client, -1), 1);
    CHECK_EQ(reply->result, 0);
    client_close(&client, 0);
}

static void
test_first_failure_comes_with_a_later_answer(void)
{
    static struct client client;
    const struct fdc_reply *reply = (void *)client.reply;

    client_open(&client);
    client_attach(&client);
    SEND(&client, cuEventRecordWithFlags, 0, .hEvent = EVENT(9), .hStream = LEGACY);
    SEND(&client, cuStreamDestroy_v2, 0, .hStream = STREAM(9));
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(reply->first_result, CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(reply->first_id, FDC_ID_cuEventRecordWithFlags);
    CHECK_EQ(CALL(&client, cuCtxSynchronize), 0);
    CHECK_EQ(reply->first_result, 0);
    client_close(&client, 0);
}

static void
test_stale_and_foreign_handles_are_refused(void)
{
    static struct client client;

    client_open(&client);
    client_attach(&client);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1));
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), 0);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1) | 1),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = FDC_HANDLE(FDC_KIND_STREAM, 2, 1)),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = FDC_HANDLE(FDC_KIND_EVENT, 1, 1)),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(0xfffff)),
             CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = UINT64_MAX), CUDA_ERROR_INVALID_HANDLE);
    SEND(&client, cuStreamDestroy_v2, 0, .hStream = STREAM(1));
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_INVALID_HANDLE);
    SEND(&client, cuStreamCreateWithPriority, 0,
         .phStream = FDC_HANDLE(FDC_KIND_STREAM, 2, 1));
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = FDC_HANDLE(FDC_KIND_STREAM, 2, 1)), 0);
    client_close(&client, 0);
}

static void
test_context_starts_afresh_after_reset(void)
{
    static struct client client;
    uint64_t base;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 2 << 20);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1));
    SEND(&client, cuEventCreate, 0, .phEvent = EVENT(1));
    CHECK_EQ(client_load(&client, FDC_ID_fdcModuleLoad, MODULE, client_ptx), 0);
    CHECK_EQ(CALL(&client, fdcContextReset, .context = CTX), 0);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = LEGACY),
             CUDA_ERROR_CONTEXT_IS_DESTROYED);
    CHECK_EQ(CALL(&client, fdcContextOpen, .context = CTX), 0);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = LEGACY), 0);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_INVALID_HANDLE);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1));
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)), 0);
    client_close(&client, 0);
}

static void
test_programs_own_memory_counts(void)
{
    static struct client client;
    uint64_t base, memory = FDC_HANDLE(FDC_KIND_MEMORY, 1, 1);
    uint8_t bytes[16] = "0123456789abcde", back[16];

    client_open(&client);
    base = client_attach(&client);
    CHECK_EQ(CALL(&client, fdcMemCreate, .memory = memory, .size = 48 << 20), 0);
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base, .size = 32 << 20),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, fdcMemMap, .address = base + (256 << 20), .size = 48 << 20,
                  .memory = memory), 0);
    CHECK_EQ(CALL(&client, fdcMemAccess, .address = base + (256 << 20), .size = 48 << 20,
                  .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE), 0);
    client_write(&client, base + (256 << 20), LEGACY, bytes, 16);
    client_read(&client, base + (256 << 20), LEGACY, back, 16);
    CHECK_BYTES(back, bytes, 16);
    SEND(&client, fdcMemRelease, 0, .memory = memory);
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base, .size = 32 << 20),
             CUDA_ERROR_OUT_OF_MEMORY);         /* still mapped */
    CHECK_EQ(CALL(&client, fdcMemUnmap, .address = base + (256 << 20), .size = 48 << 20), 0);
    client_grow(&client, base, 32 << 20);
    client_close(&client, 0);
}

static void
test_arrays_count(void)
{
    static struct client client;
    CUDA_ARRAY3D_DESCRIPTOR desc = {
        .Width = 4096, .Height = 4096, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1,
    };
    uint64_t base, array = FDC_HANDLE(FDC_KIND_ARRAY, 1, 1), level = array + 16;
    uint64_t mipmap = FDC_HANDLE(FDC_KIND_MIPMAP, 1, 1);

    client_open_sized(&client, 96 << 20);
    base = client_attach(&client);
    CHECK_EQ(CALL(&client, cuArray3DCreate_v2, .pHandle = array, .pAllocateArray = desc), 0);
    client_grow(&client, base, 32 << 20);
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base + (32 << 20), .size = 2 << 20),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(CALL(&client, cuArray3DCreate_v2, .pHandle = level, .pAllocateArray = desc),
             CUDA_ERROR_OUT_OF_MEMORY);
    SEND(&client, cuArrayDestroy, 0, .hArray = array);

    /* A third more for the levels, which are not arrays to destroy. */
    desc.Width = desc.Height = 2048;
    CHECK_EQ(CALL(&client, cuMipmappedArrayCreate, .pHandle = mipmap,
                  .pMipmappedArrayDesc = desc, .numMipmapLevels = 12), 0);
    CHECK_EQ(CALL(&client, fdcMemGrow, .address = base + (32 << 20), .size = 44 << 20),
             CUDA_ERROR_OUT_OF_MEMORY);
    SEND(&client, cuMipmappedArrayGetLevel, 0, .pLevelArray = level,
         .hMipmappedArray = mipmap, .level = 1);
    SEND(&client, cuArrayDestroy, 0, .hArray = level);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = LEGACY), 0);
    CHECK_EQ(((struct fdc_reply *)client.reply)->first_result, CUDA_ERROR_INVALID_HANDLE);
    SEND(&client, cuMipmappedArrayDestroy, 0, .hMipmappedArray = mipmap);
    SEND(&client, cuArrayDestroy, 0, .hArray = level);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = LEGACY), 0);
    CHECK_EQ(((struct fdc_reply *)client.reply)->first_result, CUDA_ERROR_INVALID_HANDLE);

    /* What is left goes with its context. */
    CHECK_EQ(CALL(&client, cuArray3DCreate_v2, .pHandle = array, .pAllocateArray = desc), 0);
    CHECK_EQ(CALL(&client, fdcContextClose, .context = CTX), 0);
    CHECK_EQ(CALL(&client, fdcContextOpen, .context = CTX), 0);
    client_grow(&client, base + (32 << 20), 64 << 20);
    client_close(&client, 0);
}

/* The worker's own memory, which a driver would write to as gladly. */
static void
test_addresses_of_the_worker_are_refused(void)
{
    static struct client client;
    uint64_t base, own;

    client_open(&client);
    base = client_attach(&client);
    client_grow(&client, base, 2 << 20);
    own = (uint64_t)(uintptr_t)fdc_link_region(client.far, FDC_REGION_DOWN, NULL) + (1 << 20);
    memset(client.down + (1 << 20), 0x55, 4096);
#define REFUSED(call, ...)                                                                 \
    do {                                                                                   \
        SEND(&client, call, 0, __VA_ARGS__);                                               \
        CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = LEGACY), 0);                \
        CHECK_EQ(((struct fdc_reply *)client.reply)->first_result,                         \
                 CUDA_ERROR_INVALID_VALUE);                                                \
    } while (0)
    REFUSED(cuMemsetD8Async, .dstDevice = own, .N = 4096, .hStream = LEGACY);
    REFUSED(cuMemsetD32Async, .dstDevice = own, .N = 1024, .hStream = LEGACY);
    REFUSED(cuMemsetD32Async, .dstDevice = base, .N = 1ull << 62, .hStream = LEGACY);
    REFUSED(cuMemsetD2D8Async, .dstDevice = own, .dstPitch = 64, .Width = 64, .Height = 64,
            .hStream = LEGACY);
    /* 2^32 times 2^32 is not nothing. */
    REFUSED(cuMemsetD2D8Async, .dstDevice = base, .dstPitch = 1ull << 32, .Width = 64,
            .Height = (1ull << 32) + 1, .hStream = LEGACY);
    REFUSED(cuMemcpyDtoDAsync_v2, .dstDevice = own, .srcDevice = base, .ByteCount = 4096,
            .hStream = LEGACY);
    REFUSED(cuMemcpyDtoDAsync_v2, .dstDevice = base, .srcDevice = own, .ByteCount = 4096,
            .hStream = LEGACY);
    REFUSED(cuStreamWriteValue32_v2, .stream = LEGACY, .addr = own, .value = 1);
    for (int i = 0; i < 4096; i++)
        CHECK_EQ(client.down[(1 << 20) + i], 0x55);
    client_close(&client, 0);
}

static void
lie(uint16_t id, const void *bytes, uint32_t size)
{
    static struct client client;
    struct fdc_msg *at;
    int err;

    client_open(&client);
    client_attach(&client);
    at = fdc_link_claim(client.link, FDC_LANE_COMMAND, size, &err);
    CHECK(at != NULL);
    memcpy(at, bytes, size);
    if (size >= sizeof(*at) && at->size == 0) {
        at->size = size;
        at->id = id;
        at->ctx = 1;
    }
    fdc_link_commit(client.link, FDC_LANE_COMMAND);
    fdc_link_flush(client.link, FDC_LANE_COMMAND);
    while (client_take(&client, -1) > 0)
        continue;
    client_close(&client, -EPROTO);
}

#define LIE(call, ...)                                                                     \
    do {                                                                                   \
        struct fdc_req_##call lie_ = { { 0 }, __VA_ARGS__ };                               \
        lie(FDC_ID_##call, &lie_, sizeof(lie_));                                           \
    } while (0)

#define GRAPHS(n) FDC_HANDLE(FDC_KIND_GRAPH, 1, n)
#define NODE(n) FDC_HANDLE(FDC_KIND_NODE, 1, n)

/* The driver ends what names stand for: all of them have to end then. */
static void
test_names_end_with_their_graph(void)
{
    static struct client client;
    struct {
        struct fdc_req_fdcGraphAdd req;
        struct fdc_node_handle child;
    } add = { .req = { .graph = GRAPHS(1), .type = CU_GRAPH_NODE_TYPE_GRAPH,
                       .node = NODE(1),
                       .body = { sizeof(struct fdc_req_fdcGraphAdd),
                                 sizeof(struct fdc_node_handle) } },
              .child = { .handle = GRAPHS(2) } };

    client_open(&client);
    client_attach(&client);
    /* Being captured: one name, which ends with its stream. */
    CHECK_EQ(CALL(&client, cuStreamCreateWithPriority, .phStream = STREAM(1), .flags = 1), 0);
    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    CHECK_EQ(CALL(&client, fdcCaptureInfo, .stream = STREAM(1), .graph = GRAPHS(8),
                  .blob = { 0, 4096 }), 0);
    CHECK_EQ(CALL(&client, fdcCaptureInfo, .stream = STREAM(1), .graph = GRAPHS(9),
                  .blob = { 0, 4096 }), CUDA_ERROR_INVALID_HANDLE);
    CHECK_EQ(CALL(&client, cuStreamDestroy_v2, .hStream = STREAM(1)), 0);
    CHECK_EQ(CALL(&client, fdcGraphList, .question = FDC_GRAPH_NODES, .graph = GRAPHS(8),
                  .blob = { 0, 4096 }), CUDA_ERROR_INVALID_HANDLE);

    /* Inside a node: as many as were asked for. */
    CHECK_EQ(CALL(&client, cuGraphCreate, .phGraph = GRAPHS(1)), 0);
    CHECK_EQ(CALL(&client, cuGraphCreate, .phGraph = GRAPHS(2)), 0);
    CHECK_EQ(client_call(&client, &add, sizeof(add), FDC_ID_fdcGraphAdd), 0);
    for (int i = 3; i < 6; i++)
        CHECK_EQ(CALL(&client, fdcGraphChild, .node = NODE(1), .graph = GRAPHS(i)), 0);
    CHECK_EQ(CALL(&client, fdcGraphDestroyNode, .node = NODE(1)), 0);
    for (int i = 3; i < 6; i++)
        CHECK_EQ(CALL(&client, fdcGraphList, .question = FDC_GRAPH_NODES,
                      .graph = GRAPHS(i), .blob = { 0, 4096 }),
                 CUDA_ERROR_INVALID_HANDLE);
    client_close(&client, 0);
}

#define HOST 0x4f8000000000ull

static CUresult
refuse_register(void *memory, size_t size, unsigned flags)
{
    (void)memory, (void)size, (void)flags;
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* A client takes one descriptor for each answer that is good, so there has to be no other. */
static void
test_host_memory_that_fails_sends_no_descriptor(void)
{
    static struct client client;
    __typeof__(client.driver.cuMemHostRegister_v2) registers;
    struct stat stat;
    int fd;

    client_open(&client);
    client_attach(&client);
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 64 << 20), 0);
    registers = client.driver.cuMemHostRegister_v2;
    client.driver.cuMemHostRegister_v2 = refuse_register;
    CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 4 << 20, .shared = 1),
             CUDA_ERROR_OUT_OF_MEMORY);
    client.driver.cuMemHostRegister_v2 = registers;
    CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 2 << 20, .shared = 1), 0);
    CHECK_EQ(fdc_link_take_fd(client.link, HOST, &fd), 0);
    CHECK_EQ(fstat(fd, &stat), 0);
    CHECK_EQ(stat.st_size, 2 << 20);
    close(fd);
    client_close(&client, 0);
}

/* The client's allocator keeps a piece of shared memory for what it allocates later. */
static void
test_whole_piece_of_shared_memory_can_be_had_again(void)
{
    static struct client client;
    int fd;

    client_open(&client);
    client_attach(&client);
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 4 << 20), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(CALL(&client, fdcHostGrow, .address = HOST, .size = 4 << 20,
                      .shared = 1), 0);
        CHECK_EQ(fdc_link_take_fd(client.link, HOST, &fd), 0);
        close(fd);
        SEND(&client, fdcHostShrink, 0, .address = HOST);
    }
    CHECK_EQ(CALL(&client, fdcHostPiece, .address = HOST, .size = 4 << 20),
             CUDA_ERROR_ALREADY_MAPPED);
    client_close(&client, 0);
}

static void
test_lies_end_the_session(void)
{
    struct fdc_msg head = { 0 };

    lie(0x7fff, &head, sizeof(head));                   /* no such call */
    lie(0, &head, 8);                                   /* no head */
    lie(FDC_ID_fdcLaunch, &head, sizeof(head));         /* no fields */
    head.size = 4096;
    lie(FDC_ID_fdcFence, &head, sizeof(head));          /* not its size */
    LIE(fdcCopyUpInline, .bytes = { 4096, 16 }, .size = 16);
    LIE(fdcCopyUpInline, .bytes = { 0, 16 }, .size = 16);
    LIE(fdcCopyUpInline, .bytes = { 32, UINT32_MAX }, .size = UINT32_MAX);
    LIE(fdcCopyUp, .chunk = { UINT64_MAX - 4, 8 });
    LIE(fdcCopyDown, .chunk = { 8 << 20, 1 });
    LIE(fdcCopy3DDown, .copy = { .width = 1ull << 33, .height = 1ull << 33, .depth = 1 },
        .chunk = { 0, 64 });
    LIE(fdcImageChunk, .chunk = { 0, UINT64_MAX });
    LIE(fdcGlobal, .code = UINT64_MAX, .name = { 32, 4 });      /* no NUL at its end */
    LIE(fdcLaunch, .params = { 64, 8 }, .params_size = 16);
    LIE(fdcAttach, .blob = { 0, UINT64_MAX });
}

static void
test_killed_client_leaves_nothing(void)
{
    struct fdc_link_size size = FDC_LINK_SIZE_DEFAULT;
    struct fdc_serve_limits limits = { .devices = 1, .memory = { SLICE } };
    struct fdc_driver driver;
    struct fdc_serve *serve;
    struct fdc_link *link;
    int socks[2], tell[2], status;
    pid_t child;
    char go;

    if (access(DRIVER, R_OK) != 0)
        CHECK_SKIP("the CPU device is not built");
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks), 0);
    CHECK_EQ(pipe(tell), 0);
    child = fork();
    if (child == 0) {
        static struct client client;
        uint64_t base;

        close(socks[0]);
        CHECK_EQ(fdc_link_client(FDC_ROAD_SHM, &socks[1], 1, &client.link), 0);
        client.up = fdc_link_region(client.link, FDC_REGION_UP, NULL);
        client.down = fdc_link_region(client.link, FDC_REGION_DOWN, NULL);
        base = client_attach(&client);
        client_grow(&client, base, 2 << 20);
        SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1));
        SEND(&client, fdcHostFn, 0, .stream = STREAM(1), .number = 1);
        SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(1));
        while (client.host_fns == 0)
            CHECK_EQ(client_take(&client, -1), 1);
        CHECK_EQ(write(tell[1], "x", 1), 1);
        pause();
    }
    close(socks[1]);
    CHECK_EQ(fdc_driver_load(DRIVER, &driver), 0);
    CHECK_EQ(fdc_link_worker(FDC_ROAD_SHM, &socks[0], 1, &size, &link), 0);
    CHECK_EQ(fdc_serve_new(&driver, link, &limits, &serve), 0);
    {
        pthread_t worker;
        static struct client side;

        side.serve = serve;
        CHECK_EQ(pthread_create(&worker, NULL, client_worker, &side), 0);
        CHECK_EQ(read(tell[0], &go, 1), 1);
        CHECK_EQ(kill(child, SIGKILL), 0);
        pthread_join(worker, NULL);
        CHECK_EQ(side.ended, 0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    fdc_serve_free(serve);
    fdc_link_free(link);
    close(tell[0]);
    close(tell[1]);
}

int
main(void)
{
    int failed = 0;

    RUN(test_snapshot_shows_the_slice);
    RUN(test_memory_stops_at_the_slice);
    RUN(test_bytes_go_up_and_come_down);
    RUN(test_module_adds);
    RUN(test_library_adds);
    RUN(test_image_must_have_its_hash);
    RUN(test_images_that_lie_are_refused);
    RUN(test_streams_and_events_keep_order);
    RUN(test_what_is_idle_is_waited_for_without_a_mark);
    RUN(test_host_function_holds_its_stream);
    RUN(test_copy_comes_before_later_work_elsewhere);
    RUN(test_waiting_thread_holds_up_nobody);
    RUN(test_first_failure_comes_with_a_later_answer);
    RUN(test_stale_and_foreign_handles_are_refused);
    RUN(test_context_starts_afresh_after_reset);
    RUN(test_programs_own_memory_counts);
    RUN(test_arrays_count);
    RUN(test_addresses_of_the_worker_are_refused);
    RUN(test_names_end_with_their_graph);
    RUN(test_host_memory_that_fails_sends_no_descriptor);
    RUN(test_whole_piece_of_shared_memory_can_be_had_again);
    RUN(test_lies_end_the_session);
    RUN(test_killed_client_leaves_nothing);
    return failed;
}
