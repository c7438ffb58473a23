"""Deliberate bugs, each in one decision of production or in one duty of an agent, and the scenario that catches it.

A mutation that survives fails: then nothing that is told in the scenarios would notice that bug. Where the checks on
blueprints would refuse what a mutation plans, they are left out, so that it is the world's own truths that bite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest

from bedplate.engine import diff, messages
from bedplate.engine.engine import Engine
from bedplate.model import leases as times
from bedplate.model.blueprint import MetalEntry
from bedplate.model.ids import key
from bedplate.model.metal import Erased
from bedplate.model.steps import Ticket
from bedplate.planner import (
    bare_server,
    fleet,
    leaving,
    metal,
    metal_rescue,
    moves,
    placement,
    recover,
    relocation,
    rescue,
    servers,
)
from bedplate.planner.context import Planning
from bedplate.planner.index import Index
from bedplate.sim import leases, power, simulator
from bedplate.sim.scenario.folder import load
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.scenario.play import Play

SCENARIOS = Path(__file__).parents[1] / "scenarios"
Patch = pytest.MonkeyPatch


# --- detection and fencing ----------------------------------------------------------------------------------------


def fencing_is_not_confirmed(patch: Patch) -> None:
    """A server that is not heard of counts as off."""
    patch.setattr(servers, "_power", lambda p, entry: ("off", ""))
    patch.setattr(servers, "_lease", lambda p, name: ("expired", p.now))


def a_held_lease_is_ignored(patch: Patch) -> None:
    """A lease that is renewed counts as expired."""
    patch.setattr(servers, "_lease", lambda p, name: ("expired", p.now))


def the_watchdogs_time_is_forgotten(patch: Patch) -> None:
    """An expired lease alone confirms an end."""
    patch.setattr(servers, "leases", SimpleNamespace(WATCHDOG=0.0, MARGIN=0.0, EXPIRY=times.EXPIRY))


def one_channel_is_enough(patch: Patch) -> None:
    """An agent that is not heard of is enough for a fence."""
    patch.setattr(servers, "_why_fence", lambda p, entry, e: entry.bmc is not None)


def many_are_fenced_at_once(patch: Patch) -> None:
    """Nobody asks whether the observer is the one that fails (rule 6)."""
    patch.setattr(servers, "_stopped", lambda p, entry, declared: None)


def pods_are_freed_before_death_is_confirmed(patch: Patch) -> None:
    """Being suspect is enough to mark nodes out of service."""
    patch.setattr(Planning, "ended", lambda self, m: self.lost(m.server) is not None)
    patch.setattr(diff, "_ended_with_server", lambda world, m: world.blueprint.server(m.server) is not None)


def an_expired_lease_ends_local_guests_too(patch: Patch) -> None:
    """Guests on local disks count as dead with the lease on a shared pool."""
    patch.setattr(Planning, "ended", lambda self, m: self.dead(m.server))
    patch.setattr(diff, "_ended_with_server", lambda world, m: world.blueprint.server(m.server) is not None)


# --- agents' duties -----------------------------------------------------------------------------------------------


def an_agent_keeps_its_guests(patch: Patch) -> None:
    """An agent that can't renew its lease does not end the pool's guests."""
    patch.setattr(leases, "_end_guests", lambda world, server, pool: None)
    patch.setattr(leases, "_dutiful", lambda server: server.agent and not server.frozen)


def a_watchdog_does_not_bite(patch: Patch) -> None:
    """A watchdog that is not fed does not cut the power."""

    def never(world: Any, server: Any, watch: int) -> Any:
        yield from ()

    patch.setattr(leases, "_watchdog", never)


def guests_start_with_their_server(patch: Patch) -> None:
    """A server that is switched on starts what ran on it, as libvirt's autostart would."""
    booted = power._boot  # pyright: ignore[reportPrivateUsage]

    def boot(world: Any, server: Any, boots: int) -> Any:
        yield from booted(world, server, boots)
        for domain in list(server.domains.values()):
            if server.booted and domain.state == "shutoff":
                world.set_state(server, domain, "running")

    patch.setattr(power, "_boot", boot)


