"""What the demonstrations have in common: commands shown as a user types them, run, and timed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

BEDPLATE = [str(Path(sys.executable).parent / "bedplate")]
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
