"""Names, addresses and the state file of a lab."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from bedplate.lab import config, processes
from bedplate.lab.config import LabNetwork, LabState
from bedplate.lab.errors import LabError

UID = "6a0f6f0e-7d3f-4d5c-9a55-0f4a6a1c2b3d"


def test_each_hypervisor_has_a_name_an_address_and_an_identity_of_its_own() -> None:
    state = LabState(uid=UID, network=LabNetwork())
    made = [config.new_hypervisor(state, index) for index in range(config.MOST_HYPERVISORS)]
    assert [one.name for one in made[:2]] == ["hv1", "hv2"]
    assert [one.address for one in made[:2]] == ["10.88.0.11", "10.88.0.12"]
    for field in ("name", "address", "mac", "host_uuid"):
        assert len({getattr(one, field) for one in made}) == len(made)
    assert made[0] == config.new_hypervisor(state, 0)
    other = LabState(uid="0b2c1f9e-3c0f-4a57-8a0b-7a8f4a0e5d11", network=LabNetwork())
    assert config.new_hypervisor(other, 0).host_uuid != made[0].host_uuid


def test_hypervisors_machines_and_control_planes_never_share_an_address() -> None:
    network = LabNetwork()
    last = network.first_hypervisor + config.MOST_HYPERVISORS - 1
    assert network.first_hypervisor > 1
    assert last < network.machines[0] <= network.machines[1] < network.vips[0] <= network.vips[1] < 255
    assert (network.gateway, network.machine_range, network.vip_range) == (
        "10.88.0.1",
        "10.88.0.100-10.88.0.199",
        "10.88.0.200-10.88.0.219",
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (LabNetwork(cidr="10.88.0.0/25"), "too small"),
        (LabNetwork(cidr="10.88.0.1/24"), "no IPv4 network"),
        (LabNetwork(cidr="fd00::/64"), "no IPv4 network"),
        (LabNetwork(mtu=100), "MTU 100"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_the_reason(network: LabNetwork, said: str) -> None:
    with pytest.raises(LabError, match=said):
        network.check()


@pytest.mark.parametrize("name", ["", "Lab", "a/b", "..", "-a", "a-", "x" * 21])
def test_a_name_that_no_folder_or_cgroup_should_have_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot be named"):
        config.check_name(name)


def test_a_folder_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(LabError, match="too long for the sockets"):
        config.check_folder(Path("/srv") / ("x" * 80))
    assert len(b"/hv32/run/libvirt/libvirt-admin-sock") + config.MOST_FOLDER_BYTES <= 107


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(LabError, match="no port"):
        config.check_ports({8443: port})


def test_the_state_file_is_read_back_as_it_was(tmp_path: Path) -> None:
    assert config.load(tmp_path) is None
    state = LabState(uid=UID, network=LabNetwork(), relays={"8443": 18443})
    state.hypervisors["hv1"] = config.new_hypervisor(state, 0)
    config.save(tmp_path, state)
    assert config.load(tmp_path) == state
    assert os.listdir(tmp_path) == [config.STATE_FILE]


def test_a_state_file_of_another_version_or_none_is_named(tmp_path: Path) -> None:
    state = LabState(uid=UID, network=LabNetwork(), version=99)
    (tmp_path / config.STATE_FILE).write_bytes(msgspec.json.encode(state))
    with pytest.raises(LabError, match="version 99"):
        config.load(tmp_path)
    (tmp_path / config.STATE_FILE).write_text("[]")
    with pytest.raises(LabError, match="cannot be read"):
        config.load(tmp_path)


def test_a_process_is_known_by_more_than_its_id() -> None:
    own = processes.identify(os.getpid())
    assert own is not None
    assert processes.alive(own)
    assert not processes.alive(msgspec.structs.replace(own, started=own.started + 1))
    assert not processes.alive(msgspec.structs.replace(own, boot="another boot"))
    assert not processes.alive(None)
