"""The lab as a whole: up, status, down, and what can be done to its hypervisors meanwhile.

All that a lab is lies in one folder and in processes that know it. State is written before each effect, so `down`
removes all of it after a crash at any point. It starts no controller and no guest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from bedplate.agent.kvm_probe import probe
from bedplate.lab import (
    bmc,
    breaking,
    config,
    faults,
    hypervisor,
    metal,
    metal_lab,
    preflight,
    processes,
    servers,
    wiring,
)
from bedplate.lab.config import LabNetwork, LabState, Link, ProcessId
from bedplate.lab.errors import LabError
from bedplate.lab.faults import Fault, FaultKind, KeptFault
from bedplate.lab.keeper import Keeper, Progress, find, find_server, plainly, quiet
from bedplate.lab.network_parts import free_port, raise_gateway, raise_switch, tell_gateway
from bedplate.lab.status import LabStatus, look

SHUTDOWN_LIMIT = 15.0
"""Seconds for a server to shut itself down before its power is cut: what runs there has ten to end."""


class Lab(Keeper):
    """One lab of this host. Every method may be called from any process; changes take turns by a lock.

    Methods raise LabError with a sentence for the user. They block: an asyncio program calls them in a thread.
    """

    # ---- the whole lab

    def up(
        self,
        hypervisors: int | None = None,
        *,
        bare: int | None = None,
        memory: int | None = None,
        network: LabNetwork | None = None,
        socks_port: int | None = None,
        relays: Mapping[int, int] | None = None,
        kvm: bool | None = None,
        progress: Progress = quiet,
    ) -> LabStatus:
        """Bring the lab up, or mend what is dead or broken of it; everything that runs is left as it is.

        `hypervisors`: how many (None: as before, or 3); more than before adds some. `bare`: how many bare servers
        (None: as before, or none), and `memory` in MiB of those that are added (None: 2048). `socks_port`: port of the
        proxy on 127.0.0.1 (None: as before, or a free one). `relays`: port at the lab's gateway address -> port on the
        host's loopback (None: as before). `kvm`: whether guests may use KVM (None: try by booting a tiny guest).
        """
        preflight.check_host(self.folder)
        with plainly(), self.locked(make=True):
            state = self._wanted(hypervisors, network, socks_port, relays)
            self._want_bare(state, bare, memory)
            self.save(state)
            if kvm is None:
                verdict = probe()
                kvm = verdict.works
                progress("kvm", "works" if kvm else f"not used: {verdict.reason}")
            state.kvm = kvm
            raise_switch(self, state, progress)
            raise_gateway(self, state, progress)
            hypervisor.write_hosts(self.folder, state.hypervisors, state.network)
            self._mend(state, list(state.hypervisors), progress)
            metal_lab.mend(self, state, list(state.servers), progress)
            state.phase = "up"
            self.save(state)
        return self.status()

    def down(self, progress: Progress = quiet) -> bool:
        """Remove the lab with all disks in it, whatever state it is in. False when there was none."""
        if not self.folder.exists():
            return False
        if os.geteuid() != 0:
            raise LabError("the lab needs root: run `bedplate lab down` with sudo")
        with self.locked() as there:
            if not there:
                return False
            self.refuse_foreign()
            mounts = preflight.mounts_below(self.folder)
            if mounts:
                raise LabError(
                    f"{mounts[0]} is a mount of the host inside the lab's folder: umount it, then call again"
                )
            with contextlib.suppress(LabError):  # a state file that cannot be read holds nothing up
                if (state := config.load(self.folder)) is not None:
                    state.phase = "falling"
                    self.save(state)
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
        return look(self, state)

    # ---- one hypervisor

    def power(self, name: str, action: Literal["off", "on", "freeze", "thaw"], *, wait: bool = True) -> None:
        """Cut a hypervisor's power, give it, halt it as a hung host, or let it go on. Returns when it is so.

        A power cut cuts the uplink first, so that no peer is told; all inside ends at once, also while somebody else
        holds the lab's lock. Power on returns when libvirt answers (with `wait`); its services (`spawn_agent`) start
        by themselves. A bare server knows off and on alone.
        """
        if self._bare(name):
            metal_lab.power(self, name, action)
            return
        if action == "off":
            servers.go_dark(self, name, find(self.load(), name).process)
        with self.changing() as state:
            one = find(state, name)
            running = processes.alive(one.process)
            if action == "off":
                servers.cut(self, state, one)
            elif action == "on":
                if running and hypervisor.frozen(one, self.cgroups):
                    raise LabError(f"{name} is frozen: thaw it, or cut its power first")
                if "power-feed" in one.faults:
                    raise LabError(f"{name} has no power feed: `bedplate lab fault clear {name}` gives it back")
                one.faults.pop("power-off", None)
                servers.raise_server(self, state, one, quiet, wait=wait)
            elif not running:
                raise LabError(f"{name} has no power: `power on` first")
            else:
                one.power = "frozen" if action == "freeze" else "on"
                self.save(state)
                hypervisor.freeze(one, self.cgroups, action == "freeze")

    def shut_down(self, name: str) -> None:
        """Ask a hypervisor to shut down; what has not ended after fifteen seconds loses its power. Returns then.

        Of a bare server only the power button is pressed, as what it runs is its own.
        """
        if self._bare(name):
            with self.changing() as state:
                metal.press_button(self, find_server(state, name))
            return
        with self.changing() as state:
            one = find(state, name)
            one.power = "off"
            self.save(state)
            process = one.process
        if processes.send(process, signal.SIGTERM):
            processes.wait(process, SHUTDOWN_LIMIT)
        if process is not None:
            self.cut_boot(name, process)

    def cut_boot(self, name: str, process: ProcessId) -> None:
        """Cut the power of that boot of a hypervisor; one that was booted since is left alone."""
        servers.go_dark(self, name, process)
        with self.changing() as state:
            servers.settle(self, state, find(state, name), process)

    def powered(self, name: str) -> bool:
        """Whether a server has power, as the kernel tells: does anything of it run?"""
        state = self.load()
        if name in state.servers:
            return metal.powered(self.folder, state.servers[name])
        return hypervisor.powered(self.folder, find(state, name))

    def uplink(self, name: str, to: Link) -> None:
        """Cut or mend a hypervisor's cable. It stays cut over its power cycles until it is mended here or by `up`."""
        with self.changing() as state:
            one = find(state, name)
            one.uplink = to
            self.save(state)
            if processes.alive(one.process) and state.switch is not None:
                wiring.set_link(self.folder, state.switch, one, to)

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """Give the command line that runs `argv` inside the hypervisor, for `subprocess`; its environment passes."""
        one = find(self.load(), name)
        if one.process is None or not processes.alive(one.process):
            raise LabError(f"{name} has no power: `power on` first")
        if hypervisor.frozen(one, self.cgroups):
            raise LabError(f"{name} is frozen: thaw it first")
        enter = ["nsenter", f"--target={one.process.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--wdns=/"]
        groups = [str(path) for path in self.cgroups.procs(name)]
        if not groups:
            return [*enter, *argv]
        join = 'while [ "$1" != -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'
        return ["sh", "-c", join, "sh", *groups, "--", *enter, *argv]

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
        with self.changing() as state:
            one = find(state, name)
            hypervisor.write_service(self.folder, name, service, argv, env)
            processes.send(one.process, signal.SIGHUP)

    def stop_agent(self, name: str, *, service: str = "agent") -> None:
        """End what `spawn_agent` started (SIGTERM) and forget it."""
        with self.changing() as state:
            one = find(state, name)
            (hypervisor.home(self.folder, name) / "services" / f"{service}.json").unlink(missing_ok=True)
            processes.send(one.process, signal.SIGHUP)

    def log(self, name: str, service: str = "agent") -> Path:
        """Log file of a service, of "libvirtd", or of the hypervisor itself ("init")."""
        return hypervisor.log_path(self.folder, name, service)

    # ---- the way in and out

    def relay(self, lab_port: int, host_port: int | None) -> None:
        """Let the lab reach 127.0.0.1:`host_port` of the host at the gateway address and `lab_port`; None ends it."""
        config.check_ports({lab_port: host_port or 1})
        with self.changing() as state:
            state.relays.pop(str(lab_port), None)
            if host_port is not None:
                state.relays[str(lab_port)] = host_port
            self.save(state)
            tell_gateway(self, state)

    # ---- faults

    def fault(self, name: str, fault: Fault) -> None:
        """Break a hypervisor or its BMC. It stays so until `clear`, `up` or `down`; the same kind again replaces it."""
        if self._bare(name):
            metal_lab.fault(self, name, fault)
            return
        if isinstance(fault, faults.PowerOff):
            servers.go_dark(self, name, find(self.load(), name).process)
        with plainly(), self.changing() as state:
            breaking.inject(self, state, find(state, name), fault)

    def clear(self, name: str = "", kind: FaultKind | None = None, progress: Progress = quiet) -> list[str]:
        """Make hypervisors whole again (empty: all of them): no fault, power on, plugged in. Give those that were not.

        `kind`: only that fault is undone, and power is given only where it is what the fault took.
        """
        with plainly(), self.changing() as state:
            bare = metal_lab.clear(self, state, name, kind, progress)
            if name in state.servers:
                return bare
            names = [find(state, name).name] if name else list(state.hypervisors)
            if kind is None:
                hurt = [each for each in names if not self._whole(state, each)]
            else:
                hurt = [each for each in names if kind in state.hypervisors[each].faults]
            if state.switch is None or not processes.alive(state.switch):
                raise LabError("the lab's switch is dead: `bedplate lab up` mends it")
            if kind is None or kind in ("power-off", "power-feed"):
                self._mend(state, hurt, progress, kind)
            else:
                for each in hurt:
                    breaking.undo(self, state, state.hypervisors[each], kind)
        return hurt + bare

    def faults(self) -> dict[str, dict[FaultKind, KeptFault]]:
        """All faults that are on, by server."""
        state = self.load()
        every = [*state.hypervisors.values(), *state.servers.values()]
        return {one.name: dict(one.faults) for one in every}

    def bmc_login(self) -> tuple[str, str]:
        """User name and password of the lab's BMCs."""
        return bmc.USER, bmc.password(self.folder)

    # ---- inside

    def _bare(self, name: str) -> bool:
        return name in self.load().servers

    def _whole(self, state: LabState, name: str) -> bool:
        one = state.hypervisors[name]
        on = processes.alive(one.process) and not hypervisor.frozen(one, self.cgroups)
        return on and bmc.alive(one) and processes.alive(one.watchdog) and one.uplink == "up" and not one.faults

    def _mend(self, state: LabState, names: Sequence[str], progress: Progress, kind: FaultKind | None = None) -> None:
        """Undo the faults of hypervisors (of one kind), then have them and their BMCs run."""
        chosen = [state.hypervisors[name] for name in names]
        for one in chosen:
            kinds: list[FaultKind] = list(one.faults) if kind is None else [kind]
            for each in kinds:
                breaking.undo(self, state, one, each)
                progress(one.name, f"{each} cleared")
            if kind is None and one.uplink == "down":
                one.uplink = "up"
                self.save(state)
                if processes.alive(one.process) and state.switch is not None:
                    wiring.set_link(self.folder, state.switch, one, "up")
            if one.bmc is None:  # one after the other, so that no two take the same port
                bmc.give_port(self, state, one)
        with ThreadPoolExecutor(4) as pool:
            works = [pool.submit(servers.raise_server, self, state, one, progress) for one in chosen]
            works += [pool.submit(bmc.start, self, state, one) for one in chosen]
        for work in works:
            work.result()

    def _want_bare(self, state: LabState, bare: int | None, memory: int | None) -> None:
        """Add what is missing of so many bare servers to the state."""
        count = len(state.servers) if bare is None else bare
        if not 0 <= count <= config.MOST_SERVERS:
            raise LabError(f"a lab has 0 to {config.MOST_SERVERS} bare servers, not {count}")
        if count < len(state.servers):
            raise LabError(
                f"the lab has {len(state.servers)} bare servers and can only grow: `bedplate lab down` first"
            )
        if memory is not None and not config.LEAST_MEMORY <= memory <= config.MOST_MEMORY:
            raise LabError(f"a bare server can't have {memory} MiB: give {config.LEAST_MEMORY} to {config.MOST_MEMORY}")
        if count + len(state.hypervisors) == 0:
            raise LabError("a lab with neither a hypervisor nor a bare server is none: ask for one")
        if count:
            preflight.check_firmware()
        for index in range(len(state.servers), count):
            one = config.new_server(state, index, memory or 2048)
            state.servers[one.name] = one

    def _wanted(
        self,
        hypervisors: int | None,
        network: LabNetwork | None,
        socks_port: int | None,
        relays: Mapping[int, int] | None,
    ) -> LabState:
        """The state to reach, from what was and what is asked."""
        self.refuse_foreign()
        state = config.load(self.folder)
        if state is None:
            state = LabState(uid=str(uuid.uuid4()), network=network or LabNetwork())
            state.network.check()
        elif network is not None and network != state.network:
            raise LabError(f"the lab has the network {state.network.cidr}; `bedplate lab down` first to change it")
        made = len(state.hypervisors) if state.hypervisors or state.servers else 3
        count = hypervisors if hypervisors is not None else made
        if not 0 <= count <= config.MOST_HYPERVISORS:
            raise LabError(f"a lab has 0 to {config.MOST_HYPERVISORS} hypervisors, not {count}")
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
            state.socks_port = free_port()
        state.phase = "rising"
        return state
