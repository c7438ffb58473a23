"""A Kubernetes release from Go modules: programs, and container images as OCI archives.

For places that reach a Go module proxy and a Debian mirror but not Kubernetes' own hosts. May not: touch a
node, or run what it built, except `kubeadm config images list`, which names the exact image tags.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts import debian, gotool, oci
from bedplate.drivers.artifacts.cache import Cache, Entry
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet, run

DEFAULT_VERSION = "1.35.3"
"""What `1.35` means in the demo and where nothing else is said: pinned, so that builds can be repeated."""

RECIPE = 3
"""Raise when the way of building changes, so that cached releases are made anew."""

PROGRAMS = (
    "kubeadm",
    "kubelet",
    "kubectl",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
)
_PROXY_PACKAGES = ("base-files", "libc6", "nftables", "iptables", "conntrack", "kmod")
_PROXY_LINKS = {
    f"usr/sbin/{name}": "xtables-nft-multi"
    for v in ("iptables", "ip6tables")
    for name in (v, f"{v}-save", f"{v}-restore")
}
_FULL = re.compile(r"^v?(\d+)\.(\d+)\.(\d+)$")
_MINOR = re.compile(r"^v?(\d+)\.(\d+)$")


class ReleaseBuild(msgspec.Struct, frozen=True):
    """A release in the cache.

    `version` without a `v`; `source` is `go-modules` or `download`; `binaries` by program name; `images` by image
    name with tag; `components` are the versions of etcd, coredns and pause; `pause` is the sandbox image's name.
    """

    version: str
    key: str
    path: Path
    source: str
    binaries: dict[str, Path]
    images: dict[str, Path]
    components: dict[str, str]
    pause: str
    size: int

    @property
    def name(self) -> str:
        return f"release-{self.version}-{self.key[:8]}"


def build_release(
    version: str = DEFAULT_VERSION, cache: Cache | None = None, progress: Progress = quiet
) -> ReleaseBuild:
    """Build a release (`1.35.3`, or `1.35` for the newest patch that the module proxy lists).

    Cold, some 6 minutes on two cores; again, nothing. Each stage is cached by itself, so an interrupted build goes
    on where it was. Raises `ArtifactError`.
    """
    cache = cache or Cache()
    toolchain = gotool.find_toolchain(cache, progress)
    full = resolve_version(version, cache, progress, toolchain=toolchain)
    kubernetes = _kubernetes(full, toolchain, cache, progress)
    names = [str(n) for n in kubernetes.facts["images"]]
    parts = {_component(n): n for n in names}
    etcd = _etcd(parts["etcd"].rpartition(":")[2].partition("-")[0], toolchain, cache, progress)
    coredns = _coredns(parts["coredns"].rpartition(":")[2], toolchain, cache, progress)
    base = _proxy_base(cache, progress)
    inputs = {
        "recipe": RECIPE,
        "version": full,
        "source": "go-modules",
        "parts": [kubernetes.key, etcd.key, coredns.key, base.key],
    }

    def assemble(folder: Path) -> dict[str, object]:
        progress(f"Kubernetes {full}: packing the container images")
        binaries = folder / "bin"
        binaries.mkdir()
        for entry in (kubernetes, etcd, coredns):
            for file in sorted((entry.path / "bin").iterdir()):
                _link(file, binaries / file.name)
        images = [*names, str(kubernetes.facts["agnhost"])]
        _pack_images(folder, images, base.path / "base.tar")
        return release_facts(full, "go-modules", images)

    return read_release(cache.obtain("release", inputs, assemble, progress, label=f"Kubernetes {full}"))


def list_releases(cache: Cache | None = None) -> list[ReleaseBuild]:
    """Releases in the cache, newest first."""
    return [read_release(e) for e in (cache or Cache()).entries("release")]


def find_release(version: str, cache: Cache | None = None) -> ReleaseBuild | None:
    """The newest release of that version, kept from being deleted while this process runs; None: there is none.

    Raises `ArtifactError`: it has just gone.
    """
    cache = cache or Cache()
    entry = next(iter(_of_version(version, cache)), None)
    if entry is None:
        return None
    if not cache.take(entry):
        raise ArtifactError(f"release {entry.facts['version']} was just removed from the cache: run the command again")
    return read_release(entry)


def remove_release(version: str, cache: Cache | None = None) -> int | None:
    """Delete a release from the cache, however it came there; give the bytes that became free, None: it was not there.

    The stages that it was made from stay. Raises `InUse` where another process uses it.
    """
    cache = cache or Cache()
    found = _of_version(version, cache)
    return sum(cache.remove(e) for e in found) if found else None


def _of_version(version: str, cache: Cache) -> list[Entry]:
    return [e for e in cache.entries("release") if e.facts["version"] == version.removeprefix("v")]


def read_release(entry: Entry) -> ReleaseBuild:
    """A cache entry as a release."""
    facts = entry.facts
    archives = sorted((entry.path / "images").glob("*.tar"))
    names: dict[str, str] = facts["archives"]
    return ReleaseBuild(
        version=facts["version"],
        key=entry.key,
        path=entry.path,
        source=facts["source"],
        binaries={p.name: p for p in sorted((entry.path / "bin").iterdir())},
        images={names[a.name]: a for a in archives},
        components=facts["components"],
        pause=facts["pause"],
        size=entry.size(),
    )


def resolve_version(
    version: str,
    cache: Cache | None = None,
    progress: Progress = quiet,
    *,
    toolchain: gotool.Toolchain | None = None,
) -> str:
    """`1.35.3` as it is; `1.35` to the newest patch the module proxy lists, or to the pinned one of that minor."""
    text = version.strip()
    if match := _FULL.match(text):
        return ".".join(match.groups())
    if not (match := _MINOR.match(text)):
        raise ArtifactError(
            f"Kubernetes version {version!r} is not of the form 1.35 or 1.35.3 (in YAML, write it in quotes)"
        )
    toolchain = toolchain or gotool.find_toolchain(cache or Cache(), progress)
    with tempfile.TemporaryDirectory(prefix="bedplate-go-") as work:
        listed = gotool.list_versions(toolchain, "k8s.io/kubernetes", Path(work))
    return newest_patch(match.group(0).removeprefix("v"), listed)


def newest_patch(minor: str, listed: list[str]) -> str:
    """The newest released patch of a minor among module versions (`v1.35.4`); pre-releases do not count."""
    patches = [m.groups() for v in [*listed, f"v{DEFAULT_VERSION}"] if (m := _FULL.match(v))]
    fitting = [int(p) for a, b, p in patches if f"{a}.{b}" == minor]
    if not fitting:
        minors = sorted({f"{a}.{b}" for a, b, _ in patches}, key=lambda s: [int(x) for x in s.split(".")])
        raise ArtifactError(
            f"the Go module proxy lists no release of Kubernetes {minor}; it lists {', '.join(minors)}. "
            "Name an exact version such as 1.35.3 if you know it exists"
        )
    return f"{minor}.{max(fitting)}"


def staging_modules(go_mod: str) -> list[str]:
    """The staging modules of Kubernetes, read from the replacements in its own go.mod."""
    return sorted(set(re.findall(r"^\s*(?:replace\s+)?(k8s\.io/[\w.\-]+) => \./staging/", go_mod, re.MULTILINE)))


def kubernetes_module(source: Path, version: str) -> gotool.Module:
    """The module file that builds Kubernetes outside its own tree, at exactly its own dependencies' versions."""
    go_mod = (source / "go.mod").read_text()
    staging = staging_modules(go_mod)
    if not staging:
        raise ArtifactError(f"k8s.io/kubernetes v{version}: its go.mod names no staging modules; not supported")
    own = "v0." + version.removeprefix("1.")
    requires = dict(re.findall(r"^\s*(?:require\s+)?([\w.\-]+\.[\w.\-]+/\S+) (v\S+)", go_mod, re.MULTILINE))
    requires = {name: v for name, v in requires.items() if name not in staging}
    requires["k8s.io/kubernetes"] = f"v{version}"
    go = re.search(r"^go (\S+)", go_mod, re.MULTILINE)
    return gotool.Module(
        go=go[1] if go else "1.25.0",
        requires={**requires, **dict.fromkeys(staging, own)},
        # Its go.mod asks for the staging modules at v0.0.0, which exist only inside its own tree.
        replaces=dict.fromkeys(staging, own),
        sums=(source / "go.sum").read_text(),
    )


