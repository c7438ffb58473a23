"""A fleet as a person tells of it: servers, clusters with their workloads, prices, and how it is run. No I/O.

One file holds it all (`fleet.yaml`). Amounts may be ranges; whatever has no figure that can be trusted (electricity,
staff, servers' prices) has no default, and what hangs on it is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import msgspec

from bedplate.advise.amounts import (
    Amount,
    CarbonPerKwh,
    Count,
    Factor,
    Hours,
    Money,
    MoneyPerCoreYear,
    MoneyPerHour,
    MoneyPerKwh,
    MoneyPerUnitYear,
    MoneyPerYear,
    Rate,
    Ratio,
    Share,
    Watts,
    Years,
)
from bedplate.advise.measuring import OVERHEADS
from bedplate.model.quantity import QuantityError, parse_mib
from bedplate.model.validation.faults import nearest
from bedplate.sim.durations import Ranges
from bedplate.sim.scenario import plain
from bedplate.sim.scenario.plain import Plain, ScenarioError

Substrate = Literal["vm", "metal"]
Wanted = Literal["auto", "vm", "metal"]


class FleetError(ScenarioError):
    """What is wrong with a fleet's file; one line per fault, each with the field."""


class Power(Plain, frozen=True):
    """What a server takes from the wall."""

    idle: Watts
    full: Watts


