"""One judge for each claim of the debate: it reads a fleet's comparison and says what holds, with the figures. Pure."""

from __future__ import annotations

import msgspec
import numpy as np

from bedplate.advise import cost, deciding, literature, packing
from bedplate.advise.capabilities import PRIVILEGED
from bedplate.advise.claims import Case, Judge, Said, Status
from bedplate.advise.deciding import where_of
from bedplate.advise.draws import Middle
from bedplate.advise.figures import Figure
from bedplate.advise.fleet import Profile, Substrate
from bedplate.advise.packing import Layout

NOT_SIMULATED = "no runs were simulated; run it without --runs 0"


def _not(because: str) -> Judge:
    return lambda _: Said("not answerable", because)


def _measured(what: str) -> Judge:
    return _not(f"{what} has to be measured on servers of one's own; Bedplate does not measure it yet")


def _rows(case: Case, name: str) -> tuple[Figure, Figure] | None:
    """A row's figures on VMs and on metal."""
    cells = case.row(name).cells
    return (cells["vm"], cells["metal"]) if cells else None


def _less_on(substrate: Substrate, name: str, what: str) -> Judge:
    """Holds where the row's figure is better there."""

    def judge(case: Case) -> Said:
        found = _rows(case, name)
        if found is None:
            return Said("not answerable", NOT_SIMULATED)
        vm, metal = found
        said = f"{what}: {vm.text} on VMs, {metal.text} on metal"
        return Said(_status(case, name, substrate), said, (vm, metal))

    return judge


def _status(case: Case, name: str, substrate: Substrate) -> Status:
    row = case.row(name)
    vm, metal = row.cells["vm"].value, row.cells["metal"].value
    if row.winner == "undecided":
        return "undecided"
    sign = 1 if row.better == "lower" else -1
    better = "vm" if sign * vm < sign * metal else "metal"
    return "holds" if vm != metal and better == substrate else "does not hold"


# --- failures -----------------------------------------------------------------------------------------------------


def _s1(case: Case) -> Said:
    clusters, share = _rows(case, "clusters"), _rows(case, "share")
    if clusters is None or share is None:
        return Said("not answerable", NOT_SIMULATED)
    said = (
        f"a server's failure hits {clusters[0].text} on VMs and {clusters[1].text} on metal; as `spread` keeps a "
        f"cluster's nodes apart, the worst hit loses {share[0].text} of its workers"
    )
    return Said("holds" if clusters[0].value > 1 else "does not hold", said, (*clusters, share[0]))


def _v11(case: Case) -> Said:
    """Workers lost with one server, with servers of twice and half the size and as much capacity in all."""
    shares: dict[float, float] = {}
    for factor in (0.5, 1.0, 2.0):
        layout = packing.lay_out(_resized(case.profile, factor), where_of(case.plans["metal"]))
        nodes = [g.nodes for g in layout.groups if g.substrate == "metal"]
        if layout.impossible or not nodes:
            return Said("not answerable", f"with servers of {factor:g} times the size not all fits on metal")
        shares[factor] = float(np.mean([100.0 / n for n in nodes]))
    said = ", ".join(f"{s:.3g} % with servers of {f:g} times the size" for f, s in shares.items())
    figures = tuple(
        Figure(value=s, unit="%", how=f"100 % / nodes of a metal pool, average; servers of {f:g} times the size")
        for f, s in shares.items()
    )
    held: Status = "holds" if shares[2.0] > shares[0.5] else "does not hold"
    return Said(held, f"a metal pool loses with one server: {said}", figures)


def _resized(profile: Profile, factor: float) -> Profile:
    models = tuple(
        msgspec.structs.replace(
            m,
            count=max(1, round(m.count / factor)),
            cpus=max(1, round(m.cpus * factor)),
            memory=f"{max(1, round(m.memory_mib * factor))}Mi",
        )
        for m in profile.servers
    )
    return msgspec.structs.replace(profile, servers=models)


def _v13(case: Case) -> Said:
    found = _rows(case, "recovery")
    kubernetes = [literature.NODE_DECLARED_LOST, literature.PODS_EVICTED, literature.FORCE_DETACH]
    alone = sum(p.amount.mid for p in kubernetes) / 60.0
    own = Figure(
        value=alone,
        low=sum(p.amount.low for p in kubernetes) / 60.0,
        high=sum(p.amount.high for p in kubernetes) / 60.0,
        unit="min",
        source="literature",
        how="silence until NotReady + toleration + forced detach of its volume",
        origin=literature.NODE_DECLARED_LOST.origin,
    )
    said = f"by Kubernetes' own timers a stateful pod of a dead node takes {own.text}"
    if found is None:
        return Said("holds within bounds", f"{said}; with Bedplate: {NOT_SIMULATED}", (own,))
    metal = found[1]
    return Said(
        "holds within bounds",
        f"{said}; where its power-off is confirmed by a BMC and there is room, as here, all of its pods answer again "
        f"after {metal.text} on metal too",
        (own, metal),
    )


