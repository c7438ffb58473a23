"""The driver of clusters' APIs against a real API server and a real etcd."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kubernetes_world as world

from bedplate.drivers.kubernetes.api import ClusterApi, ExpiredError
from bedplate.drivers.kubernetes.driver import KubernetesDriver
from bedplate.model.blueprint import AddonRef, MachineEntry
from bedplate.model.ids import Digest
from bedplate.model.inventory import ClusterView, NodeView
from bedplate.model.steps import (
    ClearOutOfService,
    DeleteNode,
    Done,
    DrainNode,
    Failed,
    InstallAddons,
    MarkOutOfService,
    Unknown,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(world.binaries() is None, reason="no Kubernetes release is built; `bedplate release build`"),
]

CP1 = world.machine(1, "control-plane")
PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.ControlPlane]:
    yield from world.control_plane(tmp_path_factory.mktemp("control-plane"))


class Driven:
    """A driver that follows the cluster, with its surroundings."""

    def __init__(self, plane: world.ControlPlane) -> None:
        self.news = world.News()
        self.dialer = world.LoopbackDialer(dict(plane.ports))
        self.texts: dict[str, str] = {}
        self.machines: list[MachineEntry] = [CP1]
        self.driver = KubernetesDriver(
            dialer=self.dialer,
            secrets=plane.secrets,
            sink=self.news,
            addon_text=lambda _, name: self.texts.get(name),
            machines=lambda _: self.machines,
        )
        self.driver.follow({world.CLUSTER: world.access(CP1)})

    def addon(self, name: str, text: str) -> AddonRef:
        """Declare an addon."""
        self.texts[name] = text
        return AddonRef(name, Digest("sha256:" + sha256(text.encode()).hexdigest()))


@pytest.fixture
async def driven(plane: world.ControlPlane) -> AsyncIterator[Driven]:
    found = Driven(plane)
    await found.news.until(lambda: found.news.cluster().api)
    yield found
    await found.driver.stop()


# --- playing the kubelet and the controllers ------------------------------------------------------------------------


def ok(response: Any) -> dict[str, Any]:
    assert response.is_success, response.text
    return response.json()


def add_node(plane: world.ControlPlane, m: MachineEntry, provider: str | None = None) -> dict[str, Any]:
    provider = f"bedplate://{m.uid}" if provider is None else provider
    node = {"metadata": {"name": m.name}, "spec": {"providerID": provider}}
    made = ok(plane.admin.post("/api/v1/nodes", json=node))
    status = {
        "addresses": [{"type": "InternalIP", "address": m.nic.address}, {"type": "Hostname", "address": m.name}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": made["status"]["nodeInfo"] | {"kubeletVersion": "v1.35.3"},
    }
    return patch(plane, f"/api/v1/nodes/{m.name}/status", {"status": status})


def patch(plane: world.ControlPlane, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return ok(plane.admin.patch(path, json=body, headers={"Content-Type": "application/merge-patch+json"}))


def add_pod(
    plane: world.ControlPlane, name: str, node: str, tolerations: tuple[dict[str, Any], ...] = (), **metadata: Any
) -> None:
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 5}
    pod = {
        "metadata": {"name": name, "labels": {"app": name}} | metadata,
        "spec": spec | {"tolerations": list(tolerations)},
    }
    ok(plane.admin.post(PODS, json=pod))
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    patch(plane, f"{PODS}/{name}/status", {"status": ready})


def add_budget(plane: world.ControlPlane, app: str) -> None:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}}
    ok(plane.admin.post(BUDGETS, json={"metadata": {"name": app}, "spec": spec}))
    allow(plane, app, 0)


def allow(plane: world.ControlPlane, app: str, disruptions: int) -> None:
    status = {"disruptionsAllowed": disruptions, "currentHealthy": 1 + disruptions, "desiredHealthy": 1}
    generation = ok(plane.admin.get(f"{BUDGETS}/{app}"))["metadata"]["generation"]
    full = status | {"expectedPods": 1, "observedGeneration": generation}
    patch(plane, f"{BUDGETS}/{app}/status", {"status": full})


def pods_of(plane: world.ControlPlane, node: str) -> dict[str, bool]:
    """Names of a node's pods; True where it is being deleted."""
    listed = ok(plane.admin.get(PODS, params={"fieldSelector": f"spec.nodeName={node}"}))
    return {p["metadata"]["name"]: "deletionTimestamp" in p["metadata"] for p in listed["items"]}


