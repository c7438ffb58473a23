"""Leases by the clock alone: how one's own goes on, and what a witness may say of others'."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from bedplate.agent.leases import (
    FIRST_TRY,
    RECORD_BYTES,
    TAKE_OVER,
    Lease,
    LeaseRecord,
    LeaseState,
    Witness,
    decode,
    encode,
)
from bedplate.model import leases as times
from bedplate.model.ids import ServerName, StoreId

HV2 = ServerName("hv2")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(counter: int, *, boot: str = "b1", guarded: bool = True) -> bytes:
    return encode(LeaseRecord(store=StoreId("s"), server=HV2, boot_id=boot, counter=counter, guarded=guarded))


def test_the_times_leave_room_for_each_other() -> None:
    assert 3 * times.RENEW < times.GIVE_UP < times.EXPIRY
    assert times.EXPIRY < TAKE_OVER + 1 < times.WATCHDOG
    assert times.WATCHDOG > 3 * times.RENEW


def test_a_record_is_one_sector_and_what_is_torn_is_none() -> None:
    written = record(7)
    assert len(written) == RECORD_BYTES
    assert (found := decode(written)) is not None
    assert found.counter == 7
    assert decode(written[:40]) is None
    assert decode(b"") is None
    with pytest.raises(ValueError, match="shorten"):
        encode(LeaseRecord(store=StoreId("s"), server=ServerName("x" * 500), boot_id="", counter=1))


def test_a_lease_is_held_only_while_it_is_renewed() -> None:
    clock = Clock()
    lease = Lease(clock)
    assert (lease.state, lease.held_for()) == (LeaseState.NEW, 0.0)
    lease.renewed(clock.now)
    assert (lease.state, lease.held_for()) == (LeaseState.HELD, times.GIVE_UP)
    clock.now += times.GIVE_UP - 0.01
    assert lease.held_for() == pytest.approx(0.01)
    clock.now += 0.01
    assert (lease.state, lease.held_for(), lease.term) == (LeaseState.LOST, 0.0, 1)


def test_what_is_lost_is_had_again_only_after_guests_storage_and_controller() -> None:
    clock = Clock()
    lease = Lease(clock)
    lease.renewed(clock.now)
    lease.spoken()  # before the loss: it counts for nothing afterwards
    clock.now += times.GIVE_UP
    lease.renewed(clock.now)
    assert lease.state is LeaseState.LOST  # the storage is back, but the guests still run
    lease.guests_gone()
    assert lease.state is LeaseState.ENDED
    lease.renewed(clock.now)
    assert lease.state is LeaseState.RENEWED
    lease.guests_found()  # one that was just starting
    assert lease.state is LeaseState.LOST
    lease.guests_gone()
    lease.renewed(clock.now)
    lease.spoken()
    assert (lease.state, lease.held_for()) == (LeaseState.HELD, times.GIVE_UP)


def test_a_success_that_comes_too_late_is_a_loss() -> None:
    clock = Clock()
    lease = Lease(clock)
    lease.renewed(clock.now)
    clock.now += 60  # the server stood still, with its guests
    lease.renewed(clock.now)
    assert (lease.state, lease.term) == (LeaseState.LOST, 1)


def test_what_was_spoken_before_a_standstill_does_not_count() -> None:
    clock = Clock()
    lease = Lease(clock)
    clock.now += times.GIVE_UP
    assert lease.state is LeaseState.LOST
    lease.guests_gone()
    lease.spoken()
    clock.now += 60  # stands still
    lease.renewed(clock.now)
    assert lease.state is LeaseState.RENEWED


def test_the_successor_of_a_killed_agent_has_until_others_may_act() -> None:
    clock = Clock()
    for late, left in ((8.0, TAKE_OVER - 8), (14.0, FIRST_TRY)):
        lease = Lease(clock, renewed_before=clock.now - late)
        assert (lease.state, lease.in_order()) == (LeaseState.NEW, late < times.EXPIRY)
        clock.now += left
        assert (lease.state, lease.in_order()) == (LeaseState.LOST, False)


def look(witness: Witness, clock: Clock, content: bytes, own_age: float = 0.0) -> list[bool]:
    clock.now += times.RENEW
    return [s.held for s in witness.look([(HV2, content)], own_age)]


def test_a_witness_tells_changes_and_first_learns() -> None:
    clock = Clock()
    witness = Witness(clock)
    assert look(witness, clock, record(1)) == []  # it may be of long ago
    assert look(witness, clock, record(2)) == [True]
    assert look(witness, clock, record(3)) == []
    told = [look(witness, clock, record(3)) for _ in range(8)]
    assert told == [[], [], [], [], [False], [], [], []]
    assert look(witness, clock, record(4)) == [True]


def test_a_lease_that_never_moves_is_expired_after_its_time() -> None:
    clock = Clock()
    witness = Witness(clock)
    told = [look(witness, clock, record(1)) for _ in range(7)]
    assert told.index([False]) * times.RENEW >= times.EXPIRY


def test_a_holder_that_says_that_its_watchdog_ends_is_told_anew() -> None:
    clock = Clock()
    witness = Witness(clock)
    look(witness, clock, record(1))
    look(witness, clock, record(2))
    clock.now += times.RENEW
    (seen,) = witness.look([(HV2, record(3, guarded=False))], 0.0)
    assert (seen.held, seen.guarded) == (True, False)


def test_a_blind_witness_counts_no_time() -> None:
    clock = Clock()
    witness = Witness(clock)
    look(witness, clock, record(1))
    look(witness, clock, record(2))
    for _ in range(20):
        assert look(witness, clock, record(2), own_age=5.0) == []
    told = [look(witness, clock, record(2)) for _ in range(5)]
    assert told == [[], [], [], [], [False]]


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 12.0), st.floats(0.0, 8.0)), max_size=60))
def test_nobody_is_called_expired_who_was_seen_to_renew_within_the_time(
    looks: list[tuple[bool, float, float]],
) -> None:
    clock = Clock()
    witness = Witness(clock)
    counter, changed = 1, clock.now
    for renews, pause, own_age in looks:
        clock.now += pause
        if renews:
            counter, changed = counter + 1, clock.now
        for seen in witness.look([(HV2, record(counter))], own_age):
            assert seen.held or clock.now - changed >= times.EXPIRY
            assert seen.held or own_age <= 2 * times.RENEW
