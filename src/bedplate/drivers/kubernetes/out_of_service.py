"""Marks the node of a machine whose end is confirmed as out of service, and takes the mark off when it is back.

Kubernetes itself would free the pods of a dead node after some 50 s, 5 minutes and, for their volumes, 6 more. A node
that is not Ready and has the taint is what its controllers take for a person's word that nothing runs there any more
(kubernetes/website `docs/concepts/cluster-administration/node-shutdown.md`). Who does what from then on, by the
sources of Kubernetes 1.35:

- taint eviction deletes the pods that don't tolerate the taint, with the grace they ask for;
- pod garbage collection looks every 20 s and deletes by force what is being deleted on such a node, marked as failed;
- the attach-detach controller detaches volumes of deleted pods without asking whether they are mounted.

So here the node is made not Ready, which else takes 40 s and more, and tainted; and the same pods as Kubernetes would
are deleted in the same way, only at once. Were this cut short after the taint, Kubernetes would end it. Volumes and
`VolumeAttachments` are left to it. May not: touch the Node of another machine, or delete pods of a node that answers.

The machine may start elsewhere meanwhile. So a pod is deleted only as it was read before the node was last seen not
Ready: where its kubelet is back and has said a word about it since, the deletion fails, and the node is asked first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bedplate.drivers.kubernetes import nodes
from bedplate.drivers.kubernetes.api import ClusterApi, Json, RefusedError
from bedplate.model.blueprint import MachineEntry
from bedplate.model.steps import Done, Failed, StepResult

ROUNDS = 3
"""So often the pods are listed and deleted before what is left is called a failure and tried again later."""
ROUND_SECONDS = 1.0
AT_ONCE = 16
"""Pods that are dealt with at the same time: half of the connections that a cluster's channel opens."""
REASON = "MachineDead"
_MESSAGE = "Bedplate confirmed the end of the machine."
_ENDED = {"Succeeded", "Failed"}
_NAMED = 5


class _Pods(NamedTuple):
    going: list[Json]
    """To be deleted by force."""
    staying: list[Json]
    """They tolerate the taint, or are static; nobody is to be sent to them."""
    held: list[str]
    """Deleted, and kept by finalizers alone."""


async def mark(api: ClusterApi, machine: MachineEntry) -> StepResult:
    """Mark the Node of exactly this machine and free its pods. Raises as `ClusterApi.request`.

    Repeating it goes on where it was cut short. It stops where the node reports itself Ready after it was marked for
    this boot: then its pods may run, and forcing them would have them run twice.
    """
    node = await _marked(api, machine)
    if isinstance(node, Done):
        return node
    troubles: dict[str, str] = {}
    for number in range(ROUNDS):
        if number:
            await asyncio.sleep(ROUND_SECONDS)
        pods = await _pods(api, machine)
        node = await _node(api, machine)
        if isinstance(node, Done):
            return node
        if nodes.is_ready(node):
            return _answers(machine)
        troubles = await _each(pods.staying, lambda pod: _not_ready(api, pod))
        if not pods.going and not troubles:
            held = f"pods kept by finalizers alone: {_some(pods.held)}" if pods.held else ""
            return Done(views=(nodes.view(machine.cluster, node),), message=held)
        troubles |= await _each(pods.going, lambda pod: _force(api, machine, pod))
    left = [f"{pod} ({why})" for pod, why in troubles.items()] or ["new ones come as others are deleted"]
    return Failed(reason="PodsRemain", message=f"pods still on {machine.name}: {_some(left)}")


async def clear(api: ClusterApi, machine: MachineEntry) -> StepResult:
    """Take the mark off the Node of exactly this machine. A taint that Bedplate did not set stays; so does a cordon.

    Raises as `ClusterApi.request`.
    """
    while True:
        node = await _node(api, machine)
        if isinstance(node, Done):
            return node
        if _mark_of(node) is None:
            stays = f"the out-of-service taint of {machine.name} is not Bedplate's and stays" if _taints(node) else ""
            return Done(views=(nodes.view(machine.cluster, node),), message=stays)
        rest = [taint for taint in _all_taints(node) if not _is_ours(taint)]
        changed = await _if_unchanged(api.merge(_path(machine), _patch(node, rest, None)))
        if changed is not None:
            return Done(views=(nodes.view(machine.cluster, changed),))