def kubelet(plane: world.ControlPlane, node: str) -> None:
    """End the pods that are to end."""
    for name, going in pods_of(plane, node).items():
        if going:
            plane.admin.delete(f"{PODS}/{name}", params={"gracePeriodSeconds": "0"})


async def until(found: Any, seconds: float = 20.0) -> None:
    """Ask the API until it is so (the API has no other way to tell a test)."""
    async with asyncio.timeout(seconds):
        while not found():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


# --- following ------------------------------------------------------------------------------------------------------


async def test_what_is_there_is_told_whole_and_changes_as_they_come(plane: world.ControlPlane) -> None:
    add_node(plane, CP1)
    d = Driven(plane)
    try:
        await d.news.until(lambda: d.news.cluster().api)
        source, first, full = d.news.told[-1]
        assert source == "cluster/default/shop"
        assert full
        assert {o.value.key for o in first} == {"cluster-view/default/shop", "node/default/shop/cp-1"}
        view = d.news.cluster()
        assert (view.secrets, view.initialised, view.etcd_members, view.error) == (True, True, ("cp-1",), "")
        node = d.news.node("cp-1")
        assert node is not None
        assert (node.ready, node.version, node.address, node.machine) == (True, "1.35.3", CP1.nic.address, CP1.uid)

        worker = world.machine(21)
        add_node(plane, worker)
        await d.news.until(lambda: (n := d.news.node("w-21")) is not None and n.ready)
        not_ready = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
        patch(plane, "/api/v1/nodes/w-21/status", not_ready)
        await d.news.until(lambda: (n := d.news.node("w-21")) is not None and not n.ready)
        ok(plane.admin.delete("/api/v1/nodes/w-21"))
        await d.news.until(lambda: (n := d.news.node("w-21")) is not None and not n.present)
        assert not any(full for _, _, full in d.news.told[1:])
    finally:
        await d.driver.stop()
        plane.admin.delete("/api/v1/nodes/cp-1")


async def test_a_dead_endpoint_is_gone_around(plane: world.ControlPlane) -> None:
    d = Driven(plane)
    del d.dialer.ports[world.ENDPOINT, world.PORT]
    try:
        await d.news.until(lambda: d.news.cluster().api)
        assert d.dialer.dialed[0] == (world.ENDPOINT, world.PORT)
        assert ("10.99.0.1", 6443) in d.dialer.dialed
    finally:
        await d.driver.stop()


async def test_silence_is_told_and_makes_old_news_stale_until_the_api_is_back(
    plane: world.ControlPlane, driven: Driven
) -> None:
    gone, stays = world.machine(31), world.machine(32)
    add_node(plane, gone)
    add_node(plane, stays)
    news = driven.news
    await news.until(lambda: news.node("w-31") and (n := news.node("w-32")) is not None and n.ready)
    plane.stop("kube-apiserver")
    await news.until(lambda: not news.cluster().api)
    view = news.cluster()
    assert view.initialised
    assert "does not answer" in view.error
    assert view.etcd_members == ("cp-1",)
    stale = news.known["node/default/shop/w-32"]
    assert isinstance(stale.value, NodeView)
    assert stale.value.ready
    assert not stale.fresh(time.time())
    told = await driven.driver.run(DeleteNode(cluster=world.cluster(), machine=gone), world.ticket())
    assert isinstance(told, Failed)
    assert told.reason == "ApiUnreachable"

    await asyncio.to_thread(plane.start_api)
    ok(plane.admin.delete("/api/v1/nodes/w-31"))
    await news.until(lambda: news.cluster().api and (news.node("w-31") is None or _absent(news, "w-31")))
    assert news.known["node/default/shop/w-32"].fresh(time.time())
    assert news.cluster().error == ""
    assert any(full for _, _, full in news.told[1:])
    ok(plane.admin.delete("/api/v1/nodes/w-32"))