# --- recovery -----------------------------------------------------------------------------------------------------


def recovery_has_no_bounds(patch: Patch) -> None:
    """All of a dead server's machines start at once."""

    class Never(Counter[str]):
        def total(self) -> int:
            return 0

        def items(self) -> Any:
            return ()

    patch.setattr(rescue, "_starting", lambda p: Never())


def a_boot_number_is_used_again(patch: Patch) -> None:
    """A machine that starts elsewhere keeps the number of its last start."""
    put = Planning.put

    def with_the_old_number(self: Planning, entry: Any, sentence: str) -> Any:
        before = self.index.entries.get(entry.key)
        if "is started on" in sentence and before is not None:
            entry = msgspec.structs.replace(entry, boot=before.boot)  # type: ignore[union-attr]
        return put(self, entry, sentence)

    patch.setattr(Planning, "put", with_the_old_number)


def the_generation_is_not_raised(patch: Patch) -> None:
    """An entry that changes keeps its generation."""
    put = Planning.put

    def as_before(self: Planning, entry: Any, sentence: str) -> Any:
        before = self.index.entries.get(entry.key)
        entry = put(self, entry, sentence)
        if before is not None:
            entry = msgspec.structs.replace(entry, generation=before.generation)
            self.index.put(entry)
        return entry

    patch.setattr(Planning, "put", as_before)


def strays_are_not_forgotten(patch: Patch) -> None:
    """What a server still knows of a machine that left it stays."""
    patch.setattr(diff, "_forget_strays", lambda world, m: None)


def control_planes_share_a_server(patch: Patch) -> None:
    """Recovery packs a cluster's control planes onto one server."""
    request = relocation.request

    def anywhere(p: Planning, m: Any, *more: Any) -> Any:
        r = request(p, m, *more)
        return msgspec.structs.replace(r, server_limit=None, on_servers=Counter())

    def packed(p: Planning, m: Any, *more: Any, **named: Any) -> Any:
        others = [o for o in p.index.by_cluster[m.cluster].values() if o.owner == m.owner and o.uid != m.uid]
        for o in others:
            if p.usable(o.server) and m.role == "control-plane":
                return relocation.Place(o.server, m.disk_pool)
        return find(p, m, *more, **named)

    find = relocation.find
    patch.setattr(relocation, "request", anywhere)
    patch.setattr(relocation, "find", packed)


def a_target_that_died_is_all_there_is(patch: Patch) -> None:
    """A machine is taken from a dead target of its move though it runs on at its source."""
    patch.setattr(rescue, "recoverable", lambda p, m: m.desired == "run" and p.dead(m.server))


# --- machines' health, quorum and copies --------------------------------------------------------------------------


def quorum_is_not_asked_for(patch: Patch) -> None:
    """Control planes are started anew whatever is left of etcd."""
    patch.setattr(recover, "quorum", lambda members: 0)


def the_last_copy_is_replaced(patch: Patch) -> None:
    """A control plane of one is replaced like any other machine."""
    patch.setattr(recover, "last_copy", lambda s, m: None)


def all_that_are_silent_are_started_anew(patch: Patch) -> None:
    """Any share of a cluster may be acted on unconfirmed (rule 6)."""
    patch.setattr(recover, "MANY", 2.0)


def any_cpu_will_do(patch: Patch) -> None:
    """A guest moves live to a server with another CPU."""
    patch.setattr(placement, "holds", lambda s, model, like: True)


def a_retained_disk_is_deleted(patch: Patch) -> None:
    """A replaced machine's disk goes with it."""

    def leave(p: Planning, m: Any, sentence: str, *, retain_disk: bool = False, drain: bool = True) -> Any:
        return kept(p, m, sentence, drain=drain)

    kept = leaving.leave
    patch.setattr(recover, "leave", leave)


# --- maintenance and moves ----------------------------------------------------------------------------------------


def a_drain_has_no_bound(patch: Patch) -> None:
    """A drain may last for a month."""
    put = Planning.put

    def patient(self: Planning, entry: Any, sentence: str) -> Any:
        if hasattr(entry, "drain_timeout"):
            entry = msgspec.structs.replace(entry, drain_timeout=30 * 86_400.0)
        return put(self, entry, sentence)

    patch.setattr(Planning, "put", patient)


