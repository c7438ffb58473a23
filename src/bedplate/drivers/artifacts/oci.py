"""Container images as OCI layouts in a tar: written from plain files, bit-identical for equal input, and read.

May not: talk to a registry or to a container runtime.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bedplate.drivers.artifacts.proc import ArtifactError

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
NAME_ANNOTATION = "io.containerd.image.name"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Blob(msgspec.Struct, frozen=True):
    """A blob of an image: its media type and its bytes."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


def layer_of(files: Mapping[str, Path]) -> bytes:
    """An uncompressed layer tar with these executables, `{path in the image: file}`; owner and times are zero."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders: set[str] = set()
        for name in sorted(files):
            parts = name.strip("/").split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in folders:
                    folders.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(info)
            data = files[name].read_bytes()
            info = tarfile.TarInfo("/".join(parts))
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def normalised_layer(source: Path, *, links: Mapping[str, str] | None = None) -> bytes:
    """A layer tar from any tar: sorted, without time stamps and device nodes, plus symbolic `links`."""
    buffer = io.BytesIO()
    with (
        tarfile.open(source) as old,
        tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        members = {m.name.removeprefix("./").rstrip("/"): m for m in old.getmembers()}
        for name in sorted(members):
            member = members[name]
            if name in ("", ".") or member.ischr() or member.isblk() or member.isfifo():
                continue
            data = old.extractfile(member) if member.isreg() else None
            member.name, member.mtime, member.pax_headers = name, 0, {}
            member.uname = member.gname = ""
            new.addfile(member, data)
        for name, target in sorted((links or {}).items()):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
            new.addfile(info)
    return buffer.getvalue()


def write_image(
    archive: Path, name: str, layers: Sequence[bytes], *, entrypoint: Sequence[str], cmd: Sequence[str] = ()
) -> str:
    """Write an OCI archive of uncompressed layer tars under the image name (with tag); returns its digest."""
    blobs = [Blob(LAYER_TYPE, gzip.compress(layer, 6, mtime=0)) for layer in layers]
    config = {
        "created": "1970-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [_PATH], "Entrypoint": list(entrypoint), "Cmd": list(cmd) or None, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(x).hexdigest() for x in layers]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "bedplate"} for _ in layers],
    }
    config_blob = Blob(CONFIG_TYPE, _canonical(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config_blob.descriptor(),
        "layers": [b.descriptor() for b in blobs],
    }
    manifest_blob = Blob(MANIFEST_TYPE, _canonical(manifest))
    write_layout(archive, name, manifest_blob, [config_blob, *blobs])
    return manifest_blob.digest


def write_layout(archive: Path, name: str, manifest: Blob, blobs: Sequence[Blob]) -> None:
    """Write an OCI layout tar that holds one image: its manifest, and every blob that the manifest names."""
    descriptor = manifest.descriptor()
    descriptor["annotations"] = {
        NAME_ANNOTATION: name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor]}
    files = {"oci-layout": _canonical({"imageLayoutVersion": "1.0.0"}), "index.json": _canonical(index)}
    for blob in [manifest, *blobs]:
        files["blobs/sha256/" + blob.digest.removeprefix("sha256:")] = blob.data
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for path in sorted(files):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(files[path]), 0o644
            tar.addfile(info, io.BytesIO(files[path]))


def read_name(archive: Path) -> tuple[str, str]:
    """The image name and the manifest digest of an OCI archive, every blob checked against its digest."""
    try:
        with tarfile.open(archive) as tar:
            index = json.loads(_member(tar, "index.json"))
            for member in tar.getmembers():
                if member.isreg() and member.name.startswith("blobs/sha256/"):
                    want = member.name.rpartition("/")[2]
                    if hashlib.sha256(_member(tar, member.name)).hexdigest() != want:
                        raise ArtifactError(f"{archive}: blob {want} is damaged; build or download it again")
            first = index["manifests"][0]
            _member(tar, "blobs/sha256/" + first["digest"].removeprefix("sha256:"))
            return first["annotations"][NAME_ANNOTATION], first["digest"]
    except (tarfile.TarError, KeyError, IndexError, ValueError, OSError) as error:
        raise ArtifactError(f"{archive} is not an OCI archive with a named image: {error}") from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
