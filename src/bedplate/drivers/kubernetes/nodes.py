"""Node objects: what they show, whose they are, and how one is deleted."""

from __future__ import annotations

import asyncio
from datetime import datetime

from bedplate.drivers.kubernetes.api import ClusterApi, Json, RefusedError
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import ClusterKey, MachineUid
from bedplate.model.inventory import NodeView
from bedplate.model.steps import Done, Failed, StepResult

NODES = "/api/v1/nodes"
PROVIDER = "bedplate://"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
OUT_OF_SERVICE_VALUE = "nodeshutdown"
"""As Kubernetes' own instructions have it; its controllers look at the key alone."""
MARK = "bedplate.dev/out-of-service"
"""Annotation of a node that Bedplate tainted so, with the machine's boot number: a person's taint is left alone."""


def view(cluster: ClusterKey, node: Json) -> NodeView:
    """What is known of a node from its object.

    `pods` stays 0: counting needs a watch of all pods of the cluster, which nothing here is worth.
    """
    metadata, spec, status = node.get("metadata") or {}, node.get("spec") or {}, node.get("status") or {}
    provider = str(spec.get("providerID") or "")
    return NodeView(
        cluster=cluster,
        name=str(metadata.get("name", "")),
        ready=is_ready(node),
        ready_changed=_ready_changed(node),
        unschedulable=bool(spec.get("unschedulable")),
        version=str((status.get("nodeInfo") or {}).get("kubeletVersion", "")).removeprefix("v"),
        address=next(iter(_addresses(node)), ""),
        uid=str(metadata.get("uid", "")),
        machine=MachineUid(provider.removeprefix(PROVIDER) if provider.startswith(PROVIDER) else ""),
        out_of_service=MARK in (metadata.get("annotations") or {})
        and any(taint.get("key") == OUT_OF_SERVICE for taint in spec.get("taints") or ()),
    )


def is_ready(node: Json) -> bool:
    """True where its kubelet said so last and nobody has taken it back."""
    return _ready_condition(node).get("status") == "True"


def _ready_condition(node: Json) -> Json:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == "Ready"), {})


def _ready_changed(node: Json) -> float:
    """Seconds since the epoch; 0 where the condition has no time that one can read."""
    text = str(_ready_condition(node).get("lastTransitionTime") or "")
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def is_proven(node: Json, machine: MachineEntry) -> bool:
    """True where the node is this machine's by its provider id: for what must never meet another's node."""
    return (node.get("spec") or {}).get("providerID") == f"{PROVIDER}{machine.uid}"


def belongs_to(node: Json, machine: MachineEntry) -> bool:
    """True where the node is this machine's: by its provider id, or where it has none, by name and address."""
    provider = str((node.get("spec") or {}).get("providerID") or "")
    if provider:
        return provider == f"{PROVIDER}{machine.uid}"
    addresses = _addresses(node)
    same_name = (node.get("metadata") or {}).get("name") == machine.name
    return same_name and (not addresses or machine.nic.address in addresses)


async def delete(api: ClusterApi, machine: MachineEntry) -> StepResult:
    """Delete the Node of exactly this machine. Raises as `ClusterApi.request`."""
    path = f"{NODES}/{machine.name}"
    while True:
        node = await api.get(path)
        if node is None:
            return Done()
        if not belongs_to(node, machine):
            return Done(message=f"node {machine.name} is another machine's and stays")
        uid = node["metadata"]["uid"]
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await api.request("DELETE", path, body=options)
        except RefusedError as error:
            if error.status == 404:
                return Done()
            if error.status != 409:  # 409: another node got the name meanwhile; look again
                raise
            continue
        held = await _gone(api, path, uid)
        if held:
            finalizers = ", ".join(held)
            return Failed(
                reason="Finalizers",
                message=f"node {machine.name} is being deleted but held by finalizers: {finalizers}; remove them",
            )
        return Done()


async def _gone(api: ClusterApi, path: str, uid: str) -> list[str]:
    """Wait a moment for the node to go; its finalizers where it stays."""
    held: list[str] = []
    for delay in (0.0, 0.5, 2.0, 5.0):
        await asyncio.sleep(delay)
        node = await api.get(path)
        if node is None or node["metadata"]["uid"] != uid:
            return []
        held = [str(f) for f in node["metadata"].get("finalizers") or ["none of its own"]]
    return held


def _addresses(node: Json) -> list[str]:
    addresses = (node.get("status") or {}).get("addresses") or ()
    return [str(a.get("address", "")) for a in addresses if a.get("type") == "InternalIP"]
