/*
 * Attaching: FD_SESSION names a private file that says where the workers are, one a server,
 * and holds the secrets to prove. Connects to each, does the handshake of fdc/attach.h,
 * makes the link, agrees on addresses and fetches the snapshot of the devices. The reason
 * of a failure is logged once.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fdc/attach.h"
#include "fdc/cipher.h"
#include "fdc/rdma.h"
#include "fdc/transport.h"

#define CONNECT_MS 10000
#define QUEUE_MS 5
#define HANDSHAKE_US 60000000 /* a worker may have to start */
#define RESUME_US 10000000
#define GRACE_S 60
#define BEGIN_S 10 /* for a server that is being started again */
#define BEGIN_MS 100
#define HANGS_UP_MOST 3 /* times that it does so and is there: it will go on like that */
#define STREAMS_MAX (FDC_LINK_SOCKS - 1)
#define FILE_MAX 65536
#define WHY_ROOM 512

#define RANGE_LO 0x400000000000ull /* device addresses of all sessions */
#define RANGE_HI 0x500000000000ull
#define RANGE_UNIT (1ull << 30)

/* One server's part of the file. */
struct place {
    char server[64]; /* what people call it */
    uint32_t gpus;   /* how many the lease has */
    uint8_t lease[16], secret[32];
    bool lease_known, secret_known;
    bool seal; /* what travels over tcp has to be encrypted */
    char unix_path[108];
    char host[256], port[32];
    int fd[2], fds;     /* connected sockets that were inherited */
    enum fdc_road road; /* 0: whatever there is */
    bool rdma;          /* the server has a device and UCX */
    char *why;          /* where the reason of a failure goes; NULL: into the log */
};

struct range {
    uint64_t base, size;
};

struct places {
    struct place one[FDC_SESSIONS];
    int count;
};

/* Why there is no session, for people. place: whose, NULL where it is nobody's. */
static CUresult
no_session(const struct place *place, const char *what, int err)
{
    const char *server = place != NULL ? place->server : "";

    if (place != NULL && place->why != NULL) {
        snprintf(place->why, WHY_ROOM, "%s%s%s", what, err != 0 ? ": " : "",
                 err != 0 ? strerror(-err) : "");
        return CUDA_ERROR_NO_DEVICE;
    }
    fdc_log(FDC_LOG_ERROR, "no session%s%s: %s%s%s", server[0] != '\0' ? " with " : "",
            server, what, err != 0 ? ": " : "", err != 0 ? strerror(-err) : "");
    return CUDA_ERROR_NO_DEVICE;
}

static bool
from_hex(const char *text, uint8_t *bytes, size_t size)
{
    size_t i;

    if (strlen(text) != size * 2)
        return false;
    for (i = 0; i < size * 2; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;

        if (digit < 0)
            return false;
        bytes[i / 2] = (uint8_t)(i % 2 == 0 ? digit << 4 : bytes[i / 2] | digit);
    }
    return true;
}

static bool
road_from(const char *text, enum fdc_road *road)
{
    if (strcmp(text, "shm") == 0)
        *road = FDC_ROAD_SHM;
    else if (strcmp(text, "tcp") == 0)
        *road = FDC_ROAD_TCP;
    else if (strcmp(text, "rdma") == 0)
        *road = FDC_ROAD_RDMA;
    else if (strcmp(text, "auto") == 0)
        *road = 0;
    else
        return false;
    return true;
}

