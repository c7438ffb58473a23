"""Power: servers, feeds, racks and rooms that lose it and get it back; BMCs, their orders and their lies.

A server has power while it is switched on and at least one of its feeds has (labels that begin with `power`), and so
have its rack, its room and every other place that it is in. A BMC is as dead as the feeds of its server.
"""

from __future__ import annotations

from collections.abc import Generator

from bedplate.model.blueprint import MetalEntry
from bedplate.model.inventory import BmcView
from bedplate.model.metal import Described
from bedplate.model.steps import (
    BmcStep,
    BootDisk,
    BootMedia,
    Done,
    Failed,
    PowerOff,
    PowerOn,
    ReadPower,
    StepResult,
    Ticket,
    Unknown,
)
from bedplate.sim import bare, truth
from bedplate.sim.durations import Durations
from bedplate.sim.things import Process, SimServer
from bedplate.sim.world import World

Running = Generator[float, None, StepResult]

FEED = "power"
"""Labels that begin with it name a power feed; of several, one is enough."""
BMC_TIMEOUT = 10.0
"""Seconds after which a BMC that does not answer is given up for this time; slow ones take 5 s."""
READ_AGAIN = 1.0
"""Seconds between two reads: off is off only when read twice."""
DEADLINE_MARGIN = 1.0
"""Seconds before a ticket's deadline at which a step ends by itself."""
LOOK = 60.0
"""Seconds between the looks of who follows a BMC; one that does not answer is looked at three times."""


# --- losing and getting power -------------------------------------------------------------------------------------


def supplied(world: World, server: SimServer) -> bool:
    """True where power reaches the server."""
    feeds = [v in world.dark for v in server.place.items() if v[0].startswith(FEED)]
    places = any(v in world.dark for v in server.place.items() if not v[0].startswith(FEED))
    return not places and not (feeds and all(feeds))


def darken(world: World, label: str, value: str) -> list[SimServer]:
    """Cut the power of a feed, rack, room or whatever the label names; give the servers that lost theirs."""
    world.dark.add((label, value))
    hit = [s for s in world.servers.values() if (label, value) in s.place.items() and not supplied(world, s)]
    for server in hit:
        server.bmc.fed = False
        world.touch_bmc(server)
    for server in hit:
        world.cut_power(server, f"{label} {value} failed")
    return hit


def lighten(world: World, label: str, value: str, *, switch_on: bool = True) -> list[SimServer]:
    """Give it back: BMCs are there at once, servers start where `switch_on` (their setting for power's return)."""
    world.dark.discard((label, value))
    back = [s for s in world.servers.values() if (label, value) in s.place.items() and supplied(world, s)]
    for server in back:
        server.bmc.fed = True
        world.touch_bmc(server)
        if switch_on:
            on(world, server)
    return back


def on(world: World, server: SimServer) -> None:
    """Switch a server on: after its boot its agent is there, and starts nothing by itself."""
    if server.powered or not supplied(world, server):
        return
    world.say("world", f"{server.name} is switched on")
    server.powered = True
    server.boots += 1
    world.touch_bmc(server)
    world.spawn(_boot(world, server, server.boots))


def _boot(world: World, server: SimServer, boot: int) -> Process:
    yield world.durations.draw(world.durations.ranges.server_boot)
    if server.boots != boot or not server.powered:
        return
    if server.broken:
        world.say("world", f"{server.name} does not come up")
        return
    server.error = ""
    if server.bare is not None:
        bare.came_up(world, server)
        return
    server.booted = server.agent = True
    for lease in server.leases.values():
        lease.last = 0.0
    world.touch_server(server)


# --- BMCs ---------------------------------------------------------------------------------------------------------


def bmc_view(server: SimServer) -> BmcView:
    """What reading it gives now."""
    bmc = server.bmc
    if not answers(server):
        return _silent(server, "it does not answer")
    power = bmc.lies or ("on" if server.powered else "off")
    described = None
    if server.bare is not None:
        serial = bmc.serial or server.bare.serial
        described = Described(vendor="Sim", serial=serial, memory_mib=server.memory_mib, macs=(server.bare.mac,))
    return BmcView(
        server=server.name, reachable=True, power=power, health=bmc.health, problems=bmc.problems, described=described
    )


def _silent(server: SimServer, error: str) -> BmcView:
    """What is known of health stays known."""
    bmc = server.bmc
    return BmcView(server=server.name, reachable=False, health=bmc.health, problems=bmc.problems, error=error)


