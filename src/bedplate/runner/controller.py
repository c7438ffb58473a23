"""The controller: one event queue into the engine, its commands out to the store and the drivers.

All store commands of one turn are written in order by one thread; their acknowledgements come back as events. Steps
run as tasks. The engine decides, this carries: nothing here looks at what a command means.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

import structlog

from bedplate.engine import messages as msg
from bedplate.engine.diff import family
from bedplate.engine.engine import Engine
from bedplate.model.ids import Epoch
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.steps import AgentStep, BmcStep, BootstrapStep, KubernetesStep, StepResult, Unknown
from bedplate.ports import Bmc, ClusterBootstrap, Hypervisor, Kubernetes

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

StoreCommand = (
    msg.Commit | msg.Begin | msg.Finish | msg.Publish | msg.Unpublish | msg.Finalise | msg.Record
)  # what the store carries out

RENEW_SECONDS = 5.0
"""Leadership is renewed this often; it lasts three times as long, so one lost renewal does no harm."""
LEASE_SECONDS = 15.0
HEAL_SECONDS = 5.0
"""A store that failed is tried again this often."""


class StoreUnavailableError(Exception):
    """The store can't be written now (disk full, read-only, gone); nothing was lost."""


class Persistence(Protocol):
    """What the controller needs of a store. All blocking, called from one thread."""

    def acquire(self) -> Epoch | None:
        """Lead, or None while another controller does."""
        ...

    def renew(self, epoch: Epoch) -> bool:
        """Go on leading; False: the epoch is over."""
        ...

    def release(self, epoch: Epoch) -> None: ...

    def load(self, epoch: Epoch) -> msg.Started:
        """All that the engine starts from."""
        ...

    def carry_out(self, commands: Sequence[StoreCommand]) -> list[msg.Event]:
        """Write the commands in order, in one transaction, and give their acknowledgements.

        Raises:
            StoreUnavailableError: none of the commands was written.
        """
        ...


