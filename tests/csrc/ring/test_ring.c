/* The byte ring: order, wrapping, limits, sleeping, and a peer that lies. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "check.h"
#include "fdc/ring.h"

enum { SIZE = 4096, HEAD = 320 };

/* Two ends of one ring in shared memory, with a guard page behind it. */
struct pair {
    uint8_t *memory;
    size_t mapped;
    struct fdc_ring in, out;
};

static void
pair_make(struct pair *pair, uint64_t size)
{
    size_t footprint = fdc_ring_footprint(size), page = 4096;
    size_t whole = FDC_ALIGN_UP(footprint, page);

    pair->mapped = whole + page;
    pair->memory = mmap(NULL, pair->mapped, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(pair->memory != MAP_FAILED);
    CHECK_EQ(mprotect(pair->memory + whole, page, PROT_NONE), 0);
    CHECK_EQ(fdc_ring_make(pair->memory, size), 0);
    CHECK_EQ(fdc_ring_map(&pair->in, pair->memory, footprint), 0);
    CHECK_EQ(fdc_ring_map(&pair->out, pair->memory, footprint), 0);
}

static void
pair_drop(struct pair *pair)
{
    munmap(pair->memory, pair->mapped);
}

static void
send_bytes(struct fdc_ring *ring, uint32_t size, uint64_t seed)
{
    uint8_t *bytes;
    int err = 0;

    while (!(bytes = fdc_ring_claim(ring, size, &err))) {
        CHECK_EQ(err, -EAGAIN);
        CHECK_EQ(fdc_ring_wait_room(ring, size, -1), 1);
    }
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(seed + i);
    fdc_ring_commit(ring);
}

static void
take_bytes(struct fdc_ring *ring, uint32_t size, uint64_t seed)
{
    const uint8_t *bytes;
    uint32_t got = 0;
    int err = 0;

    while (!(bytes = fdc_ring_peek(ring, &got, &err))) {
        CHECK_EQ(err, 0);
        CHECK_EQ(fdc_ring_wait_data(ring, -1), 1);
    }
    CHECK_EQ(got, size);
    for (uint32_t i = 0; i < size; i++)
        CHECK_EQ(bytes[i], (uint8_t)(seed + i));
    fdc_ring_release(ring);
}

static void
test_records_arrive_whole_and_in_order(void)
{
    struct pair pair;
    uint32_t size;

    pair_make(&pair, SIZE);
    for (uint64_t i = 0; i < 20000; i++) {
        size = (uint32_t)(i * 2654435761u >> 7) % (fdc_ring_max(&pair.in) + 1);
        send_bytes(&pair.in, size, i);
        if (i % 3 == 0 && size < 500) {
            send_bytes(&pair.in, 24, i + 1);
            take_bytes(&pair.out, size, i);
            take_bytes(&pair.out, 24, i + 1);
        } else {
            take_bytes(&pair.out, size, i);
        }
    }
    pair_drop(&pair);
}

static void
test_full_ring_refuses_claim_and_keeps_tail(void)
{
    uint32_t size, sent = 0;
    struct pair pair;
    uint64_t tail;
    int err = 0;

    pair_make(&pair, SIZE);
    while (fdc_ring_claim(&pair.in, 40, &err)) {
        fdc_ring_commit(&pair.in);
        sent++;
    }
    CHECK_EQ(err, -EAGAIN);
    CHECK_EQ(sent, SIZE / 64 - 1); /* a line each */
    tail = pair.in.tail;
    CHECK(!fdc_ring_claim(&pair.in, 40, &err));
    CHECK_EQ(pair.in.tail, tail);
    CHECK_EQ(fdc_ring_wait_room(&pair.in, 40, 1000), 0);
    for (uint32_t i = 0; i < sent; i++) {
        CHECK(fdc_ring_peek(&pair.out, &size, &err));
        CHECK_EQ(size, 40);
        fdc_ring_release(&pair.out);
    }
    CHECK(!fdc_ring_peek(&pair.out, &size, &err));
    CHECK_EQ(err, 0);
    CHECK_EQ(fdc_ring_wait_room(&pair.in, 40, 1000), 1);
    CHECK(!fdc_ring_claim(&pair.in, fdc_ring_max(&pair.in) + 1, &err));
    CHECK_EQ(err, -EMSGSIZE);
    CHECK(fdc_ring_claim(&pair.in, fdc_ring_max(&pair.in), &err));
    pair_drop(&pair);
}

static void
test_aborted_claim_leaves_nothing(void)
{
    struct pair pair;
    uint32_t size;
    int err = 1;

    pair_make(&pair, SIZE);
    memset(fdc_ring_claim(&pair.in, 100, &err), 0xff, 100);
    fdc_ring_abort(&pair.in);
    CHECK(!fdc_ring_peek(&pair.out, &size, &err));
    CHECK_EQ(err, 0);
    fdc_ring_commit(&pair.in);
    CHECK(!fdc_ring_peek(&pair.out, &size, &err));
    send_bytes(&pair.in, 16, 7);
    take_bytes(&pair.out, 16, 7);
    CHECK_EQ(fdc_ring_wait_data(&pair.out, 1000), 0);
    pair_drop(&pair);
}

/* What a long claim left where the next headers go is not taken for one of them. */
static void
test_garbage_behind_a_short_record_is_no_record(void)
{
    struct pair pair;
    uint32_t size;
    int err = 1;

    pair_make(&pair, SIZE);
    for (int i = 0; i < 200; i++) {
        send_bytes(&pair.in, 16, i);
        take_bytes(&pair.out, 16, i);
        memset(fdc_ring_claim(&pair.in, 8 * (uint32_t)i, &err), 0xff, 8 * (size_t)i);
        if (i % 2)
            fdc_ring_abort(&pair.in);
        for (int j = 0; j < 3; j++) {
            send_bytes(&pair.in, 40, i);
            take_bytes(&pair.out, 40, i);
            CHECK(!fdc_ring_peek(&pair.out, &size, &err));
            CHECK_EQ(err, 0);
        }
    }
    pair_drop(&pair);
}

/* The consumer tells what it has read with a look that finds nothing, or after a part. */
static void
test_room_comes_back_without_a_word_for_each_record(void)
{
    struct pair pair;
    uint32_t size;
    int err = 0;

    pair_make(&pair, SIZE);
    while (fdc_ring_claim(&pair.in, 40, &err))
        fdc_ring_commit(&pair.in);
    for (int i = 0; i < 7; i++) {
        CHECK(fdc_ring_peek(&pair.out, &size, &err));
        fdc_ring_release(&pair.out);
    }
    CHECK(!fdc_ring_claim(&pair.in, 40, &err));
    CHECK(fdc_ring_peek(&pair.out, &size, &err));
    fdc_ring_release(&pair.out); /* an eighth */
    CHECK_EQ(fdc_ring_wait_room(&pair.in, 40, -1), 1);
    for (int i = 0; i < 8; i++) {
        CHECK(fdc_ring_claim(&pair.in, 40, &err));
        fdc_ring_commit(&pair.in);
    }
    CHECK(!fdc_ring_claim(&pair.in, 40, &err));
    while (fdc_ring_peek(&pair.out, &size, &err))
        fdc_ring_release(&pair.out);
    CHECK(fdc_ring_claim(&pair.in, fdc_ring_max(&pair.in), &err)); /* all of it */
    pair_drop(&pair);
}

static void
test_close_delivers_what_was_committed(void)
{
    struct pair pair;
    uint32_t size;
    int err = 0;

    pair_make(&pair, SIZE);
    send_bytes(&pair.in, 16, 7);
    fdc_ring_close(&pair.out);
    CHECK(!fdc_ring_claim(&pair.in, 16, &err));
    CHECK_EQ(err, -EPIPE);
    CHECK_EQ(fdc_ring_wait_room(&pair.in, 16, -1), -EPIPE);
    CHECK_EQ(fdc_ring_wait_data(&pair.out, -1), 1);
    take_bytes(&pair.out, 16, 7);
    CHECK(!fdc_ring_peek(&pair.out, &size, &err));
    CHECK_EQ(err, -EPIPE);
    CHECK_EQ(fdc_ring_wait_data(&pair.out, -1), -EPIPE);
    pair_drop(&pair);
}

/* ---- two threads ---- */

enum { MANY = 30000 };

static void *
produce(void *arg)
{
    struct fdc_ring *ring = arg;

    for (uint64_t i = 0; i < MANY; i++) {
        send_bytes(ring, (uint32_t)(i % 97) * 8, i);
        if (i % 5000 == 4999)
            usleep(2000);
    }
    return NULL;
}

static void
consume(struct fdc_ring *ring)
{
    for (uint64_t i = 0; i < MANY; i++) {
        take_bytes(ring, (uint32_t)(i % 97) * 8, i);
        if (i % 7000 == 6999)
            usleep(2000);
    }
}

static void
test_two_threads(void)
{
    pthread_t thread;
    struct pair pair;

    pair_make(&pair, SIZE);
    pair.in.spin.budget_ns = pair.out.spin.budget_ns = 0;
    CHECK_EQ(pthread_create(&thread, NULL, produce, &pair.in), 0);
    consume(&pair.out);
    pthread_join(thread, NULL);
    pair_drop(&pair);
}

static void
test_two_processes(void)
{
    struct pair pair;
    pid_t child;
    int status;

    pair_make(&pair, SIZE);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        produce(&pair.in);
        _exit(0);
    }
    consume(&pair.out);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    pair_drop(&pair);
}

