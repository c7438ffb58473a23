"""What the demonstrations have in common: commands shown as a user types them, run, and timed; a lab; its cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEDPLATE = [str(Path(sys.executable).parent / "bedplate")]
RELEASE = "1.35.3"
KEEP = os.environ.get("KEEP", "") not in {"", "0"}
PHASES: list[tuple[str, float]] = []


def say(text: str) -> None:
    """A headline."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


PATIENCE_SECONDS = 300.0
"""An emulated API server under load may miss its deadlines for a minute or two; a real one never needs this."""


def run(*argv: str, phase: str = "", stdin: str | None = None, show: bool = True, patient: bool = False) -> str:
    """Run a command as a user would, show it, and time it under its phase. `patient`: try again where it fails."""
    words = ["bedplate", *argv[1:]] if argv[0] == BEDPLATE[0] else list(argv)
    if show:
        print(f"$ {' '.join(words)}", flush=True)
    began = time.monotonic()
    captured = not show or stdin is not None
    while True:
        done = subprocess.run(argv, input=stdin, text=True, stdout=subprocess.PIPE if captured else None, check=False)
        if not done.returncode or not patient or time.monotonic() - began > PATIENCE_SECONDS:
            break
        time.sleep(5)
    if phase:
        PHASES.append((phase, time.monotonic() - began))
    if done.returncode:
        raise SystemExit(f"demo: {' '.join(words)} ended with {done.returncode}")
    if captured and show and done.stdout:
        print(done.stdout, end="", flush=True)
    return done.stdout or ""


def bedplate(*argv: str, phase: str = "", **kwargs: object) -> str:
    """Run Bedplate's own command."""
    return run(*BEDPLATE, *argv, phase=phase, **kwargs)  # type: ignore[arg-type]


def tell_phases(in_all: float) -> None:
    """The time that each phase took, and all of it."""
    say("Time by phase")
    for name, seconds in PHASES:
        print(f"  {name:<34}{seconds:8.1f} s")
    print(f"  {'in all':<34}{in_all:8.1f} s")


def shown(kind: str, name: str) -> dict[str, Any]:
    """One object."""
    return dict(json.loads(bedplate("get", kind, name, "-o", "json", show=False)))


@contextlib.contextmanager
def lab(headline: str, *options: str, ram: bool = False, keep: bool = KEEP, look: str = "machines") -> Iterator[None]:
    """A lab with what it is to run, taken down at the end unless it is kept; then the time that each phase took.

    `ram`: bare servers are to be booted. `look`: what one may look at in a lab that goes on.
    """
    began = time.monotonic()
    images = "a node image, the RAM system and the hypervisor image" if ram else "a node image"
    built = f"A Kubernetes release, {images}" if ram else f"A Kubernetes release and {images}"
    say(f"{built} (built on the first run, then cached)")
    bedplate("release", "build", RELEASE, phase="release")
    bedplate("image", "build", "--release", RELEASE, phase="node image")
    if ram:
        bedplate("image", "build", "--ram", phase="RAM system")
        bedplate("image", "build", "--hypervisor", phase="hypervisor image")
    try:
        say(headline)
        bedplate("lab", "up", *options, phase="lab")
        yield
    finally:
        if keep:
            say(f"The lab goes on. Try: bedplate get {look}; bedplate lab down ends it")
        else:
            say("Taking it all down")
            bedplate("lab", "down", phase="lab down")
    tell_phases(time.monotonic() - began)


def temporary(ending: str) -> Path:
    """A file of this demonstration's own; not made."""
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"bedplate-demo-{os.getpid()}.{ending}"


class Kubectl:
    """The API of the cluster `demo`, as its users see it."""

    def __enter__(self) -> Kubectl:
        self._path = temporary("kubeconfig")
        bedplate("kubeconfig", "demo", "-o", str(self._path))
        release = json.loads(bedplate("release", "path", RELEASE, "-o", "json", show=False))
        self.argv = [release["kubectl"], "--kubeconfig", str(self._path)]
        self._image = release["agnhost"]
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)

    def __call__(self, *argv: str, phase: str = "") -> None:
        """Run kubectl, and again where it fails."""
        run(*self.argv, *argv, phase=phase, patient=True)

    def apply(self, manifest: str) -> None:
        """Declare the workload with the image that the nodes have."""
        run(*self.argv, "apply", "-f", "-", stdin=manifest.replace("IMAGE", self._image), patient=True)
