/*
 * The tcp road against a peer that sends what it likes. The first byte says to which
 * end: the worker's command connection, its bulk connection, or a client, whose worker
 * also makes up the sizes.
 */
#include "fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

#include "fdc/transport.h"

enum { ROUNDS = 2000 };

static void
drain(struct fdc_link *link, enum fdc_lane lane)
{
    static volatile uint8_t sum;
    const uint8_t *message;
    uint32_t size = 0;
    int err = 0;

    for (int i = 0; i < ROUNDS; i++) {
        message = fdc_link_peek(link, lane, &size, &err);
        if (message == NULL && err != 0)
            return;
        if (message == NULL) {
            /* 0: the peer's end of file has been seen, or nothing more comes */
            if (fdc_link_wait(link, lane, 1000) <= 0)
                return;
            continue;
        }
        for (uint32_t k = 0; k < size; k++)
            sum ^= message[k];
        fdc_link_release(link, lane);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fdc_link_size sizes = { { 4096, 4096, 4096 }, { 8192, 8192 } };
    int command[2], bulk[2], ours[2], way, err;
    struct fdc_link *link = NULL;
    uint8_t setup[256];

    if (size < 1)
        return 0;
    fdc_log_default(FDC_LOG_OFF, "fuzz");
    way = data[0] % 3;
    data++, size--;
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, command) == 0);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bulk) == 0);
    ours[0] = command[0], ours[1] = bulk[0];
    if (way < 2) {
        err = fdc_link_worker(FDC_ROAD_TCP, ours, 2, &sizes, &link);
        FUZZ_CHECK(err == 0);
        FUZZ_CHECK(recv(command[1], setup, sizeof(setup), 0) > 0);
    } else {
        /* sizes of gigabytes are a worker's right and only cost time here */
        for (size_t at = 8; at + 8 <= size && at < 48; at += 8)
            if (memcmp(data + at + 4, "\0\0\0", 4) != 0 || data[at + 3] != 0) {
                close(ours[0]), close(ours[1]);
                goto out;
            }
    }
    if (size > 0)
        FUZZ_CHECK(send(way == 1 ? bulk[1] : command[1], data, size, MSG_NOSIGNAL) > 0);
    shutdown(command[1], SHUT_WR);
    shutdown(bulk[1], SHUT_WR);
    if (way == 2 && fdc_link_client(FDC_ROAD_TCP, ours, 2, &link) != 0) {
        close(ours[0]), close(ours[1]);
        goto out;
    }
    if (way == 1)
        drain(link, FDC_LANE_SIDE);
    drain(link, way == 2 ? FDC_LANE_REPLY : FDC_LANE_COMMAND);
    fdc_link_free(link);
out:
    close(command[1]);
    close(bulk[1]);
    return 0;
}
