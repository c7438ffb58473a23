"""What a RAM system makes of what a server's firmware tables, tools and switches say."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bedplate.agent.ram import inspect, lldp
from bedplate.agent.ram.erasing import SAMPLE, WHOLE, ata_security, parts
from bedplate.agent.ram.reach import RoundTrips
from bedplate.agent.ram.testing import judged
from bedplate.model.metal import Disk, NetworkCard

DMIDECODE = """
Handle 0x1100, DMI type 17, 84 bytes
Memory Device
	Size: 32 GB
	Locator: DIMM_A1
	Speed: 3200 MT/s
	Configured Memory Speed: 2933 MT/s

Handle 0x1101, DMI type 17, 84 bytes
Memory Device
	Size: No Module Installed
	Locator: DIMM_A2
	Speed: Unknown

Handle 0x1102, DMI type 17, 84 bytes
Memory Device
	Size: 512 MB
	Locator: DIMM 0
	Speed: Unknown
"""

LSPCI = """
0000:01:00.0 "VGA compatible controller" "Matrox Electronics Systems Ltd." "Integrated Matrox G200eW3" -r04 "Dell" "x"
0000:17:00.0 "3D controller" "NVIDIA Corporation" "GA100 [A100 PCIe 40GB]" -ra1 "NVIDIA Corporation" "y"
0000:65:00.0 "VGA compatible controller" "Advanced Micro Devices, Inc. [AMD/ATI]" "Navi 31" -rc8 "" ""
0000:99:00.0 "Ethernet controller" "Intel Corporation" "I350" -r01 "Intel Corporation" "z"
"""

HDPARM = """
/dev/sda:
ATA device, with non-removable media
Security:
\tMaster password revision code = 65534
\t\tsupported
\tnot\tenabled
\tnot\tlocked
\t\tfrozen
\tnot\texpired: security count
\t\tsupported: enhanced erase
\t2min for SECURITY ERASE UNIT. 2min for ENHANCED SECURITY ERASE UNIT.
Logical Unit WWN Device Identifier: 5002538d00000000
"""


def test_memory_modules_are_told_and_empty_places_are_not() -> None:
    assert inspect.memory_banks(DMIDECODE) == ("DIMM_A1 32768 MiB 2933 MT/s", "DIMM 0 512 MiB")
    assert inspect.memory_banks("") == ()


def test_a_display_is_no_gpu() -> None:
    assert inspect.gpus(LSPCI) == (
        "NVIDIA Corporation GA100 [A100 PCIe 40GB]",
        "Advanced Micro Devices, Inc. [AMD/ATI] Navi 31",
    )


def test_sockets_and_cores_are_counted_once(tmp_path: Path) -> None:
    threads = [(package, core) for package in (0, 1) for core in (0, 1, 2) for _ in (0, 1)]
    text = "\n\n".join(f"model name\t: Xeon\nphysical id\t: {p}\ncore id\t: {c}" for p, c in threads)
    (tmp_path / "cpuinfo").write_text(text)
    assert inspect.cpu_facts(tmp_path / "cpuinfo") == ("Xeon", 2, 6)


def test_secure_boot_is_told_where_the_firmware_tells_it(tmp_path: Path) -> None:
    assert inspect.secure_boot(tmp_path) is None
    folder = tmp_path / "firmware/efi/efivars"
    folder.mkdir(parents=True)
    file = folder / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    file.write_bytes(b"\x06\0\0\0\1")
    assert inspect.secure_boot(tmp_path) is True
    file.write_bytes(b"\x06\0\0\0\0")
    assert inspect.secure_boot(tmp_path) is False


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ('{"smart_status": {"passed": true}}', "ok"),
        ('{"smart_status": {"passed": false}}', "failing"),
        ("{}", ""),
        ("", ""),
        ("smartctl: no", ""),
    ],
)
def test_a_disks_own_word_on_its_health(said: str, health: str) -> None:
    assert inspect.health(said) == health


def test_what_is_wrong_is_said_in_a_sentence_each() -> None:
    good = NetworkCard(mac="02:00:00:00:00:01", name="eth0", carrier=True)
    disks = (Disk(serial="A", size=1, name="sda"), Disk(serial="B", size=1, name="sdb", health="failing"))
    assert inspect.problems(disks[:1], (good,)) == ()
    said = inspect.problems((*disks, Disk(serial="A", size=1, name="sdc"), Disk(serial="", size=1, name="sdd")), ())
    assert len(said) == 4
    for word in ("sda, sdc have the same serial number A", "sdd", "B says that it is failing", "no network interface"):
        assert any(word in s for s in said), said
    assert "no disk is there" in inspect.problems((), (good,))[0]


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack(">H", kind << 9 | len(value)) + value


def frame(*parts: bytes, vlan: bool = False) -> bytes:
    tag = b"\x81\x00\x00\x05" if vlan else b""
    return bytes.fromhex("0180c200000e0200000000aa") + tag + b"\x88\xcc" + b"".join(parts) + tlv(0, b"")


CHASSIS, PORT, LIFE = tlv(1, b"\x04\x02\0\0\0\0\xaa"), tlv(2, b"\x05Ethernet1/7"), tlv(3, b"\0\x78")


def test_a_switch_and_its_port() -> None:
    assert lldp.read_frame(frame(CHASSIS, PORT, LIFE, tlv(5, b"leaf-12"))) == "leaf-12 Ethernet1/7"
    assert lldp.read_frame(frame(CHASSIS, PORT, LIFE, vlan=True)) == "02:00:00:00:00:aa Ethernet1/7"
    by_mac = tlv(2, b"\x03\x02\0\0\0\0\xbb")
    assert lldp.read_frame(frame(CHASSIS, by_mac, LIFE, tlv(5, b"leaf"))) == "leaf 02:00:00:00:00:bb"
    assert lldp.read_frame(frame(CHASSIS, PORT, tlv(5, b"leaf\x1b[2J\n"))) == "leaf [2J Ethernet1/7"


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_what_is_cut_off_is_no_fault(length: int) -> None:
    whole = frame(CHASSIS, PORT, LIFE, tlv(5, b"leaf"))
    lldp.read_frame(whole[:length])
    lldp.read_frame(whole[:14] + os.urandom(length))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
def test_switches_are_heard_on_the_wire() -> None:
    name = f"bp-lldp-{os.getpid()}"
    in_namespace = ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "add", "port0", "type", "veth", "peer", "name", "port1"], check=True)
        for link in ("port0", "port1"):
            subprocess.run(["ip", "-n", name, "link", "set", link, "up"], check=True)
        whole = frame(CHASSIS, PORT, LIFE, tlv(5, b"leaf-12"))
        script = f"""
