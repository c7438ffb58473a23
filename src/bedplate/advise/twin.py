"""A fleet's twin: what a layout needs, as servers and clusters of the simulated world. Pure."""

from __future__ import annotations

import math

import msgspec

from bedplate.advise.fleet import Profile, ServerModel, Workload
from bedplate.advise.packing import EVICTION_MIB, Group, Layout
from bedplate.sim.durations import Ranges
from bedplate.sim.scenario.plain import Time
from bedplate.sim.scenario.setting import Application, Pool, Servers, Setting, Tenant

MODEL = "model"
"""Label of a bare server by which its pool finds it."""
DRAIN = Time(600)
"""A drain's bound; what a disruption budget still holds then is ended."""

DIRTY_SHARE = (0.0, 0.004)
"""Of its memory that a machine rewrites each second. An assumption: with it a machine of 110 GiB rewrites up to
450 MiB/s and moves in 2 to 4 minutes over a link of 10 Gb/s. `durations.dirty_share` of the fleet's file overrides it;
scenarios have harder ones."""


def setting_of(profile: Profile, layout: Layout, *, seed: int = 1) -> Setting:
    """The world of a layout: its servers under the same names whatever runs on them, so that the same fail."""
    groups: list[Servers] = []
    for model in profile.servers:
        hypervisors = layout.hypervisors.get(model.name, 0)
        bare = layout.metal.get(model.name, 0) + layout.metal_spares.get(model.name, 0)
        if hypervisors:
            groups.append(_servers(profile, model, hypervisors, bare=False))
        if bare:
            groups.append(_servers(profile, model, bare, bare=True))
    spread = "rack" if any(len(m.place.get("rack", ())) > 1 and not isinstance(m.place["rack"], str)
                           for m in profile.servers) else ""  # fmt: skip
    clusters: dict[str, Tenant] = {}
    for cluster in profile.clusters:
        mine = [g for g in layout.groups if g.cluster == cluster.name]
        clusters[cluster.name] = Tenant(
            control_plane=cluster.control_plane,
            cpu=cluster.plane.cpu,
            memory=cluster.plane.memory,
            spread=spread,
            pools={g.name: _pool(g, spread) for g in mine},
            apps=tuple(_app(w, g) for g in mine for w in cluster.workloads if w.name in g.workloads),
        )
    return Setting(seed=seed, servers=tuple(groups), clusters=clusters)


def ranges_of(profile: Profile) -> Ranges:
    """How long things take: what was measured where the user has it, else the simulated world's own."""
    return msgspec.structs.replace(Ranges(dirty_share=DIRTY_SHARE), **profile.durations)


def server_prefix(model: ServerModel) -> str:
    """Servers of a model are numbered behind it."""
    return f"{model.name}-"


def _servers(profile: Profile, model: ServerModel, count: int, *, bare: bool) -> Servers:
    return Servers(
        name=server_prefix(model),
        count=count,
        cpus=model.cpus,
        memory=model.memory,
        place=model.place,
        bare=bare,
        disks=max(1, model.ssds),
        labels={MODEL: model.name},
        cpu_overcommit=profile.operations.cpu_overcommit,
    )


def _pool(group: Group, spread: str) -> Pool:
    return Pool(
        replicas=group.nodes,
        cpu=group.cpu,
        memory=f"{group.memory_mib}Mi",
        spread=spread,
        substrate=group.substrate,
        match={MODEL: group.model} if group.substrate == "metal" else {},
        drain_timeout=DRAIN,
    )


def _app(w: Workload, group: Group) -> Application:
    """All its pods, with what they request; the memory that a kubelet keeps back is asked by their shares of it."""
    held = max(1, math.floor((group.memory_mib - EVICTION_MIB) / w.memory_mib))
    return Application(
        name=w.name,
        replicas=w.replicas,
        stateful=w.stateful,
        volume=w.volume,
        min_available=w.min_available,
        pool=group.name,
        cpu=w.cpu,
        memory=f"{min(w.memory_mib, group.memory_mib // held)}Mi",
    )
