"""What a controller and an agent say to each other over their one connection. Structs only.

Each WebSocket message is one frame, in MessagePack. The agent opens with `Hello`, the controller answers `Welcome`;
afterwards either side sends what it likes. Frames of one connection are handled in their order, so that an
observation that was sent before a reply is known before the reply is.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, Epoch, MachineUid, OperationId, ServerName, StoreId
from bedplate.model.inventory import AnyView, ServerView
from bedplate.model.steps import AgentStep, StepResult

PROTOCOL_VERSION = 3
"""Grows with every change that an older side would misread."""

WEBSOCKET_PATH = "/agent"
ENROL_PATH = "/enrol"
BLOB_PATH = "/blobs/"
CONTROLLER_NAME = "controller.bedplate.internal"
"""Name in the listener's certificate: agents pin the authority and this name, not an address."""

MOVE_PORT = 7445
"""Where a server's agent takes a machine in that moves to it, from the agent of the server that it leaves; over TLS
with the agents' certificates, and only while it awaits one from there."""

PING_SECONDS = 2.0
SILENCE_SECONDS = 6.0
"""Seconds between signs of life on a connection, and without any after which it is given up. Three may be lost; a death
that sends no FIN is noticed before a server is taken for suspect, and well before its lease expires."""

MAX_FRAME = 8 * 1024 * 1024
"""Bytes of one frame; larger files travel in pieces or as blobs."""

STREAM_WINDOW = 256 * 1024
"""Bytes that may be on their way in one direction of a stream before its reader asks for more: enough for
20 MB/s at 10 ms of round trip, little enough that a thousand idle-handed readers cost 256 MB at worst."""

CLOSE_REFUSED = 4403
"""WebSocket close code: the other side will not have this peer; the reason says why."""


class _Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="f", omit_defaults=True):
    """Base of all frames."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """What is mounted at a disk pool's path, as mount(8) takes it."""

    type: str
    source: str
    options: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A disk pool that the controller wants this server to serve."""

    name: str
    path: str
    type: Literal["shared", "local"] = "local"
    mount: Mount | None = None
    """None: whoever made the server has seen to it."""


class Hello(_Frame, frozen=True, kw_only=True, tag="hello"):
    """The agent says who it is. The certificate is the proof; the names here must agree with it."""

    protocol: int = 0
    """`PROTOCOL_VERSION` of who says it; 0: it did not say. A default of the reader's own would agree with itself."""
    server: ServerView
    epoch: Epoch = Epoch(0)
    """Highest controller epoch that this agent has seen."""


class Welcome(_Frame, frozen=True, kw_only=True, tag="welcome"):
    """The controller takes the agent on."""

    protocol: int = 0
    """As `Hello` has it."""
    store: StoreId
    epoch: Epoch
    pools: tuple[Pool, ...] = ()


class Pools(_Frame, frozen=True, kw_only=True, tag="pools"):
    """The server's disk pools changed."""

    pools: tuple[Pool, ...]


class Command(_Frame, frozen=True, kw_only=True, tag="command"):
    """Run a step. Sent again with the same operation it is answered, not repeated."""

    operation: OperationId
    store: StoreId
    epoch: Epoch
    deadline: float
    """Seconds from its receipt."""
    step: AgentStep
    user_data: bytes = b""
    """Cloud-init user data of a user's own machine: a secret, never written to a medium that stays."""
    enrol: bytes = b""
    """With `WriteImage`: the enrolment file (JSON) of the node's own agent; a one-time secret."""


class Reply(_Frame, frozen=True, kw_only=True, tag="reply"):
    """How a command ended."""

    operation: OperationId
    result: StepResult


class GuestWrite(_Frame, frozen=True, kw_only=True, tag="guest-write"):
    """Write a piece of a file in a guest over its guest agent's channel. The first piece truncates."""

    call: int
    store: StoreId
    epoch: Epoch
    deadline: float
    machine: MachineEntry
    path: str
    content: bytes
    mode: int = 0o600
    first: bool = True


