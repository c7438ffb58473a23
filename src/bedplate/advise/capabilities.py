"""The thirteen capabilities on which substrates are compared, and how each is found for a fleet. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from bedplate.advise import cost, literature, packing
from bedplate.advise.amounts import Amount
from bedplate.advise.cost import Events
from bedplate.advise.deciding import Plan, where_of
from bedplate.advise.draws import Value
from bedplate.advise.figures import Figure
from bedplate.advise.fleet import ClusterProfile, Overhead, Profile, Substrate, Workload
from bedplate.advise.literature import Published
from bedplate.advise.samples import Better, Sample, of_draws, of_number, of_runs
from bedplate.advise.years import Run


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one alternative."""

    profile: Profile
    plan: Plan
    runs: Sequence[Run]
    events: Events
    value: Value


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """One row: a quantity that tells of a capability."""

    name: str
    capability: str
    title: str
    better: Better
    find: Callable[[Evidence], Sample | None]
    """None: nobody knows it for this fleet yet."""
    note: str = ""
    bound: bool = False
    """What is published of it is from an unfavourable set-up: tuned VMs lie below it."""
    unknown: str = "not known yet: it needs simulated runs in which it happens"
    """What is said where nobody knows it."""


def gather(
    fleets: Mapping[str, tuple[Profile, Plan]], runs: Mapping[str, Sequence[Run]], value: Value
) -> dict[str, Evidence]:
    """What is known of each, by its name.

    Args:
        runs: Of those that were simulated, with the same seeds.
        value: Gives all of them the same draw of each quantity.
    """
    found: dict[str, Evidence] = {}
    for name, (profile, plan) in fleets.items():
        told = runs.get(name, ())
        found[name] = Evidence(
            profile=profile, plan=plan, runs=told, events=_events_of(profile, plan, told), value=value
        )
    return found


def faults(evidence: Mapping[str, Evidence], names: Mapping[str, str]) -> tuple[str, ...]:
    """What went wrong in runs: what rests on these is not to be trusted. `names`: for people, where they differ."""
    found: list[str] = []
    for key, e in evidence.items():
        name = names.get(key, key)
        found += [f"{name}, seed {r.seed}: {said}" for r in e.runs for said in r.wrong]
        found += [f"{name}, seed {r.seed}: not all was Ready at the end" for r in e.runs if not r.ready]
    return tuple(found)


def simulated(evidence: Mapping[str, Evidence]) -> tuple[int, float]:
    """How many runs there are of each at least, and the years of one."""
    count = min((len(e.runs) for e in evidence.values()), default=0)
    return count, next((r.years for e in evidence.values() for r in e.runs), 0.0)


def _events_of(profile: Profile, plan: Plan, runs: Sequence[Run]) -> Events:
    """Of a year: as simulated, or by rates where nothing was."""
    if not runs:
        return cost.expected_events(profile, plan.layout)
    years = sum(r.years for r in runs)
    return Events(
        failures=sum(len(r.struck) for r in runs) / years,
        patches=sum(len(r.patched) for r in runs) / years,
    )


# --- literature ---------------------------------------------------------------------------------------------------


def _on_vms(e: Evidence) -> float:
    """Share of the cores in use that are used in VMs."""
    used = sum(g.used for g in e.plan.layout.groups)
    return sum(g.used for g in e.plan.layout.groups if g.substrate == "vm") / used if used else 0.0


def _measured(e: Evidence, overhead: Overhead) -> Sample:
    share = _on_vms(e)
    how = (
        "VM against its own server, medians of samples taken by turns, with the 95 % bootstrap interval of their ratio "
        f"(bedplate measure); weighted by the {share:.0%} of the cores in use that are in VMs"
    )
    values = 1.0 + share * (e.value(f"measured by {overhead.origin}", overhead.times) - 1.0)
    low, middle, high = (1.0 + share * (v - 1.0) for v in (overhead.times.low, overhead.times.mid, overhead.times.high))
    figure = Figure(
        value=middle, low=low, high=high, unit="× metal", source="measured", how=how, origin=overhead.origin
    )
    return Sample(values=values, figure=figure)


def _performance(name: str, found: Published, factor: Amount | None = None) -> Callable[[Evidence], Sample]:
    """Measured on the user's servers, or published: `factor` of metal, or a bound where none is given."""
    published = _published(found, factor or found.amount, most=factor is None)

    def find(e: Evidence) -> Sample:
        overhead = e.profile.overheads.get(name)
        return published(e) if overhead is None else _measured(e, overhead)

    return find


