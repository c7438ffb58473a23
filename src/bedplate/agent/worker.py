"""Calls libvirt: each connection has one thread and one call in flight, so that a hung libvirt stalls no event loop.

Two calls on one connection at a keepalive timeout lose one of them, hence the thread per connection. A call that
nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import libvirt

from bedplate.agent.faults import HypervisorDown

T = TypeVar("T")
log = logging.getLogger("bedplate.agent.libvirt")

KEEPALIVE_SECONDS = 3
KEEPALIVE_COUNT = 3
"""A hung libvirtd breaks the connection after (count + 1) * seconds = 12 s: longer than it stalls under load."""
CALL_SECONDS = 30.0

_event_loop_started = False


def start_event_loop() -> None:
    """Run libvirt's own event loop (events, keepalives) in a thread. Once per process, before any connection."""
    global _event_loop_started  # noqa: PLW0603 - libvirt's event loop is one per process
    if _event_loop_started:
        return
    _event_loop_started = True
    libvirt.registerErrorHandler(_ignore, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()


def _ignore(_context: object, _error: object) -> None:
    """libvirt would print each error; they are raised anyway."""


class _Call:
    def __init__(self, work: Callable[[Any], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.begun = False
        self.abandoned = False

    def finish(self, value: Any, error: BaseException | None) -> None:
        def settle() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent ends
            self.loop.call_soon_threadsafe(settle)


class Worker:
    """One libvirt connection with its thread; connects when first used and again after a loss.

    Args:
        uri: libvirt's URI.
        opened: Called in the thread with each new connection (to register for events).
    """

    def __init__(self, uri: str, name: str, opened: Callable[[Any], None] | None = None) -> None:
        self._uri = uri
        self._name = name
        self._opened = opened
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: Any = None
        self.waiting = 0
        """Calls in flight and queued."""

    async def call(self, work: Callable[[Any], T], timeout: float = CALL_SECONDS) -> T:
        """Run `work(connection)` in the thread.

        Raises:
            HypervisorDown: no connection, or no answer in time.
            libvirt.libvirtError: libvirt says no.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"libvirt-{self._name}", daemon=True)
            self._thread.start()
        call = _Call(work, asyncio.get_running_loop())
        self._calls.put(call)
        self.waiting += 1
        try:
            return cast(T, await asyncio.wait_for(asyncio.shield(call.future), timeout))
        except TimeoutError:
            raise HypervisorDown(f"libvirt has not answered for {timeout:.0f} s", begun=call.begun) from None
        finally:
            call.abandoned = True
            call.future.add_done_callback(_retrieve)
            self.waiting -= 1

    def stop(self) -> None:
        """End the thread after its present call."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if call.abandoned:
                continue
            try:
                connection = self._connect()
                call.begun = not call.abandoned
                if call.begun:
                    call.finish(call.work(connection), None)
            except libvirt.libvirtError as error:
                if self._broken(error):
                    self._disconnect()
                    down = HypervisorDown(f"libvirt is not to be reached: {error}", begun=call.begun)
                    call.finish(None, down)
                else:
                    call.finish(None, error)
            except BaseException as error:
                call.finish(None, error)
        self._disconnect()

    def _connect(self) -> Any:
        if self._connection is None:
            connection = libvirt.open(self._uri)
            connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
            if self._opened is not None:
                self._opened(connection)
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    def _broken(self, error: libvirt.libvirtError) -> bool:
        if self._connection is None or error.get_error_domain() in {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}:
            return True
        try:
            return not self._connection.isAlive()
        except libvirt.libvirtError:
            return True


def _retrieve(future: asyncio.Future[Any]) -> None:
    """A late error of an abandoned call is nobody's."""
    if not future.cancelled():
        future.exception()


class WorkerPool:
    """A few connections for calls that may take long (guest agents, moves): a slow one must not hold up the others."""

    def __init__(self, uri: str, name: str, size: int) -> None:
        self._workers = [Worker(uri, f"{name}-{n}") for n in range(size)]

    async def call(self, work: Callable[[Any], T], timeout: float = CALL_SECONDS) -> T:
        """As `Worker.call`, on the connection with the least to do."""
        return await min(self._workers, key=lambda w: w.waiting).call(work, timeout)

    def stop(self) -> None:
        """End the threads."""
        for worker in self._workers:
            worker.stop()


class Supervisor:
    """Keeps the events' connection up and tells when it goes and comes.

    Args:
        changed: Called in the event loop with "" when libvirt is there (again) and with the reason when it is not.
        event: Called in the event loop with a domain's uuid and what happened.
    """

    def __init__(self, uri: str, changed: Callable[[str], None], event: Callable[[str, str, str], None]) -> None:
        self._worker = Worker(uri, "events", self._register)
        self._changed = changed
        self._event = event
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Supervise until cancelled."""
        try:
            delay = 0.5
            while True:
                try:
                    self._closed.clear()
                    await self._worker.call(lambda connection: connection.getLibVersion())
                    self._changed("")
                    delay = 0.5
                    await self._closed.wait()
                    self._changed("libvirt ended or does not answer; it is tried again")
                except (HypervisorDown, libvirt.libvirtError) as error:
                    self._changed(str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
        finally:
            self._worker.stop()

    def _register(self, connection: Any) -> None:
        started = time.monotonic()

        def closed(_connection: Any, reason: int, _opaque: Any) -> None:
            log.info("libvirt connection closed (reason %s) after %.0f s", reason, time.monotonic() - started)
            self._post(self._closed.set)

        connection.registerCloseCallback(closed, None)
        on = connection.domainEventRegisterAny
        on(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        on(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot, None)
        on(None, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._agent, None)

    def _lifecycle(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        started = event == libvirt.VIR_DOMAIN_EVENT_STARTED
        self._post(self._event, domain.UUIDString(), "lifecycle", "started" if started else "")

    def _reboot(self, _connection: Any, domain: Any, _opaque: Any) -> None:
        self._post(self._event, domain.UUIDString(), "reboot", "")

    def _agent(self, _connection: Any, domain: Any, state: int, _reason: int, _opaque: Any) -> None:
        up = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        self._post(self._event, domain.UUIDString(), "agent", "up" if up else "down")

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)
