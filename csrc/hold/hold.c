/*
 * fdhold: keeps leases while the program that has them lives, and dials again when their
 * server was restarted. fdrun starts it before it becomes the program; it is nobody's
 * child, and holds nothing of the program's but the ends named here.
 *
 *   fdhold SESSION_FD PID PIPE_FD SOCKET_FD... [FILE]
 *
 * SESSION_FD   the session file, locked: fdhold's copy keeps it from being cleaned away
 * PID          the program, 0: none, the leases are a reservation
 * PIPE_FD      reads; every process of the program has the other end. -1: none
 * SOCKET_FD    the hold connection of each server in the file, in its order
 * FILE         the session file: at the program's end it is removed, and standard error,
 *              which is the program's then, is told that the GPUs are released. Else
 *              nothing is ever printed
 *
 * A program is over when its first process has ended and nobody has the pipe any more. A
 * reservation is over when fdhold is told to end, or when no server knows its lease. Who
 * asks for a lock of the file's first byte (F_GETLK) learns fdhold's pid.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "fdc/attach.h"
#include "fdc/base.h"
#include "proto.h"

#define FILE_MAX 65536
#define SERVERS_MAX 64
#define ANSWER_US 10000000
#define DIAL_SECONDS 5
/* How long a program's other processes may take to end after the first, and servers to see
 * that it is over (session.py's ENDING_SECONDS), before that is not waited for in order to
 * say something. */
#define OTHERS_MS 200
#define RELEASE_MS 3000
/* Between two tries to reach a server: first, and at most, on this machine and beyond. A
 * server that was started again waits for us (recall.py's NEAR_SECONDS, FAR_SECONDS). */
#define AGAIN_MS 50
#define AGAIN_NEAR_MS 200
#define AGAIN_FAR_MS 2000

struct server {
    uint8_t lease[16], secret[32];
    char unix_path[108];
    char host[256], port[32];
    int fd;             /* the hold connection, -1: lost */
    uint8_t asked[sizeof(struct fdc_attach_life)]; /* as much as has come */
    size_t asked_size;
    bool over;          /* the server knows the lease no more */
    uint32_t again_ms;  /* how long to wait before the next try */
    uint64_t next_ns;   /* when that is */
};

struct hold {
    struct server server[SERVERS_MAX];
    int servers;
    pid_t pid;
    int pidfd, pipe; /* -1: over, or none */
    int file;        /* the session's */
    const char *path; /* its name, where its end is told; or NULL */
};

/* ---- the session file ---- */

static bool
from_hex(const char *text, uint8_t *bytes, size_t size)
{
    size_t i;

    if (strlen(text) != size * 2)
        return false;
    for (i = 0; i < size; i++)
        if (sscanf(text + 2 * i, "%2hhx", &bytes[i]) != 1)
            return false;
    return true;
}

/* "server" begins a server's part; unknown keys are for others. */
static bool
take_line(struct hold *hold, char *line)
{
    struct server *server = &hold->server[hold->servers - 1];
    char *save = NULL;
    char *key = strtok_r(line, " \t\r", &save);
    /* A path may have spaces. */
    const char *ends = key != NULL && strcmp(key, "unix") == 0 ? "\r" : " \t\r";
    char *value = key != NULL ? strtok_r(NULL, ends, &save) : NULL;
    char *more = value != NULL ? strtok_r(NULL, " \t\r", &save) : NULL;

    if (value == NULL)
        return key == NULL;
    if (strcmp(key, "server") == 0) {
        if (hold->servers == SERVERS_MAX)
            return false;
        hold->server[hold->servers++].fd = -1;
        return true;
    }
    if (hold->servers == 0)
        return false;
    if (strcmp(key, "lease") == 0)
        return from_hex(value, server->lease, sizeof(server->lease));
    if (strcmp(key, "secret") == 0)
        return from_hex(value, server->secret, sizeof(server->secret));
    if (strcmp(key, "unix") == 0)
        snprintf(server->unix_path, sizeof(server->unix_path), "%s", value);
    if (strcmp(key, "tcp") == 0 && more != NULL) {
        snprintf(server->host, sizeof(server->host), "%s", value);
        snprintf(server->port, sizeof(server->port), "%s", more);
    }
    return true;
}