/* One line, key and value; "server" begins a server's part. Unknown keys are for others. */
static bool
place_line(struct places *places, char *line)
{
    struct place *place = &places->one[places->count - 1];
    char *save = NULL;
    char *key = strtok_r(line, " \t\r", &save);
    /* A path may have spaces. */
    const char *ends = key != NULL && strcmp(key, "unix") == 0 ? "\r" : " \t\r";
    char *value = key != NULL ? strtok_r(NULL, ends, &save) : NULL;
    char *more = value != NULL ? strtok_r(NULL, " \t\r", &save) : NULL;

    if (key == NULL || key[0] == '#')
        return true;
    if (value == NULL)
        return false;
    if (strcmp(key, "server") == 0) {
        if (place->server[0] != '\0') {
            if (places->count == FDC_SESSIONS)
                return false;
            place = &places->one[places->count++];
        }
        snprintf(place->server, sizeof(place->server), "%s", value);
        return true;
    }
    if (strcmp(key, "lease") == 0)
        return place->lease_known = from_hex(value, place->lease, sizeof(place->lease));
    if (strcmp(key, "secret") == 0)
        return place->secret_known =
                   from_hex(value, place->secret, sizeof(place->secret));
    if (strcmp(key, "road") == 0)
        return road_from(value, &place->road);
    if (strcmp(key, "unix") == 0) {
        if (strlen(value) >= sizeof(place->unix_path))
            return false;
        strcpy(place->unix_path, value);
    } else if (strcmp(key, "tcp") == 0) {
        if (more == NULL || strlen(value) >= sizeof(place->host) ||
            strlen(more) >= sizeof(place->port))
            return false;
        strcpy(place->host, value);
        strcpy(place->port, more);
    } else if (strcmp(key, "seal") == 0) {
        place->seal = strcmp(value, "0") != 0;
    } else if (strcmp(key, "rdma") == 0) {
        place->rdma = strcmp(value, "yes") == 0;
    } else if (strcmp(key, "gpus") == 0) {
        place->gpus = (uint32_t)strtoul(value, NULL, 10);
        return place->gpus >= 1 && place->gpus <= 64;
    } else if (strcmp(key, "fd") == 0) {
        place->fd[0] = atoi(value);
        place->fd[1] = more != NULL ? atoi(more) : -1;
        place->fds = more != NULL ? 2 : 1;
    }
    return true;
}

static CUresult
places_parse(const char *path, struct places *places, char *text)
{
    char *line, *save = NULL;
    int number = 0;

    for (line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        number++;
        if (!place_line(places, line)) {
            fdc_log(FDC_LOG_ERROR, "no session: %s: line %d is not understood", path,
                    number);
            return CUDA_ERROR_NO_DEVICE;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult
places_read(const char *path, struct places *places)
{
    struct stat status;
    CUresult result;
    ssize_t got;
    char *text;
    int fd;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return no_session(NULL, path, -errno);
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
        (status.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        close(fd);
        return no_session(NULL, "the file of FD_SESSION may be read by others", 0);
    }
    text = calloc(1, FILE_MAX + 1);
    if (text == NULL) {
        close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    got = read(fd, text, FILE_MAX);
    if (got < 0)
        result = no_session(NULL, path, -errno);
    else
        result = places_parse(path, places, text);
    close(fd);
    explicit_bzero(text, FILE_MAX);
    free(text);
    return result;
}

/* ---- connecting ---- */

static int
connect_to(const struct sockaddr *address, socklen_t size, int family)
{
    struct pollfd wait = {.events = POLLOUT};
    socklen_t length = sizeof(int);
    int fd, err = 0, one = 1, flags;

    fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* EAGAIN: a Unix socket's queue is full, and nothing is under way. */
    for (int tried = 0; (err = connect(fd, address, size)) != 0 && errno == EAGAIN &&
                        tried < CONNECT_MS / QUEUE_MS;
         tried++)
        usleep(QUEUE_MS * 1000);
    if (err != 0) {
        err = 0;
        if (errno != EINPROGRESS) {
            err = -errno;
            goto err_close;
        }
        wait.fd = fd;
        for (;;) {
            int rc = poll(&wait, 1, CONNECT_MS);

            if (rc < 0 && errno == EINTR)
                continue;
            if (rc <= 0) {
                err = rc == 0 ? -ETIMEDOUT : -errno;
                goto err_close;
            }
            break;
        }
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &length) != 0)
            err = errno;
        if (err != 0) {
            err = -err;
            goto err_close;
        }
    }
    flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;

err_close:
    close(fd);
    return err;
}

static int
connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, path, strlen(path) + 1);
    return connect_to((struct sockaddr *)&address, sizeof(address), AF_UNIX);
}

static int
connect_tcp(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *one;
    int fd = -EHOSTUNREACH;

    if (getaddrinfo(host, port, &hints, &list) != 0)
        return -EHOSTUNREACH;
    for (one = list; one != NULL; one = one->ai_next) {
        fd = connect_to(one->ai_addr, one->ai_addrlen, one->ai_family);
        if (fd >= 0)
            break;
    }
    freeaddrinfo(list);
    return fd;
}

/* ---- the handshake ---- */

