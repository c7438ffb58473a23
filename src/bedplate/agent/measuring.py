"""Runs benchmarks of the measuring kit, on this server and in the machines on it; leaves nothing behind.

The kit is fetched as images are, handed on to a guest over its guest agent's channel, and taken away again: when it is
told to, after a while without a run, and at the agent's next start. A run is bounded, and ends with this agent. It
decides nothing: which run is next, and what the figures mean, is for who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import socket
import tarfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from bedplate.agent.enrol import ControllerConnection
from bedplate.agent.faults import AgentFault
from bedplate.agent.host import busy_seconds, links
from bedplate.agent.images import ImageCache
from bedplate.model.agent_protocol import Measure, MeasureReply
from bedplate.model.ids import Digest, MachineUid
from bedplate.model.measuring import BY_NAME, CLEAN, FACTS, IDLE_SECONDS, INSTALL_SECONDS, limit
from bedplate.ports import GuestOutput

log = logging.getLogger("bedplate.agent.measuring")

LOAD_SECONDS = 1.0
"""Over which the server's load is looked at, before and after a run."""
LISTEN_SECONDS = 30.0
"""For the other end of a network benchmark to listen."""
LOOK_SECONDS = 15.0
"""Between a guest's looks whether its kit is used still."""
END_SECONDS = 10.0
"""For what was killed to be gone."""
OUTPUT_BYTES = 1024 * 1024
"""Of a tool's words: fio's JSON has some kilobytes."""
GUEST_FOLDER = "/var/tmp/bedplate-measure"
"""On the guest's own disk: what is in /run is in its memory, and may not be run from there."""
PIECE = 1024 * 1024
"""Bytes at a time, of an archive on its way."""
PR_SET_PDEATHSIG = 1
KILLED = 128 + signal.SIGKILL
"""Exit code of a shell's command that was killed."""
NICENESS = 10
"""Guests, and the agent that renews their leases, come first; on a quiet server it changes no figure."""

_PREPARE = """free=$(df -Pk /var/tmp | awk 'NR == 2 { print int($4 / 1024) }')
if [ "$free" -lt "$1" ]; then
echo "its disk has $free MiB free in /var/tmp, the measuring kit and the scratch file need $1;" \\
"free some, or name a smaller --scratch" >&2
exit 3
fi
rm -rf "$2" && mkdir -m 700 "$2" "$3" && : > "$3/used" || exit 4
( cd /
while sleep "$5"; do
[ -e "$3/used" ] || exit 0
[ $(( $(date +%s) - $(stat -c %Y "$3/used") )) -lt "$4" ] || break
done
rm -rf "$3"
rmdir "$2" ) > /dev/null 2>&1 < /dev/null &
"""
"""In a guest the kit takes itself away when nobody has used it for a while, whatever became of this agent, and however
little of it had come."""
_UNPACK = 'cd "$1" && tar -xzf kit.tar.gz && rm -f kit.tar.gz'


class Guests(Protocol):
    """The guest agents of this server's machines. Raise `GuestUnreachable`."""

    async def write(
        self, uid: MachineUid, path: str, content: bytes, mode: int, *, first: bool, timeout: float
    ) -> None: ...

    async def execute(self, uid: MachineUid, argv: Sequence[str], stdin: bytes, timeout: float) -> GuestOutput: ...


class MeasuringFailed(Exception):
    """There are no figures; the text says why and what to do."""


async def answered(
    call: Measure, work: Awaitable[MeasureReply], *, expected: tuple[type[Exception], ...]
) -> MeasureReply:
    """What the work gives, or why it gives no figures; never raises.

    Args:
        expected: Exceptions beside `MeasuringFailed` whose text is for whoever asked.
    """
    try:
        return await work
    except TimeoutError:
        return MeasureReply(call=call.call, error=f"{call.benchmark} did not end within {call.deadline:.0f} s")
    except (MeasuringFailed, *expected) as error:
        return MeasureReply(call=call.call, error=str(error))
    except Exception as error:  # a fault of ours must not leave the controller without an answer
        log.exception("benchmark %s", call.benchmark)
        return MeasureReply(call=call.call, error=f"the agent failed in {call.benchmark}: {error!r}")


