"""The verbs on objects over HTTP, as clients of Kubernetes' API rely on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import (
    CLUSTERS,
    GROUP,
    JSON_PATCH,
    MERGE,
    POOLS,
    SECRETS,
    ApiServer,
    cluster,
    good,
    pool,
    refusal,
    secret,
    served,
)

from bedplate.model.kinds.cluster import Machine, MachineSpec
from bedplate.model.meta import ObjectMeta

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with served(tmp_path) as server:
        yield server


def names(page: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in page["items"]]


# --- creating and reading ---


def test_a_created_object_has_identity_defaults_and_status(api: ApiServer) -> None:
    made = api.create(CLUSTERS, cluster(controlPlane={"replicas": 3}))
    meta = made["metadata"]
    assert (meta["namespace"], meta["generation"]) == ("default", 1)
    assert meta["uid"]
    assert meta["creationTimestamp"].endswith("Z")
    assert int(meta["resourceVersion"]) == api.store.revision
    assert made["spec"]["controlPlane"]["replicas"] == 3
    assert made["spec"]["podCIDR"] == "10.244.0.0/16"
    assert made["status"]["nodes"] == 0
    assert api.get(f"{CLUSTERS}/shop") == made


def test_a_client_can_not_choose_what_identifies_an_object(api: ApiServer) -> None:
    wanted = cluster()
    wanted["metadata"] |= {"uid": "11111111-1111-4111-8111-111111111111", "generation": 7, "selfLink": "/x"}
    wanted["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z"
    wanted["status"] = {"nodes": 12}
    made = api.create(CLUSTERS, wanted)
    assert made["metadata"]["uid"] != wanted["metadata"]["uid"]
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["creationTimestamp"] > "2020"
    assert made["status"]["nodes"] == 0
    bmc = secret(user="u")
    bmc["metadata"]["uid"] = wanted["metadata"]["uid"]
    assert api.create(SECRETS, bmc)["metadata"]["uid"] != wanted["metadata"]["uid"]


def test_a_generated_name_begins_as_asked(api: ApiServer) -> None:
    wanted = cluster()
    wanted["metadata"] = {"generateName": "shop-"}
    name = api.create(CLUSTERS, wanted)["metadata"]["name"]
    assert name.startswith("shop-")
    assert len(name) == len("shop-") + 5


def test_what_is_taken_missing_or_nowhere_is_refused_as_kubernetes_does(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    status = refusal(api.call("POST", CLUSTERS, cluster()), 409, "AlreadyExists")
    assert status["message"] == 'clusters.bedplate.dev "shop" already exists'
    status = refusal(api.call("GET", f"{CLUSTERS}/shp"), 404, "NotFound")
    assert status["message"] == 'clusters.bedplate.dev "shp" not found'
    assert status["details"] == {"name": "shp", "group": "bedplate.dev", "kind": "clusters"}
    status = refusal(api.call("POST", CLUSTERS.replace("default", "defalt"), cluster("x")), 404, "NotFound")
    assert status["details"]["kind"] == "namespaces"
    assert 'did you mean "default"' in status["message"]
    refusal(api.call("GET", f"{GROUP}/namespaces/default/clusterz"), 404, "NotFound")
    refusal(api.call("GET", "/nowhere"), 404, "NotFound")
    refusal(api.call("POST", f"{GROUP}/clusters", cluster("x")), 405, "MethodNotAllowed")
    refusal(api.call("POST", CLUSTERS, b"{", content_type="application/json"), 400, "BadRequest")
    refusal(api.call("POST", CLUSTERS, b"a: b", content_type="application/xml"), 415, "UnsupportedMediaType")
    for body in ([], "text", 3, None):
        refusal(api.call("POST", CLUSTERS, b"null" if body is None else body), 400, "BadRequest")


def test_faults_are_causes_with_their_field_and_the_nearest_name(api: ApiServer) -> None:
    wrong = cluster(controlPlane={"replcas": 3, "machine": {"cpu": "4"}})
    status = refusal(api.call("POST", CLUSTERS, wrong), 422, "Invalid")
    causes = {c["field"]: c for c in status["details"]["causes"]}
    assert 'did you mean "replicas"?' in causes["spec.controlPlane.replcas"]["message"]
    assert causes["spec.controlPlane.machine.cpu"]["reason"] == "FieldValueTypeInvalid"
    assert status["details"]["name"] == "shop"
    status = refusal(api.call("POST", POOLS, pool(owner="shp")), 422, "Invalid")
    assert [c["field"] for c in status["details"]["causes"]] == ["spec.cluster"]


def test_unknown_fields_are_refused_told_or_passed_over_as_asked(api: ApiServer) -> None:
    wrong = cluster(nope=1)
    refusal(api.call("POST", CLUSTERS, wrong), 422, "Invalid")
    warned = api.call("POST", CLUSTERS, wrong, {"fieldValidation": "Warn", "dryRun": "All"})
    assert warned.status_code == 201
    assert "unknown field" in warned.headers["warning"]
    ignored = api.call("POST", CLUSTERS, wrong, {"fieldValidation": "Ignore"})
    assert "nope" not in good(ignored, 201)["spec"]
    assert "warning" not in ignored.headers
    refusal(api.call("POST", CLUSTERS, wrong, {"fieldValidation": "Maybe"}), 400, "BadRequest")


# --- lists ---


def test_a_list_is_whole_ordered_and_filtered(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    for name, tier in (("c", "db"), ("a", "web"), ("b", "web")):
        wanted = pool(name)
        wanted["metadata"]["labels"] = {"tier": tier}
        api.create(POOLS, wanted)
    page = api.get(POOLS)
    assert (page["kind"], page["apiVersion"]) == ("NodePoolList", "bedplate.dev/v1alpha1")
    assert page["metadata"]["resourceVersion"] == str(api.store.revision)
    assert names(page) == ["a", "b", "c"]
    assert names(api.get(f"{GROUP}/nodepools")) == ["a", "b", "c"]
    assert names(api.get(f"{GROUP}/namespaces/other/nodepools")) == []
    assert names(api.get(POOLS, {"labelSelector": "tier=web"})) == ["a", "b"]
    assert names(api.get(POOLS, {"labelSelector": "tier notin (web)"})) == ["c"]
    assert names(api.get(POOLS, {"fieldSelector": "metadata.name=b"})) == ["b"]
    assert names(api.get(POOLS, {"labelSelector": "tier=web", "fieldSelector": "metadata.name!=b"})) == ["a"]
    refusal(api.call("GET", POOLS, query={"labelSelector": "tier in web)"}), 400, "BadRequest")


def test_pages_show_one_moment_and_expire(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    for i in range(5):
        api.create(POOLS, pool(f"p{i}"))
    first = api.get(POOLS, {"limit": 2})
    assert names(first) == ["p0", "p1"]
    api.create(POOLS, pool("p11"))
    api.patch(f"{POOLS}/p3", {"spec": {"replicas": 9}})
    second = api.get(POOLS, {"limit": 2, "continue": first["metadata"]["continue"]})
    assert names(second) == ["p2", "p3"]
    assert second["items"][1]["spec"]["replicas"] == 1
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = api.get(POOLS, {"limit": 2, "continue": second["metadata"]["continue"]})
    assert names(third) == ["p4"]
    assert "continue" not in third["metadata"]
    exact = {"resourceVersion": first["metadata"]["resourceVersion"], "resourceVersionMatch": "Exact"}
    assert names(api.get(POOLS, exact)) == ["p0", "p1", "p2", "p3", "p4"]
    api.compact()
    refusal(api.call("GET", POOLS, query={"continue": first["metadata"]["continue"]}), 410, "Expired")
    refusal(api.call("GET", POOLS, query=exact), 410, "Expired")
    refusal(api.call("GET", POOLS, query={"continue": "bm9wZQ"}), 400, "BadRequest")


def test_a_revision_of_the_future_is_asked_for_again_later(api: ApiServer) -> None:
    answer = api.call("GET", POOLS, query={"resourceVersion": api.store.revision + 100})
    status = refusal(answer, 504, "Timeout")
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert answer.headers["retry-after"] == "1"
    assert names(api.get(POOLS, {"resourceVersion": "0"})) == []


def test_tables_have_columns_cells_and_metadata(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    api.create(POOLS, pool("web", replicas=3))
    table = api.get(POOLS, accept=TABLE)
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    columns = [c["name"] for c in table["columnDefinitions"]]
    row = dict(zip(columns, table["rows"][0]["cells"], strict=True))
    assert (row["Name"], row["Cluster"], row["Replicas"]) == ("web", "shop", 3)
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "spec" not in table["rows"][0]["object"]
    whole = api.get(POOLS, {"includeObject": "Object"}, accept=TABLE)
    assert whole["rows"][0]["object"]["spec"]["replicas"] == 3
    assert "object" not in api.get(POOLS, {"includeObject": "None"}, accept=TABLE)["rows"][0]
    assert api.get(f"{POOLS}/web", accept=TABLE)["rows"][0]["cells"][0] == "web"


def test_metadata_alone(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    page = api.get(CLUSTERS, accept=PARTIAL)
    assert (page["kind"], page["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert page["items"][0]["kind"] == "PartialObjectMetadata"
    assert set(page["items"][0]) == {"kind", "apiVersion", "metadata"}
    one = api.get(f"{CLUSTERS}/shop", accept=PARTIAL.replace("List", ""))
    assert one["kind"] == "PartialObjectMetadata"


# --- changing ---


def test_an_update_counts_the_generation_and_keeps_the_status(api: ApiServer) -> None:
    made = api.create(CLUSTERS, cluster())
    api.call("PATCH", f"{CLUSTERS}/shop/status", {"status": {"nodes": 4}}, content_type=MERGE)
    changed = api.get(f"{CLUSTERS}/shop")
    assert (changed["status"]["nodes"], changed["metadata"]["generation"]) == (4, 1)
    changed["spec"]["controlPlane"]["replicas"] = 3
    changed["status"]["nodes"] = 99
    done = good(api.call("PUT", f"{CLUSTERS}/shop", changed))
    assert done["metadata"]["generation"] == 2
    assert done["status"]["nodes"] == 4
    assert int(done["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])
    again = good(api.call("PUT", f"{CLUSTERS}/shop", done))
    assert again == done, "what changes nothing is not written"
    stale = {**done, "metadata": {**done["metadata"], "resourceVersion": made["metadata"]["resourceVersion"]}}
    status = refusal(api.call("PUT", f"{CLUSTERS}/shop", stale), 409, "Conflict")
    assert status["message"].startswith('Operation cannot be fulfilled on clusters.bedplate.dev "shop"')
    other = {**done, "metadata": {"name": "shop", "uid": "11111111-1111-4111-8111-111111111111"}}
    refusal(api.call("PUT", f"{CLUSTERS}/shop", other), 409, "Conflict")
    refusal(api.call("PUT", f"{CLUSTERS}/shop", cluster("another")), 422, "Invalid")
    refusal(api.call("PUT", f"{CLUSTERS}/none", cluster("none")), 404, "NotFound")


def test_a_status_is_changed_by_its_subresource_alone(api: ApiServer) -> None:
    made = api.create(CLUSTERS, cluster())
    made["status"] |= {"nodes": 2, "conditions": [{"type": "Ready", "status": "True", "reason": "Fine"}]}
    made["spec"]["controlPlane"]["replicas"] = 5
    done = good(api.call("PUT", f"{CLUSTERS}/shop/status", made))
    assert done["status"]["conditions"][0]["type"] == "Ready"
    assert done["spec"]["controlPlane"]["replicas"] == 1
    assert done["metadata"]["generation"] == 1
    refusal(api.call("PUT", f"{CLUSTERS}/shop/status", made), 409, "Conflict")
    refusal(api.call("PUT", f"{CLUSTERS}/shop/status", []), 400, "BadRequest")
    wrong = {"metadata": {"name": "shop"}, "status": {"nodes": "two"}}
    refusal(api.call("PUT", f"{CLUSTERS}/shop/status", wrong), 422, "Invalid")


def test_a_merge_patch_merges_removes_and_may_name_a_revision(api: ApiServer) -> None:
    made = api.create(CLUSTERS, cluster())
    patch = {"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"controlPlane": {"replicas": 3}}}
    done = api.patch(f"{CLUSTERS}/shop", patch)
    assert done["metadata"]["labels"] == {"a": "1", "b": "2"}
    assert done["spec"]["controlPlane"]["machine"]["cpu"] == 2
    done = api.patch(f"{CLUSTERS}/shop", {"metadata": {"labels": {"a": None}}})
    assert done["metadata"]["labels"] == {"b": "2"}
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {"c": "3"}}}
    refusal(api.call("PATCH", f"{CLUSTERS}/shop", stale, content_type=MERGE), 409, "Conflict")
    refusal(api.call("PATCH", f"{CLUSTERS}/shop", {"spec": {"nope": 1}}, content_type=MERGE), 422, "Invalid")
    refusal(api.call("PATCH", f"{CLUSTERS}/none", {}, content_type=MERGE), 404, "NotFound")
    refusal(api.call("PATCH", f"{CLUSTERS}/shop", [], content_type=MERGE), 400, "BadRequest")
    apply = api.call("PATCH", f"{CLUSTERS}/shop", {}, content_type="application/apply-patch+yaml")
    assert "server-side apply" in refusal(apply, 415, "UnsupportedMediaType")["message"]


def test_a_json_patch_tests_before_it_changes(api: ApiServer) -> None:
    made = api.create(CLUSTERS, cluster())
    good_patch = [
        {"op": "test", "path": "/spec/controlPlane/replicas", "value": 1},
        {"op": "replace", "path": "/spec/controlPlane/replicas", "value": 3},
        {"op": "add", "path": "/metadata/labels", "value": {"a/b": "1"}},
        {"op": "remove", "path": "/metadata/labels/a~1b"},
    ]
    done = api.patch(f"{CLUSTERS}/shop", good_patch, kind=JSON_PATCH)
    assert done["spec"]["controlPlane"]["replicas"] == 3
    failed = api.call("PATCH", f"{CLUSTERS}/shop", good_patch, content_type=JSON_PATCH)
    assert "test" in refusal(failed, 422, "Invalid")["message"]
    nowhere = [{"op": "remove", "path": "/spec/nope"}]
    refusal(api.call("PATCH", f"{CLUSTERS}/shop", nowhere, content_type=JSON_PATCH), 422, "Invalid")
    stale = [{"op": "replace", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]}]
    refusal(api.call("PATCH", f"{CLUSTERS}/shop", stale, content_type=JSON_PATCH), 409, "Conflict")


def test_a_dry_run_answers_and_keeps_nothing(api: ApiServer) -> None:
    dry = {"dryRun": "All"}
    before = api.store.revision
    assert api.create(CLUSTERS, cluster(), **dry)["metadata"]["uid"]
    refusal(api.call("GET", f"{CLUSTERS}/shop"), 404, "NotFound")
    assert api.store.revision == before
    made = api.create(CLUSTERS, cluster())
    assert api.patch(f"{CLUSTERS}/shop", {"metadata": {"labels": {"a": "1"}}}, dry)["metadata"]["labels"]
    good(api.call("DELETE", f"{CLUSTERS}/shop", query=dry))
    good(api.call("DELETE", f"{CLUSTERS}/shop", {"dryRun": ["All"]}))
    assert api.get(f"{CLUSTERS}/shop") == made
    refusal(api.call("POST", CLUSTERS, cluster("b"), {"dryRun": "Some"}), 400, "BadRequest")


# --- scale ---


def test_a_pool_is_scaled_by_its_subresource(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    made = api.create(POOLS, pool())
    scale = api.get(f"{POOLS}/web/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert (scale["spec"], scale["metadata"]["uid"]) == ({"replicas": 1}, made["metadata"]["uid"])
    scale["spec"]["replicas"] = 4
    assert good(api.call("PUT", f"{POOLS}/web/scale", scale))["spec"]["replicas"] == 4
    assert api.get(f"{POOLS}/web")["metadata"]["generation"] == 2
    refusal(api.call("PUT", f"{POOLS}/web/scale", scale), 409, "Conflict")
    assert api.patch(f"{POOLS}/web/scale", {"spec": {"replicas": 2}})["spec"]["replicas"] == 2
    for wrong, code in ((-1, 422), ("3", 400), (True, 400)):
        answer = api.call("PATCH", f"{POOLS}/web/scale", {"spec": {"replicas": wrong}}, content_type=MERGE)
        assert answer.status_code == code, answer.text
    refusal(api.call("GET", f"{CLUSTERS}/shop/scale"), 404, "NotFound")
    refusal(api.call("DELETE", f"{POOLS}/web/scale"), 405, "MethodNotAllowed")


# --- deleting ---


def test_deletion_waits_for_finalizers_and_takes_the_pools_along(api: ApiServer) -> None:
    api.create(CLUSTERS, cluster())
    api.create(POOLS, pool())
    marked = good(api.call("DELETE", f"{CLUSTERS}/shop"))
    assert (marked["kind"], bool(marked["metadata"]["deletionTimestamp"])) == ("Cluster", True)
    assert api.get(f"{POOLS}/web")["metadata"]["deletionTimestamp"]
    api.store.finalise("NodePool", "default", "web", "bedplate.dev/cleanup")
    refusal(api.call("GET", f"{POOLS}/web"), 404, "NotFound")
    api.store.finalise("Cluster", "default", "shop", "bedplate.dev/cleanup")
    refusal(api.call("DELETE", f"{CLUSTERS}/shop"), 404, "NotFound")


def test_deletion_may_name_which_object_it_means(api: ApiServer) -> None:
    made = api.create(SECRETS, secret(user="u"))
    for stale in ({"uid": "11111111-1111-4111-8111-111111111111"}, {"resourceVersion": "1"}):
        refusal(api.call("DELETE", f"{SECRETS}/bmc", {"preconditions": stale}), 409, "Conflict")
    right = {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}
    status = good(api.call("DELETE", f"{SECRETS}/bmc", {"kind": "DeleteOptions", "preconditions": right}))
    assert (status["kind"], status["status"]) == ("Status", "Success")
    assert status["details"]["uid"] == made["metadata"]["uid"]
    for stale in ({"uid": "11111111-1111-4111-8111-111111111111"}, {"resourceVersion": "1"}):
        room = good(api.call("POST", "/api/v1/namespaces", {"metadata": {"generateName": "room-"}}), 201)
        path = f"/api/v1/namespaces/{room['metadata']['name']}"
        refusal(api.call("DELETE", path, {"preconditions": stale}), 409, "Conflict")


def test_a_collection_is_deleted_by_label(api: ApiServer) -> None:
    for name, tier in (("a", "web"), ("b", "db"), ("c", "web")):
        wanted = secret(name, key="v")
        wanted["metadata"]["labels"] = {"tier": tier}
        api.create(SECRETS, wanted)
    gone = good(api.call("DELETE", SECRETS, query={"labelSelector": "tier=web"}))
    assert names(gone) == ["a", "c"]
    assert names(api.get(SECRETS)) == ["b"]


def test_a_namespace_goes_with_all_in_it(api: ApiServer) -> None:
    room = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
    assert api.create("/api/v1/namespaces", room)["status"]["phase"] == "Active"
    clusters = CLUSTERS.replace("default", "team")
    api.create(clusters, cluster())
    ending = good(api.call("DELETE", "/api/v1/namespaces/team"))
    assert ending["status"]["phase"] == "Terminating"
    status = refusal(api.call("POST", clusters, cluster("late")), 403, "Forbidden")
    assert status["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    api.store.finalise("Cluster", "team", "shop", "bedplate.dev/cleanup")
    refusal(api.call("GET", "/api/v1/namespaces/team"), 404, "NotFound")
    refusal(api.call("DELETE", "/api/v1/namespaces/default"), 403, "Forbidden")


def test_machines_are_read_only(api: ApiServer) -> None:
    meta = ObjectMeta(name="shop-cp-1", namespace="default")
    api.store.publish(Machine(metadata=meta, spec=MachineSpec(cluster="shop", role="control-plane")))
    machines = f"{GROUP}/namespaces/default/machines"
    seen = api.get(f"{machines}/shop-cp-1")
    for method, path, body in (
        ("POST", machines, seen),
        ("PUT", f"{machines}/shop-cp-1", seen),
        ("PATCH", f"{machines}/shop-cp-1", {"spec": {"cpu": 64}}),
        ("PATCH", f"{machines}/shop-cp-1/status", {"status": {"boots": 1}}),
    ):
        answer = api.call(method, path, body, content_type=MERGE if method == "PATCH" else "application/json")
        assert "node pool" in refusal(answer, 405, "MethodNotAllowed")["message"]
    marked = good(api.call("DELETE", f"{machines}/shop-cp-1"))
    assert marked["metadata"]["deletionTimestamp"], "its deletion asks for another one"
