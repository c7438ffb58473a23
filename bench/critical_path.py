"""Where the time of a running lab's cluster went: `python -m bench.critical_path [KIND/NAME] [--by-hand RESULT.json]`.

Reads the controller's own timeline (`bedplate timeline`), so it needs no quiet machine itself; whoever made the cluster
did. Prints the table's rows: what on the critical path was neither guest boot nor kubeadm's own work, and the whole
beside the script that does the same by hand (`bench/by_hand.sh -o RESULT.json`). Exit code 1: a goal is not met, or the
cluster is not ready.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import report
from bench.report import Figure, seconds

NEITHER_SECONDS = 3.0
BY_HAND = 1.1


def main() -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog="python -m bench.critical_path", description=__doc__)
    parser.add_argument("what", nargs="?", default="cluster/demo", metavar="KIND/NAME", help="default: cluster/demo")
    parser.add_argument("--by-hand", type=Path, metavar="RESULT.json", help="what bench/by_hand.sh wrote")
    args = parser.parse_args()
    told = timeline(args.what)
    if not told["complete"]:
        print(f"critical path: {args.what} is not ready yet", file=sys.stderr)
        return 1
    by_hand = json.loads(args.by_hand.read_text()) if args.by_hand else None
    found = list(figures(told, by_hand))
    print(report.header())
    for figure in found:
        print(report.row(figure))
    return 0 if all(figure.met for figure in found) else 1


def timeline(what: str) -> dict[str, Any]:
    """The timeline as the controller tells it."""
    program = Path(sys.executable).parent / "bedplate"
    done = subprocess.run([program, "timeline", what, "-o", "json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def figures(told: dict[str, Any], by_hand: dict[str, Any] | None) -> Iterator[Figure]:
    """The rows of a timeline. `by_hand`: what the script measured."""
    whole = float(told["seconds"])
    parts = ", ".join(f"{work} {seconds(spent)}" for work, spent in told["byWork"].items() if spent)
    yield Figure(
        what=f"{told['object']}, critical path: neither guest boot nor kubeadm's own work",
        measured=seconds(told["neither"]),
        reference=f"whole: {seconds(whole)} ({parts})",
        ratio=told["neither"] / NEITHER_SECONDS,
        goal=f"{NEITHER_SECONDS:.0f} s (ratio 1)",
        limit=1.0,
    )
    if by_hand is not None:
        yield Figure(
            what=f"{told['object']}, from its declaration to Ready",
            measured=seconds(whole),
            reference=f"the same by a shell script: {seconds(by_hand['seconds'])}",
            ratio=whole / by_hand["seconds"],
            goal=f"{BY_HAND} times",
            limit=BY_HAND,
        )


if __name__ == "__main__":
    sys.exit(main())
