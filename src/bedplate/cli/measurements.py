"""Carries a Measurement on by one run of one tool: finds the target, has its agent run it, keeps what came of it.

What is next, and what the figures mean, is decided in `advise.measuring`. Nothing is kept here between two calls: a
controller that was started anew goes on where the store says that it is.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from bedplate.api.hooks import NotAvailable
from bedplate.model import measuring
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, Epoch, OperationId, ServerName
from bedplate.model.kinds.measurement import MeasuredSample, MeasuredTarget, Measurement, MeasurementStatus
from bedplate.model.measuring import BY_NAME, CLEAN, FACTS, INSTALL_SECONDS
from bedplate.model.meta import Condition
from bedplate.model.quantity import parse_mib
from bedplate.model.steps import Ticket
from bedplate.model.times import timestamp
from bedplate.model.wire import to_wire
from bedplate.ports import BenchmarkFailed, BenchmarkOutput, BenchmarkRun, Benchmarks, ImageSource
from bedplate.store.store import Store

CLEAN_SECONDS = 30.0
"""For taking the kit away; a target that does not answer does it by itself later."""

BARE = "network is not measured on a bare node: it has no server of its own to talk to"

FindMachine = Callable[[str, str, str], MachineEntry]
"""Gives the machine of a kind, a namespace and a name. Raises `NotAvailable`."""


class Measurements:
    """Implements the API's `Measuring`.

    Args:
        store: Keeps the measurements.
        agents: Reach the targets.
        kits: Gives the measuring kit by its digest.
        epoch: Of this controller.
        machine: Finds a target that is a machine.
    """

    def __init__(
        self,
        store: Store,
        agents: Benchmarks,
        kits: ImageSource,
        epoch: Callable[[], Epoch],
        machine: FindMachine,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._agents = agents
        self._kits = kits
        self._epoch = epoch
        self._machine = machine
        self._clock = clock
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def carry_on(self, namespace: str, name: str) -> dict[str, Any]:
        """Do the next run: `{"done": ..., "said": ..., "object": ...}`."""
        async with self._turn(namespace, name):
            try:
                return await self._next(namespace, name)
            except BenchmarkFailed as error:
                raise NotAvailable(str(error)) from error

    async def _next(self, namespace: str, name: str) -> dict[str, Any]:
        from bedplate.advise import measuring as advice

        now = await self._read(namespace, name)
        run = advice.next_run(now.spec, now.status.targets)
        if run is None:
            await self._clean(now)
            done = await asyncio.to_thread(self._finish, now)
            return {"done": True, "said": "all is measured", "object": to_wire(done)}
        said = await self._run(now, run)
        after = await self._read(namespace, name)
        return {"done": False, "said": said, "object": to_wire(after)}

    async def stop(self, namespace: str, name: str) -> None:
        """Take the kit away from all targets, once the run under way has ended; it can be carried on later."""
        async with self._turn(namespace, name):
            await self._clean(await self._read(namespace, name))

    def _turn(self, namespace: str, name: str) -> asyncio.Lock:
        """Two clients take turns: each call does what is next when it comes to it."""
        return self._turns.setdefault((namespace, name), asyncio.Lock())

    async def _read(self, namespace: str, name: str) -> Measurement:
        found = await asyncio.to_thread(self._store.get, "Measurement", namespace, name)
        assert isinstance(found, Measurement)
        return found

    # --- one run ------------------------------------------------------------------------------------------------

    async def _run(self, now: Measurement, run: Any) -> str:
        from bedplate.advise import measuring as advice

        spec = now.spec
        if self._kits.path(Digest(spec.kit)) is None:
            raise NotAvailable(f"the controller has no measuring kit {spec.kit[:19]}…: `bedplate measure` sends it")
        server, entry = self._place(now, run.target)
        known = next((t for t in now.status.targets if t.target == run.target), None)
        if known is not None and known.server != server:
            raise NotAvailable(
                f"{run.target} has moved from {known.server} to {server} since its first sample: those of two servers "
                "don't compare; measure anew"
            )
        out = await self._benchmark(now, run.benchmark, server, entry)
        if run.benchmark == FACTS:
            target = MeasuredTarget(
                target=run.target,
                substrate="server" if entry is None else entry.substrate,
                server=server,
                emulated=out.accelerator == "tcg",
                facts=advice.facts(out.output),
                remarks=(BARE,) if entry is not None and entry.substrate == "metal" else (),
            )
            await asyncio.to_thread(self._keep, now, target)
            return f"{run.target}: {target.facts.get('cpuModel', 'its processor does not say what it is')}"
        assert known is not None
        try:
            found = advice.values(run.benchmark, out.output)
        except advice.Unreadable as error:
            raise NotAvailable(f"{run.target}: {error}") from error
        commands = {**known.commands, run.benchmark: out.command}
        known = msgspec.structs.replace(known, commands=commands)
        metric = BY_NAME[run.benchmark].metrics[0]
        value = f"{found[metric.name]:,.1f} {metric.unit}"
        if run.warm_up:
            warm = msgspec.structs.replace(known, warmed=(*known.warmed, run.benchmark))
            await asyncio.to_thread(self._keep, now, warm)
            return f"{run.benchmark} on {run.target}: {value} (warm-up, thrown away)"
        sample = MeasuredSample(
            value=0.0,
            time=timestamp(self._clock()),
            load_before=out.load_before,
            load_after=out.load_after,
            disturbed=advice.disturbance(out.load_before, out.load_after, out.cpus),
        )
        await asyncio.to_thread(self._keep, now, advice.added(known, run.benchmark, found, sample))
        return f"{run.benchmark} on {run.target}: {value}" + (
            f" (disturbed: {sample.disturbed})" * bool(sample.disturbed)
        )

    async def _benchmark(
        self, now: Measurement, benchmark: str, server: ServerName, entry: MachineEntry | None, seconds: float = 0.0
    ) -> BenchmarkOutput:
        spec = now.spec
        beside = entry or self._beside(now, server)
        run = BenchmarkRun(
            server=server,
            kit=Digest(spec.kit),
            benchmark=benchmark,
            machine=entry,
            seconds=spec.seconds,
            scratch_mib=parse_mib(spec.scratch),
            disk_pool=beside.disk_pool if beside is not None else "",
            bridge=beside.nic.bridge if beside is not None else "",
        )
        ticket = Ticket(
            operation=OperationId(f"measure-{uuid.uuid4()}"),
            store=self._store.id,
            epoch=self._epoch(),
            deadline=seconds or measuring.limit(spec.seconds) + INSTALL_SECONDS,
        )
        return await self._agents.benchmark(run, ticket)

    def _place(self, now: Measurement, target: str) -> tuple[ServerName, MachineEntry | None]:
        """The server of a target, and the machine that it is; None: it is that server. Raises `NotAvailable`."""
        kind, _, name = target.partition("/")
        if kind == "server":
            if self._store.find("Server", "", name) is None:
                raise NotAvailable(f'spec.targets: there is no server "{name}"; see `bedplate get servers`')
            return ServerName(name), None
        words = {"machine": "Machine", "virtualmachine": "VirtualMachine"}
        try:
            entry = self._machine(words[kind], now.metadata.namespace, name)
        except NotAvailable:
            said = f'spec.targets: there is no {kind} "{name}" in namespace {now.metadata.namespace}'
            raise NotAvailable(f"{said}, or it is not placed yet; see `bedplate get {kind}s`") from None
        if entry.desired != "run":
            raise NotAvailable(f"spec.targets: {target} is not to run now; start it first")
        return entry.server, entry

    def _beside(self, now: Measurement, server: ServerName) -> MachineEntry | None:
        """The first machine on that server that is measured too. Raises `NotAvailable`."""
        machines = [self._place(now, t)[1] for t in now.spec.targets if not t.startswith("server/")]
        return next((m for m in machines if m is not None and m.server == server), None)

    async def _clean(self, now: Measurement) -> None:
        for target in reversed(now.spec.targets):  # a guest before its server
            try:
                server, entry = self._place(now, target)
                await self._benchmark(now, CLEAN, server, entry, CLEAN_SECONDS)
            except (NotAvailable, BenchmarkFailed):
                continue  # it takes the kit away by itself when nobody has used it for a while

    # --- the store ----------------------------------------------------------------------------------------------

    def _keep(self, now: Measurement, target: MeasuredTarget) -> None:
        from bedplate.advise import measuring as advice

        with self._store.transaction() as tx:
            found = tx.get("Measurement", now.metadata.namespace, now.metadata.name)
            assert isinstance(found, Measurement)
            targets = {t.target: t for t in found.status.targets} | {target.target: target}
            order = tuple(targets[t] for t in found.spec.targets if t in targets)
            there, asked = advice.progress(found.spec, order)
            status = msgspec.structs.replace(
                found.status,
                targets=order,
                phase="Running",
                progress=f"{there}/{asked}",
                started=found.status.started or timestamp(self._clock()),
                conditions=(_complete("False", "Running", "samples are missing", found),),
            )
            tx.update_status(msgspec.structs.replace(found, status=status))

    def _finish(self, now: Measurement) -> Measurement:
        with self._store.transaction() as tx:
            found = tx.get("Measurement", now.metadata.namespace, now.metadata.name)
            assert isinstance(found, Measurement)
            status: MeasurementStatus = msgspec.structs.replace(
                found.status,
                phase="Complete",
                finished=found.status.finished or timestamp(self._clock()),
                conditions=(_complete("True", "Measured", "all samples are there", found),),
            )
            done = tx.update_status(msgspec.structs.replace(found, status=status))
            assert isinstance(done, Measurement)
            return done


def _complete(status: Any, reason: str, message: str, of: Measurement) -> Condition:
    before = next((c for c in of.status.conditions if c.type == "Complete"), None)
    since = before.last_transition_time if before is not None and before.status == status else timestamp(time.time())
    return Condition(
        type="Complete",
        status=status,
        reason=reason,
        message=message,
        observed_generation=of.metadata.generation,
        last_transition_time=since,
    )
