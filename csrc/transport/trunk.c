/*
 * The connection of a trunk (fdc/trunk.h): dialling, the handshake, pieces. Knows nothing of
 * copies. What comes from the other side is never used for more than to be compared.
 */
#include "fdc/trunk.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "fdc/attach.h"
#include "fdc/base.h"
#include "fdc/transport.h"
#include "seal.h"

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

uint64_t
fdc_trunk_number(const uint8_t nonce[32])
{
    uint64_t number;

    memcpy(&number, nonce, sizeof(number));
    return number;
}

/* ---- dialling ---- */

static int
take_address(const struct fdc_trunk_about *about, union address *address, socklen_t *size)
{
    size_t length;

    memset(address, 0, sizeof(*address));
    switch (about->family) {
    case FDC_TRUNK_UNIX:
        length = strnlen((const char *)about->address, sizeof(address->un.sun_path));
        if (length == 0 || length == sizeof(address->un.sun_path) ||
            about->address[0] != '/')
            return -EINVAL;
        address->un.sun_family = AF_UNIX;
        memcpy(address->un.sun_path, about->address, length);
        *size = sizeof(address->un);
        return 0;
    case FDC_TRUNK_IPV4:
        address->in.sin_family = AF_INET;
        address->in.sin_port = htons((uint16_t)about->port);
        memcpy(&address->in.sin_addr, about->address, 4);
        *size = sizeof(address->in);
        break;
    case FDC_TRUNK_IPV6:
        address->in6.sin6_family = AF_INET6;
        address->in6.sin6_port = htons((uint16_t)about->port);
        memcpy(&address->in6.sin6_addr, about->address, 16);
        *size = sizeof(address->in6);
        break;
    default:
        return -EINVAL;
    }
    return about->port >= 1 && about->port <= 65535 ? 0 : -EINVAL;
}

/* A machine that vanishes without a word is noticed within half a minute. */
static void
set_options(int fd)
{
    int one = 1, idle = 10, each = 5, count = 4, unheard_ms = 30000;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &each, sizeof(each));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unheard_ms, sizeof(unheard_ms));
}

static int64_t
left_us(uint64_t until_ns)
{
    uint64_t now = fdc_now_ns();

    return now < until_ns ? (int64_t)((until_ns - now) / 1000) : 0;
}

static int
await_connected(int fd, uint64_t until_ns)
{
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    socklen_t length = sizeof(int);
    int n, err = 0;

    do
        n = poll(&wait, 1, (int)(left_us(until_ns) / 1000));
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n == 0 ? -ETIMEDOUT : -errno;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &length) != 0)
        return -errno;
    return -err;
}

static int
dial(const struct fdc_trunk_about *about, uint64_t until_ns)
{
    union address address;
    socklen_t size;
    int fd, err;

    err = take_address(about, &address, &size);
    if (err)
        return err;
    fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, &address.any, size) != 0) {
        err = errno == EINPROGRESS ? await_connected(fd, until_ns) : -errno;
        if (err) {
            close(fd);
            return err;
        }
    }
    if (about->family != FDC_TRUNK_UNIX)
        set_options(fd);
    return fd;
}

/* ---- the handshake ---- */

/* key: what the connection is sealed with, if it is to be. */
static int
greet(int fd, const struct fdc_trunk_about *about, const uint8_t protocol[32],
      uint64_t until_ns, uint8_t key[32])
{
    struct fdc_attach_request request = {
        .magic = FDC_ATTACH_MAGIC,
        .kind = FDC_ATTACH_TRUNK,
        .road = about->family == FDC_TRUNK_UNIX ? FDC_ROAD_SHM : FDC_ROAD_TCP,
        .pid = (uint32_t)getpid(),
        .seal = about->seal,
        .program = "a trunk",
    };
    struct fdc_attach_hello hello;
    struct fdc_attach_answer answer;
    struct fdc_attach_ready ready;
    int err;

    err = fdc_sock_read(fd, &hello, sizeof(hello), left_us(until_ns));
    if (err)
        return err;
    if (hello.magic != FDC_ATTACH_MAGIC || hello.version != FDC_ATTACH_VERSION ||
        memcmp(hello.protocol, protocol, sizeof(hello.protocol)) != 0)
        return -EPROTO;
    memcpy(request.lease, about->lease, sizeof(request.lease));
    memcpy(request.session, about->session, sizeof(request.session));
    memcpy(request.protocol, protocol, sizeof(request.protocol));
    memcpy(request.nonce, about->nonce, sizeof(request.nonce));
    fdc_attach_prove(about->key, &hello, &request);
    err = fdc_sock_write(fd, &request, sizeof(request));
    if (!err)
        err = fdc_sock_read(fd, &answer, sizeof(answer), left_us(until_ns));
    if (err)
        return err;
    if (answer.magic != FDC_ATTACH_MAGIC || answer.error != 0 ||
        !fdc_attach_proven(about->key, &hello, &request, &answer))
        return -EACCES;
    fdc_attach_seal_key(about->key, &hello, &request, key);
    err = fdc_sock_read(fd, &ready, sizeof(ready), left_us(until_ns));
    if (!err && (ready.magic != FDC_ATTACH_MAGIC || ready.error != 0))
        err = -EPROTO;
    return err;
}

