"""Debian file trees for the builders, by mmdebstrap, from the machine's own mirror.

May not: read other source files of the machine than Debian's own; those can name hosts that are out of reach.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bedplate.drivers.artifacts.cache import Cache
from bedplate.drivers.artifacts.proc import Progress, run

SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CUTS = tuple(f"/usr/share/{name}/*" for name in ("man", "locale", "doc", "info", "lintian", "bash-completion"))
"""What no node reads. Licences stay."""
_RECIPE, _TREE = 1, "root.tar"
"""Raise the first when trees are made in a way that no other input shows."""
_DEFAULT_MIRROR = "http://deb.debian.org/debian"


def mirror(etc: Path = Path("/etc/apt")) -> str:
    """The Debian mirror that this machine uses, from its apt sources (both formats), or deb.debian.org."""
    files = [*sorted((etc / "sources.list.d").glob("*.sources")), etc / "sources.list"]
    files += sorted((etc / "sources.list.d").glob("*.list"))
    for file in files:
        if not file.is_file():
            continue
        text = "\n".join(x for x in file.read_text().splitlines() if not x.lstrip().startswith("#"))
        for url in re.findall(r"(?:^URIs:\s*|^deb\s+(?:\[[^\]]*\]\s+)?)(https?://\S+)", text, re.MULTILINE):
            if url.rstrip("/").endswith("/debian"):
                return url.rstrip("/")
    return _DEFAULT_MIRROR


def mmdebstrap(target: Path, packages: Sequence[str], *, variant: str, log: Path) -> None:
    """Write a tar of a trixie tree with these packages and what they need."""
    url = mirror()
    sources = [f"deb [signed-by={KEYRING}] {url} {SUITE} main"]
    sources += [f"deb [signed-by={KEYRING}] {url} {SUITE}-updates main"] if variant != "extract" else []
    argv = [
        "mmdebstrap",
        f"--variant={variant}",
        "--format=tar",
        f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={cut}" for cut in CUTS),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        SUITE,
        target,
        *sources,
    ]
    run(argv, what=f"Debian tree of {len(packages)} packages from {url}", log=log)


def tree(cache: Cache, packages: Sequence[str], what: str, progress: Progress) -> Path:
    """The tar of a trixie tree below an image, with these packages, from the cache or made now. Raises `ArtifactError`.

    Args:
        what: The image, for people.
    """

    def build(folder: Path) -> None:
        progress(f"{what}: unpacking Debian {SUITE} (about a minute)")
        mmdebstrap(folder / _TREE, packages, variant="minbase", log=folder / "build.log")

    inputs = {"recipe": _RECIPE, "suite": SUITE, "packages": list(packages), "cuts": list(CUTS)}
    return cache.obtain("debian", inputs, build, progress, label=f"Debian {SUITE} of the {what}").path / _TREE


def unpack(tar: Path, root: Path, log: Path) -> None:
    """Unpack a tree into a new folder."""
    root.mkdir()
    run(["tar", "-C", root, "--xattrs", "--numeric-owner", "-xf", tar], what="unpacking Debian", log=log)
