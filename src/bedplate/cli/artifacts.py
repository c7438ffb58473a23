"""Releases and images of the user's cache, as the command line lists them and as a controller is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bedplate.cli.building import Cached, Say
from bedplate.cli.errors import UserError
from bedplate.cli.registering import Built
from bedplate.drivers.artifacts import hypervisor as hypervisors_of
from bedplate.drivers.artifacts import image as images_of
from bedplate.drivers.artifacts import pieces
from bedplate.drivers.artifacts import release as releases_of
from bedplate.drivers.artifacts.cache import Cache
from bedplate.drivers.artifacts.hypervisor import HypervisorBuild
from bedplate.drivers.artifacts.image import DiskFile, ImageBuild
from bedplate.drivers.artifacts.proc import ArtifactError, quiet
from bedplate.drivers.artifacts.release import ReleaseBuild
from bedplate.model.meta import GROUP, VERSION


def build_release(version: str, say: Say) -> Built:
    """Build a release from Go modules, or take it from the cache. Raises `UserError`."""
    try:
        return _release(releases_of.build_release(version, progress=say))
    except ArtifactError as error:
        raise UserError(str(error)) from error


def download_release(version: str, say: Say) -> Built:
    """Download a release, or take it from the cache. Raises `UserError`."""
    from bedplate.drivers.artifacts import download

    try:
        return _release(download.download_release(version, progress=say))
    except ArtifactError as error:
        raise UserError(str(error)) from error


def build_image(version: str, say: Say) -> Built:
    """Build the node image of a release; the release comes from the cache where it is there, else it is built."""
    try:
        found = releases_of.find_release(version) or releases_of.build_release(version, progress=say)
        return _image(images_of.build_node_image(found, progress=say), say)
    except ArtifactError as error:
        raise UserError(str(error)) from error


def build_ram_system(say: Say) -> Path:
    """Build the RAM system of bare servers, or take it from the cache; gives its ISO. Raises `UserError`."""
    from bedplate.drivers.artifacts import ramsystem

    try:
        return ramsystem.build_ram_system(progress=say).path
    except ArtifactError as error:
        raise UserError(str(error)) from error


def build_hypervisor_image(say: Say) -> Built:
    """Build the image that makes a bare server a hypervisor, or take it from the cache. Raises `UserError`."""
    try:
        return _hypervisor(hypervisors_of.build_hypervisor_image(progress=say), say)
    except ArtifactError as error:
        raise UserError(str(error)) from error


def release(version: str) -> Built:
    """The release of the cache. Raises `UserError`."""
    return _release(_known_release(version))


def release_paths(version: str) -> dict[str, str]:
    """Where the release's programs and image archives are; `agnhost` and `pause` are images' names."""
    found = _known_release(version)
    paths = {name: str(path) for name, path in found.binaries.items()}
    agnhost = next((name for name in found.images if "/agnhost:" in name), "")
    return {"path": str(found.path), **paths, "pause": found.pause, "agnhost": agnhost}


def releases() -> list[Cached]:
    """What the cache has."""
    return [Cached(r.version, r.version, r.size, _created("release", r.key)) for r in releases_of.list_releases()]


def image(name: str) -> Built:
    """The image of the cache. Raises `UserError`."""
    for one in hypervisors_of.list_hypervisor_images():
        if one.name == name:
            return _hypervisor(one)
    try:
        return _image(images_of.find_image(name))
    except ArtifactError as error:
        raise UserError(str(error)) from error


def images() -> list[Cached]:
    """What the cache has."""
    nodes = [Cached(i.name, i.kubernetes_version, i.size, _created("image", i.key)) for i in images_of.list_images()]
    hosts = hypervisors_of.list_hypervisor_images()
    return [*nodes, *(Cached(h.name, "", h.size, _created(hypervisors_of.KIND, h.key)) for h in hosts)]


def remove_image(name: str) -> bool:
    """Delete it from the cache; False: it was not there. Raises `UserError` where another process uses it."""
    try:
        gone = hypervisors_of.remove_hypervisor_image(name) or images_of.remove_image(name)
        if gone is not None:
            pieces.remove(gone.disk.sha256)
    except ArtifactError as error:
        raise UserError(str(error)) from error
    return gone is not None


def remove_release(version: str) -> bool:
    """Delete it from the cache; False: it was not there. Raises `UserError` where another process uses it."""
    try:
        return releases_of.remove_release(version) is not None
    except ArtifactError as error:
        raise UserError(str(error)) from error


def cached() -> list[Built]:
    """All releases, the newest image of each Kubernetes version and that of hypervisors, as a controller is told."""
    newest: dict[str, ImageBuild] = {}
    for one in images_of.list_images():
        newest.setdefault(one.kubernetes_version, one)
    known: dict[str, ReleaseBuild] = {}
    for release in releases_of.list_releases():
        known.setdefault(release.version, release)
    hosts = hypervisors_of.list_hypervisor_images()[:1]
    return [*map(_release, known.values()), *map(_image, newest.values()), *map(_hypervisor, hosts)]


def _created(kind: str, key: str) -> float:
    return next((e.manifest.created for e in Cache().entries(kind) if e.key == key), 0.0)


def _known_release(version: str) -> ReleaseBuild:
    found = releases_of.find_release(version)
    if found is None:
        have = ", ".join(r.version for r in releases_of.list_releases()) or "none"
        raise UserError(
            f"there is no release {version} in the cache (there: {have}); run `bedplate release build {version}`"
        )
    return found


def _release(found: ReleaseBuild) -> Built:
    spec = {
        "version": found.version,
        "etcd": found.components["etcd"],
        "coredns": found.components["coredns"],
        "pause": found.components["pause"],
        "source": "downloaded" if found.source == "download" else "built",
    }
    return Built(_object("Release", found.version, spec), {})


def _image(found: ImageBuild, say: Say = quiet) -> Built:
    files = {"disk": found.disk, "kernel": found.kernel, "initrd": found.initrd}
    spec: dict[str, Any] = {
        "format": found.format,
        "virtualSize": found.virtual_size,
        "commandLine": found.command_line,
        "kubernetesVersion": found.kubernetes_version,
        "bootstrap": found.bootstrap,
    }
    return _with_files(found.name, spec, files, found.format, say)


def _hypervisor(found: HypervisorBuild, say: Say = quiet) -> Built:
    spec: dict[str, Any] = {"format": "qcow2", "virtualSize": found.virtual_size, "system": "hypervisor"}
    return _with_files(found.name, spec, {"disk": found.disk}, "qcow2", say)


def _with_files(name: str, spec: dict[str, Any], files: dict[str, DiskFile], form: str, say: Say) -> Built:
    """An Image with its files, and those by which bare metal is written."""
    disk = files["disk"]
    metal = pieces.metal_files(disk.path, disk.sha256, form, progress=say)
    if metal is not None:
        files = files | {"metal": metal.manifest, "metalData": metal.data}
    spec |= {file: {"digest": _digest(f), "size": f.size} for file, f in files.items()}
    paths: dict[str, Path] = {_digest(f): f.path for f in files.values()}
    return Built(_object("Image", name, spec), paths)


def _digest(file: DiskFile) -> str:
    return f"sha256:{file.sha256}"


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec}
