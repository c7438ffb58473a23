"""How much CPU the server and its machines use: sampled often, told only when it has changed or after a while.

`LoadWindow` computes and knows no clock; `LoadSampler` reads libvirt and `/proc`. What is measured is use, not demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import libvirt

from bedplate.agent.faults import HypervisorDown
from bedplate.agent.host import busy_seconds, has_kernel_alone
from bedplate.agent.state import AgentState
from bedplate.agent.worker import Worker
from bedplate.model.ids import MachineUid, ServerName
from bedplate.model.inventory import LoadView, MachineLoad

log = logging.getLogger("bedplate.agent.load")

SAMPLE_SECONDS = 10.0
WINDOW_SECONDS = 300.0
"""Mean and deviation are over so long: shorter peaks are not worth a move, which itself takes seconds."""
TELL_SECONDS = 600.0
"""After so long it is told in any case."""
CHANGE = 0.1
"""Of the server's CPUs: a smaller change of a mean moves nothing."""


class _Series:
    """CPU use of one thing."""

    def __init__(self) -> None:
        self.before: tuple[float, float] | None = None
        self.rates: deque[float] = deque(maxlen=int(WINDOW_SECONDS / SAMPLE_SECONDS))

    def add(self, now: float, seconds: float) -> None:
        """Take the CPU seconds used until now. A counter that fell began anew."""
        if self.before is not None and seconds >= self.before[1] and now > self.before[0]:
            self.rates.append((seconds - self.before[1]) / (now - self.before[0]))
        self.before = (now, seconds)

    def mean(self) -> float:
        return sum(self.rates) / len(self.rates) if self.rates else 0.0

    def deviation(self) -> float:
        mean = self.mean()
        return math.sqrt(sum((r - mean) ** 2 for r in self.rates) / len(self.rates)) if self.rates else 0.0


class LoadWindow:
    """The last minutes' load of one server with so many CPUs."""

    def __init__(self, server: ServerName, cpus: int) -> None:
        self._server = server
        self._least = CHANGE * cpus
        self._whole = _Series()
        self._machines: dict[MachineUid, _Series] = {}
        self._told: LoadView | None = None
        self._told_at = float("-inf")

    def add(self, now: float, server: float, machines: Mapping[MachineUid, float]) -> LoadView | None:
        """Take CPU seconds used until now, of the server and of each machine that runs; gives what is to be told."""
        self._whole.add(now, server)
        self._machines = {uid: self._machines.get(uid) or _Series() for uid in machines}
        for uid, seconds in machines.items():
            self._machines[uid].add(now, seconds)
        if not self._whole.rates:
            return None
        view = LoadView(
            server=self._server,
            cpu=round(self._whole.mean(), 3),
            machines=tuple(
                MachineLoad(uid, round(series.mean(), 3), round(series.deviation(), 3))
                for uid, series in sorted(self._machines.items())
                if series.rates
            ),
        )
        if now - self._told_at < TELL_SECONDS and not self._changed(view):
            return None
        self._told, self._told_at = view, now
        return view

    def _changed(self, view: LoadView) -> bool:
        if self._told is None:
            return True
        before = {m.uid: m.cpu for m in self._told.machines}
        after = {m.uid: m.cpu for m in view.machines}
        moved = [abs(after.get(uid, 0.0) - before.get(uid, 0.0)) for uid in {*before, *after}]
        return max([abs(view.cpu - self._told.cpu), *moved]) > self._least


class LoadSampler:
    """Samples this server, until cancelled."""

    def __init__(
        self,
        server: ServerName,
        state: AgentState,
        worker: Worker,
        tell: Callable[[LoadView], Awaitable[None]],
    ) -> None:
        self._state = state
        self._worker = worker
        self._tell = tell
        self._window = LoadWindow(server, os.cpu_count() or 1)
        self._processes = ProcessTimes()

    async def run(self) -> None:
        """Sample every `SAMPLE_SECONDS`."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            try:
                used = await self._worker.call(_cpu_seconds, timeout=SAMPLE_SECONDS)
                server = await asyncio.to_thread(self._processes.seconds)
            except (HypervisorDown, libvirt.libvirtError, OSError) as error:
                log.debug("no sample: %s", error)
                continue
            machines = {uid: seconds for uid, seconds in used.items() if self._state.knows(uid)}
            view = self._window.add(time.monotonic(), server, machines)
            if view is not None:
                await self._tell(view)


def _cpu_seconds(connection: Any) -> dict[MachineUid, float]:
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    # A QEMU that hangs must not hold the sample up.
    flags |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_CPU_TOTAL, flags)
    return {MachineUid(d.UUIDString()): stats["cpu.time"] / 1e9 for d, stats in found if "cpu.time" in stats}


class ProcessTimes:
    """CPU seconds that a server's processes have used."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._tick = os.sysconf("SC_CLK_TCK")
        self._alone = has_kernel_alone(proc)
        self._last: dict[tuple[str, str], int] = {}
        self._sum = 0

    def seconds(self) -> float:
        """Give them; grows."""
        return busy_seconds(self._proc / "stat") if self._alone else self._of_processes()

    def _of_processes(self) -> float:
        """A server that is one container of several (a lab's): what its own processes used while they were seen."""
        seen: dict[tuple[str, str], int] = {}
        for entry in os.listdir(self._proc):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    fields = (self._proc / entry / "stat").read_text().rsplit(")", 1)[1].split()
                    seen[entry, fields[19]] = int(fields[11]) + int(fields[12])
        self._sum += sum(max(0, ticks - self._last.get(one, ticks)) for one, ticks in seen.items())
        self._last = seen
        return self._sum / self._tick
