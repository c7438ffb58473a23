"""Live migration: memory is copied in rounds while the guest rewrites it, until what is left moves within the downtime.

It is carried by the two libvirts, so an agent that dies changes nothing but who hears of its end. Until the very end
the guest runs at its source; its disk, on a shared pool, is handed over with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator

from bedplate.model.blueprint import MachineEntry
from bedplate.model.cpus import HOST
from bedplate.model.ids import Digest
from bedplate.model.steps import Done, Failed, MigrateDomain, StepResult, Unknown
from bedplate.sim import leases, truth, views
from bedplate.sim.things import Process, SimDomain, SimRecord, SimServer
from bedplate.sim.world import World

Running = Generator[float, None, StepResult]

DOWNTIME = 0.5
"""Seconds that a guest may stand still at the switch-over (Nova's default: 500 ms)."""
ROUNDS = 30
"""Rounds of copying after which a move that does not converge is given up (QEMU's auto-converge throttles from the
third on; it had not helped after 110 s where the cap lay below the dirty rate)."""
BROKEN = 3.3
"""Seconds until a source notices that its target is gone (seen in the lab)."""
MARGIN = 5.0
"""Of a step's time kept for ending a move that takes too long."""
LOOK = 2.0
"""Seconds between looks of a waiting step at its move."""

FAULTS = ("fails", "arrives unknown", "stays unknown", "paused")
"""What can go wrong with a move: it breaks half-way and the guest runs on; its outcome is not known, and the guest has
arrived, or has stayed; or both sides give up in the switch-over and the guest is left paused at its source."""


def receive(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    """Make ready to take a machine in: remember its boot number, see that its disk is reached here."""
    if not m.source or m.source == m.server:
        return Failed(reason="NotMoving", message=f"{m.name} moves from nowhere", permanent=True)
    pool = server.pools.get(m.disk_pool)
    if pool is None:
        return Failed(reason="PoolMissing", message=f"disk pool {m.disk_pool} is not served by {server.name}")
    if not pool.shared:
        message = f"disk pool {pool.name} is local: the disk of {m.name} can't be reached from {server.name}"
        return Failed(reason="PoolNotShared", message=message, permanent=True)
    if pool.gone or not server.storage:
        return Failed(reason="DiskFailed", message=f"disk pool {pool.name} can't be read on {server.name}: I/O error")
    if not leases.permits(server, pool):
        return Failed(reason="LeaseNotHeld", message=f"no guest may start on disk pool {pool.name}: its lease was lost")
    volume = pool.volumes.get(m.uid)
    if volume is None or volume.store != world.store:
        return Failed(reason="VolumeMissing", message=f"the disk of {m.name} is not in disk pool {pool.name}")
    if m.nic.bridge not in server.bridges:
        return Failed(reason="LibvirtError", message=f"libvirt: no bridge {m.nic.bridge} on {server.name}")
    if wanted := {m.image.disk, m.image.kernel, m.image.initrd} - {Digest(""), *pool.images}:
        message = f"image file {min(wanted)} of {m.name} is not in disk pool {pool.name}"
        return Failed(reason="ImageMissing", message=message)
    known = server.domains.get(m.uid)
    if known is not None and known.state in {"running", "paused"}:
        if known.entry.generation == m.generation:
            return None
        return Failed(reason="DomainPresent", message=f"{m.name} runs here already, of another generation")
    if known is not None:  # its definition from an earlier stay would be in the way
        world.drop_domain(server, m.uid)
    leases.arm(world, server)
    record = server.records.setdefault(m.uid, SimRecord())
    record.boot = max(record.boot, m.boot)
    world.touch(server, m.uid)
    return None


def migrate(world: World, source: SimServer, step: MigrateDomain, deadline: float) -> Running:
    """Run the move, or wait for the one that runs already. Where it is there, it is done."""
    m = step.machine
    end = world.now + deadline - MARGIN
    domain, target = source.domains.get(m.uid), world.servers.get(m.server)
    if target is None:
        return Failed(reason="TargetMissing", message=f"there is no server {m.server}", permanent=True)
    if domain is None:
        record = source.records[m.uid]
        if record.ended and record.generation == m.generation:
            return Done(views=_seen(world, source, target, m), message="it had moved before")
        return Unknown(message=f"{m.name} is not known to this server's libvirt: see whether {m.server} has it")
    if domain.state != "running" or domain.store != world.store:
        return Failed(reason="NotRunning", message=f"{m.name} does not run on {source.name}")
    move = world.moves.get(m.uid)
    if move is None:
        refused = _refusal(world, source, target, m)
        if refused is not None:
            return refused
        if not _goes_on(domain, source, target):
            world.violation("live moves", f"{m.name} moved to {target.name}, with whose CPU its guest can't go on")
        move = world.moves[m.uid] = Move(domain, source, target, m, end)
        world.spawn(move.run(world))
    while move.result is None and world.now < end + MARGIN:
        yield LOOK if move.ends > world.now + LOOK else max(0.05, move.ends - world.now)
    return move.result or Unknown(message=f"the move of {m.name} did not end in time")


def _refusal(world: World, source: SimServer, target: SimServer, m: MachineEntry) -> Failed | None:
    record = target.records.get(m.uid)
    if record is None or record.generation < m.generation:
        return Failed(reason="MigrationFailed", message=f"{target.name} was not made ready to take {m.name} in")
    if not _talk(source, target):
        return Failed(reason="MigrationFailed", message=f"libvirt of {target.name} does not answer {source.name}")
    if world.memory[target.name] + m.memory_mib > target.memory_mib:
        return Failed(reason="OutOfMemory", message=f"{target.name} has no {m.memory_mib} MiB for {m.name}")
    return receive(world, target, m)


def _goes_on(domain: SimDomain, source: SimServer, target: SimServer) -> bool:
    """The guest finds there what it was started with. With `host-passthrough` nobody refuses a move to another CPU: the
    guest crashes some time after it."""
    model = (domain.hardware or domain.entry).cpu_model
    return source.cpu == target.cpu if model == HOST else model in target.cpu_models


def _talk(source: SimServer, target: SimServer) -> bool:
    """True where the two libvirts reach each other, over the management network."""
    ends = (source, target)
    return all(s.powered and s.booted and s.frozen != "all" and s.management and not s.error for s in ends)


def _seen(world: World, source: SimServer, target: SimServer, m: MachineEntry) -> tuple[views.DomainView, ...]:
    return (views.domain_view(world, source, m.uid), views.domain_view(world, target, m.uid))


def dirty_rate(world: World, m: MachineEntry) -> float:
    """MiB a second that the guest rewrites: its own, or a share of its memory that follows from its uid."""
    given = world.dirty_rates.get(m.uid)
    if given is not None:
        return given
    low, high = world.durations.ranges.dirty_share
    return m.memory_mib * (low + (high - low) * (zlib.crc32(m.uid.encode()) % 1000) / 1000)


class Move:
    """One live migration under way."""

    def __init__(self, domain: SimDomain, source: SimServer, target: SimServer, m: MachineEntry, end: float) -> None:
        self.result: StepResult | None = None
        self.ends = float("inf")
        """When it may have an outcome next."""
        self.target = target.name
        self._domain, self._source, self._target, self._machine = domain, source, target, m
        self._run, self._boots = domain.run, (source.boots, target.boots)
        self._deadline = end
        self._mib = (domain.hardware or domain.entry).memory_mib
        self._given_up = False

    def run(self, world: World) -> Process:
        """Copy, switch over, tell."""
        m, ends = self._machine, (self._source, self._target)
        world.take(self._target, m.uid, self._mib)
        for server in ends:
            server.moves += 1
        fault = _fault(world, m.name)
        world.say(
            "world", f"{m.name} moves from {self._source.name} to {self._target.name}{f' ({fault})' if fault else ''}"
        )
        yield from self._copy(world, fault)
        if not self._both_there():
            yield BROKEN
        for server in ends:
            server.moves -= 1
        world.take(self._target, m.uid, -self._mib)
        self.result = self._outcome(world, fault)
        world.moves.pop(m.uid, None)

    def _copy(self, world: World, fault: str) -> Process:
        """Rounds of copying; it goes on while there is something to copy and both ends are there."""
        rate = dirty_rate(world, self._machine)
        left, rounds = float(self._mib), 0
        setup = world.durations.draw(world.durations.ranges.move_setup)
        while True:
            bandwidth = world.link / max(1, self._source.moves, self._target.moves)
            seconds = left / bandwidth
            rounds += 1
            if world.now + seconds + setup > self._deadline or rounds > ROUNDS:
                self.ends = min(self._deadline, world.now + seconds)
                yield max(0.0, self.ends - world.now)
                self._given_up = True
                return
            last = seconds <= DOWNTIME
            self.ends = world.now + seconds + setup
            yield seconds + setup
            setup = 0.0
            if not self._both_there() or (fault == "fails" and rounds == 1) or last:
                return
            left = min(float(self._mib), rate * seconds)

    def _both_there(self) -> bool:
        same = (self._source.boots, self._target.boots) == self._boots
        return same and _talk(self._source, self._target)

    def _outcome(self, world: World, fault: str) -> StepResult:
        m, source, target, domain = self._machine, self._source, self._target, self._domain
        if not world.in_run(domain, self._run) or domain.server != source.name:
            return Unknown(message=f"{m.name} ended on {source.name} while it was moved")
        if not self._both_there():
            return Failed(reason="MigrationFailed", message=f"{source.name} and {target.name} lost each other")
        if self._given_up:
            message = f"{m.name} rewrites its memory faster than it can be copied; it runs on at {source.name}"
            return Failed(reason="MigrationTimeout", message=message)
        if fault == "fails":
            return Failed(
                reason="MigrationFailed", message="libvirt: operation failed: migration job: unexpectedly failed"
            )
        if fault == "paused":
            world.pause(domain)
            return Unknown(message=f"libvirt gave {m.name} up in the switch-over")
        if fault == "stays unknown":
            return Unknown(message=f"libvirt of {source.name} did not tell how the move of {m.name} ended")
        refused = receive(world, target, m)
        if refused is not None:
            return Failed(reason="MigrationFailed", message=refused.message)
        self._arrive(world)
        if fault:
            return Unknown(message=f"libvirt of {source.name} did not tell how the move of {m.name} ended")
        return Done(views=_seen(world, source, target, m), message=f"it runs on {target.name}")

    def _arrive(self, world: World) -> None:
        m, source, target, domain = self._machine, self._source, self._target, self._domain
        truth.moved(world, source, m)
        volume = source.volumes.get(m.uid)
        if volume is not None:
            world.take_over(target, volume, m.generation)
        started = source.records[m.uid].started if m.uid in source.records else 0.0
        target.records[m.uid].started = started
        if m.uid in source.records:
            source.records[m.uid].ended = True
        domain.entry = m
        world.move_domain(domain, target)


def _fault(world: World, name: str) -> str:
    for who in (name, "*"):
        faults = world.move_faults.get(who)
        if faults:
            return faults.pop(0)
    return ""
