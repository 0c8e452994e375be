/*
 * The shim's allocator alone: a fake worker counts what is created, and a model checks
 * that blocks never overlap, are never reused while their work may still run, and that
 * a request is refused only when the bytes are really not there.
 */
#include <pthread.h>

#include "check.h"
#include "shim/arena.h"

#define MIB (1ull << 20)
#define BASE 0x400000000000ull

struct worker {
    struct fdc_arena *arena;
    struct fdc_ranges *grown;
    pthread_mutex_t lock;
    uint64_t created, quota, next_piece, piece_size;
    uint64_t position, finished, retired; /* of work; fences finish it */
    uint32_t grows, shrinks, fences, pieces;
};

static CUresult
grow(void *user, uint64_t address, uint64_t size)
{
    struct worker *worker = user;
    CUresult result = CUDA_SUCCESS;

    pthread_mutex_lock(&worker->lock);
    __atomic_add_fetch(&worker->position, 1, __ATOMIC_SEQ_CST);
    if (worker->created + size > worker->quota) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        CHECK_EQ(fdc_ranges_add(worker->grown, address, size, (void *)(uintptr_t)size),
                 0);
        worker->created += size;
        worker->grows++;
    }
    pthread_mutex_unlock(&worker->lock);
    return result;
}

static void
shrink(void *user, uint64_t address)
{
    struct worker *worker = user;
    void *size;

    pthread_mutex_lock(&worker->lock);
    __atomic_add_fetch(&worker->position, 1, __ATOMIC_SEQ_CST);
    size = fdc_ranges_del(worker->grown, address);
    CHECK(size != NULL);
    worker->created -= (uintptr_t)size;
    worker->shrinks++;
    pthread_mutex_unlock(&worker->lock);
}

static CUresult
piece(void *user, uint64_t size, uint64_t *base, uint64_t *got)
{
    struct worker *worker = user;

    pthread_mutex_lock(&worker->lock);
    *got = size > worker->piece_size ? FDC_ALIGN_UP(size, 2 * MIB) : worker->piece_size;
    *base = worker->next_piece;
    worker->next_piece += *got;
    worker->pieces++;
    pthread_mutex_unlock(&worker->lock);
    return CUDA_SUCCESS;
}

static uint64_t
position(void *user)
{
    struct worker *worker = user;

    return __atomic_add_fetch(&worker->position, 1, __ATOMIC_SEQ_CST);
}

static uint64_t
retired(void *user)
{
    struct worker *worker = user;

    return __atomic_load_n(&worker->retired, __ATOMIC_ACQUIRE);
}

static void
retire(struct worker *worker, uint64_t position)
{
    pthread_mutex_lock(&worker->lock);
    if (position > worker->retired)
        __atomic_store_n(&worker->retired, position, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&worker->lock);
}

static CUresult
fence(void *user, bool wait)
{
    struct worker *worker = user;
    uint64_t now = __atomic_add_fetch(&worker->position, 1, __ATOMIC_SEQ_CST);

    __atomic_add_fetch(&worker->fences, 1, __ATOMIC_SEQ_CST);
    if (wait) {
        __atomic_store_n(&worker->finished, now, __ATOMIC_SEQ_CST);
        retire(worker, now);
    }
    return CUDA_SUCCESS;
}

static const struct fdc_arena_ops ops = {grow,    shrink, piece, position,
                                        retired, fence,  NULL};

static void
begin(struct worker *worker, uint64_t quota, uint64_t limit)
{
    memset(worker, 0, sizeof(*worker));
    worker->grown = fdc_ranges_new();
    worker->quota = quota;
    worker->next_piece = BASE;
    worker->piece_size = 256 * MIB;
    pthread_mutex_init(&worker->lock, NULL);
    worker->arena = fdc_arena_new(&ops, worker, 2 * MIB, limit);
    CHECK(worker->arena != NULL);
}

static void
end(struct worker *worker)
{
    fdc_arena_delete(worker->arena);
    fdc_ranges_delete(worker->grown);
}

static uint64_t
get(struct worker *worker, uint64_t size)
{
    uint64_t address = 0;

    CHECK_EQ(fdc_arena_alloc(worker->arena, size, true, &address), CUDA_SUCCESS);
    CHECK(address >= BASE);
    CHECK_EQ(address % 512, 0);
    if (size >= MIB)
        CHECK_EQ(address % (2 * MIB), 0);
    return address;
}