static bool
read_session(int fd, struct hold *hold)
{
    char *text = calloc(1, FILE_MAX + 1), *line, *save = NULL;
    bool good = text != NULL && pread(fd, text, FILE_MAX, 0) > 0;

    for (line = good ? strtok_r(text, "\n", &save) : NULL; line != NULL && good;
         line = strtok_r(NULL, "\n", &save))
        good = take_line(hold, line);
    if (text != NULL)
        explicit_bzero(text, FILE_MAX);
    free(text);
    return good && hold->servers > 0;
}

/* ---- dialling ---- */

static void
set_times(int fd, int family)
{
    struct timeval limit = {.tv_sec = DIAL_SECONDS};
    int one = 1, idle = 10, each = 5, count = 4;

    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (family == AF_UNIX)
        return;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &each, sizeof(each));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static int
dial_one(const struct sockaddr *address, socklen_t size, int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    set_times(fd, family);
    if (connect(fd, address, size) == 0)
        return fd;
    close(fd);
    return -1;
}

static int
dial(const struct server *server)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *one;
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    int fd = -1;

    if (server->unix_path[0] != '\0') {
        memcpy(local.sun_path, server->unix_path, sizeof(local.sun_path));
        return dial_one((struct sockaddr *)&local, sizeof(local), AF_UNIX);
    }
    if (server->host[0] == '\0' ||
        getaddrinfo(server->host, server->port, &hints, &list) != 0)
        return -1;
    for (one = list; one != NULL && fd < 0; one = one->ai_next)
        fd = dial_one(one->ai_addr, one->ai_addrlen, one->ai_family);
    freeaddrinfo(list);
    return fd;
}

/* 0: held again; -EACCES: the server says that the lease is over; else: try later. */
static int
prove(int fd, const struct server *server, pid_t pid)
{
    static const uint8_t protocol[32] = FDC_PROTO_HASH;
    struct fdc_attach_hello hello;
    struct fdc_attach_request request = {.magic = FDC_ATTACH_MAGIC,
                                         .kind = FDC_ATTACH_HOLD,
                                         .pid = (uint32_t)pid,
                                         .program = "fdhold"};
    struct fdc_attach_answer answer;
    int err = fdc_sock_read(fd, &hello, sizeof(hello), ANSWER_US);

    if (err)
        return err;
    if (hello.magic != FDC_ATTACH_MAGIC || hello.version != FDC_ATTACH_VERSION)
        return -EPROTO;
    memcpy(request.lease, server->lease, 16);
    memcpy(request.protocol, protocol, 32);
    if (getrandom(request.nonce, 32, 0) != 32)
        return -EIO;
    fdc_attach_prove(server->secret, &hello, &request);
    err = fdc_sock_write(fd, &request, sizeof(request));
    if (!err)
        err = fdc_sock_read(fd, &answer, sizeof(answer), ANSWER_US);
    if (err)
        return err;
    if (answer.magic != FDC_ATTACH_MAGIC)
        return -EPROTO;
    if (answer.error != 0)
        return -EACCES;
    return fdc_attach_proven(server->secret, &hello, &request, &answer) ? 0 : -EPROTO;
}