def _kubernetes(version: str, toolchain: gotool.Toolchain, cache: Cache, progress: Progress) -> Entry:
    def build(folder: Path) -> dict[str, object]:
        progress(f"Kubernetes {version}: fetching its modules")
        work = folder / "work"
        source = gotool.download_module(toolchain, "k8s.io/kubernetes", f"v{version}", work)
        module = kubernetes_module(source, version)
        major, minor, _ = version.split(".")
        defines = [
            f"{package}.{key}={value}"
            for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
            for key, value in {
                "gitVersion": f"v{version}",
                "gitMajor": major,
                "gitMinor": minor,
                "gitTreeState": "clean",
            }.items()
        ]
        progress(f"Kubernetes {version}: compiling {len(PROGRAMS)} programs (about 5 minutes when cold)")
        programs = {name: f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS}
        programs["agnhost"] = "k8s.io/kubernetes/test/images/agnhost"
        log = folder / "build.log"
        what = f"build of Kubernetes {version}"
        gotool.build_programs(
            toolchain, module, programs, folder / "bin", work=work, log=log, what=what, defines=defines
        )
        progress(f"Kubernetes {version}: compiling pause")
        pause = source / "build" / "pause" / "linux" / "pause.c"
        flags = ["-Os", "-Wall", "-static", "-s", "-Wl,--build-id=none", f"-DVERSION=v{version}"]
        run(["gcc", *flags, "-o", folder / "bin" / "pause", pause], what="build of pause", log=log)
        listing = run(
            [folder / "bin" / "kubeadm", "config", "images", "list", "--kubernetes-version", f"v{version}"],
            what="kubeadm's list of images",
        )
        agnhost = (source / "test" / "images" / "agnhost" / "VERSION").read_text().strip()
        shutil.rmtree(work)
        return {
            "images": [s for s in listing.split() if "/" in s],
            "agnhost": f"registry.k8s.io/e2e-test-images/agnhost:{agnhost}",
        }

    inputs = {"recipe": RECIPE, "version": version, "go": toolchain.version}
    return cache.obtain("kubernetes", inputs, build, progress, label=f"Kubernetes {version} programs")


