"""What strangers may cost."""

import logging

from hypothesis import given
from hypothesis import strategies as st

from fdcore.security.limits import Rate, Seldom, Waiting


def test_newcomer_takes_the_place_of_the_oldest_of_its_source():
    waiting, ended = Waiting(10, 2), []
    for number in range(4):
        waiting.enter("a", lambda number=number: ended.append(number))
    assert ended == [0, 1]
    assert waiting.count == 2


def test_full_house_ends_one_of_the_largest_crowd():
    waiting, ended = Waiting(4, 3), []
    for name in "aaab":
        waiting.enter(name, lambda name=name: ended.append(name))
    waiting.enter("c", lambda: ended.append("c"))
    assert ended == ["a"]


def test_who_has_left_is_not_ended():
    waiting, ended = Waiting(10, 1), []
    first, _ = waiting.enter("a", lambda: ended.append(1))
    waiting.leave(first)
    waiting.leave(first)
    waiting.enter("a", lambda: ended.append(2))
    assert ended == []
    assert waiting.count == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))))
def test_never_more_than_there_may_be(steps):
    waiting, inside = Waiting(6, 3), []
    for comes, number in steps:
        if comes:
            box = []
            stranger, _ = waiting.enter(number, lambda box=box: inside.remove(box[0]))
            box.append(stranger)
            inside.append(stranger)
        elif inside:
            waiting.leave(inside.pop(number % len(inside)))
        assert waiting.count == len(inside) <= 6
        for source in range(6):
            assert sum(one.source == source for one in inside) <= 3


def test_rate_gives_a_burst_then_so_many_a_second():
    now = [0.0]
    rate = Rate(10, 20, lambda: now[0])
    assert [rate.take("a") for _ in range(21)] == [True] * 20 + [False]
    assert rate.take("b")
    now[0] += 0.5
    assert [rate.take("a") for _ in range(6)] == [True] * 5 + [False]


def test_rate_forgets_sources():
    now = [0.0]
    rate = Rate(10, 20, lambda: now[0])
    for source in range(20000):
        rate.take(source)
    assert len(rate.left) <= 4097


def test_many_causes_are_a_few_lines_and_a_number(caplog):
    now = [0.0]
    seldom = Seldom(logging.getLogger("x"), 60, lambda: now[0], most=5)
    with caplog.at_level(logging.WARNING):
        for number in range(5000):
            seldom.warn(("late", number), f"{number} says nothing")
        assert len(caplog.records) == 6
        now[0] = 61.0
        seldom.warn("another", "nonsense came")
    assert [record.getMessage() for record in caplog.records][4:] == [
        "4 says nothing",
        "more than that is left out for 60 s",
        "4995 more warnings were left out",
        "nonsense came",
    ]


def test_cause_is_logged_once_then_counted(caplog):
    now = [0.0]
    seldom = Seldom(logging.getLogger("x"), 60, lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            seldom.warn("a", "nonsense came")
        seldom.warn("b", "other nonsense")
        now[0] = 61.0
        seldom.warn("a", "nonsense came")
    assert [record.getMessage() for record in caplog.records] == [
        "nonsense came",
        "other nonsense",
        "nonsense came (and 999 times since it was last said)",
    ]
