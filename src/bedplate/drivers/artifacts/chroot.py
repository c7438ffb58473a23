"""A Debian tree entered for a while: its /proc, /sys, /dev and a /run of its own, and its kernel's modules.

May not: decide what is done in the tree.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bedplate.drivers.artifacts.proc import ArtifactError, need, run


@contextmanager
def mounted(root: Path) -> Generator[None]:
    """/proc, /sys, /dev and an empty /run inside the tree, gone again afterwards whatever happened. Needs root."""
    mounts: list[Path] = []
    try:
        for name in ("proc", "sys", "dev"):
            target = root / name
            target.mkdir(exist_ok=True)
            run(["mount", "--rbind", f"/{name}", target], what=f"mounting /{name} in the image")
            mounts.append(target)
            run(["mount", "--make-rslave", target], what=f"mounting /{name} in the image")
        run(["mount", "-t", "tmpfs", "tmpfs", root / "run"], what="mounting /run in the image")
        mounts.append(root / "run")
        yield
    finally:
        for target in reversed(mounts):
            run(["umount", "--recursive", "--lazy", target], what=f"unmounting {target}")


def kernel_release(root: Path) -> str:
    """The release of the tree's one kernel. Raises `ArtifactError`."""
    kernels = sorted((root / "usr" / "lib" / "modules").iterdir())
    if len(kernels) != 1:
        raise ArtifactError(f"the Debian tree holds {len(kernels)} kernels instead of one; delete it and build again")
    return kernels[0].name


def copy_module(source: Path, target: Path) -> None:
    """Copy a kernel module, uncompressed."""
    if source.suffix == ".xz":
        target.write_bytes(subprocess.run([need("xz"), "-dc", source], check=True, stdout=subprocess.PIPE).stdout)
    else:
        shutil.copyfile(source, target)


def modules_with(root: Path, release: str, names: tuple[str, ...]) -> list[Path]:
    """The files of kernel modules and of all that they need, in the order in which they load.

    Raises `ArtifactError` where the kernel has no such module.
    """
    order: list[Path] = []
    for name in names:
        listing = run(
            ["chroot", root, "modprobe", "--set-version", release, "--show-depends", name],
            what=f"finding kernel module {name}",
        )
        for line in listing.splitlines():
            if line.startswith("insmod "):
                path = root / line.split()[1].lstrip("/")
                if path not in order:
                    order.append(path)
    return order
