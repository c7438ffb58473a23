"""`bedplate cache` and `release rm` beside the real API: what a controller knows stays, what is in use is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import ApiServer

from bedplate.cli import main as cli
from bedplate.drivers.artifacts.cache import Cache
from bedplate.drivers.artifacts.release import release_facts
from bedplate.model.kinds.cluster import Cluster, ClusterSpec, ClusterStatus
from bedplate.model.kinds.infrastructure import Release, ReleaseSpec
from bedplate.model.meta import ObjectMeta

Run = Callable[..., tuple[int, str]]
_IMAGES = ["registry.k8s.io/etcd:3.6.6-0", "registry.k8s.io/coredns/coredns:v1.12.3", "registry.k8s.io/pause:3.10"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """Two releases and a stage of a build."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Cache()

    def build(version: str) -> Callable[[Path], dict[str, object]]:
        def fill(folder: Path) -> dict[str, object]:
            (folder / "bin").mkdir()
            (folder / "bin" / "kubectl").write_bytes(b"x" * 2_000_000)
            return release_facts(version, "built", _IMAGES)

        return fill

    for version in ("1.34.7", "1.35.3"):
        made.obtain("release", {"version": version}, build(version))
    made.obtain("coredns", {"version": "1.12.3"}, lambda folder: {"bytes": (folder / "coredns").write_bytes(b"x")})
    return made


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    made = ApiServer(tmp_path)
    try:
        with made.store.transaction() as tx:
            tx.create(Release(metadata=ObjectMeta(name="newest"), spec=ReleaseSpec(version="1.35.3")))
        yield made
    finally:
        made.close()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str]:
        code = cli.main(list(argv))
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def left(cache: Cache) -> list[str]:
    return sorted(f"{e.manifest.kind} {e.manifest.inputs['version']}" for e in cache.all())


def test_what_the_controller_knows_stays_and_what_was_freed_is_said(cache: Cache, api: ApiServer, run: Run) -> None:
    asked = ("--kubeconfig", str(api.kubeconfig))
    code, said = run("cache", "prune", "--older-than", "0", "--dry-run", *asked)
    assert (code, left(cache)) == (0, ["coredns 1.12.3", "release 1.34.7", "release 1.35.3"])
    assert "release 1.34.7 would be deleted\n" in said
    assert "2 of 3 entries would be deleted, 2 MiB freed" in said
    code, said = run("cache", "prune", "--older-than", "0", *asked)
    assert (code, left(cache)) == (0, ["release 1.35.3"])
    assert "2 of 3 entries deleted, 2 MiB freed" in said
    code, said = run("cache", "ls", *asked)
    assert "the controller has release 1.35.3" in said
    (row,) = json.loads(run("cache", "ls", "-o", "json", *asked)[1])
    assert (row["kind"], row["name"], row["keptBecause"]) == ("release", "1.35.3", "the controller has release 1.35.3")


def test_without_a_controller_age_alone_counts_and_that_is_said(
    cache: Cache, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEDPLATE_CONFIG", str(tmp_path / "none"))
    code, said = run("cache", "prune")
    assert (code, len(left(cache))) == (0, 3)
    assert "no controller was asked" in said
    assert "0 of 3 entries deleted, 0 MiB freed" in said
    assert run("cache", "prune", "--older-than", "0")[0] == 0
    assert left(cache) == []
    assert run("cache", "ls") == (0, "the cache is empty\n")


def test_a_release_is_removed_by_name_or_version_from_both_places(cache: Cache, api: ApiServer, run: Run) -> None:
    asked = ("--kubeconfig", str(api.kubeconfig))
    assert run("release", "rm", "1.34.7", *asked)[0] == 0
    assert left(cache) == ["coredns 1.12.3", "release 1.35.3"]
    code, said = run("release", "rm", "1.34.7", *asked)
    assert (code, 'there is no release "1.34.7"' in said) == (1, True)
    assert run("release", "rm", "newest", *asked)[0] == 0
    assert left(cache) == ["coredns 1.12.3"]
    assert api.store.all("Release") == []


def test_a_release_that_a_cluster_runs_is_refused_and_stays(cache: Cache, api: ApiServer, run: Run) -> None:
    made = Cluster(metadata=ObjectMeta(name="shop", namespace="default"), spec=ClusterSpec(kubernetes="1.35.3"))
    with api.store.transaction() as tx:
        tx.create(made)
        tx.publish(Cluster(metadata=made.metadata, spec=made.spec, status=ClusterStatus(version="1.35.3")))
    code, said = run("release", "rm", "v1.35.3", "--kubeconfig", str(api.kubeconfig))
    assert code == 1
    assert "is used by cluster" in said
    assert "release 1.35.3" in left(cache)
