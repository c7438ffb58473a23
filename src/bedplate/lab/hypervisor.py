"""One hypervisor of the lab: its folder, its boot, its power. Keeps no state: the caller remembers, and locks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bedplate.lab import libvirt_config, processes
from bedplate.lab.cgroups import Cgroups
from bedplate.lab.config import HypervisorState, LabNetwork, ProcessId
from bedplate.lab.disk_limits import device_of
from bedplate.lab.errors import LabError
from bedplate.lab.faults import Partition, SlowDisk

POOLS = "/var/lib/bedplate/pools"
SHARED_POOL = f"{POOLS}/shared"
"""Path of the shared storage inside every hypervisor: the same folder in all of them."""
LOCAL_POOL = f"{POOLS}/local"
"""Path of the local storage inside each hypervisor: a folder of its own."""
CUT = "bedplate-cut"
"""Source, as mounts have one, of the empty file system that lies over the shared storage while that is cut off."""
LIBVIRT = "libvirtd"
ANSWER_LIMIT = 30.0
"""Seconds for a fresh libvirtd to answer; it takes 0.2 on an idle machine."""


def home(folder: Path, name: str) -> Path:
    """The hypervisor's folder on the host."""
    return folder / name


def shared_folder(folder: Path) -> Path:
    """The shared storage on the host."""
    return folder / "shared"


def log_path(folder: Path, name: str, service: str) -> Path:
    """Log of a service, or of the hypervisor itself ("init")."""
    return home(folder, name) / "logs" / f"{service}.log"


def socket_path(folder: Path, name: str) -> Path:
    """libvirt's socket as the host sees it."""
    return home(folder, name) / "run" / "libvirt" / "libvirt-sock"


def uri(folder: Path, name: str) -> str:
    """libvirt's URI for clients on the host."""
    return f"qemu:///system?socket={socket_path(folder, name)}"


