"""Bare servers in the lab, with real parts throughout: from blank to a node beside virtual machines, and back.

The first story is what `make test` has time for on two emulated cores. In the second the BMCs drop one request in ten
all the while, the power goes in the middle of a write, and the controller is killed at each step.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract import tiny_guest
from tests.e2e.conftest import BEDPLATE, World, a_world

from bedplate.lab import qmp
from bedplate.lab.metal import monitor

pytestmark = pytest.mark.lab

MACHINE = """
apiVersion: bedplate.dev/v1alpha1
kind: VirtualMachine
metadata: {name: tiny}
spec: {image: tiny, cpu: 1, memory: 256Mi, disk: 1Gi, diskPool: local, match: {on: bare}}
"""
CLUSTER = (Path(__file__).parents[2] / "examples" / "demo-metal.yaml").read_text()


@pytest.fixture
def metal() -> Iterator[World]:
    """Room for a lab of its own; its servers are the test's to rack."""
    with a_world() as made:
        made.bedplate("image", "build", "--ram", timeout=3600)
        made.bedplate("image", "build", "--hypervisor", timeout=3600)
        yield made


def test_a_blank_server_becomes_a_node_and_is_given_back(metal: World) -> None:
    names = racked(metal, 1)
    metal.bedplate("server", "accept", *names, "--yes", "--wait", "--timeout", "1800", timeout=1900)
    inspected(metal, names)
    metal.bedplate("apply", "-f", "-", "--wait", "--timeout", "3000", stdin=CLUSTER, timeout=3100)
    is_a_node(metal, names)
    given_back(metal)


@pytest.mark.long
def test_a_person_looks_into_the_server_of_a_node(metal: World) -> None:
    names = racked(metal, 1)
    metal.bedplate("server", "accept", *names, "--yes", "--wait", "--timeout", "1800", timeout=1900)
    metal.bedplate("apply", "-f", "-", "--wait", "--timeout", "3000", stdin=CLUSTER, timeout=3100)
    is_a_node(metal, names)
    looked_into(metal, names[0])
    given_back(metal)


def test_a_blank_server_becomes_a_hypervisor_and_is_given_back(metal: World) -> None:
    names = racked(metal, 1)
    metal.bedplate("server", "accept", *names, "--yes", "--wait", "--timeout", "1800", timeout=1900)
    is_a_hypervisor(metal, names[0])
    says_itself_that_a_disk_fails(metal, names[0])
    is_free_again(metal, names[0])


@pytest.mark.long
def test_so_it_does_whatever_fails_meanwhile(metal: World) -> None:
    names = racked(metal, 2)
    for name in names:
        metal.bedplate("lab", "fault", "bmc", name, "--drop", "10%")
    metal.bedplate("server", "accept", *names, "--yes", "--wait", "--timeout", "2400", timeout=2500)
    inspected(metal, names)
    metal.bedplate("apply", "-f", "-", stdin=CLUSTER)
    written_through_a_power_cut_and_kills(metal, names)
    metal.bedplate("wait", "cluster/demo", "--for=condition=Ready", "--timeout", "2400", timeout=2500)
    is_a_node(metal, names)
    given_back(metal, kill=True)


def state(world: World, name: str) -> str:
    return str(world.object("server", name)["status"].get("metal", {}).get("state", ""))


def racked(world: World, count: int) -> list[str]:
    world.bedplate("lab", "up", "--hypervisors", "2", "--servers", str(count), "--server-memory", "3072", timeout=300)
    found = json.loads(world.bedplate("lab", "status", "-o", "json"))["servers"]
    lines = ["name,bmc,credentials,labels.on", *(f"{s['name']},{s['bmc_address']},lab-bmc,bare" for s in found)]
    world.bedplate("server", "add", "-f", "-", stdin="\n".join(lines))
    names = [str(s["name"]) for s in found]
    for name in names:
        assert world.object("server", name)["status"]["phase"] == "Enrolled"
    assert all(s["power"] == "off" for s in found), "nothing is booted before somebody accepts it"
    return names


