"""The agents' driver: `Hypervisor`, `Guests`, `Benchmarks` and `Dialer` over the connections that agents hold.

It makes no choice: a step goes to the agent of the step's server, what comes back goes to the caller or the sink.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bedplate.drivers.agents.authority import TOKEN_SECONDS, AgentAuthority
from bedplate.drivers.agents.link import AgentLink, NotConnected
from bedplate.drivers.agents.listener import Identity, Listener
from bedplate.model.agent_protocol import (
    CLOSE_REFUSED,
    PING_SECONDS,
    PROTOCOL_VERSION,
    SILENCE_SECONDS,
    Command,
    FromAgent,
    GuestExecute,
    GuestWrite,
    Hello,
    Measure,
    Pool,
    Pools,
    StreamOpen,
    Welcome,
)
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Epoch, MachineUid, ServerName, StoreId
from bedplate.model.inventory import Observation, ServerView
from bedplate.model.steps import AgentStep, DefineDomain, Failed, StartDomain, StepResult, Ticket, WriteImage
from bedplate.ports import (
    BenchmarkFailed,
    BenchmarkOutput,
    BenchmarkRun,
    Duplex,
    GuestError,
    GuestFile,
    GuestOutput,
    ImageSource,
    MediaSource,
    SecretStore,
    Sink,
)

log = logging.getLogger("bedplate.agents")

HELLO_SECONDS = 10.0
GUEST_PIECE = 1024 * 1024
"""Bytes of a guest's file per frame: the guest agent takes 48 KiB at a time anyway."""

UserData = Callable[[MachineEntry], Awaitable[bytes]]


