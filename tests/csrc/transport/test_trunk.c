/* A trunk: pieces arrive as they were sent, sealed or not; a frame that is not the next one
 * ends it; whoever is dialled has to know the key before it learns anything. */
#include "pair.h"

#include "fdc/attach.h"
#include "fdc/trunk.h"

enum { PIECE = 300001 };

static uint8_t sent[PIECE], got[PIECE];
static const uint8_t protocol[32] = {1, 2, 3};

static void *
give(void *arg)
{
    struct fdc_trunk *trunk = arg;

    for (uint64_t i = 0; i < 5; i++)
        CHECK_EQ(fdc_trunk_send(trunk, 7, i * PIECE, sent, PIECE), 0);
    return NULL;
}

/* Both ends without the handshake before; the ready is taken off. */
static void
ends(struct fdc_trunk *to, struct fdc_trunk *from)
{
    struct fdc_attach_ready ready;

    loopback_connect(&from->fd, &to->fd);
    from->seal = NULL;
    CHECK_EQ(fdc_trunk_accept(to->fd, NULL, to), 0);
    CHECK_EQ(fdc_trunk_ready(to->fd), 0);
    CHECK_EQ(fdc_sock_read(from->fd, &ready, sizeof(ready), -1), 0);
    CHECK_EQ(ready.magic, FDC_ATTACH_MAGIC);
    CHECK_EQ(ready.error, 0);
}

static void
test_pieces_arrive(void)
{
    struct fdc_trunk to, from;
    pthread_t thread;

    ends(&to, &from);
    CHECK_EQ(pthread_create(&thread, NULL, give, &from), 0);
    for (uint64_t i = 0; i < 5; i++) {
        memset(got, 0, PIECE);
        CHECK_EQ(fdc_trunk_receive(&to, 7, i * PIECE, got, PIECE), 0);
        CHECK_EQ(memcmp(got, sent, PIECE), 0);
    }
    pthread_join(thread, NULL);
    fdc_trunk_close(&from);
    CHECK_EQ(fdc_trunk_receive(&to, 7, 5 * PIECE, got, PIECE), -EPIPE);
    fdc_trunk_close(&to);
}

/* Every bit of the head. */
static void
test_mangled_heads_end_it(void)
{
    for (int bit = 0; bit < (int)sizeof(struct fdc_trunk_frame) * 8; bit++) {
        struct fdc_trunk_frame frame = {FDC_TRUNK_MAGIC, 16, 7, 4096};
        struct fdc_trunk to, from;
        uint8_t bytes[16] = {0};

        ends(&to, &from);
        ((uint8_t *)&frame)[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK_EQ(fdc_sock_write(from.fd, &frame, sizeof(frame)), 0);
        CHECK_EQ(fdc_sock_write(from.fd, bytes, sizeof(bytes)), 0);
        CHECK_EQ(fdc_trunk_receive(&to, 7, 4096, bytes, sizeof(bytes)), -EPROTO);
        fdc_trunk_close(&from);
        fdc_trunk_close(&to);
    }
}

static void
test_cut_short_is_an_end(void)
{
    for (size_t cut = 0; cut < sizeof(struct fdc_trunk_frame) + 16; cut += 5) {
        uint8_t whole[sizeof(struct fdc_trunk_frame) + 16] = {0}, bytes[16];
        struct fdc_trunk_frame frame = {FDC_TRUNK_MAGIC, 16, 7, 0};
        struct fdc_trunk to, from;

        ends(&to, &from);
        memcpy(whole, &frame, sizeof(frame));
        CHECK_EQ(fdc_sock_write(from.fd, whole, cut), 0);
        fdc_trunk_close(&from);
        CHECK_EQ(fdc_trunk_receive(&to, 7, 0, bytes, sizeof(bytes)), -EPIPE);
        fdc_trunk_close(&to);
    }
}

/* ---- dialling ---- */

enum fault {
    NONE, SEALED, SILENT, OTHER_MAGIC, OTHER_VERSION, OTHER_PROTOCOL, REFUSED, OTHER_KEY,
    NOT_READY,
};

struct server {
    int listener;
    enum fault fault;
    uint8_t key[32];
    struct fdc_attach_request request;
    ssize_t heard; /* bytes before it hung up */
    struct fdc_trunk trunk;
};

static void
prove(struct server *server, const struct fdc_attach_hello *hello,
      struct fdc_attach_answer *answer)
{
    uint8_t text[13 + 64], key[32];

    memcpy(key, server->key, 32);
    key[0] ^= server->fault == OTHER_KEY;
    memcpy(text, "fdcore server", 13);
    memcpy(text + 13, server->request.nonce, 32);
    memcpy(text + 45, hello->nonce, 32);
    fdc_hmac_sha256(key, 32, text, sizeof(text), answer->proof);
}

static void *
serve(void *arg)
{
    struct server *server = arg;
    struct fdc_attach_hello hello = {
        .magic = FDC_ATTACH_MAGIC + (server->fault == OTHER_MAGIC),
        .version = FDC_ATTACH_VERSION + (server->fault == OTHER_VERSION),
        .nonce = {9, 9, 9},
    };
    struct fdc_attach_answer answer = {.magic = FDC_ATTACH_MAGIC};
    struct fdc_attach_ready ready = {.magic = FDC_ATTACH_MAGIC, .error = 5};
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    uint8_t key[32];

    CHECK(fd >= 0);
    memcpy(hello.protocol, protocol, 32);
    hello.protocol[31] ^= server->fault == OTHER_PROTOCOL;
    if (server->fault != SILENT)
        CHECK_EQ(fdc_sock_write(fd, &hello, sizeof(hello)), 0);
    server->heard = recv(fd, &server->request, sizeof(server->request), MSG_WAITALL);
    if (server->heard == (ssize_t)sizeof(server->request)) {
        answer.error = server->fault == REFUSED ? EACCES : 0;
        prove(server, &hello, &answer);
        fdc_sock_write(fd, &answer, sizeof(answer));
        fdc_attach_seal_key(server->key, &hello, &server->request, key);
        if (server->fault == NONE || server->fault == SEALED) {
            CHECK_EQ(fdc_trunk_accept(fd, server->fault == SEALED ? key : NULL,
                                      &server->trunk), 0);
            CHECK_EQ(fdc_trunk_ready(fd), 0);
            return NULL;
        }
        if (server->fault == NOT_READY)
            fdc_sock_write(fd, &ready, sizeof(ready));
    }
    close(fd);
    return NULL;
}

static int
dial(struct server *server, struct fdc_trunk *trunk)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct fdc_trunk_about about = {.family = FDC_TRUNK_IPV4, .lease = {4}, .session = {5},
                                    .nonce = {6}, .seal = server->fault == SEALED};
    uint8_t secret[32] = {7}, trunks[32];
    socklen_t size = sizeof(address);
    pthread_t thread;
    int err;

    fdc_attach_trunks(secret, trunks);
    fdc_attach_trunk_key(trunks, about.nonce, about.key);
    memcpy(server->key, about.key, 32);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(server->listener, (void *)&address, sizeof(address)), 0);
    CHECK_EQ(listen(server->listener, 1), 0);
    CHECK_EQ(getsockname(server->listener, (void *)&address, &size), 0);
    about.port = ntohs(address.sin_port);
    memcpy(about.address, &address.sin_addr, 4);
    CHECK_EQ(pthread_create(&thread, NULL, serve, server), 0);
    err = fdc_trunk_dial(&about, protocol, trunk);
    pthread_join(thread, NULL);
    close(server->listener);
    return err;
}

