"""Users' own disk images: looked at, digested, and made known to the controller as Image objects."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bedplate.cli.errors import UserError
from bedplate.cli.registering import Built
from bedplate.drivers.artifacts.pieces import MetalFiles, metal_files
from bedplate.drivers.artifacts.proc import ArtifactError

_FORMATS = ("qcow2", "raw")


def own_image(args: argparse.Namespace) -> Built:
    """The Image object of a file, with the files it names.

    Raises:
        UserError: a file is missing or is no disk image, or kernel and initrd are not given together.
    """
    if bool(args.kernel) != bool(args.initrd):
        raise UserError("a direct boot needs --kernel and --initrd; give both, or none for UEFI")
    disk = _file(args.file)
    described = _describe(disk)
    form = str(described["format"])
    if form not in _FORMATS:
        raise UserError(f"{disk} is a {form} image; convert it: qemu-img convert -O qcow2 {disk} {disk.stem}.qcow2")
    if described.get("backing-filename"):
        raise UserError(f"{disk} rests on another file; make it whole: qemu-img convert -O qcow2 {disk} whole.qcow2")
    spec: dict[str, Any] = {
        "format": form,
        "virtualSize": int(described["virtual-size"]),
        "bootstrap": args.bootstrap,
        "commandLine": args.command_line,
    }
    files: dict[str, Path] = {}
    for part, path in (("disk", disk), ("kernel", args.kernel), ("initrd", args.initrd)):
        if path:
            found = _file(str(path))
            digest = _digest(found)
            files[digest] = found
            spec[part] = {"digest": digest, "size": found.stat().st_size}
    metal = _metal(disk, str(spec["disk"]["digest"]), form)
    for part, file in (("metal", metal.manifest), ("metalData", metal.data)) if metal is not None else ():
        files[f"sha256:{file.sha256}"] = file.path
        spec[part] = {"digest": f"sha256:{file.sha256}", "size": file.size}
    obj = {"apiVersion": "bedplate.dev/v1alpha1", "kind": "Image", "metadata": {"name": args.name}, "spec": spec}
    return Built(obj, files)


def _metal(disk: Path, digest: str, form: str) -> MetalFiles | None:
    try:
        return metal_files(disk, digest.removeprefix("sha256:"), form)
    except ArtifactError as error:
        raise UserError(str(error)) from error


def _file(path: str) -> Path:
    found = Path(path)
    if not found.is_file():
        raise UserError(f"there is no file {path}")
    return found


def _describe(disk: Path) -> dict[str, Any]:
    if shutil.which("qemu-img") is None:
        raise UserError("qemu-img is missing; install it: apt-get install qemu-utils")
    done = subprocess.run(
        ["qemu-img", "info", "--output", "json", str(disk)], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise UserError(f"{disk} is no disk image: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
