/* Shares of computing time: the account with a clock of the test's own, and what a worker
 * charges, by the account. No test asks how long something took, only which part of it. */
#include <fcntl.h>
#include <sys/mman.h>

#include "client.h"
#include "server/account.h"

#define SECOND_NS 1000000000ull
#define STAND_NS (600 * SECOND_NS / 1000)
#define STREAM(i) FDC_HANDLE(FDC_KIND_STREAM, 1, (i))
#define LEGACY 1

/* ---- the account ---- */

static struct fdc_share_row rows[FDC_SHARE_ROWS];

static void
open_account(uint32_t first, uint32_t second)
{
    memset(rows, 0, sizeof(rows));
    rows[0].gpu = rows[1].gpu = 1;
    rows[0].percent = first;
    rows[1].percent = second;
}

/* Both want the GPU all the time, and whoever may has it for this long; the part of the
 * first in parts of 1,000. */
static uint64_t
compete(const uint64_t kernel_ns[2], uint64_t until)
{
    uint64_t now = 1000 * SECOND_NS, over[2] = { 0 };
    bool alone;
    int has = -1;

    for (until += now; now < until; now += 100000) {
        if (has >= 0 && now >= over[has]) {
            fdc_account_charge(&rows[has], rows[has].percent, kernel_ns[has], now, false);
            has = -1;
        }
        for (int i = 0; i < 2; i++)
            fdc_account_want(&rows[i], now);
        for (int i = 0; i < 2 && has < 0; i++)
            if (fdc_account_may_go(rows, &rows[i], now, &alone)) {
                CHECK(!alone);
                over[has = i] = now + kernel_ns[i];
            }
    }
    return rows[0].spent_ns * 1000 / (rows[0].spent_ns + rows[1].spent_ns);
}

static void
test_both_have_what_they_asked_for(void)
{
    static const uint64_t long_ones[][2] = {
        { 10000000, 10000000 }, { 1000000, 300000000 }, { 400000000, 2000000 },
    };

    for (size_t i = 0; i < FDC_COUNT(long_ones); i++) {
        uint64_t part;

        open_account(70, 30);
        part = compete(long_ones[i], 30 * SECOND_NS);
        CHECK(part >= 650 && part <= 750);
        open_account(10, 90);
        part = compete(long_ones[i], 60 * SECOND_NS);
        CHECK(part >= 50 && part <= 150);
    }
}

static void
test_debt_is_carried_and_has_an_end(void)
{
    uint64_t now = 5000 * SECOND_NS;
    bool alone;

    /* Nine more such parts have to go by. */
    open_account(10, 0);
    fdc_account_want(&rows[0], now - SECOND_NS);
    fdc_account_charge(&rows[0], 10, SECOND_NS, now, false);
    CHECK(!fdc_account_may_go(rows, &rows[0], now + 8 * SECOND_NS, &alone));
    CHECK(fdc_account_may_go(rows, &rows[0], now + 9 * SECOND_NS, &alone));
    CHECK(!alone);

    /* A quarter of an hour at one percent were a day. */
    open_account(1, 0);
    fdc_account_charge(&rows[0], 1, 900 * SECOND_NS, now, false);
    CHECK_EQ(rows[0].spent_ns, 900 * SECOND_NS);
    CHECK(!fdc_account_may_go(rows, &rows[0], now + FDC_ACCOUNT_DEBT_NS - 1, &alone));
    CHECK(fdc_account_may_go(rows, &rows[0], now + FDC_ACCOUNT_DEBT_NS, &alone));

    /* Nobody else was there: it is counted and not owed. */
    open_account(1, 50);
    fdc_account_charge(&rows[0], 1, 900 * SECOND_NS, now, true);
    rows[1].wanted_ns = now;
    CHECK(fdc_account_may_go(rows, &rows[0], now, &alone));
}

/* Who has not wanted the GPU for long finds little when it comes. */
static void
test_little_is_saved(void)
{
    uint64_t now = 5000 * SECOND_NS;
    bool alone;

    open_account(50, 0);
    fdc_account_want(&rows[0], now);
    now += SECOND_NS;
    fdc_account_charge(&rows[0], 50, SECOND_NS, now, false);
    CHECK(!fdc_account_may_go(rows, &rows[0], now + SECOND_NS / 2, &alone));
    CHECK(fdc_account_may_go(rows, &rows[0], now + SECOND_NS, &alone));
}

