"""Secrets that go in and never come back, and objects declared together: all are kept or none."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import (
    GROUP,
    JSON_PATCH,
    POOLS,
    SECRETS,
    ApiServer,
    cluster,
    good,
    network,
    pool,
    refusal,
    secret,
    served,
)

APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with served(tmp_path) as server:
        yield server


# --- secrets ---


def test_a_secret_goes_in_and_never_comes_back(api: ApiServer) -> None:
    wanted = secret(password="hunter2")
    wanted["metadata"]["annotations"] = {APPLIED: '{"stringData":{"password":"hunter2"}}', "kept": "yes"}
    wanted["data"] = {"user": base64.b64encode(b"root").decode()}
    answers = [api.create(SECRETS, wanted)]
    answers.append(api.patch(f"{SECRETS}/bmc", {"metadata": {"annotations": {APPLIED: "hunter2"}}}))
    answers.append(
        api.patch(f"{SECRETS}/bmc", {"metadata": {"labels": {"a": "b"}}}, kind="application/strategic-merge-patch+json")
    )
    answers += [
        api.get(f"{SECRETS}/bmc"),
        api.get(SECRETS),
        api.get(SECRETS, {"includeObject": "Object"}, accept=TABLE),
    ]
    with api.watch(SECRETS, {"timeoutSeconds": 1}) as watch:
        answers += watch.rest()
    answers.append(good(api.call("POST", f"{GROUP}/apply", {"items": [{**wanted, "kind": "Secret"}]})))
    text = str(answers)
    for hidden in ("hunter2", base64.b64encode(b"hunter2").decode(), base64.b64encode(b"root").decode(), APPLIED):
        assert hidden not in text
    assert answers[0]["metadata"]["annotations"] == {"kept": "yes"}
    kept = api.store.user_secret("default", "bmc")
    assert kept == {"user": "cm9vdA==", "password": "aHVudGVyMg=="}


def test_a_patch_of_a_secret_changes_one_key_and_shows_none(api: ApiServer) -> None:
    made = api.create(SECRETS, secret(password="hunter2", user="root"))
    assert made["metadata"]["resourceVersion"] == str(api.store.revision), "made in one write"
    api.patch(f"{SECRETS}/bmc", {"data": {"user": "bmV3"}})
    assert api.store.user_secret("default", "bmc") == {"password": "aHVudGVyMg==", "user": "bmV3"}
    api.patch(f"{SECRETS}/bmc", {"stringData": {"more": "x"}, "data": {"user": None}})
    assert api.store.user_secret("default", "bmc") == {"password": "aHVudGVyMg==", "more": "eA=="}
    for patch in (
        [{"op": "copy", "from": "/data/password", "path": "/metadata/annotations", "value": {}}],
        [{"op": "add", "path": "/metadata/annotations", "value": {}},
         {"op": "copy", "from": "/data/password", "path": "/metadata/annotations/x"}],
        [{"op": "test", "path": "/data/password", "value": "aHVudGVyMg=="}],
    ):  # fmt: skip
        answer = api.call("PATCH", f"{SECRETS}/bmc", patch, content_type=JSON_PATCH)
        assert answer.status_code in {400, 422}, answer.text
        assert "aHVudGVyMg" not in answer.text
    seen = api.get(f"{SECRETS}/bmc")
    good(api.call("PUT", f"{SECRETS}/bmc", seen))
    assert api.store.user_secret("default", "bmc") == {"password": "aHVudGVyMg==", "more": "eA=="}
    good(api.call("PUT", f"{SECRETS}/bmc", {**seen, "data": {"only": "eA=="}}))
    assert api.store.user_secret("default", "bmc") == {"only": "eA=="}
    api.patch(f"{SECRETS}/bmc", {"data": None})
    assert api.store.user_secret("default", "bmc") == {}


# --- declaring many ---


def test_apply_makes_changes_and_leaves_alone(api: ApiServer) -> None:
    items = [pool(), cluster()]
    first = good(api.call("POST", f"{GROUP}/apply", {"items": items}))
    assert [i["action"] for i in first["items"]] == ["created", "created"]
    assert first["items"][0]["object"]["kind"] == "NodePool", "in the order of the request"
    again = good(api.call("POST", f"{GROUP}/apply", {"items": [pool(replicas=4), cluster()]}))
    assert [i["action"] for i in again["items"]] == ["configured", "unchanged"]
    api.patch(f"{POOLS}/web", {"metadata": {"labels": {"by": "hand"}}})
    good(api.call("POST", f"{GROUP}/apply", {"items": [pool()]}))
    kept = api.get(f"{POOLS}/web")
    assert (kept["spec"]["replicas"], kept["metadata"]["labels"]) == (1, {"by": "hand"})


def test_apply_keeps_all_or_nothing(api: ApiServer) -> None:
    before = api.store.revision
    items = [cluster(), pool("web"), pool("db", replicas=-1), pool("x", owner="other"), {"kind": "Pod"}]
    status = refusal(api.call("POST", f"{GROUP}/apply", {"items": items}), 422, "Invalid")
    fields = [c["field"] for c in status["details"]["causes"]]
    assert sorted(fields) == ["items[2].spec.replicas", "items[3].spec.cluster", "items[4].kind"]
    assert api.store.revision == before
    dry = good(api.call("POST", f"{GROUP}/apply", {"items": [cluster(), pool()], "dryRun": True}))
    assert [i["action"] for i in dry["items"]] == ["created", "created"]
    assert api.store.revision == before
    twice = refusal(api.call("POST", f"{GROUP}/apply", {"items": [network("n"), network("n")]}), 422, "Invalid")
    assert twice["details"]["causes"][0]["reason"] == "FieldValueDuplicate"
    refusal(api.call("POST", f"{GROUP}/apply", {"items": "x"}), 400, "BadRequest")
