"""What the keeper of leases does: nobody writes a pool whose lease others may take for expired."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from lease_world import GUEST, POOL, STORE, Server, World

from bedplate.agent.faults import AgentFault
from bedplate.agent.lease_files import LeaseFolder, read_handover
from bedplate.agent.lease_keeper import TICK
from bedplate.agent.leases import TAKE_OVER, LeaseRecord, LeaseState, decode
from bedplate.model.agent_protocol import Pool
from bedplate.model.ids import ServerName
from bedplate.model.leases import EXPIRY, GIVE_UP, MARGIN, WATCHDOG

logging.getLogger("bedplate.agent.leases").setLevel(logging.CRITICAL)  # thousands of lines otherwise


@pytest.fixture
def pair(tmp_path: Path) -> tuple[World, Server, Server]:
    """Two servers that hold their leases, the first with a guest."""
    world = World(tmp_path, "hv1", "hv2")
    world.run(10)
    holder, witness = world.servers
    holder.start()
    return world, holder, witness


def refused(server: Server) -> str:
    with pytest.raises(AgentFault) as caught:
        server.start()
    assert caught.value.reason == "LeaseNotHeld"
    return str(caught.value)


def test_in_good_times_both_say_that_both_hold(pair: tuple[World, Server, Server]) -> None:
    world, holder, witness = pair
    world.run(60)
    assert (holder.guest, holder.power, holder.unsure) == (True, True, 0)
    assert (witness.says(holder), holder.says(witness), holder.says(holder)) == (True, True, True)
    assert [v.held for v in witness.told if v.server == holder.name] == [True, True]  # anew once it was guarded
    assert witness.told[-1].guarded


def test_no_guest_starts_before_the_first_renewal(tmp_path: Path) -> None:
    world = World(tmp_path, "hv1")
    server = world.servers[0]
    assert "not renewed yet" in refused(server)
    world.step()
    server.start()
    local = Pool(name="local", path="/pools/local")
    assert server.keeper.permit(local) == 0
    with pytest.raises(AgentFault, match="keeps no lease"):
        server.keeper.permit(Pool(name="other", path="/pools/other", type="shared"))


def test_cut_off_from_the_storage_it_ends_its_guests_before_others_say_so(
    pair: tuple[World, Server, Server],
) -> None:
    world, holder, witness = pair
    world.storage.cut.add(holder.name)
    cut = world.now
    while holder.says(holder) is not False:
        world.step()
    assert not holder.guest
    assert world.now - cut <= GIVE_UP + 2 * TICK
    assert witness.says(holder)
    while witness.says(holder) is not False:
        world.step()
    assert (holder.guest, holder.power) == (False, True)  # the watchdog was fed: its duty is done
    assert EXPIRY - 2.5 <= world.now - cut <= EXPIRY + 2.5
    assert holder.says(witness) is None  # it is the blind one
    assert holder.unsure >= 1
    assert "was lost" in refused(holder)
    assert "was lost" in holder.keeper.error
    world.run(WATCHDOG + MARGIN)
    assert holder.power


def test_back_at_the_storage_it_waits_for_the_controller(pair: tuple[World, Server, Server]) -> None:
    world, holder, witness = pair
    world.storage.cut.add(holder.name)
    world.run(20)
    world.storage.cut.clear()
    world.run(4)
    assert "not spoken with" in refused(holder)
    assert holder.says(holder) is False
    asked = holder.unsure
    assert asked >= 2  # it asks for a new connection
    holder.keeper.spoken()
    world.step()
    holder.start()
    world.run(20)
    assert (holder.says(holder), witness.says(holder), holder.keeper.error) == (True, True, "")


def test_leave_that_was_given_before_a_loss_is_not_used_after_it(pair: tuple[World, Server, Server]) -> None:
    world, holder, _ = pair
    term = holder.keeper.permit(POOL)
    holder.keeper.confirm(POOL, term)
    world.storage.cut.add(holder.name)
    world.run(10)
    world.storage.cut.clear()
    holder.keeper.spoken()
    world.run(5)
    assert holder.keeper.permit(POOL) != term
    with pytest.raises(AgentFault, match="lost meanwhile"):
        holder.keeper.confirm(POOL, term)


def test_guests_that_can_not_be_ended_cost_the_server_its_power(pair: tuple[World, Server, Server]) -> None:
    world, holder, witness = pair
    holder.stubborn = True
    world.storage.cut.add(holder.name)
    while witness.says(holder) is not False:
        world.step()
    assert holder.says(holder) is not False  # it does not say what is not so
    world.run(WATCHDOG + MARGIN)
    assert (holder.power, holder.guest) == (False, False)


def test_a_guest_that_was_just_starting_when_the_lease_was_lost_is_ended_too(
    pair: tuple[World, Server, Server],
) -> None:
    world, holder, _ = pair
    world.storage.cut.add(holder.name)
    world.run(9)
    assert holder.keeper.state("shared") is LeaseState.ENDED
    holder.guest = True
    world.step()
    assert not holder.guest


def test_a_server_that_hangs_is_reset_and_one_that_comes_back_ends_its_guests(
    pair: tuple[World, Server, Server],
) -> None:
    world, holder, witness = pair
    holder.frozen = True
    world.run(12)
    assert witness.says(holder) is False
    assert holder.guest
    holder.frozen = False
    world.step()
    assert not holder.guest  # though the storage answers: others may have seen no renewal
    holder.keeper.spoken()
    world.run(2)
    holder.start()
    holder.frozen = True
    world.run(WATCHDOG + 1)
    assert not holder.power


@pytest.mark.parametrize(("away", "at_once"), [(6.0, True), (11.0, False)])
def test_killed_and_started_again_it_feeds_before_anything_else(
    pair: tuple[World, Server, Server], away: float, at_once: bool
) -> None:
    """Unless it comes so late that others may soon act: then only once it has renewed."""
    world, holder, _ = pair
    world.run(4)
    holder.frozen = True  # no agent runs
    world.run(away)
    before = holder.dog.fed
    holder.replace_agent()
    assert (holder.dog.fed > before) == at_once
    holder.frozen = False
    world.run(20)
    assert (holder.guest, holder.power, holder.keeper.state("shared")) == (True, True, LeaseState.HELD)


def test_a_successor_without_storage_ends_the_guests_in_time(pair: tuple[World, Server, Server]) -> None:
    world, holder, witness = pair
    world.storage.cut.add(holder.name)
    holder.frozen = True
    cut = world.now
    world.run(12.5)
    assert witness.says(holder) is False
    holder.replace_agent()
    holder.frozen = False
    while holder.guest:
        world.step()
    assert world.now - cut <= TAKE_OVER + 1 < WATCHDOG
    world.run(WATCHDOG)
    assert holder.power


def test_an_agent_that_ends_has_its_guests_run_on_unguarded(pair: tuple[World, Server, Server]) -> None:
    world, holder, witness = pair
    world.run(4)
    holder.keeper.close()
    assert (holder.dog.armed, holder.dog.left) == (False, False)
    holder.frozen = True
    world.run(60)
    assert (holder.guest, holder.power) == (True, True)
    said = next(v for v in witness.keeper.views() if v.server == holder.name)
    assert (said.held, said.guarded) == (False, False)  # it proves nothing
    holder.keeper = holder.agent()
    holder.keeper.take_over()
    holder.keeper.serve([POOL])
    holder.frozen = False
    world.run(10)
    assert (holder.guest, holder.dog.armed, witness.says(holder)) == (True, True, True)


def test_an_agent_that_can_not_say_that_it_ends_leaves_the_watchdog_running(
    pair: tuple[World, Server, Server],
) -> None:
    world, holder, _ = pair
    world.storage.cut.add(holder.name)
    holder.keeper.close()
    assert (holder.dog.armed, holder.dog.left) == (True, True)


def test_without_a_watchdog_nothing_is_called_guarded(tmp_path: Path) -> None:
    world = World(tmp_path, "hv1", "hv2")
    holder, witness = world.servers
    holder.dog.works = False
    world.run(10)
    holder.start()
    world.run(10)
    assert witness.says(holder) is True
    assert not any(v.guarded for v in witness.told)


def test_a_pool_that_is_no_longer_served_keeps_its_lease_while_guests_run_on_it(
    pair: tuple[World, Server, Server],
) -> None:
    world, holder, _ = pair
    holder.keeper.serve([])
    world.run(20)
    assert holder.keeper.state("shared") is LeaseState.HELD
    holder.guest = False
    holder.keeper.serve([])
    assert holder.keeper.views() == []


def test_others_guests_are_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path, "hv1")
    server = world.servers[0]
    world.step()
    server.guest = True
    server.keeper._mine = lambda uid: uid != GUEST  # type: ignore[method-assign]
    world.storage.cut.add(server.name)
    world.run(20)
    assert server.guest
    assert server.says(server) is False


Turn = tuple[int, bool, bool, bool, bool, bool]
turns = st.lists(
    st.tuples(st.integers(1, 60), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans()), max_size=8
)


@settings(max_examples=100, deadline=None)
@given(turns, st.booleans())
def test_whatever_happens_nobody_writes_what_others_may_take_over(schedule: list[Turn], stubborn: bool) -> None:
    """Storage cut off from either, a frozen server, a dead agent: `EXPIRED_FOR` seconds after a witness has seen the
    lease expire, without having seen it renewed since, no guest of its holder runs."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), "hv1", "hv2")
        world.run(10)
        holder, witness = world.servers
        holder.start()
        holder.stubborn = stubborn
        expired: float | None = None
        for ticks, cut_holder, cut_witness, frozen, killed, spoken in schedule:
            world.storage.cut = {s.name for s, cut in ((holder, cut_holder), (witness, cut_witness)) if cut}
            if killed and holder.power:
                holder.replace_agent()
            if spoken and holder.power and not frozen:
                holder.keeper.spoken()
            holder.frozen = frozen
            for _ in range(ticks):
                world.step()
                said = witness.says(holder)
                expired = (expired or world.now) if said is False else None
                if expired is not None and world.now - expired >= WATCHDOG + MARGIN:
                    assert not holder.guest
                if holder.keeper.state("shared") is LeaseState.ENDED and holder.says(holder) is False:
                    assert not holder.guest