def _published(found: Published, factor: Amount, *, most: bool = False) -> Callable[[Evidence], Sample]:
    def find(e: Evidence) -> Sample:
        share = _on_vms(e)
        ends = [1.0 + share * (v - 1.0) for v in (1.0 if most else factor.low, factor.mid, factor.high)]
        how = f"{found.remark}; weighted by the {share:.0%} of the cores in use that are in VMs"
        if most:
            how += "; a bound from an unfavourable set-up: tuned VMs lie below it"
        figure = Figure(
            value=ends[2] if most else ends[1],
            low=ends[0],
            high=ends[2],
            unit="× metal",
            source="literature",
            how=how,
            origin=found.origin,
        )
        return Sample(values=np.array([figure.value]), figure=figure)

    return find


def _overhead() -> Amount:
    share = literature.CPU_OVERHEAD.amount
    return Amount(1 + share.low, 1 + share.mid, 1 + share.high)


# --- simulated ----------------------------------------------------------------------------------------------------


def _simulated(unit: str, how: str, of: Callable[[Run], float | None]) -> Callable[[Evidence], Sample | None]:
    def find(e: Evidence) -> Sample | None:
        found = [of(r) for r in sorted(e.runs, key=lambda r: r.seed)]
        if not found or any(v is None for v in found):
            return None
        return of_runs([v for v in found if v is not None], unit, how)

    return find


def silent_minutes(run: Run) -> float:
    """Minutes of a year in which a replica does not answer, on average over all."""
    replicas = sum(d.replicas for d in run.downtimes)
    return sum(d.silent for d in run.downtimes) / 60.0 / max(1, replicas) / run.years


def _outage_minutes(run: Run) -> float:
    return sum(d.outage for d in run.downtimes) / 60.0 / max(1, len(run.downtimes)) / run.years


def _interruptions(run: Run) -> float:
    replicas = sum(d.replicas for d in run.downtimes)
    return sum(d.interruptions for d in run.downtimes) / max(1, replicas) / run.years


def _killed(run: Run) -> float:
    return sum(p.interrupted for p in run.patched) / run.years


def _recovery(e: Evidence) -> Sample | None:
    found = [s.recovered for r in sorted(e.runs, key=lambda r: r.seed) for s in r.struck if s.recovered > 0]
    if not found:
        return None
    return of_runs(found, "s", "from a server's failure until the last of its pods answers again, each failure")


def _blast(of: Callable[[Run], float]) -> Callable[[Run], float | None]:
    return lambda run: of(run) if run.blast is not None else None


def _added(run_of: Evidence) -> Sample | None:
    """Of each substrate's largest pool, weighted by nodes."""
    nodes = {s: sum(g.nodes for g in run_of.plan.layout.groups if g.substrate == s) for s in ("vm", "metal")}
    values: list[float] = []
    for run in sorted(run_of.runs, key=lambda r: r.seed):
        known = {s: t for s, t in run.added.items() if nodes.get(s)}
        if not known or set(known) != {s for s, n in nodes.items() if n}:
            return None
        values.append(sum(t * nodes[s] for s, t in known.items()) / sum(nodes[s] for s in known))
    if not values:
        return None
    return of_runs(values, "s", "from an edit of replicas until one more node is Ready, a spare server standing by")


# --- computed -----------------------------------------------------------------------------------------------------


def utilisation(e: Evidence) -> float:
    """Share of the cores of all servers that are needed, the spare ones among them, that workloads use on average."""
    cores = sum(e.profile.model(m).cpus * n for m, n in e.plan.layout.servers.items())
    return sum(g.used for g in e.plan.layout.groups) / max(1, cores)


def _used(e: Evidence) -> Sample:
    unknown = [w.name for _, w in e.profile.workloads() if w.use is None]
    how = "cores used on average / cores of all servers that are needed"
    if unknown:
        how += f"; of {', '.join(unknown)} no use is given: what they request was taken for it"
    return of_number(utilisation(e) * 100, "%", how)


def growth_room(profile: Profile, plan: Plan) -> float:
    """By which factor all replicas can grow on the servers that there are (to a hundredth)."""
    low, high = 0.0, 16.0
    while high - low > 0.01:
        middle = (low + high) / 2
        grown = _scaled(profile, middle)
        layout = packing.lay_out(grown, where_of(plan))
        if layout.shortage or layout.impossible:
            high = middle
        else:
            low = middle
    return round(low, 2)


