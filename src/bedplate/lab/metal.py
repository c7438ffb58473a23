"""One bare server of the lab: a UEFI machine of QEMU, its files, its power, its CD drive and its boot order.

Called with the lab's lock held, but for `end`, `powered` and what only builds words. A blank machine knows nothing of
a lab; what it boots is its BMC's to say.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from bedplate.lab import hypervisor, preflight, processes, qmp, wiring
from bedplate.lab.config import BootTarget, LabState, MetalState, ProcessId
from bedplate.lab.errors import LabError
from bedplate.lab.keeper import Keeper

CONSOLE = "console"
"""Name of the log that its serial console is kept in."""
START_LIMIT = 60.0
"""Seconds for QEMU to answer its monitor; it takes 0.3 on an idle computer."""
LATER = 100
"""Boot indexes of the boots after the first begin here: QEMU takes none twice."""


def home(folder: Path, name: str) -> Path:
    """The server's folder: disks, firmware's variables, medium, logs."""
    return hypervisor.home(folder, name)


def monitor(folder: Path, name: str) -> Path:
    """Socket of QEMU's monitor."""
    return home(folder, name) / "qmp"


def medium(folder: Path, name: str) -> Path:
    """File of what is in the CD drive."""
    return home(folder, name) / "medium.iso"


def taps(one: MetalState) -> list[str]:
    """Names of its ports at the switch, one for each card."""
    return [f"{one.name}-{number}" for number in range(len(one.macs))]


def boot_order(one: MetalState, first: BootTarget) -> list[str]:
    """Names of its devices in the order in which the firmware tries them."""
    disks = [f"disk{number}" for number in range(len(one.disks))]
    cards = [f"card{number}" for number in range(len(one.macs))]
    groups = {"Hdd": disks, "Cd": ["cd"], "Pxe": cards}
    chosen = groups.get(first, [])
    return chosen + [name for group in groups.values() if group is not chosen for name in group]


def command(folder: Path, one: MetalState, *, kvm: bool) -> list[str]:
    """QEMU's command line."""
    base = home(folder, one.name)
    order = {name: place for place, name in enumerate(boot_order(one, one.boot))}
    argv = ["qemu-system-x86_64", "-name", one.name, "-uuid", one.host_uuid]
    argv += ["-machine", "q35,pflash0=code,pflash1=vars"]
    argv += ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg,thread=multi", "-cpu", "max"]
    argv += ["-m", str(one.memory), "-smp", str(one.cpus), "-nodefaults", "-no-user-config", "-display", "none", "-S"]
    argv += ["-smbios", f"type=1,manufacturer=Bedplate,product=Lab server,serial={one.name}"]
    argv += ["-chardev", f"socket,id=qmp,path={_text(monitor(folder, one.name))},server=on,wait=off"]
    argv += ["-mon", "chardev=qmp,mode=control"]
    log = hypervisor.log_path(folder, one.name, CONSOLE)
    argv += ["-chardev", f"file,id=console,path={_text(log)},append=on", "-serial", "chardev:console"]
    argv += _node("code", preflight.FIRMWARE / "OVMF_CODE_4M.fd", read_only=True) + _node("vars", base / "vars.fd")
    argv += ["-device", "virtio-rng-pci"]
    for number, disk in enumerate(one.disks):
        name = f"disk{number}"
        device: dict[str, Any] = {"id": name, "drive": f"{name}-file", "serial": disk.serial, "bootindex": order[name]}
        match disk.bus:
            case "virtio":
                device["driver"] = "virtio-blk-pci"
            case "sata":
                device |= {"driver": "ide-hd", "bus": f"ide.{number}"}
            case "nvme":
                device["driver"] = "nvme"
        argv += [*_node(f"{name}-file", base / f"{name}.raw"), "-device", json.dumps(device)]
    cd: dict[str, Any] = {"driver": "ide-cd", "id": "cd", "bus": "ide.5", "bootindex": order["cd"]}
    if one.medium:
        argv += _node("medium", medium(folder, one.name), read_only=True)
        cd["drive"] = "medium"
    argv += ["-device", json.dumps(cd)]
    for number, (mac, tap) in enumerate(zip(one.macs, taps(one), strict=True)):
        argv += ["-netdev", f"tap,id=net{number},ifname={tap},script=no,downscript=no"]
        card = {"driver": "virtio-net-pci", "id": f"card{number}", "netdev": f"net{number}", "mac": mac}
        argv += ["-device", json.dumps(card | {"romfile": "", "bootindex": order[f"card{number}"]})]
    return argv


def _node(name: str, path: Path, *, read_only: bool = False) -> list[str]:
    node: dict[str, Any] = {"driver": "raw", "node-name": name, "read-only": read_only}
    if not read_only:
        node["discard"] = "unmap"
    return ["-blockdev", json.dumps(node | {"file": {"driver": "file", "filename": str(path)}})]


def _text(path: Path) -> str:
    """A path as QEMU's option parser takes it."""
    return str(path).replace(",", ",,")


def powered(folder: Path, one: MetalState) -> bool:
    """Whether it runs, also where it was started by somebody who died before noting it."""
    return processes.alive(one.process) or bool(processes.marked(folder, one.name))