def write_service(
    folder: Path, name: str, service: str, argv: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Put a service there, whole at once; the hypervisor starts it at its next look."""
    definition: dict[str, Any] = {
        "argv": list(argv),
        "env": processes.service_environment(environment),
        "log": str(log_path(folder, name, service)),
    }
    path = home(folder, name) / "services" / f"{service}.json"
    temporary = path.with_suffix(".new")
    temporary.touch(0o600)
    temporary.write_text(json.dumps(definition))
    temporary.replace(path)


def services(folder: Path, name: str) -> tuple[str, ...]:
    """Names of the services that were put there, without libvirt itself."""
    found = sorted(path.stem for path in (home(folder, name) / "services").glob("*.json"))
    return tuple(service for service in found if service != LIBVIRT)


def write_hosts(folder: Path, hypervisors: Mapping[str, HypervisorState], network: LabNetwork) -> None:
    """Write `/etc/hosts` of all hypervisors, in place: it is mounted in each."""
    (folder / "hosts").write_text(libvirt_config.hosts(hypervisors.values(), network.gateway))


def prepare(folder: Path, hypervisor: HypervisorState, network: LabNetwork, kvm: bool) -> Path:
    """Write what the hypervisor boots from; empty what a reboot empties. Give the boot file."""
    base = home(folder, hypervisor.name)
    shutil.rmtree(base / "run", ignore_errors=True)
    for part in ("etc/qemu/networks", "etc/nwfilter", "etc/pki/qemu", "lib", "cache", "log", "run", "services", "logs"):
        (base / part).mkdir(parents=True, exist_ok=True)
    for pool in ("shared", "local"):
        (base / "bedplate/pools" / pool).mkdir(parents=True, exist_ok=True)
    shared_folder(folder).mkdir(exist_ok=True)
    (base / "etc/libvirtd.conf").write_text(libvirt_config.libvirtd_conf(hypervisor))
    (base / "etc/qemu.conf").write_text(libvirt_config.qemu_conf(hypervisor))
    (base / "etc/libvirt.conf").write_text('uri_default = "qemu:///system"\n')
    (base / "machine-id").write_text(hypervisor.host_uuid.replace("-", "") + "\n")
    write_service(folder, hypervisor.name, LIBVIRT, ["libvirtd", "--listen"])
    boot: dict[str, Any] = {
        "name": hypervisor.name,
        "address": hypervisor.address,
        "prefix": network.prefix,
        "mac": hypervisor.mac,
        "mtu": network.mtu,
        "kvm": kvm,
        "storage_cut": CUT if storage_is_cut(hypervisor) else "",
        "shared_pool": SHARED_POOL,
        "stage": str(base / "stage"),
        "services": str(base / "services"),
        "folders": [
            (str(base / "etc"), "/etc/libvirt"),
            (str(base / "lib"), "/var/lib/libvirt"),
            (str(base / "cache"), "/var/cache/libvirt"),
            (str(base / "log"), "/var/log/libvirt"),
            (str(base / "bedplate"), "/var/lib/bedplate"),
            (str(shared_folder(folder)), SHARED_POOL),
            (str(base / "run"), "/run"),
        ],
        "files": [(str(folder / "hosts"), "/etc/hosts"), (str(base / "machine-id"), "/etc/machine-id")],
    }
    path = base / "boot.json"
    path.write_text(json.dumps(boot, indent=2))
    return path


def storage_is_cut(hypervisor: HypervisorState) -> bool:
    """Whether its way to the shared storage is cut by a fault."""
    kept = hypervisor.faults.get("partition")
    return kept is not None and isinstance(kept.fault, Partition) and kept.fault.storage


def boot(folder: Path, hypervisor: HypervisorState, network: LabNetwork, kvm: bool, cgroups: Cgroups) -> ProcessId:
    """Power on: start the hypervisor's first process in namespaces of its own. Faults that last are there at once."""
    end_marked(folder, hypervisor.name, cgroups)  # what a start that was interrupted has left
    cgroups.remove(hypervisor.name)
    path = prepare(folder, hypervisor, network, kvm)
    groups = cgroups.make(hypervisor.name)
    slow = hypervisor.faults.get("slow-disk")
    if slow is not None and isinstance(slow.fault, SlowDisk):
        cgroups.limit_disk(hypervisor.name, device_of(folder), slow.fault.rate)
    return processes.launch(
        folder,
        hypervisor.name,
        [*processes.script("hypervisor_init.py"), str(path)],
        namespaces=["net", "mount", "uts", "ipc", "pid"],
        log=log_path(folder, hypervisor.name, "init"),
        cgroups=groups,
    )


def powered(folder: Path, hypervisor: HypervisorState) -> bool:
    """Whether anything of it runs, also where it was started by somebody who died before noting it."""
    return processes.alive(hypervisor.process) or bool(processes.marked(folder, hypervisor.name))


def cut_power(folder: Path, hypervisor: HypervisorState, cgroups: Cgroups) -> None:
    """End all of it at once; return when nothing of it runs any more. The caller has cut the uplink before."""
    end_boot(hypervisor.name, hypervisor.process, cgroups)
    end_marked(folder, hypervisor.name, cgroups)
    cgroups.remove(hypervisor.name)


def end_boot(name: str, process: ProcessId | None, cgroups: Cgroups) -> None:
    """End that boot of a hypervisor and what runs in it; return when it is gone."""
    if not processes.send(process, signal.SIGKILL):
        return
    _let_go(name, cgroups)
    processes.kill(process)


def end_marked(folder: Path, name: str, cgroups: Cgroups) -> None:
    """End what carries the hypervisor's mark, whether the state knows of it or not."""
    processes.kill_marked(folder, name, lambda: _let_go(name, cgroups))


def _let_go(name: str, cgroups: Cgroups) -> None:
    """Take away what holds even killed processes: the v1 freezer, and a disk that is slow."""
    cgroups.lift_disk(name)
    if cgroups.frozen(name):
        cgroups.freeze(name, False)


def freeze(hypervisor: HypervisorState, cgroups: Cgroups, on: bool) -> None:
    """Halt all processes of the hypervisor, as a hung host, or let them go on."""
    if not cgroups.freeze(hypervisor.name, on):
        signal_members(hypervisor, signal.SIGSTOP if on else signal.SIGCONT, lambda _pid: True)


def signal_members(hypervisor: HypervisorState, number: signal.Signals, chosen: Callable[[int], bool]) -> None:
    """Send a signal to the chosen processes of the hypervisor, also to those that are started meanwhile."""
    if not processes.alive(hypervisor.process) or hypervisor.process is None:
        return
    seen: set[int] = set()
    while fresh := set(members(hypervisor.process)) - seen:
        for pid in filter(chosen, fresh):
            processes.send(processes.identify(pid), number)
        seen |= fresh


def frozen(hypervisor: HypervisorState, cgroups: Cgroups) -> bool:
    """Whether it stands still."""
    process = hypervisor.process
    return cgroups.frozen(hypervisor.name) or (process is not None and processes.stopped(process))


def members(process: ProcessId) -> list[int]:
    """All processes in the PID namespace whose first process is given."""
    namespace = os.readlink(f"/proc/{process.pid}/ns/pid")
    found: list[int] = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                found.append(int(entry))
        except OSError:
            continue
    return found


def answers(folder: Path, name: str, limit: float = 3.0) -> bool:
    """Whether libvirt answers a question within `limit` seconds."""
    try:
        return processes.run(folder, ["virsh", "-q", "-c", uri(folder, name), "hostname"], limit=limit).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def wait_for_libvirt(folder: Path, hypervisor: HypervisorState) -> None:
    """Return when libvirt answers; raise LabError with the end of its log when it does not."""
    path = str(socket_path(folder, hypervisor.name))
    deadline = time.monotonic() + ANSWER_LIMIT
    while time.monotonic() < deadline and processes.alive(hypervisor.process):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError:
                time.sleep(0.02)
                continue
        if answers(folder, hypervisor.name, limit=10.0):
            return
    log = log_path(folder, hypervisor.name, LIBVIRT)
    last = log.read_text(errors="replace").strip().splitlines()[-3:] if log.exists() else []
    raise LabError(
        f"libvirt on {hypervisor.name} does not answer; the end of {log}: {' / '.join(last) or 'empty'}; power it off"
        " and call `bedplate lab up` again"
    )
