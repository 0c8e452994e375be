/*
 * A ring whose other side writes what it likes: the input is the memory of the ring,
 * header included, and then changes to it between the reader's and the writer's steps.
 */
#include "fuzz.h"
#include "fdc/ring.h"

enum { SIZE = 1024, STEPS = 64 };

static volatile uint8_t sum;

static void
step(struct fdc_ring *ring, struct fuzz_bytes *bytes, uint8_t *memory, size_t room)
{
    uint64_t how = fuzz_take(bytes, 1), at, value;
    const uint8_t *record;
    uint32_t size = 0;
    void *claimed;
    int err = 0;

    switch (how % 6) {
    case 0:
    case 1:                     /* somebody writes */
        at = fuzz_take(bytes, 2) % (room / 8) * 8;
        value = fuzz_take(bytes, 8);
        memcpy(memory + at, &value, 8);
        break;
    case 2:
        record = fdc_ring_peek(ring, &size, &err);
        if (record == NULL)
            break;
        FUZZ_CHECK(record >= memory && size <= room &&
                   record + size <= memory + room);
        for (uint32_t i = 0; i < size; i++)
            sum ^= record[i];
        if (how & 8)
            fdc_ring_release(ring);
        break;
    case 3:
        size = (uint32_t)fuzz_take(bytes, 2);
        claimed = fdc_ring_claim(ring, size, &err);
        if (claimed == NULL) {
            FUZZ_CHECK(err < 0);
            break;
        }
        FUZZ_CHECK((uint8_t *)claimed >= memory &&
                   (uint8_t *)claimed + size <= memory + room);
        memset(claimed, (int)how, size);
        if (how & 8)
            fdc_ring_abort(ring);
        else
            fdc_ring_commit(ring);
        break;
    case 4:
        fdc_ring_wait_data(ring, 0);
        fdc_ring_release(ring);
        break;
    default:
        fdc_ring_wait_room(ring, (uint32_t)fuzz_take(bytes, 2), 0);
        break;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_bytes bytes = { data, size };
    size_t room = fdc_ring_footprint(SIZE);
    uint8_t *memory = aligned_alloc(64, room);
    uint64_t first = fuzz_take(&bytes, 1);
    struct fdc_ring ring;

    FUZZ_CHECK(memory != NULL);
    memset(memory, 0, room);
    if (first & 1) {
        FUZZ_CHECK(fdc_ring_make(memory, SIZE) == 0);
    } else {
        size_t part = bytes.left < room ? bytes.left : room;

        if (part != 0)
            memcpy(memory, bytes.at, part);
        bytes.at += part;
        bytes.left -= part;
    }
    if (fdc_ring_map(&ring, memory, room) == 0) {
        FUZZ_CHECK(ring.size <= room);
        for (int i = 0; i < STEPS && bytes.left > 0; i++)
            step(&ring, &bytes, memory, room);
    }
    free(memory);
    return 0;
}