def power_on(lab: Keeper, state: LabState, one: MetalState) -> None:
    """Give it power, unless it has some. Returns when its firmware runs; an override for once is used up then.

    QEMU waits for its boot order before the firmware starts, so that a start which is interrupted is gone on with.

    Raises:
        LabError: it has no power feed, the switch is dead, or QEMU did not start.
    """
    if "power-feed" in one.faults:
        raise LabError(f"{one.name} has no power feed: `bedplate lab fault clear {one.name}` gives it back")
    if processes.alive(one.process):
        _release(lab.folder, one)
        return
    if state.switch is None or not processes.alive(state.switch):
        raise LabError("the lab's switch is dead: `bedplate lab up` mends it")
    processes.kill_marked(lab.folder, one.name)  # what a start that was interrupted has left
    prepare(lab.folder, one)
    argv = command(lab.folder, one, kvm=state.kvm)
    if one.boot_once:
        one.boot, one.boot_once = "None", False
    one.faults.pop("power-off", None)
    one.process, one.dark = None, False
    lab.save(state)
    link = "down" if "partition" in one.faults else "up"
    wiring.make_taps(lab.folder, state.switch, taps(one), state.network.mtu, link)
    log = hypervisor.log_path(lab.folder, one.name, "qemu")
    start = ["sh", "-c", 'echo ready >&3; exec 3>&-; exec "$@"', "sh"]
    start += ["nsenter", f"--net=/proc/{state.switch.pid}/ns/net", *argv]
    one.process = processes.launch(lab.folder, one.name, start, namespaces=[], log=log)
    lab.save(state)
    _wait(lab.folder, one, one.process, log)
    _release(lab.folder, one)


def prepare(folder: Path, one: MetalState) -> None:
    """Make what is missing of its files: blank disks, sparse, and the firmware's variables."""
    base = home(folder, one.name)
    (base / "logs").mkdir(parents=True, exist_ok=True)
    for number, disk in enumerate(one.disks):
        with open(base / f"disk{number}.raw", "ab") as file:
            if file.tell() < disk.size:
                os.truncate(file.fileno(), disk.size)
    if not (base / "vars.fd").exists():
        shutil.copyfile(preflight.FIRMWARE / "OVMF_VARS_4M.fd", base / "vars.new")
        (base / "vars.new").replace(base / "vars.fd")
    if one.medium and not medium(folder, one.name).exists():
        one.medium = ""
    monitor(folder, one.name).unlink(missing_ok=True)


def _wait(folder: Path, one: MetalState, process: ProcessId, log: Path) -> None:
    """Return when QEMU answers."""
    deadline = time.monotonic() + START_LIMIT
    while processes.alive(process):
        try:
            qmp.ask(monitor(folder, one.name), ("query-status", {}))
            return
        except OSError:
            if time.monotonic() > deadline:
                processes.kill(process)
                raise LabError(f"QEMU of {one.name} does not answer: see {log}, then power it on again") from None
            time.sleep(0.02)
    last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    raise LabError(f"{one.name} did not start: {' '.join(last) or 'QEMU ended at once'} (log: {log})")


def _release(folder: Path, one: MetalState) -> None:
    """Let the firmware start, unless it has. When the machine reboots by itself it has the boot order of the state."""
    (answer,) = qmp.ask(monitor(folder, one.name), ("query-status", {}))
    if answer["status"] != "prelaunch":
        return
    orders = [
        ("qom-set", {"path": f"/machine/peripheral/{name}", "property": "bootindex", "value": LATER + place})
        for place, name in enumerate(boot_order(one, one.boot))
    ]
    qmp.ask(monitor(folder, one.name), *orders, ("cont", {}))


def end(one: MetalState) -> None:
    """Cut its power at once, whatever it does; waits for nobody's lock. The note of it is for `cut`."""
    processes.kill(one.process)


def cut(lab: Keeper, state: LabState, one: MetalState) -> None:
    """Cut its power; nothing of it runs any more then."""
    end(one)
    processes.kill_marked(lab.folder, one.name)
    one.process = None
    lab.save(state)
    if state.switch is not None and processes.alive(state.switch):
        wiring.drop_taps(lab.folder, state.switch, taps(one))


def press_button(lab: Keeper, one: MetalState) -> None:
    """Press the power button: what runs there may shut down, and it may not."""
    if processes.alive(one.process):
        qmp.ask(monitor(lab.folder, one.name), ("system_powerdown", {}))


def insert(lab: Keeper, state: LabState, one: MetalState, url: str, file: Path) -> None:
    """Put a medium into the drive, in the place of one that is there. `file` is taken over."""
    eject(lab, state, one)
    target = medium(lab.folder, one.name)
    file.replace(target)
    one.medium = url
    lab.save(state)
    if processes.alive(one.process):
        change = {"id": "cd", "filename": str(target), "format": "raw", "read-only-mode": "read-only", "force": True}
        qmp.ask(monitor(lab.folder, one.name), ("blockdev-change-medium", change))


def eject(lab: Keeper, state: LabState, one: MetalState) -> None:
    """Take the medium out, also where the system that runs has locked the drive."""
    if processes.alive(one.process) and one.medium:
        qmp.ask(monitor(lab.folder, one.name), ("eject", {"id": "cd", "force": True}))
    one.medium = ""
    lab.save(state)
    medium(lab.folder, one.name).unlink(missing_ok=True)
