"""The power of one server of the lab: its boot with all that belongs to it, and its end.

Called with the lab's lock held, but for `go_dark`, which needs none.
"""

from __future__ import annotations

import contextlib
import sys

import msgspec

from bedplate.lab import faults, hypervisor, processes, wiring
from bedplate.lab.config import HypervisorState, LabState, ProcessId
from bedplate.lab.errors import LabError
from bedplate.lab.keeper import Keeper, Progress


def raise_server(lab: Keeper, state: LabState, one: HypervisorState, progress: Progress, *, wait: bool = True) -> None:
    """On, thawed, plugged in, watched, and (with `wait`) libvirt answering."""
    assert state.switch is not None
    fresh = not processes.alive(one.process)
    if fresh:
        progress(one.name, "booting")
        one.power, one.watchdog = "on", None
        lab.save(state)
        one.process = hypervisor.boot(lab.folder, one, state.network, state.kvm, lab.cgroups)
    elif hypervisor.frozen(one, lab.cgroups):
        hypervisor.freeze(one, lab.cgroups, False)
    one.power = "on"
    lab.save(state)
    if fresh or one.name not in wiring.plugged(lab.folder, state.switch):
        wiring.plug(lab.folder, state.switch, one, state.network.mtu)
    _raise_watchdog(lab, state, one)
    if wait:
        hypervisor.wait_for_libvirt(lab.folder, one)
        progress(one.name, f"up at {one.address}")


def cut(lab: Keeper, state: LabState, one: HypervisorState) -> None:
    """Cut its power, whatever it does, and note so. Faults of its programs end with them."""
    one.power = "off"
    for kind in faults.NEED_POWER:
        one.faults.pop(kind, None)
    lab.save(state)
    switched = state.switch is not None and processes.alive(state.switch)
    if switched and state.switch is not None:
        with contextlib.suppress(LabError):
            wiring.set_link(lab.folder, state.switch, one, "down")
    hypervisor.cut_power(lab.folder, one, lab.cgroups)
    if switched and state.switch is not None:
        wiring.unplug(lab.folder, state.switch, one)


def go_dark(lab: Keeper, name: str, process: ProcessId | None) -> None:
    """End that boot of a server at once: its network first, so that no peer is told. It waits for nobody's lock.

    What is left to do, and the note of it, is for `cut` or `settle`.
    """
    if not processes.alive(process):
        return
    state = lab.load()
    if state.switch is not None and name in state.hypervisors:
        with contextlib.suppress(LabError):
            wiring.set_link(lab.folder, state.switch, state.hypervisors[name], "down")
    hypervisor.end_boot(name, process, lab.cgroups)


def settle(lab: Keeper, state: LabState, one: HypervisorState, process: ProcessId) -> None:
    """Note that that boot has been ended. One that was booted since is given its uplink again and left alone."""
    if one.process == process:
        cut(lab, state, one)
    elif processes.alive(one.process) and state.switch is not None:
        wiring.set_link(lab.folder, state.switch, one, one.uplink)


def _raise_watchdog(lab: Keeper, state: LabState, one: HypervisorState) -> None:
    """Have the watchdog of this boot run. It ends with the boot by itself."""
    if processes.alive(one.watchdog):
        return
    part = f"watchdog-{one.name}"
    processes.kill_marked(lab.folder, part)
    argv = [sys.executable, "-P", "-m", "bedplate.lab.watchdog", str(lab.folder), one.name]
    argv.append(msgspec.json.encode(one.process).decode())
    log = hypervisor.log_path(lab.folder, one.name, "watchdog")
    one.watchdog = processes.launch(lab.folder, part, argv, namespaces=[], log=log)
    lab.save(state)
