/*
 * What kernels print: the driver writes it to this process's standard output, and failed
 * assertions to its standard error, which are pipes here. It goes to the client before the
 * answer of the call that brought it out, and from a thread of its own in between, so that
 * the pipes never fill.
 */
#include "server/serve.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PIECE 4096

/* Under the lock. */
static void
forward(struct fdc_serve *serve, int fd, uint16_t flags)
{
    struct {
        struct fdc_reply head;
        char bytes[PIECE];
    } message;
    ssize_t got;

    while ((got = read(fd, message.bytes, PIECE)) > 0) {
        memset(&message.head, 0, sizeof(message.head));
        memset(message.bytes + got, 0, FDC_ALIGN_UP((size_t)got, (size_t)8) - (size_t)got);
        message.head.id = FDC_REPLY_PRINT;
        message.head.flags = flags;
        message.head.size =
            (uint32_t)(sizeof(message.head) + FDC_ALIGN_UP((size_t)got, (size_t)8));
        message.head.ticket = (uint64_t)got;
        fdc_send(serve, &message, message.head.size, true);
    }
}

void
fdc_print_turn(struct fdc_serve *serve, bool failed)
{
    if (serve->print_fd < 0)
        return;
    fflush(stdout);
    pthread_mutex_lock(&serve->print_lock);
    forward(serve, serve->print_fd, 0);
    if (failed && serve->error_fd >= 0)
        forward(serve, serve->error_fd, FDC_PRINT_ERROR);
    pthread_mutex_unlock(&serve->print_lock);
}

static void *
print_main(void *arg)
{
    struct fdc_serve *serve = arg;
    struct pollfd wait[] = {
        { .fd = serve->print_fd, .events = POLLIN },
        { .fd = serve->error_fd, .events = POLLIN },
    };

    /* Ends with the pipe's other end, or soon after the session. */
    while (!fdc_load_relaxed(&serve->stop) && !fdc_load_relaxed(&serve->closed)) {
        if (poll(wait, FDC_COUNT(wait), 100) > 0)
            fdc_print_turn(serve, true);
        if ((wait[0].revents | wait[1].revents) & (POLLHUP | POLLERR | POLLNVAL))
            break;
    }
    return NULL;
}

int
fdc_serve_print_from(struct fdc_serve *serve, int fd, int error_fd)
{
    serve->print_fd = fd;
    serve->error_fd = error_fd;
    if (pthread_create(&serve->printer, NULL, print_main, serve)) {
        serve->print_fd = serve->error_fd = -1;
        return -EAGAIN;
    }
    return 0;
}

void
fdc_print_stop(struct fdc_serve *serve)
{
    if (serve->print_fd >= 0)
        pthread_join(serve->printer, NULL);
    serve->print_fd = serve->error_fd = -1;
}
