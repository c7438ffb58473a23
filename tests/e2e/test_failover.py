"""Servers that die, are cut off or hang in a real lab: what ran on them runs elsewhere, once; nothing starts twice.

Guests are tiny ones that are up in seconds, so that the times are those of detection, fencing and restart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract import tiny_guest
from tests.e2e.conftest import World

from bedplate.model import leases

pytestmark = pytest.mark.lab

MACHINE = """
apiVersion: bedplate.dev/v1alpha1
kind: VirtualMachine
metadata: {name: NAME}
spec: {image: tiny, cpu: 1, memory: 128Mi, disk: 64Mi, diskPool: POOL, match: {MATCH}}
"""
DETECTION_SECONDS = 20.0
"""From the power cut to the begin of the restart elsewhere, also with a slow BMC."""
START_SLACK = 40.0
"""An emulated guest's own start, beside whatever else this machine does."""


@pytest.fixture
def tiny(world: World) -> Iterator[World]:
    """The lab with the tiny image known; afterwards no fault, no machine and no maintenance is left."""
    files = tiny_guest.image_files()
    world.bedplate(
        "image", "import", str(files["disk"]), "--name", "tiny", "--bootstrap", "guest-agent",
        "--kernel", str(files["kernel"]), "--initrd", str(files["initrd"]),
        "--command-line", "console=ttyS0 panic=-1 quiet",
    )  # fmt: skip
    yield world
    for name in servers(world):
        bring_back(world, name)
        world.bedplate("maintain", f"server/{name}", "--undo", check=False)
    names = [vm["metadata"]["name"] for vm in world.objects("virtualmachines")]
    for name in names:
        world.bedplate("delete", f"vm/{name}", "--wait", "--timeout", "180s")


def servers(world: World) -> list[str]:
    return [s["metadata"]["name"] for s in world.objects("servers")]


def ready(obj: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in obj.get("status", {}).get("conditions", []))


def bring_back(world: World, server: str) -> None:
    """Mend a server, and switch it on where a fence that had begun has cut its power since."""
    world.bedplate("lab", "fault", "clear", server, check=False)

    def back() -> bool:
        found = world.object("server", server)
        if found["status"].get("power") == "off":
            world.bedplate("server", "power", "on", server, "--yes", check=False)
        return ready(found)

    world.until(f"{server} is back", back, 240)


def make(world: World, name: str, pool: str = "shared", match: str = "") -> dict[str, Any]:
    """Declare a machine and wait until it runs."""
    text = MACHINE.replace("NAME", name).replace("POOL", pool).replace("MATCH", match)
    world.bedplate("apply", "-f", "-", "--wait", "--timeout", "300s", stdin=text)
    return world.object("vm", name)


def status(world: World, name: str) -> dict[str, Any]:
    return dict(world.object("vm", name)["status"])


def runs_elsewhere(world: World, name: str, old: str) -> bool:
    now = status(world, name)
    return now["server"] != old and now["phase"] == "Running"


def starts(world: World, server: str) -> list[str]:
    """Names of the domains that run on a server, asked of its own libvirt."""
    return world.virsh(server, "list", "--name").split()


def test_a_dead_servers_machine_runs_elsewhere_and_starts_nowhere_twice(tiny: World) -> None:
    """Power cut, BMC slow: restarted within its bound; the old server, powered on again, starts none of its guests."""
    old = make(tiny, "web")["status"]["server"]
    tiny.bedplate("lab", "fault", "bmc", old, "--delay", "5s")
    cut = time.time()
    tiny.bedplate("lab", "fault", "power-off", old)
    tiny.until("it runs elsewhere", lambda: runs_elsewhere(tiny, "web", old), 120)
    assert time.time() - cut < DETECTION_SECONDS + START_SLACK
    now = status(tiny, "web")
    assert now["boots"] == 2
    why = tiny.bedplate("why", f"server/{old}")
    assert "its end is confirmed" in why
    assert "off" in why
    bring_back(tiny, old)
    tiny.until("it has forgotten the machine", lambda: "web" not in tiny.virsh(old, "list", "--all"), 60)
    assert status(tiny, "web")["server"] == now["server"]
    assert status(tiny, "web")["boots"] == 2


def test_with_its_bmc_dead_too_a_server_is_confirmed_dead_by_lease_and_watchdog(tiny: World) -> None:
    """A lost power feed takes both; nothing starts before the watchdog's time is over."""
    old = make(tiny, "fed")["status"]["server"]
    cut = time.time()
    tiny.bedplate("lab", "fault", "power-feed", old)
    tiny.until("it runs elsewhere", lambda: runs_elsewhere(tiny, "fed", old), 180)
    took = time.time() - cut
    least = leases.EXPIRY - 2 * leases.RENEW + leases.WATCHDOG + leases.MARGIN
    assert least < took < leases.EXPIRY + leases.WATCHDOG + leases.MARGIN + 5.0 + START_SLACK
    assert "lease" in tiny.bedplate("why", f"server/{old}")


def test_a_server_that_is_cut_off_with_its_storage_ends_its_guests_before_they_start_elsewhere(tiny: World) -> None:
    """Cut off from controller, storage and BMC, it is alive all the while, and yet nothing runs twice."""
    old = make(tiny, "cut")["status"]["server"]
    assert len(starts(tiny, old)) == 1
    tiny.bedplate("lab", "fault", "bmc", old, "--error", "500")
    tiny.bedplate("lab", "fault", "partition", old, "--storage")

    def doubled() -> bool:
        assert not (starts(tiny, old) and any(starts(tiny, s) for s in servers(tiny) if s != old)), "it runs twice"
        return runs_elsewhere(tiny, "cut", old)

    tiny.until("it runs elsewhere", doubled, 180)
    assert starts(tiny, old) == []
    bring_back(tiny, old)
    assert starts(tiny, old) == []


