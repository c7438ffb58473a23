"""Downloads of releases, from a tiny release and a tiny registry on the loopback address."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from publisher import DOCKER_MANIFEST, Publisher, Site, gzipped, layer

from bedplate.drivers.artifacts import oci
from bedplate.drivers.artifacts.cache import Cache
from bedplate.drivers.artifacts.download import AGNHOST, REGISTRY, RELEASES, Hosts, download_release
from bedplate.drivers.artifacts.proc import ArtifactError
from bedplate.drivers.artifacts.release import PROGRAMS, ReleaseBuild, list_releases

VERSION = "1.35.3"


class World:
    """A publisher, a second web server, a cache, and what a download did."""

    def __init__(self, root: Path) -> None:
        self.cache = Cache(root)
        self.site = Site()
        self.store = Site()
        self.publisher = Publisher(self.site, VERSION, PROGRAMS, AGNHOST)
        self.hosts = Hosts(f"{self.site.url}/release", self.site.url)
        self.pauses: list[float] = []
        self.said: list[str] = []

    def download(self, version: str = VERSION, hosts: Hosts | None = None) -> ReleaseBuild:
        return download_release(
            version, self.cache, self.said.append, hosts=hosts or self.hosts, pause=self.pauses.append
        )

    def refused(self, version: str = VERSION, hosts: Hosts | None = None) -> str:
        """The sentence of a download that fails; nothing of it may look like a release."""
        with pytest.raises(ArtifactError) as caught:
            self.download(version, hosts)
        assert list_releases(self.cache) == []
        return str(caught.value)

    def waiting(self) -> list[str]:
        """What lies in the folder of downloads."""
        return sorted(p.name for p in (self.cache.root / "downloads").iterdir() if p.name != "lock")

    def content(self, program: str) -> bytes:
        return self.site.files[self.publisher.at(program)][1]

    def sha256(self, program: str) -> str:
        return hashlib.sha256(self.content(program)).hexdigest()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in ("BEDPLATE_RELEASE_MIRROR", "BEDPLATE_REGISTRY_MIRROR", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = World(tmp_path / "cache")
    yield made
    made.site.close()
    made.store.close()


def test_a_download_is_a_release_like_one_that_was_built(world: World) -> None:
    release = world.download()
    assert (release.version, release.source, release.pause) == (VERSION, "download", "registry.k8s.io/pause:3.10.1")
    assert release.components == {"etcd": "3.6.6-0", "coredns": "1.13.1", "pause": "3.10.1"}
    assert set(release.binaries) == {*PROGRAMS, "etcd", "etcdctl", "coredns"}
    for name in PROGRAMS:
        assert release.binaries[name].read_bytes() == world.content(name)
    for name in ("etcd", "etcdctl", "coredns"):
        assert release.binaries[name].read_bytes() == name.encode(), "the upper layer's"
    assert all(p.stat().st_mode & 0o777 == 0o755 for p in release.binaries.values())
    assert set(release.images) == set(world.publisher.images)
    for name, archive in release.images.items():
        assert oci.read_name(archive)[0] == name
        with tarfile.open(archive) as tar:
            held = {member.name for member in tar.getmembers()}
        assert {f"blobs/sha256/{blob.rpartition(':')[2]}" for blob in world.publisher.blobs(name)} <= held
    assert [r.key for r in list_releases(world.cache)] == [release.key]
    assert world.waiting() == []
    assert world.pauses == []


def test_manifests_are_kept_byte_for_byte_in_their_own_media_type(world: World) -> None:
    name = world.publisher.images[1]
    _, digest = oci.read_name(world.download().images[name])
    media_type, data = world.site.files[f"/v2/coredns/coredns/manifests/{digest}"]
    assert media_type == DOCKER_MANIFEST
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_second_call_downloads_nothing(world: World) -> None:
    first = world.download()
    world.site.seen.clear()
    assert world.download(f"v{VERSION}") == first
    assert world.site.seen == []
    assert world.download("1.35") == first
    assert [s.path for s in world.site.seen] == ["/release/stable-1.35.txt"]


def test_a_wrong_checksum_names_both_digests_and_keeps_only_what_was_right(world: World) -> None:
    path = world.publisher.at("kubelet")
    good, wrong = world.site.files[path], b"something else"
    world.site.put(path, wrong)
    message = world.refused()
    assert f"kubelet of Kubernetes {VERSION}" in message
    assert hashlib.sha256(wrong).hexdigest() in message
    assert hashlib.sha256(good[1]).hexdigest() in message
    assert world.waiting() == [world.sha256("kubeadm")]
    world.site.files[path] = good
    world.site.seen.clear()
    assert world.download().binaries["kubelet"].read_bytes() == good[1]
    assert world.site.asked("/kubeadm") == []


def test_a_layer_that_is_not_the_one_of_the_manifest_is_refused(world: World) -> None:
    path = world.publisher.blobs(world.publisher.images[2])[0]
    good = world.site.files[path][1]
    for wrong in (b"x" * len(good), good + b"more"):
        world.site.put(path, wrong)
        message = world.refused()
        assert "of the image registry.k8s.io/pause:3.10.1" in message
        assert f"instead of {path.rpartition(':')[2]}" in message
    assert path.rpartition(":")[2] not in world.waiting()


def test_a_connection_that_breaks_is_resumed_where_it_broke(world: World) -> None:
    path = world.publisher.at("kube-apiserver")
    world.site.faults[path] = ["cut", "cut"]
    release = world.download()
    size = len(world.content("kube-apiserver"))
    half = size // 2
    want = [None, f"bytes={half}-", f"bytes={half + (size - half) // 2}-"]
    assert [s.range for s in world.site.asked("/kube-apiserver")] == want
    assert release.binaries["kube-apiserver"].read_bytes() == world.content("kube-apiserver")
    assert world.pauses == [1.0, 2.0]
    assert "trying again in 1 s" in "\n".join(world.said)


def test_the_next_run_resumes_what_the_last_one_gave_up(world: World) -> None:
    path = world.publisher.blobs(AGNHOST)[0]
    world.site.faults[path] = ["cut"] * 4
    message = world.refused()
    assert f"cannot be had from 127.0.0.1:{world.site.url.rpartition(':')[2]}" in message
    assert world.pauses == [1.0, 2.0, 4.0]
    assert path.rpartition(":")[2] + ".part" in world.waiting()
    world.site.seen.clear()
    world.download()
    assert [s.path for s in world.site.seen if "/blobs/" in s.path] == [path]
    assert world.site.asked(path)[0].range is not None
    assert world.waiting() == []


def test_a_server_without_ranges_is_read_from_the_start(world: World) -> None:
    path = world.publisher.at("kubectl")
    world.site.faults[path] = ["cut", "whole"]
    assert world.download().binaries["kubectl"].read_bytes() == world.content("kubectl")


@pytest.mark.parametrize("left", [b"of another file", b"longer than the file" * 1000])
def test_what_an_earlier_run_left_is_not_trusted(world: World, left: bytes) -> None:
    folder = world.cache.root / "downloads"
    folder.mkdir(parents=True)
    (folder / f"{world.sha256('kubectl')}.part").write_bytes(left)
    (folder / world.sha256("kubelet")).write_bytes(left)
    release = world.download()
    assert release.binaries["kubectl"].read_bytes() == world.content("kubectl")
    assert release.binaries["kubelet"].read_bytes() == world.content("kubelet")


def test_a_file_that_broke_at_its_very_end_is_whole(world: World) -> None:
    folder = world.cache.root / "downloads"
    folder.mkdir(parents=True)
    (folder / f"{world.sha256('kubectl')}.part").write_bytes(world.content("kubectl"))
    world.download()
    assert [s.range for s in world.site.asked("/kubectl")] == [f"bytes={len(world.content('kubectl'))}-"]


def test_a_registry_that_asks_for_a_token_gets_one_and_its_store_does_not(world: World) -> None:
    world.site.token = "open-sesame"
    for path in world.publisher.blobs(AGNHOST):
        world.site.redirects[path] = f"{world.store.url}{path}?signature=1"
        world.store.put(path, world.site.files[path][1])
    release = world.download()
    assert oci.read_name(release.images[AGNHOST])[0] == AGNHOST
    assert len(world.site.asked("/token")) == len(world.publisher.images), "one token for each repository"
    assert {s.authorization for s in world.store.seen} == {None}
    assert all(s.authorization is None for s in world.site.seen if not s.path.startswith("/v2/"))


def test_a_token_may_be_asked_for_behind_a_redirect(world: World) -> None:
    world.store.token = "open-sesame"
    for path in [p for p in world.site.files if p.startswith("/v2/e2e-test-images/")]:
        world.site.redirects[path] = world.store.url + path
        world.store.files[path] = world.site.files[path]
    assert oci.read_name(world.download().images[AGNHOST])[0] == AGNHOST
    assert {s.authorization for s in world.site.seen} == {None}


def test_a_registry_that_gives_no_token_is_named(world: World) -> None:
    world.site.token = "open-sesame"
    world.site.faults["/token"] = [403]
    message = world.refused()
    assert f"{world.site.url}/token answered 403" in message
    assert "open-sesame" not in message


def test_an_unreachable_host_is_one_sentence_with_the_way_out(world: World) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{reserved.getsockname()[1]}"
        message = world.refused("1.35", Hosts(f"http://{nobody}/release", f"http://{nobody}"))
    assert message == (
        f"the newest version of Kubernetes 1.35 cannot be had from {nobody} ([Errno 111] Connection refused); where "
        "Kubernetes' own hosts are out of reach, run `bedplate release build 1.35`"
    )


def test_a_host_out_of_reach_behind_a_redirect_is_the_one_that_is_named(world: World) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{reserved.getsockname()[1]}"
        world.site.redirects[world.publisher.at("kubeadm")] = f"http://{nobody}/kubeadm?signature=secret"
        message = world.refused()
    assert f"cannot be had from {nobody} (" in message
    assert "secret" not in message


def test_a_busy_host_is_asked_again_and_says_when(world: World) -> None:
    world.site.faults[world.publisher.at("kubeadm")] = [503]
    world.site.faults[world.publisher.at("kubelet.sha256")] = [503, 429]
    world.download()
    assert world.pauses == [1.0, 1.0, 7.0]


def test_a_version_that_does_not_exist(world: World) -> None:
    message = world.refused("1.35.99")
    assert f"{world.site.url}/release/v1.35.99/bin/linux/amd64/kubeadm.sha256 (404)" in message
    assert world.pauses == []
    assert "is not of the form 1.35 or 1.35.3" in world.refused("latest")
    world.site.put("/release/stable-1.36.txt", b"<html>sign in</html>")
    assert "names no version of Kubernetes 1.36" in world.refused("1.36")
    world.site.put(f"{world.publisher.at('kubeadm')}.sha256", b"<html>sign in</html>")
    assert "holds no SHA-256 digest" in world.refused()


def test_images_that_do_not_fit_are_refused(world: World) -> None:
    pause, etcd = world.publisher.images[2:4]
    world.publisher.image(etcd, gzipped({"/usr/local/bin/etcd": b"etcd"}))
    assert f"the image {etcd} holds no program etcdctl" in world.refused()
    world.publisher.image(pause, gzipped({"/pause": b"pause"}), architecture="arm64")
    assert f"the image {pause} at {world.site.url}/v2/pause is not there for linux/amd64" in world.refused()


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")
def test_layers_of_zstd_stay_as_they_are_and_their_programs_are_found(world: World) -> None:
    etcd = world.publisher.images[3]
    tools = {f"/usr/local/bin/{name}": f"new {name}".encode() for name in ("etcd", "etcdctl", "etcdutl")}
    packed = subprocess.run(["zstd", "-qc"], input=layer(tools), stdout=subprocess.PIPE, check=True).stdout
    zstd = "application/vnd.oci.image.layer.v1.tar+zstd"
    world.publisher.image(etcd, [*gzipped({"/usr/local/bin/etcd": b"hidden"}), (zstd, packed)])
    release = world.download()
    assert {n: release.binaries[n].read_bytes() for n in ("etcd", "etcdctl", "etcdutl")} == {
        "etcd": b"new etcd",
        "etcdctl": b"new etcdctl",
        "etcdutl": b"new etcdutl",
    }
    with tarfile.open(release.images[etcd]) as tar:
        kept = tar.extractfile(f"blobs/sha256/{hashlib.sha256(packed).hexdigest()}")
        assert kept is not None
        assert kept.read() == packed


def test_mirrors_of_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in [p for p in world.site.files if p.startswith("/v2/")]:
        world.site.files[path.replace("/v2/", "/v2/k8s/proxy/")] = world.site.files.pop(path)
    monkeypatch.setenv("BEDPLATE_RELEASE_MIRROR", f"{world.site.url}/release/")
    monkeypatch.setenv("BEDPLATE_REGISTRY_MIRROR", f"{world.site.url}/k8s/proxy")
    assert set(world.download(hosts=Hosts()).images) == set(world.publisher.images)
    assert Hosts("http://own.example").mirrored().releases == "http://own.example", "what is asked for by name stays"
    monkeypatch.setenv("BEDPLATE_REGISTRY_MIRROR", "https://me:hush@mirror.example")
    with pytest.raises(ArtifactError, match="BEDPLATE_REGISTRY_MIRROR is not an http or https address") as caught:
        Hosts().mirrored()
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("BEDPLATE_REGISTRY_MIRROR", " ")
    assert Hosts("http://own.example").mirrored().registry == REGISTRY
    assert RELEASES.startswith("https://")
