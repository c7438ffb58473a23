"""Measurements: what was measured where, each sample, and all that it takes to measure the same again."""

from __future__ import annotations

from typing import Literal

from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.measuring import GROUPS, Better
from bedplate.model.wire import Wire


class MeasurementSpec(Wire, frozen=True):
    targets: tuple[str, ...] = ()
    """What is measured, as `server/NAME`, `machine/NAME` or `virtualmachine/NAME`; all by turns."""
    only: tuple[str, ...] = GROUPS
    """Groups of benchmarks: `cpu`, `memory`, `disk`, `network`."""
    repetitions: int = 5
    """Undisturbed samples of each benchmark on each target, beside a warm-up that is thrown away."""
    seconds: int = 10
    """That each run measures."""
    scratch: str = "256Mi"
    """Size of the file that disks are measured with; it has no name while it is used, and is gone with its run."""
    kit: str = ""
    """Digest of the tools that are used; `bedplate measure` makes and sends them."""


class MeasuredSample(Wire, frozen=True):
    """One value."""

    value: float
    time: str = ""
    load_before: float = 0.0
    """CPUs of the server that others used just before."""
    load_after: float = 0.0
    disturbed: str = ""
    """Why it does not count; empty: it does."""


class MeasuredMetric(Wire, frozen=True):
    """All values of one quantity on one target."""

    name: str
    unit: str
    better: Better = "higher"
    median: float | None = None
    """Of the undisturbed samples; of all where too few were undisturbed."""
    low: float | None = None
    """With `high`, the 95 % bootstrap interval of the median."""
    high: float | None = None
    samples: tuple[MeasuredSample, ...] = ()


class MeasuredTarget(Wire, frozen=True):
    """What was measured on one target."""

    target: str
    substrate: Literal["server", "vm", "metal"] = "server"
    server: str = ""
    """That it is, or runs on."""
    emulated: bool = False
    """True: the guest runs under software emulation (TCG): its figures say nothing of hardware."""
    facts: dict[str, str] = {}
    """Kernel, CPU model, governor, SMT and the like, as the target told them."""
    commands: dict[str, str] = {}
    """The command line of each benchmark."""
    warmed: tuple[str, ...] = ()
    """Benchmarks whose warm-up is done."""
    remarks: tuple[str, ...] = ()
    metrics: tuple[MeasuredMetric, ...] = ()


class MeasurementStatus(Status, frozen=True):
    progress: str = ""
    started: str = ""
    finished: str = ""
    tools: dict[str, str] = {}
    """Their versions."""
    targets: tuple[MeasuredTarget, ...] = ()


class Measurement(BedplateObject, frozen=True):
    """How fast servers and machines are, measured with the same tools by turns."""

    kind: Literal["Measurement"] = "Measurement"
    spec: MeasurementSpec = MeasurementSpec()
    status: MeasurementStatus = MeasurementStatus()