class AgentServer:
    """Where agents connect. Implements `ports.Hypervisor`, `ports.Guests` and `ports.Dialer`.

    Args:
        listen: Addresses, each `host:port` or `unix:/path`.
        store: Identity of this controller's store.
        epoch: Gives the controller's present epoch.
        secrets: Keeps the agents' authority, tokens and known servers.
        sink: Takes what agents observe, from source `agent/<server>`.
        images: Gives image files by digest.
        pools_for: Gives the disk pools that a server is to serve. Called in the event loop; must not block.
        user_data: Gives cloud-init user data of a machine that has `user_data` set.
        media: Gives media to BMCs.
        keepalive: Seconds between signs of life.
        silence: Seconds without one after which a connection counts as lost.
    """

    def __init__(
        self,
        *,
        listen: Sequence[str],
        store: StoreId,
        epoch: Callable[[], Epoch],
        secrets: SecretStore,
        sink: Sink,
        images: ImageSource,
        pools_for: Callable[[ServerName], Sequence[Pool]],
        user_data: UserData | None = None,
        media: MediaSource | None = None,
        keepalive: float = PING_SECONDS,
        silence: float = SILENCE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listen = list(listen)
        self._store = store
        self._epoch = epoch
        self._secrets = secrets
        self._sink = sink
        self._images = images
        self._pools_for = pools_for
        self._user_data = user_data
        self._media = media
        self._keepalive = keepalive
        self._silence = silence
        self._clock = clock
        self._links: dict[ServerName, AgentLink] = {}
        self._authority: AgentAuthority | None = None
        self._listener: Listener | None = None
        self.addresses: list[str] = []
        """Where it listens, with real ports; set by `start`."""

    async def start(self) -> None:
        """Make or load the authority and listen. Raises `OSError` where an address is taken."""
        self._authority = await asyncio.to_thread(AgentAuthority, self._secrets, self._store, self._clock)
        await asyncio.to_thread(self._authority.prune_tokens)
        self._listener = Listener(
            self._authority, self._images, self._attend, self._keepalive, self._silence, self._media
        )
        self.addresses = await self._listener.start(self._listen)

    async def stop(self) -> None:
        """Close all connections and the listener. Guests run on."""
        for link in self._links.values():
            await link.close()
        if self._listener is not None:
            await self._listener.stop()

    async def enrolment(
        self,
        server: ServerName,
        *,
        controller: str = "",
        addresses: tuple[str, ...] = (),
        replace: bool = False,
        beside: bool = False,
        valid_for: float = TOKEN_SECONDS,
    ) -> bytes:
        """Give an enrolment file; see `AgentAuthority.enrolment`. `controller`: by default the first own address."""
        assert self._authority is not None, "start() first"
        address = controller or self.addresses[0]

        def make() -> bytes:
            assert self._authority is not None
            return self._authority.enrolment(
                server, address, addresses, replace=replace, beside=beside, valid_for=valid_for
            )

        return await asyncio.to_thread(make)

    async def forget(self, server: ServerName) -> None:
        """Take a server's right to connect away and end its connection."""
        assert self._authority is not None, "start() first"
        await asyncio.to_thread(self._authority.forget, server)
        link = self._links.pop(server, None)
        if link is not None:
            await link.close()

    async def forget_all_but(self, servers: Sequence[ServerName]) -> None:
        """Forget the servers that are known and not among these."""
        assert self._authority is not None, "start() first"
        for server in set(await asyncio.to_thread(self._authority.enrolled)) - set(servers):
            log.info("agent %s is forgotten: its server is not declared any more", server)
            await self.forget(server)

    async def pools_changed(self, servers: Sequence[ServerName] | None = None) -> None:
        """Tell connected agents their disk pools again; None: all of them."""
        for link in list(self._links.values()):
            if link.connected and (servers is None or link.server in servers):
                try:
                    await link.send(Pools(pools=tuple(self._pools_for(link.server))))
                except NotConnected:
                    continue  # it gets them when it is back

    # --- connections --------------------------------------------------------------------------------------------

    async def _attend(self, connection: ServerConnection, identity: Identity) -> None:
        name, _ = identity
        try:
            message = await asyncio.wait_for(connection.recv(), HELLO_SECONDS)
            assert isinstance(message, bytes)
            hello = msgspec.msgpack.decode(message, type=FromAgent)
        except (TimeoutError, msgspec.MsgspecError, AssertionError):
            await connection.close(CLOSE_REFUSED, "the first frame must be a hello in this protocol")
            return
        except ConnectionClosed:
            return
        refusal = await self._refusal(name, hello)
        if refusal:
            log.warning("agent %s refused: %s", name, refusal)
            self._report(name, refusal)
            await connection.close(CLOSE_REFUSED, refusal.encode()[:120].decode(errors="ignore"))
            return
        assert isinstance(hello, Hello)
        if self._media is not None and hello.server.system == "ram":
            await self._media.arrived(name, hello.server.run)
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = AgentLink(name, self._sink, self._clock)
        welcome = Welcome(
            protocol=PROTOCOL_VERSION, store=self._store, epoch=self._epoch(), pools=tuple(self._pools_for(name))
        )
        try:
            await connection.send(msgspec.msgpack.encode(welcome))
        except ConnectionClosed:
            return
        log.info("agent %s connected", name)
        await link.attend(connection, hello.server)
        log.info("agent %s disconnected", name)

    async def _refusal(self, name: ServerName, hello: FromAgent) -> str:
        assert self._authority is not None
        if not isinstance(hello, Hello):
            return "the first frame must be a hello"
        if hello.protocol != PROTOCOL_VERSION:
            return (
                f"its agent speaks protocol {hello.protocol}, this controller {PROTOCOL_VERSION}: install one version"
            )
        if hello.server.server != name:
            return f"it calls itself {hello.server.server} with the certificate of {name}"
        if hello.epoch > self._epoch():
            return f"it has seen epoch {hello.epoch}: this controller ({self._epoch()}) is out of date"
        link = self._links.get(name)
        now = link.view if link is not None else None
        if now is not None and now.system == hello.server.system == "ram" and hello.server.run < now.run:
            return f"it is boot {hello.server.run} of the RAM system, and boot {now.run} was heard: it is of the past"
        known = await asyncio.to_thread(self._authority.known, name)
        if known is None or known.host_uuid != hello.server.host_uuid:
            expected = known.host_uuid if known is not None else "none"
            return (
                f"server {name} comes back with another identity: host uuid {hello.server.host_uuid}, "
                f"known is {expected}; if that is meant, `bedplate server enrol {name} --replace`"
            )
        return ""

    def _report(self, name: ServerName, error: str) -> None:
        link = self._links.get(name)
        view = link.view if link is not None else None
        if view is None:
            view = ServerView(server=name, connected=False)
        shown = msgspec.structs.replace(view, error=error)
        self._sink(f"agent/{name}", [Observation(value=shown, time=self._clock(), source=f"agent/{name}")])

    # --- ports.Hypervisor ---------------------------------------------------------------------------------------

    async def run(self, step: AgentStep, ticket: Ticket) -> StepResult:
        """Run a step on its server's agent."""
        link = self._links.get(step.server)
        if link is None or not link.connected:
            return Failed(reason="NotConnected", message=f"the agent of {step.server} is not connected")
        user_data = b""
        if isinstance(step, DefineDomain | StartDomain) and step.machine.user_data and self._user_data is not None:
            try:
                user_data = await self._user_data(step.machine)
            except LookupError as error:
                message = f"user data {step.machine.user_data} of {step.machine.name} can't be read: {error}"
                return Failed(reason="UserDataMissing", message=message)
        # The node that the RAM system's agent writes follows it under the same name, and its key is then the one that
        # counts. Where it dials is for that agent to say, which knows how the controller is reached.
        enrol = await self.enrolment(step.server) if isinstance(step, WriteImage) else b""
        command = Command(
            operation=ticket.operation,
            store=ticket.store,
            epoch=ticket.epoch,
            deadline=ticket.deadline,
            step=step,
            user_data=user_data,
            enrol=enrol,
        )
        return await link.command(command)

    # --- ports.Guests -------------------------------------------------------------------------------------------

    async def write_files(
        self, machine: MachineEntry, files: Sequence[GuestFile], ticket: Ticket, timeout: float = 60
    ) -> None:
        """Write files over the guest agent's channel; see `ports.Guests`."""
        link = self._link_of(machine)
        end = time.monotonic() + timeout
        for file in files:
            for start in range(0, max(1, len(file.content)), GUEST_PIECE):
                left = end - time.monotonic()
                if left <= 0:
                    raise GuestError(f"writing files to {machine.name} took more than {timeout:.0f} s")
                piece = file.content[start : start + GUEST_PIECE]

                def make(
                    call: int,
                    file: GuestFile = file,
                    piece: bytes = piece,
                    first: bool = start == 0,
                    left: float = left,
                ) -> GuestWrite:
                    return GuestWrite(
                        call=call,
                        store=ticket.store,
                        epoch=ticket.epoch,
                        deadline=left,
                        machine=machine,
                        path=file.path,
                        content=piece,
                        mode=file.mode,
                        first=first,
                    )

                await link.guest_call(make, left)

    async def execute(
        self,
        machine: MachineEntry,
        argv: Sequence[str],
        ticket: Ticket,
        stdin: bytes = b"",
        timeout: float = 60,
    ) -> GuestOutput:
        """Run a command over the guest agent's channel; see `ports.Guests`."""

        def make(call: int) -> GuestExecute:
            return GuestExecute(
                call=call,
                store=ticket.store,
                epoch=ticket.epoch,
                deadline=timeout,
                machine=machine,
                argv=tuple(argv),
                stdin=stdin,
            )

        reply = await self._link_of(machine).guest_call(make, timeout)
        return GuestOutput(exit_code=reply.exit_code, stdout=reply.stdout, stderr=reply.stderr)

    def _link_of(self, machine: MachineEntry) -> AgentLink:
        link = self._links.get(machine.server)
        if link is None or not link.connected:
            raise GuestError(f"the agent of {machine.server} is not connected")
        return link

    # --- ports.Benchmarks ---------------------------------------------------------------------------------------

    async def benchmark(self, run: BenchmarkRun, ticket: Ticket) -> BenchmarkOutput:
        """Run one benchmark; see `ports.Benchmarks`."""
        link = self._links.get(run.server)
        if link is None or not link.connected:
            raise BenchmarkFailed(f"the agent of {run.server} is not connected; see `bedplate why server/{run.server}`")

        def make(call: int) -> Measure:
            return Measure(
                call=call,
                store=ticket.store,
                epoch=ticket.epoch,
                deadline=ticket.deadline,
                kit=run.kit,
                benchmark=run.benchmark,
                machine=run.machine,
                seconds=run.seconds,
                scratch_mib=run.scratch_mib,
                disk_pool=run.disk_pool,
                bridge=run.bridge,
            )

        reply = await link.measure(make, ticket.deadline)
        if reply.error:
            raise BenchmarkFailed(reply.error)
        return BenchmarkOutput(
            command=reply.command,
            output=reply.output,
            accelerator=reply.accelerator,
            cpus=reply.cpus,
            load_before=reply.load_before,
            load_after=reply.load_after,
        )

    # --- ports.Dialer -------------------------------------------------------------------------------------------

    async def dial(self, server: ServerName, host: str, port: int, timeout: float = 10) -> Duplex:
        """Connect to `host:port` as seen from the server. Raises `OSError`."""

        def make(stream: int) -> StreamOpen:
            return StreamOpen(stream=stream, kind="tcp", host=host, port=port, timeout=timeout)

        return await self._open(server, make, timeout)

    async def console(self, server: ServerName, uid: MachineUid) -> Duplex:
        """Attach to a machine's serial console. Raises `OSError`."""

        def make(stream: int) -> StreamOpen:
            return StreamOpen(stream=stream, kind="console", uid=uid)

        return await self._open(server, make, 10.0)

    async def _open(self, server: ServerName, make: Callable[[int], StreamOpen], timeout: float) -> Duplex:
        link = self._links.get(server)
        if link is None or not link.connected:
            raise ConnectionError(f"the agent of {server} is not connected")
        return await link.open(make, timeout)

    def connected(self) -> Sequence[ServerName]:
        """Servers whose agents are connected now."""
        return sorted(name for name, link in self._links.items() if link.connected)