def _absent(news: world.News, name: str) -> bool:
    node = news.node(name)
    return node is not None and not node.present


async def test_an_api_that_never_answered_is_no_error_and_its_nodes_are_not_known(plane: world.ControlPlane) -> None:
    d = Driven(plane)
    d.dialer.ports.clear()
    try:
        await d.news.until(lambda: d.news.told)
        assert d.news.cluster() == ClusterView(cluster=world.CLUSTER, secrets=True)
        assert not d.news.told[0][2]
    finally:
        await d.driver.stop()


async def test_without_etcds_members_the_api_counts_as_silent(plane: world.ControlPlane) -> None:
    d = Driven(plane)
    etcd = d.dialer.ports.pop(("10.99.0.1", 2379))
    try:
        await d.news.until(lambda: d.news.cluster().error)
        assert not d.news.cluster().api
        assert "etcd's members can't be listed" in d.news.cluster().error
        d.dialer.ports["10.99.0.1", 2379] = etcd
        add_node(plane, world.machine(33))  # news of nodes is looked after at once
        await d.news.until(lambda: d.news.cluster().api)
        assert d.news.cluster().etcd_members == ("cp-1",)
    finally:
        await d.driver.stop()
        plane.admin.delete("/api/v1/nodes/w-33")


async def test_a_watch_from_too_long_ago_asks_for_a_new_listing(plane: world.ControlPlane, tmp_path: Path) -> None:
    api = ClusterApi(world.access(CP1), world.LoopbackDialer(plane.ports), plane.secrets, tmp_path / "s")

    async def ignore(kind: str, obj: dict[str, Any]) -> None:
        del kind, obj

    try:
        with pytest.raises(ExpiredError):
            await api.watch("/api/v1/nodes", "1", ignore)
    finally:
        await api.stop()


# --- addons ---------------------------------------------------------------------------------------------------------

WIDGETS = """
apiVersion: example.test/v1
kind: Widget
metadata: {name: one, namespace: widgets}
spec: {since: 2024-01-01}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: listed, namespace: widgets}, data: {a: b}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.test}
spec:
  group: example.test
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {since: {type: string}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: widgets}
"""


async def test_addons_are_applied_in_an_order_that_works_and_recorded(
    plane: world.ControlPlane, driven: Driven
) -> None:
    widgets = driven.addon("widgets", WIDGETS)
    small = driven.addon("small", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: small}\ndata: {x: '1'}\n")
    step = InstallAddons(cluster=world.cluster(addons=(widgets, small)))
    result = await driven.driver.run(step, world.ticket(60))
    assert isinstance(result, Done), result
    wanted = ("bedplate@1", f"small@{small.digest}", f"widgets@{widgets.digest}")
    (view,) = result.views
    assert isinstance(view, ClusterView)
    assert view.addons == wanted
    assert view.secrets
    assert driven.news.cluster().addons == wanted
    one = ok(plane.admin.get("/apis/example.test/v1/namespaces/widgets/widgets/one"))
    assert one["spec"]["since"] == "2024-01-01"
    ok(plane.admin.get("/api/v1/namespaces/widgets/configmaps/listed"))

    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": "system:node:any",
            "groups": ["system:nodes", "system:authenticated"],
            "resourceAttributes": {"verb": "list", "resource": "nodes"},
        },
    }
    seen = ok(plane.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=review))
    assert seen["status"]["allowed"], "a node can't see the others, and has no routes to their pods"

    patch(plane, "/api/v1/namespaces/default/configmaps/small", {"data": {"x": "2", "mine": "3"}})
    result = await driven.driver.run(InstallAddons(cluster=world.cluster(addons=(small,))), world.ticket(60))
    assert isinstance(result, Done), result
    assert driven.news.cluster().addons == ("bedplate@1", f"small@{small.digest}")
    data = ok(plane.admin.get("/api/v1/namespaces/default/configmaps/small"))["data"]
    assert data == {"x": "1", "mine": "3"}  # ours is put right, theirs is left
    ok(plane.admin.get("/apis/example.test/v1/namespaces/widgets/widgets/one"))  # no longer declared, still there