/* With this much behind it the socket is a trunk. */
static int
begin(struct fdc_trunk *trunk, int fd, const uint8_t *key, bool worker)
{
    int err = 0;

    *trunk = (struct fdc_trunk){.fd = fd};
    if (key != NULL)
        err = seal_new(key, worker, &trunk->seal);
    if (!err && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) != 0)
        err = -errno;
    if (err)
        fdc_trunk_close(trunk);
    return err;
}

int
fdc_trunk_dial(const struct fdc_trunk_about *about, const uint8_t protocol[32],
              struct fdc_trunk *trunk)
{
    uint64_t until_ns = fdc_now_ns() + (uint64_t)FDC_TRUNK_DIAL_US * 1000;
    uint8_t key[32];
    int fd, err;

    if (about->seal > 1 || (about->seal && about->family == FDC_TRUNK_UNIX))
        return -EINVAL;
    fd = dial(about, until_ns);
    if (fd < 0)
        return fd;
    err = greet(fd, about, protocol, until_ns, key);
    if (err)
        close(fd);
    else
        err = begin(trunk, fd, about->seal ? key : NULL, false);
    explicit_bzero(key, sizeof(key));
    return err;
}

int
fdc_trunk_accept(int fd, const uint8_t key[32], struct fdc_trunk *trunk)
{
    return begin(trunk, fd, key, true);
}

int
fdc_trunk_ready(int fd)
{
    const struct fdc_attach_ready ready = {.magic = FDC_ATTACH_MAGIC};

    return fdc_sock_write(fd, &ready, sizeof(ready));
}

void
fdc_trunk_close(struct fdc_trunk *trunk)
{
    if (trunk->seal != NULL)
        seal_free(trunk->seal);
    close(trunk->fd);
    *trunk = (struct fdc_trunk){.fd = -1};
}

/* ---- pieces ---- */

/* The head and what is behind it, with one call of the system if it takes them. */
static int
send_plain(int fd, const struct fdc_trunk_frame *frame, const void *bytes, uint32_t size)
{
    struct iovec part[] = {{(void *)frame, sizeof(*frame)}, {(void *)bytes, size}};
    struct msghdr message = {.msg_iov = part, .msg_iovlen = 2};
    ssize_t n;
    int err;

    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    if ((size_t)n < sizeof(*frame)) {
        err = fdc_sock_write(fd, (const uint8_t *)frame + n, sizeof(*frame) - (size_t)n);
        if (err)
            return err;
        n = sizeof(*frame);
    }
    n -= (ssize_t)sizeof(*frame);
    return fdc_sock_write(fd, (const uint8_t *)bytes + n, size - (size_t)n);
}

int
fdc_trunk_send(struct fdc_trunk *trunk, uint64_t copy, uint64_t offset, const void *bytes,
              uint32_t size)
{
    const struct fdc_trunk_frame frame = {
        .magic = FDC_TRUNK_MAGIC, .size = size, .copy = copy, .offset = offset};
    int err;

    if (trunk->seal == NULL)
        return send_plain(trunk->fd, &frame, bytes, size);
    err = seal_write(trunk->seal, trunk->fd, &frame, sizeof(frame));
    return err ? err : seal_write(trunk->seal, trunk->fd, bytes, size);
}

int
fdc_trunk_receive(struct fdc_trunk *trunk, uint64_t copy, uint64_t offset, void *bytes,
                 uint32_t size)
{
    struct fdc_trunk_frame frame;
    int err;

    err = seal_read(trunk->seal, trunk->fd, &frame, sizeof(frame), -1);
    if (err)
        return err;
    if (frame.magic != FDC_TRUNK_MAGIC || frame.copy != copy || frame.offset != offset ||
        frame.size != size || size > FDC_TRUNK_PIECE_MAX)
        return -EPROTO;
    return seal_read(trunk->seal, trunk->fd, bytes, size, -1);
}