/* A server of this machine learns who we are; others have nothing of it. */
static void
say_who(const struct server *server)
{
    struct fdc_attach_life life = {.magic = FDC_ATTACH_MAGIC, .life = FDC_ATTACH_KEEPS};

    if (server->unix_path[0] == '\0')
        return;
    if (send(server->fd, &life, sizeof(life), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        /* then the next server has to wait whether somebody comes */
    }
}

static void
hold_again(struct hold *hold, struct server *server)
{
    uint32_t most = server->unix_path[0] != '\0' ? AGAIN_NEAR_MS : AGAIN_FAR_MS;
    int fd = dial(server);
    int err = fd < 0 ? -ECONNREFUSED : prove(fd, server, hold->pid);

    if (err == 0) {
        server->fd = fd;
        server->asked_size = 0;
        server->again_ms = AGAIN_MS;
        say_who(server);
        return;
    }
    if (fd >= 0)
        close(fd);
    server->over = err == -EACCES;
    server->next_ns = fdc_now_ns() + server->again_ms * 1000000ull;
    server->again_ms *= 2;
    if (server->again_ms > most)
        server->again_ms = most;
}

/* ---- waiting ---- */

static void
take_end(int *fd)
{
    close(*fd);
    *fd = -1;
}

/* Whether the session's client lives: it has a lock on the file until it ends. */
static void
answer(const struct hold *hold, struct server *server)
{
    struct fdc_attach_life life;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};

    memcpy(&life, server->asked, sizeof(life));
    if (life.magic != FDC_ATTACH_MAGIC || life.life != FDC_ATTACH_ASKED)
        return;
    lock.l_start = fdc_attach_lock(life.session);
    if (fcntl(hold->file, F_OFD_GETLK, &lock) != 0)
        return;
    life.life = lock.l_type == F_UNLCK ? FDC_ATTACH_GONE : FDC_ATTACH_LIVES;
    if (send(server->fd, &life, sizeof(life), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        /* then the server asks again, or waits until the client's time is over */
    }
}

/* Something came on a hold connection: a question, or its end. */
static void
take_server(const struct hold *hold, struct server *server)
{
    ssize_t got = recv(server->fd, server->asked + server->asked_size,
                       sizeof(server->asked) - server->asked_size, MSG_DONTWAIT);

    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0) {
        server->asked_size += (size_t)got;
        if (server->asked_size == sizeof(server->asked)) {
            server->asked_size = 0;
            answer(hold, server);
        }
        return;
    }
    take_end(&server->fd);
    server->next_ns = 0;
}

/* Milliseconds to the next try; -1: none is due. */
static int
until_next(const struct hold *hold)
{
    uint64_t now = fdc_now_ns(), left;
    int least = -1, i, ms;

    for (i = 0; i < hold->servers; i++) {
        const struct server *server = &hold->server[i];

        if (server->fd >= 0 || server->over)
            continue;
        left = server->next_ns > now ? server->next_ns - now : 0;
        ms = (int)((left + 999999) / 1000000);
        if (least < 0 || ms < least)
            least = ms;
    }
    return least;
}

static bool
is_over(const struct hold *hold)
{
    int i;

    if (hold->pid != 0 && hold->pidfd < 0 && hold->pipe < 0)
        return true;
    for (i = 0; i < hold->servers; i++)
        if (!hold->server[i].over)
            return false;
    return true;
}

/* The first process has ended. While others go on, whoever reads standard error to its end
 * must not wait for them because of us. */
static void
let_others_end(struct hold *hold)
{
    struct pollfd other = {.fd = hold->pipe, .events = POLLIN};

    if (hold->path == NULL || hold->pipe < 0 || poll(&other, 1, OTHERS_MS) > 0)
        return;
    hold->path = NULL;
    close(STDERR_FILENO);
    if (open("/dev/null", O_RDWR | O_CLOEXEC) < 0) {
        /* then nothing has this number, and nothing writes there */
    }
}

static void
turn(struct hold *hold)
{
    struct pollfd polls[SERVERS_MAX + 2];
    struct server *server;
    int i;

    polls[0] = (struct pollfd){.fd = hold->pidfd, .events = POLLIN};
    polls[1] = (struct pollfd){.fd = hold->pipe, .events = POLLIN};
    for (i = 0; i < hold->servers; i++)
        polls[i + 2] = (struct pollfd){.fd = hold->server[i].fd, .events = POLLIN};
    if (poll(polls, (nfds_t)hold->servers + 2, until_next(hold)) < 0)
        return;
    if (hold->pidfd >= 0 && polls[0].revents != 0) {
        take_end(&hold->pidfd);
        let_others_end(hold);
    }
    if (hold->pipe >= 0 && (polls[1].revents & (POLLHUP | POLLERR)) != 0)
        take_end(&hold->pipe);
    for (i = 0; i < hold->servers; i++)
        if (hold->server[i].fd >= 0 && polls[i + 2].revents != 0)
            take_server(hold, &hold->server[i]);
    if (is_over(hold))
        return;
    for (i = 0; i < hold->servers; i++) {
        server = &hold->server[i];
        if (server->fd < 0 && !server->over && server->next_ns <= fdc_now_ns())
            hold_again(hold, server);
    }
}