def _scaled(profile: Profile, factor: float) -> Profile:
    def more(w: Workload) -> Workload:
        replicas = max(1, round(w.replicas * factor))
        return msgspec.structs.replace(w, replicas=replicas, min_available=0)

    clusters = tuple(
        msgspec.structs.replace(c, workloads=tuple(more(w) for w in c.workloads)) for c in profile.clusters
    )
    return msgspec.structs.replace(profile, clusters=clusters)


def another_cluster(profile: Profile, plan: Plan) -> float:
    """Servers that one more small cluster (three replicas of a core and 2 GiB) takes, as the alternative has it; on a
    mix, where it takes fewer. Averaged over ten such clusters, as servers come in whole numbers."""
    ten = 10
    found: list[float] = []
    substrates: tuple[Substrate, ...] = ("vm", "metal")
    for substrate in substrates:
        if plan.alternative not in (substrate, "mix"):
            continue
        added = tuple(
            ClusterProfile(name=f"one-more-{n}", workloads=(Workload(name="small", replicas=3, cpu=1, memory="2Gi"),))
            for n in range(ten)
        )
        grown = msgspec.structs.replace(profile, clusters=(*profile.clusters, *added))
        where: dict[tuple[str, str], Substrate] = {**where_of(plan), **{(c.name, "small"): substrate for c in added}}
        found.append((packing.lay_out(grown, where).count - plan.layout.count) / ten)
    return min(found)


def _together(e: Evidence) -> Sample | None:
    found = [r.blast.together for r in e.runs if r.blast is not None]
    if not found:
        return None
    return of_number(max(found), "clusters", "as the simulated fleet is laid out at its beginning", "simulated")


PRIVILEGED = {
    "vm": ("host kernel with KVM", "QEMU", "libvirtd", "agent", "guest kernel", "containerd", "runc", "kubelet"),
    "metal": ("kernel", "containerd", "runc", "kubelet", "agent"),
}
"""Programs with full rights over a server or a node, between a container and the hardware."""


def _privileged(e: Evidence) -> Sample:
    kinds = {g.substrate for g in e.plan.layout.groups} | ({"vm"} if e.plan.layout.hypervisors else set())
    count = max(len(PRIVILEGED[k]) for k in kinds)
    how = "; ".join(f"{k}: {', '.join(PRIVILEGED[k])}" for k in sorted(kinds))
    if e.plan.alternative == "metal" and "vm" in kinds:
        count = len(PRIVILEGED["metal"])
        how += "; control planes are VMs, workers are not: these are counted"
    return of_number(count, "programs", how)


def _models_of_a_pool(e: Evidence) -> Sample:
    count = 1 if e.plan.alternative == "metal" else len(e.profile.servers)
    how = "models of server that one pool can run on: VMs see one virtual hardware, a metal pool names its model"
    return of_number(count, "models", how)


def _hours(e: Evidence) -> Sample | None:
    found = cost.staff_hours(e.profile, e.plan.layout, e.events, e.value)
    if found is None:
        return None
    how = "hours of each event (yours) x events of a year (simulated)"
    return of_draws(np.broadcast_to(found, np.shape(found)), "h/year", how, "yours")


def _cost(e: Evidence) -> Sample | None:
    if any(e.profile.model(m).price is None for m in e.plan.layout.servers):
        return None
    found = cost.of(e.profile, e.plan.layout, e.events, e.value)
    how = "servers, energy, space, network, licences and staff (docs/tasks/decide.md has the formulas)"
    if found.missing:
        how += f"; not counted, for want of a price: {'; '.join(found.missing)}"
    return of_draws(found.total, f"{e.profile.currency}/year".lstrip("/"), how, "yours")


def _energy(e: Evidence) -> Sample:
    return of_draws(
        cost.kilowatt_hours(e.profile, e.plan.layout, e.value) / 1000.0,
        "MWh/year",
        "watts(load) x PUE x 8,766 h; watts between idle and full by load",
        "computed" if any(m.power for m in e.profile.servers) else "literature",
    )


