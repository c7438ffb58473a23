"""Which firmware is supported on which hardware: data that people keep, out of their vendors' lists."""

from __future__ import annotations

from typing import Literal

from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.wire import Wire


class SupportedFirmware(Wire, frozen=True):
    """Versions of one component that are supported. Texts with `*`, `?` and `[...]` are globs; case does not count."""

    vendor: str = "*"
    """Glob of the server's vendor, as it was inspected (`status.metal.vendor`)."""
    product: str = "*"
    """Glob of the server's product (`status.metal.product`)."""
    component: str = ""
    """Glob of the component: `bios`, `nic *`, `disk *`."""
    model: str = "*"
    """Glob of the component's own model or maker: a disk's model, the BIOS' vendor. Of a network card the driver is
    known instead."""
    driver: str = "*"
    """Glob of the driver that a network card is run by; anything but `*` is of network cards only."""
    versions: tuple[str, ...] = ()
    """All that are supported, each a version or a glob; or give `minimum`, `maximum` or both."""
    minimum: str = ""
    """The oldest that is supported."""
    maximum: str = ""
    """The newest that is supported, with all that begin with it: `2.10` holds `2.10.3` too."""
    note: str = ""
    """For people: why, or what a version mends."""
    url: str = ""
    """Where it stands."""


class CompatibilityMatrixSpec(Wire, frozen=True):
    entries: tuple[SupportedFirmware, ...] = ()
    """In any order: what speaks most exactly of a server (its product, then its vendor, then the component, then its
    model or driver) counts, whichever matrix it is in; of several as exact, one that holds is enough."""


class CompatibilityMatrix(BedplateObject, frozen=True):
    """Which firmware is supported. Bedplate tells where another is installed, and never updates any."""

    kind: Literal["CompatibilityMatrix"] = "CompatibilityMatrix"
    spec: CompatibilityMatrixSpec = CompatibilityMatrixSpec()
    status: Status = Status()