def answers(server: SimServer) -> bool:
    """True where the BMC can be reached."""
    return server.bmc.reachable and server.bmc.fed


def perform(world: World, durations: Durations, step: BmcStep, ticket: Ticket) -> Running:
    """Give the running step. The twin of the Redfish driver: what counts is what is read back."""
    server = world.servers.get(step.entry.server)
    if server is None or step.entry.bmc is None:
        said = f"server {step.entry.server} has no BMC declared; set spec.bmc"
        if not isinstance(step, ReadPower):
            return Failed(reason="NoBmc", message=said, permanent=True)
        return Done(views=(BmcView(server=step.entry.server, reachable=False, error=said),))
    end = world.now + ticket.deadline - DEADLINE_MARGIN
    if isinstance(step, PowerOff):
        result = yield from _power_off(world, durations, server, end)
        if isinstance(result, Done) and isinstance(step.entry, MetalEntry):
            bare.eject(server)
        return result
    if not isinstance(step, ReadPower):
        return (yield from _power_on(world, durations, server, step, end))
    return (yield from _read(world, server, end))


def _ask(world: World, server: SimServer, end: float) -> Generator[float, None, BmcView]:
    """Ask once; unreachable where no answer comes in time."""
    seconds = server.bmc.seconds if answers(server) else BMC_TIMEOUT
    yield max(0.0, min(seconds, end - world.now))
    view = bmc_view(server)
    if seconds > BMC_TIMEOUT or (view.reachable and world.now >= end):
        view = _silent(server, "its answer did not come in time")
    return view


def _read(world: World, server: SimServer, end: float) -> Running:
    """Read; off is believed once it was read twice."""
    offs = 0
    while True:
        view = yield from _ask(world, server, end)
        offs = offs + 1 if view.power == "off" else 0
        if offs == 1:
            yield READ_AGAIN
            continue
        return Done(views=(view,))


def _power_off(world: World, durations: Durations, server: SimServer, end: float) -> Running:
    """Order it off and read until it was off twice in a row."""
    ordered, offs, view = False, 0, bmc_view(server)
    while world.now < end:
        view = yield from _ask(world, server, end)
        offs = offs + 1 if view.power == "off" else 0
        if offs == 2:
            return Done(views=(view,), message=f"{server.name} is off, as read back")
        if view.power == "on" and not ordered:
            ordered = True
            if not server.bmc.deaf:
                world.spawn(_goes_off(world, durations.draw(durations.ranges.power_off), server, server.boots))
        yield max(0.0, min(READ_AGAIN, end - world.now))
    if view.reachable and view.power == "on":
        return Failed(reason="PowerStillOn", message=f'{server.name} is still on: its BMC reads "On"')
    if ordered or view.reachable:
        return Unknown(message=f"whether {server.name} is off could not be read back: {view.error or 'no time left'}")
    return Failed(reason="BmcUnreachable", message=f"the BMC of {server.name} can't be asked: {view.error}")


def _power_on(
    world: World, durations: Durations, server: SimServer, step: PowerOn | BootMedia | BootDisk, end: float
) -> Running:
    """Have it boot something else, or just switch it on, and read until it is on."""
    view = yield from _ask(world, server, end)
    if not view.reachable:
        return Failed(reason="BmcUnreachable", message=f"the BMC of {server.name} can't be asked: {view.error}")
    if not isinstance(step, PowerOn) and not server.bmc.deaf:
        if server.bare is None:
            return Failed(reason="NoVirtualMedia", message=f"the BMC of {server.name} has no virtual media")
        yield durations.draw(durations.ranges.insert_media)
        if isinstance(step, BootMedia) or server.powered:
            at_risk = truth.quorum_before(world, *server.domains)
            world.cut_power(server, f"for {step.name}")
            truth.quorum_after(world, at_risk, f"rebooting {server.name}")
        bare.order(server, step)
    if not server.bmc.deaf:
        on(world, server)
    while world.now < end:
        view = yield from _ask(world, server, end)
        if view.power == "on":
            return Done(views=(view,), message=f"{server.name} is on, as read back")
        yield max(0.0, min(READ_AGAIN, end - world.now))
    return Unknown(message=f"whether {server.name} is on could not be read back: {view.error or 'no time left'}")


def _goes_off(world: World, seconds: float, server: SimServer, boot: int) -> Process:
    yield seconds
    if not server.powered or server.boots != boot:
        return
    at_risk = truth.fencing(world, server)
    world.cut_power(server, "by its BMC")
    truth.quorum_after(world, at_risk, f"powering {server.name} off")
