/*
 * The byte ring of ring.h.
 *
 * A record is a header word and its payload, and takes whole cache lines, so that a short
 * one is a single line which the other side's processor fetches once. The header is the
 * flag: it is zero until the record is committed, so a waiting consumer watches the
 * same cache line that the record begins in, and no shared index lies between. To make
 * that hold on every lap, the header that will follow the record is cleared before the
 * record's own is published; the producer therefore always keeps one line's room. Behind a
 * short record the line after that is cleared, too, once the record is out: a short one to
 * come then waits for its own line alone.
 *
 * What the consumer has read is told with the first look that finds nothing, or after an
 * eighth of the ring: a producer that has room asks nobody, and one that waits for room
 * is waited for in turn, which begins with such a look.
 *
 * A record that does not fit before the end of the memory is preceded by a pad that
 * runs up to the end; the pad's header is what gets published, with both behind it.
 *
 * Sleeping: the sleeper raises `asleep` and looks again before it sleeps; the other
 * side stores first and looks at `asleep` after. Both do so in sequentially consistent
 * order, so one of the two always sees the other. `turn` changes with every wake, which
 * keeps a thread that was overtaken between its look and its sleep from sleeping on.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "fdc/ring.h"

#define LINE __attribute__((aligned(FDC_CACHE_LINE)))

enum {
    RING_MAGIC = 0x52434446, /* "FDCR" */
    RING_VERSION = 2,
    HEADER = 8,
    STEP = FDC_CACHE_LINE, /* of the positions of records */
    FETCHED = 3,           /* lines of a record that is there, before it is looked at */
    SMALLEST = 256,
    ALIVE_EVERY_US = 80000,
    TELL_EVERY = 8, /* parts of the ring */
    SOON_PAUSES = 2, /* before an answer is looked for */
};

/* Header word: the size in the low half, and above it what is there. */
#define HEADER_RECORD (UINT64_C(1) << 32)
#define HEADER_PAD (UINT64_C(2) << 32)

struct sleeper {
    uint32_t asleep, turn;
};

/* One line for each writer, and one for each sleeper, which is rarely written. */
struct fdc_ring_head {
    LINE uint32_t magic;
    uint32_t version;
    uint64_t size;
    uint32_t closed;
    LINE uint64_t tail;  /* the producer's, for who attaches later */
    LINE uint64_t first; /* the consumer's */
    LINE struct sleeper consumer;
    LINE struct sleeper producer;
};

_Static_assert(sizeof(struct fdc_ring_head) == 5 * FDC_CACHE_LINE, "shared layout");

static uint64_t *
header_at(const struct fdc_ring *ring, uint64_t position)
{
    return (uint64_t *)(void *)(ring->bytes + (position & (ring->size - 1)));
}

/* Bytes of a record with so much payload. */
static uint64_t
whole_of(uint64_t size)
{
    return FDC_ALIGN_UP(HEADER + size, (uint64_t)STEP);
}

size_t
fdc_ring_footprint(uint64_t size)
{
    return sizeof(struct fdc_ring_head) + size;
}

uint32_t
fdc_ring_max(const struct fdc_ring *ring)
{
    uint64_t max = ring->size / 2 - 2 * HEADER;

    return max < FDC_RING_RECORD_MAX ? (uint32_t)max : FDC_RING_RECORD_MAX;
}

int
fdc_ring_make(void *memory, uint64_t size)
{
    struct fdc_ring_head *head = memory;

    if ((uintptr_t)memory % FDC_CACHE_LINE || size < SMALLEST || (size & (size - 1)))
        return -EINVAL;
    head->version = RING_VERSION;
    head->size = size;
    head->magic = RING_MAGIC;
    return 0;
}

int
fdc_ring_map(struct fdc_ring *ring, void *memory, size_t memory_size)
{
    struct fdc_ring_head *head = memory;
    uint64_t size, tail, first;

    if ((uintptr_t)memory % FDC_CACHE_LINE || memory_size < sizeof(*head) + SMALLEST)
        return -EINVAL;
    size = fdc_load_relaxed(&head->size);
    tail = fdc_load_relaxed(&head->tail);
    first = fdc_load_relaxed(&head->first);
    if (fdc_load_relaxed(&head->magic) != RING_MAGIC ||
        fdc_load_relaxed(&head->version) != RING_VERSION)
        return -EPROTO;
    if (size < SMALLEST || (size & (size - 1)) || size > memory_size - sizeof(*head))
        return -EPROTO;
    if (tail - first > size || tail % STEP || first % STEP)
        return -EPROTO;

    memset(ring, 0, sizeof(*ring));
    ring->head = head;
    ring->bytes = (uint8_t *)(head + 1);
    ring->size = size;
    ring->tail = ring->cleared = tail;
    ring->first = ring->told = first;
    fdc_spin_init(&ring->spin);
    return 0;
}

