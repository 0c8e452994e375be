"""The history's file: what is kept, how coarse, and that it does not grow."""

import sqlite3
from itertools import pairwise

import pytest

from fdcore.errors import ConfigError
from fdcore.web.charts import Chart, Line, charts, drawing, with_gaps
from fdcore.web.history import LEVELS, MOST_SERIES, History, Point

NOON = 1_800_000_000.0


@pytest.fixture
def history(tmp_path):
    made = History(tmp_path / "history.db")
    yield made
    made.close()


def rows(history):
    return sqlite3.connect(history.path).execute("SELECT count(*) FROM buckets").fetchone()[0]


def test_samples_of_one_bucket_become_mean_and_greatest(history):
    for value in (1.0, 2.0, 6.0):
        history.add(NOON, {"pool/use": value})
    assert history.read("pool/use", NOON - 900, NOON, 1500) == [Point(NOON, 3.0, 6.0)]


def test_older_times_are_read_coarser(history):
    for second in range(0, 7200, 5):
        history.add(NOON + second, {"pool/use": second / 7200})
    end = NOON + 7200
    fine = history.read("pool/use", end - 900, end, 1500)
    coarse = history.read("pool/use", NOON, end, 300)
    assert {b.time - a.time for a, b in pairwise(fine)} == {5.0}
    assert {b.time - a.time for a, b in pairwise(coarse)} == {60.0}
    assert coarse[60].mean == pytest.approx((3600 + 27.5) / 7200)


def test_file_does_not_grow_for_ever(history):
    step, count = LEVELS[0]
    for number in range(count * 2):
        history.add(NOON + number * step, {"pool/use": 0.5})
    fine = count + 61  # it is cleared now and then
    others = sum(2 * count * step // wide + 2 for wide, _ in LEVELS[1:])
    assert rows(history) <= fine + others
    assert len(history.read("pool/use", 0, NOON * 2, 10**9)) <= 2 * count


def test_number_of_series_is_bounded(history):
    history.add(NOON, {f"gpu {n}/use": 0.5 for n in range(MOST_SERIES + 50)})
    assert len(history.names()) == MOST_SERIES


def test_series_that_is_long_gone_is_forgotten(history):
    history.add(NOON, {"server old/use": 0.5})
    longest = max(step * count for step, count in LEVELS)
    for number in range(62):
        history.add(NOON + longest + 10 + number, {"pool/use": 0.5})
    assert history.names() == ["pool/use"]


def test_history_is_there_again_after_a_restart(history):
    history.add(NOON, {"pool/use": 0.25})
    history.close()
    again = History(history.path)
    again.add(NOON + 1, {"pool/use": 0.75})
    assert again.read("pool/use", NOON - 900, NOON + 1, 1500) == [Point(NOON, 0.5, 0.75)]
    again.close()


def test_series_of_a_sample_that_was_not_written_is_begun_again(history):
    history.database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON buckets BEGIN SELECT RAISE(ABORT, 'full'); END")
    history.add(NOON, {"pool/use": 0.25})
    assert history.names() == []
    history.database.execute("DROP TRIGGER full")
    history.add(NOON, {"pool/use": 0.75})
    assert history.names() == ["pool/use"]
    history.close()
    again = History(history.path)
    assert again.read("pool/use", NOON - 900, NOON, 1500) == [Point(NOON, 0.75, 0.75)]
    again.close()


def test_file_that_cannot_be_read_any_more_is_an_empty_one(history, caplog):
    history.add(NOON, {"pool/use": 0.25})
    history.database.execute("DROP TABLE buckets")
    assert history.read("pool/use", NOON - 900, NOON, 1500) == []
    assert "no such table" in caplog.text


def test_file_that_is_none_is_refused_by_its_name(tmp_path):
    path = tmp_path / "history.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match=r"history\.db.*move it away"):
        History(path)


def test_only_its_owner_reads_it(history):
    assert history.path.stat().st_mode & 0o777 == 0o600


def test_gap_is_a_gap():
    points = [Point(float(t), 1.0, 1.0) for t in (0, 5, 10, 60, 65)]
    assert with_gaps(points, 100)[2:5] == [[10000.0, 100.0], [15000.0, None], [60000.0, 100.0]]


def test_chart_of_nothing_is_not_drawn(history):
    chart = Chart("GPU use", "%", (Line("pool/use", "busy", 100),), 100)
    assert not drawing(chart, history, NOON - 900, NOON)[1]
    history.add(NOON, {"pool/use": 0.5})
    options, seen = drawing(chart, history, NOON - 900, NOON + 1)
    assert seen
    assert options["series"][0]["data"] == [[NOON * 1000, 50.0]]


def test_every_chart_is_of_series_that_are_recorded():
    from tests.fdcore.web.test_model import GIB, lease, series, snapshot, station

    totals = {"leases_granted": 1.0, "queue_seconds": 1.0}
    now = snapshot([lease(1, parts=((0, GIB),))], at=1001.0, totals=totals)
    recorded = series([station(now, snapshot(at=1000.0))])
    for where in ("pool", "server gpu1", "gpu 0 of gpu1"):
        drawn = {line.series for chart in charts(where) for line in chart.lines}
        assert drawn <= set(recorded)