/* ---- what a worker charges ---- */

struct metered {
    struct client client;
    struct fdc_share_row *rows;
    uint64_t memory;
    int fd;
};

static void
open_metered(struct metered *m)
{
    struct fdc_serve_limits limits = {
        .devices = 1, .memory = { SLICE }, .share_row = { 1 },
    };
    const uint64_t zero = 0;

    m->fd = memfd_create("shares", MFD_CLOEXEC);
    CHECK_EQ(ftruncate(m->fd, sizeof(rows)), 0);
    m->rows = mmap(NULL, sizeof(rows), PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    CHECK(m->rows != MAP_FAILED);
    m->rows[0].gpu = m->rows[1].gpu = 1;
    m->rows[0].percent = 30;
    m->rows[1].percent = 70;
    limits.shares = m->fd;
    client_open_limited(&m->client, &limits);
    m->memory = client_attach(&m->client);
    client_grow(&m->client, m->memory, 2 << 20);
    for (uint32_t i = 1; i <= 3; i++)
        SEND(&m->client, cuStreamCreateWithPriority, 0, .phStream = STREAM(i), .flags = 1);
    SEND(&m->client, cuStreamCreateWithPriority, 0, .phStream = STREAM(4), .flags = 0);
    client_write(&m->client, m->memory, STREAM(3), &zero, sizeof(zero));
    CHECK_EQ(CALL(&m->client, cuCtxSynchronize), 0);
}

static void
let_time_pass(struct client *client, uint64_t ns)
{
    uint64_t until = fdc_now_ns() + ns;

    while (fdc_now_ns() < until)
        CHECK(client_take(client, 10000) >= 0);
}

/* The stream goes on once somebody writes 1 there. */
static void
stand(struct metered *m, uint64_t stream)
{
    SEND(&m->client, cuStreamWaitValue32_v2, 0, .stream = stream, .addr = m->memory,
         .value = 1, .flags = CU_STREAM_WAIT_VALUE_GEQ);
}

static void
go_on(struct metered *m)
{
    SEND(&m->client, cuStreamWriteValue32_v2, 0, .stream = STREAM(3), .addr = m->memory,
         .value = 1);
}

/* Whatever stood, stood this long, and little of it is on the account. */
static void
expect_little(struct metered *m, uint64_t began)
{
    uint64_t stood = fdc_now_ns() - began;

    CHECK_EQ(CALL(&m->client, cuCtxSynchronize), 0);
    client_close(&m->client, 0); /* all is charged */
    CHECK(fdc_load_relaxed(&m->rows[0].spent_ns) < stood / 4 * 3);
    munmap(m->rows, sizeof(rows));
    close(m->fd);
}

static void
test_who_stands_at_a_word_is_not_charged(void)
{
    static struct metered m;
    uint64_t began;

    open_metered(&m);
    began = fdc_now_ns();
    stand(&m, STREAM(1));
    let_time_pass(&m.client, STAND_NS);
    go_on(&m);
    expect_little(&m, began);
}

static void
test_who_stands_at_words_in_a_batch_is_not_charged(void)
{
    static struct metered m;
    struct {
        struct fdc_req_cuStreamBatchMemOp_v2 req;
        CUstreamBatchMemOpParams op[1];
    } message = {
        .req = { .stream = STREAM(1), .count = 1,
                 .paramArray = { sizeof(message.req), sizeof(message.op) } },
    };
    uint64_t began;

    open_metered(&m);
    began = fdc_now_ns();
    message.op[0].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    message.op[0].waitValue.address = m.memory;
    message.op[0].waitValue.value = 1;
    message.op[0].waitValue.flags = CU_STREAM_WAIT_VALUE_GEQ;
    client_send(&m.client, &message, sizeof(message), FDC_ID_cuStreamBatchMemOp_v2, 0);
    let_time_pass(&m.client, STAND_NS);
    go_on(&m);
    expect_little(&m, began);
}

static void
test_who_stands_at_a_gate_is_not_charged(void)
{
    static struct metered m;
    uint64_t began;

    open_metered(&m);
    CHECK_EQ(CALL(&m.client, fdcGateWords), 0);
    began = fdc_now_ns();
    SEND(&m.client, fdcGate, 0, .stream = STREAM(1), .word = 1, .value = 1);
    let_time_pass(&m.client, STAND_NS);
    client_open_gate(&m.client, 1, 1);
    expect_little(&m, began);
}

/* By an event, and by the rules of the NULL stream both ways. */
static void
test_who_is_behind_a_stream_that_stands_is_not_charged(void)
{
    static struct metered m;
    uint64_t began;

    open_metered(&m);
    SEND(&m.client, cuEventCreate, 0, .phEvent = FDC_HANDLE(FDC_KIND_EVENT, 1, 1), .Flags = 2);
    began = fdc_now_ns();
    stand(&m, STREAM(1));
    SEND(&m.client, cuEventRecordWithFlags, 0, .hEvent = FDC_HANDLE(FDC_KIND_EVENT, 1, 1),
         .hStream = STREAM(1));
    SEND(&m.client, cuStreamWaitEvent, 0, .hStream = STREAM(2),
         .hEvent = FDC_HANDLE(FDC_KIND_EVENT, 1, 1));
    SEND(&m.client, cuMemsetD8Async, 0, .dstDevice = m.memory + 4096, .N = 64,
         .hStream = STREAM(2));
    let_time_pass(&m.client, STAND_NS);
    go_on(&m);
    expect_little(&m, began);
}

static void
test_who_is_behind_the_null_stream_is_not_charged(void)
{
    static struct metered m;
    uint64_t began;

    for (int turn = 0; turn < 2; turn++) {
        open_metered(&m);
        began = fdc_now_ns();
        stand(&m, turn ? STREAM(4) : LEGACY);
        SEND(&m.client, cuMemsetD8Async, 0, .dstDevice = m.memory + 4096, .N = 64,
             .hStream = turn ? LEGACY : STREAM(4));
        let_time_pass(&m.client, STAND_NS);
        go_on(&m);
        expect_little(&m, began);
    }
}

static void
test_host_function_is_not_charged(void)
{
    static struct metered m;
    uint64_t began;

    open_metered(&m);
    began = fdc_now_ns();
    SEND(&m.client, fdcHostFn, 0, .stream = STREAM(1), .number = 9);
    let_time_pass(&m.client, STAND_NS);
    CHECK_EQ(m.client.host_fns, 1);
    client_answer_host_fn(&m.client, 9);
    expect_little(&m, began);
}

static const char spin_ptx[] =
    ".version 7.0\n.target sm_50\n.address_size 64\n"
    ".visible .entry spin(.param .u32 turns)\n{\n"
    "  .reg .pred %p; .reg .b32 %r<4>;\n"
    "  ld.param.u32 %r1, [turns];\n  mov.u32 %r2, 0;\n"
    "AGAIN:\n  add.u32 %r2, %r2, 1;\n  setp.lt.u32 %p, %r2, %r1;\n  @%p bra AGAIN;\n"
    "  ret;\n}\n";

static void
compute(struct client *client, uint64_t stream, uint32_t turns)
{
    struct {
        struct fdc_req_fdcLaunch req;
        struct { uint32_t turns, pad; } params;
    } message = {
        .req = {
            .func = { .code = FDC_HANDLE(FDC_KIND_MODULE, 1, 1) },
            .grid = { 1, 1, 1 }, .block = { 1, 1, 1 }, .stream = stream,
            .params = { sizeof(struct fdc_req_fdcLaunch), 4 }, .params_size = 4,
        },
        .params = { turns, 0 },
    };

    client_send(client, &message, sizeof(message), FDC_ID_fdcLaunch, 0);
}

/* One kernel after the other; which part of the time is the machine's. */
static void
compute_for(struct client *client, uint64_t stream, uint64_t ns)
{
    uint64_t until = fdc_now_ns() + ns;

    while (fdc_now_ns() < until) {
        uint64_t ticket;

        compute(client, stream, 1 << 20);
        ticket = SEND(client, fdcMark, FDC_MSG_DONE, .stream = stream);
        CHECK_EQ(client_wait_done(client, ticket), 0);
    }
}

/* What is given behind the wait for a synchronous copy is no part of the wait. */
static void
test_work_behind_a_copy_of_another_stream_is_charged(void)
{
    static struct metered m;
    uint64_t began, took;

    open_metered(&m);
    CHECK_EQ(client_load(&m.client, FDC_ID_fdcModuleLoad, FDC_HANDLE(FDC_KIND_MODULE, 1, 1),
                         spin_ptx), 0);
    CHECK_EQ(CALL(&m.client, fdcGateWords), 0);
    SEND(&m.client, fdcGate, 0, .stream = STREAM(1), .word = 1, .value = 1);
    SEND(&m.client, fdcCopyUp, FDC_MSG_FIRST, .dst = m.memory + 4096, .stream = STREAM(1),
         .chunk = { 1 << 20, 64 });
    compute(&m.client, STREAM(2), 1 << 26);
    let_time_pass(&m.client, STAND_NS / 10);
    client_open_gate(&m.client, 1, 1);
    began = fdc_now_ns();
    CHECK_EQ(CALL(&m.client, cuCtxSynchronize), 0);
    took = fdc_now_ns() - began;
    client_close(&m.client, 0);
    CHECK(fdc_load_relaxed(&m.rows[0].spent_ns) >= took / 4);
    munmap(m.rows, sizeof(rows));
    close(m.fd);
}

/* One that stands beside work makes that no cheaper. */
static void
test_kernels_beside_a_host_function_are_charged(void)
{
    static struct metered m;
    uint64_t began, before, took;

    open_metered(&m);
    CHECK_EQ(client_load(&m.client, FDC_ID_fdcModuleLoad, FDC_HANDLE(FDC_KIND_MODULE, 1, 1),
                         spin_ptx), 0);
    SEND(&m.client, fdcHostFn, 0, .stream = STREAM(1), .number = 9);
    while (m.client.host_fns == 0)
        CHECK_EQ(client_take(&m.client, -1), 1);
    before = fdc_load_relaxed(&m.rows[0].spent_ns);
    began = fdc_now_ns();
    compute_for(&m.client, STREAM(2), STAND_NS);
    took = fdc_now_ns() - began;
    client_answer_host_fn(&m.client, 9);
    CHECK_EQ(CALL(&m.client, cuCtxSynchronize), 0);
    client_close(&m.client, 0);
    CHECK(fdc_load_relaxed(&m.rows[0].spent_ns) - before >= took / 4);
    munmap(m.rows, sizeof(rows));
    close(m.fd);
}

/* Others have the GPU meanwhile, and are not even held to their shares. */
static void
test_who_stands_does_not_want_the_gpu(void)
{
    static struct metered m;
    struct flock lock = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FDC_SHARE_LOCK + 1, .l_len = 1,
    };
    char name[32];
    bool alone = false;
    int other, alone_for = 0;
    uint64_t began;

    open_metered(&m);
    snprintf(name, sizeof(name), "/proc/self/fd/%d", m.fd);
    other = open(name, O_RDWR | O_CLOEXEC);
    CHECK(other >= 0);
    began = fdc_now_ns();
    stand(&m, STREAM(1));
    CHECK_EQ(CALL(&m.client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_NOT_READY);
    for (int i = 0; alone_for < 30; i++) {
        CHECK(i < 3000);
        let_time_pass(&m.client, 10000000);
        alone_for = fdc_account_may_go(m.rows, &m.rows[1], fdc_now_ns(), &alone) && alone
                        ? alone_for + 1
                        : 0;
    }
    CHECK_EQ(fcntl(other, F_OFD_SETLK, &lock), 0);
    close(other);
    go_on(&m);
    expect_little(&m, began);
}

int
main(void)
{
    int failed = 0;

    RUN(test_both_have_what_they_asked_for);
    RUN(test_debt_is_carried_and_has_an_end);
    RUN(test_little_is_saved);
    RUN(test_who_stands_at_a_word_is_not_charged);
    RUN(test_who_stands_at_words_in_a_batch_is_not_charged);
    RUN(test_who_stands_at_a_gate_is_not_charged);
    RUN(test_who_is_behind_a_stream_that_stands_is_not_charged);
    RUN(test_who_is_behind_the_null_stream_is_not_charged);
    RUN(test_host_function_is_not_charged);
    RUN(test_kernels_beside_a_host_function_are_charged);
    RUN(test_work_behind_a_copy_of_another_stream_is_charged);
    RUN(test_who_stands_does_not_want_the_gpu);
    return failed;
}
