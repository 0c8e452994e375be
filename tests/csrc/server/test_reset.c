/* The end of a context while the executor and others are in the middle of messages about
 * it: nobody may be left holding what has been freed. Meant for SAN=address and =thread. */
#include "client.h"

#define OTHER FDC_HANDLE(FDC_KIND_CONTEXT, 1, 200)
#define THIRD FDC_HANDLE(FDC_KIND_CONTEXT, 1, 201)
#define STREAM(i) FDC_HANDLE(FDC_KIND_STREAM, 1, (i))
#define EVENT(i) FDC_HANDLE(FDC_KIND_EVENT, 1, (i))
#define MODULE FDC_HANDLE(FDC_KIND_MODULE, 1, 9)
#define GRAPH FDC_HANDLE(FDC_KIND_GRAPH, 1, 1)
#define EXEC FDC_HANDLE(FDC_KIND_GRAPH_EXEC, 1, 1)
#define SHADOW FDC_HANDLE(FDC_KIND_SHADOW, 1, 1)

enum { ROUNDS = 60, BYTES = 64, PAUSE_US = 100000 };

static uint64_t
open_contexts(struct client *client)
{
    uint64_t base;

    client_open(client);
    base = client_attach(client);
    client_grow(client, base, 4 << 20);
    CHECK_EQ(CALL(client, fdcContextCreate, .context = OTHER), 0);
    return base;
}

/* Sends that the context shall end; nobody waits yet. */
static uint64_t
begin_close(struct client *client, uint64_t context)
{
    client->ctx = 0;
    ((struct fdc_reply *)client->reply)->ticket = 0;
    return SEND(client, fdcContextClose, FDC_MSG_REPLY, .context = context);
}

static int
end_close(struct client *client, uint64_t ticket)
{
    struct fdc_reply *reply = (void *)client->reply;

    while (reply->ticket != ticket)
        CHECK_EQ(client_take(client, -1), 1);
    return reply->result;
}

/* The close is held up until the executor is in the driver, which it then stays for a
 * while. */
static struct {
    __typeof__(((struct fdc_driver *)NULL)->cuStreamGetFlags) flags;
    __typeof__(((struct fdc_driver *)NULL)->cuStreamCreate) create;
    uint32_t on, entered, left;
} hold;

static CUresult
hold_flags(CUstream stream, unsigned int *flags)
{
    if (fdc_load_acquire(&hold.on)) { /* pairs with the test's store */
        fdc_store_release(&hold.entered, 1); /* pairs with hold_create() */
        usleep(PAUSE_US);
        fdc_store_release(&hold.left, 1); /* pairs with the test's load */
    }
    return hold.flags(stream, flags);
}

static CUresult
hold_create(CUstream *stream, unsigned int flags)
{
    while (fdc_load_acquire(&hold.on) && !fdc_load_acquire(&hold.entered))
        usleep(100);
    return hold.create(stream, flags);
}

static void
hold_prepare(struct fdc_driver *driver)
{
    hold.flags = driver->cuStreamGetFlags;
    hold.create = driver->cuStreamCreate;
    driver->cuStreamGetFlags = hold_flags;
    driver->cuStreamCreate = hold_create;
}

/* The executor has found an event and looks at it again after it has been in the driver;
 * meanwhile the event's context is closed. */
static void
test_context_does_not_end_while_the_executor_is_in_a_message(void)
{
    static struct client client;
    uint64_t ticket;

    client_prepare = hold_prepare;
    open_contexts(&client);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    CHECK_EQ(CALL(&client, fdcCaptureBegin, .stream = STREAM(1)), 0);
    client.ctx = 200;
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(2), .flags = 1);
    SEND(&client, cuEventCreate, 0, .phEvent = EVENT(1), .Flags = 2);
    CHECK_EQ(CALL(&client, cuEventRecordWithFlags, .hEvent = EVENT(1),
                  .hStream = STREAM(2)), 0);
    fdc_store_release(&hold.on, 1); /* pairs with hold_flags() and hold_create() */
    /* This one has the lock of contexts while it stands in hold_create(). */
    SEND(&client, fdcContextCreate, FDC_MSG_REPLY, .context = THIRD);
    usleep(PAUSE_US / 4);
    ticket = begin_close(&client, OTHER);
    usleep(PAUSE_US / 4);
    client.ctx = 200;
    SEND(&client, cuStreamWaitEvent, 0, .hEvent = EVENT(1), .hStream = STREAM(2));
    CHECK_EQ(end_close(&client, ticket), 0);
    CHECK(fdc_load_acquire(&hold.left)); /* pairs with hold_flags() */
    client_close(&client, 0);
}

