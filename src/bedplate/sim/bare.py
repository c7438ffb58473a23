"""Bare servers: what they boot, what their RAM system does, what is written to and erased from their disks.

The twin of the Redfish driver where it boots, of the agent in the RAM system and of the node's own. A guest that is a
node on a bare server is a domain as any other: it has a disk and a kubelet, and it ends with the server's power.
"""

from __future__ import annotations

from collections.abc import Generator

import msgspec

from bedplate.model.blueprint import Host, MachineEntry
from bedplate.model.ids import Generation, MachineUid
from bedplate.model.inventory import MetalView
from bedplate.model.metal import (
    Component,
    Disk,
    Erased,
    Erasure,
    Hardware,
    NetworkCard,
    ServerTest,
    ServerTests,
    Verdict,
    Written,
)
from bedplate.model.steps import (
    BootDisk,
    BootMedia,
    Done,
    EraseDisks,
    Failed,
    InspectServer,
    RamStep,
    Refused,
    RunTests,
    StepResult,
    WriteImage,
)
from bedplate.sim import guests, truth
from bedplate.sim.durations import Durations
from bedplate.sim.things import SimBare, SimDisk, SimDomain, SimServer, SimVolume
from bedplate.sim.world import World

Running = Generator[float, None, StepResult]

_TASKS = {"InspectServer": "inspect", "RunTests": "test", "WriteImage": "write", "EraseDisks": "erase"}


# --- booting ------------------------------------------------------------------------------------------------------


def order(server: SimServer, step: BootMedia | BootDisk) -> None:
    """What its BMC was told to boot next."""
    bare = server.bare
    assert bare is not None
    bare.media = step.entry.run if isinstance(step, BootMedia) else 0
    bare.once = bare.media > 0
    bare.visits = step.entry.state == "rescue"


def eject(server: SimServer) -> None:
    """Its drive is emptied."""
    if server.bare is not None and not server.bmc.deaf:
        server.bare.media, server.bare.once = 0, False


def came_up(world: World, server: SimServer) -> None:
    """Its firmware is through: the medium, if it is to be booted, else what is on its disk, else nothing."""
    bare = server.bare
    assert bare is not None
    medium, bare.once = bool(bare.media and bare.once), False
    if medium and bare.silent_boots > 0:  # firmware then tries what comes next
        bare.silent_boots -= 1
        world.say("world", f"{server.name} does not boot its medium")
        medium = False
    if medium:
        world.cease(server)
        bare.view = MetalView(server=server.name, run=bare.media)
        bare.system = "ram"
        bare.disk_known &= bare.visits
    elif (disk := _on_disk(bare)) is not None and disk.host is not None:
        bare.system = "hypervisor"
        _serve(world, server)
    elif disk is not None and (m := disk.machine) is not None and m.uid in server.volumes:
        world.cease(server)
        bare.system = "node"
        _start_node(world, server, m)
    else:
        world.say("world", f"{server.name} has nothing to boot")
        return
    server.booted = server.agent = True
    world.touch_server(server)
    world.touch_metal(server)


def _on_disk(bare: SimBare) -> SimDisk | None:
    """The disk that boots: the first that was written whole."""
    return next((d for d in bare.disks.values() if d.whole), None)


def _serve(world: World, server: SimServer) -> None:
    """Libvirt is there, with the disk pools that the server has as a hypervisor."""
    assert server.bare is not None
    if server.pools:  # it was one in its boot before
        for lease in server.leases.values():
            lease.last = 0.0
        return
    server.bridges, server.pools = ("br0",), dict(server.bare.pools)
    world.serve(server)


def _start_node(world: World, server: SimServer, m: MachineEntry) -> None:
    domain = server.domains.get(m.uid)
    if domain is None:
        domain = SimDomain(entry=m, store=world.store, defined_boot=1)
        world.add_domain(server, domain)
    record = server.record(m.uid)
    record.generation, record.boot, record.started = int(m.generation), 1, world.now + server.clock
    world.set_state(server, domain, "running")
    world.spawn(guests.boot(world, world.durations, domain))


# --- the RAM system -----------------------------------------------------------------------------------------------


def perform(world: World, durations: Durations, server: SimServer, step: RamStep) -> Running:
    """Run a step of the RAM system's agent."""
    bare = server.bare
    if bare is None or bare.system != "ram" or bare.view is None or bare.view.run != step.entry.run:
        return Failed(reason="NotTheRamSystem", message=f"{server.name} does not run RAM system {step.entry.run}")
    _tell(world, server, task=_TASKS[step.name])
    yield durations.step(step.name)
    match step:
        case InspectServer():
            _tell(world, server, hardware=hardware(server))
        case RunTests():
            _tell(world, server, tests=_tests(world, bare, step))
        case WriteImage():
            failed = yield from _write(world, durations, server, step)
            if failed is not None:
                _tell(world, server, task="")
                return failed
        case EraseDisks():
            _erase(world, server, step)
    _tell(world, server, task="")
    return Done()