/* The servers learn that this is the end, and no break: a question that nobody has read
 * would make a reset of closing alone. */
static void
say_goodbye(const struct hold *hold)
{
    int i;

    for (i = 0; i < hold->servers; i++)
        if (hold->server[i].fd >= 0)
            shutdown(hold->server[i].fd, SHUT_WR);
}

/* Not where that would have to be waited for: the leases end first. */
static void
say(const char *text)
{
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    char line[1024], stamp[32];
    time_t now = time(NULL);
    struct tm utc;
    int size;

    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    size = snprintf(line, sizeof(line), "[INFO] %s %s\n", stamp, text);
    if (size >= (int)sizeof(line) || poll(&ready, 1, 0) <= 0 || !(ready.revents & POLLOUT))
        return;
    if (write(STDERR_FILENO, line, (size_t)size) < 0) {
        /* nobody reads it any more */
    }
}

/* Servers close a hold once they have seen its end; whether all have. */
static bool
are_released(struct hold *hold)
{
    uint64_t until = fdc_now_ns() + RELEASE_MS * 1000000ull, now;
    char more[64];
    int i;

    for (i = 0; i < hold->servers; i++) {
        struct pollfd one = {.fd = hold->server[i].fd, .events = POLLIN};
        ssize_t got = 1;

        while (got != 0) {
            now = fdc_now_ns();
            if (one.fd < 0 || now >= until ||
                poll(&one, 1, (int)((until - now) / 1000000) + 1) <= 0)
                return false;
            got = recv(one.fd, more, sizeof(more), MSG_DONTWAIT);
            if (got < 0)
                return false;
        }
    }
    return true;
}

static bool
is_ours(const struct hold *hold)
{
    struct stat named, held;

    return stat(hold->path, &named) == 0 && fstat(hold->file, &held) == 0 &&
           named.st_ino == held.st_ino && named.st_dev == held.st_dev;
}

/* The lines that FlexDirect's users know. On a terminal the shell asks for the next command
 * by the time the servers answer, so there is but the first. */
static void
release(struct hold *hold)
{
    bool ended = hold->pid != 0 && hold->pidfd < 0 && hold->pipe < 0, removed;
    char text[900];

    if (hold->path == NULL || !ended) {
        say_goodbye(hold);
        return;
    }
    snprintf(text, sizeof(text), "Releasing GPUs from config file '%s'", hold->path);
    say(text);
    say_goodbye(hold);
    removed = is_ours(hold) && unlink(hold->path) == 0;
    if (isatty(STDERR_FILENO) || !are_released(hold) || !removed)
        return;
    snprintf(text, sizeof(text),
             "Released GPUs on %d servers and removed generated config file '%s'",
             hold->servers, hold->path);
    say(text);
}

static void
settle(int session)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1};
    sigset_t none;

    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* it has the secrets in its memory */
    fcntl(session, F_SETLK, &lock);
}

int
main(int argc, char **argv)
{
    static struct hold hold;
    int session, i;

    if (argc > 5 && argv[argc - 1][0] == '/')
        hold.path = argv[--argc];
    if (argc < 5) {
        fprintf(stderr, "usage: fdhold SESSION_FD PID PIPE_FD SOCKET_FD... [FILE] "
                        "(fdrun starts it)\n");
        return 2;
    }
    session = atoi(argv[1]);
    hold.pid = (pid_t)atoi(argv[2]);
    hold.pipe = atoi(argv[3]);
    hold.file = session;
    settle(session);
    if (!read_session(session, &hold) || hold.servers != argc - 4)
        return 1;
    for (i = 0; i < hold.servers; i++) {
        hold.server[i].fd = atoi(argv[4 + i]);
        hold.server[i].again_ms = AGAIN_MS;
        say_who(&hold.server[i]);
    }
    /* Without it (an old kernel) the pipe alone tells of the program's end. */
    hold.pidfd = hold.pid != 0 ? (int)syscall(SYS_pidfd_open, hold.pid, 0) : -1;
    while (!is_over(&hold))
        turn(&hold);
    release(&hold);
    return 0;
}