static void
program_name(char *name, size_t size)
{
    ssize_t got;
    int fd;

    memset(name, 0, size);
    fd = open("/proc/self/comm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    got = read(fd, name, size - 1);
    close(fd);
    if (got > 0 && name[got - 1] == '\n')
        name[got - 1] = '\0';
}

static void
hash_text(const uint8_t hash[32], char text[17])
{
    static const char digits[] = "0123456789abcdef";
    int i;

    for (i = 0; i < 8; i++) {
        text[2 * i] = digits[hash[i] >> 4];
        text[2 * i + 1] = digits[hash[i] & 15];
    }
    text[16] = '\0';
}

/* kind and more: as in the request. why: -EACCES, the server has said no; 0, what it says
 * makes no sense; else what became of the connection. */
static CUresult
handshake(int fd, const struct place *place, uint32_t kind, uint32_t more,
          enum fdc_road road, const uint8_t session[16], struct fdc_link_key *key, int *why)
{
    static const uint8_t protocol[32] = FDC_PROTO_HASH;
    struct fdc_attach_hello hello;
    struct fdc_attach_request request = {.magic = FDC_ATTACH_MAGIC};
    struct fdc_attach_answer answer;
    int64_t limit_us = kind == FDC_ATTACH_RESUME ? RESUME_US : HANDSHAKE_US;
    char theirs[17], ours[17], differ[96];
    int err;

    *why = err = fdc_sock_read(fd, &hello, sizeof(hello), limit_us);
    if (err)
        return no_session(place, "the server does not greet", err);
    if (hello.magic != FDC_ATTACH_MAGIC || hello.version != FDC_ATTACH_VERSION)
        return no_session(place, "the server speaks another language", 0);
    /* Who comes again has a worker of its own release, whatever the server's is by now. */
    if (kind != FDC_ATTACH_RESUME &&
        memcmp(hello.protocol, protocol, sizeof(protocol)) != 0) {
        hash_text(hello.protocol, theirs);
        hash_text(protocol, ours);
        snprintf(differ, sizeof(differ),
                 "the server's protocol is %s, this client's %s", theirs, ours);
        return no_session(place, differ, 0);
    }
    request.kind = kind;
    request.more = more;
    request.road = road;
    request.pid = (uint32_t)getpid();
    request.seal = place->seal && road == FDC_ROAD_TCP;
    memcpy(request.lease, place->lease, 16);
    memcpy(request.session, session, 16);
    memcpy(request.protocol, protocol, 32);
    if (getrandom(request.nonce, 32, 0) != 32)
        return no_session(place, "no random numbers", -errno);
    program_name(request.program, sizeof(request.program));
    fdc_attach_prove(place->secret, &hello, &request);
    err = fdc_sock_write(fd, &request, sizeof(request));
    if (!err)
        err = fdc_sock_read(fd, &answer, sizeof(answer), limit_us);
    *why = err;
    if (err)
        return no_session(place, "the server hangs up", err);
    if (answer.magic != FDC_ATTACH_MAGIC)
        return no_session(place, "the server's answer makes no sense", 0);
    if (answer.error != 0) {
        *why = -EACCES;
        fdc_log_printable(answer.reason, sizeof(answer.reason));
        return no_session(place, answer.reason, 0);
    }
    if (!fdc_attach_proven(place->secret, &hello, &request, &answer))
        return no_session(place, "the server does not know the lease's secret", 0);
    if (request.seal)
        fdc_attach_seal_key(place->secret, &hello, &request, key->bytes);
    return CUDA_SUCCESS;
}

static CUresult
await_ready(const struct place *place, int fd, int *why)
{
    struct fdc_attach_ready ready;
    int err;

    *why = err = fdc_sock_read(fd, &ready, sizeof(ready), HANDSHAKE_US);
    if (err)
        return no_session(place, "the worker does not start", err);
    if (ready.magic != FDC_ATTACH_MAGIC)
        return no_session(place, "the worker makes no sense", 0);
    if (ready.error != 0) {
        fdc_log_printable(ready.reason, sizeof(ready.reason));
        return no_session(place, ready.reason, 0);
    }
    return CUDA_SUCCESS;
}

/* True: rdma shall be tried with this server. *road: what is taken instead where that fails,
 * rdma itself where it was asked for. */
static bool
choose_road(const struct place *place, enum fdc_road *road)
{
    bool here = place->unix_path[0] != '\0';

    *road = place->road;
    if (place->fds > 0) {
        if (*road == 0)
            *road = place->fds == 2 ? FDC_ROAD_TCP : FDC_ROAD_SHM;
        return false;
    }
    if (*road == FDC_ROAD_RDMA && !fdc_process.ucx_lost)
        return true;
    if (*road == FDC_ROAD_RDMA) {
        fdc_log(FDC_LOG_WARN, "a child cannot use its parent's UCX: %s instead of rdma",
                here ? "shared memory" : "tcp");
        *road = 0;
    }
    if (*road != 0)
        return false;
    *road = here ? FDC_ROAD_SHM : FDC_ROAD_TCP;
    return !here && place->rdma && !place->seal && !fdc_process.ucx_lost &&
           fdc_rdma_device();
}

/* The session file with a lock that tells whether this process lives; -1: there is none. */
static int
lock_life(const uint8_t session[16])
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1};
    const char *path = getenv("FD_SESSION");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY) : -1;

    lock.l_start = fdc_attach_lock(session);
    if (fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Connections for bulk data, of those over tcp. */
static int
bulk_streams(void)
{
    const char *value = getenv("FD_TCP_STREAMS");
    int streams = value != NULL ? atoi(value) : 1;

    return streams < 1 ? 1 : streams > STREAMS_MAX ? STREAMS_MAX : streams;
}

/* For how long a session waits for a connection to come again; 0: not at all. */
static uint64_t
grace_seconds(uint64_t usual)
{
    const char *value = getenv("FD_RECONNECT");

    return value != NULL && value[0] != '\0' ? strtoull(value, NULL, 10) : usual;
}

/* Sockets that are ready to be a link, and their keys if it is to be sealed. lost: what
 * became of a connection that was to be one of them, as handshake() says it. */
static CUresult
reach_once(struct place *place, enum fdc_road road, int socks[FDC_LINK_SOCKS],
           struct fdc_link_key keys[FDC_LINK_SOCKS], int *count, uint8_t session[16],
           int *life_fd, int *lost)
{
    bool at_unix = road == FDC_ROAD_SHM;
    char why[WHY_ROOM];
    CUresult result;
    uint32_t more;
    int i, streams;

    *count = 0;
    *lost = 0;
    if (place->fds > 0) {
        *count = place->fds;
        for (i = 0; i < place->fds; i++) {
            socks[i] = place->fd[i];
            fcntl(socks[i], F_SETFD, FD_CLOEXEC);
        }
        return CUDA_SUCCESS;
    }
    if (road == FDC_ROAD_RDMA) { /* at its Unix socket where there is one */
        at_unix = place->unix_path[0] != '\0';
        if (fdc_rdma_probe(why, sizeof(why)) != 0)
            return no_session(place, why, 0);
    }
    if (!place->lease_known || !place->secret_known)
        return no_session(place, "the file of FD_SESSION names no lease and secret", 0);
    if (at_unix ? place->unix_path[0] == '\0' : place->host[0] == '\0')
        return no_session(place, "the file of FD_SESSION has no address for this transport",
                          0);
    if (getrandom(session, 16, 0) != 16)
        return no_session(place, "no random numbers", -errno);
    if (road == FDC_ROAD_TCP)
        *life_fd = lock_life(session);
    streams = road == FDC_ROAD_TCP ? bulk_streams() : 0;

    do {
        socks[*count] = at_unix ? connect_unix(place->unix_path)
                                : connect_tcp(place->host, place->port);
        if (socks[*count] < 0) {
            *lost = socks[*count];
            result = no_session(place, at_unix ? place->unix_path : place->host, *lost);
            goto err_close;
        }
        (*count)++;
        more = *count > 1 ? (uint32_t)*count - 2
               : streams > 1 ? (uint32_t)(streams - 1) << 4 | (*life_fd >= 0)
                             : *life_fd >= 0;
        result = handshake(socks[*count - 1], place,
                           *count == 1 ? FDC_ATTACH_COMMAND : FDC_ATTACH_BULK, more, road,
                           session, &keys[*count - 1], lost);
        if (result != CUDA_SUCCESS)
            goto err_close;
    } while (*count < 1 + streams);
    result = await_ready(place, socks[0], lost);
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;

err_close:
    while (*count > 0)
        close(socks[--*count]);
    if (*life_fd >= 0)
        close(*life_fd);
    *life_fd = -1;
    return result;
}

/* A server that ended a moment ago, or while it was spoken to, may be about to be there
 * again, with the lease. Only the last reason is told. */
static CUresult
reach(struct place *place, enum fdc_road road, int socks[FDC_LINK_SOCKS],
      struct fdc_link_key keys[FDC_LINK_SOCKS], int *count, uint8_t session[16],
      int *life_fd)
{
    uint64_t until_ns = fdc_now_ns() + grace_seconds(BEGIN_S) * 1000000000u;
    char why[WHY_ROOM] = "";
    CUresult result;
    int lost, hung_up = 0;

    if (place->why != NULL) /* another road is tried then */
        return reach_once(place, road, socks, keys, count, session, life_fd, &lost);
    place->why = why;
    for (;;) {
        result = reach_once(place, road, socks, keys, count, session, life_fd, &lost);
        if (lost == -ECONNRESET || lost == -EPIPE)
            hung_up++;
        else if (lost != -ECONNREFUSED)
            break;
        if (hung_up > HANGS_UP_MOST || fdc_now_ns() >= until_ns)
            break;
        fdc_log(FDC_LOG_INFO, "the server has gone: is it there again?");
        usleep(BEGIN_MS * 1000);
    }
    place->why = NULL;
    return result == CUDA_SUCCESS ? result : no_session(place, why, 0);
}

/* ---- connections that break ---- */

/* What is needed to come again. In the place of the lease's secret there is what a RESUME
 * of this session is proved with. */
struct again {
    struct place place;
    uint8_t session[16];
};

static int
dial_again(void *user, int which, uint32_t turn, int *sock, struct fdc_link_key *key)
{
    struct again *again = user;
    int fd = connect_tcp(again->place.host, again->place.port), why;

    if (fd < 0)
        return fd;
    if (handshake(fd, &again->place, FDC_ATTACH_RESUME, turn << 4 | (uint32_t)which,
                  FDC_ROAD_TCP, again->session, key, &why) != CUDA_SUCCESS) {
        close(fd);
        return why == -EACCES ? why : -ECONNRESET;
    }
    *sock = fd;
    return 0;
}

/* From now on the session outlives its connections. */
static void
keep_link(struct fdc_session *session, const struct again *again)
{
    struct again *kept = malloc(sizeof(*kept));
    struct fdc_link_keep keep = {
        .grace_us = grace_seconds(GRACE_S) * 1000000,
        .dial = dial_again,
        .user = kept,
        .news_fd = -1,
    };

    if (kept == NULL || keep.grace_us == 0) {
        free(kept);
        return;
    }
    *kept = *again; /* as long as the process lives */
    if (fdc_link_keep(session->link, &keep) != 0) {
        fdc_log(FDC_LOG_WARN, "a connection that breaks will end the session");
        explicit_bzero(kept, sizeof(*kept));
        free(kept);
    }
}

/* ---- the snapshot ---- */

static bool
snapshot_fits(const struct fdc_snapshot *snapshot, uint64_t size)
{
    uint64_t devices, peers;

    if (size < sizeof(*snapshot) || snapshot->device_count > 64 ||
        snapshot->device_offset % 8 != 0)
        return false;
    devices = (uint64_t)snapshot->device_count * sizeof(struct fdc_snapshot_device);
    peers = (uint64_t)snapshot->device_count * snapshot->device_count;
    return snapshot->device_offset <= size &&
           devices <= size - snapshot->device_offset && snapshot->peer_offset <= size &&
           peers <= size - snapshot->peer_offset;
}

static CUresult
fetch_snapshot(struct fdc_session *session, const struct range *range)
{
    struct fdc_call call = {.session = session, .id = FDC_ID_fdcAttach};
    struct fdc_rep_fdcAttach reply;
    struct fdc_req_fdcAttach *req;
    struct fdc_chunk chunk;
    void *bytes;
    CUresult result;

    result = fdc_stage_alloc(session, FDC_REGION_DOWN, 128 * 1024, &chunk);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        result = call.result;
        goto out;
    }
    req->blob = chunk;
    req->range = range->base;
    req->range_size = range->size;
    req->contexts = fdc_context_first(session);
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS)
        goto out;
    result = fdc_blob_rest(&call, &chunk, reply.total, &bytes);
    if (result != CUDA_SUCCESS)
        goto out;
    session->snapshot = bytes;
    if (!snapshot_fits(session->snapshot, reply.total)) {
        session->snapshot = NULL;
        free(bytes);
        result = CUDA_ERROR_DEVICE_UNAVAILABLE;
    }

