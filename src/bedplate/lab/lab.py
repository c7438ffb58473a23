"""The lab as a whole: up, status, down, and what can be done to its hypervisors meanwhile.

All that a lab is lies in one folder and in processes that know it. State is written before each effect, so `down`
removes all of it after a crash at any point. It starts no controller and no guest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from bedplate.agent.kvm_probe import probe
from bedplate.lab import config, hypervisor, preflight, processes, wiring
from bedplate.lab.cgroups import Cgroups
from bedplate.lab.config import HypervisorState, LabNetwork, LabState, Link
from bedplate.lab.errors import LabError
from bedplate.lab.status import HypervisorStatus, LabStatus

Progress = Callable[[str, str], None]
"""Told what happens: the part ("switch", "gateway", "hv1", ...) and a few words. Perhaps from another thread."""


def _quiet(_part: str, _words: str) -> None:
    """Tell nobody."""


class Lab:
    """One lab of this host. Every method may be called from any process; changes take turns by a lock.

    Methods raise LabError with a sentence for the user. They block: an asyncio program calls them in a thread.
    """

    def __init__(self, name: str = "default", root: Path | None = None) -> None:
        config.check_name(name)
        self.name = name
        self.folder = (root or config.default_root()).absolute() / name
        config.check_folder(self.folder)
        self.cgroups = Cgroups(config.cgroup_name(self.folder, name))
        self._saving = threading.Lock()

    # ---- the whole lab

    def up(
        self,
        hypervisors: int | None = None,
        *,
        network: LabNetwork | None = None,
        socks_port: int | None = None,
        relays: Mapping[int, int] | None = None,
        kvm: bool | None = None,
        progress: Progress = _quiet,
    ) -> LabStatus:
        """Bring the lab up, or mend what is dead of it; everything that runs is left as it is.

        `hypervisors`: how many (None: as before, or 3); more than before adds some. `socks_port`: port of the proxy on
        127.0.0.1 (None: as before, or a free one). `relays`: port at the lab's gateway address -> port on the host's
        loopback (None: as before). `kvm`: whether guests may use KVM (None: try by booting a tiny guest).
        """
        preflight.check_host(self.folder)
        with _plainly(), self._locked(make=True):
            state = self._wanted(hypervisors, network, socks_port, relays)
            self._save(state)
            if kvm is None:
                verdict = probe()
                kvm = verdict.works
                progress("kvm", "works" if kvm else f"not used: {verdict.reason}")
            state.kvm = kvm
            self._raise_switch(state, progress)
            self._raise_gateway(state, progress)
            hypervisor.write_hosts(self.folder, state.hypervisors, state.network)
            with ThreadPoolExecutor(4) as pool:
                works = [
                    pool.submit(self._raise_hypervisor, state, each, progress) for each in state.hypervisors.values()
                ]
            for work in works:
                work.result()
            state.phase = "up"
            self._save(state)
        return self.status()

    def down(self, progress: Progress = _quiet) -> bool:
        """Remove the lab with all disks in it, whatever state it is in. False when there was none."""
        if not self.folder.exists():
            return False
        if os.geteuid() != 0:
            raise LabError("the lab needs root: run `bedplate lab down` with sudo")
        with self._locked() as there:
            if not there:
                return False
            self._refuse_foreign()
            mounts = preflight.mounts_below(self.folder)
            if mounts:
                raise LabError(
                    f"{mounts[0]} is a mount of the host inside the lab's folder: umount it, then call again"
                )
            with contextlib.suppress(LabError):  # a state file that cannot be read holds nothing up
                if (state := config.load(self.folder)) is not None:
                    state.phase = "falling"
                    self._save(state)
            progress("hypervisors", "off")
            processes.kill_marked(self.folder, release=self.cgroups.release)
            self.cgroups.remove()
            progress("files", "removing")
            for entry in sorted(self.folder.iterdir(), key=lambda path: path.name == config.STATE_FILE):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            self.folder.rmdir()
            if self.folder.parent == config.default_root():  # a folder that the caller named is the caller's
                for parent in (self.folder.parent, self.folder.parent.parent):
                    with contextlib.suppress(OSError):
                        parent.rmdir()  # only when empty
        progress("lab", "gone")
        return True

    def status(self) -> LabStatus:
        """Tell how the lab is now. Asks each libvirt, for at most three seconds, all at once."""
        state = config.load(self.folder)
        if state is None:
            return LabStatus(self.name, str(self.folder), "down", LabNetwork())
        with ThreadPoolExecutor(8) as pool:
            each = tuple(pool.map(self._hypervisor_status, state.hypervisors.values()))
        switch, gateway = processes.alive(state.switch), processes.alive(state.gateway)
        whole = switch and gateway and all(one.power != "dead" for one in each)
        phase = state.phase
        if phase == "up" and not whole:
            phase = "broken"
        return LabStatus(
            self.name,
            str(self.folder),
            phase,
            state.network,
            state.socks_port,
            dict(state.relays),
            switch,
            gateway,
            each,
        )

    # ---- one hypervisor

    def power(self, name: str, action: Literal["off", "on", "freeze", "thaw"]) -> None:
        """Cut a hypervisor's power, give it, halt it as a hung host, or let it go on. Returns when it is so.

        A power cut cuts the uplink first, so that no peer is told; all inside ends at once. Power on returns when
        libvirt answers; its services (`spawn_agent`) start by themselves.
        """
        with self._changing() as state:
            one = self._find(state, name)
            running = processes.alive(one.process)
            if action == "off":
                one.power = "off"
                self._save(state)
                self._cut(state, one)
            elif action == "on":
                if running and hypervisor.frozen(one, self.cgroups):
                    raise LabError(f"{name} is frozen: thaw it, or cut its power first")
                self._raise_hypervisor(state, one, _quiet)
            elif not running:
                raise LabError(f"{name} has no power: `power on` first")
            else:
                one.power = "frozen" if action == "freeze" else "on"
                self._save(state)
                hypervisor.freeze(one, self.cgroups, action == "freeze")

    def uplink(self, name: str, to: Link) -> None:
        """Cut or mend a hypervisor's cable. It stays cut over its power cycles until it is mended here or by `up`."""
        with self._changing() as state:
            one = self._find(state, name)
            one.uplink = to
            self._save(state)
            if processes.alive(one.process) and state.switch is not None:
                wiring.set_link(self.folder, state.switch, one, to)

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Give the command line that runs `argv` inside the hypervisor, for `subprocess`; its environment passes."""
        one = self._find(self._load(), name)
        if one.process is None or not processes.alive(one.process):
            raise LabError(f"{name} has no power: `power on` first")
        if hypervisor.frozen(one, self.cgroups):
            raise LabError(f"{name} is frozen: thaw it first")
        enter = ["nsenter", f"--target={one.process.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--wdns=/"]
        procs = self.cgroups.procs(name)
        if procs is None:
            return [*enter, *argv]
        return ["sh", "-c", 'echo 0 > "$0"; exec "$@"', str(procs), *enter, *argv]

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the hypervisor to its end (`timeout` in seconds); the return code is not checked."""
        return subprocess.run(
            self.command(name, argv),
            env=processes.service_environment(env),
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def spawn_agent(
        self, name: str, argv: Sequence[str], *, service: str = "agent", env: Mapping[str, str] | None = None
    ) -> None:
        """Keep a program running inside the hypervisor: now, after it dies, and after each power-on.

        The same name again replaces it. Output goes to `log(name, service)`. The hypervisor may be off.
        """
        if service == hypervisor.LIBVIRT or not config.NAME.fullmatch(service):
            raise LabError(f"a service cannot be named {service!r}: take lower-case letters, digits and '-' inside")
        with self._changing() as state:
            one = self._find(state, name)
            hypervisor.write_service(self.folder, name, service, argv, env)
            processes.send(one.process, signal.SIGHUP)

    def stop_agent(self, name: str, *, service: str = "agent") -> None:
        """End what `spawn_agent` started (SIGTERM) and forget it."""
        with self._changing() as state:
            one = self._find(state, name)
            (hypervisor.home(self.folder, name) / "services" / f"{service}.json").unlink(missing_ok=True)
            processes.send(one.process, signal.SIGHUP)

    def log(self, name: str, service: str = "agent") -> Path:
        """Log file of a service, of "libvirtd", or of the hypervisor itself ("init")."""
        return hypervisor.log_path(self.folder, name, service)

    # ---- the way in and out

    def relay(self, lab_port: int, host_port: int | None) -> None:
        """Let the lab reach 127.0.0.1:`host_port` of the host at the gateway address and `lab_port`; None ends it."""
        config.check_ports({lab_port: host_port or 1})
        with self._changing() as state:
            state.relays.pop(str(lab_port), None)
            if host_port is not None:
                state.relays[str(lab_port)] = host_port
            self._save(state)
            self._tell_gateway(state)

    # ---- inside

    @contextlib.contextmanager
    def _locked(self, make: bool = False) -> Generator[bool, None, None]:
        """Hold the lab's lock, which is on its folder itself, so that nothing stays. Gives whether it is there."""
        while True:
            if make:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                if make:
                    continue
                yield False
                return
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(self.folder).st_ino == os.fstat(handle).st_ino:
                        yield True
                        return
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def _changing(self) -> Generator[LabState, None, None]:
        """Hold the lock and give the state of a lab that exists."""
        with self._locked() as there:
            if not there:
                raise LabError(f"there is no lab {self.name!r}: `bedplate lab up` makes one")
            yield self._load()

    def _load(self) -> LabState:
        state = config.load(self.folder)
        if state is None:
            raise LabError(f"there is no lab {self.name!r}: `bedplate lab up` makes one")
        return state

    def _save(self, state: LabState) -> None:
        with self._saving:
            config.save(self.folder, state)

    def _refuse_foreign(self) -> None:
        """Never take over or remove a folder that a lab did not make."""
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".state-")}
        if names and config.STATE_FILE not in names:
            raise LabError(f"{self.folder} holds files and is no lab: remove it by hand, or give the lab another name")

    @staticmethod
    def _find(state: LabState, name: str) -> HypervisorState:
        if name not in state.hypervisors:
            raise LabError(f"there is no hypervisor {name!r} in the lab: it has {', '.join(state.hypervisors)}")
        return state.hypervisors[name]

    def _wanted(
        self,
        hypervisors: int | None,
        network: LabNetwork | None,
        socks_port: int | None,
        relays: Mapping[int, int] | None,
    ) -> LabState:
        """The state to reach, from what was and what is asked."""
        self._refuse_foreign()
        state = config.load(self.folder)
        if state is None:
            state = LabState(uid=str(uuid.uuid4()), network=network or LabNetwork())
            state.network.check()
        elif network is not None and network != state.network:
            raise LabError(f"the lab has the network {state.network.cidr}; `bedplate lab down` first to change it")
        count = hypervisors if hypervisors is not None else len(state.hypervisors) or 3
        if not 1 <= count <= config.MOST_HYPERVISORS:
            raise LabError(f"a lab has 1 to {config.MOST_HYPERVISORS} hypervisors, not {count}")
        if count < len(state.hypervisors):
            raise LabError(
                f"the lab has {len(state.hypervisors)} hypervisors and can only grow: `bedplate lab down` first"
            )
        for index in range(len(state.hypervisors), count):
            one = config.new_hypervisor(state, index)
            state.hypervisors[one.name] = one
        if relays is not None:
            config.check_ports(relays)
            state.relays = {str(port): target for port, target in relays.items()}
        config.check_ports({1: socks_port or 1})
        if socks_port and socks_port != state.socks_port:
            processes.kill(state.gateway)
            state.socks_port = socks_port
        if not state.socks_port:
            state.socks_port = _free_port()
        state.phase = "rising"
        return state

    def _raise_switch(self, state: LabState, progress: Progress) -> None:
        if processes.alive(state.switch):
            return
        processes.kill(state.gateway)  # it holds on to the namespace of the switch that is gone
        processes.kill_marked(self.folder, "switch")
        state.switch = processes.launch(
            self.folder,
            "switch",
            wiring.switch_command(state.network),
            namespaces=["net"],
            log=self.folder / "switch.log",
        )
        self._save(state)
        progress("switch", f"up at {state.network.gateway}/{state.network.prefix}")

    def _raise_gateway(self, state: LabState, progress: Progress) -> None:
        assert state.switch is not None
        if processes.alive(state.gateway):
            self._tell_gateway(state)
            return
        processes.kill_marked(self.folder, "gateway")
        spec = self.folder / "gateway.json"
        spec.write_text(
            json.dumps(
                {
                    "namespace": f"/proc/{state.switch.pid}/ns/net",
                    "address": state.network.gateway,
                    "names": {one.name: one.address for one in state.hypervisors.values()},
                    "socks_port": state.socks_port,
                    "relays": state.relays,
                    "control": str(self._control),
                }
            )
        )
        try:
            state.gateway = processes.launch(
                self.folder,
                "gateway",
                [*processes.script("gateway.py"), str(spec)],
                namespaces=[],
                log=self.folder / "gateway.log",
            )
        except LabError as error:
            if "address already in use" in str(error).lower():
                raise LabError(
                    f"port {state.socks_port} of 127.0.0.1 is in use, and the lab's proxy needs it: end the program"
                    " that has it, or name another port (`--socks-port`)"
                ) from None
            raise
        self._save(state)
        progress("gateway", f"socks5://127.0.0.1:{state.socks_port}")

    @property
    def _control(self) -> Path:
        return self.folder / "gateway.sock"

    def _tell_gateway(self, state: LabState) -> None:
        """Give the running gateway the relays and names that the state holds."""
        if not processes.alive(state.gateway):
            raise LabError("the lab's gateway is dead: `bedplate lab up` mends it")
        names = {one.name: one.address for one in state.hypervisors.values()}
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(self._control))
            link.sendall(json.dumps({"relays": state.relays, "names": names}).encode() + b"\n")
            with link.makefile("rb") as reader:
                answer = json.loads(reader.readline() or b'{"error": "it hung up"}')
        if answer["error"]:
            raise LabError(f"the lab's gateway cannot relay: {answer['error']}")

    def _raise_hypervisor(self, state: LabState, one: HypervisorState, progress: Progress) -> None:
        """On, thawed, plugged in, and libvirt answering."""
        assert state.switch is not None
        fresh = not processes.alive(one.process)
        if fresh:
            progress(one.name, "booting")
            one.power = "on"
            self._save(state)
            one.process = hypervisor.boot(self.folder, one, state.network, state.kvm, self.cgroups)
        elif hypervisor.frozen(one, self.cgroups):
            hypervisor.freeze(one, self.cgroups, False)
        one.power = "on"
        self._save(state)
        if fresh or one.name not in wiring.plugged(self.folder, state.switch):
            wiring.plug(self.folder, state.switch, one, state.network.mtu)
        hypervisor.wait_for_libvirt(self.folder, one)
        progress(one.name, f"up at {one.address}")

    def _cut(self, state: LabState, one: HypervisorState) -> None:
        if state.switch is not None and processes.alive(state.switch):
            with contextlib.suppress(LabError):
                wiring.set_link(self.folder, state.switch, one, "down")
        hypervisor.cut_power(one, self.cgroups)
        if state.switch is not None and processes.alive(state.switch):
            wiring.unplug(self.folder, state.switch, one)

    def _hypervisor_status(self, one: HypervisorState) -> HypervisorStatus:
        power: Literal["on", "off", "frozen", "dead"] = one.power
        if not processes.alive(one.process):
            power = "off" if one.power == "off" else "dead"
        elif hypervisor.frozen(one, self.cgroups):
            power = "frozen"
        else:
            power = "on"
        return HypervisorStatus(
            one.name,
            one.address,
            one.host_uuid,
            power,
            one.uplink,
            power == "on" and hypervisor.answers(self.folder, one.name),
            hypervisor.uri(self.folder, one.name),
            hypervisor.services(self.folder, one.name),
        )


@contextlib.contextmanager
def _plainly() -> Generator[None, None, None]:
    """Turn what the host refuses into a sentence."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise LabError(
            f"the host refused what the lab needs: {error.strerror or error}{where}; mend it and call again, or remove"
            " the lab with `bedplate lab down`"
        ) from error


def _free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])
