"""Leases on shared disk pools and the watchdog, with the times of `bedplate.model.leases`.

A renewal is no event, only the end of renewals is: from then on timers run for giving up, for expiry and for the
watchdog. An agent that can't renew ends the pool's guests; where it can't end them, or is not there, the watchdog is
not fed and cuts the server's power. It is armed with the first guest whose disk lies on a shared pool. A lease that
was lost lets no guest run until it is renewed and a controller was spoken with since: it may have placed the machines
elsewhere meanwhile.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from bedplate.model import leases as times
from bedplate.model.ids import ServerName
from bedplate.model.inventory import LeaseView
from bedplate.sim.things import Process, SimDomain, SimLease, SimPool, SimServer

if TYPE_CHECKING:
    from bedplate.sim.world import World

WITNESSES = 8
"""So many connected servers at least tell of each lease, all where there are fewer. Real agents all tell; that would
be a million views of a thousand servers, and one witness is as good as another."""
TOO_SLOW = 10.0
"""Times by which a pool is slow from which on renewals come too late."""
RETRY = 0.5
"""Seconds after which an agent tries again to end guests that could not be killed."""
SPEAK = 0.5
"""Seconds until an agent that lost a lease and renews it again has connected anew."""
TAKE_OVER = times.GIVE_UP + times.WATCHDOG
"""Seconds without a renewal for which the successor of a killed agent still finds the watchdog's guests guarded."""


def refresh(world: World, server: SimServer) -> None:
    """See which leases the server's agent can renew, after anything that it depends on has changed."""
    if not server.leases:
        return
    for name, lease in server.leases.items():
        able = _able(server, server.pools[name])
        if able == lease.renewing:
            continue
        lease.turns += 1
        if able:
            _renewed(world, server, name, lease)
        else:
            lease.renewing = False
            lease.last = lease.since + (world.now - lease.since) // times.RENEW * times.RENEW
            world.spawn(_give_up(world, server, name, lease, lease.turns))
            world.spawn(_expire(world, server, name, lease, lease.turns))
    _look_out(world, server)
    feed(world, server)


def _renewed(world: World, server: SimServer, pool: str, lease: SimLease) -> None:
    """Renewals begin, perhaps too late for the guests that run: then these are ended all the same."""
    limit = TAKE_OVER if server.restarted else times.GIVE_UP
    late = lease.last and world.now - lease.last >= limit
    if late and not lease.lost:
        lease.lost = True
        world.spawn(_end(world, server, pool, lease))
    lease.renewing, lease.since, lease.guarded = True, world.now, server.guarded
    if lease.lost and server.connected:
        world.spawn(_speak(world, server, lease.turns, lease))
    _tell(world, server, pool)


def _speak(world: World, server: SimServer, turn: int, lease: SimLease) -> Process:
    """An agent that lost a lease connects anew: what it was told before is of the past."""
    yield SPEAK
    if server.connected and lease.turns == turn and lease.lost:
        spoken(world, server)
        world.linked(server)


def spoken(world: World, server: SimServer) -> None:
    """A controller has taken the agent on anew: on pools whose lease is renewed guests may run again."""
    for name, lease in server.leases.items():
        if lease.lost and lease.renewing and not _guests(server, name):
            lease.lost = lease.ended = False
            world.touch_lease(server, name, server.name)


def permits(server: SimServer, pool: SimPool) -> bool:
    """True where a guest may start on the pool."""
    lease = server.leases.get(pool.name) if pool.shared else None
    return lease is None or (lease.renewing and not lease.lost)


def arm(world: World, server: SimServer) -> None:
    """A guest starts on a shared pool: from now on the watchdog guards the server."""
    if not server.guarded:
        server.guarded = True
        for name, lease in server.leases.items():
            lease.guarded = lease.guarded or lease.renewing
            _tell(world, server, name)
        feed(world, server)


def _able(server: SimServer, pool: SimPool) -> bool:
    """A pool that is too slow is as good as gone: a renewal takes a fraction of a second on a healthy one."""
    return server.alive and server.agent and server.storage and not pool.gone and pool.slow < TOO_SLOW


def _expire(world: World, server: SimServer, pool: str, lease: SimLease, turn: int) -> Process:
    yield max(0.0, lease.last + times.EXPIRY - world.now)
    if lease.turns == turn:
        _tell(world, server, pool)


def _give_up(world: World, server: SimServer, pool: str, lease: SimLease, turn: int) -> Process:
    """An agent that could not renew for too long ends the pool's guests, or tries to until the watchdog does."""
    yield max(0.0, lease.last + times.GIVE_UP - world.now)
    if lease.turns == turn and server.alive and server.agent:
        lease.lost = True
        yield from _end(world, server, pool, lease)


def _end(world: World, server: SimServer, pool: str, lease: SimLease) -> Process:
    """End the pool's guests: their processes are killed, without libvirt."""
    boot = server.boots
    while lease.lost and not lease.ended and server.boots == boot and server.alive and server.agent:
        yield world.durations.draw(world.durations.ranges.kill_guests)
        if not lease.lost:  # there was none to end, and guests may run again
            return
        if not (server.stuck and _guests(server, pool)) and server.boots == boot and server.alive and server.agent:
            _end_guests(world, server, pool)
            lease.ended = True
            world.touch_lease(server, pool, server.name)
            if lease.renewing and server.connected:
                world.spawn(_speak(world, server, lease.turns, lease))
        feed(world, server)
        if not lease.ended:
            yield RETRY


