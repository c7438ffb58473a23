"""What each step does to the simulated world, as the real agent, kubeadm and the cluster's API do it.

A step is a generator: it yields the seconds until it goes on and returns its result, so that it can be stopped half
way, run twice, or have its reply lost. Time, faults and fences of the controller are the caller's; those of the agents
are here.
"""

from __future__ import annotations

from collections.abc import Generator

from bedplate.model.blueprint import MachineEntry
from bedplate.model.steps import (
    BmcStep,
    CreateVolume,
    DefineDomain,
    DeleteRetained,
    DeleteVolume,
    Done,
    DropImage,
    Failed,
    ForgetDomain,
    HypervisorStep,
    MigrateDomain,
    PullImage,
    RamStep,
    ReceiveDomain,
    Refused,
    RemoveDomain,
    RetainVolume,
    StartDomain,
    Step,
    StepResult,
    StopDomain,
    Ticket,
)
from bedplate.sim import bare, clusters, disks, guests, leases, migration, power, truth, views
from bedplate.sim.durations import Durations
from bedplate.sim.things import SimDomain, SimRecord, SimServer, SimVolume
from bedplate.sim.world import World

Running = Generator[float, None, StepResult]


def perform(world: World, durations: Durations, step: Step, ticket: Ticket) -> Running:
    """Give the running step."""
    if isinstance(step, HypervisorStep):
        return _on_agent(world, durations, step, ticket)
    if isinstance(step, RamStep):
        return _in_ram(world, durations, step, ticket)
    if isinstance(step, BmcStep):
        return power.perform(world, durations, step, ticket)
    return clusters.perform(world, durations, step, ticket)


# --- what an agent checks -----------------------------------------------------------------------------------------


def admit(world: World, server: SimServer, ticket: Ticket, m: MachineEntry | None) -> Refused | None:
    """Refuse another store, a lower epoch or a lower generation than was seen; remember higher ones."""
    if ticket.store != world.store:
        return Refused(message=f"this agent belongs to store {world.store}, not {ticket.store}")
    if ticket.epoch < server.epoch:
        return Refused(message=f"controller epoch {ticket.epoch} is over: epoch {server.epoch} was seen")
    server.epoch = ticket.epoch
    if m is None:
        return None
    record = server.records.setdefault(m.uid, SimRecord())
    if m.generation < record.generation:
        return Refused(message=f"generation {m.generation} of machine {m.uid} is over: {record.generation} was seen")
    if m.generation > record.generation:
        record.generation, record.ended = m.generation, False
    return None


def _on_agent(world: World, durations: Durations, step: HypervisorStep, ticket: Ticket) -> Running:
    server = world.servers.get(step.server)
    if server is None or not (server.connected or server.half == "down"):
        return Failed(reason="NotConnected", message=f"the agent of {step.server} is not connected")
    machine = None if isinstance(step, PullImage | DeleteRetained | DropImage) else step.machine
    refused = admit(world, server, ticket, machine)
    if refused is not None:
        return refused
    late = _of_the_past(server, step)
    if late is not None:
        return late
    if server.error:
        return Failed(reason="LibvirtUnavailable", message=server.error)
    yield durations.step(step.name) * _slowness(server, step)
    if isinstance(step, MigrateDomain):
        return (yield from migration.migrate(world, server, step, ticket.deadline))
    failed = _do(world, durations, server, step)
    if failed is not None:
        return failed
    assert machine is not None
    return Done(views=(views.domain_view(world, server, machine.uid),))


def _in_ram(world: World, durations: Durations, step: RamStep, ticket: Ticket) -> Running:
    server = world.servers.get(step.server)
    if server is None or not (server.connected or server.half == "down"):
        return Failed(reason="NotConnected", message=f"the agent of {step.server} is not connected")
    refused = admit(world, server, ticket, None)
    if refused is not None:
        return refused
    return (yield from bare.perform(world, durations, server, step))


def _of_the_past(server: SimServer, step: HypervisorStep) -> Refused | None:
    """Refuse to touch a disk that was taken over for a later generation, perhaps by another server."""
    if not isinstance(step, CreateVolume | DeleteVolume | RetainVolume | DefineDomain | ReceiveDomain):
        return None
    pool = server.pools.get(step.machine.disk_pool)
    volume = pool.volumes.get(step.machine.uid) if pool is not None else None
    if volume is None or volume.generation <= step.machine.generation:
        return None
    return Refused(message=f"the disk of {step.machine.name} is of generation {volume.generation}")


def _slowness(server: SimServer, step: HypervisorStep) -> float:
    """Times by which a step takes longer on a pool that is slow."""
    m = getattr(step, "machine", None)
    pool = server.pools.get(m.disk_pool if m is not None else getattr(step, "disk_pool", ""))
    return 1.0 if pool is None else pool.slow