async def test_an_addon_that_cannot_be_applied_says_why(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bedplate.drivers.kubernetes.addons.SETTLE_SECONDS", 1.0)

    async def install(text: str, declared: AddonRef | None = None) -> Failed:
        ref = declared or driven.addon("odd", text)
        result = await driven.driver.run(InstallAddons(cluster=world.cluster(addons=(ref,))), world.ticket())
        assert isinstance(result, Failed), result
        return result

    changed = await install("", AddonRef("odd", Digest("sha256:0")))
    assert (changed.reason, changed.permanent) == ("AddonChanged", False)
    broken = await install("a: 1\nb: [\n")
    assert (broken.reason, broken.permanent) == ("AddonInvalid", True)
    assert "line" in broken.message
    unknown = await install("apiVersion: nobody.test/v1\nkind: Thing\nmetadata: {name: x}\n")
    assert unknown.reason == "UnknownKind"
    assert "Thing" in unknown.message
    secret = await install("apiVersion: v1\nkind: Secret\nmetadata: {name: x}\ntype: 5\ndata: {k: hunter2-}\n")
    assert secret.reason == "AddonRefused"
    assert "hunter2" not in secret.message


# --- nodes ----------------------------------------------------------------------------------------------------------


async def test_a_drain_waits_for_budgets_and_passes_over_what_stays(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(41, drain_timeout=60.0)
    add_node(plane, m)
    for name in ("free", "held", "over"):
        add_pod(plane, name, m.name)
    patch(plane, f"{PODS}/over/status", {"status": {"phase": "Succeeded"}})
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u", "controller": True}
    add_pod(plane, "daemon", m.name, ownerReferences=[owner])
    add_pod(plane, "mirror", m.name, annotations={"kubernetes.io/config.mirror": "x"})
    add_budget(plane, "held")
    drain = asyncio.create_task(driven.driver.run(DrainNode(cluster=world.cluster(), machine=m), world.ticket(90)))
    await until(lambda: pods_of(plane, m.name).get("free"))
    assert not pods_of(plane, m.name)["held"]
    assert ok(plane.admin.get(f"/api/v1/nodes/{m.name}"))["spec"]["unschedulable"]
    await driven.news.until(lambda: (n := driven.news.node(m.name)) is not None and n.unschedulable)
    kubelet(plane, m.name)
    allow(plane, "held", 1)
    await until(lambda: pods_of(plane, m.name).get("held"))
    assert not drain.done()
    kubelet(plane, m.name)
    result = await drain
    assert result == Done()
    assert pods_of(plane, m.name) == {"daemon": False, "mirror": False, "over": False}


async def test_a_drain_ends_in_time_and_names_what_is_left(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(42, drain_timeout=3.0)
    add_node(plane, m)
    add_pod(plane, "stuck", m.name)
    add_budget(plane, "stuck")
    result = await driven.driver.run(DrainNode(cluster=world.cluster(), machine=m), world.ticket())
    assert isinstance(result, Done)
    assert "default/stuck" in result.message
    assert "budget" in result.message
    assert pods_of(plane, m.name) == {"stuck": False}
    late = await driven.driver.run(DrainNode(cluster=world.cluster(), machine=m), world.ticket(0.5))
    assert isinstance(late, Unknown)


async def test_an_evicted_pod_whose_kubelet_is_dead_is_not_waited_for(
    plane: world.ControlPlane, driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bedplate.drivers.kubernetes.drain.SLACK_SECONDS", -4.0)
    m = world.machine(43, drain_timeout=60.0)
    add_node(plane, m)
    add_pod(plane, "lost", m.name)
    result = await driven.driver.run(DrainNode(cluster=world.cluster(), machine=m), world.ticket(90))
    assert isinstance(result, Done)
    assert "default/lost" in result.message


async def test_a_node_that_is_gone_or_of_another_machine_is_left_alone(
    plane: world.ControlPlane, driven: Driven
) -> None:
    mine, gone = world.machine(51), world.machine(52)
    add_node(plane, mine, provider="bedplate://somebody-else")
    for m in (mine, gone):
        for step in (DrainNode(cluster=world.cluster(), machine=m), DeleteNode(cluster=world.cluster(), machine=m)):
            assert isinstance(await driven.driver.run(step, world.ticket()), Done)
    node = ok(plane.admin.get(f"/api/v1/nodes/{mine.name}"))
    assert "unschedulable" not in node["spec"]

    nameless, elsewhere = world.machine(53), world.machine(54)
    add_node(plane, nameless, provider="")
    add_node(plane, elsewhere, provider="")
    moved = {"status": {"addresses": [{"type": "InternalIP", "address": "10.99.0.200"}]}}
    patch(plane, f"/api/v1/nodes/{elsewhere.name}/status", moved)
    await driven.news.until(lambda: driven.news.node(nameless.name))
    for m in (nameless, elsewhere):
        assert isinstance(await driven.driver.run(DeleteNode(cluster=world.cluster(), machine=m), world.ticket()), Done)
    assert plane.admin.get(f"/api/v1/nodes/{nameless.name}").status_code == 404
    assert _absent(driven.news, nameless.name)  # told before the step's result is
    ok(plane.admin.get(f"/api/v1/nodes/{elsewhere.name}"))


# --- out of service -------------------------------------------------------------------------------------------------

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


# --- joining --------------------------------------------------------------------------------------------------------


async def test_a_join_token_lives_until_its_machine_is_a_node(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(61)
    token = await driven.driver.join_token(world.CLUSTER, m, 30)
    token_id, _, secret = token.partition(".")
    path = f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{token_id}"
    made = ok(plane.admin.get(path))
    assert base64.b64decode(made["data"]["token-secret"]).decode() == secret
    assert base64.b64decode(made["data"]["description"]).decode() == f"bedplate {m.uid}"
    add_node(plane, m)
    await until(lambda: plane.admin.get(path).status_code == 404)


# --- kubelets' certificates -----------------------------------------------------------------------------------------


async def test_only_a_machine_s_own_serving_certificate_is_approved(plane: world.ControlPlane, driven: Driven) -> None:
    m = world.machine(71)
    driven.machines.append(m)
    user = f"system:node:{m.name}"
    serving, server_auth = "kubernetes.io/kubelet-serving", ["digital signature", "server auth"]

    def ask(name: str, names: list[str], *, who: str = user, **spec: Any) -> None:
        request = base64.b64encode(world.serving_request(who, names)).decode()
        body = {"signerName": serving, "usages": server_auth, "request": request} | spec
        with plane.client(who, ("system:nodes",)) as client:
            ok(client.post(REQUESTS, json={"metadata": {"name": name}, "spec": body}))

    ask("stranger", ["w-99"], who="system:node:w-99")
    ask("other-name", [m.name, "shop.example"])
    ask("other-address", [m.name, "10.99.0.1"])
    ask("client", [], signerName="kubernetes.io/kube-apiserver-client-kubelet", usages=["client auth"])
    ask("own", [m.name, m.nic.address], usages=[*server_auth, "key encipherment"])
    ask("address", [m.nic.address])

    def conditions(name: str) -> list[str]:
        status = ok(plane.admin.get(f"{REQUESTS}/{name}"))["status"]
        return [c["type"] for c in status.get("conditions", [])]

    # They are looked at as asked or by name: the others before these two, or at the same time.
    await until(lambda: conditions("address") == conditions("own") == ["Approved"])
    assert [conditions(n) for n in ("stranger", "other-name", "other-address", "client")] == [[], [], [], []]


async def test_nothing_is_left_open_after_stop(plane: world.ControlPlane) -> None:
    before = asyncio.all_tasks()
    d = Driven(plane)
    await d.news.until(lambda: d.news.cluster().api)
    folder = d.driver._folder  # pyright: ignore[reportPrivateUsage]
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    await d.driver.stop()
    assert not folder.exists()
    assert asyncio.all_tasks() == before