static void *
close_soon(void *arg)
{
    usleep(20000);
    fdc_ring_close(arg);
    return NULL;
}

static void
test_close_wakes_sleepers(void)
{
    pthread_t thread;
    struct pair pair;

    pair_make(&pair, SIZE);
    CHECK_EQ(pthread_create(&thread, NULL, close_soon, &pair.in), 0);
    CHECK_EQ(fdc_ring_wait_data(&pair.out, -1), -EPIPE);
    pthread_join(thread, NULL);
    pair_drop(&pair);
}

struct word_waiter {
    struct fdc_ring *ring;
    uint32_t word;
    int result;
};

static void *
wait_for_word(void *arg)
{
    struct word_waiter *waiter = arg;

    waiter->result = fdc_ring_wait_word(waiter->ring, &waiter->word, 0, -1);
    return NULL;
}

static void
test_poke_wakes_every_waiter_whose_word_changed(void)
{
    struct word_waiter waiters[3];
    pthread_t threads[3];
    struct pair pair;

    pair_make(&pair, SIZE);
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 3; i++) {
            waiters[i] = (struct word_waiter){.ring = &pair.out};
            CHECK_EQ(pthread_create(&threads[i], NULL, wait_for_word, &waiters[i]), 0);
        }
        for (int i = 0; i < 3; i++) {
            if (round % 2)
                usleep(500);
            fdc_store_release(&waiters[i].word, 1);
            fdc_ring_poke(&pair.out);
            pthread_join(threads[i], NULL);
            CHECK_EQ(waiters[i].result, 2);
        }
    }
    pair_drop(&pair);
}

