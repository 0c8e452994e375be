"""What the manager shows, of snapshots that are made up here."""

import dataclasses

import pytest

from fdcore.config import Address
from fdcore.lists import written
from fdcore.rpc.client import Activity
from fdcore.rpc.watching import LeaseSeen, LogSeen, Snapshot, WaitSeen, Who
from fdcore.sched.slices import MIB, Gpu, Pool, Slice
from fdcore.web import rows
from fdcore.web.logins import Login
from fdcore.web.model import (
    ALL,
    DEAD,
    DRAINING,
    UP,
    Eyes,
    Hues,
    Station,
    ago,
    lease_rates,
    one_each,
    series,
    sight,
    size,
)  # fmt: skip

GIB = 1024 * MIB
NASTY = "<img src=x onerror=alert(1)>"


def lease(number, user="ann", host="laptop", program="train.py", parts=((0, GIB),),
          used=(0,), busy=(0,), since=100.0):
    slices = tuple(Slice(ordinal, memory) for ordinal, memory in parts)
    return LeaseSeen(bytes([number]) * 16, user, host, 42, program, since, 1, slices, used, busy)


def snapshot(leases=(), *, at=1000.0, hostname="gpu1", queue=(), busy=(0.0, 0.0), figures=None,
             sessions=(), totals=None, draining=False, since=50.0):
    gpus = tuple(Gpu(n, "GPU of tests", f"GPU-{n}", 4 * GIB, f"0000:0{n}:00.0") for n in range(2))
    free = {0: 4 * GIB, 1: 4 * GIB}
    sharing = {0: 0, 1: 0}
    for one in leases:
        for part in one.slices:
            free[part.ordinal] -= part.memory
            sharing[part.ordinal] += 1
    known = figures or {n: {"busy_seconds": busy[n]} for n in range(2)}
    pool = Pool(hostname, "0.1", "13.0", "580", False, len(leases), len(queue), gpus, free,
                sharing, {}, known, draining, since)
    return Snapshot(at, pool, tuple(leases), tuple(queue), totals or {}, tuple(sessions), (), {})


def station(now, before=None, key="gpu1:56001", state=UP, server=b"1", role="viewer", log=()):
    return Station(key, "", state, "", server, role, now, before, log)


def test_slices_lie_side_by_side_and_fill_what_is_granted():
    two = [lease(1, parts=((0, GIB),), used=(512 * MIB,)),
           lease(2, user="bob", parts=((0, 2 * GIB), (1, GIB)), used=(0, 0), busy=(0, 0), since=200.0)]
    (server,) = sight([station(snapshot(two))], ALL, 1000.0).servers
    first, second = server.gpus
    assert [(one.user, one.start, one.part) for one in first.slices] == [
        ("ann", 0.0, 0.25), ("bob", 0.25, 0.5)]
    assert first.slices[0].used == 512 * MIB
    assert [one.user for one in second.slices] == ["bob"]
    assert first.granted == 3 * GIB
    assert first.hidden == 0
    assert server.leases == 2


def test_user_sees_own_programs_and_that_others_have_something():
    two = [lease(1), lease(2, user="bob", parts=((0, 2 * GIB),), since=200.0)]
    wait = WaitSeen(1, "bob", "laptop", 7, "eval.py", 1, GIB, 0.0, 0, 5.0)
    log = (LogSeen(1, 5.0, "info", "bob was here"),)
    made = sight([station(snapshot(two, queue=[wait]), log=log)], Eyes("ann", "laptop", "user"), 1000.0)
    gpu = made.servers[0].gpus[0]
    assert [one.user for one in gpu.slices] == ["ann"]
    assert gpu.hidden == pytest.approx(0.5)
    assert [one.user for one in made.leases] == ["ann"]
    assert made.queue == made.log == ()
    assert [client.user for client in made.clients] == ["ann"]


def test_who_looks_is_somebody_at_each_server_and_nobody_at_others():
    """An admin of one is no admin of another, nor does a name there count here."""
    log = (LogSeen(1, 5.0, "info", "somebody was here"),)
    both = [lease(1), lease(2, user="bob", parts=((1, GIB),))]
    wait = WaitSeen(1, "ann", "laptop", 7, "eval.py", 1, GIB, 0.0, 0, 5.0)
    stations = [
        station(snapshot(both, hostname=name, queue=[wait]), key=name, server=name.encode(), log=log)
        for name in ("own", "theirs", "strange")]
    ann, boss = Eyes("ann", "laptop", "user"), Eyes("ann", "laptop", "admin")
    made = sight(stations, {"own": boss, "theirs": ann}, 1000.0)
    assert sorted((one.server, one.user) for one in made.leases) == [
        ("own", "ann"), ("own", "bob"), ("theirs", "ann")]
    assert [one.server for one in made.queue] == ["own", "theirs"]
    assert [one.server for one in made.log] == ["own"]
    shown = [[len(gpu.slices) for gpu in server.gpus] for server in made.servers]
    assert shown == [[1, 1], [1, 0], [0, 0]]


