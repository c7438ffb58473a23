"""A cluster's SSH keys: on every machine made from then on; an edit of them moves nothing."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import msgspec

from bedplate.agent.domains import DomainFiles, domain_xml
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import StoreId
from bedplate.model.kinds.cluster import Cluster
from bedplate.model.kinds.infrastructure import Server, ServerSpec, server_labels
from bedplate.model.meta import ObjectMeta
from bedplate.sim import fleet
from bedplate.sim.simulator import Simulator
from bedplate.sim.story import Story

FIRST, SECOND = "ssh-ed25519 AAAAfirst me@example.com", "ssh-ed25519 AAAAsecond you@example.com"


def shop(*keys: str) -> Cluster:
    made = fleet.cluster()
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, ssh_keys=keys))


def test_a_clusters_keys_are_on_all_machines_made_since() -> None:
    world = fleet.world(2)
    sim = Simulator(world, seed=1)
    sim.apply(*fleet.infrastructure(world), shop(FIRST), fleet.pool(replicas=1))
    sim.start_controller()
    Story(sim).until_ready()
    before = list(sim.engine.blueprint.machines())
    assert {(m.role, m.ssh_keys) for m in before} == {("control-plane", (FIRST,)), ("worker", (FIRST,))}

    sim.apply(shop(FIRST, SECOND))
    sim.run(seconds=900)
    assert {m.uid for m in sim.engine.blueprint.machines()} == {m.uid for m in before}

    sim.apply(fleet.pool(replicas=2))
    sim.run(seconds=900)
    [new] = [m for m in sim.engine.blueprint.machines() if m.uid not in {b.uid for b in before}]
    assert new.ssh_keys == (FIRST, SECOND)
    carried = dict(s.rpartition(":")[2].split("=", 1) for s in _strings(new) if "credential" in s)
    assert base64.b64decode(carried["ssh.authorized_keys.root"]).decode() == f"{FIRST}\n{SECOND}\n"


def _strings(m: MachineEntry) -> list[str]:
    xml = domain_xml(m, store=StoreId("s"), accelerator="tcg", files=DomainFiles(disk="d", console_log="c", nvram="n"))
    return [e.text or "" for e in ElementTree.fromstring(xml).iter("entry")]


def test_selectors_match_failure_domain_and_labels() -> None:
    meta = ObjectMeta(name="hv1", labels={"disk": "nvme", "room": "b"})
    server = Server(metadata=meta, spec=ServerSpec(failure_domain={"room": "a", "rack": "r1"}))
    assert server_labels(server) == {"disk": "nvme", "room": "b", "rack": "r1"}
