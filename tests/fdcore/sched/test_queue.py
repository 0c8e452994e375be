"""Who waits, who is next, who has too much: sched/queue.py; and the index of free GPUs."""

from hypothesis import given, settings
from hypothesis import strategies as some

from fdcore.sched import queue
from fdcore.sched.index import FreeIndex
from fdcore.sched.placement import Refusal, place
from fdcore.sched.queue import (
    DEFAULT,
    PATIENCE,
    Quota,
    Request,
    Usage,
    hopeless,
    in_order,
    nearest,
    next_grant,
    over_quota,
    refusal,
)
from fdcore.sched.slices import MIB, Ask, Gpu, Slice

GIB = 1024 * MIB


def pool(*sizes):
    return tuple(Gpu(n, "a GPU", f"GPU-{n}", size) for n, size in enumerate(sizes))


def ask(count=1, memory=0):
    return Ask(count=count, memory=memory)


def request(number, wanted, user="u", since=0.0, priority=0):
    return Request(wanted, user, number, since, priority)


# ---- order ----


def test_order_is_priority_then_least_use_then_arrival():
    waiting = [
        request(1, ask(), "rich"),
        request(2, ask(), "poor"),
        request(3, ask(), "poor"),
        request(4, ask(), "rich", priority=1),
    ]
    usages = {"rich": Usage(1, GIB)}
    assert [r.number for r in in_order(waiting, usages, 1.0)] == [4, 2, 3, 1]


def test_who_waited_long_is_next_whatever_they_have():
    waiting = [request(2, ask(), "poor", since=PATIENCE), request(1, ask(), "rich", since=0)]
    usages = {"rich": Usage(1, GIB)}
    assert [r.number for r in in_order(waiting, usages, PATIENCE - 1)] == [2, 1]
    assert [r.number for r in in_order(waiting, usages, PATIENCE)] == [1, 2]


