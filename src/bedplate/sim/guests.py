"""How a guest starts, whatever it runs on."""

from __future__ import annotations

from bedplate.sim import kubelets
from bedplate.sim.durations import Durations
from bedplate.sim.things import Process, SimDomain
from bedplate.sim.world import World

STALLED = 15.0
"""Seconds between looks at a guest that stands still while it boots."""


def boot(world: World, durations: Durations, domain: SimDomain) -> Process:
    """A guest's start: user space, then, where its disk has joined, the kubelet."""
    run, m = domain.run, domain.entry
    yield durations.draw(durations.ranges.boot)
    while world.in_run(domain, run) and not world.moves_on(domain):
        yield STALLED  # it or its server hangs, or its disk does not answer
    if not world.in_run(domain, run):
        return
    if m.image.disk in world.dead_images:
        domain.detail = "no guest agent; the console's last lines:\nKernel panic - not syncing"
        world.touch(world.servers[domain.server], m.uid)
        return
    if m.image.bootstrap == "guest-agent":
        domain.guest_agent = True
    volume = world.servers[domain.server].volumes.get(m.uid)
    joined = volume is not None and bool(volume.joined)
    if joined:
        domain.bootstrap = "done"
    world.touch(world.servers[domain.server], m.uid)
    if joined:
        yield from kubelets.start(world, domain, run)