class _Said(NamedTuple):
    command: str
    output: bytes


class Measurer:
    """Measures this server and its machines, one run at a time.

    Args:
        folder: Where the kit lies while it is used; what an agent before this one left in it is removed.
        connect: Gives a connection to the controller, for the kit.
        pools: Gives the folder of each disk pool that this server serves, by its name.
        guests: The guest agents; None where no machine runs here.
        accelerator: How guests run here.
    """

    def __init__(
        self,
        folder: Path,
        connect: Callable[[], ControllerConnection],
        pools: Callable[[], dict[str, Path]],
        guests: Guests | None,
        accelerator: Literal["", "kvm", "tcg"],
    ) -> None:
        self._folder = folder
        self._connect = connect
        self._pools = pools
        self._guests = guests
        self._accelerator: Literal["", "kvm", "tcg"] = accelerator
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        shutil.rmtree(folder, ignore_errors=True)

    async def run(self, call: Measure) -> MeasureReply:
        """Run it and give what the tool said.

        Raises:
            MeasuringFailed: no figures; the text says why.
            Exception: what a guest's agent raises where it does not answer.
        """
        # Runs at the same time would disturb each other; so would one whose controller has died meanwhile.
        async with asyncio.timeout(call.deadline), self._turn:
            self._later()
            if call.benchmark == CLEAN:
                await self._clean(call)
                return MeasureReply(call=call.call)
            if call.benchmark != FACTS and call.benchmark not in BY_NAME:
                raise MeasuringFailed(f"this agent knows no benchmark {call.benchmark}: install one version everywhere")
            log.info("measuring %s on %s", call.benchmark, "itself" if call.machine is None else call.machine.name)
            kit = await self._kit(call.kit)
            if call.machine is not None:
                await self._install(call, kit)
            before = await _load()
            said = await (self._network(call, kit) if _is_network(call) else self._tool(call, kit))
            after = await _load()
            self._later()
            return MeasureReply(
                call=call.call,
                command=said.command,
                output=said.output,
                accelerator=self._accelerator if call.machine is not None else "",
                cpus=os.cpu_count() or 1,
                load_before=round(before, 3),
                load_after=round(after, 3),
            )

    def close(self) -> None:
        """Take the kit away from this server."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _later(self) -> None:
        """Whoever asked may be gone for good: then nobody says when it is over."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)

    # --- the kit ------------------------------------------------------------------------------------------------

    async def _kit(self, digest: Digest) -> Path:
        cache = ImageCache(self._folder / "archive")
        place = self._folder / "kit"
        stop = threading.Event()

        def have() -> None:
            if (place / "run").exists() and cache.has(digest):
                return
            if not cache.has(digest):
                shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            cache.fetch(digest, self._connect, stop)
            shutil.rmtree(place, ignore_errors=True)
            unpacking = self._folder / "unpacking"
            _unpack(cache.path(digest), unpacking)
            unpacking.rename(place)

        try:
            await asyncio.to_thread(have)
        except AgentFault as error:
            raise MeasuringFailed(f"the measuring kit did not come here: {error}") from error
        except (OSError, tarfile.TarError) as error:
            raise MeasuringFailed(f"the measuring kit can't be unpacked in {self._folder}: {error}") from error
        finally:
            stop.set()  # a thread can't be cancelled; it looks here
        return place

    async def _install(self, call: Measure, kit: Path) -> None:
        """Have the kit in the guest."""
        there = f"{GUEST_FOLDER}/{call.kit.removeprefix('sha256:')[:16]}"
        found = await self._guest(call, ["/bin/sh", "-c", 'test -x "$1/run"', "sh", there], INSTALL_SECONDS)
        if found.exit_code == 0:
            return
        archive = await asyncio.to_thread(ImageCache(self._folder / "archive").path(call.kit).read_bytes)
        unpacked = await asyncio.to_thread(lambda: sum(p.stat().st_size for p in kit.rglob("*") if p.is_file()))
        room = (len(archive) + unpacked >> 20) + call.scratch_mib + 64
        times = (f"{IDLE_SECONDS:.0f}", f"{LOOK_SECONDS:.0f}")
        argv = ["/bin/sh", "-c", _PREPARE, "sh", str(room), GUEST_FOLDER, there, *times]
        await self._told(call, argv, "make room for the measuring kit")
        assert call.machine is not None
        assert self._guests is not None
        end = time.monotonic() + INSTALL_SECONDS
        for start in range(0, len(archive), PIECE):
            left = end - time.monotonic()
            if left <= 0:
                raise MeasuringFailed(
                    f"the measuring kit did not get into {call.machine.name} in {INSTALL_SECONDS:g} s"
                )
            piece, path = archive[start : start + PIECE], f"{there}/kit.tar.gz"
            await self._guests.write(call.machine.uid, path, piece, 0o600, first=start == 0, timeout=left)
        argv = ["/bin/sh", "-c", _UNPACK, "sh", there]
        await self._told(call, argv, "unpack the measuring kit")

    async def _clean(self, call: Measure) -> None:
        if call.machine is not None:
            await self._told(call, ["/bin/rm", "-rf", GUEST_FOLDER], "remove the measuring kit")
            return
        await asyncio.to_thread(self.close)

    # --- runs ---------------------------------------------------------------------------------------------------

    async def _tool(self, call: Measure, kit: Path, peer: str = "", port: int = 0) -> _Said:
        words = [call.benchmark, str(call.seconds), str(call.scratch_mib)]
        bound = limit(call.seconds)
        if call.machine is None:
            folder = self._scratch_folder(call)
            return await _local(["/bin/sh", str(kit / "run"), *words, folder, peer, str(port)], bound, call.benchmark)
        there = f"{GUEST_FOLDER}/{call.kit.removeprefix('sha256:')[:16]}/run"
        # A guest agent can't end what it has started; this ends it from inside.
        argv = ["timeout", "-s", "KILL", f"{bound:.0f}", "/bin/sh", there, *words, GUEST_FOLDER, peer, str(port)]
        began = time.monotonic()
        done = await self._guest(call, ["/bin/sh", "-c", 'exec "$@"', "sh", *argv], bound + 15)
        if done.exit_code == KILLED and time.monotonic() - began >= bound:
            raise MeasuringFailed(_hung(call.benchmark, call.machine.name, bound))
        if done.exit_code != 0:
            raise MeasuringFailed(_why(call.benchmark, call.machine.name, done.exit_code, done.stderr))
        return _split(done.stdout)

    def _scratch_folder(self, call: Measure) -> str:
        if call.benchmark == FACTS or BY_NAME[call.benchmark].group != "disk":
            return "/var/tmp"
        pools = self._pools()
        name = call.disk_pool or min(pools, default="")
        if name not in pools:
            known = ", ".join(sorted(pools)) or "none"
            raise MeasuringFailed(f"disk pool {name or '(any)'} is not served here (served: {known}); leave disk out")
        return str(pools[name])

    async def _network(self, call: Measure, kit: Path) -> _Said:
        """The other end is this server, at its bridge's address: for itself and for its machines alike."""
        peer = await _bridge_address(call.bridge)
        port = _free_port(peer)
        kind = call.benchmark.removeprefix("network-")
        argv = ["/bin/sh", str(kit / "run"), f"serve-{kind}", "0", "0", "/var/tmp", peer, str(port)]
        async with _running(argv) as server:
            await _listening(server, port)
            return await self._tool(call, kit, peer, port)

    async def _guest(self, call: Measure, argv: Sequence[str], seconds: float) -> GuestOutput:
        assert call.machine is not None
        if self._guests is None:
            raise MeasuringFailed(f"{call.machine.name} does not run on a hypervisor here: measure its server instead")
        return await self._guests.execute(call.machine.uid, argv, b"", seconds)

    async def _told(self, call: Measure, argv: Sequence[str], what: str) -> None:
        assert call.machine is not None
        done = await self._guest(call, argv, INSTALL_SECONDS)
        if done.exit_code != 0:
            said = done.stderr.decode(errors="replace").strip()[-300:] or f"exit code {done.exit_code}"
            raise MeasuringFailed(f"{call.machine.name} can't {what}: {said}")


