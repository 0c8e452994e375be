/*
 * The client's side of the attach handshake, against a small server that checks what it is
 * told, gives wrong answers on purpose, and hands good connections to a worker.
 */
#include <sys/un.h>

#include "fdc/attach.h"
#include "fdc/base.h"
#include "proto.h"
#include "worker.h"

enum fault {
    NONE, OTHER_PROTOCOL, REFUSED, NO_SECRET, HANGS_UP, NOT_READY, HANGS_UP_AT_FIRST,
    HANGS_UP_ALWAYS,
};

static const uint8_t secret[32] = "a secret of one session, 32 byte";
static const uint8_t lease[16] = "lease number one";

static void
put(uint8_t **at, const void *bytes, size_t size)
{
    memcpy(*at, bytes, size);
    *at += size;
}

/* Serves one attach connection. Exits the (server's) process where the client lies. */
static void
greet(int fd, enum fault fault, uint32_t want_kind, uint32_t want_road,
      uint8_t session[16])
{
    static const uint8_t protocol[32] = FDC_PROTO_HASH;
    struct fdc_attach_hello hello = {.magic = FDC_ATTACH_MAGIC, 
                                     .version = FDC_ATTACH_VERSION};
    struct fdc_attach_answer answer = {.magic = FDC_ATTACH_MAGIC};
    struct fdc_attach_request request;
    uint8_t text[256], proof[32], *at = text;

    if (fault == HANGS_UP)
        _exit(0);
    memcpy(hello.protocol, protocol, 32);
    memcpy(hello.nonce, "a nonce of the server's, 32 byte", 32);
    if (fault == OTHER_PROTOCOL)
        hello.protocol[3] ^= 1;
    CHECK_EQ(fdc_sock_write(fd, &hello, sizeof(hello)), 0);
    if (fault == OTHER_PROTOCOL)
        _exit(0);
    CHECK_EQ(fdc_sock_read(fd, &request, sizeof(request), 5000000), 0);
    CHECK_EQ(request.magic, FDC_ATTACH_MAGIC);
    CHECK_EQ(request.kind, want_kind);
    CHECK_EQ(request.road, want_road);
    CHECK_EQ(request.pid, getppid());
    CHECK_BYTES(request.lease, lease, 16);
    CHECK_BYTES(request.protocol, protocol, 32);
    CHECK_STR(request.program, "test_attach");
    if (want_kind == FDC_ATTACH_BULK)
        CHECK_BYTES(request.session, session, 16);
    memcpy(session, request.session, 16);
    put(&at, "fdcore attach", 13);
    put(&at, hello.nonce, 32);
    put(&at, request.nonce, 32);
    put(&at, request.lease, 16);
    put(&at, request.session, 16);
    put(&at, &request.kind, 4);
    put(&at, &request.road, 4);
    put(&at, &request.seal, 4);
    fdc_hmac_sha256(secret, 32, text, (size_t)(at - text), proof);
    CHECK_BYTES(request.proof, proof, 32);

    at = text;
    put(&at, "fdcore server", 13);
    put(&at, request.nonce, 32);
    put(&at, hello.nonce, 32);
    fdc_hmac_sha256(fault == NO_SECRET ? lease : secret, fault == NO_SECRET ? 16 : 32,
                    text, (size_t)(at - text), answer.proof);
    if (fault == REFUSED) {
        answer.error = 13;
        strcpy(answer.reason, "the lease has ended");
    }
    CHECK_EQ(fdc_sock_write(fd, &answer, sizeof(answer)), 0);
    if (fault == REFUSED || fault == NO_SECRET)
        _exit(0);
}

static void
serve(int listener, enum fdc_road road, enum fault fault)
{
    struct fdc_attach_ready ready = {.magic = FDC_ATTACH_MAGIC};
    uint8_t session[16];
    int socks[2], nsocks = road == FDC_ROAD_SHM ? 1 : 2, before = 0;

    if (fault == HANGS_UP_AT_FIRST) {
        fault = NONE;
        before = 2;
    } else if (fault == HANGS_UP_ALWAYS) {
        before = 4;
    }
    while (before-- > 0)
        close(accept(listener, NULL, NULL));
    if (fault == HANGS_UP_ALWAYS)
        _exit(0);
    for (int i = 0; i < nsocks; i++) {
        socks[i] = accept(listener, NULL, NULL);
        CHECK(socks[i] >= 0);
        greet(socks[i], fault, i == 0 ? FDC_ATTACH_COMMAND : FDC_ATTACH_BULK, road,
              session);
    }
    if (fault == NOT_READY) {
        ready.error = 12;
        strcpy(ready.reason, "the worker has no memory");
    }
    CHECK_EQ(fdc_sock_write(socks[0], &ready, sizeof(ready)), 0);
    if (fault != NONE)
        _exit(0);
    close(listener);
    worker_main(road, socks, nsocks, 1);
}

static void
hex(char *text, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sprintf(text + 2 * i, "%02x", bytes[i]);
}

