"""Protocols of the world: what runs steps, what observes, what keeps. Knows only the model.

Real drivers and the simulated world implement the same protocols and pass the same contract tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from bedplate.model.blueprint import Blueprint, BmcRef, Delta, MachineEntry, MetalEntry
from bedplate.model.ids import ClusterKey, Digest, Epoch, MachineUid, Revision, ServerName
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.steps import AgentStep, BmcStep, BootstrapStep, KubernetesStep, StepResult, Ticket


class Sink(Protocol):
    """Where collectors deliver. Called from the runner's event loop; must not block."""

    def __call__(self, source: str, observations: Sequence[Observation[AnyView]], *, full: bool = False) -> None:
        """Take changes. `full`: this is all that the source knows; keys it gave before and not now are gone."""
        ...


class Hypervisor(Protocol):
    """Runs steps on servers through their agents: on hypervisors, and in the RAM systems of bare servers. Never raises
    for a fault of the world: it returns a result."""

    async def run(self, step: AgentStep, ticket: Ticket) -> StepResult: ...


class ClusterBootstrap(Protocol):
    """Makes clusters' secrets, starts `kubeadm` in machines, changes etcd's membership."""

    async def run(self, step: BootstrapStep, ticket: Ticket) -> StepResult: ...


class Kubernetes(Protocol):
    """Acts on and watches the clusters' own APIs."""

    async def run(self, step: KubernetesStep, ticket: Ticket) -> StepResult: ...

    def follow(self, clusters: Mapping[ClusterKey, ClusterAccess]) -> None:
        """Watch exactly these clusters from now on, delivering `NodeView` and `ClusterView` to the sink."""
        ...


class Bmc(Protocol):
    """Acts on servers' BMCs. Every call is bounded; what counts is what is read back."""

    async def run(self, step: BmcStep, ticket: Ticket) -> StepResult: ...

    def follow(self, servers: Mapping[ServerName, BmcRef]) -> None:
        """Watch exactly these BMCs from now on, delivering `BmcView` to the sink, under the source `bmc/<server>`."""
        ...


class NotOffered(Exception):
    """There is no medium to boot a server from; the text says why and what to do."""


class Netboot(Protocol):
    """Offers bare servers the RAM system."""

    async def offer(self, entry: MetalEntry) -> str:
        """URL of the medium for boot `entry.run` of this server, made for it alone; the same when asked again,
        until its settings were read: its one-time token may be spent then.

        Raises:
            NotOffered: no RAM system was built, or it can't be given out.
        """
        ...

    async def withdraw(self, server: ServerName) -> None:
        """Offer this server nothing any more."""
        ...


class MediaFile(Protocol):
    """A medium that is open for reading. Blocking."""

    size: int
    """Bytes."""

    def read(self, offset: int, length: int) -> bytes: ...

    def close(self) -> None: ...


class MediaSource(Protocol):
    """Gives media by the path that whoever may have one was told, as long as its one-time token is good."""

    async def arrived(self, server: ServerName, run: int) -> None:
        """Boot `run` of this server's RAM system has come up: what it booted from is given to nobody any more."""
        ...

    def open(self, path: str) -> MediaFile | None:
        """The medium of that path, or None. Blocking; raises `OSError`."""
        ...


class Duplex(Protocol):
    """A byte stream both ways."""

    async def read(self) -> bytes:
        """Next bytes; empty at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class GuestFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file for a guest. Lies under `/run` (memory) where it is secret."""

    path: str
    content: bytes
    mode: int = 0o600


class GuestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """How a command in a guest ended."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


class GuestError(Exception):
    """The guest, its agent or its server could not be reached or did not answer in time."""


class Guests(Protocol):
    """Ways into a machine through its server's agent. All raise `GuestError`; all are bounded by `timeout` seconds."""

    async def write_files(
        self, machine: MachineEntry, files: Sequence[GuestFile], ticket: Ticket, timeout: float = 60
    ) -> None:
        """Write files over the guest agent's channel. Refused where the machine's generation is out of date."""
        ...

    async def execute(
        self,
        machine: MachineEntry,
        argv: Sequence[str],
        ticket: Ticket,
        stdin: bytes = b"",
        timeout: float = 60,
    ) -> GuestOutput:
        """Run a command over the guest agent's channel and wait for its end."""
        ...


class BenchmarkFailed(Exception):
    """A benchmark gave no figures; the text says why and what to do."""


class BenchmarkRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one tool of the measuring kit."""

    server: ServerName
    kit: Digest
    benchmark: str
    """A name of `measuring.BENCHMARKS`, `FACTS` or `CLEAN`."""
    machine: MachineEntry | None = None
    """None: the server itself."""
    seconds: int = 10
    scratch_mib: int = 256
    disk_pool: str = ""
    bridge: str = ""


class BenchmarkOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What the tool said, and what went on beside it."""

    command: str
    output: bytes
    accelerator: str
    """`kvm` or `tcg` of a guest; empty: no guest."""
    cpus: int
    """Of the server."""
    load_before: float
    """CPUs of the server in use over the second before, and after."""
    load_after: float


class Benchmarks(Protocol):
    """Measures servers and the machines on them, through their agents. Nothing that decides waits for it."""

    async def benchmark(self, run: BenchmarkRun, ticket: Ticket) -> BenchmarkOutput:
        """Run it to its end, within the ticket's deadline. Raises `BenchmarkFailed`."""
        ...


class Dialer(Protocol):
    """Opens streams that start at a server: into machines' networks and consoles."""

    async def dial(self, server: ServerName, host: str, port: int, timeout: float = 10) -> Duplex:
        """Connect to `host:port` as seen from the server. Raises `OSError`."""
        ...

    async def console(self, server: ServerName, uid: MachineUid) -> Duplex:
        """Attach to the machine's serial console, with an empty `uid` to a shell of the server's RAM system.

        Raises `OSError`.
        """
        ...

    def connected(self) -> Sequence[ServerName]:
        """Servers whose agents are connected now."""
        ...


class ClusterAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach and authenticate to one cluster."""

    cluster: ClusterKey
    secrets: str
    endpoint: str
    port: int
    control_planes: tuple[MachineEntry, ...]
    """Reached directly where the endpoint does not answer."""


class SecretStore(Protocol):
    """Keeps secrets encrypted at rest. Blocking; values never appear in errors."""

    def get_secret(self, name: str) -> bytes | None: ...

    def put_secret(self, name: str, value: bytes) -> None: ...

    def put_secret_once(self, name: str, value: bytes) -> bytes:
        """Keep `value` unless there is one already; give the one kept. Atomic."""
        ...

    def delete_secret(self, name: str) -> None: ...

    def list_secrets(self, prefix: str) -> Sequence[str]: ...


class CommitConflict(Exception):
    """Another controller committed first, or this one's epoch is over."""


class BlueprintStore(Protocol):
    """Keeps blueprints. Blocking."""

    def load_blueprint(self) -> Blueprint: ...

    def commit_blueprint(self, delta: Delta, epoch: Epoch) -> Revision:
        """Compare-and-set on the delta's parent and on the epoch.

        Raises:
            CommitConflict: the parent is not the newest, or a higher epoch has begun.
        """
        ...


class ImageSource(Protocol):
    """Gives image files by digest, for agents to fetch."""

    def path(self, digest: Digest) -> str | None:
        """Path of the file on the controller's own disk, or None."""
        ...
