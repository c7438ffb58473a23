"""Agents' connections to the controllers, and the networks that they, the disks and the guests depend on."""

from __future__ import annotations

from bedplate.sim import leases
from bedplate.sim.things import SimServer
from bedplate.sim.world import World


def refresh(world: World, server: SimServer) -> None:
    """See whether the agent's connection stands, after anything that it depends on has changed; tell of a change."""
    identity = server.host_uuid == server.enrolled and (server.bare is None or server.bare.known)
    stands = server.alive and server.agent and server.management and identity
    if stands == server.connected:
        return
    server.connected = stands
    server.half = ""
    server.links += 1
    if stands:
        server.linked = world.now
        leases.assign(world, server)
    else:
        leases.stand_in(world, server)
    world.linked(server)
