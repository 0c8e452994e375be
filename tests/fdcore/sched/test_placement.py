"""What a request is given: sched/, with no process running."""

import math

from hypothesis import given
from hypothesis import strategies as some

from fdcore.errors import RefusedError
from fdcore.lease import LeaseBook, Owner
from fdcore.sched.placement import Refusal, place
from fdcore.sched.slices import MIB, Ask, Gpu, Slice
from fdcore.sched.spread import Room

GIB = 1024 * MIB
OWNER = Owner("somebody", "")


def gpus(*sizes: int) -> list[Gpu]:
    return [Gpu(n, "a GPU", f"GPU-{n}", size) for n, size in enumerate(sizes)]


def all_free(pool: list[Gpu]) -> dict[int, int]:
    return {gpu.ordinal: gpu.memory for gpu in pool}


def refusal(*arguments: object) -> Refusal:
    placed = place(*arguments)  # type: ignore[arg-type]
    assert isinstance(placed, Refusal), placed
    return placed


def test_whole_gpu_takes_all_of_its_memory():
    pool = gpus(GIB)
    assert place(pool, all_free(pool), Ask()) == (Slice(0, GIB),)


def test_half_of_16160_mib_is_8080_mib():
    pool = gpus(16160 * MIB)
    placed = place(pool, all_free(pool), Ask(fraction=0.5))
    assert placed == (Slice(0, 8080 * MIB),)


def test_fraction_of_one_is_the_whole_gpu_to_the_byte():
    pool = gpus(GIB + 12345)
    assert place(pool, all_free(pool), Ask(fraction=1.0)) == (Slice(0, GIB + 12345),)