def test_small_requests_pass_a_large_one_until_its_patience_ends():
    gpus = pool(GIB, GIB)
    free = {0: GIB, 1: GIB // 2}
    large, small = request(1, ask(2, GIB)), request(2, ask(1, GIB // 2), since=1.0)
    granted = next_grant(gpus, free, [large, small], {}, {}, 2.0)
    assert granted == (small, (Slice(1, GIB // 2),))
    assert next_grant(gpus, free, [large, small], {}, {}, PATIENCE) is None


def test_only_what_is_nearest_is_kept_for_an_old_request():
    gpus = pool(GIB, GIB, GIB)
    free = {0: GIB // 2, 1: GIB // 4, 2: GIB // 4}
    old, small = request(1, ask(1, GIB)), request(2, ask(1, GIB // 4), since=PATIENCE)
    granted = next_grant(gpus, free, [old, small], {}, {}, PATIENCE)
    assert granted is not None
    assert granted[0] is small
    assert granted[1][0].ordinal in (1, 2)


# ---- quotas ----


def test_quota_counts_what_a_user_has():
    quotas = {"u": Quota(gpus=2, memory=3 * GIB), DEFAULT: Quota(gpus=1)}
    one = (Slice(0, GIB),)
    assert over_quota(one, "u", Usage(1, GIB), quotas) is None
    assert over_quota(one, "u", Usage(2, GIB), quotas).later
    said = over_quota((Slice(0, 2 * GIB),), "u", Usage(1, 2 * GIB), quotas)
    assert said.reason == "u may have 3072 MiB at once and has 2048; 2048 more were asked for"
    assert not over_quota((Slice(0, 4 * GIB),), "u", Usage(), quotas).later
    assert over_quota((*one, Slice(1, GIB)), "other", Usage(), quotas) is not None
    assert over_quota((*one, Slice(1, GIB)), "other", Usage(), {}) is None


def test_who_is_over_quota_keeps_nobody_out():
    gpus, quotas = pool(GIB), {"u": Quota(gpus=1)}
    mine, theirs = request(1, ask()), request(2, ask(), "v")
    granted = next_grant(gpus, {0: GIB}, [mine, theirs], {"u": Usage(1, 0)}, quotas, 9 * PATIENCE)
    assert granted is not None
    assert granted[0] is theirs


def test_refusals_say_why():
    gpus = pool(GIB)
    assert "free: GPU 0 0 of" in refusal(gpus, {0: 0}, request(1, ask()), {}, {}, 0).reason
    assert "3 requests wait" in refusal(gpus, {0: GIB}, request(1, ask()), {}, {}, 3).reason
    assert hopeless(gpus, request(1, ask(2)), {}) is not None
    assert hopeless(gpus, request(1, ask()), {DEFAULT: Quota(memory=1)}) is not None
    assert hopeless(gpus, request(1, ask()), {}) is None


# ---- no starvation ----

sizes = some.lists(some.sampled_from([GIB, 2 * GIB]), min_size=1, max_size=4)
asks = some.builds(ask, some.integers(1, 3), some.sampled_from([0, GIB // 4, GIB // 2, GIB]))


@settings(deadline=None)
@given(sizes, asks, some.lists(some.tuples(asks, some.sampled_from("abc")), min_size=1, max_size=40),
       some.integers(1, 5))
def test_whatever_could_be_granted_is_granted_though_others_keep_coming(sizes, first, stream, life):
    """One request against an endless stream of others that each end after a while."""
    gpus = pool(*sizes)
    mine = request(0, first, "me")
    if hopeless(gpus, mine, {}) is not None:
        return
    index = FreeIndex(gpus)
    waiting, running = [mine], []
    for turn in range(400):
        now = turn * 10.0
        for end, slices in [one for one in running if one[0] <= turn]:
            index.give(slices)
            running.remove((end, slices))
        wanted, user = stream[turn % len(stream)]
        waiting.append(request(turn + 1, wanted, user, now))
        while granted := next_grant(gpus, index.free, waiting, {}, {}, now):
            who, slices = granted
            if who is mine:
                return
            waiting.remove(who)
            index.take(slices)
            running.append((turn + life, slices))
        waiting = waiting[:50]
    raise AssertionError("it waits for ever")


# ---- long lines ----


def one_by_one(gpus, free, waiting, now):
    """next_grant() that asks for each request anew whether it has room."""
    kept = set()
    for each in in_order(waiting, {}, now):
        left = [gpu for gpu in gpus if gpu.ordinal not in kept]
        placed = place(left, free, each.ask)
        if not isinstance(placed, Refusal):
            return each, placed
        if now - each.since >= PATIENCE:
            kept |= nearest(left, free, each.ask)
    return None


@settings(deadline=None)
@given(sizes, some.lists(some.tuples(asks, some.integers(0, 12)), max_size=20), some.data())
def test_requests_that_are_alike_are_served_as_if_each_was_looked_at(sizes, wanted, data):
    gpus = pool(*sizes)
    free = {gpu.ordinal: data.draw(some.integers(0, gpu.memory)) for gpu in gpus}
    waiting = [request(n, each, since=10.0 * since) for n, (each, since) in enumerate(wanted)]
    assert next_grant(gpus, free, waiting, {}, {}, 120.0) == one_by_one(gpus, free, waiting, 120.0)


def test_room_is_looked_for_once_for_all_that_ask_for_the_same(monkeypatch):
    asked = []
    monkeypatch.setattr(queue, "place", lambda *words: asked.append(words) or place(*words))
    gpus, free = pool(GIB, GIB), {0: 0, 1: 0}
    waiting = [request(n, ask(memory=GIB)) for n in range(1000)]
    assert next_grant(gpus, free, waiting, {}, {}, 1.0) is None
    assert next_grant(gpus, free, waiting, {}, {}, PATIENCE) is None
    assert len(asked) == 2


# ---- the index ----

steps = some.lists(
    some.tuples(
        some.builds(
            Ask,
            count=some.integers(1, 4),
            memory=some.sampled_from([0, 1, GIB // 3, GIB // 2, GIB, 2 * GIB]),
        )
        | some.builds(Ask, count=some.integers(1, 3), fraction=some.floats(1e-9, 1.0))
        | some.builds(Ask, only=some.frozensets(some.integers(0, 5), max_size=3)),
        some.booleans(),
    ),
    max_size=40,
)


@given(some.lists(some.sampled_from([GIB, GIB + 1, 2 * GIB]), min_size=1, max_size=6), steps)
def test_index_answers_as_place_does(sizes, steps):
    gpus = pool(*sizes)
    index = FreeIndex(gpus)
    live = []
    for wanted, ends_one in steps:
        if ends_one and live:
            index.give(live.pop(0))
        placed = place(gpus, index.free, wanted)
        found = index.find(wanted)
        assert (None if isinstance(placed, Refusal) else placed) == found
        if found:
            index.take(found)
            live.append(found)
    for slices in live:
        index.give(slices)
    assert list(index.free.values()) == sizes