def test_lease_files_are_written_in_place_and_read_by_others(tmp_path: Path) -> None:
    folder = LeaseFolder(str(tmp_path), STORE)
    hv1, hv2 = ServerName("hv1"), ServerName("hv2")
    assert folder.read(hv1) == b""
    for counter in (1, 2):
        folder.write(LeaseRecord(store=STORE, server=hv1, boot_id="b", counter=counter))
    folder.write(LeaseRecord(store=STORE, server=hv2, boot_id="b", counter=9))
    path = tmp_path / "leases" / STORE / "hv1"
    inode = path.stat().st_ino
    folder.write(LeaseRecord(store=STORE, server=hv1, boot_id="b", counter=3))
    assert path.stat().st_ino == inode
    ((name, content),) = folder.others(hv2)
    found = decode(content)
    assert found is not None
    assert (name, found.counter) == (hv1, 3)


def test_a_pool_that_is_not_mounted_gets_no_lease(tmp_path: Path) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - whatever the file system says
        LeaseFolder(str(tmp_path / "absent"), STORE).write(
            LeaseRecord(store=STORE, server=ServerName("hv1"), boot_id="b", counter=1)
        )
    assert not (tmp_path / "absent").exists()


def test_what_an_agent_left_in_another_boot_counts_for_nothing(
    pair: tuple[World, Server, Server], tmp_path: Path
) -> None:
    world, _, _ = pair
    world.run(4)
    assert read_handover(tmp_path / "hv1.json", "boot-of-hv1").watchdog
    assert read_handover(tmp_path / "hv1.json", "another").pools == ()
