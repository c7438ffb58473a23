"""Node pools: as many workers as declared, equal ones, spread softly; and their roll-out when the declaration changes.

Shrinking and growing are apart, because all that is freed in a planning must be free before anything grows.
"""

from __future__ import annotations

from collections import Counter

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Key
from bedplate.model.kinds.cluster import NodePool
from bedplate.model.report import Waiting
from bedplate.model.spec import object_key
from bedplate.planner import control_plane, cpus, machines, maintain, metal_pools, rollout, spare, substrates, versions
from bedplate.planner.context import Planning
from bedplate.planner.index import Compared
from bedplate.planner.leaving import leave
from bedplate.planner.machines import Mold
from bedplate.planner.scope import Scope


def shrink(p: Planning, unit: Key) -> None:
    """Have surplus workers leave: of a pool scaled down, or old ones that a roll-out has replaced."""
    s = Scope(p, unit)
    if s.entry is None or not s.wanted:
        return
    for pool in s.pools():
        owner = object_key(pool)
        run = s.running(owner)
        old = outdated(s, pool, run)
        if not old:
            for m in first_to_go(s, run, len(run) - pool.spec.replicas, pool.spec.spread):
                leave(p, m, f"pool {pool.metadata.name} has {len(run)} machines, {pool.spec.replicas} are declared")
        elif control_plane.is_current(s):
            count = rollout.removable(s, pool.spec.rollout, pool.spec.replicas, run, old)
            for m in first_to_go(s, [m for m in run if m.uid in old], count, pool.spec.spread):
                leave(p, m, old[m.uid])


def first_to_go(s: Scope, run: list[MachineEntry], count: int, spread: str) -> list[MachineEntry]:
    """Those that go first: unfinished and unready ones, then from the most crowded places, then the newest."""
    if count <= 0:
        return []
    on_servers: Counter[str] = Counter()
    in_domains: Counter[str] = Counter()
    ranked: list[tuple[bool, bool, int, int, float, str, MachineEntry]] = []
    for m in run:  # oldest first: the newest of a crowded place has the highest count
        domain = s.p.index.fleet.server(m.server).domains.get(spread, "") if spread else ""
        on_servers[m.server] += 1
        in_domains[domain] += bool(spread)
        ranked.append((m.joined, s.ready(m), -in_domains[domain], -on_servers[m.server], -m.created, m.uid, m))
    return [r[-1] for r in sorted(ranked, key=lambda r: r[:-1])[:count]]


def outdated(s: Scope, pool: NodePool, run: list[MachineEntry]) -> dict[str, str]:
    """The pool's machines that are not as declared, by uid, with what differs."""
    assert s.entry is not None
    index = s.p.index
    leaves = (m for m in run if m.server in index.fleet.emptied)
    emptied: dict[str, str] = {m.uid: why for m in leaves if (why := maintain.emptying(s.p, m))}
    shape = pool.spec.machine
    image = index.images.refs.get(shape.image)
    if shape.image and index.images.versions.get(shape.image) != s.entry.version:
        return emptied  # growing says what is wrong with the image; nothing is rolled out to one that does not fit
    version = s.entry.version if shape.image or s.entry.version in index.images.newest else ""
    asked = (run, shape, image, version)
    if _same(index.compared.get(object_key(pool)), asked):
        return emptied
    found: dict[str, str] = {}
    for m in run:
        known = index.as_declared.get(m.uid)
        wanted = version or m.version
        if known is not None and known[0] is m and known[1] is shape and known[2] is image and known[3] == wanted:
            continue
        if what := machines.differs(m, shape, image, wanted):
            found[m.uid] = what
        else:
            index.as_declared[m.uid] = (m, shape, image, wanted)
    if not found:
        index.compared[object_key(pool)] = asked
    return emptied | found


def _same(before: Compared | None, now: Compared) -> bool:
    """The very machines were compared with the very declaration before."""
    return before is not None and all(a is b for a, b in zip(before[:3], now[:3], strict=True)) and before[3] == now[3]


def grow(p: Planning, unit: Key) -> None:
    """Make the workers that are missing. They boot beside the control plane and join when its API answers."""
    s = Scope(p, unit)
    for pool in s.pools():
        owner = object_key(pool)
        if s.entry is None or not s.wanted:
            _wait_for_cluster(p, s, owner, pool)
        else:
            _grow_pool(p, s, owner, pool)


