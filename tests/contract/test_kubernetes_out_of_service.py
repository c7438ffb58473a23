"""Nodes of machines whose end is confirmed, on a real API server: marked out of service, and the mark taken off."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import kubernetes_world as world
from kubernetes_rig import (
    NEEDS_RELEASE,
    PODS,
    Driven,
    add_budget,
    add_node,
    add_pod,
    driven,
    ok,
    patch,
    plane,
    pods_of,
    until,
)

from bedplate.model.blueprint import MachineEntry
from bedplate.model.inventory import NodeView
from bedplate.model.steps import ClearOutOfService, Done, Failed, MarkOutOfService, Unknown

pytestmark = NEEDS_RELEASE
__all__ = ["driven", "plane"]  # fixtures

TAINT = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
ANY = {"operator": "Exists"}


def node_of(plane: world.ControlPlane, m: MachineEntry) -> dict[str, Any]:
    return ok(plane.admin.get(f"/api/v1/nodes/{m.name}"))


def condition(obj: dict[str, Any], type_: str = "Ready") -> dict[str, Any]:
    return next((c for c in obj["status"]["conditions"] if c["type"] == type_), {})


def taints(plane: world.ControlPlane, m: MachineEntry) -> list[dict[str, Any]]:
    """A node's taints without their times."""
    found = node_of(plane, m)["spec"].get("taints", [])
    return [{k: v for k, v in taint.items() if k != "timeAdded"} for taint in found]


async def mark(driven: Driven, m: MachineEntry, seconds: float = 30.0) -> Any:
    return await driven.driver.run(MarkOutOfService(cluster=world.cluster(), machine=m), world.ticket(seconds))


async def clear(driven: Driven, m: MachineEntry) -> Any:
    return await driven.driver.run(ClearOutOfService(cluster=world.cluster(), machine=m), world.ticket())


async def test_a_dead_node_is_made_not_ready_and_tainted_and_its_pods_are_freed_at_once(
    plane: world.ControlPlane, driven: Driven
) -> None:
    m = world.machine(101)
    add_node(plane, m)
    beat = "2024-01-01T00:00:00Z"
    alive = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": beat}
    pressure = {"type": "MemoryPressure", "status": "False", "lastHeartbeatTime": beat}
    patch(plane, f"/api/v1/nodes/{m.name}/status", {"status": {"conditions": [alive, pressure]}})
    others = {"key": "example.test/kept", "effect": "NoSchedule"}
    patch(plane, f"/api/v1/nodes/{m.name}", {"spec": {"taints": [others]}})
    add_pod(plane, "stateful", m.name)
    add_budget(plane, "stateful")  # a budget is for what can be asked; nobody is left to be asked here
    daemons = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": True}
    add_pod(plane, "logs", m.name, ownerReferences=[daemons])
    add_pod(plane, "proxy", m.name, (ANY,), ownerReferences=[daemons])
    add_pod(plane, "static", m.name, annotations={"kubernetes.io/config.mirror": "x"})
    add_pod(plane, "job", m.name, finalizers=["batch.kubernetes.io/job-tracking"])
    add_pod(plane, "ended", m.name)
    patch(plane, f"{PODS}/ended/status", {"status": {"phase": "Failed"}})  # as one is left where this was cut short
    add_pod(plane, "going", m.name, (ANY,))
    ok(plane.admin.delete(f"{PODS}/going"))

    result = await mark(driven, m)
    assert isinstance(result, Done), result
    assert "default/job" in result.message
    (view,) = result.views
    assert isinstance(view, NodeView)
    assert (view.name, view.ready, view.out_of_service) == (m.name, False, True)
    assert abs(view.ready_changed - time.time()) < 30
    await driven.news.until(lambda: (n := driven.news.node(m.name)) is not None and n.out_of_service and not n.ready)

    node = node_of(plane, m)
    ready = condition(node)
    assert (ready["status"], ready["reason"]) == ("Unknown", "MachineDead")
    assert ready["lastHeartbeatTime"] == beat, "a new heartbeat is a sign of life to the node controller"
    assert condition(node, "MemoryPressure")["status"] == "False"
    assert taints(plane, m) == [others, TAINT]
    assert "unschedulable" not in node["spec"]
    assert pods_of(plane, m.name) == {"proxy": False, "static": False, "job": True}
    job = ok(plane.admin.get(f"{PODS}/job"))
    assert job["status"]["phase"] == "Failed", "else its Job would wait for its end"
    assert condition(job, "DisruptionTarget")["status"] == "True"
    for kept in ("proxy", "static"):
        pod = ok(plane.admin.get(f"{PODS}/{kept}"))
        assert condition(pod)["status"] == "False", "Services would still send people there"
        assert pod["status"]["phase"] == "Running"

    again = await mark(driven, m)
    assert isinstance(again, Done), again
    assert node_of(plane, m)["metadata"]["resourceVersion"] == node["metadata"]["resourceVersion"]
    patch(plane, f"{PODS}/job", {"metadata": {"finalizers": None}})