static void
test_one_cpu_never_spins(void)
{
    struct fdc_ring ring;
    struct pair pair;
    cpu_set_t set;

    CHECK_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set) && seen++)
            CPU_CLR(cpu, &set);
    CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    pair_make(&pair, SIZE);
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, fdc_ring_footprint(SIZE)), 0);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(ring.spin.budget_ns, 0);
        CHECK_EQ(fdc_ring_wait_data(&ring, 100), 0);
    }
    pair_drop(&pair);
}

static void
test_spin_budget_shrinks_when_it_does_not_pay(void)
{
    struct pair pair;

    pair_make(&pair, SIZE);
    if (pair.out.spin.cpus < 2)
        CHECK_SKIP("needs two CPUs");
    for (int i = 0; i < 30; i++)
        CHECK_EQ(fdc_ring_wait_data(&pair.out, 1000), 0);
    CHECK_EQ(pair.out.spin.budget_ns, 0);
    fdc_spin_learn(&pair.out.spin, 100000, false, false);
    CHECK_EQ(pair.out.spin.budget_ns, 0);
    fdc_spin_learn(&pair.out.spin, 100000, true, false);
    fdc_spin_learn(&pair.out.spin, 100000, true, false);
    CHECK(pair.out.spin.budget_ns > 0);
    pair_drop(&pair);
}

/* A wait that sleeps: whether it began with spinning. */
static bool
sleeps(struct fdc_spin *spin, uint64_t waited_ns)
{
    bool spun = fdc_spin_begin(spin) != 0;

    if (spun)
        fdc_spin_end(spin, false, false);
    fdc_spin_learn(spin, waited_ns, true, spun);
    return spun;
}

