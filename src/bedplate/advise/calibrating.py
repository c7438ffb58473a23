"""What a running fleet took, in place of what others published: durations out of its timelines, VMs' overheads out of
its measurements. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from bedplate.advise.amounts import Ratio
from bedplate.advise.fleet import Overhead, Profile
from bedplate.advise.measuring import Measured

SPANS: dict[str, str] = {
    "guest boots": "boot",
    "kubeadm init": "init",
    "kubeadm join": "join",
    "node becomes Ready": "kubelet",
    "WriteImage": "write",
    "BootMedia": "insert_media",
    "PowerOff": "power_off",
}
"""What a timeline calls a stretch of time, and the duration of the simulated world (`Ranges`) that it is."""
TRIES = " (try "


class Taken(msgspec.Struct, frozen=True):
    """How long something took."""

    seconds: tuple[float, ...]

    @property
    def range(self) -> tuple[float, float]:
        """From the shortest to the longest that was seen."""
        return min(self.seconds), max(self.seconds)


def taken(timelines: Iterable[Mapping[str, Any]]) -> dict[str, Taken]:
    """What the timelines tell, as `bedplate timeline -o json` gives them. What goes on still is left out."""
    found: dict[str, list[float]] = {}
    for told in timelines:
        if not told.get("complete"):
            continue
        for span in told.get("spans") or ():
            name = SPANS.get(str(span.get("what", "")).partition(TRIES)[0])
            if name is not None:
                found.setdefault(name, []).append(round(float(span["seconds"]), 2))
    return {name: Taken(tuple(sorted(seconds))) for name, seconds in sorted(found.items())}


def calibrated(profile: Profile, found: Mapping[str, Taken], *, emulated: bool) -> Profile:
    """The fleet with those durations; others that it had stay.

    Args:
        emulated: Guests ran under software emulation.
    """
    durations = {**profile.durations, **{name: t.range for name, t in found.items()}}
    return msgspec.structs.replace(profile, durations=durations, emulated=profile.emulated or emulated)


def with_overheads(profile: Profile, found: Mapping[str, Measured]) -> Profile:
    """The fleet with VMs' overheads as they were measured; others that it had stay."""
    made = {
        row: Overhead(
            times=Ratio(round(m.times.low, 4), round(m.times.mid, 4), round(m.times.high, 4)),
            origin=m.origin,
        )
        for row, m in found.items()
    }
    return msgspec.structs.replace(profile, overheads={**profile.overheads, **made})