out:
    fdc_stage_free(session, FDC_REGION_DOWN, &chunk);
    return result;
}

/* As CUDA reads its own. */
static bool
said(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

static bool
is_one(const char *name)
{
    const char *value = getenv(name);
    static uint32_t told;

    if (value == NULL || value[0] == '\0' || strcmp(value, "0") == 0)
        return false;
    if (strcmp(value, "1") == 0)
        return true;
    if (!__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED))
        fdc_log(FDC_LOG_WARN, "%s=%.100s is not 0 or 1, using 0", name, value);
    return false;
}

/* The session's link is there: everything that has to be known before calls are made. */
static CUresult
session_begin(struct fdc_session *session, const struct place *place,
              const struct range *range)
{
    CUresult result;
    int err;

    session->shared = fdc_link_is_shared(session->link);
    fdc_stats_setup(session);
    err = fdc_call_setup(session);
    if (err)
        return no_session(place, "no memory", err);
    result = fdc_stage_make(session);
    if (result != CUDA_SUCCESS) {
        no_session(place, "no staging memory", 0);
        return result;
    }
    result = fetch_snapshot(session, range);
    if (result != CUDA_SUCCESS)
        return no_session(place, "the worker gives no devices", 0);
    session->driver_version = session->snapshot->driver_version;
    return CUDA_SUCCESS;
}

