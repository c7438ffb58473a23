"""Images' files in disk pools: what nothing needs goes, and never what a disk stands on, whatever happens."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from bedplate.model.ids import Digest, key
from bedplate.model.kinds.infrastructure import Image
from bedplate.model.policy import Policy
from bedplate.model.steps import DropImage
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.world import World

KEPT = Policy().image_kept
WORDS = ("make", "unmake", "forget", "declare", "lose", "end", "cut", "kill", "pause", "resume")


def cached(world: World, digest: Digest) -> list[str]:
    return sorted({p.name for s in world.servers.values() for p in s.pools.values() if digest in p.images})


def standing(world: World) -> set[Digest]:
    """What disks stand on, retained ones too, from the disks themselves."""
    disks = [v for s in world.servers.values() for v in [*s.volumes.values(), *s.retained.values()]]
    return {d for v in disks for d in v.images}


class Told:
    """Users and trouble, in words."""

    def __init__(self, *, shared: bool, seed: int) -> None:
        self.world = fleet.world(3, memory_mib=16_384, shared=shared, local=not shared)
        self.sim = Simulator(self.world, seed=seed)
        self.images = [fleet.image(f"own-{n}") for n in range(2)]
        self.sim.apply(*fleet.infrastructure(self.world), *self.images)
        self.sim.start_controller()
        self.sim.run(seconds=60)

    def do(self, word: str, number: int) -> None:
        image = self.images[number % len(self.images)]
        there = image.metadata.name in {i.metadata.name for i in self.declared()}
        vm = key("virtualmachine", "default", f"vm{number}")
        machines = sorted(self.sim.engine.blueprint.machines(), key=lambda m: m.uid)
        match word:
            case "make" if there:
                self.sim.apply(fleet.machine(f"vm{number}", image=image.metadata.name))
            case "unmake" if vm in self.sim.store.objects:
                self.sim.delete(vm)
            case "forget" if there:
                self.sim.delete(key("image", image.metadata.name))
            case "declare":
                self.sim.apply(image)
            case "lose" | "end" if machines:
                self.sim.end_domain(machines[number % len(machines)].uid, lose_disk=word == "lose")
            case "cut":
                self.sim.cut(f"hv{number % 3 + 1}", 4_000.0)
            case "kill":
                self.sim.kill_before(number)
            case "pause":
                self.sim.pause()
            case "resume":
                self.sim.resume()
            case _:
                pass

    def declared(self) -> list[Image]:
        return [o for o in self.sim.store.objects.values() if isinstance(o, Image)]


@example(shared=True, words=[("make", 0), ("forget", 0), ("unmake", 0)], pace=5_000, seed=1)
@example(shared=False, words=[("make", 0), ("make", 2), ("forget", 0), ("unmake", 2)], pace=3_000, seed=1)
@given(
    shared=st.booleans(),
    words=st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 3)), max_size=10),
    pace=st.sampled_from([20, 700, 3_000, 5_000]),
    seed=st.integers(0, 99),
)
def test_what_nothing_needs_goes_and_what_a_disk_stands_on_stays(
    compared: list[Any], shared: bool, words: list[tuple[str, int]], pace: int, seed: int
) -> None:
    told = Told(shared=shared, seed=seed)
    for word, number in words:
        told.do(word, number)
        told.sim.run(seconds=pace)
        if not told.sim.controller.alive:
            told.sim.start_controller()
    told.sim.resume()
    told.sim.run(seconds=3 * KEPT + 10_000)
    assert not told.world.violations
    named = {d for i in told.declared() for d in (Digest(i.spec.disk.digest),)}
    needed = named | standing(told.world) | {m.image.disk for m in told.sim.engine.blueprint.machines()}
    for image in told.images:
        digest = Digest(image.spec.disk.digest)
        assert digest in needed or not cached(told.world, digest), f"{image.metadata.name} is left"
    assert compared


def test_a_file_that_is_wanted_again_in_time_is_not_sent_again() -> None:
    told = Told(shared=True, seed=3)
    sim, image = told.sim, told.images[0]
    told.do("make", 0)
    sim.run(seconds=600)
    sim.delete(key("virtualmachine", "default", "vm0"))
    sim.delete(key("image", image.metadata.name))
    sim.run(seconds=KEPT / 2)
    assert cached(told.world, Digest(image.spec.disk.digest)) == ["shared"]
    assert [e for e in sim.engine.blueprint.entries if e.startswith("cached-image/")]
    sim.apply(image)
    sim.run(seconds=2 * KEPT)
    assert cached(told.world, Digest(image.spec.disk.digest)) == ["shared"]
    assert not [e for e in sim.engine.blueprint.entries if e.startswith("cached-image/")]
    assert not [s for s in sim.steps if isinstance(s.operation.step, DropImage)]


def test_a_retained_disk_keeps_what_it_stands_on_until_it_goes() -> None:
    told = Told(shared=False, seed=4)
    sim, digest = told.sim, Digest(told.images[0].spec.disk.digest)
    told.do("make", 0)
    sim.run(seconds=600)
    (m,) = sim.engine.blueprint.machines()
    server = told.world.servers[m.server]
    server.retained[m.uid] = kept = server.volumes[m.uid]
    told.world.stands(server, kept)
    told.do("unmake", 0)
    told.do("forget", 0)
    sim.run(seconds=3 * KEPT)
    assert not told.world.violations
    assert cached(told.world, digest) == ["local"]
    del server.retained[m.uid]
    told.world.stands(server, kept, -1)
    sim.touched()
    sim.run(seconds=2 * KEPT)
    assert cached(told.world, digest) == []


def test_events_say_that_a_file_goes_and_why() -> None:
    told = Told(shared=True, seed=5)
    told.do("make", 0)
    told.sim.run(seconds=600)
    told.do("unmake", 0)
    told.do("forget", 0)
    told.sim.run(seconds=2 * KEPT)
    said = [e.message for e in told.sim.store.events if e.about == key("diskpool", "shared")]
    for part in ("nothing needs image file", "is deleted from disk pool shared", "is gone from disk pool shared"):
        assert any(part in m for m in said), (part, said)
