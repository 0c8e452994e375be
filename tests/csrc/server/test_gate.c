/* Gates: where streams stand until the client says otherwise. */
#include "client.h"

#define STREAM(i) FDC_HANDLE(FDC_KIND_STREAM, 1, (i))
#define LEGACY 1

static void
test_stream_stands_still_at_a_gate(void)
{
    static struct client client;
    uint64_t there, mark[2];

    client_open(&client);
    client_attach(&client);
    for (uint32_t i = 1; i <= 2; i++)
        SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(i), .flags = 1);
    /* Without words of the context's there are none. */
    there = SEND(&client, fdcGate, FDC_MSG_DONE, .stream = STREAM(1), .word = 1, .value = 1);
    CHECK_EQ(client_wait_done(&client, there), CUDA_ERROR_NOT_SUPPORTED);
    CHECK_EQ(CALL(&client, fdcGateWords), 0);
    there = SEND(&client, fdcGate, FDC_MSG_DONE, .stream = STREAM(1), .word = 1, .value = 1);
    mark[0] = SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(1));
    SEND(&client, fdcGate, 0, .stream = STREAM(2), .word = FDC_GATE_WORDS - 1, .value = 7);
    mark[1] = SEND(&client, fdcMark, FDC_MSG_DONE, .stream = STREAM(2));
    CHECK_EQ(client_wait_done(&client, there), 0);
    client_open_gate(&client, 2, 1);
    client_open_gate(&client, FDC_GATE_WORDS - 1, 6);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_NOT_READY);
    CHECK(!client_is_done(&client, mark[0]) && !client_is_done(&client, mark[1]));
    client_open_gate(&client, FDC_GATE_WORDS - 1, 7);
    CHECK_EQ(client_wait_done(&client, mark[1]), 0);
    CHECK(!client_is_done(&client, mark[0]));
    client_open_gate(&client, 1, 1);
    CHECK_EQ(client_wait_done(&client, mark[0]), 0);

    /* The opening is there before the gate is; an older one takes nothing back. */
    client_open_gate(&client, 3, 5);
    client_open_gate(&client, 3, 4);
    SEND(&client, fdcGate, 0, .stream = STREAM(1), .word = 3, .value = 5);
    CHECK_EQ(CALL(&client, cuStreamSynchronize, .hStream = STREAM(1)), 0);
    client_close(&client, 0);
}

static void
test_gates_open_with_their_context_and_the_session(void)
{
    static struct client client;

    client_open(&client);
    client_attach(&client);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(CALL(&client, fdcGateWords), 0);
        SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
        SEND(&client, fdcGate, 0, .stream = STREAM(1), .word = 1, .value = (uint32_t)i + 1);
        CHECK_EQ(CALL(&client, fdcContextReset, .context = CTX), 0);
        CHECK_EQ(CALL(&client, fdcContextOpen, .context = CTX), 0);
    }
    CHECK_EQ(CALL(&client, fdcGateWords), 0);
    SEND(&client, cuStreamCreateWithPriority, 0, .phStream = STREAM(1), .flags = 1);
    SEND(&client, fdcGate, 0, .stream = STREAM(1), .word = 1, .value = 3);
    CHECK_EQ(CALL(&client, cuStreamQuery, .hStream = STREAM(1)), CUDA_ERROR_NOT_READY);
    client_close(&client, 0);
}

static void
test_gates_that_cannot_be_end_the_session(void)
{
    static struct client client;

    for (int i = 0; i < 3; i++) {
        client_open(&client);
        client_attach(&client);
        if (i == 0)
            SEND(&client, fdcGate, 0, .stream = LEGACY, .word = FDC_GATE_WORDS, .value = 1);
        else
            client_open_gate(&client, i == 1 ? 0 : 1, 1); /* 2: a context without words */
        while (client_take(&client, -1) >= 0)
            continue;
        client_close(&client, -EPROTO);
    }
}

int
main(void)
{
    int failed = 0;

    RUN(test_stream_stands_still_at_a_gate);
    RUN(test_gates_open_with_their_context_and_the_session);
    RUN(test_gates_that_cannot_be_end_the_session);
    return failed;
}