static void
test_waits_that_spinning_does_not_end_sleep_at_once(void)
{
    struct fdc_spin spin;
    int probes = 0;

    fdc_spin_init(&spin);
    if (spin.cpus < 2)
        CHECK_SKIP("needs two CPUs");
    /* Longer than any budget, and not so long that the budget would go. */
    for (int i = 0; i < 3; i++)
        CHECK(sleeps(&spin, 300000));
    for (int i = 0; i < 8; i++)
        CHECK(!sleeps(&spin, 300000));
    CHECK(sleeps(&spin, 300000)); /* does it help now? */
    for (int i = 0; i < 16; i++)
        CHECK(!sleeps(&spin, 300000));
    for (int i = 0; i < 3000; i++)
        probes += sleeps(&spin, 300000);
    CHECK(probes >= 8 && probes <= 20);
    /* Short ones are tried again sooner, and one that spinning ended is the end of it. */
    for (int i = 0; i < 12 && !(probes = fdc_spin_begin(&spin) != 0); i++)
        fdc_spin_learn(&spin, 60000, true, false);
    CHECK(probes);
    fdc_spin_end(&spin, true, false);
    for (int i = 0; i < 2; i++)
        CHECK(sleeps(&spin, 300000));
    CHECK_EQ(spin.spinners, 0);
}

/* A wait that ends at the other side's turn on this very CPU; false: it sleeps at once. */
static bool
shares_cpu(struct fdc_spin *spin)
{
    if (fdc_spin_begin(spin) == 0)
        return false;
    fdc_spin_end(spin, true, true);
    return true;
}

static void
test_who_shares_a_cpu_with_the_other_side_sleeps_to_be_put_elsewhere(void)
{
    struct fdc_spin spin;

    fdc_spin_init(&spin);
    if (spin.cpus < 2)
        CHECK_SKIP("needs two CPUs");
    for (int i = 0; i < 3; i++)
        CHECK(shares_cpu(&spin));
    CHECK(!shares_cpu(&spin)); /* once: that may be enough */
    CHECK(shares_cpu(&spin));
    for (int i = 0; i < 2; i++)
        CHECK(!shares_cpu(&spin));
    CHECK(fdc_spin_begin(&spin) != 0);
    fdc_spin_end(&spin, true, false); /* the other side is on another one now */
    for (int i = 0; i < 3; i++)
        CHECK(shares_cpu(&spin));
    CHECK_EQ(spin.spinners, 0);
}

/* ---- a peer that lies ---- */

static void
test_map_refuses_what_is_not_a_ring(void)
{
    size_t footprint = fdc_ring_footprint(SIZE);
    struct fdc_ring ring;
    struct pair pair;
    uint64_t *words;

    pair_make(&pair, SIZE);
    words = (uint64_t *)(void *)pair.memory;
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint - 1), -EPROTO);
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, 64), -EINVAL);
    CHECK_EQ(fdc_ring_map(&ring, pair.memory + 8, footprint), -EINVAL);
    words[1] = SIZE * 2;
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint), -EPROTO);
    words[1] = SIZE - 8;
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint), -EPROTO);
    words[1] = UINT64_C(1) << 63;
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint), -EPROTO);
    words[1] = SIZE;
    words[8] = SIZE + 8; /* tail */
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint), -EPROTO);
    words[8] = 32;
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint), -EPROTO);
    words[8] = 0;
    words[0] ^= 1;
    CHECK_EQ(fdc_ring_map(&ring, pair.memory, footprint), -EPROTO);
    CHECK_EQ(fdc_ring_make(pair.memory, 1000), -EINVAL);
    CHECK_EQ(fdc_ring_make(pair.memory, 0), -EINVAL);
    pair_drop(&pair);
}

static void
test_lying_headers_are_refused(void)
{
    static const uint64_t lies[] = {
        UINT64_MAX,          1,
        0x100000000u | 4096, 0x100000000u | 0xffffffffu,
        0x200000000u | 4088, 0x200000000u | 16,
        0x300000000u | 16,   0x100000000u | 2048,
        0x8000000100000010u,
    };
    struct pair pair;
    uint64_t *header;
    uint32_t size;
    int err;

    for (size_t i = 0; i < FDC_COUNT(lies); i++) {
        pair_make(&pair, SIZE);
        header = (uint64_t *)(void *)(pair.memory + HEAD);
        *header = lies[i];
        err = 0;
        CHECK(!fdc_ring_peek(&pair.out, &size, &err));
        CHECK_EQ(err, -EPROTO);
        pair_drop(&pair);
    }
    /* A record that would run past the end. */
    pair_make(&pair, SIZE);
    pair.out.first = pair.in.tail = SIZE - 64;
    header = (uint64_t *)(void *)(pair.memory + HEAD + SIZE - 64);
    *header = 0x100000000u | 64;
    CHECK(!fdc_ring_peek(&pair.out, &size, &err));
    CHECK_EQ(err, -EPROTO);
    pair_drop(&pair);
}