def _etcd(version: str, toolchain: gotool.Toolchain, cache: Cache, progress: Progress) -> Entry:
    prefix = "go.etcd.io/etcd"
    # Modules of their own: together with Kubernetes they would raise each other's versions.
    module = gotool.Module(
        go="1.24.0", requires={f"{prefix}/{m}/v3": f"v{version}" for m in ("server", "etcdctl", "etcdutl")}
    )
    programs = {
        "etcd": f"{prefix}/server/v3",
        "etcdctl": f"{prefix}/etcdctl/v3",
        "etcdutl": f"{prefix}/etcdutl/v3",
    }
    return _simple("etcd", version, module, programs, toolchain, cache, progress)


def _coredns(tag: str, toolchain: gotool.Toolchain, cache: Cache, progress: Progress) -> Entry:
    name = "github.com/coredns/coredns"
    module = gotool.Module(go="1.24.0", requires={name: f"v{tag.removeprefix('v')}"})
    return _simple("coredns", tag.removeprefix("v"), module, {"coredns": name}, toolchain, cache, progress)


def _simple(
    name: str,
    version: str,
    module: gotool.Module,
    programs: dict[str, str],
    toolchain: gotool.Toolchain,
    cache: Cache,
    progress: Progress,
) -> Entry:
    def build(folder: Path) -> None:
        progress(f"{name} {version}: compiling")
        work = folder / "work"
        gotool.build_programs(
            toolchain,
            module,
            programs,
            folder / "bin",
            work=work,
            log=folder / "build.log",
            what=f"build of {name} {version}",
        )
        shutil.rmtree(work)

    inputs = {"recipe": RECIPE, "version": version, "go": toolchain.version}
    return cache.obtain(name, inputs, build, progress, label=f"{name} {version}")


def _proxy_base(cache: Cache, progress: Progress) -> Entry:
    """The files below kube-proxy: nft, iptables, conntrack, and the libraries they need."""

    def build(folder: Path) -> None:
        progress("kube-proxy: fetching nftables, iptables and conntrack from Debian")
        raw = folder / "raw.tar"
        debian.mmdebstrap(raw, _PROXY_PACKAGES, variant="extract", log=folder / "build.log")
        (folder / "base.tar").write_bytes(oci.normalised_layer(raw, links=_PROXY_LINKS))
        raw.unlink()

    inputs = {"recipe": RECIPE, "suite": debian.SUITE, "packages": list(_PROXY_PACKAGES)}
    return cache.obtain("kube-proxy-base", inputs, build, progress, label="kube-proxy base layer")


def _pack_images(folder: Path, names: list[str], proxy_base: Path) -> None:
    out = folder / "images"
    out.mkdir()
    binaries = folder / "bin"
    for name in names:
        part = _component(name)
        layers = [proxy_base.read_bytes()] if part == "kube-proxy" else []
        inside, programs = _CONTENTS.get(part, (f"/usr/local/bin/{part}", (part,)))
        at = {f"{inside.rpartition('/')[0]}/{p}": binaries / p for p in programs}
        cmd = ("pause",) if part == "agnhost" else ()
        layers.append(oci.layer_of(at))
        oci.write_image(out / archive_name(name), name, layers, entrypoint=[inside], cmd=cmd)
    (binaries / "pause").unlink()
    (binaries / "agnhost").unlink()


_CONTENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "etcd": ("/usr/local/bin/etcd", ("etcd", "etcdctl", "etcdutl")),
    "coredns": ("/coredns", ("coredns",)),
    "pause": ("/pause", ("pause",)),
    "agnhost": ("/agnhost", ("agnhost",)),
}


def archive_name(image: str) -> str:
    """The file name of an image's archive."""
    return image.partition("/")[2].replace("/", "_").replace(":", "_") + ".tar"


def _component(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]


def release_facts(version: str, source: str, images: list[str]) -> dict[str, object]:
    """What the manifest of a release notes about it."""
    tags = {_component(n): n.rpartition(":")[2] for n in images}
    return {
        "version": version,
        "source": source,
        "components": {part: tags[part].removeprefix("v") for part in ("etcd", "coredns", "pause")},
        "pause": next(n for n in images if _component(n) == "pause"),
        "archives": {archive_name(n): n for n in images},
    }


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them: the parts' entries hold the same bytes."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
