"""Deciding with numbers: a cluster in the lab is measured, its twin predicts what it has not seen, a fleet is compared.

Run by `make demo-compare`. The report is written to `fleet.html` in the current folder, or where REPORT says.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from showing import bedplate, lab, say, temporary

FLEET = "examples/fleet.yaml"
REPORT = os.environ.get("REPORT", "fleet.html")
RUNS = "6"


def main() -> None:
    """The whole demonstration; ends with the time that each phase took."""
    with lab("Three hypervisors, and the controller", "--hypervisors", "3"):
        say("A cluster, to be measured")
        bedplate("apply", "-f", "examples/demo.yaml", "--wait", "--timeout", "2400", phase="apply to Ready")
        predicted = predict()
        took = one_more()
        low, high = predicted
        said = "as predicted" if low / 2 <= took <= 2 * high else "NOT as predicted"
        say(f"One more node took {took:.0f} s; the calibrated twin said {low:.0f} to {high:.0f} s: {said}")
        print("  (within a factor of two: the machine is shared, and a third guest is emulated beside two others)")
        calibrated = temporary("fleet.yaml")
        calibrated.write_text(bedplate("fleet", "calibrate", "-f", FLEET, "--cluster", "demo", show=False))
    say("A fleet of forty servers and twelve workloads")
    bedplate("compare", "-f", str(calibrated), "--runs", RUNS, "--report", REPORT, phase=f"compare, {RUNS} years each")
    calibrated.unlink()
    say(f"Open {Path(REPORT).resolve()} in a browser: it needs no network")


def predict() -> tuple[float, float]:
    """What the lab's own twin says of one more node, with durations that this cluster took."""
    say("Its twin, with the durations that were seen")
    live, twin = temporary("live.yaml"), temporary("twin.yaml")
    live.write_text(bedplate("fleet", "import", "--from-live", show=False) + "operations: {spares: 0}\n")
    twin.write_text(bedplate("fleet", "calibrate", "-f", str(live), "--cluster", "demo", show=False))
    told = json.loads(
        bedplate("simulate", "-f", str(twin), "--on", "vm", "--runs", "8", "--years", "0.01", "-o", "json", show=False,
                 phase="8 runs of the twin")
    )  # fmt: skip
    live.unlink()
    twin.unlink()
    added = next(c["base"] for c in told["changes"] if c["name"] == "added")
    return float(added.get("low") or added["value"]), float(added.get("high") or added["value"])


def one_more() -> float:
    """Seconds until one more node is Ready in the lab."""
    began = time.monotonic()
    bedplate("scale", "nodepool/demo-web", "--replicas", "3", "--wait", "--timeout", "1200", phase="one more node")
    return time.monotonic() - began


if __name__ == "__main__":
    main()