def test_login_sees_a_server_by_either_of_its_addresses():
    who = Who("ann", "laptop", "user")
    login = Login("", {"gpu1:56001": (None, who, None)}, 0.0)
    now = snapshot([lease(1)])
    stations = [station(now), station(now, key="gpu1.example:56001"),
                station(now, key="gpu2:56001", server=b"2")]
    assert login.eyes(stations) == dict.fromkeys(
        ("gpu1:56001", "gpu1.example:56001"), Eyes("ann", "laptop", "user"))


def test_same_user_name_on_another_machine_is_somebody_else():
    made = sight([station(snapshot([lease(1, host="desktop")]))], Eyes("ann", "laptop", "user"), 1.0)
    assert made.leases == ()


def test_dead_server_has_no_leases_and_counts_as_down():
    alive = station(snapshot([lease(1)], hostname="gpu1"))
    gone = dataclasses.replace(
        station(snapshot([lease(2)], hostname="gpu2"), key="gpu2:56001", server=b"2"),
        state=DEAD, problem="connection refused")
    made = sight([alive, gone], ALL, 1000.0)
    assert (made.overview.up, made.overview.servers, made.overview.gpus) == (1, 2, 2)
    assert len(made.leases) == 1
    dead = made.servers[1]
    assert (dead.state, dead.host, dead.granted, dead.leases) == (DEAD, "gpu2", 0, 0)
    assert dead.gpus[0].slices == ()


def test_server_that_never_answered_is_shown_by_its_address():
    (server,) = sight([Station("gpu9:56001", state=DEAD, problem="no answer")], ALL, 1.0).servers
    assert (server.host, server.state, server.gpus) == ("gpu9:56001", DEAD, ())


def test_one_server_of_two_addresses_is_one_and_the_better_known():
    far = station(snapshot(), key="gpu1:56001", role="user")
    near = station(snapshot(), key="unix:/run/control.sock", role="viewer")
    (kept,) = one_each([far, near])
    assert kept.key == "unix:/run/control.sock"


def test_several_servers_of_one_host_are_told_apart():
    made = one_each([station(snapshot(), key="a:1", server=b"1"), station(snapshot(), key="a:2", server=b"2")])
    assert [one.name for one in made] == ["gpu1 (a:1)", "gpu1 (a:2)"]


def test_gpu_use_is_the_time_of_kernels_between_two_looks():
    before, now = snapshot(at=1000.0, busy=(5.0, 0.0)), snapshot(at=1002.0, busy=(6.0, 9.0))
    gpus = sight([station(now, before)], ALL, 1002.0).servers[0].gpus
    assert [gpu.use for gpu in gpus] == [pytest.approx(0.5), 1.0]
    assert sight([station(now)], ALL, 1002.0).servers[0].gpus[0].use is None


def test_gpu_use_of_a_driver_that_says_it():
    figures = {0: {"use": 42.0, "temperature": 61.0, "power": 250.0, "memory_used": 2.0 * GIB}, 1: {}}
    gpus = sight([station(snapshot(figures=figures))], ALL, 1000.0).servers[0].gpus
    assert (gpus[0].use, gpus[0].temperature, gpus[0].power) == (0.42, 61.0, 250.0)
    assert gpus[0].used == 2 * GIB
    assert gpus[1].use is None


def activity(number, **counters):
    return Activity(Address(), "s", "ann", "laptop", 42, "train.py", "tcp", counters, (), bytes([number]) * 16)


def test_rates_of_a_lease_are_those_of_its_sessions():
    before = snapshot([lease(1, busy=(10**9,))], at=1000.0, sessions=[activity(1, up_bytes=100, waited=5)])
    now = snapshot([lease(1, busy=(2 * 10**9,))], at=1004.0,
                   sessions=[activity(1, up_bytes=300, waited=9), activity(1, up_bytes=200)])
    rate = lease_rates(now, before)[bytes([1]) * 16]
    assert (rate.use, rate.up, rate.waits) == (pytest.approx(0.25), 100.0, 1.0)


def test_session_that_ended_makes_no_rate_negative():
    before = snapshot([lease(1)], at=1000.0, sessions=[activity(1, up_bytes=900)])
    now = snapshot([lease(1)], at=1001.0)
    assert lease_rates(now, before)[bytes([1]) * 16].up == 0.0