/* ---- waking and sleeping ---- */

static __attribute__((noinline)) void
wake_sleeper(struct fdc_ring *ring, struct sleeper *sleeper)
{
    if (!fdc_exchange_ordered(&sleeper->asleep, 0))
        return;
    __atomic_fetch_add(&ring->wakes, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&sleeper->turn, 1, __ATOMIC_SEQ_CST);
    fdc_futex_wake(&sleeper->turn, INT_MAX, true);
}

/* The caller has just stored, in order, what the sleeper waits for. */
static inline void
wake_if_asleep(struct fdc_ring *ring, struct sleeper *sleeper)
{
    if (FDC_UNLIKELY(fdc_load_ordered(&sleeper->asleep)))
        wake_sleeper(ring, sleeper);
}

static int
is_closed(const struct fdc_ring *ring)
{
    return fdc_load_acquire(&ring->head->closed) != 0; /* release in fdc_ring_close() */
}

/* What a waiter looks for: 0 nothing yet, 1 to 3 there, or -errno. */
struct look {
    int (*ready)(struct fdc_ring *ring, const struct look *look);
    const uint32_t *word, *second;
    uint32_t seen, second_seen, size;
};

static int
data_ready(struct fdc_ring *ring, const struct look *look)
{
    const uint64_t *header = header_at(ring, fdc_load_acquire(&ring->first));

    if (look->word && fdc_load_acquire(look->word) != look->seen)
        return 2; /* pairs with the release before fdc_ring_poke() */
    if (look->second && fdc_load_acquire(look->second) != look->second_seen)
        return 3; /* likewise */
    /* pairs with the ordered store in fdc_ring_commit() */
    if (fdc_load_ordered(header) != 0)
        return 1;
    if (FDC_LIKELY(!is_closed(ring)))
        return 0;
    /* What was committed before closing is still to be delivered. */
    return fdc_load_ordered(header) != 0 ? 1 : -EPIPE;
}

/* What the consumer says it has read, checked against what was written. */
static int
update_first(struct fdc_ring *ring)
{
    /* pairs with the ordered store in tell_first() */
    uint64_t first = fdc_load_ordered(&ring->head->first);

    if (FDC_UNLIKELY(ring->tail - first > ring->tail - ring->first || first % STEP))
        return -EPROTO;
    ring->first = first;
    return 0;
}

/* Bytes that a record of this size takes at the tail: pad, record, the line behind. */
static uint64_t
need_of(const struct fdc_ring *ring, uint32_t size, uint64_t *pad)
{
    uint64_t whole = whole_of(size);
    uint64_t to_end = ring->size - (ring->tail & (ring->size - 1));

    *pad = whole > to_end ? to_end : 0;
    return *pad + whole + STEP;
}

static int
room_ready(struct fdc_ring *ring, const struct look *look)
{
    uint64_t pad, need = need_of(ring, look->size, &pad);
    int err;

    if (is_closed(ring))
        return -EPIPE;
    err = update_first(ring);
    if (err)
        return err;
    return need <= ring->size - (ring->tail - ring->first);
}

/* lent: it came while somebody else had this CPU. */
static int
spin_for(struct fdc_ring *ring, const struct look *look, uint64_t start_ns,
         uint64_t budget_ns, bool *lent)
{
    uint64_t spun_ns = 0;
    bool crowded = false;
    int ready;

    *lent = false;
    do {
        if (spun_ns > FDC_SPIN_ALONE_NS) {
            *lent = fdc_spin_yield();
            crowded |= *lent;
        }
        for (int i = 0; i < 16; i++) {
            ready = look->ready(ring, look);
            if (ready)
                return ready;
            fdc_pause();
            *lent = false;
        }
        spun_ns = fdc_now_ns() - start_ns;
        if (spun_ns > FDC_SPIN_MAX_NS && crowded)
            break; /* no longer where others want this CPU */
    } while (spun_ns < budget_ns);
    return 0;
}

/* What looking a few times gives, without a clock. */
static int
look_quickly(struct fdc_ring *ring, const struct look *look)
{
    int ready = 0;

    for (int i = fdc_spin_quick(&ring->spin); i > 0 && !ready; i--) {
        fdc_pause();
        ready = look->ready(ring, look);
    }
    if (ready)
        fdc_spin_came(&ring->spin);
    return ready;
}