/* What cuInit gives with such a server; what is logged is in log. */
static CUresult
attach(enum fdc_road road, enum fault fault, char *log, size_t room)
{
    char dir[] = "/tmp/fdc-test-XXXXXX", path[80], name[80], level[96], lease_hex[33];
    char secret_hex[65];
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(address);
    CUresult result;
    ssize_t got;
    FILE *file;
    int listener, fd;

    CHECK(mkdtemp(dir) != NULL);
    snprintf(name, sizeof(name), "%s/log", dir);
    snprintf(level, sizeof(level), "error:%s", name);
    setenv("FD_LOG", level, 1);
    setenv("FD_CPU_MEMORY_MB", "64", 1);
    unsetenv("FD_TRANSPORT");
    snprintf(local.sun_path, sizeof(local.sun_path), "%s/sock", dir);
    if (road == FDC_ROAD_SHM) {
        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(listener, (void *)&local, sizeof(local)), 0);
    } else {
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        CHECK_EQ(bind(listener, (void *)&address, sizeof(address)), 0);
        CHECK_EQ(getsockname(listener, (void *)&address, &size), 0);
    }
    CHECK_EQ(listen(listener, 2), 0);
    worker_pid = fork();
    CHECK(worker_pid >= 0);
    if (worker_pid == 0)
        serve(listener, road, fault);
    close(listener);

    hex(lease_hex, lease, 16);
    hex(secret_hex, secret, 32);
    snprintf(path, sizeof(path), "%s/session", dir);
    umask(077);
    file = fopen(path, "w");
    CHECK(file != NULL);
    fprintf(file, "# a comment\nlease %s\nsecret %s\nunknown key\n", lease_hex,
            secret_hex);
    if (road == FDC_ROAD_SHM)
        fprintf(file, "unix %s\nroad auto\n", local.sun_path);
    else
        fprintf(file, "tcp 127.0.0.1 %d\nroad tcp\n", ntohs(address.sin_port));
    fclose(file);
    setenv("FD_SESSION", path, 1);
    result = cuInit(0);
    unlink(path);
    unlink(local.sun_path);
    fd = open(name, O_RDONLY);
    got = fd >= 0 ? read(fd, log, room - 1) : 0;
    log[got > 0 ? got : 0] = '\0';
    if (fd >= 0)
        close(fd);
    unlink(name);
    rmdir(dir);
    return result;
}

static void
attaches(enum fdc_road road, enum fault fault)
{
    char log[1024];
    CUcontext context;

    CHECK_EQ(attach(road, fault, log, sizeof(log)), 0);
    CHECK_STR(log, "");
    CHECK_EQ(cuDevicePrimaryCtxRetain(&context, 0), 0);
    CHECK_EQ(cuCtxSetCurrent(context), 0);
    CHECK_EQ(cuCtxSynchronize(), 0);
    CHECK_EQ(cuInit(0), 0);
    worker_exit();
}

static void
test_over_a_unix_socket(void)
{
    attaches(FDC_ROAD_SHM, NONE);
}

static void
test_over_tcp(void)
{
    attaches(FDC_ROAD_TCP, NONE);
}

static void
test_a_server_that_is_there_again(void)
{
    setenv("FD_RECONNECT", "60", 1);
    attaches(FDC_ROAD_TCP, HANGS_UP_AT_FIRST);
}

static void
refused(enum fault fault, const char *reason)
{
    char log[1024];
    int before = check_open_fds();

    if (fault == HANGS_UP)
        setenv("FD_RECONNECT", "0", 1); /* nobody will be there again */
    CHECK_EQ(attach(FDC_ROAD_SHM, fault, log, sizeof(log)), CUDA_ERROR_NO_DEVICE);
    if (strstr(log, reason) == NULL) {
        fprintf(stderr, "the log says: %s\n", log);
        exit(1);
    }
    CHECK(strchr(log, '\n') == strrchr(log, '\n')); /* one line */
    CHECK(strstr(log, "a secret") == NULL);
    CHECK_EQ(cuInit(0), CUDA_ERROR_NO_DEVICE); /* and it stays so */
    CHECK_EQ(check_open_fds(), before + 1);    /* the log */
    worker_exit();
}

static void
test_another_protocol_is_named_with_both_hashes(void)
{
    refused(OTHER_PROTOCOL, "the server's protocol is ");
}

static void
test_the_servers_reason_is_told(void)
{
    refused(REFUSED, "the lease has ended");
}

static void
test_a_server_without_the_secret_is_not_believed(void)
{
    refused(NO_SECRET, "does not know the lease's secret");
}

static void
test_a_server_that_hangs_up(void)
{
    refused(HANGS_UP, "does not greet");
}

static void
test_a_server_that_hangs_up_again_and_again(void)
{
    setenv("FD_RECONNECT", "600", 1);
    refused(HANGS_UP_ALWAYS, "does not greet");
}

static void
test_a_worker_that_cannot_start(void)
{
    refused(NOT_READY, "the worker has no memory");
}

int
main(void)
{
    int failed = 0;

    worker_needed();
    RUN(test_over_a_unix_socket);
    RUN(test_over_tcp);
    RUN(test_another_protocol_is_named_with_both_hashes);
    RUN(test_the_servers_reason_is_told);
    RUN(test_a_server_without_the_secret_is_not_believed);
    RUN(test_a_server_that_hangs_up);
    RUN(test_a_server_that_is_there_again);
    RUN(test_a_server_that_hangs_up_again_and_again);
    RUN(test_a_worker_that_cannot_start);
    return failed;
}