def _carbon(e: Evidence) -> Sample:
    how = "grid's kg for a kWh x energy + embodied carbon / life (GreenSKU; without CPUs and accelerators)"
    return of_draws(cost.carbon(e.profile, e.plan.layout, e.value) / 1000.0, "t CO2e/year", how)


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="cpu",
        capability="performance",
        title="CPU time for the same work",
        better="lower",
        find=_performance("cpu", literature.CPU_OVERHEAD, _overhead()),
    ),
    Quantity(
        name="memory",
        capability="performance",
        title="time of memory writes",
        bound=True,
        better="lower",
        find=_performance("memory", literature.RAM_WRITE_PESSIMISTIC),
    ),
    Quantity(
        name="disk",
        capability="performance",
        title="time of a 4k read",
        bound=True,
        better="lower",
        find=_performance("disk", literature.DISK_QUEUE),
    ),
    Quantity(
        name="network",
        capability="performance",
        title="time to send",
        bound=True,
        better="lower",
        find=_performance("network", literature.THROUGHPUT_PESSIMISTIC),
    ),
    Quantity(
        name="tail",
        capability="performance",
        title="network latency",
        bound=True,
        better="lower",
        find=_performance("tail", literature.LATENCY_PESSIMISTIC),
    ),
    Quantity(
        name="silent",
        capability="availability",
        title="a replica does not answer",
        better="lower",
        find=_simulated("min/year", "failures and patches of the fleet's servers", silent_minutes),
    ),
    Quantity(
        name="outage",
        capability="availability",
        title="no replica of a workload answers",
        better="lower",
        find=_simulated("min/year", "average over workloads", _outage_minutes),
    ),
    Quantity(
        name="interruptions",
        capability="availability",
        title="a replica is interrupted",
        better="lower",
        find=_simulated("times/year", "average over replicas", _interruptions),
    ),
    Quantity(
        name="killed",
        capability="availability",
        title="pods ended by patches of servers",
        better="lower",
        find=_simulated(
            "pods/year", "whole fleet; roll-outs of node images end pods on either and are left out", _killed
        ),
    ),
    Quantity(
        name="recovery",
        capability="availability",
        title="recovery from a server's failure",
        better="lower",
        find=_recovery,
    ),
    Quantity(
        name="share",
        capability="blast radius",
        title="workers that the worst hit cluster loses with a server",
        better="lower",
        find=_simulated("%", "average over servers", _blast(lambda r: r.blast.share * 100 if r.blast else 0.0)),
    ),
    Quantity(
        name="clusters",
        capability="blast radius",
        title="clusters hit by one server's failure",
        better="lower",
        find=_simulated("clusters", "average over servers", _blast(lambda r: r.blast.clusters if r.blast else 0.0)),
    ),
    Quantity(name="added", capability="agility", title="one more node", better="lower", find=_added),
    Quantity(
        name="growth",
        capability="scalability",
        title="replicas can grow on the servers there are",
        better="higher",
        find=lambda e: of_number(growth_room(e.profile, e.plan), "×", "all replicas, until a server is missing"),
    ),
    Quantity(name="used", capability="utilisation", title="use of the servers' cores", better="higher", find=_used),
    Quantity(
        name="together",
        capability="isolation",
        title="clusters that share one server, at most",
        better="lower",
        find=_together,
        note="each cluster's nodes have kernels of their own on either substrate",
    ),
    Quantity(
        name="another",
        capability="versions",
        title="servers that one more cluster of another version takes",
        better="lower",
        find=lambda e: of_number(
            another_cluster(e.profile, e.plan), "servers", "3 replicas of 1 CPU and 2 GiB; average of ten such clusters"
        ),
    ),
    Quantity(
        name="hours",
        capability="operations",
        title="hours of staff",
        better="lower",
        find=_hours,
        unknown="not known: give prices.hours, the work that a failure and a patch take",
    ),
    Quantity(
        name="privileged",
        capability="security surface",
        title="programs with full rights, from container to hardware",
        better="lower",
        find=_privileged,
        note="fewer are less to attack; a hypervisor is also a second wall between tenants",
    ),
    Quantity(name="energy", capability="energy and carbon", title="electricity", better="lower", find=_energy),
    Quantity(name="carbon", capability="energy and carbon", title="carbon", better="lower", find=_carbon),
    Quantity(
        name="cost",
        capability="cost",
        title="cost",
        better="lower",
        find=_cost,
        unknown="not known: give the price of every model of server",
    ),
    Quantity(
        name="models",
        capability="flexibility of hardware",
        title="models of server that one pool can use",
        better="higher",
        find=_models_of_a_pool,
    ),
)
CAPABILITIES = tuple(dict.fromkeys(q.capability for q in QUANTITIES))


def find_all(evidence: Mapping[str, Evidence], quantity: Quantity) -> dict[str, Sample]:
    """Of every alternative; empty where it is not known for one of them."""
    found = {name: quantity.find(e) for name, e in evidence.items()}
    return {} if any(v is None for v in found.values()) else {n: v for n, v in found.items() if v is not None}
