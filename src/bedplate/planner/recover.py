"""Machines that died or never came up: started again on their own disk, or replaced under a new identity.

Only what is confirmed is acted on: by a connected and synced agent, never by silence. A disconnected server is waited
for. Evidence that only says "it did not come up" is acted on with few machines at a time, and not at all with many.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Key, MachineUid, key
from bedplate.model.inventory import DomainView
from bedplate.model.policy import ALLOW_MANY
from bedplate.model.report import Waiting
from bedplate.model.whereabouts import in_rescue, switched_on_since
from bedplate.planner import control_plane, metal_rescue, moves, servers
from bedplate.planner.context import Planning
from bedplate.planner.leaving import leave
from bedplate.planner.scope import Scope, quorum

MANY = 0.3
"""Rule 6: more than this share of a cluster failing without confirmation is a failure of the observer."""
_SETTLE = 30.0
"""Seconds after a disk was made in which not yet seeing it means nothing: an agent tells of changes within seconds."""

_STORAGE = frozenset({"DiskFailed", "LeaseNotHeld", "PoolMissing"})
"""Failures that say more of what a machine's disk lies on than of the machine: many at once are no machines' faults."""


_WOULD = {
    "kubelet": "its kubelet would be restarted",
    "restart": "it would be started again",
    "replace": "it would be replaced",
}
_BESIDE = frozenset({"RestartKubelet"})
"""Steps whose failures say nothing of whether the machine comes up."""


class Verdict(msgspec.Struct, frozen=True):
    """What a machine's condition asks for."""

    action: Literal["kubelet", "restart", "replace"]
    sentence: str
    confirmed: bool = True
    """The machine is known to have ended. False: it only did not come up in time."""
    disk: bool = True
    """Its disk is there."""


def cluster(p: Planning, unit: Key) -> None:
    """Look at all machines of a cluster and act within the bounds."""
    s = Scope(p, unit)
    if s.entry is None or not s.wanted:
        return
    found: list[tuple[MachineEntry, Verdict]] = []
    silent: set[MachineUid] = set()
    well = p.index.well
    for m in s.machines:
        if m.uid in well:
            continue
        if m.source:
            moves.settle(p, m)
        elif m.desired == "run" and not _is_well(p, s, m):
            m = _remember(p, s, m)
            verdict = judge(p, m, s)
            if verdict is not None:
                found.append((m, verdict))
            if (verdict is not None and not verdict.confirmed) or _is_silent(p, s, m):
                silent.add(m.uid)
    if not found:
        return
    if reason := p.paused(s.declared):
        for m, verdict in found:
            p.wait(m.key, Waiting.PAUSED, f"{verdict.sentence}; {_WOULD[verdict.action]}, but {reason}")
        return
    unconfirmed = len(silent)
    assert s.declared is not None
    allowed = s.declared.metadata.annotations.get(ALLOW_MANY) == "true"
    many = unconfirmed > max(1, MANY * len(s.machines)) and not allowed
    if many:
        said = f"{unconfirmed} of {len(s.machines)} machines are not well; that many may be a fault of the watcher, of"
        said = f'{said} the image or of their configuration. None is acted on until a person sets {ALLOW_MANY}: "true"'
        p.wait(unit, Waiting.ACCEPTANCE, said)
    room = p.policy.replace_at_once - _being_replaced(s, {m.uid for m, v in found if v.action == "replace"})
    for m, verdict in found:
        if many and not verdict.confirmed:
            p.wait(m.key, Waiting.ACCEPTANCE, verdict.sentence)
        elif verdict.action == "kubelet":
            told = f"the kubelet of {m.name} is restarted: {verdict.sentence}"
            p.put(msgspec.structs.replace(m, kubelet_restarted=p.now), told)
        elif verdict.action == "restart":
            _restart(p, m, verdict)
        elif room <= 0:
            p.wait(m.key, Waiting.CAPACITY, f"{verdict.sentence}; others are being replaced already")
        elif _replace(p, unit, m, verdict):
            room -= 1


