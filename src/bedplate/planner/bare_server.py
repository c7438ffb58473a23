"""What each state of a bare server asks: what its systems tell, how a state begins, when a boot is given up.

Which state follows is decided in `metal`, and in `metal_rescue` while a person looks into the server.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bedplate.model.blueprint import MachineEntry, MetalEntry, MetalState
from bedplate.model.ids import ServerName, key
from bedplate.model.inventory import MetalView
from bedplate.model.report import Waiting
from bedplate.model.whereabouts import ram_system
from bedplate.planner.context import Planning

GiveUp = Callable[[Planning, MetalEntry, str], None]
"""What becomes of a server that can't be brought to do what its state asks, and why."""


def machine(p: Planning, entry: MetalEntry) -> MachineEntry | None:
    """The machine that the server is claimed by, as long as it is planned."""
    found = p.index.entries.get(key("machine", entry.machine)) if entry.machine else None
    return found if isinstance(found, MachineEntry) and found.server == entry.server else None


def into(p: Planning, entry: MetalEntry, state: MetalState, why: str, *, boot: bool = True, **fields: object) -> None:
    """Begin a state; with `boot` in a RAM system of its own."""
    run = entry.run + 1 if boot else entry.run
    entry = msgspec.structs.replace(entry, state=state, since=p.now, run=run, tries=0, reason=why, **fields)
    p.put(entry, f"{entry.server} is {state}: {why}")
    p.freed = True  # whoever waits for a server may have it now, and whose machine was there is told


def late(p: Planning, entry: MetalEntry, what: str, give_up: GiveUp | None = None) -> bool:
    """Handle a boot or a task that leads to nothing; True where the server was given up, which is to quarantine it
    unless said otherwise.

    The clock is that of the step that began it, so that a controller which was away is not taken for a slow server.
    """
    give_up = give_up or quarantine
    disk = entry.state == "deploying" and entry.written  # after quarantine, what is written is not booted
    boot = "BootDisk" if disk else "BootMedia"
    begun = p.attempt(entry.key, boot).of(entry.generation)
    if begun.running or not begun.succeeded:
        if not begun.count:
            return False
        limit = begun.first + p.policy.metal_give_up
        if p.now < limit or begun.running:
            p.at(limit)
            return False
        give_up(p, entry, f"{boot} failed {begun.count} times, last: {begun.last_error}")
        return True
    limit = begun.succeeded + p.policy.metal_boot_timeout
    seen = p.inventory.server(entry.server)
    lost = seen is not None and not seen.value.connected and seen.value.run == entry.run
    if lost and seen is not None and seen.time > begun.succeeded and not disk:
        limit = min(limit, seen.time + p.policy.metal_lost)
    passed_over = not disk and runs_its_disk(p, entry, begun.succeeded)
    if p.now < limit and not passed_over:
        p.at(limit)
        return False
    if entry.tries + 1 >= p.policy.metal_tries:
        give_up(p, entry, f"{what} did not report in {entry.tries + 1} boots")
        return True
    if passed_over:
        said = "it booted from its disk, not from its medium"
    elif lost:
        said = f"{what} was lost"
    else:
        said = f"{what} did not report within {p.policy.metal_boot_timeout / 60:.0f} min"
    again(p, entry, said, tries=entry.tries + 1)
    return False


def again(p: Planning, entry: MetalEntry, why: str, **fields: object) -> None:
    """Start it once more for what its state asks."""
    entry = msgspec.structs.replace(entry, run=entry.run + 1, reason=why, **fields)
    p.put(entry, f"{entry.server} is started again: {why}")


def runs_its_disk(p: Planning, entry: MetalEntry, since: float) -> bool:
    """What lies on its disk has told of itself since: the firmware passed the medium over. What was given up must not
    run on until the boot's time is over."""
    seen = p.inventory.server(entry.server)
    return seen is not None and seen.time > since and system(p, entry.server) in {"node", "hypervisor"}


def system(p: Planning, server: ServerName) -> str:
    """What runs on it, as its agent tells now; empty where that is not known."""
    seen = p.inventory.server(server)
    return seen.value.system if seen is not None and p.usable(server) else ""


def ram(p: Planning, entry: MetalEntry) -> MetalView | None:
    """What its RAM system tells, in the boot that is wanted; None where it is not there, which is waited for."""
    view = ram_system(p.inventory, entry) if p.usable(entry.server) else None
    if view is None and not late(p, entry, "its RAM system"):
        wait(p, entry, "its RAM system is to start")
    return view


def failed(p: Planning, entry: MetalEntry, view: MetalView, step: str) -> bool:
    """Quarantine it where its step failed too often; True where it did. What is still at work has not failed."""
    history = p.attempt(entry.key, step)
    if history.count < p.policy.step_attempts_limit or history.running or view.task:
        return False
    quarantine(p, entry, f"{step} failed {history.count} times, last: {history.last_error}")
    return True


def quarantine(p: Planning, entry: MetalEntry, why: str, **fields: object) -> None:
    """Give it to nobody. What a machine or a hypervisor wrote, or what could not be erased, is released by nobody."""
    was = entry.underlying
    held = entry.held or was == "erasing" or (was in {"deploying", "deployed"} and entry.written)
    into(p, entry, "quarantined", why, boot=False, held=held, **fields)


def wait(p: Planning, entry: MetalEntry, doing: str) -> None:
    """Say what its state waits for."""
    p.wait(entry.key, Waiting.METAL, f"{entry.server} is {entry.state}: {doing}")