def test_fractions_share_a_gpu_and_keep_the_other_whole():
    pool = gpus(GIB, GIB)
    free = {0: GIB, 1: GIB // 2}
    placed = place(pool, free, Ask(memory=256 * MIB))
    assert placed == (Slice(1, 256 * MIB),)


def test_smallest_gpu_that_fits_is_taken():
    pool = gpus(4 * GIB, GIB, 2 * GIB)
    placed = place(pool, all_free(pool), Ask(memory=GIB))
    assert placed == (Slice(1, GIB),)


def test_a_lease_gets_each_gpu_once_and_in_order():
    pool = gpus(GIB, GIB, GIB)
    placed = place(pool, all_free(pool), Ask(count=3, memory=10 * MIB))
    assert [part.ordinal for part in placed] == [0, 1, 2]  # type: ignore[union-attr]


def test_refusal_says_what_was_asked_and_what_is_free():
    pool = gpus(GIB, GIB)
    said = refusal(pool, {0: 512 * MIB, 1: 0}, Ask(count=2, memory=600 * MIB))
    assert said.later
    assert said.reason == (
        "2 GPUs with 600 MiB each asked for; "
        "free: GPU 0 512 of 1024 MiB, GPU 1 0 of 1024 MiB"
    )


def test_more_than_there_is_can_never_be_granted():
    pool = gpus(GIB)
    for ask in (Ask(memory=2 * GIB), Ask(count=2)):
        said = refusal(pool, all_free(pool), ask)
        assert not said.later
        assert "more than there is" in said.reason


def test_server_without_gpus_says_so():
    assert "has no GPU" in refusal([], {}, Ask()).reason


def test_numbers_that_make_no_sense_are_refused():
    pool = gpus(GIB)
    for ask in (
        Ask(count=0),
        Ask(count=65),
        Ask(memory=-1),
        Ask(fraction=1.5),
        Ask(fraction=math.nan),
        Ask(memory=MIB, fraction=0.5),
        Ask(fraction=1e-9),
    ):
        assert not refusal(pool, all_free(pool), ask).later


asks = some.builds(
    Ask,
    count=some.integers(1, 4),
    memory=some.one_of(some.just(0), some.integers(1, 3 * GIB)),
    fraction=some.just(0.0),
) | some.builds(Ask, count=some.integers(1, 4), fraction=some.floats(0.01, 1.0))


@given(
    some.lists(some.integers(1 * MIB, 4 * GIB), min_size=1, max_size=4),
    some.lists(some.tuples(asks, some.booleans()), max_size=30),
)
def test_no_memory_is_ever_promised_twice(sizes, steps):
    book = LeaseBook(gpus(*sizes))
    live = []
    for ask, ends_one in steps:
        if ends_one and live:
            book.end(live.pop(0))
        try:
            lease = book.reserve(ask, OWNER)
        except RefusedError:
            pass
        else:
            assert len({part.ordinal for part in lease.slices}) == ask.count
            live.append(lease)
        free = book.free()
        for gpu in book.gpus:
            used = sum(
                part.memory
                for lease in live
                for part in lease.slices
                if part.ordinal == gpu.ordinal
            )
            assert free[gpu.ordinal] == gpu.memory - used >= 0
    for lease in live:
        book.end(lease)
    assert list(book.free().values()) == sizes


def test_a_share_of_the_time_goes_where_it_is_left():
    pool = gpus(GIB, GIB)
    kept = {0: 60, 1: 0}
    half = Ask(memory=MIB, compute=50)
    assert place(pool, {0: GIB // 2, 1: GIB}, half, kept) == (Slice(1, MIB, 50),)
    refused = place(pool, all_free(pool), Ask(count=2, memory=MIB, compute=50), kept)
    assert isinstance(refused, Refusal) and refused.later
    assert "GPU 0 40 %, GPU 1 100 %" in refused.reason
    assert place(pool, all_free(pool), Ask(memory=MIB, compute=101)).later is False
    assert Room("a", pool, all_free(pool), kept).fits(half) == 1


@given(some.lists(some.tuples(some.integers(1, 3), some.integers(0, 100), some.booleans())))
def test_no_time_is_ever_promised_twice(steps):
    book = LeaseBook(gpus(GIB, GIB, GIB))
    out = []
    for count, compute, end in steps:
        if end and out:
            book.end(out.pop(0))
        else:
            try:
                ask = Ask(count=count, memory=MIB, compute=compute)
                out.append(book.reserve(ask, Owner("u", "h")))
            except RefusedError:
                pass
        sums = dict.fromkeys(range(3), 0)
        for lease in out:
            for part in lease.slices:
                sums[part.ordinal] += part.compute
        assert book.kept() == sums and max(sums.values()) <= 100


def test_lease_lives_while_anything_stands_for_it():
    book = LeaseBook(gpus(GIB))
    lease = book.reserve(Ask(), OWNER)
    asker, hold = object(), object()
    book.stand(lease, asker)
    book.stand(lease, hold)
    assert not book.leave(lease, asker)
    assert book.find(lease.id) is lease
    assert book.leave(lease, hold)
    assert book.find(lease.id) is None
    assert book.free() == {0: GIB}
    assert not book.leave(lease, hold)


def test_secret_is_not_in_what_is_printed():
    book = LeaseBook(gpus(GIB))
    lease = book.reserve(Ask(), OWNER)
    assert lease.secret.hex() not in repr(lease)
    assert repr(lease.secret) not in repr(lease)


def test_a_gpu_for_one_process_at_a_time_is_given_as_a_whole():
    pool = [Gpu(0, "a GPU", "GPU-0", GIB, whole=True), Gpu(1, "a GPU", "GPU-1", 4 * GIB)]
    free = all_free(pool)
    assert place(pool, free, Ask(only=frozenset({0}))) == (Slice(0, GIB),)
    assert place(pool, free, Ask(memory=GIB)) == (Slice(0, GIB),)
    # Parts come from the other one, though this one fits better.
    assert place(pool, free, Ask(memory=GIB // 2)) == (Slice(1, GIB // 2),)
    refused = refusal(pool, free, Ask(2, memory=GIB // 2))
    assert "exclusive-process mode, and given as a whole only: GPU 0" in refused.reason
    assert not refused.later
    # Who wants another one is not told of it.
    assert "exclusive" not in refusal(pool, free, Ask(2, only=frozenset({1}))).reason
    assert Room("one", tuple(pool), free).fits(Ask(memory=MIB)) == 1
    book = LeaseBook(pool)
    assert book.reserve(Ask(memory=GIB // 2), OWNER).slices == (Slice(1, GIB // 2),)
    book.reserve(Ask(), OWNER)
    assert book.free() == {0: 0, 1: 4 * GIB - GIB // 2}
