"""What a machine's own bootstrap unit says of itself, in files: how it gets on, and when it did what. Pure."""

from __future__ import annotations

import contextlib
from typing import Literal

import msgspec

from bedplate.agent.redact import tail

STATUS_FILE = "/run/bedplate/bootstrap.status"
"""First line `running`, `done` or `failed`; after `failed` the last lines of the log."""
STATUS_BYTES = 16 * 1024
TIMES_FILE = "/run/bedplate/bootstrap.times"
"""`up SECONDS` of the network, `began` and `ended` of kubeadm, by the guest's clock; the first of each counts."""


class BootstrapStatus(msgspec.Struct, frozen=True):
    """What the guest's bootstrap unit says."""

    state: Literal["", "running", "done", "failed"] = ""
    detail: str = ""
    up: float = 0.0
    """When the guest's network was up, by this server's clock; 0: it does not say, or the unit has not ended yet."""
    began: float = 0.0
    """When kubeadm began."""
    ended: float = 0.0
    """When kubeadm ended."""


def dated(status: BootstrapStatus, times: bytes, ahead: float) -> BootstrapStatus:
    """The status with its times. `ahead`: seconds that the clock by which they were written is ahead of this one:
    a guest's may be off, and what it says counts by how long ago it was."""
    return msgspec.structs.replace(status, **{name: seconds - ahead for name, seconds in read_times(times).items()})


def read_status(content: bytes) -> BootstrapStatus:
    """Read the status file's text. Anything but the three words counts as not said yet."""
    first, _, rest = content.decode(errors="replace").partition("\n")
    match first.strip():
        case "running":
            return BootstrapStatus("running")
        case "done":
            return BootstrapStatus("done")
        case "failed":
            return BootstrapStatus("failed", tail(rest))
        case _:
            return BootstrapStatus()


def read_times(content: bytes) -> dict[str, float]:
    """What the times file tells of `up`, `began` and `ended`, by the guest's clock."""
    found: dict[str, float] = {}
    for line in content.decode(errors="replace").splitlines():
        word, _, seconds = line.partition(" ")
        if word in {"up", "began", "ended"}:
            with contextlib.suppress(ValueError):
                found.setdefault(word, float(seconds.replace(",", ".")))  # some locales' decimal point
    return found