def _being_replaced(s: Scope, failed: set[MachineUid]) -> int:
    """Replacements of failed machines that are not there yet. One that failed itself holds nobody up: it goes."""
    fresh = sum(1 for m in s.machines if m.replaces and m.desired == "run" and not m.joined and m.uid not in failed)
    return fresh + sum(1 for m in s.planes if m.desired == "remove")


# --- what is the matter ---------------------------------------------------------------------------------------


def judge(p: Planning, m: MachineEntry, s: Scope | None) -> Verdict | None:
    """What the machine's condition asks for; None: nothing, or nothing that is known well enough."""
    if m.substrate == "metal" and (bare := _on_metal(p, m)) is not None:
        return bare if isinstance(bare, Verdict) else None
    host = p.index.metal(m.server)
    if host is not None and host.state == "rescue":
        p.wait(m.key, Waiting.METAL, f"{m.server} is in rescue")
        return None
    if p.ended(m):
        return _of_dead_server(p, m)
    if not p.usable(m.server):
        return _unheard(p, m, s)
    seen = p.domain(m)
    d = seen.value if seen is not None else DomainView(server=m.server, uid=m.uid)
    if d.state in {"running", "paused"}:
        if m.joined and s is not None:
            return _not_ready(p, m, s, d)
        return _late(p, m, d) if m.is_node and d.state == "running" else None
    if not d.volume and m.carried and d.generation < m.generation:
        return _given_up(p, m, confirmed=True)  # its server is yet to take its disk over
    if not d.volume:
        return _without_disk(p, m, seen.time if seen is not None else None)
    if d.boot >= m.boot:
        return _died(p, m, d)
    return _given_up(p, m, confirmed=True)


def _on_metal(p: Planning, m: MachineEntry) -> Verdict | Literal["wait"] | None:
    """What a bare server's state says of its machine; None: it is up, and is judged as any other."""
    entry = p.index.metal(m.server)
    if entry is None or entry.machine != m.uid:
        return Verdict("replace", f"{m.server} is not its server any more", disk=False)
    if entry.state == "quarantined":
        return Verdict("replace", f"{m.server} is quarantined: {entry.reason}", disk=m.joined)
    if entry.state != "deployed":
        p.wait(m.key, Waiting.METAL, f"{m.server} is {entry.state}: {entry.reason}")
        return "wait"
    if p.ended(m):
        lost = p.lost(m.server)
        assert lost is not None
        at = lost.confirmed + p.policy.metal_boot_timeout
        if at <= p.now:
            return Verdict("replace", f"its server {m.server} is dead and did not come back")
        p.at(at)
        p.wait(m.key, Waiting.DEAD, f"{m.server} is dead and is switched on again; its node is replaced if that fails")
        return "wait"
    seen = p.domain(m)
    server = p.inventory.server(m.server)
    if p.usable(m.server) and server is not None and (seen is None or seen.value.state != "running"):
        at = server.time + p.policy.metal_boot_timeout
        if at <= p.now:
            return Verdict("replace", f"{m.server} runs something else than {m.name}", confirmed=False)
        p.at(at)
        p.wait(m.key, Waiting.METAL, f"{m.server} runs something else than {m.name}")
        return "wait"
    return None


def _of_dead_server(p: Planning, m: MachineEntry) -> Verdict | None:
    """On a shared disk it is started elsewhere, as the order over the whole fleet has it; else only its node can be
    replaced: the disk is with the dead server."""
    if p.index.fleet.is_shared(m.disk_pool):
        return None
    if m.is_node:
        return Verdict("replace", f"its server {m.server} is dead, and its disk with it")
    said = f"its server {m.server} is dead and its disk is there: it starts when {m.server} is back"
    p.wait(m.key, Waiting.DEAD, said)
    return None


def _unheard(p: Planning, m: MachineEntry, s: Scope | None) -> Verdict | None:
    """Its server is not heard of and its end not confirmed: only after long, and only under a new identity."""
    lost = p.lost(m.server)
    hopeless = lost is not None and not servers.fence_ahead(p, lost)
    if lost is not None and not hopeless:
        p.at(p.now + p.policy.silence)  # how a fence fares is no news of the machine's own
    if hopeless and m.is_node and m.joined and m.role == "worker" and s is not None and not s.ready(m):
        assert lost is not None
        at = lost.since + p.policy.unconfirmed_replace
        if at <= p.now:
            said = f"its server {m.server} is not heard of and its end can't be confirmed"
            return Verdict("replace", said, confirmed=False)
        p.at(at)
    _wait_for_server(p, m, s)
    return None


