/* The shm road against a peer that passes what it likes. */
#include <sys/mman.h>

#include "pair.h"

struct wire_setup {
    uint32_t magic, road;
    uint64_t lane[3], region[2], emulated[2];
};

enum { SETUP_MAGIC = 0x4c434446, MAPS = 5 };

static const struct wire_setup good_setup = {
    .magic = SETUP_MAGIC,
    .road = FDC_ROAD_SHM,
    .lane = {4096, 4096, 4096},
    .region = {4096, 4096},
};

/* What a client makes of this set-up and these descriptors. */
static int
attach_to(const struct wire_setup *setup, const int *fds, int nfds)
{
    struct fdc_link *link = NULL;
    int socks[2], err;

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
    CHECK_EQ(fdc_sock_send_fds(socks[1], setup, sizeof(*setup), fds, nfds), 0);
    err = fdc_link_client(FDC_ROAD_SHM, socks, 1, &link);
    if (err)
        close(socks[0]);
    else
        fdc_link_free(link);
    close(socks[1]);
    return err;
}

/* The descriptors that a worker of ours passes, for the sizes above. */
static struct fdc_link *
take_descriptors(int *fds, int *sock)
{
    struct fdc_link_size size = {{4096, 4096, 4096}, {4096, 4096}};
    struct fdc_link *worker;
    struct wire_setup setup;
    int socks[2], nfds = MAPS;

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
    CHECK_EQ(fdc_link_worker(FDC_ROAD_SHM, &socks[1], 1, &size, &worker), 0);
    CHECK_EQ(fdc_sock_recv_fds(socks[0], &setup, sizeof(setup), fds, &nfds), 0);
    CHECK_EQ(nfds, MAPS);
    CHECK_BYTES(&setup, &good_setup, sizeof(setup));
    *sock = socks[0];
    return worker;
}

static void
test_client_checks_what_the_worker_passes(void)
{
    struct wire_setup setup = good_setup;
    int fds[MAPS], swapped[MAPS], sock, plain;
    struct fdc_link *worker;

    worker = take_descriptors(fds, &sock);
    CHECK_EQ(attach_to(&good_setup, fds, MAPS), 0);
    CHECK_EQ(attach_to(&good_setup, fds, MAPS - 1), -EPROTO);
    CHECK_EQ(attach_to(&good_setup, NULL, 0), -EPROTO);
    setup.magic++;
    CHECK_EQ(attach_to(&setup, fds, MAPS), -EPROTO);
    setup = good_setup;
    setup.lane[2] = 8192;
    CHECK_EQ(attach_to(&setup, fds, MAPS), -EINVAL);
    setup = good_setup;
    setup.region[0] = UINT64_C(1) << 30;
    CHECK_EQ(attach_to(&setup, fds, MAPS), -EINVAL);
    setup.lane[0] = UINT64_MAX;
    CHECK_EQ(attach_to(&setup, fds, MAPS), -EPROTO);

    /* Something unsealed, something that is no memfd, something that is no ring. */
    memcpy(swapped, fds, sizeof(fds));
    plain = memfd_create("plain", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    CHECK_EQ(ftruncate(plain, 4096), 0);
    swapped[4] = plain;
    CHECK_EQ(attach_to(&good_setup, swapped, MAPS), -EPERM);
    swapped[4] = sock;
    CHECK(attach_to(&good_setup, swapped, MAPS) < 0);
    close(plain);
    plain = fdc_memfd_new("empty", 8192);
    swapped[4] = fds[4];
    swapped[0] = plain;
    CHECK_EQ(attach_to(&good_setup, swapped, MAPS), -EPROTO);
    close(plain);
    fdc_link_free(worker);
    pair_close_sockets(fds, MAPS);
    close(sock);
}

static void
test_scribbling_client_ends_its_session_only(void)
{
    int fds[MAPS], sock, err;
    struct fdc_link *worker;
    uint64_t *words;
    uint32_t size;

    worker = take_descriptors(fds, &sock);
    words =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fds[FDC_LANE_COMMAND], 0);
    CHECK(words != MAP_FAILED);
    for (int i = 40; i < 552; i++)
        words[i] = 0x1ffffffffu;
    CHECK_EQ(fdc_link_wait(worker, FDC_LANE_COMMAND, -1), 1);
    CHECK(!fdc_link_peek(worker, FDC_LANE_COMMAND, &size, &err));
    CHECK_EQ(err, -EPROTO);
    munmap(words, 8192);
    words =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fds[FDC_LANE_REPLY], 0);
    CHECK(words != MAP_FAILED);
    words[16] = 1 << 20; /* "I have read this far" */
    while (fdc_link_claim(worker, FDC_LANE_REPLY, 1000, &err))
        fdc_link_commit(worker, FDC_LANE_REPLY);
    CHECK_EQ(err, -EPROTO);
    CHECK_EQ(fdc_link_wait_room(worker, FDC_LANE_REPLY, 1000, -1), -EPROTO);
    munmap(words, 8192);
    fdc_link_free(worker);
    pair_close_sockets(fds, MAPS);
    close(sock);
}