class GuestExecute(_Frame, frozen=True, kw_only=True, tag="guest-execute"):
    """Run a command in a guest and wait for its end."""

    call: int
    store: StoreId
    epoch: Epoch
    deadline: float
    machine: MachineEntry
    argv: tuple[str, ...]
    stdin: bytes = b""


class GuestReply(_Frame, frozen=True, kw_only=True, tag="guest-reply"):
    """How a guest call ended; `error` non-empty: it did not reach the guest or got no answer in time."""

    call: int
    error: str = ""
    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""


class Measure(_Frame, frozen=True, kw_only=True, tag="measure"):
    """Run one benchmark of the measuring kit on the server itself or in a machine on it; or tell the target's facts, or
    take the kit away (`measuring.FACTS`, `measuring.CLEAN`)."""

    call: int
    store: StoreId
    epoch: Epoch
    deadline: float
    kit: Digest
    """Of the kit's archive, which is fetched as images are."""
    benchmark: str
    machine: MachineEntry | None = None
    """None: the server itself."""
    seconds: int = 10
    scratch_mib: int = 256
    disk_pool: str = ""
    """Where the server's own disk is measured; empty: its first."""
    bridge: str = ""
    """Whose address network benchmarks go to; empty: the first bridge that has one."""


class MeasureReply(_Frame, frozen=True, kw_only=True, tag="measured"):
    """What the tool said; `error` non-empty: it gave no figures, and why."""

    call: int
    error: str = ""
    command: str = ""
    output: bytes = b""
    accelerator: Literal["", "kvm", "tcg"] = ""
    """How the machine's guest runs; empty: it is no guest."""
    cpus: int = 0
    """Of the server."""
    load_before: float = 0.0
    """CPUs of the server that were in use over the second before, and after."""
    load_after: float = 0.0


class Observed(_Frame, frozen=True, kw_only=True, tag="observed"):
    """What changed. `full`: this is all there is; what was there before and is not in it is gone."""

    views: tuple[AnyView, ...]
    full: bool = False


class StreamOpen(_Frame, frozen=True, kw_only=True, tag="open"):
    """The controller opens a stream: a TCP connection from the server, or a machine's console.

    `console` with an empty `uid` is a shell of the server itself, which only its RAM system gives.
    """

    stream: int
    kind: Literal["tcp", "console"]
    host: str = ""
    port: int = 0
    uid: MachineUid = MachineUid("")
    timeout: float = 10.0


class StreamOpened(_Frame, frozen=True, kw_only=True, tag="opened"):
    """The stream stands; `error` non-empty: it does not and is over."""

    stream: int
    error: str = ""


class StreamData(_Frame, frozen=True, kw_only=True, tag="data"):
    """Bytes of a stream; never more than the receiver gave credit for."""

    stream: int
    data: bytes


class StreamCredit(_Frame, frozen=True, kw_only=True, tag="credit"):
    """The receiver has read so many bytes; as many more may be sent."""

    stream: int
    size: int


class StreamEnd(_Frame, frozen=True, kw_only=True, tag="end"):
    """No more bytes come from this side. `abort`: and none are taken any more."""

    stream: int
    abort: bool = False


StreamFrame = StreamData | StreamCredit | StreamEnd
FromAgent = Hello | Reply | GuestReply | MeasureReply | Observed | StreamOpened | StreamData | StreamCredit | StreamEnd
FromController = (
    Welcome | Pools | Command | GuestWrite | GuestExecute | Measure | StreamOpen | StreamData | StreamCredit | StreamEnd
)


class EnrolFile(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator carries to a new server (mode 0600): where the controller is, how to know it, a token."""

    version: int = 1
    server: ServerName
    store: StoreId
    controller: str
    """`host:port`, or `unix:/path` for a socket on the same machine."""
    ca: str
    """PEM of the authority that signs controller and agents."""
    token: str


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An agent asks for its certificate: with a token the first time, with its present certificate to renew."""

    server: ServerName
    request: str
    """PEM of the certificate signing request."""
    host_uuid: str
    token: str = ""


class EnrolReply(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate, or why there is none."""

    certificate: str = ""
    error: str = ""
