"""`bedplate measure` in the lab: a hypervisor and a virtual machine on it, by the real agent and a real guest agent.

Guests are emulated here, so that what is stored is checked, and that it enters no comparison; not how fast anything is.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.conftest import World

from bedplate.model.measuring import BENCHMARKS

pytestmark = pytest.mark.lab

MACHINE = """
apiVersion: bedplate.dev/v1alpha1
kind: VirtualMachine
metadata: {name: probe}
spec: {image: IMAGE, cpu: 1, memory: 1Gi, disk: 6Gi, diskPool: local}
"""
METRICS = {i.name: i.unit for b in BENCHMARKS for i in b.metrics}


@pytest.fixture
def probe(world: World) -> Iterator[dict[str, Any]]:
    """A machine that runs the node image, which has a guest agent and no tools."""
    image = next(i["metadata"]["name"] for i in world.objects("images") if i["spec"].get("kubernetesVersion"))
    world.bedplate("apply", "-f", "-", "--wait", "--timeout", "600s", stdin=MACHINE.replace("IMAGE", image))
    yield world.object("vm", "probe")
    world.bedplate("delete", "vm/probe", "--wait", "--timeout", "180s")


def in_guest(world: World, server: str, path: str) -> bool:
    """Whether a path is there, asked of the guest's own agent behind Bedplate's back."""
    domain = world.virsh(server, "list", "--name").split()[0]
    asked = f'{{"execute": "guest-file-open", "arguments": {{"path": "{path}", "mode": "r"}}}}'
    done = world.lab().exec(server, ["virsh", "-q", "qemu-agent-command", domain, asked], timeout=60)
    assert done.returncode == 0 or "No such file" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_server_and_its_machine_are_measured_and_nothing_of_it_stays(
    world: World, probe: dict[str, Any], tmp_path: Path
) -> None:
    server = probe["status"]["server"]
    argv = ["measure", f"server/{server}", "vm/probe", "--repetitions", "1", "--seconds", "1", "--scratch", "16Mi"]
    said = world.bedplate(*argv, "--name", "tiny")
    assert "virtualmachine/probe ran under software EMULATION" in said
    found = world.object("measurement", "tiny")
    assert found["status"]["phase"] == "Complete"
    assert found["status"]["conditions"][0]["status"] == "True"
    native, guest = found["status"]["targets"]
    assert (native["target"], native["substrate"], native["emulated"]) == (f"server/{server}", "server", False)
    assert (guest["target"], guest["substrate"], guest["emulated"]) == ("virtualmachine/probe", "vm", True)
    assert guest["server"] == server
    assert native["facts"]["kernel"] != guest["facts"]["kernel"]
    assert "TCG" in guest["facts"]["cpuModel"]
    for target in (native, guest):
        assert {m["name"]: m["unit"] for m in target["metrics"]} == METRICS
        for metric in target["metrics"]:
            good = [s for s in metric["samples"] if not s.get("disturbed")]
            assert metric["median"] > 0
            assert len(good) == 1 or len(metric["samples"]) == 4, "repeated until one was undisturbed, or given up"
        assert set(target["commands"]) == {b.name for b in BENCHMARKS}
    fast, slow = (next(m["median"] for m in t["metrics"] if m["name"] == "cpu-one") for t in (native, guest))
    assert fast > slow, "an emulated processor is no faster than the one that emulates it"
    # Nothing stays, on either.
    assert not in_guest(world, server, f"/var/tmp/bedplate-measure/{found['spec']['kit'][7:23]}/run")
    state = world.lab().exec(server, ["ls", "/var/lib/bedplate/agent"], timeout=60).stdout.split()
    assert "measure" not in state
    # Listed as any object, and refused where it would mislead.
    assert f"server/{server},virtualmachine/probe" in world.bedplate("get", "measurements")
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(yaml.safe_dump({"servers": [{"name": "s", "count": 2, "cpus": 8, "memory": "32Gi"}],
                                     "clusters": []}))  # fmt: skip
    refused = world.bedplate("fleet", "calibrate", "-f", str(fleet), "--measurement", "tiny", check=False)
    assert "virtualmachine/probe ran under software emulation (TCG)" in refused
    world.bedplate("delete", "measurement", "tiny")
    assert world.objects("measurements") == []


def test_a_client_that_is_killed_leaves_a_measurement_that_goes_on(world: World, probe: dict[str, Any]) -> None:
    argv = ["measure", "vm/probe", "--only", "cpu", "--repetitions", "1", "--seconds", "2", "--name", "cut"]
    program = shutil.which("timeout")
    assert program
    from tests.e2e.conftest import BEDPLATE

    subprocess.run([program, "-s", "KILL", "20", *BEDPLATE, *argv], env=world.environment, check=False)
    kept = world.object("measurement", "cut")
    world.bedplate("measure", "--resume", "cut")
    whole = world.object("measurement", "cut")
    assert whole["status"]["phase"] == "Complete"
    before = [t["facts"] for t in kept.get("status", {}).get("targets", [])]
    assert [t["facts"] for t in whole["status"]["targets"]][: len(before)] == before
    world.bedplate("delete", "measurement", "cut")