def _end_guests(world: World, server: SimServer, pool: str) -> None:
    ended = _guests(server, pool)
    if ended:
        world.say("world", f"{server.name} lost its lease on {pool} and ends its {len(ended)} guests there")
    for domain in ended:
        world.set_state(server, domain, "shutoff")


def _guests(server: SimServer, pool: str) -> list[SimDomain]:
    live = (d for d in server.domains.values() if d.state in {"running", "paused"})
    return [d for d in live if (d.hardware or d.entry).disk_pool == pool]


# --- the watchdog -------------------------------------------------------------------------------------------------


def feed(world: World, server: SimServer) -> None:
    """See whether the agent does its duty, for as long as which it feeds the watchdog."""
    fed = not server.guarded or not server.powered or not server.booted or _dutiful(server)
    if fed == server.fed:
        return
    server.fed = fed
    server.watches += 1
    if not fed:
        world.spawn(_watchdog(world, server, server.watches))


def _dutiful(server: SimServer) -> bool:
    late = (name for name, lease in server.leases.items() if lease.lost and not lease.ended)
    return server.agent and not server.frozen and not any(_guests(server, name) for name in late)


def _watchdog(world: World, server: SimServer, watch: int) -> Process:
    yield times.WATCHDOG
    if server.watches == watch and not server.fed:
        world.cut_power(server, "its watchdog was not fed")


# --- witnesses ----------------------------------------------------------------------------------------------------


def _look_out(world: World, server: SimServer) -> None:
    """See whether the server can tell of others' leases: only while its own are renewed."""
    sees = bool(server.leases) and all(lease.renewing for lease in server.leases.values())
    if sees == (server.witnessing < float("inf")):
        return
    server.witnessing = world.now if sees else float("inf")
    if not sees:
        stand_in(world, server)
    else:
        world.spawn(_first_look(world, server, world.now))


def _first_look(world: World, server: SimServer, since: float) -> Process:
    """What a new witness has not seen renewed for the whole time has expired to it."""
    yield times.EXPIRY
    if server.witnessing != since:
        return
    for pool, holder in sorted(server.watched):
        world.touch_lease(world.servers[holder], pool, server.name)


def assign(world: World, holder: SimServer) -> None:
    """Have enough connected servers tell of a server's leases. Who began to tell goes on."""
    for pool, lease in holder.leases.items():
        able = sum(1 for name in lease.witnesses if _could_tell(world.servers[name]))
        ring = _ring(world, pool) if able < WITNESSES else []
        start = zlib.crc32(holder.name.encode())
        for offset in range(len(ring)):
            name = ring[(start + offset) % len(ring)]
            if name == holder.name or name in lease.witnesses or not _could_tell(world.servers[name]):
                continue
            lease.witnesses.add(name)
            world.servers[name].watched.add((pool, holder.name))
            world.touch_lease(holder, pool, name)
            able += 1
            if able >= WITNESSES:
                break


def stand_in(world: World, gone: SimServer) -> None:
    """Where a server that told of leases can't be heard any more, others tell."""
    for _, holder in sorted(gone.watched):
        assign(world, world.servers[holder])


def _could_tell(server: SimServer) -> bool:
    return server.connected and server.witnessing < float("inf")


def _ring(world: World, pool: str) -> list[ServerName]:
    """A pool's servers in an order that has nothing to do with racks."""
    names = world.sharers[pool]
    ring = world.rings.get(pool)
    if ring is None or len(ring) != len(names):
        ring = world.rings[pool] = sorted(names, key=lambda n: zlib.crc32(n.encode()))
    return ring


def _tell(world: World, holder: SimServer, pool: str) -> None:
    assign(world, holder)
    world.touch_lease(holder, pool, holder.name)
    for witness in sorted(holder.leases[pool].witnesses):
        world.touch_lease(holder, pool, witness)


def view(world: World, holder: SimServer, pool: str, witness: SimServer) -> LeaseView | None:
    """What the witness tells of the lease now; None where it can't say."""
    lease = holder.leases.get(pool)
    if lease is None:
        return None
    renewed = world.now if lease.renewing else lease.last
    if witness is holder:
        held = not lease.lost
        if lease.lost and not lease.ended:
            return None
    elif not witness.witnessing <= world.now:
        return None
    else:
        held = renewed + times.EXPIRY > world.now
        if renewed < witness.witnessing:  # it never saw it renewed; it counts from its own first look
            if witness.witnessing + times.EXPIRY > world.now:
                return None
            held = False
    return LeaseView(
        disk_pool=pool,
        server=holder.name,
        witness=witness.name,
        held=held,
        boot_id=f"boot-{holder.name}-{holder.boots}",
        guarded=lease.guarded,
        renewed=lease.since if lease.renewing else lease.last,
    )


def told_by(world: World, witness: SimServer) -> list[LeaseView]:
    """All leases that a server tells of when its agent connects: its own, and those that it is a witness of."""
    watched = [(pool, witness.name) for pool in witness.leases] + sorted(witness.watched)
    seen = (view(world, world.servers[holder], pool, witness) for pool, holder in watched)
    return [v for v in seen if v is not None]
