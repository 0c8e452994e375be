/*
 * Whole reads and writes on stream sockets, and descriptors passed over Unix ones. For
 * the handshake and the set-up of links; the paths of messages have their own.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fdc/base.h"

enum { FDS_MAX = 16 };

/* 0: ready; -ETIMEDOUT at the deadline; deadline_ns 0: none. */
static int
wait_ready(int fd, short events, uint64_t deadline_ns)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};
    struct timespec left, *limit = NULL;
    uint64_t now_ns;
    int n;

    for (;;) {
        if (deadline_ns) {
            now_ns = fdc_now_ns();
            if (now_ns >= deadline_ns)
                return -ETIMEDOUT;
            left.tv_sec = (time_t)((deadline_ns - now_ns) / 1000000000u);
            left.tv_nsec = (long)((deadline_ns - now_ns) % 1000000000u);
            limit = &left;
        }
        n = ppoll(&poll_fd, 1, limit, NULL);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

int
fdc_sock_write(int fd, const void *bytes, size_t size)
{
    const uint8_t *next = bytes;
    ssize_t n;
    int err;

    while (size > 0) {
        n = send(fd, next, size, MSG_NOSIGNAL);
        if (n >= 0) {
            next += n;
            size -= (size_t)n;
        } else if (errno == EAGAIN) {
            err = wait_ready(fd, POLLOUT, 0);
            if (err)
                return err;
        } else if (errno == ECONNRESET) {
            return -EPIPE;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int
fdc_sock_read(int fd, void *bytes, size_t size, int64_t timeout_us)
{
    uint64_t deadline_ns = 0;
    uint8_t *next = bytes;
    ssize_t n;
    int err;

    if (timeout_us >= 0)
        deadline_ns = fdc_now_ns() + (uint64_t)timeout_us * 1000;
    while (size > 0) {
        n = recv(fd, next, size, MSG_DONTWAIT);
        if (n == 0)
            return -EPIPE;
        if (n > 0) {
            next += n;
            size -= (size_t)n;
        } else if (errno == EAGAIN) {
            err = wait_ready(fd, POLLIN, deadline_ns);
            if (err)
                return err;
        } else if (errno == ECONNRESET) {
            return -EPIPE;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int
fdc_sock_send_fds(int fd, const void *bytes, size_t size, const int *fds, int nfds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct cmsghdr *head;
    ssize_t n;
    int err;

    if (nfds < 0 || nfds > FDS_MAX || size == 0)
        return -EINVAL;
    if (nfds > 0) {
        memset(&control, 0, sizeof(control));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
        head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
        memcpy(CMSG_DATA(head), fds, (size_t)nfds * sizeof(int));
    }
    for (;;) {
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n >= 0)
            break;
        if (errno == EAGAIN) {
            err = wait_ready(fd, POLLOUT, 0);
            if (err)
                return err;
        } else if (errno != EINTR) {
            return errno == ECONNRESET ? -EPIPE : -errno;
        }
    }
    /* The descriptors went with the first byte. */
    return fdc_sock_write(fd, (const char *)bytes + n, size - (size_t)n);
}

/* Takes the descriptors of one message; past *room they are closed. */
static int
take_fds(struct msghdr *message, int *fds, int *count, int room)
{
    struct cmsghdr *head;
    int got, fd, err = 0;

    for (head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        got = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < got; i++) {
            memcpy(&fd, CMSG_DATA(head) + (size_t)i * sizeof(int), sizeof(int));
            if (*count < room) {
                fds[(*count)++] = fd;
            } else {
                close(fd);
                err = -EPROTO;
            }
        }
    }
    return message->msg_flags & MSG_CTRUNC ? -EPROTO : err;
}

int
fdc_sock_recv_fds(int fd, void *bytes, size_t size, int *fds, int *nfds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    uint8_t *next = bytes;
    struct msghdr message;
    struct iovec part;
    int count = 0, err;
    ssize_t n;

    while (size > 0) {
        part = (struct iovec){.iov_base = next, .iov_len = size};
        message = (struct msghdr){.msg_iov = &part,
                                  .msg_iovlen = 1,
                                  .msg_control = &control,
                                  .msg_controllen = sizeof(control)};
        n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            err = wait_ready(fd, POLLIN, 0);
            if (err)
                goto err_close;
            continue;
        }
        if (n < 0) {
            err = errno == ECONNRESET ? -EPIPE : -errno;
            goto err_close;
        }
        err = take_fds(&message, fds, &count, *nfds);
        if (err)
            goto err_close;
        if (n == 0) {
            err = -EPIPE;
            goto err_close;
        }
        next += n;
        size -= (size_t)n;
    }
    *nfds = count;
    return 0;

err_close:
    while (count > 0)
        close(fds[--count]);
    return err;
}
