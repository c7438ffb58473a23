"""What a machine is told of itself as credentials of systemd, by whichever way they reach it. Pure; no secret."""

from __future__ import annotations

from bedplate.model.blueprint import MachineEntry, Nic


def machine_credentials(machine: MachineEntry) -> list[tuple[str, str]]:
    """Names and contents: the network, and the public SSH keys where there are any."""
    found = [("network.network.10-bedplate", network_unit(machine.nic))]
    if machine.ssh_keys:
        found.append(("ssh.authorized_keys.root", "\n".join(machine.ssh_keys) + "\n"))
    return found


def host_credentials(nic: Nic) -> list[tuple[str, str]]:
    """Names and contents for a hypervisor: its network card in a bridge, which has its address."""
    bridge = ["[NetDev]", f"Name={nic.bridge}", "Kind=bridge", f"MTUBytes={nic.mtu}", "", "[Bridge]", "STP=no"]
    # The bridge has a MAC address of its own: only the card itself is of type ether.
    card = ["[Match]", f"MACAddress={nic.mac}", "Type=ether", "", "[Link]", f"MTUBytes={nic.mtu}", "", "[Network]"]
    card += [f"Bridge={nic.bridge}", "LinkLocalAddressing=no"]
    return [
        ("network.netdev.10-bedplate", "\n".join([*bridge, "ForwardDelaySec=0", ""])),
        ("network.network.10-bedplate", "\n".join([*card, ""])),
        ("network.network.20-bedplate", _network([f"Name={nic.bridge}"], nic)),
    ]


def network_unit(nic: Nic) -> str:
    """The machine's network as systemd-networkd reads it."""
    return _network([f"MACAddress={nic.mac}"], nic)


def _network(match: list[str], nic: Nic) -> str:
    lines = ["[Match]", *match, "", "[Link]", f"MTUBytes={nic.mtu}", "", "[Network]"]
    lines += [f"Address={nic.address}/{nic.prefix}", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]
    if nic.gateway:
        lines.append(f"Gateway={nic.gateway}")
    lines += [f"DNS={server}" for server in nic.name_servers]
    return "\n".join(lines) + "\n"