def _wait_for_cluster(p: Planning, s: Scope, owner: Key, pool: NodePool) -> None:
    if s.declared is None:
        p.wait(owner, Waiting.NO_CLUSTER, f"cluster {pool.spec.cluster} does not exist")
    elif s.declared.metadata.deletion_timestamp or s.entry is not None:
        p.wait(owner, Waiting.NO_CLUSTER, f"cluster {pool.spec.cluster} is being deleted")
    else:
        p.wait(owner, Waiting.NO_CLUSTER, f"cluster {pool.spec.cluster} is not placed yet")


def _grow_pool(p: Planning, s: Scope, owner: Key, pool: NodePool) -> None:
    run = s.running(owner)
    old = outdated(s, pool, run)
    missing = pool.spec.replicas - len(run)
    if old:
        if control_plane.is_current(s):
            missing = rollout.creatable(pool.spec.rollout, pool.spec.replicas, len(run), len(old))
        else:
            p.wait(owner, Waiting.CONTROL_PLANE, "its control plane is rolled out first")
    if missing <= 0:
        if old and not p.is_waiting(owner):
            p.wait(owner, Waiting.JOIN, f"{len(old)} machines are still to be replaced; the new ones come up first")
        elif shape_image_missing(p, s, owner, pool):
            return
        return
    assert s.entry is not None
    image = versions.node_image(p, owner, pool.spec.machine.image, s.entry.version)
    if image is None:
        return
    mold = _mold(p, s, owner, pool, image)
    on_servers, in_domains = machines.siblings(p, [m for m in s.machines if m.owner == owner], pool.spec.spread)
    why = f"pool {pool.metadata.name} is to have {pool.spec.replicas} machines{_where(p, owner)}"
    if old:
        why = f"pool {pool.metadata.name} is rolled out: {next(iter(old.values()))}"
    replaces = any(m.owner == owner and m.desired != "run" for m in s.machines)

    def what(left: int) -> str:
        return f"{left} of {pool.spec.replicas} machines are not placed"

    if pool.spec.machine.substrate == "metal":
        metal_pools.claim(p, mold, missing, in_domains, what, why)
        return
    for left in range(missing, 0, -1):
        r = machines.request(mold, on_servers, in_domains)
        place = spare.place(p, owner, r, what(left), replaces=bool(old) or replaces)
        if place is None:
            return
        m = machines.create(p, mold, place, why)
        if m is None:
            return
        on_servers[m.server] += 1
        if pool.spec.spread:
            in_domains[p.index.fleet.server(m.server).domains.get(pool.spec.spread, "")] += 1


def _where(p: Planning, owner: Key) -> str:
    """Of a pool that says `auto`: why it is where it is, for `bedplate why`."""
    declared = p.spec.node_pools.get(owner)
    if declared is None or declared.spec.machine.substrate != "auto":
        return ""
    substrate, by = substrates.wanted(p.spec.fleet.substrate, declared)
    return f" on {'VMs' if substrate == 'vm' else 'metal'}: {by}"


def shape_image_missing(p: Planning, s: Scope, owner: Key, pool: NodePool) -> bool:
    """Say so where the declared image does not fit, though nothing new is to be made of it right now."""
    assert s.entry is not None
    named = pool.spec.machine.image
    return bool(named) and versions.node_image(p, owner, named, s.entry.version) is None


def _mold(p: Planning, s: Scope, owner: Key, pool: NodePool, image: machines.ImageRef) -> Mold:
    assert s.entry is not None
    assert s.declared is not None
    spec = pool.spec
    return Mold(
        owner=owner,
        namespace=pool.metadata.namespace,
        prefix=pool.metadata.name,
        cluster=s.cluster,
        role="worker",
        shape=spec.machine,
        size=machines.size_of(spec.machine, image),
        image=image,
        version=s.entry.version,
        network=s.entry.network,
        cpu_model=cpus.chosen(p, spec.machine.cpu_model),
        spread=spec.spread,
        node_labels=tuple(sorted(spec.labels.items())),
        node_taints=tuple(f"{t.key}={t.value}:{t.effect}" for t in spec.taints),
        drain_timeout=float(spec.rollout.drain_timeout_seconds),
        ssh_keys=s.declared.spec.ssh_keys,
        priority=spec.priority,
    )
