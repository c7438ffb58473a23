"""Puts the lab together: hypervisors, a controller beside them, agents in them, the client's context.

The controller of a lab is an ordinary `bedplate serve`; its agents are ordinary `bedplate agent`s.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bedplate.cli import context
from bedplate.cli.client import Client
from bedplate.cli.errors import UserError
from bedplate.lab import Lab
from bedplate.lab.status import LabStatus

CONTEXT = "lab"
ROOT = "/apis/bedplate.dev/v1alpha1"
START_SECONDS = 30.0
"""A controller starts in a second or two; a busy machine may take ten times that."""
AGENT_SECONDS = 60.0

Progress = Callable[[str, str], None]


def _quiet(_part: str, _words: str) -> None:
    """Say nothing."""


def lab_up(
    hypervisors: int | None = None,
    servers: int | None = None,
    server_memory: int | None = None,
    progress: Progress = _quiet,
) -> LabStatus:
    """Bring the lab up, or mend what is dead of it: hypervisors, controller, agents, declared infrastructure, context.

    `servers`: how many bare servers, with `server_memory` MiB each. They are not declared: that is the user's to do.

    Raises:
        LabError, UserError: one sentence with the remedy.
    """
    lab = Lab()
    status = lab.up(hypervisors=hypervisors, bare=servers, memory=server_memory, progress=progress)
    controller = LabController(Path(status.folder))
    address = f"{status.network.gateway}:{controller.agents_port}"
    controller.ensure(progress, emulated=_emulated(), proxy_url=status.socks_url, agent_address=address)
    lab.relay(controller.agents_port, controller.agents_port)
    client = Client(controller.context())
    _declare(client, status, lab.bmc_login())
    for one in status.hypervisors:
        progress(one.name, "enrolling its agent")
        enrol_file = Path(status.folder) / f"enrol-{one.name}.json"
        answer = client.request("POST", f"{ROOT}/servers/{one.name}/enrol", {"controller": address})
        _write_private(enrol_file, json.dumps(answer))
        agent = [*_program(), "agent", "--enrol-file", str(enrol_file), "--watchdog", "/dev/watchdog"]
        lab.spawn_agent(one.name, agent, env={"PYTHONUNBUFFERED": "1", **_same_tree()})
    register_images(client, progress)
    _wait_for_agents(client, [h.name for h in status.hypervisors], progress)
    return lab.status()


def lab_down(progress: Progress = _quiet) -> bool:
    """End the controller and the lab and remove all that is in it; False: there was none."""
    lab = Lab()
    status = lab.status()
    folder = Path(status.folder)
    if (folder / "controller").exists():
        progress("controller", "stopping")
        LabController(folder).stop()
    there = lab.down(progress)
    with contextlib.suppress(UserError):
        context.remove(CONTEXT)
    return there


def lab_status() -> LabStatus:
    """What runs of the lab."""
    return Lab().status()


def socks_url() -> str:
    """The lab's SOCKS proxy, or nothing where no lab is up."""
    from bedplate.lab import LabError

    try:
        status = Lab().status()
    except LabError:
        return ""
    return status.socks_url if status.phase == "up" else ""


