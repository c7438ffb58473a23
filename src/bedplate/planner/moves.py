"""Live migrations: begun where planning wants a machine elsewhere, and ended as what both sides show.

After a move of unknown outcome nothing is started until both sides were read, or one of them is confirmed dead
(rule 1).
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ServerName
from bedplate.model.inventory import DomainView
from bedplate.model.report import Waiting
from bedplate.model.whereabouts import ALIVE
from bedplate.planner import relocation
from bedplate.planner.context import Planning

_TRIES = 3
"""Failed tries of one migration before it is called off: the guest runs on where it is."""
_REST = 600.0
"""Seconds after a move was called off in which it is not begun again: what hindered it has hardly changed."""


def begin(p: Planning, m: MachineEntry, target: ServerName, reason: str) -> MachineEntry:
    """Have a machine move: live where it runs, else its next start is there."""
    running = relocation.runs(p, m)
    model = m.cpu_model if running else relocation.cold(p, m)
    recent = (*(t for t in m.moves if t > p.now - p.policy.move_window), p.now)
    source = m.server if running else ServerName("")
    moved = msgspec.structs.replace(
        m, server=target, source=source, carried=True, moves=recent, reason=reason, cpu_model=model
    )
    return p.put(moved, f"{m.name} moves {'live ' if running else ''}from {m.server} to {target}: {reason}")


def failed_lately(p: Planning, m: MachineEntry) -> str:
    """Why a move of this machine should not be begun now: the last one failed; empty: it may be."""
    for step in ("MigrateDomain", "ReceiveDomain"):
        history = p.attempt(m.key, step)
        if history.count >= _TRIES and history.last + _REST > p.now:
            p.at(history.last + _REST)
            return f"its last move failed {history.count} times, last: {history.last_error}"
    return ""


def _tries(p: Planning, m: MachineEntry, step: str) -> int:
    """Failed tries of the present move; those of earlier ones say nothing of it."""
    history = p.attempt(m.key, step)
    return history.count if history.generation == m.generation else 0


def settle(p: Planning, m: MachineEntry) -> None:
    """Look at a machine that moves: is it there, has it failed, did an end of the move die?"""
    here, there = _at(p, m, m.server), _at(p, m, m.source)
    runs_here = here is not None and here.state == "running"
    runs_there = there is not None and there.state in ALIVE
    none_here = here is None or here.state not in ALIVE
    if p.dead(m.source):
        _without_source(p, m, here)
    elif p.dead(m.server):
        _without_target(p, m, runs_there=runs_there)
    elif p.busy(m.key) or not p.usable(m.server) or not p.usable(m.source):
        p.wait(m.key, Waiting.MIGRATION, f"it moves live from {m.source} to {m.server}: {m.reason}")
    elif runs_here and not runs_there:
        _arrived(p, m)
    elif m.desired in {"drain", "remove"} and none_here:
        back = msgspec.structs.replace(m, server=m.source, source=ServerName(""))
        p.put(back, f"{m.name} goes from where it is, {m.source}: it is given up and moves no more")
    # A guest that is paused here is on its way: the libvirts carry a move on, whoever has stopped waiting for its end.
    elif runs_there and none_here and _tries(p, m, "MigrateDomain") >= _TRIES:
        _call_off(p, m, p.attempt(m.key, "MigrateDomain").last_error)
    elif runs_there and none_here and _tries(p, m, "ReceiveDomain") >= _TRIES:
        _call_off(p, m, p.attempt(m.key, "ReceiveDomain").last_error)
    elif not runs_there and none_here:
        said = f"{m.name} ended while it moved from {m.source}; it is started on {m.server}"
        p.put(_ended(p, m), said)
    else:
        p.wait(m.key, Waiting.MIGRATION, f"it moves live from {m.source} to {m.server}: {m.reason}")


def _at(p: Planning, m: MachineEntry, server: ServerName) -> DomainView | None:
    seen = p.inventory.domain(server, m.uid)
    return seen.value if seen is not None else None


def _arrived(p: Planning, m: MachineEntry) -> None:
    p.put(msgspec.structs.replace(m, source=ServerName("")), f"{m.name} has moved from {m.source} to {m.server}")
    p.freed = True


def _call_off(p: Planning, m: MachineEntry, error: str) -> None:
    back = msgspec.structs.replace(m, server=m.source, source=ServerName(""), carried=m.carried)
    p.put(back, f"{m.name} stays on {m.source}: its move to {m.server} failed {_TRIES} times, last: {error}")
    p.freed = True


def _ended(p: Planning, m: MachineEntry) -> MachineEntry:
    boot = m.boot + (m.desired == "run")
    return msgspec.structs.replace(m, source=ServerName(""), boot=boot, restarts=(*m.restarts, p.now))


def _without_source(p: Planning, m: MachineEntry, here: DomainView | None) -> None:
    """Where it came from is confirmed dead: what runs at the target is all that runs."""
    if here is not None and here.state == "running":
        _arrived(p, m)
    elif p.usable(m.server) and not p.busy(m.key) and (here is None or here.state not in ALIVE):
        p.put(_ended(p, m), f"{m.name} is started on {m.server}: {m.source} died while it moved from there")
    else:
        p.wait(m.key, Waiting.MIGRATION, f"{m.source} died while it moved; what runs on {m.server} is not known yet")


def _without_target(p: Planning, m: MachineEntry, *, runs_there: bool) -> None:
    if not p.usable(m.source) or p.busy(m.key):
        said = f"{m.server} died while it moved there; what runs on {m.source} is not known yet"
        p.wait(m.key, Waiting.MIGRATION, said)
    elif runs_there:
        back = msgspec.structs.replace(m, server=m.source, source=ServerName(""))
        p.put(back, f"{m.name} stays on {m.source}: {m.server} died while it moved there")
    else:
        # It had arrived and died there: it is one of the dead server's machines now.
        p.put(msgspec.structs.replace(m, source=ServerName("")), f"{m.name} had moved to {m.server}, which died")