/* What is needed for other servers to come to it, as the file and the connection have it. */
static void
note_door(struct fdc_session *session, const struct place *place, enum fdc_road road,
          const uint8_t number[16], int sock)
{
    const struct fdc_door_facts facts = {
        .lease = place->lease,
        .session = number,
        .secret = place->secret,
        .path = place->unix_path,
        .host = place->host,
        .port = place->port,
        .sock = sock,
        .shared = road == FDC_ROAD_SHM,
        .seal = place->seal,
    };

    if (place->fds == 0)
        session->door = fdc_door_new(&facts);
}

static int
make_link(const struct place *place, enum fdc_road road, const int *socks, int count,
          const struct fdc_link_key *keys, struct fdc_link **link)
{
    if (road == FDC_ROAD_RDMA && place->why != NULL)
        return fdc_rdma_client(socks[0], link, place->why, WHY_ROOM);
    return fdc_link_client_sealed(road, socks, count, keys, link);
}

static CUresult
attach_over(struct place *place, enum fdc_road road, int number,
            const struct range *range, struct fdc_session **made)
{
    struct fdc_session *session;
    struct fdc_link_key keys[FDC_LINK_SOCKS];
    int socks[FDC_LINK_SOCKS], count, err;
    struct again again = {0};
    CUresult result;
    int life_fd = -1;

    result = reach(place, road, socks, keys, &count, again.session, &life_fd);
    if (result != CUDA_SUCCESS) {
        explicit_bzero(keys, sizeof(keys));
        return result;
    }
    again.place = *place;
    again.place.why = NULL;
    fdc_attach_resume_key(place->secret, again.session, again.place.secret);

    session = calloc(1, sizeof(*session));
    if (session != NULL)
        note_door(session, place, road, again.session, socks[0]);
    if (place->fds > 0 || road != FDC_ROAD_TCP)
        place->seal = false;
    explicit_bzero(place->secret, sizeof(place->secret));
    if (session == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
        goto err_close;
    }
    session->number = number;
    session->road = road;
    session->life_fd = life_fd;
    memcpy(session->server, place->server, sizeof(session->server));
    session->sync = is_one("FD_SYNC") || said("CUDA_LAUNCH_BLOCKING");
    err = make_link(place, road, socks, count, place->seal ? keys : NULL,
                    &session->link);
    explicit_bzero(keys, sizeof(keys));
    if (err) {
        result = CUDA_ERROR_NO_DEVICE;
        if (place->why == NULL)
            no_session(place, "the data connection", err);
        goto err_free;
    }
    place->why = NULL; /* from here on no other road helps */
    if (place->fds == 0 && road == FDC_ROAD_TCP)
        keep_link(session, &again);
    explicit_bzero(&again, sizeof(again));
    result = session_begin(session, place, range);
    if (result == CUDA_SUCCESS) {
        *made = session;
        return CUDA_SUCCESS;
    }
    fdc_link_free(session->link); /* the session's few KiB stay: this happens once */
    return result;

err_free:
    free(session->door);
    free(session);
err_close:
    while (count > 0)
        close(socks[--count]);
    if (life_fd >= 0)
        close(life_fd);
    explicit_bzero(&again, sizeof(again));
    explicit_bzero(keys, sizeof(keys));
    return result;
}