def _do(world: World, durations: Durations, server: SimServer, step: HypervisorStep) -> Refused | Failed | Done | None:
    match step:
        case PullImage():
            return disks.pull(world, server, step)
        case DeleteRetained():
            return disks.delete_retained(world, server, step)
        case DropImage():
            return disks.drop_image(world, server, step)
        case StartDomain():
            return _start(world, durations, server, step.machine)
        case CreateVolume():
            return disks.create_volume(world, server, step.machine)
        case DefineDomain():
            return _define(world, server, step.machine)
        case StopDomain():
            return _stop(world, server, step.machine)
        case RemoveDomain():
            return _remove(world, server, step.machine)
        case DeleteVolume():
            return disks.delete_volume(world, server, step.machine)
        case RetainVolume():
            return disks.retain(world, server, step.machine)
        case ReceiveDomain():
            return migration.receive(world, server, step.machine)
        case ForgetDomain():
            return _forget(world, server, step.machine)
        case MigrateDomain():
            raise AssertionError("it takes its time: see `migration.migrate`")


# --- domains ------------------------------------------------------------------------------------------------------


def _define(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    pool = disks.pool_of(server, m.disk_pool)
    if isinstance(pool, Failed):
        return pool
    failed = disks.have(world, server, pool, m.image.kernel, m.image.initrd)
    if failed is not None:
        return failed
    domain = disks.own_domain(world, server, m)
    if isinstance(domain, Failed):
        return domain
    if m.carried:
        volume = disks.own_volume(world, pool.volumes, m.uid)
        if isinstance(volume, Failed):
            return volume
        if volume is None:
            return disks.nothing_to_take_over(m)
        world.take_over(server, volume, m.generation)
    if domain is None:
        world.add_domain(server, SimDomain(entry=m, store=world.store, defined_boot=m.boot))
    else:
        domain.entry, domain.defined_boot = m, m.boot
        world.touch(server, m.uid)
    return None


def _start(world: World, durations: Durations, server: SimServer, m: MachineEntry) -> Failed | None:
    domain, record = disks.own_domain(world, server, m), server.records[m.uid]
    if not isinstance(domain, SimDomain):
        return Failed(reason="DomainMissing", message=f"the domain of {m.name} is not defined on {server.name}")
    if domain.entry.generation < m.generation:
        return Failed(reason="DomainOutdated", message=f"the domain of {m.name} is out of date: define it first")
    if domain.state in {"running", "paused"}:
        record.boot = max(record.boot, m.boot)
        world.touch(server, m.uid)
        return None
    if record.boot >= m.boot:
        return None
    volume = disks.own_volume(world, server.volumes, m.uid)
    if not isinstance(volume, SimVolume):
        return Failed(reason="VolumeMissing", message=f"the disk of {m.name} is not in disk pool {m.disk_pool}")
    refused = _may_open(world, server, m, volume)
    if refused is not None:
        return refused
    if volume.pool.shared:
        leases.arm(world, server)
    record.boot, record.started = m.boot, world.now + server.clock
    world.set_state(server, domain, "running")
    world.spawn(guests.boot(world, durations, domain))
    return None


def _may_open(world: World, server: SimServer, m: MachineEntry, volume: SimVolume) -> Failed | None:
    """Why a disk can't be opened by a start here now. Who tries while another has it open has broken rule 1."""
    pool = volume.pool
    if m.nic.bridge not in server.bridges:
        return Failed(reason="LibvirtError", message=f"libvirt: no bridge {m.nic.bridge} on {server.name}")
    if pool.gone or (pool.shared and not server.storage):
        return Failed(reason="DiskFailed", message=f"disk pool {pool.name} can't be read on {server.name}: I/O error")
    if not leases.permits(server, pool):
        return Failed(reason="LeaseNotHeld", message=f"no guest may start on disk pool {pool.name}: its lease was lost")
    others = [d for d in world.live.get(m.uid, ()) if d.server != server.name]
    if others:
        where = ", ".join(d.server for d in others)
        world.violation("rule 1", f"{m.name} was started on {server.name} while its disk is open on {where}")
        if pool.locks:
            return Failed(reason="DiskInUse", message=f'libvirt: Failed to get "write" lock: {m.name} runs elsewhere')
    return None


def _stop(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    domain = disks.own_domain(world, server, m)
    if isinstance(domain, SimDomain) and domain.state in {"running", "paused"}:
        at_risk = [c for c in truth.quorum_before(world, m.uid) if len(c.members) > 1 or m.desired != "run"]
        world.set_state(server, domain, "shutoff")  # the only member may be started anew, on its own disk
        truth.quorum_after(world, at_risk, f"stopping {m.name}")
    return None


def _remove(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    domain = disks.own_domain(world, server, m)
    if isinstance(domain, Failed):
        return domain
    if domain is not None:
        at_risk = truth.quorum_before(world, m.uid)
        world.drop_domain(server, m.uid)
        truth.quorum_after(world, at_risk, f"removing {m.name}")
    return None


def _forget(world: World, server: SimServer, m: MachineEntry) -> Failed | Refused | None:
    if m.server == server.name:
        return Refused(message=f"{m.name} is this server's in generation {m.generation}: it is not forgotten")
    failed = _remove(world, server, m)
    if failed is None:
        server.records[m.uid].ended = True
    return failed
