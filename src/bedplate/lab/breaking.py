"""Gives faults their effect on a server of the lab, and takes it away again. What faults there are is `faults`.

Called with the lab's lock held. Each effect can be given and taken again and again; what the state remembers and has no
effect yet, or none any more, does no harm.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bedplate.lab import bmc, faults, hypervisor, processes, servers, wiring
from bedplate.lab.config import HypervisorState, LabState
from bedplate.lab.disk_limits import device_of
from bedplate.lab.errors import LabError
from bedplate.lab.faults import Fault, FaultKind, KeptFault, SlowDisk
from bedplate.lab.keeper import Keeper


def inject(lab: Keeper, state: LabState, one: HypervisorState, fault: Fault) -> None:
    """Break a server: note the fault, then let it take effect. The same kind again replaces it.

    Raises:
        LabError: there is no such fault, the server is in no state for it, or this host has no means; it is undone.
    """
    faults.check(fault)
    kind = faults.kind(fault)
    if kind in faults.NEED_POWER and not processes.alive(one.process):
        raise LabError(f"{one.name} has no power and can't hang: `bedplate lab fault clear {one.name}` gives it some")
    if kind in one.faults and one.faults[kind].fault != fault:
        undo(lab, state, one, kind)
    one.faults[kind] = KeptFault(fault, time.time())
    lab.save(state)
    try:
        _EFFECTS[kind](lab, state, one)
    except LabError:
        undo(lab, state, one, kind)
        raise


def undo(lab: Keeper, state: LabState, one: HypervisorState, kind: FaultKind) -> None:
    """Take a fault's effect away, then forget it. Power that it took is not given here: `servers.raise_server` does."""
    if kind not in one.faults:
        return
    match kind:
        case "power-feed":
            bmc.start(lab, state, one)
        case "hang" | "libvirt-hang":
            _go_on(lab, one, kind)
        case "partition":
            _join(lab, state, one)
        case "slow-disk":
            lab.cgroups.lift_disk(one.name)
        case "power-off" | "bmc":
            pass
    del one.faults[kind]
    lab.save(state)


# --- power ---


def _power_off(lab: Keeper, state: LabState, one: HypervisorState) -> None:
    servers.cut(lab, state, one)


def _power_feed(lab: Keeper, state: LabState, one: HypervisorState) -> None:
    """The BMC is halted and not ended: what is asked of it then runs into a timeout, and nobody is told of its end."""
    bmc.halt(one)
    servers.cut(lab, state, one)


# --- programs that stand still ---


def _stand_still(lab: Keeper, _state: LabState, one: HypervisorState) -> None:
    hypervisor.signal_members(one, signal.SIGSTOP, _halted(lab, one, set(one.faults)))


def _go_on(lab: Keeper, one: HypervisorState, without: FaultKind) -> None:
    """Let those go on that no other fault holds."""
    held = _halted(lab, one, set(one.faults) - {without})
    hypervisor.signal_members(one, signal.SIGCONT, lambda pid: not held(pid))


def _halted(lab: Keeper, one: HypervisorState, kinds: set[FaultKind]) -> Callable[[int], bool]:
    """A test whether a process of the server stands still while it has these faults."""
    first = one.process.pid if one.process is not None else 0
    cut_off = _open_files(hypervisor.shared_folder(lab.folder)) if _storage_is_cut(one, kinds) else None

    def stands_still(pid: int) -> bool:
        program = _program(pid)
        if program.startswith("qemu-system-"):
            return cut_off is not None and cut_off(pid)
        # the first process only starts what has died: were it halted too, nothing would look different
        return ("hang" in kinds and pid != first) or ("libvirt-hang" in kinds and program == "libvirtd")

    return stands_still


def _storage_is_cut(one: HypervisorState, kinds: set[FaultKind]) -> bool:
    return "partition" in kinds and hypervisor.storage_is_cut(one)


def _program(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def _open_files(folder: Path) -> Callable[[int], bool]:
    """A test whether a process has a file below the folder open, by whichever path it sees it."""
    there = {(seen.st_dev, seen.st_ino) for path in folder.rglob("*") if (seen := path.lstat())}

    def holds(pid: int) -> bool:
        try:
            handles = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            return False
        for handle in handles:
            with contextlib.suppress(OSError):
                seen = os.stat(f"/proc/{pid}/fd/{handle}")
                if (seen.st_dev, seen.st_ino) in there:
                    return True
        return False

    return holds


# --- network and storage ---


def _part(lab: Keeper, state: LabState, one: HypervisorState) -> None:
    """Cable first. A guest with a disk on the pool stands still, as if each of its requests to it hung."""
    one.uplink = "down"
    lab.save(state)
    if not processes.alive(one.process):
        return
    if state.switch is not None:
        wiring.set_link(lab.folder, state.switch, one, "down")
    if hypervisor.storage_is_cut(one):
        if not _covered(one):
            _mount(lab, one, "mount", "-t", "tmpfs", "-o", "ro,nosuid,nodev,mode=0555,size=4k", hypervisor.CUT)
        _stand_still(lab, state, one)


def _join(lab: Keeper, state: LabState, one: HypervisorState) -> None:
    one.uplink = "up"
    lab.save(state)
    if not processes.alive(one.process):
        return
    while _covered(one):
        _mount(lab, one, "umount", "--lazy")
    _go_on(lab, one, "partition")
    if state.switch is not None:
        wiring.set_link(lab.folder, state.switch, one, "up")


def _covered(one: HypervisorState) -> bool:
    """Whether an empty file system lies over the shared pool in the server's mount namespace."""
    assert one.process is not None
    mounts = [line.split() for line in Path(f"/proc/{one.process.pid}/mountinfo").read_text().splitlines()]
    sources = [words[words.index("-") + 2] for words in mounts if words[4] == hypervisor.SHARED_POOL]
    return bool(sources) and sources[-1] == hypervisor.CUT


def _mount(lab: Keeper, one: HypervisorState, *command: str) -> None:
    """Change what lies at the shared pool's place in the server's mount namespace."""
    assert one.process is not None
    # its PID namespace too: `umount` looks into /proc, which there knows no process from outside
    argv = ["nsenter", f"--target={one.process.pid}", "--mount", "--pid", "--wdns=/", *command, hypervisor.SHARED_POOL]
    done = processes.run(lab.folder, argv)
    if done.returncode != 0:
        raise LabError(f"the shared pool of {one.name} could not be cut off or given back: {done.stderr.strip()}")


# --- disk and BMC ---


def _slow_down(lab: Keeper, _state: LabState, one: HypervisorState) -> None:
    fault = one.faults["slow-disk"].fault
    assert isinstance(fault, SlowDisk)
    if not processes.alive(one.process):
        lab.cgroups.make(one.name)  # made anew at its boot: here it tells whether this host can limit at all
    lab.cgroups.limit_disk(one.name, device_of(lab.folder), fault.rate)


def _tell_nobody(_lab: Keeper, _state: LabState, _one: HypervisorState) -> None:
    """The BMC looks for its faults in the state at every request."""


_EFFECTS: dict[FaultKind, Callable[[Keeper, LabState, HypervisorState], None]] = {
    "power-off": _power_off,
    "power-feed": _power_feed,
    "hang": _stand_still,
    "libvirt-hang": _stand_still,
    "partition": _part,
    "slow-disk": _slow_down,
    "bmc": _tell_nobody,
}