/* A graph of one copy from a shadow, in the context that messages name now. */
static void
make_graph(struct client *client, uint64_t base)
{
    CHECK_EQ(CALL(client, fdcShadowNew, .shadow = SHADOW, .size = BYTES), 0);
    CHECK_EQ(CALL(client, fdcCaptureBegin, .stream = STREAM(3)), 0);
    SEND(client, fdcCopy3D, 0, .stream = STREAM(3),
         .copy = {
             .src = { .memory = FDC_COPY_SHADOW, .base = SHADOW, .pitch = BYTES,
                      .height = 1 },
             .dst = { .memory = FDC_COPY_DEVICE, .base = base, .pitch = BYTES,
                      .height = 1 },
             .width = BYTES, .height = 1, .depth = 1,
         });
    CHECK_EQ(CALL(client, cuStreamEndCapture, .hStream = STREAM(3), .phGraph = GRAPH), 0);
    CHECK_EQ(CALL(client, fdcGraphMake, .exec = EXEC, .graph = GRAPH), 0);
}

static void
replay(struct client *client, uint64_t number)
{
    struct {
        struct fdc_req_fdcReplay req;
        uint8_t bytes[BYTES];
    } message = {
        .req = {
            .exec = EXEC,
            .stream = STREAM(2),
            .replay = number,
            .bytes = { sizeof(struct fdc_req_fdcReplay), BYTES },
            .size = BYTES,
        },
    };

    client_send(client, &message, sizeof(message), FDC_ID_fdcReplay, 0);
}

/* Work with everything that the context has, by calls that wait for it and some that do
 * not; what comes of them depends on how far its end is. */
static void
use(struct client *client, uint64_t base, int i)
{
    client->ctx = i % 3 != 0 ? 200 : 0;
    SEND(client, cuEventRecordWithFlags, i % 2 ? 0 : FDC_MSG_DONE, .hEvent = EVENT(1),
         .hStream = STREAM(2));
    SEND(client, cuEventSynchronize, FDC_MSG_REPLY, .hEvent = EVENT(1));
    SEND(client, cuStreamWaitEvent, 0, .hEvent = EVENT(1), .hStream = STREAM(2));
    SEND(client, cuEventQuery, FDC_MSG_REPLY, .hEvent = EVENT(1));
    client_launch_add(client, MODULE, STREAM(2), 0, base, base + 4096, 64);
    SEND(client, fdcGraphUpdate, FDC_MSG_REPLY, .exec = EXEC, .graph = GRAPH);
    client->ctx = 200; /* else two contexts shared a shadow, and one is going */
    replay(client, 10 + (uint64_t)i);
    client->ctx = i % 3 != 0 ? 200 : 0;
    SEND(client, cuEventCreate, 0, .phEvent = EVENT(2 + i), .Flags = 2);
    SEND(client, fdcCopyDown, FDC_MSG_DONE, .src = base, .stream = STREAM(2),
         .chunk = { 1 << 20, 256 });
    while (client_take(client, 0) > 0)
        client->dones = 0;
}

static void
test_ends_of_a_context_amid_its_work(void)
{
    static struct client client;
    uint64_t base = open_contexts(&client), ticket;
    int rounds = getenv("FD_TEST_ROUNDS") ? atoi(getenv("FD_TEST_ROUNDS")) : ROUNDS;

    fdc_log_default(FDC_LOG_OFF, "worker");
    for (int round = 0; round < rounds; round++) {
        if (round > 0)
            CHECK_EQ(CALL(&client, fdcContextCreate, .context = OTHER), 0);
        client.ctx = 200;
        for (int i = 2; i <= 3; i++)
            SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(i), .flags = 1);
        SEND(&client, cuEventCreate, 0, .phEvent = EVENT(1), .Flags = 2);
        CHECK_EQ(client_load(&client, FDC_ID_fdcModuleLoad, MODULE, client_ptx), 0);
        make_graph(&client, base);
        for (int i = 0; i < 4; i++)
            use(&client, base, i);
        if (round % 2)
            SEND(&client, cuGraphExecDestroy, 0, .hGraphExec = EXEC);
        ticket = begin_close(&client, OTHER);
        for (int i = 4; i < 10; i++)
            use(&client, base, i);
        client.ctx = 0;
        CHECK_EQ(end_close(&client, ticket), 0);
        SEND(&client, fdcShadowDrop, 0, .shadow = SHADOW);
        for (int i = 1; i < 12; i++)
            SEND(&client, cuEventDestroy_v2, 0, .hEvent = EVENT(i));
        client.dones = 0;
    }
    client_close(&client, 0);
}

int
main(void)
{
    int failed = 0;

    RUN(test_context_does_not_end_while_the_executor_is_in_a_message);
    RUN(test_ends_of_a_context_amid_its_work);
    return failed;
}
