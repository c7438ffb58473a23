"""What a BMC says of its server is shown before anything is booted, and held against what is found inside."""

from __future__ import annotations

from bedplate.engine.explain import why
from bedplate.model.ids import ServerName, key
from bedplate.model.kinds.infrastructure import Server
from bedplate.sim import fleet
from bedplate.sim.scenario.editing import edit_spec
from bedplate.sim.simulator import Simulator

BARE1 = ServerName("bare1")


def begun(serial: str = "") -> Simulator:
    world = fleet.world(1)
    objects = fleet.infrastructure(world)
    world.add_bare("bare1")
    world.servers[BARE1].bmc.serial = serial
    sim = Simulator(world, seed=1)
    sim.apply(*objects, fleet.bare("bare1"))
    edit_spec(sim, key("server", "bare1"), accepted=False)
    sim.start_controller()
    return sim


def shown(sim: Simulator) -> tuple[Server, str]:
    server = sim.store.objects[key("server", "bare1")]
    assert isinstance(server, Server)
    return server, next((c.message for c in server.status.conditions if c.type == "OwnBmc"), "")


def test_a_server_that_nobody_accepted_is_described_by_its_bmc() -> None:
    sim = begun()
    sim.run(seconds=600)
    server, _ = shown(sim)
    assert server.status.phase == "Enrolled"
    assert server.status.bmc is not None
    assert (server.status.bmc.vendor, server.status.bmc.memory) == ("Sim", "256Gi")
    assert len(server.status.bmc.macs) == 1
    assert not sim.world.servers[BARE1].powered, "nothing was booted for that"


def test_a_bmc_of_another_server_is_found_out_when_the_server_is_inspected() -> None:
    for serial, wrong in (("", False), ("ANOTHER", True)):
        sim = begun(serial)
        edit_spec(sim, key("server", "bare1"), accepted=True)
        sim.run(seconds=6_000)
        _, said = shown(sim)
        assert bool(said) is wrong
        if wrong:
            assert said.startswith("its BMC has the serial number ANOTHER, the server itself ")
            told = why(sim.engine, "Server", "", "bare1")
            assert told is not None
            assert said in told["sentences"]
