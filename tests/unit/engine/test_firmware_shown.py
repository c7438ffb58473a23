"""What a bare server's status and `why` say of its firmware, and that an edited matrix is seen at once."""

from __future__ import annotations

from bedplate.engine.explain import why
from bedplate.model.ids import key
from bedplate.model.kinds.firmware import CompatibilityMatrix, CompatibilityMatrixSpec, SupportedFirmware
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.meta import Condition, ObjectMeta
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator


def matrix(**bounds: str) -> CompatibilityMatrix:
    entry = SupportedFirmware(vendor="Sim", component="bios", note="hangs at reboot", **bounds)
    return CompatibilityMatrix(metadata=ObjectMeta(name="lab"), spec=CompatibilityMatrixSpec(entries=(entry,)))


def shown(sim: Simulator) -> tuple[Server, Condition | None]:
    server = sim.store.objects[key("server", "bare1")]
    assert isinstance(server, Server)
    return server, next((c for c in server.status.conditions if c.type == "FirmwareSupported"), None)


def test_firmware_is_judged_by_the_matrices_as_they_are_now() -> None:
    world = fleet.world(1)
    objects = fleet.infrastructure(world)
    world.add_bare("bare1")
    sim = Simulator(world, seed=1)
    sim.apply(*objects, fleet.bare("bare1"))
    sim.start_controller()
    sim.run(seconds=6_000)
    server, condition = shown(sim)
    assert server.status.metal is not None
    [found] = server.status.metal.firmware
    assert (found.component, found.version, found.verdict) == ("bios", "2.10.2", "unknown")
    assert condition is None, "nobody keeps a matrix"
    number = sim.engine.blueprint.number

    sim.apply(matrix(minimum="2.9"))
    sim.run(seconds=5)
    _, condition = shown(sim)
    assert condition is not None
    assert condition.status == "True"

    sim.apply(matrix(minimum="2.11"))
    sim.run(seconds=5)
    server, condition = shown(sim)
    said = "bios has 2.10.2, supported is 2.11 or newer (matrix lab; hangs at reboot)"
    assert condition is not None
    assert (condition.status, condition.reason, condition.message) == ("False", "NotSupported", said)
    assert server.status.metal is not None
    [found] = server.status.metal.firmware
    assert (found.verdict, found.wanted, found.matrix) == ("unsupported", "2.11 or newer", "lab")
    told = why(sim.engine, "Server", "", "bare1")
    assert told is not None
    assert f"its firmware is not supported: {said}" in told["sentences"]
    assert server.status.metal.state == "available"
    assert sim.engine.blueprint.number == number, "firmware is shown, and nothing is done about it"
