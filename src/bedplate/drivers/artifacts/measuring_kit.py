"""The measuring kit: Debian's sysbench, fio, iperf3 and sockperf with their libraries and loader, in one archive.

The very same programs then run on servers and in machines, whatever these have installed, and leave with the
measurement: nodes and servers keep none of them. May not: send it, or run it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts import debian
from bedplate.drivers.artifacts.cache import Cache, Entry
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet, run

RECIPE = 1
"""Raise when the way of building changes in a way that no other input shows."""
KIND = "measuring-kit"
"""Of the cache's entries."""
TOOLS = ("sysbench", "fio", "iperf3", "sockperf")
ARCHIVE = "kit.tar.gz"
SCRIPT = Path(__file__).parent / "measure" / "run"


class MeasuringKit(msgspec.Struct, frozen=True):
    """Where the kit lies, and what it is."""

    path: Path
    digest: str
    """`sha256:…` of the archive."""
    size: int
    """Bytes of the archive."""
    tools: dict[str, str]
    """Versions, as Debian names them."""


def build_measuring_kit(cache: Cache | None = None, progress: Progress = quiet) -> MeasuringKit:
    """Make this version's kit, or take it from the cache. Raises `ArtifactError`."""

    def build(folder: Path) -> dict[str, object]:
        progress(f"measuring kit: unpacking {', '.join(TOOLS)} of Debian {debian.SUITE} (about a minute)")
        return _build(folder)

    return _read((cache or Cache()).obtain(KIND, _inputs(), build, progress, label="measuring kit"))


def find_measuring_kit(cache: Cache | None = None) -> MeasuringKit | None:
    """This version's kit, if it is in the cache."""
    found = (cache or Cache()).find(KIND, _inputs())
    return None if found is None else _read(found)


def _inputs() -> dict[str, object]:
    script = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    return {"recipe": RECIPE, "suite": debian.SUITE, "tools": list(TOOLS), "script": script}


def _read(entry: Entry) -> MeasuringKit:
    record = entry.manifest.files[ARCHIVE]
    tools = msgspec.convert(entry.facts["tools"], dict[str, str])
    return MeasuringKit(entry.path / ARCHIVE, f"sha256:{record.sha256}", record.size, tools)


def _build(folder: Path) -> dict[str, object]:
    tree, tar, log = folder / "tree", folder / "tree.tar", folder / "build.log"
    debian.mmdebstrap(tar, TOOLS, variant="extract", log=log)
    debian.unpack(tar, tree, log)
    tar.unlink()
    files: dict[str, Path] = {"run": SCRIPT}
    files |= {f"bin/{name}": tree / "usr" / "bin" / name for name in TOOLS}
    loader = _loader(tree)
    versions = _versions(tree, loader)
    files["lib/loader"] = loader
    files |= {f"lib/{name}": library for name, library in _libraries(tree, loader).items()}
    (folder / ARCHIVE).write_bytes(_archive(files))
    shutil.rmtree(tree)
    return {"tools": versions}


def _loader(tree: Path) -> Path:
    found = sorted((tree / "usr").glob("lib*/**/ld-linux*.so.*"), key=lambda p: (len(p.parts), p.name))
    real = [p for p in found if p.is_file() and not p.is_symlink()]
    if not real:
        raise ArtifactError("Debian's libc6 has no loader where it is looked for; report this with the build's log")
    return real[-1]


def _libraries(tree: Path, loader: Path) -> dict[str, Path]:
    """Every library that a tool needs, asked of the loader itself, which starts nothing for that."""
    found: dict[str, Path] = {}
    for name in TOOLS:
        argv = [loader, "--library-path", _places(tree), "--list", tree / "usr" / "bin" / name]
        for line in run(argv, what=f"libraries of {name}").splitlines():
            wanted, arrow, where = line.strip().partition(" => ")
            library = Path(where.rpartition(" (")[0])
            if arrow and not library.is_relative_to(tree):
                raise ArtifactError(f"{name} needs {wanted}, which is not in Debian's packages of it")
            if arrow and library.name != loader.name:
                found[wanted] = library
    return found


def _versions(tree: Path, loader: Path) -> dict[str, str]:
    """As each tool says itself."""
    return {name: _version(tree, loader, name) for name in TOOLS}


def _version(tree: Path, loader: Path, name: str) -> str:
    argv = [loader, "--library-path", _places(tree), tree / "usr" / "bin" / name, "--version"]
    words = run(argv, what=f"version of {name}").split("\n", 1)[0].replace("-", " ").replace(",", " ").split()
    return next((w for w in words if w[0].isdigit()), "unknown")


def _places(tree: Path) -> str:
    """All folders with libraries in them: some packages have their own."""
    return ":".join(sorted({str(p.parent) for p in (tree / "usr" / "lib").rglob("*.so*") if p.is_file()}))


def _archive(files: dict[str, Path]) -> bytes:
    """The same files give the same archive: no time, owner or name of who made it is in it."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, source in sorted(files.items()):
            data = source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
