"""The fleet's reserve, asked before anything new is placed: would failures still find room?

What replaces something, after a failure or in a roll-out, may use the reserve: that is what it is for.
"""

from __future__ import annotations

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Key, MachineUid
from bedplate.model.report import Waiting
from bedplate.planner import placement
from bedplate.planner.balancing.problem import Amounts, BalanceMachine, BalanceServer, KeepFree, Problem, Terms
from bedplate.planner.balancing.reserve import Reserve, Shortage
from bedplate.planner.context import Planning, as_machine
from bedplate.planner.placement import Place, Request

_ASKED = MachineUid("asked-for")


def place(p: Planning, owner: Key, r: Request, what: str, *, replaces: bool) -> Place | None:
    """The best place for a new machine; None where there is none, or where the reserve would be used for it (the
    owner's wait says which). `replaces`: it stands in for a machine that goes."""
    found = placement.choose(p, r)
    if found is None:
        placement.wait_for_room(p, owner, r, what)
        return None
    keep = p.spec.fleet.reserve
    if not keep.servers or replaces:
        return found
    book = _book(p)
    asked = BalanceMachine(uid=_ASKED, server=found.server, memory_mib=r.memory_mib, vcpus=float(r.cpu))
    if book.admits(asked, found.server):
        return found
    book.add(asked, found.server)
    short = book.shortages()
    book.remove(_ASKED)
    p.wait(owner, Waiting.NO_ROOM, f"{what}: {_sentence(keep.servers, keep.per, short)}", wanted=placement.wanted(r))
    return None


def _sentence(servers: int, per: str, short: tuple[Shortage, ...]) -> str:
    within = f" within each {per}" if per else ""
    kept = f"room is kept for the failure of {servers} server{'s' if servers > 1 else ''}{within}"
    if not short:
        return f"{kept}, and none is left beside it"
    worst = max(short, key=lambda s: s.missing_mib)
    lost = ", ".join(worst.failed)
    return f"{kept}: with it, {worst.missing_mib} MiB would be missing if {lost} failed"


def _book(p: Planning) -> Reserve:
    if p.reserve is None:
        keep = p.spec.fleet.reserve
        problem = Problem(servers=_servers(p), machines=_machines(p), terms=Terms(now=p.now))
        p.reserve = Reserve(problem, KeepFree(servers=keep.servers, per=keep.per))
    return p.reserve


def _servers(p: Planning) -> tuple[BalanceServer, ...]:
    return tuple(
        BalanceServer(
            name=s.name,
            capacity=Amounts(),
            memory_mib=s.memory_capacity,
            vcpus=s.cpu_capacity,
            domains=s.domains,
            unschedulable=s.unschedulable or bool(s.failing or s.emptied_because(p.now)),
        )
        for s in p.index.fleet.servers.values()
        if s.hypervisor and s.connected
    )


def _machines(p: Planning) -> tuple[BalanceMachine, ...]:
    entries = (e for e in p.index.entries.values() if isinstance(e, MachineEntry) and e.desired != "remove")
    return tuple(as_machine(m) for m in entries)