static void
test_lying_consumer_index_is_refused(void)
{
    static const uint64_t lies[] = {UINT64_MAX, 4, 32, 8192, 4104, 1u << 31};
    struct pair pair;
    uint64_t *first;
    int err;

    for (size_t i = 0; i < FDC_COUNT(lies); i++) {
        pair_make(&pair, SIZE);
        while (fdc_ring_claim(&pair.in, 1000, &err))
            fdc_ring_commit(&pair.in);
        CHECK_EQ(err, -EAGAIN);
        first = (uint64_t *)(void *)(pair.memory + 128);
        *first = lies[i];
        CHECK(!fdc_ring_claim(&pair.in, 1000, &err));
        CHECK_EQ(err, -EPROTO);
        CHECK_EQ(fdc_ring_wait_room(&pair.in, 1000, -1), -EPROTO);
        pair_drop(&pair);
    }
}

static uint64_t random_state = 88172645463325252u;

/* Whatever is written anywhere, every pointer given out stays inside the ring. */
static void
test_scribbled_memory_never_leads_outside(void)
{
    size_t footprint = fdc_ring_footprint(SIZE), at;
    const uint8_t *bytes;
    volatile uint8_t sum = 0;
    struct pair pair;
    uint8_t *room;
    uint32_t size;
    int err;

    for (int round = 0; round < 3000; round++) {
        pair_make(&pair, SIZE);
        for (int step = 0; step < 40; step++) {
            size = (uint32_t)(check_random(&random_state) % 2100);
            err = 0;
            room = fdc_ring_claim(&pair.in, size, &err);
            if (room) {
                CHECK(room >= pair.memory + HEAD &&
                      room + size <= pair.memory + footprint);
                memset(room, (int)check_random(&random_state), size);
                fdc_ring_commit(&pair.in);
            }
            for (int i = 0; i < 4; i++) {
                at = check_random(&random_state) % (footprint / 8) * 8;
                if (check_random(&random_state) % 2)
                    at = HEAD + (pair.out.first & (SIZE - 1));
                if (check_random(&random_state) % 3 == 0)
                    *(uint64_t *)(void *)(pair.memory + at) =
                        check_random(&random_state) & (check_random(&random_state) % 2 ? 0x3000003ffu : UINT64_MAX);
            }
            bytes = fdc_ring_peek(&pair.out, &size, &err);
            if (bytes) {
                CHECK(bytes >= pair.memory + HEAD &&
                      bytes + size <= pair.memory + footprint);
                for (uint32_t i = 0; i < size; i++)
                    sum += bytes[i];
                fdc_ring_release(&pair.out);
            }
            fdc_ring_wait_data(&pair.out, 0);
            fdc_ring_wait_room(&pair.in, 8, 0);
        }
        pair_drop(&pair);
    }
}

int
main(void)
{
    int failed = 0;

    RUN(test_records_arrive_whole_and_in_order);
    RUN(test_full_ring_refuses_claim_and_keeps_tail);
    RUN(test_aborted_claim_leaves_nothing);
    RUN(test_garbage_behind_a_short_record_is_no_record);
    RUN(test_room_comes_back_without_a_word_for_each_record);
    RUN(test_close_delivers_what_was_committed);
    RUN(test_two_threads);
    RUN(test_two_processes);
    RUN(test_close_wakes_sleepers);
    RUN(test_poke_wakes_every_waiter_whose_word_changed);
    RUN(test_one_cpu_never_spins);
    RUN(test_spin_budget_shrinks_when_it_does_not_pay);
    RUN(test_who_shares_a_cpu_with_the_other_side_sleeps_to_be_put_elsewhere);
    RUN(test_waits_that_spinning_does_not_end_sleep_at_once);
    RUN(test_map_refuses_what_is_not_a_ring);
    RUN(test_lying_headers_are_refused);
    RUN(test_lying_consumer_index_is_refused);
    RUN(test_scribbled_memory_never_leads_outside);
    return failed;
}
