"""What steps do to disks in the simulated world, as the real agent does it; what another store made is left alone."""

from __future__ import annotations

from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import Digest, MachineUid
from bedplate.model.steps import DeleteRetained, Done, DropImage, Failed, PullImage
from bedplate.sim import truth, views
from bedplate.sim.things import SimDomain, SimPool, SimServer, SimVolume
from bedplate.sim.world import World


def pool_of(server: SimServer, name: str) -> SimPool | Failed:
    """A server's disk pool, where it can be read."""
    pool = server.pools.get(name)
    if pool is None:
        return Failed(reason="PoolMissing", message=f"disk pool {name} is not served by {server.name}")
    if pool.gone or (pool.shared and not server.storage):
        return Failed(reason="DiskFailed", message=f"disk pool {name} can't be read on {server.name}: I/O error")
    return pool


def have(world: World, server: SimServer, pool: SimPool, *digests: Digest) -> Failed | None:
    """Have image files in a pool's cache, from the controller where they are not there yet."""
    wanted = {d for d in digests if d} - pool.images
    for digest in sorted(wanted & world.lost_images):
        return Failed(reason="ImageNotFound", message=f"the controller has no image file {digest}")
    if wanted and pool.full:
        return Failed(reason="DiskFull", message=f"disk pool {pool.name} has no room: make room in it")
    if wanted:
        pool.images |= wanted
        world.touch_pool(server, pool)
    return None


def drop_image(world: World, server: SimServer, step: DropImage) -> Failed | Done:
    """Delete an image's file that no disk stands on."""
    pool = pool_of(server, step.disk_pool)
    if isinstance(pool, Failed):
        return pool
    if step.digest not in pool.images:
        return Done(message=f"image file {step.digest} was not there")
    if pool.used_by[step.digest] > 0:
        return Failed(reason="ImageInUse", message=f"a disk stands on image file {step.digest}: it stays")
    pool.images.discard(step.digest)
    truth.dropped_image(world, pool, step.digest)
    world.touch_pool(server, pool)
    return Done(message=f"image file {step.digest} is deleted")


def own_domain(world: World, server: SimServer, m: MachineEntry) -> SimDomain | Failed | None:
    """The machine's domain; what another store made is left alone."""
    domain = server.domains.get(m.uid)
    if domain is not None and domain.store != world.store:
        message = f"the domain of {m.name} was not made by this store; it is left alone"
        return Failed(reason="NotOurs", message=message, permanent=True)
    return domain


def own_volume(world: World, disks: dict[MachineUid, SimVolume], uid: MachineUid) -> SimVolume | Failed | None:
    """A machine's disk; what another store made is left alone."""
    volume = disks.get(uid)
    if volume is not None and volume.store != world.store:
        message = f"the disk of {uid} was not made by this store: move it away if it is not needed"
        return Failed(reason="NotOurs", message=message, permanent=True)
    return volume


def pull(world: World, server: SimServer, step: PullImage) -> Failed | Done:
    """Have an image's files in a pool."""
    pool = pool_of(server, step.disk_pool)
    if isinstance(pool, Failed):
        return pool
    failed = have(world, server, pool, step.image.disk, step.image.kernel, step.image.initrd)
    return failed or Done(message=f"image {step.image.name} is in disk pool {pool.name}")


def create_volume(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    """Make a machine's disk; one that is there is kept, and taken over where the pool is shared."""
    pool = pool_of(server, m.disk_pool)
    if isinstance(pool, Failed):
        return pool
    missing = have(world, server, pool, m.image.disk)
    if missing is not None:
        return missing
    kept = own_volume(world, pool.volumes | server.volumes, m.uid)
    if isinstance(kept, SimVolume):
        world.take_over(server, kept, m.generation)
    if kept is not None:
        return kept if isinstance(kept, Failed) else None
    if m.carried:
        return nothing_to_take_over(m)
    if m.image.virtual_size > m.disk_mib << 20:
        message = f"the disk of {m.name} has {m.disk_mib} MiB, image {m.image.name} more inside: give it more"
        return Failed(reason="DiskTooSmall", message=message, permanent=True)
    if pool.full or pool.used_mib + m.disk_mib > pool.capacity_mib:
        return Failed(reason="DiskFull", message=f"disk pool {pool.name} has no room: make room in it")
    if m.uid in server.retained or m.uid in world.disks:
        world.violation("rule 1", f"a second disk for {m.name} ({m.uid}) was made on {server.name}")
    truth.standing_in(world, m)
    volume = SimVolume(
        uid=m.uid,
        server=server.name,
        pool=pool,
        size_mib=m.disk_mib,
        store=world.store,
        generation=m.generation,
        images=m.image.pooled,
    )
    world.add_volume(server, volume)
    return None


def nothing_to_take_over(m: MachineEntry) -> Failed:
    """The disk that was made on another server is not there."""
    return Failed(reason="VolumeMissing", message=f"there is no disk of {m.name} in {m.disk_pool} to take over")


def _must_be_gone(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    if isinstance(own_domain(world, server, m), SimDomain):
        return Failed(reason="DomainPresent", message=f"the domain of {m.name} is still there: remove it first")
    return None


def delete_volume(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    """Delete a machine's disk once its domain is gone."""
    present = _must_be_gone(world, server, m)
    if present is not None:
        return present
    pool = pool_of(server, m.disk_pool)
    if isinstance(pool, Failed):
        return pool
    volume = own_volume(world, server.volumes, m.uid)
    if not isinstance(volume, SimVolume):
        return volume
    if m.retain_disk:
        world.violation("rule 9", f"the disk of {m.name} was deleted though it is to be kept")
    lost = truth.last_copy(world, m.uid)
    if lost:
        world.violation("rule 9", f"deleting the disk of {m.name} lost the last copy of {lost}")
    world.drop_volume(server, m.uid)
    return None


def retain(world: World, server: SimServer, m: MachineEntry) -> Failed | None:
    """Move a machine's disk to the retained ones."""
    present = _must_be_gone(world, server, m)
    if present is not None:
        return present
    pool = pool_of(server, m.disk_pool)
    if isinstance(pool, Failed):
        return pool
    found = own_volume(world, server.volumes, m.uid)
    if isinstance(found, Failed):
        return found
    if found is None and m.uid in server.retained:
        return None
    volume = world.drop_volume(server, m.uid)
    if volume is None:
        return Failed(reason="VolumeMissing", message=f"there is no disk of {m.name} to retain", permanent=True)
    volume.pool.used_mib += volume.size_mib  # it is moved, not deleted
    world.stands(server, volume)
    server.retained[m.uid] = volume
    world.touch_retained(server, m.uid)
    return None


def delete_retained(world: World, server: SimServer, step: DeleteRetained) -> Failed | Done:
    """Delete a retained disk."""
    pool = pool_of(server, step.disk_pool)
    if isinstance(pool, Failed):
        return pool
    found = own_volume(world, server.retained, step.uid)
    if isinstance(found, Failed):
        return found
    volume = server.retained.pop(step.uid, None)
    if volume is not None:
        volume.pool.used_mib -= volume.size_mib
        world.stands(server, volume, -1)
    world.touch_retained(server, step.uid)
    return Done(views=(views.retained_view(world, server, step.uid),))
