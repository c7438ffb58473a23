"""A Kubernetes release as Kubernetes publishes it, checked: programs, and container images as OCI archives.

Programs come from https://dl.k8s.io/release, container images from https://registry.k8s.io. Two environment
variables name mirrors to ask instead, both `http` or `https` and without a password:

- `BEDPLATE_RELEASE_MIRROR`: stands for `https://dl.k8s.io/release`, so it holds `vX.Y.Z/bin/linux/amd64/kubeadm`
  with `kubeadm.sha256` beside it, and `stable-X.Y.txt`;
- `BEDPLATE_REGISTRY_MIRROR`: stands for `https://registry.k8s.io`; a path in it goes before the images' own.

Proxies come from the usual variables (`HTTPS_PROXY`, `NO_PROXY`), further authorities from `SSL_CERT_FILE`. May not:
touch a node, or run what it downloaded, except `kubeadm config images list`, which names the exact image tags.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from bedplate.drivers.artifacts import registry
from bedplate.drivers.artifacts.cache import Cache
from bedplate.drivers.artifacts.fetch import Fetcher
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet, run
from bedplate.drivers.artifacts.release import PROGRAMS, ReleaseBuild, archive_name, read_release, release_facts

RELEASES = "https://dl.k8s.io/release"
REGISTRY = "https://registry.k8s.io"

RECIPE = 1
"""Raise when what is kept of a download changes, so that cached releases are downloaded anew."""

AGNHOST = "registry.k8s.io/e2e-test-images/agnhost:2.59"
"""The one that Kubernetes 1.35's own tests use. It serves every version; no list of a release's images names it."""

NEEDED = {"etcd": ("etcd", "etcdctl"), "coredns": ("coredns",)}
"""Programs that Kubernetes publishes only within these images."""
WELCOME = {"etcd": ("etcdutl",), "coredns": ()}
"""Taken where the image has them; images of etcd up to 3.6.4 have no etcdutl, and no node needs it to run."""


class Hosts(msgspec.Struct, frozen=True):
    """Where releases and container images are: addresses without a slash at the end."""

    releases: str = RELEASES
    registry: str = REGISTRY

    def mirrored(self) -> Hosts:
        """The mirrors of the environment in place of the official hosts; addresses of one's own stay."""
        return Hosts(
            _mirror(self.releases, RELEASES, "BEDPLATE_RELEASE_MIRROR"),
            _mirror(self.registry, REGISTRY, "BEDPLATE_REGISTRY_MIRROR"),
        )


def download_release(
    version: str,
    cache: Cache | None = None,
    progress: Progress = quiet,
    *,
    hosts: Hosts = Hosts(),
    pause: Callable[[float], None] = time.sleep,
) -> ReleaseBuild:
    """Download a release (`1.35.3`, or `1.35` for its newest patch), or take it from the cache.

    Some 700 MB; what had arrived before a failure is not fetched again. `pause` waits for some seconds before
    another try. Raises `ArtifactError`.
    """
    cache = cache or Cache()
    hosts = hosts.mirrored()
    remedy = f"where Kubernetes' own hosts are out of reach, run `bedplate release build {version.strip()}`"
    with Fetcher(cache.root / "downloads", remedy=remedy, progress=progress, pause=pause) as fetcher:
        full = _resolve(version, hosts, fetcher)

        def assemble(folder: Path) -> dict[str, object]:
            with fetcher.store():
                _programs(full, hosts, fetcher, folder / "bin", progress)
                return _images(full, hosts, fetcher, folder, progress)

        inputs = {"recipe": RECIPE, "version": full, "source": "download", "agnhost": AGNHOST}
        return read_release(cache.obtain("release", inputs, assemble, progress, label=f"Kubernetes {full}"))


def _resolve(version: str, hosts: Hosts, fetcher: Fetcher) -> str:
    match = re.fullmatch(r"v?(\d+\.\d+)(\.\d+)?", version.strip())
    if match is None:
        raise ArtifactError(
            f"Kubernetes version {version!r} is not of the form 1.35 or 1.35.3 (in YAML, write it in quotes)"
        )
    minor, patch = match[1], match[2]
    if patch is not None:
        return minor + patch
    url = f"{hosts.releases}/stable-{minor}.txt"
    answer = fetcher.get(url, f"the newest version of Kubernetes {minor}").text.strip()
    if not re.fullmatch(rf"v{re.escape(minor)}\.\d+", answer):
        raise ArtifactError(f"{url} names no version of Kubernetes {minor} but {answer[:40]!r}; name an exact version")
    return answer.removeprefix("v")


def _programs(version: str, hosts: Hosts, fetcher: Fetcher, target: Path, progress: Progress) -> None:
    target.mkdir()
    for name in PROGRAMS:
        progress(f"Kubernetes {version}: downloading {name}")
        url = f"{hosts.releases}/v{version}/bin/linux/amd64/{name}"
        label = f"{name} of Kubernetes {version}"
        said = fetcher.get(f"{url}.sha256", f"the checksum of {label}").text
        digest = re.match(r"\s*([0-9a-f]{64})\b", said)
        if digest is None:
            raise ArtifactError(f"{url}.sha256 holds no SHA-256 digest but {said[:40]!r}; is a proxy in between?")
        _link(fetcher.file(url, digest[1], label), target / name)
        (target / name).chmod(0o755)


def _images(version: str, hosts: Hosts, fetcher: Fetcher, folder: Path, progress: Progress) -> dict[str, object]:
    listing = run(
        [folder / "bin" / "kubeadm", "config", "images", "list", "--kubernetes-version", f"v{version}"],
        what="kubeadm's list of images",
    )
    names = [*(s for s in listing.split() if "/" in s), AGNHOST]
    (folder / "images").mkdir()
    for name in names:
        progress(f"Kubernetes {version}: downloading the image {name}")
        layers = registry.Image(fetcher, hosts.registry, name).pull(folder / "images" / archive_name(name))
        part = name.rpartition("/")[2].partition(":")[0]
        needed = NEEDED.get(part, ())
        registry.copy_programs(name, layers, {*needed, *WELCOME.get(part, ())}, folder / "bin")
        for program in needed:
            if not (folder / "bin" / program).exists():
                raise ArtifactError(f"the image {name} holds no program {program}; is it the official one?")
    return release_facts(version, "download", names)


def _mirror(url: str, official: str, variable: str) -> str:
    text = (os.environ.get(variable, "").strip() if url == official else url) or url
    try:
        parsed = httpx.URL(text)
        good = parsed.scheme in ("http", "https") and bool(parsed.host) and not parsed.userinfo
    except httpx.InvalidURL:
        good = False
    if not good:  # not repeated in the message: it may hold a password
        raise ArtifactError(
            f"{variable} is not an http or https address without a password, such as https://mirror.example.com/k8s"
        )
    return text.rstrip("/")


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