import socket, threading, time
from bedplate.agent.ram.lldp import neighbours
send = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
send.bind(("port1", 0))
ended = threading.Event()
def switch():
    while not ended.wait(0.05):
        send.send(bytes.fromhex("{whole.hex()}"))
threading.Thread(target=switch).start()
began = time.monotonic()
print(neighbours(["port0", "no-such"], 30), time.monotonic() - began < 20)
ended.set()
"""
        done = subprocess.run(
            [*in_namespace, sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip() == "{'port0': 'leaf-12 Ethernet1/7'} True"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_listening_ends_when_it_is_told_to() -> None:
    stop = threading.Event()
    stop.set()
    assert lldp.neighbours([], 30, stop) == {}


def test_what_hdparm_says_of_security() -> None:
    facts = ata_security(HDPARM)
    assert facts["supported"]
    assert facts["frozen"]
    assert facts["supported: enhanced erase"]
    assert not facts["enabled"]
    assert not facts["locked"]
    assert "Logical Unit WWN Device Identifier: 5002538d00000000" not in facts
    assert ata_security("/dev/sda: no such feature") == {}


def test_a_small_disk_is_read_back_whole_and_a_large_one_at_its_ends_and_everywhere_a_little() -> None:
    assert list(parts(WHOLE)) == [(0, WHOLE)]
    size = 4 << 40
    read = list(parts(size))
    assert read[0][0] == 0
    assert read[-1][1] == size
    assert len(read) > 1000
    assert all(start < end <= size for start, end in read)
    assert all(start % 4096 == 0 for start, _ in read)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(read)), "no byte is counted twice"
    assert all(end - start == SAMPLE for start, end in read[1:-1])
    assert list(parts(size)) != read, "not at the same places each time"


def test_a_network_that_fails_often_is_no_way_to_run_a_node_over() -> None:
    assert judged("network", RoundTrips((0.001,) * 10, 0)).verdict == "passed"
    assert judged("network", RoundTrips((0.001,) * 9, 1)).verdict == "failed"
    assert judged("network", RoundTrips((), 10)).verdict == "failed"