static void
test_dialling(void)
{
    for (int sealed = 0; sealed < 2; sealed++) {
        struct server server = {.fault = sealed ? SEALED : NONE};
        struct fdc_trunk trunk;
        pthread_t thread;

        CHECK_EQ(dial(&server, &trunk), 0);
        CHECK_EQ(server.request.kind, FDC_ATTACH_TRUNK);
        CHECK_EQ(server.request.seal, (uint32_t)sealed);
        CHECK((trunk.seal != NULL) == (sealed != 0));
        CHECK_EQ(pthread_create(&thread, NULL, give, &trunk), 0);
        for (uint64_t i = 0; i < 5; i++) {
            memset(got, 0, PIECE);
            CHECK_EQ(fdc_trunk_receive(&server.trunk, 7, i * PIECE, got, PIECE), 0);
            CHECK_EQ(memcmp(got, sent, PIECE), 0);
        }
        pthread_join(thread, NULL);
        fdc_trunk_close(&trunk);
        fdc_trunk_close(&server.trunk);
    }
}

static void
test_false_servers_are_found_out(void)
{
    static const struct { enum fault fault; int err; bool told; } faults[] = {
        {SILENT, -ETIMEDOUT, false}, {OTHER_MAGIC, -EPROTO, false},
        {OTHER_VERSION, -EPROTO, false}, {OTHER_PROTOCOL, -EPROTO, false},
        {REFUSED, -EACCES, true}, {OTHER_KEY, -EACCES, true}, {NOT_READY, -EPROTO, true},
    };

    for (size_t i = 0; i < FDC_COUNT(faults); i++) {
        struct server server = {.fault = faults[i].fault};
        uint64_t start = fdc_now_ns();
        struct fdc_trunk trunk;

        CHECK_EQ(dial(&server, &trunk), faults[i].err);
        CHECK(fdc_now_ns() - start < (uint64_t)FDC_TRUNK_DIAL_US * 3000);
        /* Who does not greet as an fdserver does hears not one byte. */
        CHECK_EQ(server.heard, faults[i].told ? (ssize_t)sizeof(server.request) : 0);
    }
}

static void
test_addresses_that_are_none(void)
{
    static const struct fdc_trunk_about abouts[] = {
        {.family = 0, .port = 1},
        {.family = 4, .port = 1},
        {.family = FDC_TRUNK_IPV4, .port = 0, .address = {127, 0, 0, 1}},
        {.family = FDC_TRUNK_IPV4, .port = 65536, .address = {127, 0, 0, 1}},
        {.family = FDC_TRUNK_UNIX},
        {.family = FDC_TRUNK_UNIX, .address = "relative"},
        {.family = FDC_TRUNK_UNIX, .seal = 1, .address = "/there"},
    };
    struct fdc_trunk_about endless = {.family = FDC_TRUNK_UNIX};
    struct fdc_trunk trunk;

    for (size_t i = 0; i < FDC_COUNT(abouts); i++)
        CHECK_EQ(fdc_trunk_dial(&abouts[i], protocol, &trunk), -EINVAL);
    memset(endless.address, '/', sizeof(endless.address));
    CHECK_EQ(fdc_trunk_dial(&endless, protocol, &trunk), -EINVAL);
}

int
main(void)
{
    int failed = 0;

    for (size_t i = 0; i < PIECE; i++)
        sent[i] = (uint8_t)(i * 31 + i / 255);
    RUN(test_pieces_arrive);
    RUN(test_mangled_heads_end_it);
    RUN(test_cut_short_is_an_end);
    RUN(test_dialling);
    RUN(test_false_servers_are_found_out);
    RUN(test_addresses_that_are_none);
    return failed;
}