def _v14(case: Case) -> Said:
    found = _rows(case, "recovery")
    if found is None:
        return Said("not answerable", NOT_SIMULATED)
    vm = found[0]
    high = vm.high if vm.high is not None else vm.value
    status: Status = "holds within bounds" if high < 60 else "does not hold"
    noticed = literature.NODE_DECLARED_LOST.amount
    said = (
        f"the last pod of a dead server's VMs answers again after {vm.text}; Kubernetes notices after "
        f"{noticed.low:g}–{noticed.high:g} s, so that some nodes are NotReady for a moment"
    )
    return Said(status, said, (vm,))


def _v18(case: Case) -> Said:
    found = {a: [r.blast.pods for r in case.runs.get(a, ()) if r.blast is not None] for a in ("vm", "metal")}
    if not all(found.values()):
        return Said("not answerable", NOT_SIMULATED)
    per = {a: _most_pods(case.plans[a].layout, case.profile) for a in found}
    said = (
        f"one server's failure takes {np.mean(found['vm']):.3g} pods with it on VMs and {np.mean(found['metal']):.3g} "
        f"on metal; a node carries {per['vm']:.3g} and {per['metal']:.3g} of them on average"
    )
    large = per["metal"] >= 100
    return Said("holds" if large else "does not hold", f"{said}; a hundred would be a shock" if not large else said)


def _most_pods(layout: Layout, profile: Profile) -> float:
    replicas = {(c.name, w.name): w.replicas for c, w in profile.workloads()}
    return max((sum(replicas[g.cluster, w] for w in g.workloads) / g.nodes for g in layout.groups), default=0.0)


# --- agility ------------------------------------------------------------------------------------------------------


def _s4(case: Case) -> Said:
    found = _rows(case, "added")
    if found is None:
        return Said("not answerable", NOT_SIMULATED)
    vm, metal = found
    said = (
        f"one more node is Ready after {vm.text} on VMs and, deployed by Bedplate onto a spare, {metal.text} on metal"
    )
    if vm.value >= 600:
        return Said("does not hold", said, found)
    return Said("holds" if metal.value >= 3600 else "holds within bounds", said, found)


def _v3(case: Case) -> Said:
    found = _rows(case, "added")
    if found is None:
        return Said("not answerable", NOT_SIMULATED)
    hand = case.profile.prices.hours.manual_deploy
    by_hand = f"; by hand it takes {hand.low:g}–{hand.high:g} h of work (yours)" if hand else ""
    said = f"with Bedplate a bare server is a node after {found[1].text} and no step by hand{by_hand}"
    return Said("does not hold", said, (found[1],))


def _v2(case: Case) -> Said:
    layout = case.plans["metal"].layout
    spares = sum(layout.metal_spares.values())
    if not spares:
        return Said("does not hold", "no spare stands by in this fleet; a dead node waits for its repair")
    without = msgspec.structs.replace(layout, metal_spares={})
    events = cost.Events(failures=0.0, patches=0.0)
    with_them, less = (float(cost.of(case.profile, x, events, Middle()).total[0]) for x in (layout, without))
    figure = Figure(
        value=with_them - less,
        unit=f"{case.profile.currency}/year".lstrip("/"),
        source="yours",
        how="yearly cost of the metal layout with its spares less that without; spares are switched off",
    )
    return Said("holds", f"{spares} spare servers stand by on metal and cost {figure.text}", (figure,))


# --- cost ---------------------------------------------------------------------------------------------------------


def _alone(profile: Profile, cluster: str) -> tuple[float, float]:
    """What one cluster costs if it is all there is, on VMs and on metal."""
    only = msgspec.structs.replace(profile, clusters=tuple(c for c in profile.clusters if c.name == cluster))
    vm, metal = (deciding.yearly(only, deciding.uniform(only, s).layout) for s in ("vm", "metal"))
    return vm, metal


def _s9(case: Case) -> Said:
    cheaper, dearer = [], []
    for cluster in case.profile.clusters:
        vm, metal = _alone(case.profile, cluster.name)
        (cheaper if metal < vm else dearer).append(cluster.name)
    if not cheaper:
        return Said("does not hold", "each cluster alone costs less on VMs, or as much: control planes are VMs anyway")
    if not dearer:
        return Said("holds", "each cluster alone costs less on metal")
    return Said("holds within bounds", f"alone, {', '.join(cheaper)} cost less on metal; {', '.join(dearer)} do not")


