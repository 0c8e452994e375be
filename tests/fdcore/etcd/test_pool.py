"""Servers of a pool and what they count together: etcd/pool.py against a real etcd."""

import asyncio
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdcore.errors import RefusedError
from fdcore.etcd import gateway
from fdcore.etcd.gateway import EtcdError, Gateway, get_below
from fdcore.etcd.pool import EtcdPool, peers
from fdcore.etcd.scribe import Scribe
from fdcore.lease import LeaseBook, Owner
from fdcore.line import Line
from fdcore.peers import Peer
from fdcore.sched.queue import Quota
from fdcore.sched.slices import MIB, Ask, Gpu
from tests.etcd import TTL

SECONDS = 60
GPUS = tuple(Gpu(n, "gpu", f"GPU-{n}", 1024 * MIB) for n in range(4))
numbers = iter(range(1 << 30))


class Station:
    """What of an fdserver grants leases, with nothing around it."""

    def __init__(self, access, name, gpus=GPUS):
        self.book = LeaseBook(gpus)
        self.pool = EtcdPool(access, name, {}, lambda: self.line.serve())
        self.line = Line(self.book, self.leave, self.pool)
        try:
            self.pool.scribe.first()
        except EtcdError as error:
            self.pool.scribe.lost(str(error))
        self.pool.scribe.start()
        self.pool.settle()

    def leave(self, lease, asker):
        if self.book.leave(lease, asker):
            self.pool.give(lease)
            self.line.serve()

    async def ask(self, user, wait=0.0, **ask):
        asker = object()
        lease = await self.line.lease(Ask(**ask), Owner(user, ""), asker, wait, 0)
        return lambda: self.leave(lease, asker)

    def end(self, leave=True):
        self.pool.scribe.close(5, leave)
        self.pool.close()


@pytest.fixture
def access(etcd):
    """Keys that no other test has, for longer than a busy machine may be away."""
    return replace(etcd.access, prefix=f"pool-{next(numbers)}", ttl=30.0)


async def until(true):
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def usages(access):
    asked = Gateway(access)
    (found,) = asked.read(get_below(f"{access.prefix}/usage/"))
    asked.close()
    return found


# ---- quotas ----


@pytest.mark.parametrize(("stations", "most"), [(2, 1), (4, 3)])
def test_askers_at_many_servers_at_once_get_the_quota_and_no_more(access, stations, most):
    async def work():
        several = [Station(access, f"s{n}") for n in range(stations)]
        await several[0].pool.set_quota("ann", Quota(gpus=most))
        asks = [each.ask("ann", memory=MIB) for each in several for _ in range(3)]
        random.shuffle(asks)
        granted = [each for each in await asyncio.gather(*asks, return_exceptions=True) if callable(each)]
        assert len(granted) == most
        assert len(usages(access)) == most
        for release in granted:
            release()
        for each in several:
            assert each.pool.scribe.flush(SECONDS)
            each.end()
        assert usages(access) == {}

    asyncio.run(work())


actions = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("ab/"), st.integers(1, 3), st.sampled_from([64, 300])),
    min_size=1, max_size=12,
)  # fmt: skip


@given(rounds=st.lists(actions, min_size=1, max_size=3), gpus=st.integers(0, 3), memory=st.sampled_from([0, 400, 1000]))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_user_ever_has_more_than_the_quota(etcd, rounds, gpus, memory):
    access = replace(etcd.access, prefix=f"pool-{next(numbers)}", ttl=30.0)
    quota = Quota(gpus, memory * MIB)

    def within(held):
        for user in "ab/":
            mine = [size for owner, size in held if owner == user]
            assert not gpus or sum(n for n, _ in mine) <= gpus
            assert not memory or sum(n * mib for n, mib in mine) <= memory

    async def one(station, user, count, mib):
        try:
            release = await station.ask(user, count=count, memory=mib * MIB)
            return user, (count, mib), release
        except RefusedError:
            return None

    async def work():
        several = [Station(access, f"s{n}") for n in range(3)]
        await several[0].pool.set_quota("*", quota)
        held = []
        for asked in rounds:
            answers = await asyncio.gather(*(one(several[n], *rest) for n, *rest in asked))
            granted = [each for each in answers if each]
            held += granted
            within([each[:2] for each in held])
            assert len(usages(access)) == len(held)
            random.shuffle(held)
            while len(held) > 1:
                held.pop()[2]()
            for each in several:
                assert each.pool.scribe.flush(SECONDS)
            assert len(usages(access)) == len(held)
        for each in several:
            each.end()

    asyncio.run(work())