def _not_ready(p: Planning, m: MachineEntry, s: Scope, d: DomainView) -> Verdict | None:
    """A node that is NotReady for long though its server is well: its machine hangs, or its kubelet has failed."""
    node = p.inventory.node(m.cluster, m.name)
    if d.state == "running" and m.role == "control-plane" and not s.view.api and not d.guest_agent:
        return _silent_plane(p, m, d)
    if d.state != "running" or node is None or not node.value.present or node.value.ready or not s.view.api:
        return None
    if f"cluster/{s.cluster}" not in p.inventory.synced or m.out_of_service:
        return None
    seen = p.domain(m)
    runs_since = seen.time if seen is not None else 0.0  # it may have been paused until then
    began = max(node.value.ready_changed or node.time, d.started, runs_since, *restarts(p, m), 0.0)
    if d.guest_agent and m.kubelet_restarted < began:
        if p.now >= began + p.policy.kubelet_limit:
            said = f"its node is NotReady for {p.policy.kubelet_limit / 60:.0f} min, and its guest answers"
            return Verdict("kubelet", said, confirmed=False)
        p.at(began + p.policy.kubelet_limit)
    members = len(s.view.etcd_members)
    if m.role == "control-plane" and members > 1 and s.alive_without(m) < quorum(members):
        p.wait(m.key, Waiting.QUORUM, "its node is NotReady; restarting it now would cost etcd its quorum")
        return None
    at = max(began + p.policy.not_ready_limit, m.kubelet_restarted + p.policy.kubelet_limit)
    if p.now < at:
        p.at(at)
        return None
    guest = "its guest answers" if d.guest_agent else "its guest does not answer"
    said = f"its node is NotReady for {p.policy.not_ready_limit / 60:.0f} min, and {guest}"
    again = m.substrate == "vm" and (not restarts(p, m) or m.role == "control-plane")
    action = "restart" if again else "replace"
    return Verdict(action, said, confirmed=False)


def _silent_plane(p: Planning, m: MachineEntry, d: DomainView) -> Verdict | None:
    """A control plane whose guest says nothing while its cluster's API is down: there is no node to ask, and without
    quorum it can only be started again on its own disk (rule 9)."""
    seen = p.domain(m)
    began = max(d.started, seen.time if seen is not None else 0.0, *restarts(p, m), 0.0)
    if p.now < began + p.policy.not_ready_limit:
        p.at(began + p.policy.not_ready_limit)
        return None
    said = f"its guest does not answer for {p.policy.not_ready_limit / 60:.0f} min and its cluster's API is down"
    return Verdict("restart", said, confirmed=False)


def _is_silent(p: Planning, s: Scope, m: MachineEntry) -> bool:
    """Its node is NotReady though it runs, and not because it was just started: it counts among those that seem to fail
    at once (rule 6), also before its own time is over."""
    if not m.joined or m.carried or m.out_of_service or not s.view.api or not p.usable(m.server):
        return False
    d, node = p.domain(m), s.node(m)
    if d is None or d.value.state != "running" or node is None or node.ready:
        return False
    return max(d.value.started, *restarts(p, m), 0.0) + p.policy.kubelet_limit <= p.now


def _is_well(p: Planning, s: Scope, m: MachineEntry) -> bool:
    """A worker that runs as planned, with its node Ready: nothing is to be remembered, judged or waited for. Most are,
    whenever anything happens in their cluster."""
    if m.carried or m.out_of_service or m.cordon or not m.joined or m.role != "worker":
        return False
    if m.substrate == "metal":
        entry = p.index.metal(m.server)
        if entry is None or entry.machine != m.uid or entry.state != "deployed":
            return False
    if p.lost(m.server) is not None or not p.usable(m.server):
        return False
    d, node = p.domain(m), s.node(m)
    runs = d is not None and d.value.state == "running" and d.value.boot >= m.boot
    if not (runs and node is not None and node.ready):
        return False
    if p.index.fleet.server(m.server).good_until == float("inf"):
        p.index.well.add(m.uid)  # as long as nothing is told of it: no time passes here
    return True