static __attribute__((noinline)) int
wait_for(struct fdc_ring *ring, struct sleeper *sleeper, const struct look *look,
         int64_t timeout_us)
{
    uint64_t start_ns, limit_ns = 0, budget_ns, now_ns;
    int64_t left_us;
    uint32_t turn;
    bool lent;
    int ready;

    ready = look->ready(ring, look);
    if (ready || timeout_us == 0)
        return ready;
    __atomic_fetch_add(&ring->waits, 1, __ATOMIC_RELAXED);
    ready = look_quickly(ring, look);
    if (ready)
        return ready;
    start_ns = fdc_now_ns();
    if (timeout_us > 0)
        limit_ns = start_ns + (uint64_t)timeout_us * 1000;

    budget_ns = fdc_spin_begin(&ring->spin);
    if (budget_ns) {
        if (limit_ns && start_ns + budget_ns > limit_ns)
            budget_ns = limit_ns - start_ns;
        ready = spin_for(ring, look, start_ns, budget_ns, &lent);
        fdc_spin_end(&ring->spin, ready != 0, lent);
        if (ready)
            return ready;
    }

    for (;;) {
        turn = fdc_load_acquire(&sleeper->turn); /* the add in wake_sleeper() */
        fdc_exchange_ordered(&sleeper->asleep, 1);
        ready = look->ready(ring, look);
        if (ready)
            break;
        left_us = ring->alive ? ALIVE_EVERY_US : -1;
        if (limit_ns) {
            now_ns = fdc_now_ns();
            if (now_ns >= limit_ns)
                break;
            if (left_us < 0 || now_ns + (uint64_t)left_us * 1000 > limit_ns)
                left_us = (int64_t)((limit_ns - now_ns) / 1000) + 1;
        }
        __atomic_fetch_add(&ring->sleeps, 1, __ATOMIC_RELAXED);
        if (fdc_futex_wait(&sleeper->turn, turn, left_us, true) == -ETIMEDOUT &&
            ring->alive) {
            ready = ring->alive(ring->owner);
            if (ready)
                break;
        }
    }
    fdc_spin_learn(&ring->spin, fdc_now_ns() - start_ns, ready != 0, budget_ns != 0);
    return ready;
}

/* ---- producer ---- */

void *
fdc_ring_claim(struct fdc_ring *ring, uint32_t size, int *err)
{
    uint64_t pad, need, start;

    if (FDC_UNLIKELY(size > fdc_ring_max(ring))) {
        *err = -EMSGSIZE;
        return NULL;
    }
    if (FDC_UNLIKELY(is_closed(ring))) {
        *err = -EPIPE;
        return NULL;
    }
    need = need_of(ring, size, &pad);
    if (FDC_UNLIKELY(need > ring->size - (ring->tail - ring->first))) {
        *err = update_first(ring);
        if (*err)
            return NULL;
        if (need > ring->size - (ring->tail - ring->first)) {
            *err = -EAGAIN;
            return NULL;
        }
    }
    if (need - pad > 2 * STEP)
        ring->cleared = ring->tail; /* its bytes may go where a header was cleared */
    start = ring->tail + pad;
    ring->pad = pad;
    ring->claimed = need - pad - STEP;
    ring->claimed_size = size;
    return ring->bytes + (start & (ring->size - 1)) + HEADER;
}

void
fdc_ring_commit(struct fdc_ring *ring)
{
    uint64_t taken = ring->claimed;
    uint64_t start = ring->tail + ring->pad, next = start + taken;
    uint64_t header = HEADER_RECORD | ring->claimed_size;

    if (FDC_UNLIKELY(ring->claimed == 0))
        return;
    if ((int64_t)(ring->cleared - next) < STEP) {
        fdc_store_relaxed(header_at(ring, next), 0);
        ring->cleared = next + STEP;
    }
    if (FDC_UNLIKELY(ring->pad)) {
        fdc_store_relaxed(header_at(ring, start), header);
        header = HEADER_PAD | (ring->pad - HEADER);
    }
    /* Pairs with the loads in data_ready() and fdc_ring_peek(). */
    fdc_store_ordered(header_at(ring, ring->tail), header);
    ring->tail = next;
    fdc_store_relaxed(&ring->head->tail, next);
    ring->claimed = 0;
    wake_if_asleep(ring, &ring->head->consumer);
    if (taken == STEP && next + 2 * STEP - ring->first <= ring->size) {
        fdc_store_relaxed(header_at(ring, next + STEP), 0);
        ring->cleared = next + 2 * STEP;
    }
}

void
fdc_ring_abort(struct fdc_ring *ring)
{
    ring->claimed = 0;
}

int
fdc_ring_wait_room(struct fdc_ring *ring, uint32_t size, int64_t timeout_us)
{
    struct look look = {.ready = room_ready, .size = size};

    if (size > fdc_ring_max(ring))
        return -EMSGSIZE;
    return wait_for(ring, &ring->head->producer, &look, timeout_us);
}

/* ---- consumer ---- */

