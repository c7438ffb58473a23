"""What the lab as a whole does with its bare servers: power by a person's order, faults, and mending.

Each function says whether it takes the lab's lock or needs it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bedplate.lab import bmc, faults, metal, processes, wiring
from bedplate.lab.config import LabState, MetalState
from bedplate.lab.errors import LabError
from bedplate.lab.faults import Fault, FaultKind, KeptFault
from bedplate.lab.keeper import Keeper, Progress, find_server

KINDS: tuple[FaultKind, ...] = ("power-off", "power-feed", "partition", "bmc")
"""The faults that a bare server can have."""
POWER: frozenset[FaultKind] = frozenset({"power-off", "power-feed"})


def power(lab: Keeper, name: str, action: str) -> None:
    """Cut a bare server's power, or give it. Takes the lock; a cut is made before."""
    if action not in ("on", "off"):
        raise LabError(f"a bare server can't be made to {action}: it has power, on or off")
    if action == "off":
        metal.end(find_server(lab.load(), name))
    with lab.changing() as state:
        one = find_server(state, name)
        if action == "off":
            one.dark = False
            metal.cut(lab, state, one)
        else:
            metal.power_on(lab, state, one)


def fault(lab: Keeper, name: str, wanted: Fault) -> None:
    """Break a bare server or its BMC. Takes the lock."""
    faults.check(wanted)
    if faults.kind(wanted) not in KINDS:
        raise LabError(f"a bare server can't have the fault {faults.kind(wanted)}: it can have {', '.join(KINDS)}")
    if isinstance(wanted, faults.Partition) and wanted.storage:
        raise LabError("a bare server hangs on no shared disk pool: give partition without --storage")
    ran = metal.powered(lab.folder, find_server(lab.load(), name))
    if isinstance(wanted, faults.PowerOff):
        metal.end(find_server(lab.load(), name))
    with lab.changing() as state:
        one = find_server(state, name)
        one.faults[faults.kind(wanted)] = KeptFault(wanted, time.time())
        one.dark = one.dark or (ran and faults.kind(wanted) in POWER)
        lab.save(state)
        if isinstance(wanted, faults.PowerFeed):
            bmc.halt(one)  # and not ended: what is asked of it then runs into a timeout
        if isinstance(wanted, faults.Partition):
            _link(lab, state, one)
        if faults.kind(wanted) in POWER:
            metal.cut(lab, state, one)


def clear(lab: Keeper, state: LabState, name: str, kind: FaultKind | None, progress: Progress) -> list[str]:
    """Undo the faults of bare servers (empty: all; of one kind); give those that had some. Needs the lock.

    A server whose power a fault took has it again. One that is off for another reason stays so.
    """
    if name and name not in state.servers:
        return []
    chosen = [name] if name else list(state.servers)
    hurt = [each for each in chosen if _hurt(state.servers[each], kind)]
    dark = [each for each in hurt if _lost_power(state.servers[each], kind)]
    mend(lab, state, hurt, progress, kind)
    for each in dark:
        if not POWER & set(state.servers[each].faults):
            metal.power_on(lab, state, state.servers[each])
    return hurt


def mend(lab: Keeper, state: LabState, names: Sequence[str], progress: Progress, kind: FaultKind | None = None) -> None:
    """Undo faults (of one kind), then have the BMCs run. Needs the lock.

    Their power stays as it is; but a server that hangs on a switch that is gone is ended, for it can't be plugged into
    another.
    """
    for name in names:
        one = state.servers[name]
        kinds: list[FaultKind] = list(one.faults) if kind is None else [kind]
        for each in kinds:
            if one.faults.pop(each, None) is not None:
                one.dark = one.dark and bool(POWER & set(one.faults))
                lab.save(state)
                progress(name, f"{each} cleared")
        if one.bmc is None:
            bmc.give_port(lab, state, one)
        if "power-feed" not in one.faults:
            bmc.start(lab, state, one)
        if processes.alive(one.process) and not _plugged(lab, state, one):
            metal.cut(lab, state, one)
            progress(name, "its switch is gone: its power is cut")
        _link(lab, state, one)
        progress(name, "on" if metal.powered(lab.folder, one) else "off")


def _hurt(one: MetalState, kind: FaultKind | None) -> bool:
    return kind in one.faults if kind is not None else bool(one.faults) or not bmc.alive(one)


def _lost_power(one: MetalState, kind: FaultKind | None) -> bool:
    return one.dark and any(each in one.faults and kind in (None, each) for each in POWER)


def _link(lab: Keeper, state: LabState, one: MetalState) -> None:
    """Have the ports of one that runs cut or not, as its faults say."""
    if processes.alive(one.process) and _plugged(lab, state, one) and state.switch is not None:
        wiring.set_taps(lab.folder, state.switch, metal.taps(one), "down" if "partition" in one.faults else "up")


def _plugged(lab: Keeper, state: LabState, one: MetalState) -> bool:
    return state.switch is not None and set(metal.taps(one)) <= wiring.plugged(lab.folder, state.switch)