class Controller:
    """Runs one engine until `stop`, or until leadership is lost."""

    def __init__(
        self,
        engine: Engine,
        persistence: Persistence,
        hypervisor: Hypervisor,
        bootstrap: ClusterBootstrap,
        kubernetes: Kubernetes,
        bmc: Bmc,
    ) -> None:
        self._engine = engine
        self._persistence = persistence
        self._hypervisor = hypervisor
        self._bootstrap = bootstrap
        self._kubernetes = kubernetes
        self._bmc = bmc
        self._queue: asyncio.Queue[msg.Event | None] = asyncio.Queue()
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._epoch: Epoch | None = None
        self._refused: list[StoreCommand] = []
        self._healing = False
        self.halted: str | None = None
        """Why this controller stopped acting; None while it acts."""

    @property
    def engine(self) -> Engine:
        """The engine, to be read only."""
        return self._engine

    # --- news, from the same event loop ---

    def sink(self, source: str, observations: Sequence[Observation[AnyView]], *, full: bool = False) -> None:
        """`ports.Sink` for all collectors."""
        self._queue.put_nowait(msg.Observed(source=source, observations=tuple(observations), full=full))

    def tell(self, event: msg.Event) -> None:
        """Give the engine any other event."""
        self._queue.put_nowait(event)

    # --- life ---

    async def lead(self) -> Epoch:
        """Wait until this controller leads; then load the store into the engine."""
        while True:
            epoch = await self._in_store(self._persistence.acquire)
            if epoch is not None:
                break
            log.info("another controller leads; waiting")
            await asyncio.sleep(RENEW_SECONDS)
        self._epoch = epoch
        started = await self._in_store(self._persistence.load, epoch)
        if started.observe_only:
            log.warning("this store was restored: only observing until a person accepts (`bedplate accept`)")
        self.tell(started)
        return epoch

    async def run(self) -> None:
        """Handle events until `stop`. Call `lead` first."""
        renewing = asyncio.create_task(self._renew())
        try:
            while (event := await self._queue.get()) is not None:
                commands = self._engine.handle(event, time.time())
                await self._carry_out(commands)
        finally:
            renewing.cancel()
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._epoch is not None and self.halted is None:
                with contextlib.suppress(StoreUnavailableError):
                    await self._in_store(self._persistence.release, self._epoch)
            self._store_thread.shutdown()

    def stop(self) -> None:
        """End `run` after the event in hand."""
        self._queue.put_nowait(None)

    async def _renew(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            assert self._epoch is not None
            try:
                if await self._in_store(self._persistence.renew, self._epoch):
                    last = time.monotonic()
                else:
                    self.tell(msg.CommitLost(message="another controller has taken over"))
            except StoreUnavailableError as error:
                if time.monotonic() - last > LEASE_SECONDS:
                    self._store_failed(str(error))

    async def _in_store(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._store_thread, call)

    # --- commands ---

    async def _carry_out(self, commands: Sequence[msg.Command]) -> None:
        for_store: list[StoreCommand] = []
        for command in commands:
            match command:
                case msg.Run():
                    self._start(command)
                case msg.SetTimer():
                    self._set_timer(command.at)
                case msg.Follow():
                    self._kubernetes.follow(command.clusters)
                case msg.FollowBmcs():
                    self._bmc.follow(command.servers)
                case msg.Halt():
                    self.halted = command.message
                    log.error("stopped acting", reason=command.message)
                case _:
                    for_store.append(command)
        if for_store:
            await self._write(for_store)

    async def _write(self, commands: list[StoreCommand]) -> None:
        if self._refused:  # in order, behind what the store refused
            self._refused.extend(commands)
            return
        try:
            acknowledgements = await self._in_store(self._persistence.carry_out, commands)
        except StoreUnavailableError as error:
            self._refused = commands
            self._store_failed(str(error))
            return
        for event in acknowledgements:
            self._queue.put_nowait(event)

    def _store_failed(self, error: str) -> None:
        if self._healing:
            return
        log.error("the store can't be written; acting stops until it can", error=error)
        self._healing = True
        self.tell(msg.StoreFailed(message=error))
        self._spawn(self._heal())

    async def _heal(self) -> None:
        """Try to renew, and the refused commands again, until the store takes both; then the engine goes on."""
        assert self._epoch is not None
        healed = False
        while not healed:
            await asyncio.sleep(HEAL_SECONDS)
            with contextlib.suppress(StoreUnavailableError):
                if not await self._in_store(self._persistence.renew, self._epoch):
                    continue  # another leads by now: nothing of ours may be written; `_renew` tells
                healed = await self._write_refused()
        self._healing = False
        log.info("the store can be written again")
        self.tell(msg.StoreHealed())

    async def _write_refused(self) -> bool:
        """Write what was refused, in order; False: more came meanwhile."""
        batch = tuple(self._refused)
        acknowledgements = await self._in_store(self._persistence.carry_out, batch) if batch else []
        del self._refused[: len(batch)]
        for event in acknowledgements:
            self.tell(event)
        return not self._refused

    def _start(self, command: msg.Run) -> None:
        self._spawn(self._run_step(command))

    async def _run_step(self, command: msg.Run) -> None:
        step, ticket = command.step, command.ticket
        try:
            async with asyncio.timeout(ticket.deadline + 30):  # drivers keep the deadline; this is for one that doesn't
                result = await self._dispatch(command)
        except TimeoutError:
            result = Unknown(message=f"{step.name} did not end within {ticket.deadline:.0f} s")
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("a driver raised", step=step.name, target=step.target)
            result = Unknown(message=f"the driver failed: {type(error).__name__}")
        self.tell(msg.StepEnded(operation=ticket.operation, result=result))

    async def _dispatch(self, command: msg.Run) -> StepResult:
        step, ticket = command.step, command.ticket
        match family(step):
            case "agent":
                assert isinstance(step, AgentStep)
                return await self._hypervisor.run(step, ticket)
            case "bootstrap":
                assert isinstance(step, BootstrapStep)
                return await self._bootstrap.run(step, ticket)
            case "kubernetes":
                assert isinstance(step, KubernetesStep)
                return await self._kubernetes.run(step, ticket)
            case "bmc":
                assert isinstance(step, BmcStep)
                return await self._bmc.run(step, ticket)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, at - time.time())
        self._timer = asyncio.get_running_loop().call_later(delay, self.tell, msg.Ticked())
