"""The first process of a lab hypervisor: makes its private file tree and network, then keeps its services running.

Run as a script, by path, with the standard library alone (`hypervisor_init.py BOOT_JSON`), as process 1 of a new PID
namespace. When it is killed, the kernel ends everything inside: that is the power cut. It makes no choice of its own:
paths, addresses and services are in the boot file and in the services folder, which it reads again on SIGHUP.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MS_BIND, MS_REC, MS_SLAVE, MS_RDONLY, MS_NOSUID, MS_NOEXEC, MS_NODEV = 4096, 16384, 1 << 19, 1, 2, 8, 4
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "net/tun", "vhost-net")
RESTART_FIRST, RESTART_LAST = 0.2, 5.0
"""Seconds before a service that died is started again: the first time, and at most. It doubles in between."""
END_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL for a service that was taken away or changed, and for all at a shutdown."""
STEADY = 10.0
"""Seconds that a service must have run for its restart delay to begin anew."""

LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    if LIBC.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot mount {source} at {target}: {os.strerror(error)}")


def bind(source: str | Path, target: str) -> None:
    """Show `source` at `target`, with what is mounted below it."""
    mount(str(source), target, flags=MS_BIND | MS_REC)


def make_room(folder: Path, name: str, stage: Path) -> None:
    """Give `folder` an entry `name` in this mount namespace only, so that the host's disk gets none.

    A tmpfs takes the folder's place and shows all that was in it.
    """
    if (folder / name).exists():
        return
    stage.mkdir(parents=True, exist_ok=True)
    mount("tmpfs", str(stage), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for entry in os.scandir(folder):
        twin = stage / entry.name
        if entry.is_symlink():
            twin.symlink_to(os.readlink(entry.path))
            continue
        if entry.is_dir():
            twin.mkdir()
        else:
            twin.touch()
        bind(entry.path, str(twin))
    (stage / name).mkdir()
    bind(stage, str(folder))


def mount_dev(kvm: bool) -> None:
    """A `/dev` of its own: no disks of the host, and no kvm unless it works (a dead one stalls every libvirt call)."""
    nodes: list[tuple[str, int, int]] = []
    for name in (*DEVICES, *(("kvm",) if kvm else ())):
        try:
            seen = os.stat(f"/dev/{name}")
        except OSError:
            continue
        if stat.S_ISCHR(seen.st_mode):
            nodes.append((name, seen.st_mode, seen.st_rdev))
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=0755,size=64k")
    for name, mode, device in nodes:
        path = Path("/dev", name)
        path.parent.mkdir(exist_ok=True)
        os.mknod(path, mode, device)
        os.chmod(path, stat.S_IMODE(mode))
    os.mkdir("/dev/pts")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.mkdir("/dev/shm")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    os.mkfifo("/dev/watchdog", 0o600)
    # Never read and never closed: a device takes what is written also while the process that watches it starts anew.
    os.open("/dev/watchdog", os.O_RDONLY | os.O_NONBLOCK)


def mount_sys() -> None:
    """A `/sys` that shows this network namespace's interfaces, with the host's cgroups kept."""
    kept = os.open("/sys/fs/cgroup", os.O_PATH | os.O_DIRECTORY) if os.path.isdir("/sys/fs/cgroup") else None
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV)
    if kept is not None:
        bind(f"/proc/self/fd/{kept}", "/sys/fs/cgroup")
        os.close(kept)