/* rdma, where it is asked for or where there is hope; another road where it does not work and
 * was not asked for. */
static CUresult
attach_one(struct place *place, int number, const struct range *range,
           struct fdc_session **made)
{
    char why[WHY_ROOM] = "";
    struct place by_rdma;
    enum fdc_road road;
    CUresult result;

    place->seal = place->seal || said("FD_ENCRYPT");
    if (!choose_road(place, &road))
        return attach_over(place, road, number, range, made);
    by_rdma = *place;
    by_rdma.why = why;
    result = attach_over(&by_rdma, FDC_ROAD_RDMA, number, range, made);
    explicit_bzero(&by_rdma, sizeof(by_rdma));
    if (result == CUDA_SUCCESS || why[0] == '\0')
        return result;
    if (road == FDC_ROAD_RDMA) {
        fdc_log(FDC_LOG_ERROR, "no session%s%s over rdma: %s (FD_TRANSPORT=auto takes "
                "another road)", place->server[0] != '\0' ? " with " : "", place->server,
                why);
        return result;
    }
    fdc_log(FDC_LOG_WARN, "tcp instead of rdma%s%s: %s",
            place->server[0] != '\0' ? " with " : "", place->server, why);
    return attach_over(place, road, number, range, made);
}

/* Each server has a part of the addresses that goes with how many GPUs it lends. */
static void
share_out(const struct places *places, struct range *range)
{
    uint64_t at = RANGE_LO, part;
    uint32_t all = 0;
    int i;

    for (i = 0; i < places->count; i++)
        all += places->one[i].gpus != 0 ? places->one[i].gpus : 1;
    for (i = 0; i < places->count; i++) {
        part = (RANGE_HI - RANGE_LO) / all *
               (places->one[i].gpus != 0 ? places->one[i].gpus : 1);
        part -= part % RANGE_UNIT;
        range[i] = (struct range){at, part};
        at += part;
    }
}

