"""Load is evened out by live migration, or moves are recommended, as the fleet's policy says.

Feeds what was measured to the search in `balancing` and turns its first wave into moves. Which moves are worth their
cost is decided there; what holds in the fleet (pools, networks, selectors, pauses, control planes apart) is told here.
"""

from __future__ import annotations

from collections import Counter

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Key, MachineUid, ServerName, key
from bedplate.model.inventory import LoadView, MachineLoad
from bedplate.model.kinds.fleet import FLEET_POLICY_NAME
from bedplate.model.report import Waiting
from bedplate.planner import affinity, balancing, moves, placement, relocation
from bedplate.planner.balancing.problem import (
    Amounts,
    BalanceMachine,
    BalanceServer,
    KeepFree,
    PlacementGroup,
    Plan,
    Problem,
    Terms,
)
from bedplate.planner.context import Planning
from bedplate.planner.fleet import ServerState

UNIT = Key("balance/default")
INTERVAL = 60.0
"""Seconds between two looks at the load: a measurement is a mean over minutes, and moves take some of them."""
_SHOWN = 5


def balance(p: Planning) -> None:
    """Look at the load once."""
    policy = p.spec.fleet.balance
    about = key("fleetpolicy", FLEET_POLICY_NAME)
    if policy.mode == "partial":
        return
    problem = _problem(p)
    if len(problem.servers) < 2:
        return
    found = balancing.balance(problem)
    if reason := p.paused():
        p.wait(about, Waiting.PAUSED, f"{_summary(p, found)}; nothing is moved: {reason}")
    elif policy.mode == "manual" and found.moves:
        p.wait(about, Waiting.RECOMMENDED, _summary(p, found))
    elif policy.mode == "auto":
        for move in found.moves:
            m = p.index.entries.get(key("machine", move.machine))
            if move.wave == 0 and isinstance(m, MachineEntry):
                gain = f"{move.gain / 3600:.2f} core-hours less waiting within {policy.horizon_seconds / 60:.0f} min"
                moves.begin(p, m, move.target, f"load is evened out: {gain}, for {move.cost / 3600:.3f} of moving")
        if not found.moves:
            p.wait(about, Waiting.BALANCED, _summary(p, found))


def _summary(p: Planning, found: Plan) -> str:
    names = {m.uid: m.name for s in p.index.fleet.servers for m in p.index.by_server.get(s, {}).values()}
    shown = [f"{names.get(m.machine, m.machine)} from {m.source} to {m.target}" for m in found.moves[:_SHOWN]]
    uneven = f"unevenness of load is {found.before * 100:.1f} percentage points"
    if not shown:
        stays = ", ".join(f"{n} {why.value}" for why, n in sorted(found.stays.items()))
        return f"{uneven}; no move is worth it ({stays})" if stays else uneven
    more = f" and {len(found.moves) - _SHOWN} more" if len(found.moves) > _SHOWN else ""
    return f"{uneven}; {', '.join(shown)}{more} would bring it to {found.after * 100:.1f}"


# --- what is told to the search ---------------------------------------------------------------------------------


def _problem(p: Planning) -> Problem:
    seen = {name: o for name in p.index.fleet.servers if (o := p.inventory.load(name)) is not None}
    loads = {name: o.value for name, o in seen.items()}
    # A machine that has just moved was measured where it came from: the newest word of it counts, wherever it is now.
    uses = {u.uid: u for o in sorted(seen.values(), key=lambda o: o.time) for u in o.value.machines}
    servers = [s for name, s in sorted(p.index.fleet.servers.items()) if name in loads and p.usable(name)]
    allowed: dict[tuple[str, ...], frozenset[ServerName]] = {}
    machines: list[BalanceMachine] = []
    told: list[BalanceServer] = []
    owners: dict[str, list[MachineEntry]] = {}
    moving = _moving(p)
    for s in servers:
        held_mib, held_cpu = 0, 0.0
        for m in p.index.by_server.get(s.name, {}).values():
            use = uses.get(m.uid)
            if m.server != s.name or m.source or m.desired != "run":
                held_mib, held_cpu = held_mib + m.memory_mib, held_cpu + m.cpu
                continue
            owners.setdefault(m.owner, []).append(m)
            machines.append(_machine(p, m, s, use, allowed))
        told.append(_server(p, s, loads[s.name], held_mib, held_cpu, moving[s.name]))
    policy = p.spec.fleet
    terms = Terms(
        now=p.now,
        horizon=float(policy.balance.horizon_seconds),
        min_gain_percent=policy.balance.min_gain_percent,
        move_window=p.policy.move_window,
        per_server=p.policy.moves_per_server,
        reserve=KeepFree(servers=policy.reserve.servers, per=policy.reserve.per) if policy.reserve.servers else None,
    )
    return Problem(servers=tuple(told), machines=tuple(machines), groups=_groups(p, owners), terms=terms)


