"""Starts and ends a lab's BMCs, and keeps their password. What they answer is `bmc_service` and `metal_bmc`.

Each is a process of its own, so that one power feed takes one of them. Called with the lab's lock held.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from bedplate.lab import hypervisor, processes
from bedplate.lab.config import BmcState, HypervisorState, LabState, MetalState
from bedplate.lab.errors import LabError
from bedplate.lab.keeper import Keeper

Managed = HypervisorState | MetalState
"""What a BMC is there for."""
USER = "admin"
PORTS = range(20000, 32000)
"""Below those that Linux gives to outgoing connections (32768 and up), so that a BMC finds its port again."""
HALT_LIMIT = 5.0
"""Seconds for the kernel to stop a process; it takes less than one hundredth."""


def part(name: str) -> str:
    """The mark of a server's BMC."""
    return f"bmc-{name}"


def home(folder: Path, name: str) -> Path:
    """Where a BMC keeps what it keeps."""
    return hypervisor.home(folder, name) / "bmc"


def address(one: Managed) -> str:
    """The BMC's address on the host, as a Server object names it; empty where it has none yet."""
    return "" if one.bmc is None else f"redfish+http://127.0.0.1:{one.bmc.port}/redfish/v1/Systems/{one.host_uuid}"


def password(folder: Path) -> str:
    """The password of the lab's BMCs; made when it is first asked for, once, whoever else asks at that moment."""
    path = folder / "bmc-password"
    if not path.exists():
        handle, fresh = tempfile.mkstemp(prefix=".bmc-password-", dir=folder)  # mode 0600
        with open(handle, "w") as file:
            file.write(secrets.token_urlsafe(24))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        os.unlink(fresh)
    return path.read_text()


def alive(one: Managed) -> bool:
    """Whether the BMC runs and is not halted."""
    process = None if one.bmc is None else one.bmc.process
    return process is not None and processes.alive(process) and not processes.stopped(process)


def halt(one: Managed) -> None:
    """Stop the BMC where it stands; return when all of it does. It then holds no lock that others wait for."""
    process = None if one.bmc is None else one.bmc.process
    if process is None or not processes.send(process, signal.SIGSTOP):
        return
    deadline = time.monotonic() + HALT_LIMIT
    while processes.alive(process) and not processes.stopped(process):
        if time.monotonic() > deadline:
            raise LabError(f"the BMC of {one.name} could not be halted within {HALT_LIMIT:g} s: call it again")
        time.sleep(0.005)


def give_port(lab: Keeper, state: LabState, one: Managed) -> None:
    """Choose the BMC's port, for as long as the lab lives."""
    every: list[Managed] = [*state.hypervisors.values(), *state.servers.values()]
    taken = [each.bmc.port for each in every if each.bmc is not None]
    one.bmc = BmcState(_free_port(taken))
    lab.save(state)


def start(lab: Keeper, state: LabState, one: Managed) -> None:
    """Have the BMC run. One that is halted is replaced: what was asked of it meanwhile is never done."""
    if alive(one):
        return
    if one.bmc is None:
        give_port(lab, state, one)
    assert one.bmc is not None
    processes.kill_marked(lab.folder, part(one.name))
    home(lab.folder, one.name).mkdir(parents=True, exist_ok=True)
    password(lab.folder)
    module = "bedplate.lab.metal_bmc" if isinstance(one, MetalState) else "bedplate.lab.bmc_service"
    argv = [sys.executable, "-P", "-m", module, str(lab.folder), one.name]
    log = hypervisor.log_path(lab.folder, one.name, "bmc")
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        one.bmc.process = processes.launch(lab.folder, part(one.name), argv, namespaces=[], log=log)
    except LabError as error:
        if "address already in use" in str(error).lower():
            raise LabError(
                f"port {one.bmc.port} of 127.0.0.1 is in use, and the BMC of {one.name} needs it: end the program that"
                " has it, then call `bedplate lab up`"
            ) from None
        raise
    lab.save(state)


def _free_port(taken: Iterable[int]) -> int:
    """A port of the loopback that nobody has now and no other BMC may want."""
    chosen = set(taken)
    for port in random.sample(PORTS, len(PORTS)):
        if port in chosen:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LabError("no port is free on 127.0.0.1 for a BMC")