def test_while_libvirt_hangs_nothing_is_killed_and_the_reason_is_shown(tiny: World) -> None:
    vm = make(tiny, "calm")
    server = vm["status"]["server"]
    tiny.bedplate("lab", "fault", "libvirt-hang", server)
    shown = tiny.until(
        "the reason is shown", lambda: "libvirt" in tiny.bedplate("why", f"server/{server}") and "yes", 120
    )
    assert shown
    now = status(tiny, "calm")
    assert (now["server"], now["boots"]) == (server, 1)
    tiny.bedplate("lab", "fault", "clear", server)
    tiny.until("the server is Ready again", lambda: ready(tiny.object("server", server)), 120)
    now = status(tiny, "calm")
    assert (now["server"], now["boots"], now["phase"]) == (server, 1, "Running")
    assert len(starts(tiny, server)) == 1


def test_a_server_is_emptied_live_and_filled_by_hand_again(tiny: World) -> None:
    """Maintenance: its machines move without a new boot; undone, it takes machines again."""
    made = [make(tiny, name) for name in ("live-a", "live-b")]
    server = made[0]["status"]["server"]
    tiny.bedplate("maintain", f"server/{server}", "--reason", "new firmware", "--wait", "--timeout", "300s")
    assert starts(tiny, server) == []
    for vm in made:
        now = status(tiny, vm["metadata"]["name"])
        assert now["server"] != server
        assert (now["boots"], now["phase"]) == (1, "Running")
    assert "new firmware" in tiny.bedplate("why", f"server/{server}")
    tiny.bedplate("maintain", f"server/{server}", "--undo")
    third = make(tiny, "after")
    assert third["status"]["server"] == server


def test_a_paused_fleet_is_left_as_it_is_and_says_what_it_would_do(tiny: World) -> None:
    old = make(tiny, "held")["status"]["server"]
    tiny.bedplate("pause", "--all", "--reason", "network work")
    tiny.bedplate("lab", "fault", "power-off", old)
    tiny.until("it says so", lambda: "network work" in tiny.bedplate("why", "vm/held"), 120)
    assert status(tiny, "held")["server"] == old
    tiny.bedplate("resume", "--all")
    tiny.until("it runs elsewhere", lambda: runs_elsewhere(tiny, "held", old), 120)


POLICY = """
apiVersion: bedplate.dev/v1alpha1
kind: FleetPolicy
metadata: {name: default}
spec: {SPEC}
"""
BUSY = {"execute": "guest-exec", "arguments": {"path": "/bin/sh", "arg": ["-c", "while :; do :; done"]}}


def test_a_hot_server_is_relieved_live(tiny: World) -> None:
    """Two machines that each use a CPU share one server: they are parted, none moves twice, and the load is even."""
    others = servers(tiny)[1:]
    for name in others:
        tiny.bedplate("maintain", f"server/{name}", "--reason", "both are to be in one place", "--wait")
    names = ("hot-a", "hot-b")
    places = {make(tiny, name)["status"]["server"] for name in names}
    assert len(places) == 1
    hot = places.pop()
    for name in others:
        tiny.bedplate("maintain", f"server/{name}", "--undo")
    for uid in tiny.virsh(hot, "list", "--uuid").split():
        tiny.virsh(hot, "qemu-agent-command", uid, json.dumps(BUSY))
    tiny.bedplate("apply", "-f", "-", stdin=POLICY.replace("SPEC", "balance: {mode: auto}"))
    try:
        tiny.until("they are apart", lambda: len({status(tiny, name)["server"] for name in names}) == 2, 600)
        done = "no move is worth it"
        tiny.until("the load is even", lambda: done in tiny.bedplate("why", "fleetpolicy/default"), 600)
        now = [status(tiny, name) for name in names]
        assert [(s["boots"], s["phase"]) for s in now] == [(1, "Running")] * 2
        moved = [s for s in now if s["server"] != hot]
        assert all(len(starts(tiny, status(tiny, name)["server"])) == 1 for name in names)
        moves = [e for e in tiny.objects("events") if "load is evened out" in e["message"]]
        assert len(moves) == len(moved), [e["message"] for e in moves]
    finally:
        tiny.bedplate("delete", "fleetpolicy", "default")


@pytest.mark.parametrize(
    ("level", "has", "lacks"),
    [
        ("x86-64-v2-AES", {"sse4_2", "popcnt", "aes"}, {"avx", "avx2", "bmi2", "svm"}),
        ("x86-64-v3", {"sse4_2", "aes", "avx2", "bmi2", "fma"}, {"avx512f", "svm"}),
    ],
)
def test_a_guest_of_one_cpu_level_sees_no_more_and_moves_live(
    tiny: World, level: str, has: set[str], lacks: set[str]
) -> None:
    """As on servers of several generations, whose common level guests are given."""
    tiny.bedplate("apply", "-f", "-", stdin=POLICY.replace("SPEC", f"cpuModel: {level}"))
    try:
        server = make(tiny, "level")["status"]["server"]
        assert level in tiny.object("server", server)["status"]["cpuModels"]
        uid = tiny.virsh(server, "list", "--uuid").strip()
        flags = tiny.in_guest(server, uid, "/bin/grep", "-m1", "^flags", "/proc/cpuinfo").split()
        assert has <= set(flags)
        assert not lacks & set(flags)
        tiny.bedplate("maintain", f"server/{server}", "--reason", "an older one stays", "--wait", "--timeout", "300s")
        now = status(tiny, "level")
        assert now["server"] != server
        assert (now["boots"], now["phase"]) == (1, "Running")
    finally:
        tiny.bedplate("delete", "fleetpolicy", "default")