def _s10(case: Case) -> Said:
    found = _rows(case, "cost")
    if found is None:
        return Said("not answerable", "nothing has a price; give prices in the fleet's file")
    vm, metal = found
    count = len(case.profile.clusters)
    said = f"these {count} clusters cost {vm.text} on VMs and {metal.text} on metal"
    row = case.row("cost")
    status: Status = (
        "undecided" if row.winner == "undecided" else "holds" if vm.value <= metal.value else "does not hold"
    )
    even = case.comparison.licence_break_even
    if even is not None:
        said += f"; up to a hypervisor's licence of {even:,.0f} {case.profile.currency} per core and year"
    return Said(status, said, found)


def _s11(case: Case) -> Said:
    apart = tuple(msgspec.structs.replace(c, dedicated=True) for c in case.profile.clusters)
    separate = msgspec.structs.replace(case.profile, clusters=apart)
    where = where_of(case.plans["vm"])
    one, many = case.plans["vm"].layout.count, packing.lay_out(separate, where).count
    said = f"one pool of hypervisors takes {one} servers, a pool for each cluster {many}"
    return Said("holds" if one < many else "does not hold", said)


def _m5(case: Case) -> Said:
    prices = case.profile.prices
    if prices.staff is None or prices.hours.manual_deploy is None:
        return Said("not answerable", "give prices.staff and prices.hours.manualDeploy in the fleet's file")
    found = _rows(case, "cost")
    assert found is not None
    events = cost.expected_events(case.profile, case.plans["metal"].layout)
    nodes = sum(case.plans["metal"].layout.metal.values())
    patches = events.patches * nodes / max(1, case.plans["metal"].layout.count)
    by_hand = (patches + events.failures) * prices.hours.manual_deploy.mid * prices.staff.mid
    metal = found[1].value + by_hand
    unit = found[1].unit
    figure = Figure(
        value=metal, unit=unit, source="yours", how="metal, with each patch and repair deployed by hand at your wage"
    )
    said = f"VMs {found[0].text}, metal {found[1].text}, metal deployed by hand {figure.text}"
    return Said("holds" if metal > found[0].value else "does not hold", said, (*found, figure))


# --- isolation and surface ----------------------------------------------------------------------------------------


def _c4(case: Case) -> Said:
    shared = {c.name: len(c.tenants) for c in case.profile.clusters if len(c.tenants) > 1}
    if not shared:
        return Said("holds", "by reasoning: no cluster here is shared, and no two clusters share a kernel on either")
    named = ", ".join(f"{n} by {count} tenants" for n, count in sorted(shared.items()))
    return Said(
        "holds",
        f"by reasoning: namespaces share their nodes' kernels on either substrate ({named}); a cluster or a pool for "
        "each tenant costs a VM, where on metal it costs servers",
    )


def _m2(case: Case) -> Said:
    bound = [p for p in case.plans["vm"].placed if p.substrate == "metal" and p.rule in ("device", "kernel")]
    if not bound:
        return Said("holds", "by rule, for devices and real-time kernels; no workload here needs one")
    said = "; ".join(f"{p.workload} of {p.cluster}: {p.reason}" for p in bound)
    return Said("holds", said)


def _m3(case: Case) -> Said:
    vm, metal = len(PRIVILEGED["vm"]), len(PRIVILEGED["metal"])
    said = f"{metal} programs with full rights on metal ({', '.join(PRIVILEGED['metal'])}), {vm} with VMs"
    return Said("holds", said)


def _v4(case: Case) -> Said:
    models = len(case.profile.servers)
    versions = len({c.kubernetes for c in case.profile.clusters}) or 1
    metal, vm = models * versions, models + versions
    said = (
        f"{models} models x {versions} node images are {metal} combinations on metal; on VMs {models} models under one "
        f"hypervisor and {versions} images on one virtual hardware are {vm}"
    )
    return Said("holds" if metal > vm else "does not hold", said)


# --- literature ---------------------------------------------------------------------------------------------------


def _c1(_: Case) -> Said:
    found = literature.GPU_SHARE
    a = found.amount
    figure = Figure(
        value=100 * a.mid, low=100 * a.low, high=100 * a.high, unit="% of metal", source="literature",
        how=found.remark, origin=found.origin,
    )  # fmt: skip
    return Said("holds within bounds", f"{figure.text}, as a vendor measured it; not measured on this fleet", (figure,))


def _bound(figure: Figure) -> str:
    return f"at most {figure.text}" if figure.source == "literature" else figure.text


def _m1(case: Case) -> Said:
    cpu, tail = case.row("cpu").cells["vm"], case.row("tail").cells["vm"]
    said = f"CPU time on VMs {cpu.text} ({cpu.source}), network latency {_bound(tail)} ({tail.source})"
    return Said("holds within bounds", said, (cpu, tail))


