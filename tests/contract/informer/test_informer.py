"""client-go's informer against the API, through a restart and a forgotten past: what every controller is built on."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from api_server import GROUP, POOLS, WAIT, ApiServer, cluster, pool, served

from bedplate.drivers.artifacts.cache import Cache, sha256_file
from bedplate.drivers.artifacts.gotool import find_toolchain
from bedplate.model.kinds.cluster import NodePool

pytestmark = pytest.mark.lab

SOURCES = ("go.mod", "go.sum", "main.go")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def program() -> Path:
    """The informer, built once for these sources and kept in the user's cache."""
    cache = Cache()
    toolchain = find_toolchain(cache)

    def build(folder: Path) -> dict[str, object]:
        work = folder / "work"
        work.mkdir()
        for name in SOURCES:
            shutil.copy(HERE / name, work / name)
        flags = ("-p", "1", "-mod=mod", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=")
        toolchain.call("build", *flags, "-o", str(folder / "informer"), ".", what="build of the informer", cwd=work)
        shutil.rmtree(work)
        return {}

    inputs = {"go": toolchain.version, **{name: sha256_file(HERE / name) for name in SOURCES}}
    return cache.obtain("test-informer", inputs, build).path / "informer"


class Informer:
    """The running program; `watch_list` says whether it asks for the initial state as a watch, as it does by itself."""

    def __init__(self, program: Path, api: ApiServer, watch_list: bool) -> None:
        environment = {**os.environ, "KUBE_FEATURE_WatchListClient": str(watch_list).lower(), "NO_PROXY": "127.0.0.1"}
        self.process = subprocess.Popen(
            [program, "-kubeconfig", str(api.kubeconfig)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.errors: list[str] = []
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def take(self, count: int) -> list[tuple[str, str, int]]:
        """Event, name and replicas of the next events; what it says of broken watches is kept apart."""
        found: list[tuple[str, str, int]] = []
        while len(found) < count:
            event = self._events.get(timeout=WAIT)
            assert event is not None, "the informer ended"
            if event["event"] == "error":
                self.errors.append(event["message"])
            else:
                found.append((event["event"], event.get("name", ""), event.get("replicas", 0)))
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(WAIT) == 0
        self._thread.join(WAIT)
        left = [e for e in iter(self._events.get, None) if e["event"] != "error"]
        assert left == [], "events that nobody expected"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with served(tmp_path, shop=cluster()) as server:
        yield server


def grow(api: ApiServer, name: str, replicas: int) -> None:
    """Change a pool behind the server's back: it may be down."""
    found = api.store.get("NodePool", "default", name)
    assert isinstance(found, NodePool)
    api.store.update(msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, replicas=replicas)))


def forget(api: ApiServer, name: str) -> None:
    with api.store.transaction() as tx:
        tx.remove("NodePool", "default", name)


@pytest.mark.parametrize("watch_list", [True, False], ids=["watch-list", "list-and-watch"])
def test_an_informer_misses_nothing(program: Path, api: ApiServer, watch_list: bool) -> None:
    api.create(POOLS, pool("a"))
    api.create(POOLS, pool("b"))
    informer = Informer(program, api, watch_list)
    try:
        assert sorted(informer.take(3)) == [("add", "a", 1), ("add", "b", 1), ("synced", "", 0)]
        first = next(s for s in api.seen if s.startswith(f"GET {GROUP}/nodepools?"))
        assert ("sendInitialEvents=true" in first) is watch_list, "it did not fall back"
        api.create(POOLS, pool("c"))
        api.patch(f"{POOLS}/a", {"spec": {"replicas": 2}})
        forget(api, "c")
        assert informer.take(3) == [("add", "c", 1), ("update", "a", 2), ("delete", "c", 1)]

        api.stop()
        grow(api, "a", 3)
        forget(api, "b")
        api.start()
        assert informer.take(2) == [("update", "a", 3), ("delete", "b", 1)], "it goes on from where it was"
        lists = [s for s in api.seen if s.startswith(f"GET {GROUP}/nodepools?") and "watch=true" not in s]
        assert len(lists) == (0 if watch_list else 1), "no second list was needed"

        api.create(POOLS, pool("d"))
        assert informer.take(1) == [("add", "d", 1)]
        api.stop()
        grow(api, "a", 4)
        forget(api, "d")
        api.compact()
        api.start()
        events = informer.take(2)
        assert sorted(e[:2] for e in events) == [("delete-missed", "d"), ("update", "a")]
        assert any("too old resource version" in e for e in informer.errors), informer.errors
        api.create(POOLS, pool("e"))
        assert informer.take(1) == [("add", "e", 1)]
        informer.end()
    finally:
        informer.process.kill()
        informer.process.wait(WAIT)