# --- the node -------------------------------------------------------------------------------------------------------


def _path(machine: MachineEntry) -> str:
    return f"{nodes.NODES}/{machine.name}"


async def _node(api: ClusterApi, machine: MachineEntry) -> Json | Done:
    """This machine's Node, known by its provider id alone; or that there is none."""
    node = await api.get(_path(machine))
    if node is None:
        return Done(message=f"there is no node of machine {machine.name}")
    if not nodes.is_proven(node, machine):
        return Done(message=f"node {machine.name} is not known to be this machine's and stays as it is")
    return node


async def _marked(api: ClusterApi, machine: MachineEntry) -> Json | Done:
    """The node after it is not Ready and tainted, in this order: Kubernetes acts only on both."""
    boot = str(machine.boot)
    while True:
        node = await _node(api, machine)
        if isinstance(node, Done) or (_taints(node) and _mark_of(node) == boot):
            return node
        if nodes.is_ready(node):
            silenced = await _if_unchanged(api.strategic(f"{_path(machine)}/status", _silent(node)))
            if silenced is None:
                continue
            node = silenced
        rest = [taint for taint in _all_taints(node) if not _is_ours(taint) and not _is_in_the_way(taint)]
        ours = {"key": nodes.OUT_OF_SERVICE, "value": nodes.OUT_OF_SERVICE_VALUE, "effect": "NoExecute"}
        marked = await _if_unchanged(api.merge(_path(machine), _patch(node, [*rest, ours], boot)))
        if marked is not None:
            return marked


def _version(obj: Json) -> Json:
    """What names an object exactly as it was read: a change that asks for it is refused (409) where it is another."""
    return {"uid": obj["metadata"]["uid"], "resourceVersion": obj["metadata"]["resourceVersion"]}


async def _if_unchanged(changing: Awaitable[Json]) -> Json | None:
    """The server's answer; None where the object changed meanwhile or is gone, so that it must be looked at anew."""
    try:
        return await changing
    except RefusedError as error:
        if error.status not in (404, 409):
            raise
        await asyncio.sleep(0.2)
        return None


def _silent(node: Json) -> Json:
    """A patch of the status: nothing is known of it.

    The time of the last heartbeat stays: a new one would be a sign of life to the node controller.
    """
    condition = {"type": "Ready", "status": "Unknown", "reason": REASON, "message": _MESSAGE}
    conditions = [condition | {"lastTransitionTime": _now()}]
    return {"metadata": {"uid": node["metadata"]["uid"]}, "status": {"conditions": conditions}}


def _patch(node: Json, taints: list[Json], boot: str | None) -> Json:
    """Taints are one atomic list that others write too: only the version that was read may be replaced."""
    return {"metadata": {**_version(node), "annotations": {nodes.MARK: boot}}, "spec": {"taints": taints or None}}


def _mark_of(node: Json) -> str | None:
    """The boot for which Bedplate marked it; None where it did not."""
    return (node["metadata"].get("annotations") or {}).get(nodes.MARK)


def _all_taints(node: Json) -> list[Json]:
    return list((node.get("spec") or {}).get("taints") or ())


def _taints(node: Json) -> list[Json]:
    return [taint for taint in _all_taints(node) if taint.get("key") == nodes.OUT_OF_SERVICE]


def _is_ours(taint: Json) -> bool:
    return _is_in_the_way(taint) and taint.get("value") == nodes.OUT_OF_SERVICE_VALUE


def _is_in_the_way(taint: Json) -> bool:
    """A node has one taint of a key and effect."""
    return taint.get("key") == nodes.OUT_OF_SERVICE and taint.get("effect") == "NoExecute"


