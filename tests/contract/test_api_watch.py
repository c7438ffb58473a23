"""Watches over HTTP: nothing is missed, nothing is told twice, and they end when they should."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import CLUSTERS, GROUP, POOLS, WAIT, ApiServer, cluster, pool, refusal, served

from bedplate.api import watch as watches
from bedplate.model.kinds.cluster import NodePool
from bedplate.model.meta import ObjectMeta

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"
INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
END = "k8s.io/initial-events-end"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with served(tmp_path, shop=cluster()) as server:
        yield server


def labelled(name: str, tier: str) -> dict[str, Any]:
    wanted = pool(name)
    wanted["metadata"]["labels"] = {"tier": tier}
    return wanted


def finish(api: ApiServer, name: str) -> None:
    api.call("DELETE", f"{POOLS}/{name}")
    api.store.finalise("NodePool", "default", name, "bedplate.dev/cleanup")


def test_a_watch_goes_on_from_the_list_that_it_follows(api: ApiServer) -> None:
    api.create(POOLS, pool("a"))
    revision = api.get(POOLS)["metadata"]["resourceVersion"]
    api.create(POOLS, pool("b"))
    with api.watch(POOLS, {"resourceVersion": revision}) as watch:
        assert watch.take(1) == [("ADDED", "b")]
        api.patch(f"{POOLS}/a", {"spec": {"replicas": 3}})
        type_, seen = watch.next()
        assert (type_, seen["spec"]["replicas"]) == ("MODIFIED", 3)
        finish(api, "a")
        assert watch.take(2) == [("MODIFIED", "a"), ("DELETED", "a")]
        api.create(CLUSTERS, cluster("other"))
        api.create(POOLS, pool("c"))
        assert watch.take(1) == [("ADDED", "c")]
    assert api.get(f"{POOLS}/c")["metadata"]["name"] == "c"


def test_the_last_event_of_an_object_has_the_revision_of_its_end(api: ApiServer) -> None:
    api.create(POOLS, pool("a"))
    with api.watch(POOLS, {"resourceVersion": str(api.store.revision)}) as watch:
        finish(api, "a")
        watch.next()
        type_, gone = watch.next()
    assert type_ == "DELETED"
    assert gone["metadata"]["resourceVersion"] == str(api.store.revision)
    with api.watch(POOLS, {"resourceVersion": gone["metadata"]["resourceVersion"], "timeoutSeconds": 1}) as watch:
        assert watch.rest() == []


@pytest.mark.parametrize("revision", [None, "0"])
def test_a_watch_without_a_revision_begins_with_what_is(api: ApiServer, revision: str | None) -> None:
    api.create(POOLS, pool("a"))
    with api.watch(POOLS, {} if revision is None else {"resourceVersion": revision}) as watch:
        assert watch.take(1) == [("ADDED", "a")]
        api.create(POOLS, pool("b"))
        assert watch.take(1) == [("ADDED", "b")]


def test_initial_events_end_with_a_bookmark(api: ApiServer) -> None:
    api.create(POOLS, pool("a"))
    api.create(POOLS, pool("b"))
    with api.watch(POOLS, INITIAL) as watch:
        assert watch.take(2) == [("ADDED", "a"), ("ADDED", "b")]
        type_, mark = watch.next()
        assert (type_, mark["kind"], mark["apiVersion"]) == ("BOOKMARK", "NodePool", "bedplate.dev/v1alpha1")
        assert mark["metadata"]["annotations"] == {END: "true"}
        assert mark["metadata"]["resourceVersion"] == str(api.store.revision)
        api.create(POOLS, pool("c"))
        assert watch.take(1) == [("ADDED", "c")]
    with api.watch(f"{GROUP}/machines", INITIAL) as watch:
        assert watch.next()[0] == "BOOKMARK", "also where nothing is"
    with api.watch(POOLS, {**INITIAL, "sendInitialEvents": "false", "timeoutSeconds": 1}) as watch:
        assert [e for e in watch.rest() if e["type"] != "BOOKMARK"] == []
    refusal(api.call("GET", POOLS, query={"watch": "1", "sendInitialEvents": "true"}), 400, "BadRequest")
    future = {"watch": "1", **INITIAL, "resourceVersion": api.store.revision + 50}
    refusal(api.call("GET", POOLS, query=future), 504, "Timeout")


def test_bookmarks_come_by_the_clock_though_nothing_fits(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "BOOKMARK_SECONDS", 0.2)
    quiet = {"resourceVersion": str(api.store.revision), "allowWatchBookmarks": "true"}
    with api.watch(POOLS, {**quiet, "labelSelector": "tier=db"}) as watch:
        api.create(POOLS, labelled("a", "web"))
        type_, mark = watch.next()
    assert type_ == "BOOKMARK"
    assert mark["metadata"]["resourceVersion"] == str(api.store.revision)
    assert END not in mark["metadata"].get("annotations", {})
    with api.watch(POOLS, {"resourceVersion": mark["metadata"]["resourceVersion"], "timeoutSeconds": 1}) as watch:
        api.create(CLUSTERS, cluster("noise"))
        assert watch.rest() == [], "nobody asked for bookmarks"


def test_a_watch_ends_in_time_with_a_last_bookmark(api: ApiServer) -> None:
    asked = {"resourceVersion": str(api.store.revision), "allowWatchBookmarks": "true", "timeoutSeconds": 1}
    with api.watch(POOLS, asked) as watch:
        api.create(CLUSTERS, cluster("noise"))
        rest = watch.rest()
    assert [e["type"] for e in rest] == ["BOOKMARK"]
    assert rest[0]["object"]["metadata"]["resourceVersion"] == str(api.store.revision)


def test_what_stops_fitting_a_selector_is_deleted_for_its_watch(api: ApiServer) -> None:
    api.create(POOLS, labelled("a", "web"))
    asked = {"resourceVersion": str(api.store.revision), "labelSelector": "tier=web"}
    with api.watch(POOLS, asked) as watch:
        api.patch(f"{POOLS}/a", {"metadata": {"labels": {"tier": "db"}}})
        type_, gone = watch.next()
        assert (type_, gone["metadata"]["labels"]) == ("DELETED", {"tier": "web"})
        assert gone["metadata"]["resourceVersion"] == str(api.store.revision)
        api.patch(f"{POOLS}/a", {"spec": {"replicas": 2}})
        api.patch(f"{POOLS}/a", {"metadata": {"labels": {"tier": "web"}}})
        assert watch.take(1) == [("ADDED", "a")]
        api.patch(f"{POOLS}/a", {"spec": {"replicas": 3}})
        assert watch.take(1) == [("MODIFIED", "a")]


def test_one_object_or_one_namespace_is_followed(api: ApiServer) -> None:
    api.create("/api/v1/namespaces", {"metadata": {"name": "team"}})
    api.create(CLUSTERS.replace("default", "team"), cluster())
    now = {"resourceVersion": str(api.store.revision)}
    with (
        api.watch(f"{POOLS}/b", now) as one,
        api.watch(POOLS, {**now, "fieldSelector": "metadata.name=b"}) as same,
        api.watch(POOLS.replace("default", "team"), now) as room,
        api.watch(f"{GROUP}/nodepools", now) as everywhere,
    ):
        api.create(POOLS, pool("a"))
        api.create(POOLS, pool("b"))
        api.create(POOLS.replace("default", "team"), pool("c"))
        assert one.take(1) == same.take(1) == [("ADDED", "b")]
        assert room.take(1) == [("ADDED", "c")]
        assert everywhere.take(3) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]


def test_a_forgotten_past_is_told_and_a_list_leads_on(api: ApiServer) -> None:
    old = str(api.store.revision)
    api.create(POOLS, pool("a"))
    api.compact()
    refusal(api.call("GET", POOLS, query={"watch": "1", "resourceVersion": old}), 410, "Expired")
    ahead = {"watch": "1", "resourceVersion": api.store.revision + 1000}
    refusal(api.call("GET", POOLS, query=ahead), 410, "Expired")
    revision = api.get(POOLS)["metadata"]["resourceVersion"]
    with api.watch(POOLS, {"resourceVersion": revision}) as watch:
        api.create(POOLS, pool("b"))
        assert watch.take(1) == [("ADDED", "b")]


def test_tables_and_metadata_are_watched_too(api: ApiServer) -> None:
    with api.watch(POOLS, {"resourceVersion": str(api.store.revision)}, accept=TABLE) as watch:
        api.create(POOLS, pool("a"))
        api.create(POOLS, pool("b"))
        first, second = watch.next()[1], watch.next()[1]
    assert first["kind"] == second["kind"] == "Table"
    assert first["columnDefinitions"][0]["name"] == "Name"
    assert not second["columnDefinitions"], "only the first has the columns"
    assert second["rows"][0]["cells"][0] == "b"
    with api.watch(POOLS, INITIAL, accept=PARTIAL) as watch:
        kinds = [watch.next()[1]["kind"] for _ in range(3)]
    assert kinds == ["PartialObjectMetadata"] * 3


def test_a_watch_ends_when_the_server_does_and_goes_on_at_the_next(api: ApiServer) -> None:
    with api.watch(POOLS, {"resourceVersion": str(api.store.revision)}) as watch:
        api.create(POOLS, pool("a"))
        revision = watch.next()[1]["metadata"]["resourceVersion"]
        api.stop()
        assert watch.rest() == [], "it ends whole, not torn"
    api.start()
    api.store.publish(api.store.get("NodePool", "default", "a"))
    with api.watch(POOLS, {"resourceVersion": revision}) as watch:
        api.create(POOLS, pool("b"))
        assert watch.take(1) == [("ADDED", "b")]


def test_a_server_that_ends_takes_no_new_watch(api: ApiServer) -> None:
    with api.watch(POOLS, {"resourceVersion": str(api.store.revision)}) as watch:
        api.end_watches()
        assert watch.rest() == []
    answer = api.call("GET", POOLS, query={"watch": "1", "resourceVersion": api.store.revision})
    refusal(answer, 429, "TooManyRequests")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
    assert api.get(POOLS)["items"] == []


def test_a_watcher_that_can_not_keep_up_is_cut_off(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "QUEUE_LIMIT", 3)
    with api.watch(POOLS, {"resourceVersion": str(api.store.revision)}) as watch:
        api.create(POOLS, pool("a"))
        assert watch.take(1) == [("ADDED", "a")]
        with api.store.transaction() as tx:  # one commit: all of it is queued before the watch can take the first
            for i in range(10):
                tx.create(NodePool(metadata=ObjectMeta(name=f"p{i}", namespace="default")))
        assert len(watch.rest()) == 3


def test_watches_that_ended_are_not_counted(api: ApiServer) -> None:
    def running() -> float:
        text = api.call("GET", "/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith("bedplate_api_watches")).split()[1])

    with api.watch(POOLS) as watch, api.watch(POOLS, {"timeoutSeconds": 1}) as short:
        api.create(POOLS, pool("a"))
        assert watch.take(1) == short.take(1) == [("ADDED", "a")]
        assert running() == 2
        short.rest()
        assert running() == 1
    # The client went; the server notices by its connection's end.
    deadline = monotonic() + WAIT
    while running() and monotonic() < deadline:
        api.call("GET", "/healthz")
    assert running() == 0