def the_source_of_a_move_counts_as_free(patch: Patch) -> None:
    """A machine that moves takes room at its target only."""
    patch.setattr(fleet, "servers_of", lambda m: (m.server,))


def a_move_is_begun_again_and_again(patch: Patch) -> None:
    """A move that failed is begun again at once."""
    patch.setattr(moves, "failed_lately", lambda p, m: "")


def an_address_is_used_again_too_early(patch: Patch) -> None:
    """A machine's address is free as soon as it is given up."""

    def leave(p: Planning, m: Any, *more: Any, **named: Any) -> Any:
        entry = left(p, m, *more, **named)
        p.index.network(m.nic.network).take(m.nic.address, -1)
        return entry

    left = leaving.leave
    patch.setattr(recover, "leave", leave)


def a_pause_is_ignored(patch: Patch) -> None:
    """What people paused is acted on."""
    patch.setattr(Planning, "paused", lambda self, *objects: "")


# --- bare servers -------------------------------------------------------------------------------------------------


def nobody_has_to_accept(patch: Patch) -> None:
    """A bare server is booted and written as soon as it is declared."""
    patch.setattr(metal, "wanted", lambda declared: declared.spec.bmc is not None and declared.spec.role == "free")
    kept = Index.all_units

    def all_units(self: Index, spec: Any) -> Any:
        return kept(self, spec) | {key("metal", s.metadata.name) for s in spec.servers.values()}

    patch.setattr(Index, "all_units", all_units)


def what_was_given_up_is_erased(patch: Patch) -> None:
    """A server that holds the disk of a node that failed is erased as any other."""

    def quarantine(p: Planning, entry: MetalEntry, why: str, **fields: object) -> None:
        bare_server.into(p, entry, "erasing", why, **fields)

    patch.setattr(metal, "quarantine", quarantine)
    patch.setattr(bare_server, "quarantine", quarantine)


def what_was_given_up_is_forgotten_by_a_test(patch: Patch) -> None:
    """A server in quarantine is anybody's once it passed its tests, whatever is on its disks."""

    def quarantine(p: Planning, entry: MetalEntry, why: str, **fields: object) -> None:
        bare_server.into(p, entry, "quarantined", why, boot=False, **fields)

    patch.setattr(metal, "quarantine", quarantine)


def a_node_is_not_drained_for_a_rescue(patch: Patch) -> None:
    """A person who looks into a server ends what runs there."""
    patch.setattr(metal_rescue, "_takes_pods", lambda p, m: False)


def an_erasure_is_believed(patch: Patch) -> None:
    """A disk that could not be erased is given on."""
    patch.setattr(Erased, "proven", True)


def a_machine_is_dropped_while_it_runs(patch: Patch) -> None:
    """A bare server's machine counts as gone as soon as its server is to be erased."""
    patch.setattr(metal, "ended", lambda p, m: True)


def a_medium_is_never_given_up(patch: Patch) -> None:
    """A server that does not boot is waited for for ever."""
    patch.setattr(bare_server, "late", lambda p, entry, what: False)


# --- the journal --------------------------------------------------------------------------------------------------


def a_step_is_run_before_it_is_journalled(patch: Patch) -> None:
    """A step is handed out in the turn in which it is decided."""
    begin = Engine._begin  # pyright: ignore[reportPrivateUsage]

    def at_once(self: Any, step: Any, *more: Any) -> None:
        begin(self, step, *more)
        begun = self._out[-1].operation
        ticket = Ticket(operation=begun.id, store=self._store, epoch=self._epoch, deadline=60.0)
        self._out.append(messages.Run(step=step, ticket=ticket))

    patch.setattr(Engine, "_begin", at_once)
    patch.setattr(Engine, "_journalled", lambda self, operation: None)


class Mutation(NamedTuple):
    """A deliberate bug, and where it shows."""

    bug: Callable[[Patch], None]
    scenario: str
    checks: bool = False
    """The checks on blueprints stay."""