static __attribute__((noinline)) void
tell_first(struct fdc_ring *ring)
{
    ring->told = ring->first;
    fdc_store_ordered(&ring->head->first, ring->first); /* the load in update_first() */
    wake_if_asleep(ring, &ring->head->producer);
}

static void
advance_first(struct fdc_ring *ring, uint64_t by)
{
    uint64_t first = ring->first + by;

    fdc_store_release(&ring->first, first); /* the load in data_ready() */
    if (FDC_UNLIKELY(first - ring->told >= ring->size / TELL_EVERY))
        tell_first(ring);
}

const void *
fdc_ring_peek(struct fdc_ring *ring, uint32_t *size, int *err)
{
    uint64_t header, offset, room, whole;
    bool closed;

    for (;;) {
        offset = ring->first & (ring->size - 1);
        if (ring->peeked) {
            *size = ring->peeked_size;
            return ring->bytes + offset + HEADER;
        }
        /* Pairs with the ordered store in fdc_ring_commit(). */
        header = fdc_load_acquire(header_at(ring, ring->first));
        if (header == 0) {
            ring->streak = 0;
            if (ring->told != ring->first)
                tell_first(ring);
            /* Closed first, then the header again: what was committed before closing
             * is still to be delivered. */
            closed = is_closed(ring);
            header = fdc_load_acquire(header_at(ring, ring->first));
            if (header == 0) {
                *err = closed ? -EPIPE : 0;
                return NULL;
            }
        }
        whole = whole_of(header & UINT32_MAX);
        room = ring->size - offset;
        if (FDC_LIKELY(header >> 32 == HEADER_RECORD >> 32) && whole <= room &&
            (header & UINT32_MAX) <= fdc_ring_max(ring)) {
            ring->peeked = whole;
            ring->peeked_size = (uint32_t)header;
        } else if (header >> 32 == HEADER_PAD >> 32 && whole == room &&
                   whole < ring->size / 2) {
            advance_first(ring, whole);
        } else {
            *err = -EPROTO;
            return NULL;
        }
    }
}

/* There were several in a row, so the next one is likely to lie there already; one that is
 * being written must not be touched. */
static inline void
fetch_next(const struct fdc_ring *ring)
{
    for (int i = 0; i < FETCHED; i++)
        __builtin_prefetch(header_at(ring, ring->first + (uint64_t)i * STEP));
}

void
fdc_ring_release(struct fdc_ring *ring)
{
    uint64_t peeked = ring->peeked;

    if (peeked == 0)
        return;
    ring->peeked = 0;
    advance_first(ring, peeked);
    if (ring->streak++ > 0 && peeked > STEP)
        fetch_next(ring);
}

int
fdc_ring_wait_data(struct fdc_ring *ring, int64_t timeout_us)
{
    struct look look = {.ready = data_ready};

    return wait_for(ring, &ring->head->consumer, &look, timeout_us);
}

/* A look takes a share in the line that is looked at, and its writer has to take that back
 * before he writes: a look too early makes what is waited for later. No answer is there sooner
 * than this, which is less than two lines take to go there and back. */
void
fdc_ring_soon(struct fdc_ring *ring)
{
    if (fdc_spin_quick(&ring->spin) == 0)
        return;
    for (int i = 0; i < SOON_PAUSES; i++)
        fdc_pause();
}

bool
fdc_ring_quick(struct fdc_ring *ring)
{
    const uint64_t *header = header_at(ring, ring->first);

    for (int i = fdc_spin_quick(&ring->spin); i > 0; i--) {
        fdc_pause();
        if (fdc_load_acquire(header) != 0) { /* as in fdc_ring_peek() */
            fdc_spin_came(&ring->spin);
            return true;
        }
    }
    return false;
}

int
fdc_ring_wait_word(struct fdc_ring *ring, const uint32_t *word, uint32_t seen,
                   int64_t timeout_us)
{
    return fdc_ring_wait_words(ring, word, seen, NULL, 0, timeout_us);
}

int
fdc_ring_wait_words(struct fdc_ring *ring, const uint32_t *word, uint32_t seen,
                    const uint32_t *second, uint32_t second_seen, int64_t timeout_us)
{
    struct look look = {.ready = data_ready,
                        .word = word,
                        .seen = seen,
                        .second = second,
                        .second_seen = second_seen};

    return wait_for(ring, &ring->head->consumer, &look, timeout_us);
}

void
fdc_ring_poke(struct fdc_ring *ring)
{
    /* The exchange orders the caller's store before the look at the flag; it pairs with
     * the one in wait_for(). */
    wake_sleeper(ring, &ring->head->consumer);
}

void
fdc_ring_close(struct fdc_ring *ring)
{
    fdc_store_ordered(&ring->head->closed, 1); /* the load in is_closed() */
    wake_sleeper(ring, &ring->head->consumer);
    wake_sleeper(ring, &ring->head->producer);
}