/* To each server; all or none. */
static CUresult
attach_all(struct places *places, struct fdc_session **made)
{
    struct range range[FDC_SESSIONS];
    CUresult result = CUDA_SUCCESS;
    int count;

    share_out(places, range);
    for (count = 0; count < places->count && result == CUDA_SUCCESS; count++)
        result = attach_one(&places->one[count], count, &range[count], &made[count]);
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;
    for (count--; count > 0; count--)
        fdc_link_free(made[count - 1]->link);
    return result;
}

CUresult
fdc_attach(void)
{
    const char *path = getenv("FD_SESSION"), *transport = getenv("FD_TRANSPORT");
    struct places *places;
    struct fdc_session *session;
    enum fdc_road road;
    CUresult result;
    int i;

    if (path == NULL || path[0] == '\0')
        return no_session(NULL, "FD_SESSION is not set", 0);
    places = calloc(1, sizeof(*places));
    if (places == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    places->count = 1;
    result = places_read(path, places);
    if (result == CUDA_SUCCESS && transport != NULL && transport[0] != '\0') {
        if (!road_from(transport, &road))
            result = no_session(NULL, "FD_TRANSPORT is not understood", 0);
        for (i = 0; i < places->count; i++)
            places->one[i].road = road;
    }
    if (result == CUDA_SUCCESS)
        result = attach_all(places, fdc_process.session);
    if (result == CUDA_SUCCESS)
        fdc_process.sessions = places->count;
    explicit_bzero(places, sizeof(*places));
    free(places);
    if (result != CUDA_SUCCESS)
        return result;

    fdc_session_devices(getenv("CUDA_VISIBLE_DEVICES"), getenv("CUDA_DEVICE_ORDER"));
    for (i = 0; (session = fdc_session_at(i)) != NULL; i++) {
        if (fdc_context_setup(session) != 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
        fdc_log(FDC_LOG_INFO, "session is open: %d devices over %s%s%s",
                session->devices, session->shared ? "shared memory" : "a connection",
                session->server[0] != '\0' ? " of " : "", session->server);
    }
    return CUDA_SUCCESS;
}