def test_waiter_gets_what_is_given_back_at_another_server(access):
    async def work():
        one, two = Station(access, "one"), Station(access, "two")
        await one.pool.set_quota("ann", Quota(gpus=1))
        release = await one.ask("ann")
        with pytest.raises(RefusedError, match="ann may have 1 GPUs at once and has 1"):
            await two.ask("ann")
        waiting = asyncio.ensure_future(two.ask("ann", wait=SECONDS))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        release()
        (await waiting)()
        one.end()
        two.end()

    asyncio.run(work())


def test_quota_is_known_to_all_servers_and_changes_at_once_where_it_is_counted(access):
    async def work():
        one, two = Station(access, "one"), Station(access, "two")
        await one.pool.set_quota("ann", Quota(gpus=1, priority=3))
        with pytest.raises(RefusedError, match="may have 1 GPUs"):
            await two.ask("ann", count=2)
        await until(lambda: two.pool.quotas.get("ann") == Quota(gpus=1, priority=3))
        await two.pool.set_quota("ann", None)
        (await two.ask("ann", count=2))()
        await until(lambda: not one.pool.quotas)
        one.end()
        two.end()

    asyncio.run(work())


def test_asker_that_has_gone_meanwhile_leaves_nothing(access):
    async def work():
        one = Station(access, "one")
        asking = asyncio.ensure_future(one.ask("ann"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: len(one.book.leases) == 0)
        assert one.pool.scribe.flush(SECONDS)
        assert usages(access) == {}
        one.end()

    asyncio.run(work())


def test_what_an_earlier_life_has_counted_stays_until_it_is_found_again(access):
    async def work():
        two = Station(access, "two")
        await two.pool.set_quota("ann", Quota(gpus=1))
        before = Station(access, "one")
        await before.ask("ann")
        before.end(leave=False)  # killed
        again = EtcdPool(access, "one", {}, lambda: None)
        again.scribe.first()
        again.scribe.start()
        assert again.scribe.flush(SECONDS)
        with pytest.raises(RefusedError, match="and has 1"):
            await two.ask("ann")
        for lease in before.book.leases.values():
            again.note(lease)
        again.settle()
        assert again.scribe.flush(SECONDS)
        ((_, row),) = usages(access).items()
        assert row.lease == again.scribe.alive.id
        again.give(lease)
        assert again.scribe.flush(SECONDS)
        assert usages(access) == {}
        again.scribe.close(5)
        again.close()
        two.end()

    asyncio.run(work())


def test_guard_goes_with_the_week_of_who_wrote_it_last(access):
    async def work():
        one = Station(access, "one")
        (await one.ask("whoever"))()
        asked = Gateway(access)
        ((_, guard),) = asked.read(get_below(f"{access.prefix}/guard/"))[0].items()
        assert guard.lease == one.pool.scribe.kept.id != 0
        one.end()  # says good-bye, and what others have read still counts
        assert asked.read(get_below(f"{access.prefix}/guard/")) != [{}]
        asked.revoke(guard.lease)
        assert asked.read(get_below(f"{access.prefix}/guard/")) == [{}]
        two = Station(access, "two")
        (await two.ask("whoever"))()
        two.end()
        asked.close()

    asyncio.run(work())


# ---- members ----


def test_members_are_known_while_they_live(access):
    async def work():
        one, two = Station(access, "one"), Station(access, "two")
        here, there = Peer(b"1", "gpu1:56001", "m"), Peer(b"2", "gpu2:56001", "m")
        one.pool.announce(here, {"gpus": []})
        two.pool.announce(there, {"gpus": []})
        await until(lambda: set(one.pool.peers()) == {here, there} == set(two.pool.peers()))
        assert set(peers(access)) == {here, there}
        two.end()  # says good-bye
        assert set(peers(access)) == {here}
        await until(lambda: set(one.pool.peers()) == {here})
        one.end()

    asyncio.run(work())


def test_dead_member_and_its_leases_go_with_the_time_of_its_lease(access):
    async def work():
        one, two = Station(access, "one"), Station(replace(access, ttl=TTL), "two")
        await one.pool.set_quota("ann", Quota(gpus=1))
        two.pool.announce(Peer(b"2", "gpu2:56001", "m"), {})
        await two.ask("ann")
        assert two.pool.scribe.flush(SECONDS)
        two.end(leave=False)
        (await one.ask("ann", wait=SECONDS))()
        assert peers(access) == ()
        one.end()

    asyncio.run(work())


def test_rows_that_make_no_sense_are_nobodys(access):
    async def work():
        one = Station(access, "one")
        broken = Gateway(access)
        for key in ("member/x", "quota/ann", "quota/bob", "usage/ann/1", "usage/ann/2"):
            value = '{"gpus": "many"}' if key[-1] in "b2" else "nonsense"
            broken.transact([gateway.put(f"{access.prefix}/{key}", value)])
        broken.close()
        (await one.ask("ann", wait=1))()
        await until(lambda: "ann" in one.pool.elsewhere())
        assert one.pool.peers() == ()
        one.end()

    asyncio.run(work())


# ---- etcd that is lost ----


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_etcd_holds_up_only_who_has_a_quota(own_etcd, number):
    access = replace(own_etcd.access, ttl=30.0)

    async def work():
        one = Station(access, "one")
        await one.pool.set_quota("ann", Quota(gpus=2))
        first = await one.ask("ann")
        assert one.pool.scribe.flush(SECONDS)
        own_etcd.signal(number)
        with pytest.raises(RefusedError, match="ann has a quota of the pool, and nobody can count now"):
            while True:  # until it is noticed
                (await one.ask("ann"))()
        bob = await one.ask("bob")
        with pytest.raises(RefusedError, match="the quota was not written"):
            await one.pool.set_quota("ann", None)
        first()
        waiting = asyncio.ensure_future(one.ask("ann", wait=10 * SECONDS))
        await asyncio.sleep(1)
        assert not waiting.done()
        if number == signal.SIGSTOP:
            own_etcd.signal(signal.SIGCONT)
        else:
            own_etcd.kill()
            own_etcd.start()
        second = await waiting
        await until(lambda: one.pool.scribe.flush(1))
        assert sorted(key.split("/")[2] for key in usages(access)) == ["ann", "bob"]
        bob()
        second()
        await until(lambda: one.pool.scribe.flush(1))
        assert usages(access) == {}
        one.end()

    asyncio.run(work())


def test_etcd_that_is_back_at_once_has_not_counted_what_it_did_not_answer(access, monkeypatch):
    async def work():
        one = Station(access, "one")
        await one.pool.set_quota("ann", Quota(gpus=2))
        doubt = one.pool.scribe.doubt

        def fails(*asked):
            raise EtcdError("hung up")

        def doubted_and_back(trouble=""):
            doubt(trouble)
            assert one.pool.scribe.flush(SECONDS)

        with monkeypatch.context() as patch:
            patch.setattr(one.pool, "transact", fails)
            patch.setattr(one.pool.scribe, "doubt", doubted_and_back)
            with pytest.raises(RefusedError, match="nobody can count now: hung up"):
                await one.ask("ann")
        assert usages(access) == {}
        (await one.ask("ann"))()
        one.end()

    asyncio.run(work())


def test_turn_that_is_doubted_meanwhile_ends_no_trouble(access):
    one = Scribe(access, f"{access.prefix}/server/me/", [f"{access.prefix}/member/"])
    one.first()
    one.put(f"{access.prefix}/server/me/x", "1")
    one.write = lambda: one.doubt("hung up")
    one.turn()
    assert one.trouble == "hung up"
    del one.write
    one.turn()
    assert one.trouble == ""
    one.close(5)


def test_etcd_that_has_lost_everything_is_told_again(own_etcd):
    access = own_etcd.access

    async def work():
        one = Station(access, "one")
        me = Peer(b"1", "gpu1:56001", "m")
        one.pool.announce(me, {})
        release = await one.ask("ann")
        own_etcd.kill()
        shutil.rmtree(own_etcd.folder / "data")
        own_etcd.start()
        await until(lambda: one.pool.scribe.flush(1) and peers(access) == (me,))
        assert len(usages(access)) == 1
        release()
        one.end()

    asyncio.run(work())
