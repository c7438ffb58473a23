"""What other parts plug into the API. Each is optional: without it the API answers that it is not served here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from bedplate.model.kinds.base import Object
from bedplate.ports import Duplex

PowerAction = Literal["on", "off", "cycle"]


class NotAvailable(Exception):
    """A hook can't answer now; its message says why and what would help. Becomes 409 or, `missing`, 404."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class Gauge(msgspec.Struct, frozen=True, kw_only=True):
    """A value read at the time of a scrape, for each combination of its labels' values."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    samples: Mapping[tuple[str, ...], float]


class Planner(Protocol):
    """Previews and explains. Called from the event loop; slow work belongs in a thread."""

    async def preview(self, objects: Sequence[Object], gone: Sequence[Object]) -> dict[str, Any]:
        """Show what would happen if these objects were declared (as they would be kept) and those deleted."""
        ...

    async def why(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Tell why an object is as it is: `{"sentences": [...], "machines": [...], "servers": {...}}`."""
        ...

    async def timeline(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """Where the time went until a Cluster, NodePool or Machine was as declared, as `runner.history` has it."""
        ...


class Streams(Protocol):
    """Opens byte streams into machines. All raise `NotAvailable` or `OSError`."""

    async def console(self, kind: str, namespace: str, name: str) -> Duplex:
        """The serial console of a Machine or VirtualMachine, or a shell of a Server in rescue."""
        ...

    async def tcp(self, kind: str, namespace: str, name: str, port: int) -> Duplex:
        """A connection to a port of a Machine or VirtualMachine, or of a Cluster's control plane."""
        ...


class Operator(Protocol):
    """What an administrator asks of the controller. All raise `NotAvailable`."""

    async def kubeconfig(self, namespace: str, name: str) -> str:
        """The administrator's kubeconfig of a cluster, as YAML or JSON."""
        ...

    async def enrol(self, server: str, controller: str = "", *, replace: bool = False) -> dict[str, Any]:
        """Make what a server's agent needs to become known, once. Holds secrets: never kept, never logged.

        `controller` is the address that the agent is to dial; `replace`: the server was installed anew.
        """
        ...

    async def power(
        self, server: str, action: PowerAction, *, force: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Switch a server by its BMC: `{"power": ..., "runs": [...]}`, the power as it was read back.

        A server on which machines run is not switched off but with `force`. `dry_run`: read and tell, switch nothing.
        """
        ...

    async def accept(self) -> None:
        """A person accepts what a restored store differs in from the world."""
        ...

    def ready(self) -> str | None:
        """Say why the controller does not act, or None while it does."""
        ...

    def gauges(self) -> Sequence[Gauge]:
        """What the controller tells of itself to `/metrics`."""
        ...


class Measuring(Protocol):
    """Carries Measurements on. All raise `NotAvailable`."""

    async def carry_on(self, namespace: str, name: str) -> dict[str, Any]:
        """Do the next run of one tool on one target, bounded: `{"done": ..., "said": ..., "object": ...}`.

        `done`: nothing was left to run; the tools are gone from the targets.
        """
        ...

    async def stop(self, namespace: str, name: str) -> None:
        """Take the tools away from the targets; it can be carried on later."""
        ...


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """All that is plugged in."""

    planner: Planner | None = None
    streams: Streams | None = None
    operator: Operator | None = None
    measuring: Measuring | None = None