async def test_marking_goes_on_where_it_was_cut_short(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(102)
    add_node(plane, m)
    assert isinstance(await mark(driven, m), Done)
    add_pod(plane, "late", m.name)
    assert isinstance(await mark(driven, m), Done)
    assert pods_of(plane, m.name) == {}


async def test_the_pods_of_a_marked_node_that_answers_are_not_forced(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(103, boot=2)
    add_node(plane, m)
    assert isinstance(await mark(driven, m), Done)
    back = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    patch(plane, f"/api/v1/nodes/{m.name}/status", back)
    add_pod(plane, "runs", m.name)
    result = await mark(driven, m)
    assert isinstance(result, Failed)
    assert result.reason == "NodeAnswers"
    assert pods_of(plane, m.name) == {"runs": False}
    assert condition(node_of(plane, m))["status"] == "True"
    # The next boot's end is another one.
    assert isinstance(await mark(driven, world.machine(103, boot=3)), Done)
    assert pods_of(plane, m.name) == {}


async def test_a_pod_that_may_not_be_deleted_keeps_no_other_waiting(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(104)
    add_node(plane, m)
    for name in ("a-first", "refused", "z-last"):
        add_pod(plane, name, m.name)
    policies = "/apis/admissionregistration.k8s.io/v1"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]}]
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "oldObject.metadata.name != 'refused'", "message": "it is held"}],
    }
    ok(plane.admin.post(f"{policies}/validatingadmissionpolicies", json={"metadata": {"name": "h"}, "spec": spec}))
    binding = {"policyName": "h", "validationActions": ["Deny"]}
    bound = {"metadata": {"name": "h"}, "spec": binding}
    ok(plane.admin.post(f"{policies}/validatingadmissionpolicybindings", json=bound))

    def refuses() -> bool:
        """True once the API server goes by the policy."""
        return plane.admin.delete(f"{PODS}/refused", params={"dryRun": "All"}).status_code == 422

    try:
        await until(refuses)
        result = await mark(driven, m)
        assert isinstance(result, Failed), result
        assert result.reason == "PodsRemain"
        assert not result.permanent
        assert "default/refused" in result.message
        assert "it is held" in result.message
        assert pods_of(plane, m.name) == {"refused": False}
        assert TAINT in taints(plane, m)
    finally:
        plane.admin.delete(f"{policies}/validatingadmissionpolicybindings/h")
        plane.admin.delete(f"{policies}/validatingadmissionpolicies/h")
    await until(lambda: not refuses())
    assert isinstance(await mark(driven, m), Done)
    assert pods_of(plane, m.name) == {}


async def test_a_node_that_is_back_loses_the_mark_and_nothing_else(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(105)
    add_node(plane, m)
    patch(plane, f"/api/v1/nodes/{m.name}", {"spec": {"unschedulable": True, "taints": [CORDONED]}})
    assert isinstance(await mark(driven, m), Done)
    assert taints(plane, m) == [CORDONED, TAINT]
    await driven.news.until(lambda: (n := driven.news.node(m.name)) is not None and n.out_of_service)
    for _ in range(2):
        result = await clear(driven, m)
        assert isinstance(result, Done), result
        (view,) = result.views
        assert isinstance(view, NodeView)
        assert not view.out_of_service
        assert view.unschedulable
        assert taints(plane, m) == [CORDONED]
    await driven.news.until(lambda: (n := driven.news.node(m.name)) is not None and not n.out_of_service)


async def test_a_taint_that_a_person_set_stays_theirs(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(106)
    add_node(plane, m)
    patch(plane, f"/api/v1/nodes/{m.name}", {"spec": {"taints": [TAINT]}})
    await driven.news.until(lambda: driven.news.node(m.name) is not None)
    result = await clear(driven, m)
    assert isinstance(result, Done)
    assert "stays" in result.message
    assert taints(plane, m) == [TAINT]
    seen = driven.news.node(m.name)
    assert seen is not None
    assert not seen.out_of_service


async def test_a_node_of_another_machine_is_never_marked_nor_cleared(plane: world.ControlPlane, driven: Driven) -> None:
    theirs, unknown, gone = world.machine(107), world.machine(108), world.machine(109)
    add_node(plane, theirs, provider="bedplate://somebody-else")
    add_node(plane, unknown, provider="")  # its name and address alone are no proof
    add_pod(plane, "theirs", theirs.name)
    for m in (theirs, unknown, gone):
        assert isinstance(await mark(driven, m), Done)
        assert isinstance(await clear(driven, m), Done)
    for m in (theirs, unknown):
        assert condition(node_of(plane, m))["status"] == "True"
        assert TAINT not in taints(plane, m)
    assert pods_of(plane, theirs.name) == {"theirs": False}


async def test_marking_is_bounded_by_its_ticket(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(110)
    add_node(plane, m)
    assert isinstance(await mark(driven, m, 0.001), Unknown)
    assert isinstance(await mark(driven, m), Done)