class LabController:
    """The lab's `bedplate serve`: started detached, known by its process id file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "controller"
        self._ports_file = self.folder / "ports.json"
        self._options_file = self.folder / "options.json"
        self._pid_file = self.folder / "pid"
        self.context_file = self.folder / "context"
        self.log = self.folder / "log"
        self.api_port, self.agents_port = self._ports()

    def _ports(self) -> tuple[int, int]:
        if self._ports_file.exists():
            api, agents = json.loads(self._ports_file.read_text())
            return int(api), int(agents)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ports = (_free_port(), _free_port())
        self._ports_file.write_text(json.dumps(ports))
        return ports

    def ensure(
        self,
        progress: Progress = _quiet,
        *,
        emulated: bool | None = None,
        proxy_url: str | None = None,
        agent_address: str | None = None,
    ) -> None:
        """Start it where it does not run, and wait until it answers. None: as it was started last."""
        if not self.running():
            progress("controller", "starting")
            kept: dict[str, Any] = json.loads(self._options_file.read_text()) if self._options_file.exists() else {}
            self.start(
                emulated=bool(kept.get("emulated", True)) if emulated is None else emulated,
                proxy_url=str(kept.get("proxyURL", "")) if proxy_url is None else proxy_url,
                agent_address=str(kept.get("agentAddress", "")) if agent_address is None else agent_address,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.running():
                raise UserError(f"the controller ended at once: {_last_line(self.log)}; its log is {self.log}")
            if time.monotonic() > deadline:
                raise UserError(f"the controller does not answer after {START_SECONDS:.0f} s; its log is {self.log}")
            time.sleep(0.05)
        found = self.context()
        context.save(CONTEXT, found.server, found.ca, found.token)
        progress("controller", "answers")

    def start(self, *, emulated: bool = True, proxy_url: str = "", agent_address: str = "") -> None:
        """Start it, detached from this process. `agent_address`: where it is reached from inside of the lab."""
        kept = {"emulated": emulated, "proxyURL": proxy_url, "agentAddress": agent_address}
        self._options_file.write_text(json.dumps(kept))
        argv = [*_program(), "serve", "--data", str(self.folder / "data"), "--listen", f"127.0.0.1:{self.api_port}"]
        argv += ["--agents", f"127.0.0.1:{self.agents_port}", "--context-file", str(self.context_file)]
        if agent_address:  # the lab's BMCs are on the host's loopback, where its servers are not
            argv += ["--agent-address", agent_address, "--media-url", f"https://127.0.0.1:{self.agents_port}"]
        if emulated:
            argv.append("--emulated-guests")
        if proxy_url:
            argv += ["--proxy-url", proxy_url]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        self._pid_file.write_text(f"{process.pid} {_started(process.pid)}")

    def context(self) -> context.Context:
        """The administrator's context of this controller."""
        return context.load(self.context_file)

    def pid(self) -> int | None:
        """Its process id, if it runs."""
        with contextlib.suppress(OSError, ValueError):
            pid, started = self._pid_file.read_text().split()
            if _started(int(pid)) == started:
                return int(pid)
        return None

    def running(self) -> bool:
        return self.pid() is not None

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 15.0) -> None:
        """End it; killed after `seconds`."""
        pid = self.pid()
        if pid is None:
            return
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, how)
            if not _ended(handle, seconds):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, seconds)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _answers(self) -> bool:
        if not self.context_file.exists():
            return False
        try:
            Client(self.context(), timeout=5).raw("GET", "/livez", accept="*/*")
        except UserError:
            return False
        return True


# --- what a lab declares ---


BMC_SECRET = "lab-bmc"


def _declare(client: Client, status: LabStatus, login: tuple[str, str]) -> None:
    network = status.network
    first, last = network.machine_range.split("-")
    vip_first, vip_last = network.vip_range.split("-")
    pools = "/var/lib/bedplate/pools"
    items: list[dict[str, Any]] = [
        _object(
            "Network",
            "lab",
            {
                "cidr": network.cidr,
                "gateway": network.gateway,
                "nameServers": [network.gateway],
                "ranges": [{"first": first, "last": last}],
                "vipRanges": [{"first": vip_first, "last": vip_last}],
                "bridge": "br0",
                "mtu": network.mtu,
            },
        ),
        _object("DiskPool", "shared", {"type": "shared", "path": f"{pools}/shared"}),
        _object("DiskPool", "local", {"type": "local", "path": f"{pools}/local"}),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": BMC_SECRET, "namespace": "default"},
            "stringData": {"username": login[0], "password": login[1]},
        },
    ]
    items += [
        _object(
            "Server",
            h.name,
            {
                "role": "hypervisor",
                "failureDomain": {"rack": f"rack-{h.name}"},
                "bmc": {"address": h.bmc_address, "credentials": {"secret": BMC_SECRET, "namespace": "default"}},
            },
        )
        for h in status.hypervisors
    ]
    client.request("POST", f"{ROOT}/apply", {"items": items, "dryRun": False})


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "bedplate.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def register_images(client: Client, progress: Progress = _quiet) -> int:
    """Make all images and releases of the user's cache known to the controller; gives how many there are."""
    from bedplate.cli import artifacts
    from bedplate.cli.registering import register

    built = artifacts.cached()
    for one in built:
        register(client, one, lambda words: progress("images", words))
    progress("images", f"{len(built)} known" if built else "none in the cache yet: bedplate image build")
    return len(built)


def _wait_for_agents(client: Client, names: list[str], progress: Progress) -> None:
    deadline = time.monotonic() + AGENT_SECONDS
    waiting = set(names)
    while waiting:
        for item in client.get(f"{ROOT}/servers")["items"]:
            name = item["metadata"]["name"]
            conditions = item.get("status", {}).get("conditions", [])
            if name in waiting and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                waiting.discard(name)
                progress(name, "Ready")
        if waiting and time.monotonic() > deadline:
            raise UserError(f"the agents of {', '.join(sorted(waiting))} did not connect; see `bedplate lab status`")
        if waiting:
            time.sleep(0.2)


# --- processes ---


def _same_tree() -> dict[str, str]:
    """Agents run the modules that this command was told to run: else they would be of another version."""
    return {k: os.environ[k] for k in ("PYTHONPATH",) if k in os.environ}


def _program() -> list[str]:
    return [sys.executable, "-m", "bedplate.cli.main"]


def _emulated() -> bool:
    from bedplate.agent.kvm_probe import probe

    return not probe().works


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty where it does not run (or is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _ended(handle: int, seconds: float) -> bool:
    import select

    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _last_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it said nothing"