static void
test_every_byte_of_the_slice_can_be_had(void)
{
    struct worker worker;
    uint64_t address, block[64];

    begin(&worker, 64 * MIB, 64 * MIB);
    for (int round = 0; round < 3; round++) {
        address = get(&worker, 64 * MIB);
        CHECK_EQ(fdc_arena_alloc(worker.arena, 1, true, &block[0]),
                 CUDA_ERROR_OUT_OF_MEMORY);
        CHECK_EQ(fdc_arena_free(worker.arena, address), CUDA_SUCCESS);
        for (int i = 0; i < 32; i++)
            block[i] = get(&worker, 2 * MIB - 5);
        CHECK_EQ(fdc_arena_alloc(worker.arena, 2 * MIB, true, &address),
                 CUDA_ERROR_OUT_OF_MEMORY);
        /* every other one: their addresses are not neighbours, the bytes are there */
        for (int i = 0; i < 32; i += 2)
            CHECK_EQ(fdc_arena_free(worker.arena, block[i]), CUDA_SUCCESS);
        address = get(&worker, 32 * MIB);
        CHECK_EQ(fdc_arena_free(worker.arena, address), CUDA_SUCCESS);
        for (int i = 1; i < 32; i += 2)
            CHECK_EQ(fdc_arena_free(worker.arena, block[i]), CUDA_SUCCESS);
    }
    end(&worker);
}

