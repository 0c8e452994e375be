/* All of test_transport.c once more over tcp with sealed bytes: nothing differs. */
#include "fdc/cipher.h"
#include "fdc/transport.h"

static const struct fdc_link_key keys[2] = {{{1, 2, 3}}, {{4, 5, 6}}};

static int
sealed_client(enum fdc_road road, const int *socks, int nsocks, struct fdc_link **link)
{
    return fdc_link_client_sealed(road, socks, nsocks,
                                  road == FDC_ROAD_TCP ? keys : NULL, link);
}

static int
sealed_worker(enum fdc_road road, const int *socks, int nsocks,
              const struct fdc_link_size *size, struct fdc_link **link)
{
    return fdc_link_worker_sealed(road, socks, nsocks,
                                  road == FDC_ROAD_TCP ? keys : NULL, size, link);
}

#define fdc_link_client sealed_client
#define fdc_link_worker sealed_worker
#define ROADS {FDC_ROAD_TCP}
#define main transport_main
#include "test_transport.c"
#undef main

/* A link over shared memory takes no keys: there is nobody to hide from. */
static void
test_keys_are_for_tcp_alone(void)
{
    struct fdc_link *link = NULL;
    int fds[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_EQ(fdc_link_client_sealed(FDC_ROAD_SHM, fds, 1, keys, &link), -EINVAL);
    CHECK_EQ(fdc_link_worker_sealed(FDC_ROAD_SHM, fds, 1, keys, NULL, &link), -EINVAL);
    close(fds[0]);
    close(fds[1]);
}

/* Who seals does not take up a link with somebody who does not. */
static void
test_plain_peer_is_refused(void)
{
    struct fdc_link *link = NULL;
    struct pair pair;

    pair_sockets(&pair, FDC_ROAD_TCP);
    CHECK_EQ(fdc_link_worker_sealed(FDC_ROAD_TCP, pair.worker_socks, 2, NULL, NULL,
                                    &pair.worker),
             0);
    CHECK_EQ(fdc_link_client_sealed(FDC_ROAD_TCP, pair.client_socks, 2, keys, &link),
             -EBADMSG);
    pair_close_sockets(pair.client_socks, 2);
    fdc_link_free(pair.worker);
}

int
main(void)
{
    struct fdc_crypto *crypto;
    const char *why;
    int failed = 0;

    if (fdc_crypto_open(&crypto, &why)) {
        fprintf(stderr, "%s\n", why);
        return CHECK_SKIPPED;
    }
    fdc_crypto_close(crypto);
    RUN(test_keys_are_for_tcp_alone);
    RUN(test_plain_peer_is_refused);
    return failed | transport_main();
}