def _c6(case: Case) -> Said:
    tail = case.row("tail").cells["vm"]
    metal = [p for p in case.plans["mix"].placed if p.substrate == "metal"]
    named = ", ".join(f"{p.workload} of {p.cluster}" for p in metal) or "nothing"
    said = f"latency on VMs is {_bound(tail)} ({tail.source}); the mix puts {named} on metal"
    return Said("holds" if metal else "holds within bounds", said, (tail,))


# --- load ---------------------------------------------------------------------------------------------------------

NOTICED = 0.005
"""A share of time, or of demand, below which nobody would notice: under eight minutes a day."""


def _s7(case: Case) -> Said:
    """Contention against density: the same work on ever fewer servers."""
    if case.load is None:
        return Said("not answerable", NOT_SIMULATED)
    levels = sorted(case.load.by_overcommit.items())
    said = "; ".join(
        f"at {level:g} virtual CPUs for each logical one {d.servers} servers, hot {d.hot:.1%} of the time, "
        f"{d.unserved:.1%} of the CPU time not served"
        for level, d in levels
    )
    how = "CPU time that is asked for and not there / asked for, two days without failures, all pools peaking at once"
    figures = tuple(
        Figure(value=100 * d.unserved, unit="%", source="simulated", how=f"{how}; {level:g} virtual CPUs per logical")
        for level, d in levels
    )
    (_, least), (_, most) = levels[0], levels[-1]
    if most.servers == least.servers:
        return Said("does not hold", f"memory, not CPU, decides how many servers are needed: {said}", figures)
    worse = max(most.unserved - least.unserved, most.hot - least.hot) > NOTICED
    return Said("holds" if worse else "does not hold", said, figures)


def _v12(case: Case) -> Said:
    """Hot spots, with machines left where they are and with automatic balancing."""
    if case.load is None:
        return Said("not answerable", NOT_SIMULATED)
    left, moved = case.load.by_balance["manual"], case.load.by_balance["auto"]
    how = "share of servers' time at 80 % of their logical CPUs or more, two days without failures"
    figures = tuple(
        Figure(value=100 * d.hot, unit="%", source="simulated", how=f"{how}; balancing {mode}")
        for mode, d in case.load.by_balance.items()
    )
    said = (
        f"servers are hot {left.hot:.2%} of the time where machines stay, {moved.hot:.2%} where Bedplate balances by "
        f"itself ({moved.moves} live moves in two days on {moved.servers} servers)"
    )
    if left.hot <= NOTICED:
        return Said("does not hold", f"{said}: this fleet has no hot spots to speak of", figures)
    return Said("holds" if moved.hot < left.hot / 2 else "does not hold", said, figures)


JUDGES: dict[str, Judge] = {
    "S1": _s1,
    "S2": _less_on("metal", "share", "workers that the worst hit cluster loses with a server"),
    "S3": _measured("the gap between untuned VMs, tuned ones and metal"),
    "S4": _s4,
    "S5": _measured("pod start and scale-out on either"),
    "S6": _less_on("vm", "used", "use of the cores of all servers that are needed"),
    "S7": _s7,
    "S8": _measured("a noisy neighbour's effect on CPU, memory, disk and network"),
    "S9": _s9,
    "S10": _s10,
    "S11": _s11,
    "C1": _c1,
    "C2": _less_on("vm", "another", "servers that one more small cluster of another version takes"),
    "C3": _not("upgrades are not part of the simulated years yet; try it in the lab (docs/tasks/clusters.md)"),
    "C4": _c4,
    "C5": _measured("pod limits against a VM's reservation under load"),
    "C6": _c6,
    "V1": _not("Bedplate has no load balancer yet, on either"),
    "V2": _v2,
    "V3": _v3,
    "V4": _v4,
    "V5": _not("a batch of bad hardware is not part of the simulated years yet"),
    "V6": lambda _: Said(
        "does not hold", "Bedplate reads every server's health from its BMC, whatever runs on it (docs/tasks/bmc.md)"
    ),
    "V7": _not("lead times of procurement against growth are not simulated yet"),
    "V8": _not("Bedplate has no volumes yet, on either"),
    "V9": _not(
        "roll-outs of node images are left out of the simulated years; on either, nodes are replaced by one image"
    ),
    "V10": _less_on("vm", "killed", "pods that patches of servers end"),
    "V11": _v11,
    "V12": _v12,
    "V13": _v13,
    "V14": _v14,
    "V15": _measured("the time to recreate a deleted node"),
    "V16": _not("priorities and restart order are not switched off one by one yet"),
    "V17": _not("Bedplate has no snapshots yet"),
    "V18": _v18,
    "M1": _m1,
    "M2": _m2,
    "M3": _m3,
    "M4": lambda _: Said(
        "holds within bounds",
        "by reasoning: on VMs the host's kernel and firmware are the platform team's; nodes, their kernel and versions "
        "are each cluster's own on either substrate",
    ),
    "M5": _m5,
}
