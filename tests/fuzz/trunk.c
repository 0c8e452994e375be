/*
 * A trunk against another worker that sends what it likes. Two bytes choose: whether the
 * connection is sealed, and whether the input is what the other end answers to a dial, in
 * pieces, or what it sends of a copy. Bytes are taken only behind the frame that had to come.
 */
#include "fuzz.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fdc/attach.h"
#include "fdc/base.h"
#include "fdc/trunk.h"

enum { COPY = 7, PIECE_MAX = 700, PIECES = 8 };

static const uint8_t key[32] = {1, 2, 3};

/* ---- frames ---- */

static void
frames(const uint8_t *data, size_t size, bool sealed)
{
    static uint8_t bytes[PIECE_MAX];
    struct fdc_trunk_frame frame;
    struct fdc_trunk end;
    uint64_t offset = 0;
    size_t at = 0;
    int socks[2];

    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks) == 0);
    if (fdc_trunk_accept(socks[0], sealed ? key : NULL, &end) != 0) {
        close(socks[0]);                    /* no cipher on this machine */
        close(socks[1]);
        return;
    }
    FUZZ_CHECK(fdc_sock_write(socks[1], data, size) == 0);
    close(socks[1]);
    for (int i = 0; i < PIECES; i++) {
        uint32_t wanted = i % 2 == 0 ? 16 : PIECE_MAX;

        if (fdc_trunk_receive(&end, COPY, offset, bytes, wanted) != 0)
            break;
        FUZZ_CHECK(!sealed && size - at >= sizeof(frame) + wanted);
        memcpy(&frame, data + at, sizeof(frame));
        FUZZ_CHECK(frame.magic == FDC_TRUNK_MAGIC && frame.copy == COPY &&
                   frame.offset == offset && frame.size == wanted);
        FUZZ_CHECK(memcmp(data + at + sizeof(frame), bytes, wanted) == 0);
        at += sizeof(frame) + wanted;
        offset += wanted;
    }
    fdc_trunk_close(&end);
}

/* ---- dialling ---- */

struct other {
    int listener;
    const uint8_t *data;
    size_t size;
};

static void *
answer(void *user)
{
    const struct other *other = user;
    int fd = accept(other->listener, NULL, NULL);

    FUZZ_CHECK(fd >= 0);
    (void)fdc_sock_write(fd, other->data, other->size); /* it may hang up meanwhile */
    close(fd);
    return NULL;
}

static void
dial(const uint8_t *data, size_t size, bool sealed)
{
    struct fdc_trunk_about about = {.family = FDC_TRUNK_UNIX, .seal = sealed};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct other other = {.data = data, .size = size};
    uint8_t protocol[32] = {0};
    struct fdc_trunk end;
    pthread_t thread;

    snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/fd-fuzz-%d", (int)getpid());
    memcpy(about.address, address.sun_path, sizeof(address.sun_path));
    memcpy(about.key, key, sizeof(key));
    if (sealed) {                           /* never to a path */
        FUZZ_CHECK(fdc_trunk_dial(&about, protocol, &end) != 0);
        return;
    }
    other.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(address.sun_path);
    FUZZ_CHECK(other.listener >= 0 &&
               bind(other.listener, (void *)&address, sizeof(address)) == 0 &&
               listen(other.listener, 1) == 0);
    FUZZ_CHECK(pthread_create(&thread, NULL, answer, &other) == 0);
    FUZZ_CHECK(fdc_trunk_dial(&about, protocol, &end) != 0); /* it does not know the key */
    pthread_join(thread, NULL);
    close(other.listener);
    unlink(address.sun_path);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fdc_log_default(FDC_LOG_OFF, "fuzz");
    if (size < 2)
        return 0;
    if (data[0] & 1)
        dial(data + 2, size - 2, data[1] & 1);
    else
        frames(data + 2, size - 2, data[1] & 1);
    return 0;
}