def _unpack(archive: Path, folder: Path) -> None:
    """Plain files in at most one folder each: whatever else is in it is no measuring kit. Raises `OSError`."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = folder / member.name
            content = tar.extractfile(member) if member.isreg() and ".." not in path.parts else None
            if content is None or not path.is_relative_to(folder):
                raise tarfile.TarError(f"{member.name} is no file of a measuring kit")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                shutil.copyfileobj(content, file, PIECE)
            path.chmod(0o755)


# --- processes of this server ---------------------------------------------------------------------------------------


async def _local(argv: Sequence[str], bound: float, benchmark: str) -> _Said:
    """Run it here, bounded."""
    async with _running(argv) as process:
        try:
            async with asyncio.timeout(bound):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            raise MeasuringFailed(_hung(benchmark, "this server", bound)) from None
    code = process.returncode or 0
    if code != 0:
        raise MeasuringFailed(_why(benchmark, "this server", code if code > 0 else 128 - code, stderr))
    return _split(stdout)


@asynccontextmanager
async def _running(argv: Sequence[str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process with all that it starts; ended with the block, and with this agent."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_behave,
        cwd="/",
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):  # storage that hangs lets nobody go, and must not hold up the agent
            async with asyncio.timeout(END_SECONDS):
                await process.wait()


_LIBC = ctypes.CDLL(None, use_errno=True)


def _behave() -> None:
    os.nice(NICENESS)
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


async def _listening(server: asyncio.subprocess.Process, port: int) -> None:
    """Wait until the other end is there. It is looked for, as a connection would be taken for the benchmark's own."""
    end = time.monotonic() + LISTEN_SECONDS
    while not _listens(port):
        if server.returncode is not None:
            assert server.stderr is not None
            said = (await server.stderr.read()).decode(errors="replace").strip()[-300:]
            raise MeasuringFailed(f"the other end of the network benchmark ended at once: {said}")
        if time.monotonic() > end:
            raise MeasuringFailed(f"the other end of the network benchmark does not listen after {LISTEN_SECONDS:g} s")
        await asyncio.sleep(0.05)