def _remember(p: Planning, s: Scope, m: MachineEntry) -> MachineEntry:
    """Write down what a machine that was recovered has reached: it runs, its node is back; or that its pods must go."""
    if m.cordon:
        m = metal_rescue.drained(p, m)
    d = p.domain(m)
    runs = d is not None and d.value.state == "running" and d.value.boot >= m.boot and p.usable(m.server)
    if m.carried and runs:
        m = p.put(msgspec.structs.replace(m, carried=False), f"{m.name} runs on {m.server}")
    node = s.node(m)
    if m.out_of_service and runs and node is not None and node.ready and not node.out_of_service:
        m = p.put(msgspec.structs.replace(m, out_of_service=False), f"the node of {m.name} is back")
    elif p.ended(m) and m.joined and not m.out_of_service and _frees_pods(p, s, m):
        said = f"the pods of {m.name} are freed: server {m.server} is dead"
        m = p.put(msgspec.structs.replace(m, out_of_service=True), said)
    elif _rests(p, m) and m.joined and not m.out_of_service and not p.paused(s.declared):
        said = f"the pods of {m.name} are freed: server {m.server} is in rescue"
        m = p.put(msgspec.structs.replace(m, out_of_service=True), said)
    return m


def _rests(p: Planning, m: MachineEntry) -> bool:
    """Its bare server runs the RAM system for a person."""
    bare = p.index.metal(m.server) if m.substrate == "metal" else None
    return in_rescue(p.inventory, bare, m, usable=p.usable(m.server))


def _frees_pods(p: Planning, s: Scope, m: MachineEntry) -> bool:
    """Pods of a dead server are not left waiting for its node: that takes longer than they may be away. But nobody who
    asked for a pause has pods deleted by force, and a server that comes back meanwhile tells itself what runs."""
    server, lost = p.inventory.server(m.server), p.lost(m.server)
    back = server is not None and server.value.connected
    back = back or (lost is not None and switched_on_since(lost, p.attempts.get(lost.key, {})))
    return p.policy.restart_expected > p.policy.pods_expected and not p.paused(s.declared) and not back


def _wait_for_server(p: Planning, m: MachineEntry, s: Scope | None) -> None:
    if s is not None and s.ready(m):
        return
    if m.joined:
        said = f"server {m.server} is not connected; whether its machine still runs is not known"
        p.wait(m.key, Waiting.UNCONFIRMED, said)
    else:
        p.wait(m.key, Waiting.SERVER, f"server {m.server} is not connected")


def _died(p: Planning, m: MachineEntry, d: DomainView) -> Verdict:
    recent = restarts(p, m)
    if len(recent) < p.policy.boot_limit:
        return Verdict("restart", f"its domain is {d.state} and its disk is intact")
    minutes = p.policy.boot_window / 60
    return Verdict("replace", f"it died {len(recent) + 1} times within {minutes:.0f} min")


def restarts(p: Planning, m: MachineEntry) -> tuple[float, ...]:
    """When it was started again lately."""
    return tuple(t for t in m.restarts if t > p.now - p.policy.boot_window)


def _without_disk(p: Planning, m: MachineEntry, seen_at: float | None) -> Verdict | None:
    """The disk is not there: not made yet, or lost."""
    made = p.attempt(m.key, "CreateVolume").succeeded
    if not m.joined and not made:
        return _given_up(p, m, confirmed=True)
    if p.busy(m.key):
        return None
    told_since = seen_at is not None and seen_at > made
    if not told_since and p.now < made + _SETTLE:
        p.at(made + _SETTLE)
        return None
    server = p.inventory.server(m.server)
    if server is None or server.value.pool(m.disk_pool) is None:
        said = f"server {m.server} does not show disk pool {m.disk_pool}, so whether the disk is lost is not known"
        p.wait(m.key, Waiting.UNCONFIRMED, said)
        return None
    return Verdict("replace", f"its disk is gone from {m.server}", disk=False)