class ServerModel(Plain, frozen=True):
    """Equal servers."""

    name: str
    count: int
    cpus: int
    """Logical CPUs (threads)."""
    memory: str
    sockets: int = 2
    cores: int = 0
    """Physical cores, by which suites are licensed; 0: half of the logical CPUs."""
    dimms: int = 16
    ssds: int = 2
    storage: str = "0"
    """Capacity of all its SSDs: their embodied carbon."""
    nics: int = 1
    devices: tuple[str, ...] = ()
    """Special ones that it has, such as `gpu`, `sriov`."""
    power: Power | None = None
    price: Money | None = None
    rack_units: int = 1
    place: dict[str, str | tuple[str, ...]] = {}
    """Failure domains: one for all, or several that are dealt out one after the other."""

    @property
    def physical_cores(self) -> int:
        """For licences."""
        return self.cores or max(1, self.cpus // 2)

    @property
    def memory_mib(self) -> int:
        """Installed."""
        return parse_mib(self.memory)


class Use(Plain, frozen=True):
    """What replicas really use of the CPU that they request."""

    mean: Share
    peak: Share


class Workload(Plain, frozen=True):
    """A Deployment or a StatefulSet."""

    name: str
    replicas: int
    cpu: float
    """Cores that one replica requests."""
    memory: str
    use: Use | None = None
    stateful: bool = False
    volume: bool = False
    """Each replica has a volume that one node at a time attaches."""
    min_available: int = 0
    """Its disruption budget; 0: it has none."""
    devices: tuple[str, ...] = ()
    """Special ones that each replica needs."""
    latency_sensitive: bool = False
    kernel: Literal["any", "own", "real-time"] = "any"
    """`own`: it must not share a kernel with another tenant's. `real-time`: a kernel that no guest should have."""
    substrate: Wanted = "auto"

    @property
    def memory_mib(self) -> int:
        """Of one replica."""
        return parse_mib(self.memory)


class NodeShape(Plain, frozen=True):
    """A virtual machine that is a worker."""

    cpu: int
    memory: str

    @property
    def memory_mib(self) -> int:
        """Of the machine."""
        return parse_mib(self.memory)


class ClusterProfile(Plain, frozen=True):
    """One Kubernetes cluster."""

    name: str
    workloads: tuple[Workload, ...]
    tenants: tuple[str, ...] = ()
    """Who shares it; empty: one of its own."""
    kubernetes: str = ""
    """Version, such as `1.35`; empty: the same for all."""
    control_plane: int = 3
    plane: NodeShape = NodeShape(cpu=2, memory="4Gi")
    """Of its control plane's machines; kubeadm asks for 2 CPUs and 2 GiB at least, twice the memory is common."""
    node: NodeShape | None = None
    """Of its workers on VMs; not given: what wastes least."""
    dedicated: bool = False
    """Its nodes share no server with another cluster's."""


class StaffHours(Plain, frozen=True):
    """Hours of work for each event."""

    failure: Hours | None = None
    """A server that is to be repaired."""
    patch: Hours | None = None
    """A server that is patched, where that goes by itself."""
    manual_deploy: Hours | None = None
    """A bare server that is set up by hand, without Bedplate."""
    year: Hours | None = None
    """Each year, whatever happens, for the virtualisation layer: a second thing to know and to run."""


class Prices(Plain, frozen=True):
    """What things cost. There is no default for what only the user knows."""

    electricity: MoneyPerKwh | None = None
    pue: Factor | None = None
    grid: CarbonPerKwh | None = None
    space: MoneyPerUnitYear | None = None
    network: MoneyPerYear | None = None
    """For each server's ports."""
    hypervisor: MoneyPerCoreYear | None = None
    """The hypervisor suite's licence. Bedplate's own hypervisor (KVM) has none."""
    staff: MoneyPerHour | None = None
    hours: StaffHours = StaffHours()
    discount: Rate | None = None
    life: Years | None = None
    """Of a server."""


class Operations(Plain, frozen=True):
    """How the fleet is run."""

    spares: int = 1
    """Servers that may fail at once and all still runs; as many stand by on metal."""
    patches: Count | None = None
    """Of each server in a year: those that it has to be rebooted for."""
    failures: Count | None = None
    """Of each server in a year; not given: by its DIMMs and SSDs."""
    repair: Hours | None = None
    outages: dict[str, Count] = {}
    """Of each failure domain in a year, such as `{power: 0.1}`."""
    outage: Hours | None = None
    """How long such an outage lasts."""
    headroom: dict[Substrate, int] = msgspec.field(default_factory=lambda: {"vm": 0, "metal": 1})
    """Nodes of each pool that may fail and its pods still find room in it at once. A VM is restarted elsewhere within a
    minute, so that none is needed; on metal a spare is first deployed."""
    growth: Rate | None = None
    """Of the demand, by year."""
    years: int = 5
    """That the comparison looks ahead."""
    cpu_overcommit: float = 4.0
    """Virtual CPUs per logical one, as a Server has it; memory is never over-committed."""


class Overhead(Plain, frozen=True):
    """What a VM takes against its own server for the same, measured on the user's servers."""

    times: Ratio
    """1.03: three in a hundred more time. From the low to the high end of its 95 % interval."""
    origin: str
    """Which measurement, of what, when."""


class Profile(Plain, frozen=True):
    """The whole file."""

    servers: tuple[ServerModel, ...]
    clusters: tuple[ClusterProfile, ...]
    name: str = "fleet"
    currency: str = ""
    prices: Prices = Prices()
    operations: Operations = Operations()
    durations: dict[str, tuple[float, float]] = {}
    """Measured here, in seconds from and to, instead of the defaults of `bedplate.sim.durations`."""
    emulated: bool = False
    """Those durations were seen where guests are emulated in software: not what servers take."""
    overheads: dict[str, Overhead] = {}
    """Of VMs, measured by `bedplate measure`, instead of published figures; never where guests were emulated."""
    latency_premium: Share = Share(0.1, 0.1, 0.1)
    """By so much dearer a pool of latency-sensitive work may be on metal and still belongs there."""
    weights: dict[str, float] = {}
    """Of capabilities, in the decision; 1 where not given."""

    def workloads(self) -> Iterator[tuple[ClusterProfile, Workload]]:
        """Every workload, with its cluster."""
        for cluster in self.clusters:
            for workload in cluster.workloads:
                yield cluster, workload

    def model(self, name: str) -> ServerModel:
        """Raises `KeyError`."""
        found = next((m for m in self.servers if m.name == name), None)
        if found is None:
            raise KeyError(name)
        return found


# --- reading ------------------------------------------------------------------------------------------------------


def read(raw: Any, file: str) -> Profile:
    """Read what YAML gave, and check what only shows in the whole.

    Raises:
        FleetError: with file and field of each fault.
    """
    if raw is None:
        raise FleetError(f"{file}: it is empty; `bedplate fleet import` writes one")
    try:
        found = plain.read(raw, Profile, file)
    except ScenarioError as error:
        raise FleetError(*error.faults) from None
    faults = [f"{file}: {said}" for said in _faults(found)]
    if faults:
        raise FleetError(*faults)
    return found


def write(profile: Profile) -> Any:
    """Plain values for YAML, name and currency first; defaults are left out."""
    found: dict[str, Any] = plain.write(profile)
    first = {k: found[k] for k in ("name", "currency") if k in found}
    return first | found


def _faults(p: Profile) -> Iterator[str]:
    if not p.servers:
        yield "servers: there is none; a fleet has at least one model"
    yield from _doubles("servers", [m.name for m in p.servers], "add up their counts, or give another name")
    yield from _doubles("clusters", [c.name for c in p.clusters], "give another name")
    for i, m in enumerate(p.servers):
        yield from model_faults(m, f"servers[{i}].")
    for i, c in enumerate(p.clusters):
        where = f"clusters[{i}]"
        if c.control_plane not in (1, 3, 5, 7):
            yield f"{where}.controlPlane: {c.control_plane} keeps no quorum; write 1, 3, 5 or 7"
        yield from _quantity(f"{where}.plane.memory", c.plane.memory)
        if c.node is not None:
            yield from _quantity(f"{where}.node.memory", c.node.memory)
        yield from _doubles(f"{where}.workloads", [w.name for w in c.workloads], "give another name")
        for j, w in enumerate(c.workloads):
            yield from workload_faults(w, f"{where}.workloads[{j}].")
    yield from _money_faults(p)
    yield from _known_durations(p)
    for name, overhead in p.overheads.items():
        if name not in OVERHEADS:
            yield f"overheads: there is no {name}{nearest(name, OVERHEADS)}; known are {', '.join(OVERHEADS)}"
        if not overhead.origin.strip():
            yield f"overheads.{name}.origin: it is empty; write which measurement it is from"
    if p.operations.cpu_overcommit < 1:
        yield f"operations.cpuOvercommit: {p.operations.cpu_overcommit:g} is below 1; write at least 1"
    if p.operations.outages and p.operations.outage is None:
        yield "operations.outage: it is missing; write how long an outage lasts, as [0.5 h, 4 h]"
    if p.operations.spares < 0:
        yield f"operations.spares: {p.operations.spares} is below zero; write 0 or more"
    if not 1 <= p.operations.years <= 30:
        yield f"operations.years: {p.operations.years} is out of bounds; write 1 to 30"


def _doubles(field: str, names: list[str], remedy: str) -> Iterator[str]:
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield f"{field}: {name} is there twice; {remedy}"
    if "" in names:
        yield f"{field}: a name is empty"


def _quantity(field: str, text: str, *, zero: bool = False) -> Iterator[str]:
    if zero and text == "0":
        return
    try:
        parse_mib(text)
    except QuantityError as error:
        yield f"{field}: {error}"


def model_faults(m: ServerModel, where: str) -> Iterator[str]:
    """What is wrong with a model; `where` stands before each field's name."""
    for field, value, least in (
        ("count", m.count, 0),
        ("cpus", m.cpus, 1),
        ("sockets", m.sockets, 1),
        ("cores", m.cores, 0),
        ("dimms", m.dimms, 0),
        ("ssds", m.ssds, 0),
        ("rackUnits", m.rack_units, 0),
    ):
        if value < least:
            yield f"{where}{field}: {value} is too few; write {least} or more"
    yield from _quantity(f"{where}memory", m.memory)
    yield from _quantity(f"{where}storage", m.storage, zero=True)
    if m.power is not None and m.power.idle.mid > m.power.full.mid:
        yield f"{where}power: idle {m.power.idle} is above full {m.power.full}; write the lower one first"


def workload_faults(w: Workload, where: str) -> Iterator[str]:
    """What is wrong with a workload; `where` stands before each field's name."""
    if w.replicas < 1:
        yield f"{where}replicas: {w.replicas} is too few; write 1 or more"
    if w.cpu <= 0:
        yield f"{where}cpu: {w.cpu:g} is too few; write the cores that a replica requests, as 0.5"
    if w.min_available > w.replicas:
        yield f"{where}minAvailable: {w.min_available} is more than its {w.replicas} replicas"
    if w.use is not None and w.use.mean.mid > w.use.peak.mid:
        yield f"{where}use: the mean {w.use.mean} is above the peak {w.use.peak}"
    if w.substrate == "vm" and w.kernel == "real-time":
        yield f"{where}substrate vm and kernel real-time contradict each other; leave one of them out"
    yield from _quantity(f"{where}memory", w.memory)


def _money_faults(p: Profile) -> Iterator[str]:
    given = False
    for field, amount in _amounts("", p):
        if not amount.money:
            continue
        given = True
        if amount.currency and p.currency and amount.currency != p.currency:
            yield f"{field}: {amount} is not in {p.currency}, the file's currency; write all prices in one"
    if given and not p.currency:
        yield "currency: it is missing; write the one that all prices are in, as EUR"


def currencies(value: Any) -> set[str]:
    """The currencies that prices in it were given in."""
    return {amount.currency for _, amount in _amounts("", value) if amount.currency}


def _amounts(field: str, value: Any) -> Iterator[tuple[str, Amount]]:
    if isinstance(value, Amount):
        yield field, value
    elif isinstance(value, msgspec.Struct):
        for f in msgspec.structs.fields(value):
            yield from _amounts(f"{field}.{f.encode_name}".lstrip("."), getattr(value, f.name))
    elif isinstance(value, tuple):
        for i, part in enumerate(value):  # type: ignore[arg-type]
            yield from _amounts(f"{field}[{i}]", part)


def _known_durations(p: Profile) -> Iterator[str]:
    known = {f.name for f in msgspec.structs.fields(Ranges)} - {"steps"}
    for name, (low, high) in p.durations.items():
        if name not in known:
            near = nearest(name, sorted(known))
            yield f"durations: there is no {name}{near}; known are {', '.join(sorted(known))}"
        elif not 0 <= low <= high:
            yield f"durations.{name}: from {low:g} to {high:g} is no range; write the lower one first"


def cpu_overhead(p: Profile, published: Amount) -> Amount:
    """By what share VMs use more CPU for the same work: as it was measured, or as it was published."""
    measured = p.overheads.get("cpu")
    if measured is None:
        return published
    low, mid, high = (max(0.0, v - 1.0) for v in (measured.times.low, measured.times.mid, measured.times.high))
    return Amount(low, mid, high)


T = TypeVar("T", bound=Amount)


def given_or(given: T | None, default: T) -> T:
    """The user's own figure, which always wins, or the default."""
    return default if given is None else given