def _tell(world: World, server: SimServer, **changes: object) -> None:
    assert server.bare is not None
    if server.bare.view is not None:
        server.bare.view = msgspec.structs.replace(server.bare.view, **changes)
        world.touch_metal(server)


def hardware(server: SimServer) -> Hardware:
    """What an inspection finds."""
    assert server.bare is not None
    return Hardware(
        vendor="Sim",
        product="Bare",
        serial=server.bare.serial,
        cpu_model="simulated",
        sockets=1,
        cores=server.cpus,
        threads=server.cpus,
        memory_mib=server.memory_mib,
        disks=tuple(
            Disk(serial=d.serial, size=d.size, transport="nvme", model="Sim Disk", health=d.health)
            for d in server.bare.disks.values()
        ),
        nics=(NetworkCard(mac=server.bare.mac, carrier=True, boot=True, speed=10_000),),
        firmware=(Component(name="bios", version=server.bare.bios, model="Sim"),),
    )


def _tests(world: World, bare: SimBare, step: RunTests) -> ServerTests:
    found = [_test("cpu", bare.speed), _test("memory", bare.speed)]
    for d in bare.disks.values():
        bad = d.health == "failing"
        found.append(_test(f"disk {d.serial}", bare.speed, "failed" if bad else "passed", d.health))
    return ServerTests(suite=step.entry.suite, tests=tuple(found), began=world.now, ended=world.now)


def _test(name: str, speed: float, verdict: Verdict = "passed", detail: str = "") -> ServerTest:
    """In a unit of its own: a preview's values are not compared with those of real servers."""
    return ServerTest(name=name, verdict=verdict, value=100 * speed, unit="% of a simulated one", detail=detail)


def _write(
    world: World, durations: Durations, server: SimServer, step: WriteImage
) -> Generator[float, None, Failed | Refused | None]:
    bare, m, host = server.bare, step.machine, step.entry.host
    assert bare is not None
    what = m or host
    assert what is not None
    disk = bare.disks.get(step.entry.root_disk)
    if disk is None:
        return Failed(reason="DiskMissing", message=f"{server.name} has no disk {step.entry.root_disk!r}")
    if what.image.disk in world.lost_images:
        return Failed(reason="ImageMissing", message=f"the controller has no {what.image.name}")
    there = disk.machine or disk.host
    if there is not None and there.uid == what.uid and disk.whole:
        _tell(world, server, written=_written(what, disk))
        return None
    truth.overwriting(world, server, disk)
    _forget(world, server, disk)
    disk.machine, disk.host = (m, None) if m is not None else (None, host)
    sent = world.send_image(what.image.disk_size / 2**20, durations.ranges.image_link)
    yield max(durations.draw(durations.ranges.write), sent)
    if (disk.machine or disk.host) is not what:
        return Failed(reason="WriteInterrupted", message=f"disk {disk.serial} was written by another")
    disk.whole = bare.disk_known = True
    if m is not None:
        made = SimVolume(m.uid, server.name, bare.pool, m.disk_mib, world.store, generation=int(m.generation))
        world.add_volume(server, made)
    _tell(world, server, written=_written(what, disk))
    return None


def _written(what: MachineEntry | Host, disk: SimDisk) -> Written:
    generation = what.generation if isinstance(what, MachineEntry) else Generation(1)
    return Written(uid=what.uid, generation=generation, digest=what.image.disk, serial=disk.serial)


def _forget(world: World, server: SimServer, disk: SimDisk) -> None:
    """What was on the disk is no more: a machine, or a hypervisor with what lay in its own pools."""
    gone = {disk.machine.uid} if disk.machine is not None else set[MachineUid]()
    if disk.host is not None:
        gone |= {*server.domains, *(uid for uid, v in server.volumes.items() if not v.pool.shared)}
        for uid in [uid for uid, v in server.retained.items() if not v.pool.shared]:
            del server.retained[uid]
    for uid in sorted(gone):
        world.drop_domain(server, uid)
        world.drop_volume(server, uid)
    disk.wipe()


def _erase(world: World, server: SimServer, step: EraseDisks) -> None:
    bare = server.bare
    assert bare is not None
    known = {d.serial for d in step.entry.hardware.disks} if step.entry.hardware is not None else set[str]()
    done: list[Erasure] = []
    for disk in bare.disks.values():
        if disk.serial not in known:
            continue
        truth.overwriting(world, server, disk)
        if not disk.stubborn:
            _forget(world, server, disk)
        done.append(
            Erasure(
                serial=disk.serial,
                size=disk.size,
                method="nvme format --ses=1",
                erased=not disk.stubborn,
                checked=disk.size,
                began=world.now,
                ended=world.now,
            )
        )
    _tell(world, server, erased=Erased(machine=step.entry.machine, disks=tuple(done)))