def _moving(p: Planning) -> Counter[ServerName]:
    """By server: live migrations from and to it that are under way."""
    under_way = (m for m in p.index.carried() if m.source)
    return Counter(name for m in under_way for name in (m.source, m.server))


def _server(p: Planning, s: ServerState, load: LoadView, held_mib: int, held_cpu: float, moving: int) -> BalanceServer:
    seen = p.inventory.server(s.name)
    cpus = float(seen.value.cpus) if seen is not None else 0.0
    return BalanceServer(
        name=s.name,
        capacity=Amounts(cpu=cpus),
        other=Amounts(cpu=max(0.0, load.cpu - sum(u.cpu for u in load.machines))),
        memory_mib=s.memory_capacity,
        memory_held_mib=held_mib,
        vcpus=s.cpu_capacity,
        vcpus_held=held_cpu,
        domains=s.domains,
        moving=moving,
        unschedulable=s.unschedulable or bool(s.emptied_because(p.now) or s.failing) or not s.hypervisor,
    )


def _machine(
    p: Planning,
    m: MachineEntry,
    s: ServerState,
    use: MachineLoad | None,
    allowed: dict[tuple[str, ...], frozenset[ServerName]],
) -> BalanceMachine:
    profile = (m.owner, m.disk_pool, m.cpu_model, s.cpu)
    if profile not in allowed:
        order = placement.eligible(p, relocation.request(p, m))
        allowed[profile] = frozenset(order.servers)
    vm = p.spec.virtual_machines.get(m.owner)
    domain = p.domain(m)
    up = domain is not None and domain.value.state == "running" and domain.value.boot >= m.boot
    live = (
        use is not None
        and up
        and p.index.fleet.is_shared(m.disk_pool)
        and not p.busy(m.key)
        and (m.joined or not m.is_node)
    )
    return BalanceMachine(
        uid=MachineUid(m.uid),
        server=s.name,
        demand=Amounts(cpu=use.cpu if use is not None else 0.0),
        deviation=Amounts(cpu=use.deviation if use is not None else 0.0),
        memory_mib=m.memory_mib,
        vcpus=float(m.cpu),
        allowed=allowed[profile],
        groups=(m.owner,) if m.is_node else (),
        pinned=bool(relocation.paused(p, m)) or (vm is not None and affinity.bound(p, vm)),
        live=live,
        moved=max(m.moves, default=float("-inf")),
    )


def _groups(p: Planning, owners: dict[str, list[MachineEntry]]) -> tuple[PlacementGroup, ...]:
    """Control planes stay apart, as far as they are; pools spread as declared, where that can be."""
    found: list[PlacementGroup] = []
    for owner, members in sorted(owners.items()):
        if not members[0].is_node:
            continue
        plane = members[0].role == "control-plane"
        crowd = max(sum(1 for m in members if m.server == o.server) for o in members)
        pool = p.spec.node_pools.get(Key(owner))
        over = pool.spec.spread if pool is not None else ""
        found.append(
            PlacementGroup(
                name=owner,
                kind="anti-affinity",
                strength="must" if plane else "should",
                over=over,
                most=crowd if plane else 1,
            )
        )
    return tuple(found)
