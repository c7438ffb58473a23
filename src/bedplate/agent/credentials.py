"""What a machine is told of itself as credentials of systemd, by whichever way they reach it. Pure; no secret."""

from __future__ import annotations

from bedplate.model.blueprint import MachineEntry, Nic


def machine_credentials(machine: MachineEntry) -> list[tuple[str, str]]:
    """Names and contents: the network, and the public SSH keys where there are any."""
    found = [("network.network.10-bedplate", network_unit(machine.nic))]
    if machine.ssh_keys:
        found.append(("ssh.authorized_keys.root", "\n".join(machine.ssh_keys) + "\n"))
    return found


def network_unit(nic: Nic) -> str:
    """The machine's network as systemd-networkd reads it."""
    lines = ["[Match]", f"MACAddress={nic.mac}", "", "[Link]", f"MTUBytes={nic.mtu}", "", "[Network]"]
    lines += [f"Address={nic.address}/{nic.prefix}", "LinkLocalAddressing=no", "IPv6AcceptRA=no"]
    if nic.gateway:
        lines.append(f"Gateway={nic.gateway}")
    lines += [f"DNS={server}" for server in nic.name_servers]
    return "\n".join(lines) + "\n"