def inspected(world: World, names: list[str]) -> None:
    told = {s["name"]: s for s in json.loads(world.bedplate("lab", "status", "-o", "json"))["servers"]}
    for name in names:
        seen = world.object("server", name)["status"]["metal"]
        assert {d["serial"] for d in seen["disks"]} == {d["serial"] for d in told[name]["disks"]}
        assert set(told[name]["macs"]) <= set(seen["macs"])
        assert seen["serial"] == name
        assert all("failed" not in t for t in seen["tests"])


def written_through_a_power_cut_and_kills(world: World, names: list[str]) -> None:
    used = world.until("a server is claimed", lambda: deploying(world, names))
    world.until("its image is written", lambda: task(world, used) == "write", 1200)
    world.bedplate("lab", "fault", "power-off", used)
    world.bedplate("lab", "fault", "clear", used)
    world.until("it is written again", lambda: task(world, used) == "write", 1800)
    killed(world)
    world.until("it runs from its disk", lambda: state(world, used) == "deployed", 2400)
    killed(world)


def deploying(world: World, names: list[str]) -> str | None:
    return next((n for n in names if state(world, n) == "deploying"), None)


def killed(world: World) -> None:
    world.controller().stop(signal.SIGKILL)
    world.bedplate("lab", "up", timeout=300)


def is_a_node(world: World, names: list[str]) -> None:
    machines = {m["spec"]["substrate"]: m for m in world.objects("machines") if m["spec"]["role"] == "worker"}
    assert set(machines) == {"vm", "metal"}
    assert machines["metal"]["spec"]["server"] in names
    assert machines["metal"]["status"]["phase"] == "Ready"


def looked_into(world: World, name: str) -> None:
    """A person has a shell on the node's server, with the node's disk as it was, and edits a file there; then the same
    node goes on, and is found not to be as deployed."""
    before = world.object("machine", machine_on(world, name))
    world.until("it was looked at whether it is as deployed", lambda: as_deployed(world, name), 900)
    assert as_deployed(world, name) == "True", world.bedplate("server", "drift")
    wait = ["--yes", "--wait", "--timeout", "1800"]
    world.bedplate("server", "rescue", name, *wait, timeout=1900)
    assert world.object("server", name)["status"]["metal"]["before"] == "deployed"
    assert "kubelet.conf" in said_in_shell(world, name)
    world.bedplate("server", "rescue", name, "--undo", *wait, timeout=1900)
    world.bedplate("wait", f"machine/{before['metadata']['name']}", "--for=condition=Ready", "--timeout", "900")
    assert world.object("machine", machine_on(world, name))["metadata"]["uid"] == before["metadata"]["uid"]
    kubeconfig = world.folder / "rescued.conf"
    kubeconfig.write_text(world.bedplate("kubeconfig", "demo"))
    node = ["get", "node", str(before["metadata"]["name"]), "-o", "json"]

    def takes_pods() -> bool:
        spec = json.loads(world.kubectl(kubeconfig, *node))["spec"]
        return not spec.get("unschedulable") and not spec.get("taints")

    world.until("its node takes pods again", takes_pods, 300)
    world.until("what the person did is found", lambda: as_deployed(world, name) == "False", 900)
    told = json.loads(world.bedplate("server", "drift", "-o", "json"))
    assert [s["drift"] for s in told] == [["/etc/fstab was changed"]]


def as_deployed(world: World, name: str) -> str:
    conditions = {c["type"]: c for c in world.object("server", name)["status"]["conditions"]}
    return str(conditions.get("AsDeployed", {}).get("status", ""))


def machine_on(world: World, name: str) -> str:
    found = [m for m in world.objects("machines") if m["spec"].get("server") == name]
    assert len(found) == 1
    return str(found[0]["metadata"]["name"])