MUTATIONS = (
    Mutation(fencing_is_not_confirmed, "controller_can_not_reach_a_server"),
    Mutation(a_held_lease_is_ignored, "controller_can_not_reach_a_server"),
    Mutation(the_watchdogs_time_is_forgotten, "host_hangs_and_its_bmc_is_out_of_reach"),
    Mutation(one_channel_is_enough, "host_hangs_while_its_guests_run_on", checks=True),
    Mutation(many_are_fenced_at_once, "many_unconfirmed_need_a_person", checks=True),
    Mutation(pods_are_freed_before_death_is_confirmed, "controller_can_not_reach_a_server"),
    Mutation(an_expired_lease_ends_local_guests_too, "lease_expires_and_local_guests_run_on"),
    Mutation(an_agent_keeps_its_guests, "partition_without_image_locks", checks=True),
    Mutation(a_watchdog_does_not_bite, "host_hangs_and_its_bmc_is_out_of_reach", checks=True),
    Mutation(guests_start_with_their_server, "fenced_server_starts_no_guest", checks=True),
    Mutation(recovery_has_no_bounds, "recovery_in_order_and_in_batches", checks=True),
    Mutation(a_boot_number_is_used_again, "there_and_back"),
    Mutation(the_generation_is_not_raised, "there_and_back"),
    Mutation(strays_are_not_forgotten, "restart_elsewhere", checks=True),
    Mutation(control_planes_share_a_server, "spread_is_kept_in_recovery"),
    Mutation(a_target_that_died_is_all_there_is, "target_dies_during_a_move"),
    Mutation(quorum_is_not_asked_for, "two_kubelets_of_a_control_plane_fail"),
    Mutation(the_last_copy_is_replaced, "only_control_plane_on_local_disk"),
    Mutation(all_that_are_silent_are_started_anew, "kubelets_fail_everywhere_at_once"),
    Mutation(any_cpu_will_do, "cpu_passed_through_between_generations"),
    Mutation(a_retained_disk_is_deleted, "guest_hangs_again_and_again"),
    Mutation(a_drain_has_no_bound, "drain_that_would_never_end", checks=True),
    Mutation(the_source_of_a_move_counts_as_free, "moving_guest_takes_room_at_both_ends"),
    Mutation(a_move_is_begun_again_and_again, "guest_rewrites_memory_faster_than_it_moves", checks=True),
    Mutation(an_address_is_used_again_too_early, "isolated_and_nobody_can_fence_it"),
    Mutation(a_pause_is_ignored, "paused_fleet_does_nothing", checks=True),
    Mutation(nobody_has_to_accept, "metal_server_that_nobody_accepted"),
    Mutation(what_was_given_up_is_erased, "metal_node_dies_for_good"),
    Mutation(what_was_given_up_is_forgotten_by_a_test, "metal_kept_disk_survives_a_test_and_a_rescue", checks=True),
    Mutation(a_node_is_not_drained_for_a_rescue, "metal_node_in_rescue", checks=True),
    Mutation(an_erasure_is_believed, "metal_disk_fails_its_erase", checks=True),
    Mutation(a_machine_is_dropped_while_it_runs, "metal_pool_is_claimed_and_given_back", checks=True),
    Mutation(a_medium_is_never_given_up, "metal_server_never_boots_its_medium", checks=True),
    Mutation(a_step_is_run_before_it_is_journalled, "restart_elsewhere", checks=True),
)


def test_there_are_as_many_as_were_promised() -> None:
    assert len({m.bug for m in MUTATIONS}) >= 15


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.bug.__name__)
def test_a_mutation_is_caught(mutation: Mutation, monkeypatch: Patch) -> None:
    scenario = load(SCENARIOS / mutation.scenario)
    assert not Play(scenario).run().broken, "the scenario holds without the bug"
    mutation.bug(monkeypatch)
    if not mutation.checks:
        monkeypatch.setattr(simulator, "Checker", lambda: lambda inp, result: ())
    try:
        outcome = Play(scenario).run()
    except (ScenarioError, AssertionError, KeyError, ValueError):
        return  # it does not even get as far as the story
    assert outcome.broken, f"{mutation.bug.__doc__} And nothing noticed."
