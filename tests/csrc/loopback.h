/* Two connected sockets of loopback, as a client and a worker of another machine have. */
#ifndef LOOPBACK_H
#define LOOPBACK_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "check.h"

static inline void
loopback_connect(int *client, int *worker)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof(address);
    int listener;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(listener >= 0);
    CHECK_EQ(bind(listener, (void *)&address, sizeof(address)), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (void *)&address, &size), 0);
    *client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(*client, (void *)&address, sizeof(address)), 0);
    *worker = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(*worker >= 0);
    close(listener);
}

#endif
