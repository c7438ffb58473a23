"""The lab's network, by `ip` in the namespaces of its processes. Nothing of it is seen in the host's own namespace.

The switch is a bridge in the namespace of a process that does nothing else; a hypervisor's uplink is a pair of
virtual Ethernet ends, one in each namespace. Both end with their namespaces.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from bedplate.lab import processes
from bedplate.lab.config import HypervisorState, LabNetwork, Link, ProcessId
from bedplate.lab.errors import LabError

BRIDGE = "sw0"


def switch_command(network: LabNetwork) -> list[str]:
    """What the switch's process runs: it makes the bridge, says that it is ready, and then only holds the namespace.

    It forwards, so that a guest that looks for the world outside is told at once that there is none.
    """
    address = ipaddress.IPv4Interface(f"{network.gateway}/{network.prefix}")
    lines = (
        "exec 2>&3; set -e; ip link set lo up;"
        f" ip link add {BRIDGE} mtu {network.mtu} type bridge forward_delay 0 stp_state 0;"
        f" ip address add {address} dev {BRIDGE}; ip link set {BRIDGE} up;"
        " echo 1 > /proc/sys/net/ipv4/ip_forward; echo ready >&3; exec 2>/dev/null 3>&-; exec sleep infinity"
    )
    return ["sh", "-c", lines]


def explain(message: str) -> str:
    """Add the remedy to what `ip` says where it is known."""
    message = " ".join(message.split())
    if "Unknown device type" in message:
        return f"{message} The kernel lacks a module: modprobe bridge veth"
    return message


def _ip(folder: Path, process: ProcessId, *lines: str, force: bool = False) -> None:
    """Run `ip` commands in the network namespace of a process."""
    argv = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", *(["-force"] if force else []), "-batch", "-"]
    done = processes.run(folder, argv, "\n".join(lines) + "\n")
    if done.returncode != 0 and not force:
        raise LabError(f"the lab's network could not be changed ({'; '.join(lines)}): {explain(done.stderr)}")


def plug(folder: Path, switch: ProcessId, hypervisor: HypervisorState, mtu: int) -> None:
    """Give the hypervisor a fresh uplink to the switch. One that was there is taken away."""
    if hypervisor.process is None:
        return
    unplug(folder, switch, hypervisor)
    _ip(
        folder,
        switch,
        f"link add {hypervisor.name} mtu {mtu} type veth peer name uplink mtu {mtu} netns {hypervisor.process.pid}",
        f"link set {hypervisor.name} master {BRIDGE} {hypervisor.uplink}",
    )
    _ip(folder, hypervisor.process, "link set uplink master br0 up")


def unplug(folder: Path, switch: ProcessId, hypervisor: HypervisorState) -> None:
    """Take the hypervisor's uplink away, if there is one."""
    _ip(folder, switch, f"link del {hypervisor.name}", force=True)


def set_link(folder: Path, switch: ProcessId, hypervisor: HypervisorState, state: Link) -> None:
    """Cut or mend the uplink at the switch: the hypervisor loses its carrier and no peer is told."""
    _ip(folder, switch, f"link set {hypervisor.name} {state}")


def make_taps(folder: Path, switch: ProcessId, names: Sequence[str], mtu: int, link: Link = "up") -> None:
    """Make fresh ports of the switch for a bare server's cards. Those that were there are taken away."""
    drop_taps(folder, switch, names)
    for name in names:
        _ip(folder, switch, f"tuntap add dev {name} mode tap", f"link set {name} mtu {mtu} master {BRIDGE} {link}")


def set_taps(folder: Path, switch: ProcessId, names: Sequence[str], link: Link) -> None:
    """Cut or mend those ports: nothing passes, and the cards' own links stay up, as behind a switch that is dead."""
    _ip(folder, switch, *(f"link set {name} {link}" for name in names))


def drop_taps(folder: Path, switch: ProcessId, names: Sequence[str]) -> None:
    """Take those ports away, where they are there."""
    _ip(folder, switch, *(f"link del {name}" for name in names), force=True)


def plugged(folder: Path, switch: ProcessId) -> set[str]:
    """Names of the ports of the switch."""
    argv = ["nsenter", f"--net=/proc/{switch.pid}/ns/net", "ip", "-o", "link", "show", "master", BRIDGE]
    done = processes.run(folder, argv)
    return {line.split(": ")[1].partition("@")[0] for line in done.stdout.splitlines() if ": " in line}