def said_in_shell(world: World, name: str) -> str:
    """What the node's root holds, as a shell in the RAM system shows it. A comment is added to its fstab."""
    each = "mount $disk /mnt && ls /mnt/etc/kubernetes && echo '# mine' >> /mnt/etc/fstab; umount /mnt"
    look = f"for disk in /dev/disk/by-partuuid/*; do {each}; done"
    argv = [*BEDPLATE, "server", "console", name]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=world.environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"{look} 2>/dev/null; echo the-$((40+2))-end; exit\n".encode())
        shell.stdin.flush()
        heard = shell.stdout.read().decode(errors="replace")  # to the end: the shell exits
        assert shell.wait(60) == 0, heard
    assert "the-42-end" in heard
    return heard


def task(world: World, name: str) -> str:
    return str(world.object("server", name)["status"].get("metal", {}).get("task", ""))


def given_back(world: World, *, kill: bool = False) -> None:
    machine = next(m for m in world.objects("machines") if m["spec"]["substrate"] == "metal")
    used = str(machine["spec"]["server"])
    world.bedplate("scale", "nodepool/demo-db", "--replicas", "0")
    world.until("it is erased", lambda: state(world, used) == "erasing", 900)
    if kill:
        killed(world)
    world.until("it is there for the next", lambda: state(world, used) == "available", 1800)
    certificates = world.object("server", used)["status"]["metal"]["erasures"]
    assert certificates
    assert all(c["erased"] for c in certificates)
    for disk in disks_of(world, used):
        assert is_blank(disk), f"{disk} is not blank"
    assert not [m for m in world.objects("machines") if m["spec"]["substrate"] == "metal"]


def is_a_hypervisor(world: World, name: str) -> None:
    """It reports for duty, with a pool on its own disk and none that others share, and a machine runs on it."""
    world.bedplate("server", "role", name, "--to", "hypervisor", "--yes", "--wait", "--timeout", "1800", timeout=1900)
    status = world.object("server", name)["status"]
    assert status["phase"] == "Ready"
    assert status["bridges"] == ["br0"]
    assert [p["name"] for p in status["diskPools"]] == ["local"]
    files = tiny_guest.image_files()
    boot = ["--kernel", str(files["kernel"]), "--initrd", str(files["initrd"]), "--command-line", "console=ttyS0 quiet"]
    world.bedplate("image", "import", str(files["disk"]), "--name", "tiny", "--bootstrap", "guest-agent", *boot)
    world.bedplate("apply", "-f", "-", "--wait", "--timeout", "900", stdin=MACHINE, timeout=1000)
    assert world.object("virtualmachine", "tiny")["status"]["server"] == name


def says_itself_that_a_disk_fails(world: World, name: str) -> None:
    """QEMU's NVMe disk has a critical warning (its spare is below the threshold), of which the BMC says nothing."""
    folder = Path(world.lab().status().folder)
    ill = {"path": "/machine/peripheral/disk1", "property": "smart_critical_warning", "value": 1}
    qmp.ask(monitor(folder, name), ("qom-set", ill))

    def unwell() -> bool:
        conditions = {c["type"]: c for c in world.object("server", name)["status"]["conditions"]}
        return conditions.get("HardwareHealthy", {}).get("status") == "False"

    world.until("its agent has found it", unwell, 600)
    assert "says that it is failing: replace it" in world.bedplate("why", f"server/{name}")


def is_free_again(world: World, name: str) -> None:
    """Not while somebody's machine has its disk there."""
    world.bedplate("server", "role", name, "--to", "free", "--yes")
    world.until("it waits", lambda: "1 machine is still on it" in world.bedplate("why", f"server/{name}"), 60)
    assert world.object("virtualmachine", "tiny")["status"]["phase"] == "Running"
    world.bedplate("delete", "virtualmachine/tiny", timeout=600)
    world.until("it is there for the next", lambda: state(world, name) == "available", 1800)
    for disk in disks_of(world, name):
        assert is_blank(disk), f"{disk} is not blank"


def disks_of(world: World, name: str) -> list[Path]:
    folder = Path(world.lab().status().folder)
    found = sorted(p for p in folder.rglob("*.raw") if name in p.parts)
    assert len(found) == 2
    return found


def is_blank(disk: Path) -> bool:
    """Nothing but zeros, asked of the file itself and not of Bedplate."""
    argv = ["cmp", "-n", str(disk.stat().st_size), str(disk), "/dev/zero"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
