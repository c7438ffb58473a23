"""Kubernetes versions and node images: `1.35` is resolved once; a newly imported release moves nothing by itself."""

from __future__ import annotations

from bedplate.model.blueprint import ClusterEntry, ImageRef
from bedplate.model.ids import Key
from bedplate.model.kinds.cluster import Cluster
from bedplate.model.report import Waiting
from bedplate.planner.context import Planning


def _parts(version: str) -> tuple[int, ...]:
    """Numbers of a version, for comparing; a pre-release counts as its release."""
    return tuple(int(p) if p.isdigit() else 0 for p in version.split("-")[0].split("."))


def _minor(version: str) -> tuple[int, ...]:
    return _parts(version)[:2]


def _is_full(version: str) -> bool:
    return version.count(".") >= 2


def _matches(version: str, wanted: str) -> bool:
    """True where a full version is what the (perhaps shorter) wanted one means."""
    if not wanted:
        return True
    return version == wanted if _is_full(wanted) else _minor(version) == _minor(wanted)


def resolve(p: Planning, k: Key, c: Cluster) -> str:
    """The full version of a new cluster; empty (and a wait) where there is none that could be used."""
    wanted, kept = c.spec.kubernetes, c.status.version
    if kept and _matches(kept, wanted) and kept in p.index.images.newest:
        return kept
    known = [v for v in p.index.images.releases if _matches(v, wanted)]
    usable = [v for v in known if v in p.index.images.newest]
    if usable:
        return max(usable, key=lambda v: (_parts(v), v))
    meant = f"Kubernetes {wanted}" if wanted else "Kubernetes"
    if known:
        newest = max(known, key=_parts)
        p.wait(k, Waiting.NO_IMAGE, f"there is no node image with Kubernetes {newest}; build or import one")
    else:
        p.wait(k, Waiting.NO_RELEASE, f"there is no release of {meant}; build or download one")
    return ""


def follow(p: Planning, k: Key, entry: ClusterEntry, c: Cluster) -> str:
    """The version of a cluster that exists: it moves only by an edit to another patch release."""
    wanted = c.spec.kubernetes
    if _matches(entry.version, wanted):
        return entry.version
    if _minor(wanted) != _minor(entry.version):
        said = f"the cluster runs {entry.version}; moving it to {wanted}, another minor version, is not supported yet"
        p.wait(k, Waiting.MINOR_UPGRADE, said)
        return entry.version
    if wanted not in p.index.images.releases:
        p.wait(k, Waiting.NO_RELEASE, f"there is no release of Kubernetes {wanted}; build or download one")
        return entry.version
    if wanted not in p.index.images.newest:
        p.wait(k, Waiting.NO_IMAGE, f"there is no node image with Kubernetes {wanted}; build or import one")
        return entry.version
    return wanted


def node_image(p: Planning, k: Key, named: str, version: str) -> ImageRef | None:
    """The image for new nodes of that version; None (and a wait) where there is none."""
    images = p.index.images
    if not named:
        found = images.newest.get(version)
        if found is None:
            p.wait(k, Waiting.NO_IMAGE, f"there is no node image with Kubernetes {version}; build or import one")
        return found
    found = images.refs.get(named)
    if found is None:
        p.wait(k, Waiting.NO_IMAGE, f"image {named} does not exist or has no disk")
        return None
    inside = images.versions[named]
    if inside != version:
        has = f"has Kubernetes {inside}" if inside else "is no node image"
        p.wait(k, Waiting.NO_IMAGE, f"image {named} {has}, the cluster runs {version}; name one with that version")
        return None
    return found
