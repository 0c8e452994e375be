/*
 * What kernels print: the driver writes it to this process's standard output, which is a
 * pipe here. It goes to the client before the answer of the call that brought it out, and
 * from a thread of its own in between, so that the pipe never fills.
 */
#include "server/serve.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PIECE 4096

void
fdc_print_turn(struct fdc_serve *serve)
{
    struct {
        struct fdc_reply head;
        char bytes[PIECE];
    } message;
    ssize_t got;

    if (serve->print_fd < 0)
        return;
    fflush(stdout);
    pthread_mutex_lock(&serve->print_lock);
    while ((got = read(serve->print_fd, message.bytes, PIECE)) > 0) {
        memset(&message.head, 0, sizeof(message.head));
        memset(message.bytes + got, 0, FDC_ALIGN_UP((size_t)got, (size_t)8) - (size_t)got);
        message.head.id = FDC_REPLY_PRINT;
        message.head.size =
            (uint32_t)(sizeof(message.head) + FDC_ALIGN_UP((size_t)got, (size_t)8));
        message.head.ticket = (uint64_t)got;
        fdc_send(serve, &message, message.head.size, true);
    }
    pthread_mutex_unlock(&serve->print_lock);
}

static void *
print_main(void *arg)
{
    struct fdc_serve *serve = arg;
    struct pollfd wait = { .fd = serve->print_fd, .events = POLLIN };

    /* Ends with the pipe's other end, or soon after the session. */
    while (!fdc_load_relaxed(&serve->stop) && !fdc_load_relaxed(&serve->closed)) {
        if (poll(&wait, 1, 100) > 0)
            fdc_print_turn(serve);
        if (wait.revents & (POLLHUP | POLLERR | POLLNVAL))
            break;
    }
    return NULL;
}

int
fdc_serve_print_from(struct fdc_serve *serve, int fd)
{
    serve->print_fd = fd;
    if (pthread_create(&serve->printer, NULL, print_main, serve)) {
        serve->print_fd = -1;
        return -EAGAIN;
    }
    return 0;
}

void
fdc_print_stop(struct fdc_serve *serve)
{
    if (serve->print_fd >= 0)
        pthread_join(serve->printer, NULL);
    serve->print_fd = -1;
}