def _answers(machine: MachineEntry) -> Failed:
    message = f"node {machine.name} reports Ready after it was marked as dead; its pods are not forced"
    return Failed(reason="NodeAnswers", message=message)


# --- its pods -------------------------------------------------------------------------------------------------------


async def _pods(api: ClusterApi, machine: MachineEntry) -> _Pods:
    selector = {"fieldSelector": f"spec.nodeName={machine.name}"}
    listed = await api.request("GET", "/api/v1/pods", params=selector)
    found = _Pods([], [], [])
    for pod in listed.get("items") or ():
        metadata = pod["metadata"]
        if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
            found.staying.append(pod)
        elif metadata.get("deletionTimestamp"):
            if metadata.get("deletionGracePeriodSeconds") or not metadata.get("finalizers"):
                found.going.append(pod)
            else:
                found.held.append(_name(pod))
        elif _tolerates(pod):
            found.staying.append(pod)
        else:
            found.going.append(pod)
    return found


def _tolerates(pod: Json) -> bool:
    """As `Toleration.ToleratesTaint` has it; one for a limited time counts, since taint eviction ends it in time."""
    for toleration in (pod.get("spec") or {}).get("tolerations") or ():
        if toleration.get("effect") not in (None, "", "NoExecute"):
            continue
        if toleration.get("key") not in (None, "", nodes.OUT_OF_SERVICE):
            continue
        operator = toleration.get("operator") or "Equal"
        same = (toleration.get("value") or "") == nodes.OUT_OF_SERVICE_VALUE
        if operator == "Exists" or (operator == "Equal" and same):
            return True
    return False


async def _each(pods: Iterable[Json], act: Callable[[Json], Awaitable[None]]) -> dict[str, str]:
    """Do it to all, some at once; what was refused, by the pod's name. One refusal keeps nobody else waiting."""
    gate = asyncio.Semaphore(AT_ONCE)
    refused: dict[str, str] = {}

    async def one(pod: Json) -> None:
        async with gate:
            try:
                await act(pod)
            except RefusedError as error:
                if error.status in (401, 503, 504):
                    raise
                if error.status not in (404, 409):  # gone, or another of the same name
                    refused[_name(pod)] = f"{error.reason}: {error}"

    ended = await asyncio.gather(*(one(pod) for pod in pods), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error
    return refused


async def _force(api: ClusterApi, machine: MachineEntry, pod: Json) -> None:
    """Delete it, unless it has changed and its node is Ready."""
    while await _if_unchanged(_delete(api, pod)) is None:
        now = await api.get(_pod_path(pod))
        if now is None or now["metadata"]["uid"] != pod["metadata"]["uid"]:
            return
        node = await _node(api, machine)
        if isinstance(node, Done) or nodes.is_ready(node):
            return
        pod = now


async def _delete(api: ClusterApi, pod: Json) -> Json:
    """Delete it as pod garbage collection does: as failed, so that whoever counts its ends counts this one.

    Raises `RefusedError` (409) where it is not as it was read.
    """
    if (pod.get("status") or {}).get("phase") not in _ENDED:
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": REASON, "message": _MESSAGE}
        failed = {"phase": "Failed", "conditions": [disrupted | {"lastTransitionTime": _now()}]}
        pod = await api.strategic(f"{_pod_path(pod)}/status", {"metadata": _version(pod), "status": failed})
    options: Json = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": _version(pod),
    }
    return await api.request("DELETE", _pod_path(pod), body=options)


async def _not_ready(api: ClusterApi, pod: Json) -> None:
    """Take it out of its Services: the node controller does that only for nodes that it saw fall silent itself."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    if any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions):
        ready = {"type": "Ready", "status": "False", "reason": REASON, "lastTransitionTime": _now()}
        same = {"uid": pod["metadata"]["uid"]}  # another pod that got the name meanwhile is not touched (409)
        await api.strategic(f"{_pod_path(pod)}/status", {"metadata": same, "status": {"conditions": [ready]}})


def _pod_path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _name(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _some(names: list[Any]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