static void
test_put_in_place_copies_nothing(void)
{
    uint64_t ticket = 9;
    uint8_t *up, *there;
    struct pair pair;

    pair_make(&pair, FDC_ROAD_SHM);
    up = fdc_link_region(pair.client, FDC_REGION_UP, NULL);
    there = fdc_link_region(pair.worker, FDC_REGION_UP, NULL);
    CHECK(fdc_link_is_shared(pair.client));
    memset(up + 100, 7, 50);
    CHECK_EQ(fdc_link_put(pair.client, FDC_REGION_UP, 100, up + 100, 50, &ticket), 0);
    CHECK_EQ(ticket, 0);
    CHECK_BYTES(there + 100, up + 100, 50);
    CHECK_EQ(fdc_link_put_wait(pair.worker, FDC_REGION_UP, ticket, 0), 0);
    pair_free(&pair);
}

/* How many of the region's pages are there without anybody having touched them. */
static size_t
pages_there(struct fdc_link *link, enum fdc_region region)
{
    static unsigned char there[1 << 16];
    size_t count = 0;
    uint64_t size;
    void *base = fdc_link_region(link, region, &size);

    CHECK(size / 4096 <= sizeof(there));
    CHECK_EQ(mincore(base, size, there), 0);
    for (size_t i = 0; i < size / 4096; i++)
        count += there[i] & 1;
    return count;
}

static void
test_memory_made_beforehand_is_filled_and_makes_a_link(void)
{
    struct fdc_link_size size = {{4096, 8192, 4096}, {1 << 20, 1 << 19}}, odd = size;
    struct fdc_link_memory *memory;
    struct pair pair;
    uint32_t got;

    odd.region[0]++;
    CHECK_EQ(fdc_link_memory_new(&odd, UINT64_MAX, &memory), -EINVAL);
    CHECK_EQ(fdc_link_memory_new(&size, (1 << 20) - 8192, &memory), 0);
    pair_sockets(&pair, FDC_ROAD_SHM);
    CHECK_EQ(fdc_link_worker_of(memory, pair.worker_socks[0], &pair.worker), 0);
    CHECK_EQ(fdc_link_client(FDC_ROAD_SHM, pair.client_socks, 1, &pair.client), 0);
    CHECK_EQ(pages_there(pair.worker, FDC_REGION_UP), 254);
    CHECK_EQ(pages_there(pair.client, FDC_REGION_DOWN), 128);
    send_words(pair.client, FDC_LANE_COMMAND, 7, 3);
    CHECK_EQ(await_words(pair.worker, FDC_LANE_COMMAND, &got)[2], 9);
    fdc_link_release(pair.worker, FDC_LANE_COMMAND);
    send_words(pair.worker, FDC_LANE_REPLY, 11, 2);
    CHECK_EQ(await_words(pair.client, FDC_LANE_REPLY, &got)[1], 12);
    fdc_link_release(pair.client, FDC_LANE_REPLY);
    pair_free(&pair);
}

static void
test_memory_outlives_a_client_that_has_gone(void)
{
    struct fdc_link_memory *memory;
    struct fdc_link *link;
    int socks[2];

    CHECK_EQ(fdc_link_memory_new(NULL, 0, &memory), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
    close(socks[1]);
    CHECK_EQ(fdc_link_worker_of(memory, socks[0], &link), -EPIPE);
    close(socks[0]);
    fdc_link_memory_free(memory);
    fdc_link_memory_free(NULL);
}

int
main(void)
{
    int failed = 0;

    RUN(test_client_checks_what_the_worker_passes);
    RUN(test_scribbling_client_ends_its_session_only);
    RUN(test_put_in_place_copies_nothing);
    RUN(test_memory_made_beforehand_is_filled_and_makes_a_link);
    RUN(test_memory_outlives_a_client_that_has_gone);
    return failed;
}