def test_clients_are_summed_by_user_and_machine():
    wait = WaitSeen(1, "bob", "desk", 7, "eval.py", 2, 0, 0.5, 0, 5.0)
    leases = [lease(1, parts=((0, GIB),)), lease(2, parts=((1, GIB),), since=80.0)]
    made = sight([station(snapshot(leases, queue=[wait]))], ALL, 1000.0)
    ann, bob = made.clients
    assert (ann.user, ann.leases, ann.gpus, ann.memory, ann.since) == ("ann", 2, 2, 2 * GIB, 80.0)
    assert (bob.user, bob.host, bob.leases, bob.waiting) == ("bob", "desk", 0, 1)
    assert made.queue[0].wants == "2 GPUs, 50% of each"


def test_colours_last_as_long_as_their_leases_and_are_spread():
    hues = Hues()
    many = [lease(n, since=float(n)) for n in range(1, 9)]
    hues.keep([station(snapshot(many))])
    assert sorted(hues.given.values()) == list(range(8))
    left = dict(hues.given)
    del left[bytes([1]) * 16]
    hues.keep([station(snapshot(many[1:]))])
    assert hues.given == left


def test_series_of_a_moment():
    totals = {"leases_granted": 4.0, "queue_seconds": 10.0}
    before = snapshot(at=1000.0, totals=totals)
    now = snapshot([lease(1, parts=((0, 2 * GIB),))], at=1001.0, busy=(0.5, 0.0),
                   totals={"leases_granted": 6.0, "queue_seconds": 16.0})
    made = series([station(now, before)])
    assert made["pool/granted"] == 0.25
    assert made["pool/use"] == pytest.approx(0.25)
    assert made["gpu 0 of gpu1/granted"] == 0.5
    assert made["pool/queue_seconds"] == 3.0
    assert made["server gpu1/waiting"] == 0
    assert series([dataclasses.replace(station(now), state=DEAD)]) == {}


def test_restarted_server_makes_no_series_negative():
    before = snapshot(at=1000.0, totals={"leases_granted": 40.0}, since=50.0)
    now = snapshot(at=1001.0, totals={"leases_granted": 1.0}, since=1000.5)
    assert "pool/queue_seconds" not in series([station(now, before)])


def test_drained_server_says_so():
    made = sight([station(snapshot(draining=True), state=DRAINING)], ALL, 1.0)
    (drawn,) = rows.drawn(made.servers, 1.0, lambda server: True)
    assert (drawn["word"], drawn["tone"], drawn["can"]) == ("draining", "warn", True)


def test_actions_are_offered_where_they_may_be_done():
    (one,) = sight([station(snapshot([lease(1)]))], ALL, 1.0).leases
    assert rows.lease_row(one, lambda server: False)["cannot"]
    assert not rows.lease_row(one, lambda server: server == "gpu1:56001")["cannot"]


@pytest.mark.parametrize("what", sorted(rows.EXPORTS))
def test_every_export_has_its_columns(what):
    wait = WaitSeen(1, "bob", "desk", 7, "eval.py", 2, 0, 0.5, 0, 5.0)
    log = (LogSeen(1, 5.0, "info", "a line"),)
    made = sight([station(snapshot([lease(1)], queue=[wait]), log=log)], ALL, 1.0)
    export = rows.EXPORTS[what]
    found = export.rows(made)
    assert found
    assert all(tuple(row) == export.columns for row in found)
    for form in ("csv", "json"):
        assert written(found, export.columns, form)


def test_spreadsheets_are_given_no_formula():
    made = sight([station(snapshot([lease(1, program="=cmd|' /C calc'!A0")]))], ALL, 1.0)
    (row,) = rows.safe_for_sheets(rows.EXPORTS["leases"].rows(made))
    assert row["program"] == "'=cmd|' /C calc'!A0"


def test_names_are_passed_on_as_they_are_for_who_draws_escapes_them():
    made = sight([station(snapshot([lease(1, program=NASTY)]))], ALL, 1.0)
    assert made.leases[0].program == NASTY


def test_words_for_sizes_and_times():
    assert [size(n) for n in (0, 2048, 512 * MIB, 1536 * MIB, 80 * GIB, 2048 * GIB)] == [
        "0 B", "2 KiB", "512 MiB", "1.5 GiB", "80 GiB", "2 TiB"]
    assert [ago(n) for n in (5, 65, 3700, 90000)] == ["5s", "1m 05s", "1h 01m", "1d 1h"]
