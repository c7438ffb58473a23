"""How long things take in the simulated world: drawn from ranges by a seed, the same seed the same times.

Each range says where it comes from. Those of steps and guests are what was seen in the lab under software emulation;
they matter for the order of things, not as promises.
"""

from __future__ import annotations

import random

import msgspec

from bedplate.model.steps import (
    Bootstrap,
    CreateVolume,
    DeleteNode,
    DeleteRetained,
    DeleteVolume,
    DrainNode,
    DropImage,
    EraseDisks,
    ForgetNode,
    InspectServer,
    InstallAddons,
    MakeSecrets,
    PullImage,
    RunTests,
    StopDomain,
)

Range = tuple[float, float]


_STEPS: dict[str, Range] = {
    PullImage.__name__: (4.0, 20.0),
    CreateVolume.__name__: (0.1, 1.0),
    StopDomain.__name__: (2.0, 8.0),
    DeleteVolume.__name__: (0.05, 0.3),
    DeleteRetained.__name__: (0.05, 0.3),
    DropImage.__name__: (0.05, 0.3),
    MakeSecrets.__name__: (0.3, 1.0),
    Bootstrap.__name__: (1.0, 4.0),
    InstallAddons.__name__: (1.0, 5.0),
    DrainNode.__name__: (1.0, 20.0),
    DeleteNode.__name__: (0.05, 0.3),
    ForgetNode.__name__: (0.05, 0.3),
    InspectServer.__name__: (10.0, 60.0),
    RunTests.__name__: (60.0, 600.0),
    EraseDisks.__name__: (5.0, 900.0),
}


class Ranges(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, from and to."""

    boot: Range = (12.0, 30.0)
    """Start to guest agent."""
    init: Range = (90.0, 140.0)
    join: Range = (20.0, 45.0)
    kubelet: Range = (3.0, 12.0)
    """From a joined machine's user space to a Ready node."""
    insert_media: Range = (1.0, 20.0)
    """A BMC's inserting a medium and setting what is booted (sushy-tools: 0.5 s; real ones fetch it first)."""
    write: Range = (60.0, 300.0)
    """An image on a bare server's disk, verified (seen: 112 s for 2.9 GB and 235 s to read it back, under load)."""
    image_link: float = 1100.0
    """MiB that the controller sends of images each second, in all: what 10 Gbit/s carry (1,192 MiB/s at most)."""
    step: Range = (0.05, 0.6)
    """A step that has no range of its own."""
    noticed: Range = (3.0, 5.0)
    """A cut link until the controller takes the agent's connection for lost (seen in the lab: 4.0 s)."""
    server_boot: Range = (600.0, 1200.0)
    """Power on to a connected agent: metal takes over 15 min to be back (openshift-docs, update duration)."""
    power_off: Range = (0.5, 3.0)
    """Order to dead server (sushy-tools: 2-3 s; a power cut of a namespace: 40 ms)."""
    node_lost: Range = (40.0, 50.0)
    """Kubernetes takes a silent node for not ready (kubernetes/website `nodes.md`)."""
    node_back: Range = (1.0, 10.0)
    """Heard again until Ready: a kubelet reports every 10 s (its `nodeStatusUpdateFrequency`)."""
    toleration: Range = (300.0, 300.0)
    """NotReady until its pods are given up (kubernetes/website `nodes.md`)."""
    force_detach: Range = (360.0, 360.0)
    """A volume of a pod that was given up until it is detached unasked (kubernetes/website `nodes.md`)."""
    pod_start: Range = (2.0, 8.0)
    """Bound to answering, its image there."""
    pod_end: Range = (1.0, 30.0)
    """An evicted pod's own grace: Kubernetes' default is 30 s at most."""
    pod_gc: Range = (20.0, 40.0)
    """Pods of a Node object that is gone until they are collected: looked for every 20 s, twice (podgc)."""
    kill_guests: Range = (0.2, 1.0)
    """An agent's giving up of a lease until the pool's guests have ended (model/leases.py: cutting takes a second)."""
    move_setup: Range = (0.5, 1.5)
    """What a live migration takes beside copying memory (seen: an idle 2 GiB guest moves in 2.0 s)."""
    dirty_share: Range = (0.002, 0.03)
    """Share of its memory that a guest rewrites each second (seen: 200 MiB of 2 GiB without end converges in 7 s)."""
    steps: dict[str, Range] = msgspec.field(default_factory=lambda: dict(_STEPS))


class Durations:
    """Draws times."""

    def __init__(self, seed: int, ranges: Ranges | None = None, *, middle: bool = False) -> None:
        self._random = random.Random(seed)
        self.ranges = ranges or Ranges()
        self._middle = middle

    def begin_anew(self, seed: int) -> None:
        """From now on, chance is another's."""
        self._random = random.Random(seed)

    def draw(self, between: Range) -> float:
        """A time out of the range; its middle where nothing is to be left to chance."""
        return sum(between) / 2 if self._middle else self._random.uniform(*between)

    def step(self, name: str) -> float:
        """A time for a step of that kind."""
        return self.draw(self.ranges.steps.get(name, self.ranges.step))
