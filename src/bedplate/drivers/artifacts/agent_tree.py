"""Bedplate's agent as an image carries it: its source and the Python packages that its roles on bare metal need.

All lies in one folder, which the agent's unit names as `PYTHONPATH`. Packages are wheels for the images' own Python, at
the versions and digests of `agent-requirements.lock`. May not: carry libvirt; no image is a hypervisor.
"""

from __future__ import annotations

import ast
import hashlib
import shutil
from pathlib import Path

import bedplate
from bedplate.drivers.artifacts import pypi
from bedplate.drivers.artifacts.cache import Cache, Entry
from bedplate.drivers.artifacts.proc import Progress, quiet

PYTHON = "3.13"
"""Debian trixie's."""
PLACE = Path("usr/lib/bedplate/agent")
"""In an image's root."""
LOCK = Path(__file__).with_name("agent-requirements.lock")
"""Made by `uv pip compile` for `PYTHON`, of msgspec, websockets and cryptography; versions as in the project's lock."""

_SOURCE = Path(bedplate.__file__).parent


def sources() -> list[tuple[str, Path]]:
    """The agent's source files and those that they import, `(path below the tree, file)`, sorted.

    No other module is taken along: a change of the rest of Bedplate makes no new image.
    """
    found: dict[str, Path] = {}
    waiting = list((_SOURCE / "agent").rglob("*.py"))
    while waiting:
        path = waiting.pop()
        name = str(Path("bedplate") / path.relative_to(_SOURCE))
        if name not in found:
            found[name] = path
            waiting += [p for module in _imported(path) for p in _files(module)]
    return sorted(found.items())


def _imported(path: Path) -> list[str]:
    """Names of this project's modules, and of what is in them, that a file imports anywhere."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
    return [n for n in names if n.partition(".")[0] == "bedplate"]


def _files(module: str) -> list[Path]:
    """The file of a module and those of the packages around it; only these for a name that is no module."""
    parts = module.split(".")[1:]
    packages = [_SOURCE.joinpath(*parts[:n]) / "__init__.py" for n in range(len(parts) + 1)]
    return [p for p in (*packages, _SOURCE.joinpath(*parts).with_suffix(".py")) if parts and p.is_file()]


def digest() -> str:
    """A digest of the source, the packages' lock and this code: a change of any makes a new image."""
    made = hashlib.sha256()
    for name, path in [*sources(), ("lock", LOCK), ("code", Path(__file__))]:
        data = path.read_bytes()
        made.update(f"{name}\0{len(data)}\0".encode())
        made.update(data)
    return made.hexdigest()


def packages(cache: Cache, progress: Progress = quiet) -> Entry:
    """The Python packages, from the cache or the package index. Raises `ArtifactError`."""

    def build(folder: Path) -> None:
        progress("agent: fetching its Python packages")
        what = f"installation of the agent's packages for Python {PYTHON}"
        pypi.install(folder / "packages", ["--require-hashes", "-r", str(LOCK)], what=what, python=PYTHON)
        shutil.rmtree(folder / "packages" / "bin", ignore_errors=True)
        for unused in (*folder.rglob("*.pyi"), *folder.rglob("*.c"), *folder.rglob(".lock")):
            unused.unlink()

    inputs = {"python": PYTHON, "lock": LOCK.read_text()}
    return cache.obtain("agent-packages", inputs, build, progress, label=f"agent's packages for Python {PYTHON}")


def lay(root: Path, installed: Entry) -> None:
    """Put the agent and its packages into an image's root."""
    target = root / PLACE
    shutil.copytree(installed.path / "packages", target)
    for name, source in sources():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, file)
        file.chmod(0o644)