def _listens(port: int, proc: Path = Path("/proc/self/net")) -> bool:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def _free_port(address: str) -> int:
    with socket.socket() as s:
        s.bind((address, 0))
        return int(s.getsockname()[1])


async def _bridge_address(bridge: str) -> str:
    """The server's own address on a bridge, or on the first that has one."""
    for link in await links("-4", "address", "show", *(["dev", bridge] if bridge else ["type", "bridge"])):
        for info in link.get("addr_info", ()):
            if info.get("family") == "inet":
                return str(info["local"])
    what = f"bridge {bridge}" if bridge else "no bridge of this server"
    raise MeasuringFailed(f"{what} has {'no' if bridge else 'an'} address: give it one, or leave network out of --only")


async def _load() -> float:
    """CPUs in use over a moment, by whatever runs on this server."""
    began, before = time.monotonic(), busy_seconds()
    await asyncio.sleep(LOAD_SECONDS)
    return max(0.0, (busy_seconds() - before) / (time.monotonic() - began))


def _is_network(call: Measure) -> bool:
    return call.benchmark in BY_NAME and BY_NAME[call.benchmark].group == "network"


def _split(stdout: bytes) -> _Said:
    """The command that the kit's script tells in its first line, and what came after it."""
    first, _, output = stdout.partition(b"\n")
    if not first.startswith(b"command: "):
        raise MeasuringFailed(f"the measuring kit's script said nothing that is known: {first[:200]!r}")
    return _Said(first.decode(errors="replace").removeprefix("command: "), output[:OUTPUT_BYTES])


def _hung(benchmark: str, where: str, bound: float) -> str:
    return f"{benchmark} on {where} hung and was ended after {bound:.0f} s; look at its load and its disk"


def _why(benchmark: str, where: str, code: int, stderr: bytes) -> str:
    if code == KILLED:
        return f"{benchmark} on {where} was killed there; look whether its memory is too little"
    said = stderr.decode(errors="replace").strip()[-400:] or f"it ended with {code} and said nothing"
    return f"{benchmark} on {where}: {said}"
