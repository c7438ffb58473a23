"""Drains a node: cordons it and has its pods evicted, as their disruption budgets allow, within a time; uncordons it.

May not: delete a pod, or overrule a budget.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from bedplate.drivers.kubernetes import nodes
from bedplate.drivers.kubernetes.api import ClusterApi, Json, RefusedError
from bedplate.model.blueprint import MachineEntry
from bedplate.model.steps import Done, StepResult

LOOK_SECONDS = 2.0
FIRST_RETRY_SECONDS = 2.0
MOST_RETRY_SECONDS = 15.0
SLACK_SECONDS = 30.0
"""A kubelet that is alive has removed an evicted pod so long after the pod's own grace; another never will."""
_NAMED = 5


async def uncordon(api: ClusterApi, machine: MachineEntry) -> StepResult:
    """Let pods onto the Node of exactly this machine again. Raises as `ClusterApi.request`."""
    node = await schedulable(api, machine, True)
    if node is None:
        return Done(message=f"there is no node of machine {machine.name}")
    return Done(views=(nodes.view(machine.cluster, node),))


async def schedulable(api: ClusterApi, machine: MachineEntry, wanted: bool) -> Json | None:
    """Let new pods onto the machine's Node, or keep them away; gives the Node, None where the machine has none.

    Raises as `ClusterApi.request`.
    """
    path = f"{nodes.NODES}/{machine.name}"
    while True:
        node = await api.get(path)
        if node is None or not nodes.belongs_to(node, machine):
            return None
        # With the uid, another node that got the name meanwhile is not touched (409).
        body: Json = {"metadata": {"uid": node["metadata"]["uid"]}, "spec": {"unschedulable": None if wanted else True}}
        try:
            return await api.merge(path, body)
        except RefusedError as error:
            if error.status not in (404, 409):
                raise
            await asyncio.sleep(0.5)


class _Pod(NamedTuple):
    uid: str
    namespace: str
    name: str
    grace: float | None
    """Seconds that it has to end, once it is being deleted; None before."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Drain:
    """One drain of one machine's node."""

    def __init__(self, api: ClusterApi, machine: MachineEntry, ends: float) -> None:
        """`ends`: when it gives up, on the monotonic clock."""
        self._api = api
        self._machine = machine
        self._ends = ends
        self._retry: dict[str, tuple[float, float]] = {}
        """Per pod that a budget holds: when to ask again, and the delay after that."""
        self._why: dict[str, str] = {}
        self._ending: dict[str, float] = {}
        """Per pod: until when it is waited for."""

    async def run(self) -> StepResult:
        """Drain; done when nothing is left to wait for. Raises as `ClusterApi.request`."""
        if await schedulable(self._api, self._machine, False) is None:
            return Done(message=f"there is no node of machine {self._machine.name}")
        while True:
            left = await self._pods()
            waiting = [pod for pod in left if not self._given_up(pod)]
            if not waiting or time.monotonic() >= self._ends:
                return Done(message=self._still_there(left))
            for pod in waiting:
                await self._evict(pod)
            await asyncio.sleep(max(0.0, min(LOOK_SECONDS, self._ends - time.monotonic())))

    async def _pods(self) -> list[_Pod]:
        selector = {"fieldSelector": f"spec.nodeName={self._machine.name}"}
        listed = await self._api.request("GET", "/api/v1/pods", params=selector)
        return [_pod(pod) for pod in listed.get("items") or () if _is_to_move(pod)]

    def _given_up(self, pod: _Pod) -> bool:
        if pod.grace is None:
            return False
        now = time.monotonic()
        return now >= self._ending.setdefault(pod.uid, now + pod.grace + SLACK_SECONDS)

    async def _evict(self, pod: _Pod) -> None:
        if pod.grace is not None:
            return
        again, delay = self._retry.get(pod.uid, (0.0, FIRST_RETRY_SECONDS))
        now = time.monotonic()
        if now < again or now >= self._ends:
            return
        body: Json = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        try:
            path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction"
            await self._api.request("POST", path, body=body)
        except RefusedError as error:
            if error.status in (404, 409):  # gone, or another of the same name
                return
            if error.status in (401, 503, 504):
                raise
            self._retry[pod.uid] = (now + delay, min(delay * 1.5, MOST_RETRY_SECONDS))
            self._why[pod.uid] = "held by its disruption budget" if error.status == 429 else error.reason
        else:
            self._retry.pop(pod.uid, None)
            self._why.pop(pod.uid, None)

    def _still_there(self, left: list[_Pod]) -> str:
        if not left:
            return ""
        named = [f"{pod} ({self._why.get(pod.uid, 'has not ended')})" for pod in left[:_NAMED]]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        return f"pods still on {self._machine.name}: {', '.join(named)}{more}"


def _pod(pod: Json) -> _Pod:
    metadata = pod["metadata"]
    grace = metadata.get("deletionGracePeriodSeconds") or 0.0
    return _Pod(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        grace=float(grace) if metadata.get("deletionTimestamp") else None,
    )


def _is_to_move(pod: Json) -> bool:
    """False for static pods' mirrors, for DaemonSets' pods (they would come back) and for those that ended."""
    metadata = pod["metadata"]
    if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
        return False
    if any(o.get("controller") and o.get("kind") == "DaemonSet" for o in metadata.get("ownerReferences") or ()):
        return False
    return (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}