def _late(p: Planning, m: MachineEntry, d: DomainView) -> Verdict | None:
    """It runs but is no node yet: is it past its time?"""
    if not d.guest_agent and m.image.bootstrap == "guest-agent":
        limit = d.started + p.policy.boot_timeout
        if d.started and limit <= p.now:
            said = f"its guest did not answer within {p.policy.boot_timeout:.0f} s of its start"
            return Verdict("replace", _with_detail(said, d), confirmed=False)
        if d.started:
            p.at(limit)
        return None
    begun = p.attempt(m.key, "Bootstrap").succeeded
    if begun and d.bootstrap in {"running", "done"}:
        limit = begun + p.policy.bootstrap_timeout + (p.policy.node_timeout if d.bootstrap == "done" else 0.0)
        if limit <= p.now:
            return Verdict("replace", _with_detail("kubeadm did not make it a node in time", d), confirmed=False)
        p.at(limit)
        return None
    return _given_up(p, m, confirmed=False)


def _with_detail(sentence: str, d: DomainView) -> str:
    return f"{sentence}: {d.detail}" if d.detail else sentence


def _given_up(p: Planning, m: MachineEntry, *, confirmed: bool) -> Verdict | None:
    """A step of it failed too often."""
    histories = dict(p.attempts.get(m.key, {}))
    pull = p.attempts.get(key("image", m.disk_pool, m.server, m.image.disk), {}).get("PullImage")
    if pull is not None:
        histories["PullImage"] = pull
    for name, history in sorted(histories.items()):
        if name not in _BESIDE and history.count >= p.policy.step_attempts_limit and not history.running:
            said = f"{name} failed {history.count} times, last: {history.last_error}"
            return Verdict("replace", said, confirmed=confirmed and history.last_error_reason not in _STORAGE)
    return None


# --- what is done about it ------------------------------------------------------------------------------------


def _restart(p: Planning, m: MachineEntry, verdict: Verdict) -> None:
    times = (*restarts(p, m), p.now)
    entry = msgspec.structs.replace(m, boot=m.boot + 1, restarts=times, reason=verdict.sentence)
    p.put(entry, f"{m.name} is started again (boot {entry.boot}): {verdict.sentence}")


def _replace(p: Planning, unit: Key, m: MachineEntry, verdict: Verdict) -> bool:
    """Give the machine up; True where that was begun. Its disk is kept where it may hold data."""
    if m.role == "control-plane":
        refused = last_copy(Scope(p, unit), m)
        if refused is not None:
            _keep_trying(p, m, verdict, *refused)
            return False
    leave(p, m, f"it is replaced: {verdict.sentence}", retain_disk=m.joined and verdict.disk, drain=False)
    p.given_up.setdefault(m.owner, []).append(m.uid)
    return True


def last_copy(s: Scope, m: MachineEntry) -> tuple[Waiting, str] | None:
    """Why this control-plane machine must not be given up (rules 2 and 9); None where it may."""
    if not s.initialised or (not m.joined and not s.is_member(m) and s.view.api):
        return None
    members = len(s.view.etcd_members)
    if members < 2 or not s.view.api:
        return Waiting.LAST_COPY, "its disk may hold the only copy of the cluster's data, so it is not replaced"
    if s.alive_without(m) < quorum(members):
        return Waiting.LAST_COPY, "without it etcd has no quorum, so it is only started on its own disk"
    return control_plane.obstacle(s, m)


def _keep_trying(p: Planning, m: MachineEntry, verdict: Verdict, reason: Waiting, why: str) -> None:
    """Where it can't be replaced but its disk is there, it is started again, not more often than the limit allows."""
    recent = restarts(p, m)
    ended = verdict.confirmed and verdict.disk and m.joined
    if ended and len(recent) >= p.policy.boot_limit:
        again = recent[-p.policy.boot_limit] + p.policy.boot_window
        p.at(again)
        why = f"{why}; it is tried again in {max(0.0, again - p.now) / 60:.0f} min"
    p.wait(m.key, reason, f"{verdict.sentence}; {why}")
