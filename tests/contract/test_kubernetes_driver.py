"""The driver of clusters' APIs against a real API server and a real etcd."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kubernetes_world as world
from kubernetes_rig import (
    CP1,
    NEEDS_RELEASE,
    PODS,
    Driven,
    add_budget,
    add_node,
    add_pod,
    allow,
    driven,
    kubelet,
    ok,
    patch,
    plane,
    pods_of,
    until,
)

from bedplate.drivers.kubernetes.api import ClusterApi, ExpiredError
from bedplate.model.blueprint import AddonRef
from bedplate.model.ids import Digest
from bedplate.model.inventory import ClusterView, NodeView
from bedplate.model.steps import (
    DeleteNode,
    Done,
    DrainNode,
    Failed,
    InstallAddons,
    UncordonNode,
    Unknown,
)

pytestmark = NEEDS_RELEASE
__all__ = ["driven", "plane"]  # fixtures

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


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


async def test_a_drained_node_takes_pods_again(plane: world.ControlPlane, driven: Driven) -> None:
    m, other = world.machine(44), world.machine(45)
    add_node(plane, m)
    add_node(plane, other, provider="bedplate://somebody-else")
    patch(plane, f"/api/v1/nodes/{other.name}", {"spec": {"unschedulable": True}})
    assert await driven.driver.run(DrainNode(cluster=world.cluster(), machine=m), world.ticket(90)) == Done()
    for _ in range(2):  # again: the same
        result = await driven.driver.run(UncordonNode(cluster=world.cluster(), machine=m), world.ticket())
        assert isinstance(result, Done)
        (view,) = result.views
        assert isinstance(view, NodeView)
        assert (view.machine, view.unschedulable) == (m.uid, False)
    spec = ok(plane.admin.get(f"/api/v1/nodes/{m.name}"))["spec"]
    assert not spec.get("unschedulable")
    taints = [t["key"] for t in spec.get("taints") or ()]
    assert "node.kubernetes.io/unschedulable" not in taints, "the one that comes with the cordon went as well"
    assert isinstance(
        await driven.driver.run(UncordonNode(cluster=world.cluster(), machine=other), world.ticket()), Done
    )
    assert ok(plane.admin.get(f"/api/v1/nodes/{other.name}"))["spec"]["unschedulable"], "another machine's stays"


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