static void
test_worker_that_refuses_earlier_is_believed(void)
{
    struct worker worker;
    uint64_t a, b, c;

    begin(&worker, 20 * MIB, 64 * MIB);
    a = get(&worker, 10 * MIB);
    b = get(&worker, 10 * MIB);
    CHECK_EQ(fdc_arena_alloc(worker.arena, 2 * MIB, true, &c),
             CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_EQ(fdc_arena_free(worker.arena, a), CUDA_SUCCESS);
    c = get(&worker, 6 * MIB);
    CHECK_EQ(fdc_arena_free(worker.arena, b), CUDA_SUCCESS);
    CHECK_EQ(fdc_arena_free(worker.arena, c), CUDA_SUCCESS);
    a = get(&worker, 20 * MIB);
    end(&worker);
}

static void
test_freed_block_is_not_reused_before_its_work_has_finished(void)
{
    struct worker worker;
    uint64_t a, b;

    begin(&worker, 1024 * MIB, 1024 * MIB);
    a = get(&worker, 4096);
    CHECK_EQ(fdc_arena_free(worker.arena, a), CUDA_SUCCESS);
    CHECK_EQ(fdc_arena_free(worker.arena, a), CUDA_ERROR_INVALID_VALUE);
    b = get(&worker, 4096);
    CHECK(a != b);
    retire(&worker, worker.position);
    CHECK_EQ(get(&worker, 4096), a);
    CHECK_EQ(worker.fences, 0);
    a = get(&worker, 100 * MIB);
    CHECK_EQ(fdc_arena_free(worker.arena, a), CUDA_SUCCESS);
    CHECK_EQ(worker.fences, 1); /* asked for, not waited for */
    CHECK_EQ(worker.shrinks, 0);
    CHECK_EQ(fdc_arena_free(worker.arena, 0), CUDA_ERROR_INVALID_VALUE);
    CHECK_EQ(fdc_arena_alloc(worker.arena, 0, true, &a), CUDA_ERROR_INVALID_VALUE);
    end(&worker);
}

static void
test_forgotten_memory_is_not_given_back_twice(void)
{
    struct worker worker;
    struct fdc_arena_info info;
    uint64_t a;

    begin(&worker, 256 * MIB, 256 * MIB);
    for (int i = 0; i < 100; i++) {
        a = get(&worker, (uint64_t)(i + 1) * 700);
        if (i % 3 == 0)
            CHECK_EQ(fdc_arena_free(worker.arena, a), CUDA_SUCCESS);
    }
    a = get(&worker, 40 * MIB);
    fdc_arena_forget(worker.arena);
    CHECK_EQ(fdc_arena_free(worker.arena, a), CUDA_ERROR_INVALID_VALUE);
    fdc_arena_stat(worker.arena, &info);
    CHECK_EQ(info.created, 0);
    CHECK_EQ(info.used, 0);
    CHECK_EQ(info.cached, 0);
    CHECK_EQ(worker.shrinks, 0);
    fdc_ranges_delete(worker.grown);
    worker.grown = fdc_ranges_new();
    worker.created = 0;
    get(&worker, 256 * MIB);
    end(&worker);
}

static void
test_addresses_for_mappings_are_apart_from_blocks(void)
{
    struct worker worker;
    uint64_t a, b, c;

    begin(&worker, 64 * MIB, 64 * MIB);
    CHECK_EQ(fdc_arena_add_piece(worker.arena, BASE + (1ull << 40), 512 * MIB), 0);
    CHECK_EQ(fdc_arena_reserve(worker.arena, 128 * MIB, 0, 0, &a), CUDA_SUCCESS);
    CHECK_EQ(fdc_arena_reserve(worker.arena, 1000, 0, 0, &b), CUDA_ERROR_INVALID_VALUE);
    b = get(&worker, 2 * MIB);
    CHECK(b < a || b >= a + 128 * MIB);
    CHECK_EQ(fdc_arena_reserve(worker.arena, 64 * MIB, 64 * MIB, 0, &c), CUDA_SUCCESS);
    CHECK_EQ(c % (64 * MIB), 0);
    fdc_arena_unreserve(worker.arena, a, 128 * MIB);
    CHECK_EQ(fdc_arena_reserve(worker.arena, 128 * MIB, 0, a, &b), CUDA_SUCCESS);
    CHECK_EQ(a, b);
    /* larger than any piece: another is asked for */
    CHECK_EQ(fdc_arena_reserve(worker.arena, 4096 * MIB, 0, 0, &b), CUDA_SUCCESS);
    CHECK_EQ(worker.pieces, 1);
    end(&worker);
}

/* ---- random, against a model ---- */

struct held {
    uint64_t address, size;
};

static uint64_t
random_size(uint64_t *state)
{
    switch (check_random(state) % 8) {
    case 0:
        return 1 + check_random(state) % (24 * MIB);
    case 1:
        return 1 + check_random(state) % (2 * MIB);
    case 2:
        return MIB - 1 + check_random(state) % 3;
    default:
        return 1 + check_random(state) % 40000;
    }
}

static void
test_random_allocations_agree_with_a_model(void)
{
    enum { HELD = 3000 };
    static struct held held[HELD];
    struct fdc_ranges *model = fdc_ranges_new();
    struct fdc_arena_info info;
    uint64_t state = 0x9e3779b97f4a7c15ull, address;
    uint64_t refused = 0, large = 0;
    struct worker worker;
    uint32_t count = 0;
    CUresult result;

    begin(&worker, 192 * MIB, 192 * MIB);
    for (int turn = 0; turn < 200000; turn++) {
        if (count < HELD && check_random(&state) % 100 < 52) {
            uint64_t size = random_size(&state);

            result = fdc_arena_alloc(worker.arena, size, true, &address);
            if (result == CUDA_SUCCESS) {
                CHECK_EQ(fdc_ranges_add(model, address, size, &held[count]), 0);
                CHECK(fdc_ranges_find(worker.grown, address, NULL, NULL) != NULL);
                CHECK(fdc_ranges_find(worker.grown, address, NULL, NULL) ==
                      fdc_ranges_find(worker.grown, address + size - 1, NULL, NULL));
                held[count].address = address;
                held[count].size = size;
                count++;
            } else {
                CHECK_EQ(result, CUDA_ERROR_OUT_OF_MEMORY);
                refused++;
                large += size >= MIB;
                /* Nothing was left to give back, and the bytes are not there. */
                fdc_arena_stat(worker.arena, &info);
                CHECK_EQ(info.cached, 0);
                CHECK_EQ(info.limbo, 0);
                CHECK(info.used + FDC_ALIGN_UP(size, 2 * MIB) > 192 * MIB);
                CHECK_EQ(info.created, info.used);
            }
        } else if (count > 0) {
            uint32_t which = (uint32_t)(check_random(&state) % count);

            CHECK(fdc_ranges_del(model, held[which].address) != NULL);
            CHECK_EQ(fdc_arena_free(worker.arena, held[which].address), CUDA_SUCCESS);
            held[which] = held[--count];
        }
        if (check_random(&state) % 512 == 0)
            retire(&worker, worker.position);
        if (check_random(&state) % 50000 == 0)
            fdc_arena_trim(worker.arena, true);
    }
    CHECK(refused > 0);
    while (count > 0)
        CHECK_EQ(fdc_arena_free(worker.arena, held[--count].address), CUDA_SUCCESS);
    fdc_arena_stat(worker.arena, &info);
    CHECK_EQ(info.used, 0);
    fdc_arena_trim(worker.arena, true);
    CHECK_EQ(worker.created, 0);
    CHECK_EQ(fdc_ranges_count(worker.grown), 0);
    get(&worker, 192 * MIB);
    fdc_ranges_delete(model);
    end(&worker);
}

struct hand {
    struct worker *worker;
    uint64_t seed;
};

static void *
allocate_much(void *argument)
{
    struct hand *hand = argument;
    struct held held[64];
    uint64_t state = hand->seed;
    uint32_t count = 0;

    for (int turn = 0; turn < 20000; turn++) {
        if (count < 64 && check_random(&state) % 2 == 0) {
            uint64_t size = random_size(&state);

            if (fdc_arena_alloc(hand->worker->arena, size, true,
                                &held[count].address) == 0)
                count++;
        } else if (count > 0) {
            CHECK_EQ(fdc_arena_free(hand->worker->arena, held[--count].address), 0);
        }
    }
    while (count > 0)
        CHECK_EQ(fdc_arena_free(hand->worker->arena, held[--count].address), 0);
    return NULL;
}

static void
test_threads_share_an_arena(void)
{
    pthread_t thread[4];
    struct hand hand[4];
    struct fdc_arena_info info;
    struct worker worker;

    begin(&worker, 256 * MIB, 256 * MIB);
    for (int i = 0; i < 4; i++) {
        hand[i] = (struct hand){&worker, (uint64_t)(i + 1) * 7919};
        CHECK_EQ(pthread_create(&thread[i], NULL, allocate_much, &hand[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    fdc_arena_trim(worker.arena, true);
    fdc_arena_stat(worker.arena, &info);
    CHECK_EQ(info.used, 0);
    CHECK_EQ(worker.created, 0);
    end(&worker);
}

static void
test_ranges_agree_with_an_array(void)
{
    enum { SLOTS = 4096 };
    static uint8_t taken[SLOTS]; /* length of the range that begins there */
    static uint8_t covered[SLOTS];
    struct fdc_ranges *ranges = fdc_ranges_new();
    uint64_t state = 12345, base, size;

    for (int turn = 0; turn < 100000; turn++) {
        uint32_t at = (uint32_t)(check_random(&state) % (SLOTS - 8));
        uint32_t length = 1 + (uint32_t)(check_random(&state) % 7);

        if (check_random(&state) % 2) {
            bool room = true;

            for (uint32_t i = at; i < at + length; i++)
                room = room && !covered[i];
            CHECK_EQ(fdc_ranges_add(ranges, BASE + at, length, &taken[at]) == 0, room);
            if (room) {
                taken[at] = (uint8_t)length;
                memset(&covered[at], 1, length);
            }
        } else {
            CHECK_EQ(fdc_ranges_del(ranges, BASE + at) != NULL, taken[at] != 0);
            memset(&covered[at], 0, taken[at]);
            taken[at] = 0;
        }
        at = (uint32_t)(check_random(&state) % SLOTS);
        CHECK_EQ(fdc_ranges_find(ranges, BASE + at, &base, &size) != NULL, covered[at]);
        if (covered[at])
            CHECK(base <= BASE + at && BASE + at - base < size &&
                  taken[base - BASE] == size);
    }
    fdc_ranges_delete(ranges);
}

int
main(void)
{
    int failed = 0;

    RUN(test_ranges_agree_with_an_array);
    RUN(test_every_byte_of_the_slice_can_be_had);
    RUN(test_worker_that_refuses_earlier_is_believed);
    RUN(test_freed_block_is_not_reused_before_its_work_has_finished);
    RUN(test_forgotten_memory_is_not_given_back_twice);
    RUN(test_addresses_for_mappings_are_apart_from_blocks);
    RUN(test_random_allocations_agree_with_a_model);
    RUN(test_threads_share_an_arena);
    return failed;
}
