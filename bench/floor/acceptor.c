/*
 * The least that a server can do about connections that say nothing: it listens at ports
 * that it prints, accepts one at a time, and keeps MOST of them; the one that came first
 * gives way to the next. Until its input ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORTS = 2, MOST = 640, BACKLOG = 1024 };

static int
listener(void)
{
    struct sockaddr_in here = {.sin_family = AF_INET};
    socklen_t size = sizeof(here);
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sock < 0 || bind(sock, (struct sockaddr *)&here, sizeof(here)) != 0 ||
        listen(sock, BACKLOG) != 0 ||
        getsockname(sock, (struct sockaddr *)&here, &size) != 0) {
        perror("acceptor");
        exit(1);
    }
    printf("%d\n", ntohs(here.sin_port));
    return sock;
}

int
main(void)
{
    struct pollfd watched[PORTS + 1] = {{.fd = 0, .events = POLLIN}};
    static int kept[MOST];
    unsigned came = 0;

    memset(kept, -1, sizeof(kept));
    for (int i = 1; i <= PORTS; i++)
        watched[i] = (struct pollfd){.fd = listener(), .events = POLLIN};
    fflush(stdout);
    while (poll(watched, PORTS + 1, -1) >= 0 && watched[0].revents == 0)
        for (int i = 1; i <= PORTS; i++) {
            int sock, *place = &kept[came % MOST];

            if (!watched[i].revents)
                continue;
            sock = accept4(watched[i].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (sock < 0)
                continue;
            if (*place >= 0)
                close(*place);
            *place = sock;
            came++;
        }
    return 0;
}