def mount_all(boot: dict[str, Any]) -> None:
    """The whole private file tree. Nothing of it is seen by the host."""
    mount("none", "/", flags=MS_REC | MS_SLAVE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV)
    mount_sys()
    mount_dev(boot["kvm"])
    for number, (source, target) in enumerate(boot["folders"]):
        place = Path(target)
        make_room(place.parent, place.name, Path(boot["stage"], str(number)))
        bind(source, target)
    for source, target in boot["files"]:
        if os.path.exists(target):
            bind(source, target)
    if boot["storage_cut"]:
        mount(boot["storage_cut"], boot["shared_pool"], "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "mode=0555,size=4k")


def make_network(boot: dict[str, Any]) -> None:
    """Loopback and the bridge `br0`. The uplink is plugged in from outside, as a cable is."""
    lines = [
        "link set lo up",
        f"link add br0 address {boot['mac']} mtu {boot['mtu']} type bridge forward_delay 0 stp_state 0",
        f"address add {boot['address']}/{boot['prefix']} dev br0",
        "link set br0 up",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)


def tell(words: str) -> None:
    """A line for the hypervisor's own log."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


@dataclass
class Service:
    """One supervised program."""

    definition: dict[str, Any]
    pid: int = 0
    started: float = 0.0
    delay: float = RESTART_FIRST
    due: float = field(default=0.0)
    ending: bool = False


class Supervisor:
    """Keeps the services of the services folder running; each file `NAME.json` has `argv`, `env` and `log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Service] = {}

    def read(self) -> None:
        """Take over what the folder says now: new services start, gone or changed ones are ended."""
        wanted: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("*.json")):
            try:
                wanted[path.stem] = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                tell(f"service file {path.name} is left out: {error}")
        for name, service in list(self.services.items()):
            if wanted.get(name) == service.definition:
                continue
            if service.pid and not service.ending:
                service.ending = True
                service.due = time.monotonic() + END_GRACE
                os.kill(service.pid, signal.SIGTERM)
            elif service.pid:
                continue
            else:
                del self.services[name]
        for name, definition in wanted.items():
            if name not in self.services:
                self.services[name] = Service(definition)

    def start(self, name: str, service: Service) -> None:
        """Fork and run the service in a session of its own."""
        definition = service.definition
        service.started = time.monotonic()
        pid = os.fork()
        if pid:
            service.pid = pid
            return
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that would be inherited
            log = os.open(definition["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.execvpe(definition["argv"][0], definition["argv"], definition["env"])
        except BaseException as error:
            os.write(2, f"cannot start {name}: {error}\n".encode())
        finally:
            os._exit(127)

    def reap(self) -> None:
        """Collect all that ended; orphans of services end here too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name, service in list(self.services.items()):
                if service.pid == pid:
                    self.ended(name, service, status)

    def ended(self, name: str, service: Service, status: int) -> None:
        """Plan the restart of a service, or forget it when it was ended on purpose."""
        now = time.monotonic()
        service.pid = 0
        if service.ending:
            del self.services[name]
            self.read()
            return
        if now - service.started >= STEADY:
            service.delay = RESTART_FIRST
        service.due = now + service.delay
        code = os.waitstatus_to_exitcode(status)
        tell(f"{name} ended with {code}; it starts again in {service.delay:.1f} s")
        service.delay = min(service.delay * 2, RESTART_LAST)

    def shut_down(self) -> None:
        """Ask all that runs here to end, guests too, within `END_GRACE` seconds; the rest ends with this process."""
        tell("shutting down")
        deadline = time.monotonic() + END_GRACE
        with contextlib.suppress(ProcessLookupError):  # nothing runs here
            os.kill(-1, signal.SIGTERM)
        while (left := deadline - time.monotonic()) > 0:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            signal.sigtimedwait({signal.SIGCHLD}, left)

    def run(self) -> None:
        """Supervise until SIGTERM, the button for a shutdown.

        Signals are taken synchronously, so none is lost between two looks.
        """
        watched = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM}
        while True:
            now = time.monotonic()
            waits: list[float] = []
            for name, service in self.services.items():
                if service.pid == 0 and service.due <= now:
                    self.start(name, service)
                elif service.ending and service.due <= now:
                    os.kill(service.pid, signal.SIGKILL)
                elif service.pid == 0 or service.ending:
                    waits.append(service.due - now)
            if waits:
                seen = signal.sigtimedwait(watched, min(waits))
            else:
                seen = signal.sigwaitinfo(watched)
            if seen is None:
                continue
            if seen.si_signo == signal.SIGTERM:
                self.shut_down()
                return
            if seen.si_signo == signal.SIGHUP:
                self.read()
            self.reap()


def main() -> int:
    """Boot: file tree, host name, network, "ready" on descriptor 3, services."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM})
    try:
        boot = json.loads(Path(sys.argv[1]).read_text())
        socket.sethostname(boot["name"])
        mount_all(boot)
        make_network(boot)
        supervisor = Supervisor(Path(boot["services"]))
        supervisor.read()
    except subprocess.CalledProcessError as error:
        os.write(3, f"the network could not be made: {error.stderr.strip()}\n".encode())
        return 1
    except (OSError, ValueError, KeyError) as error:
        os.write(3, f"{error}\n".encode())
        return 1
    os.write(3, b"ready\n")
    os.close(3)
    supervisor.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
