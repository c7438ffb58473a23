"""All that answers servers that boot from the network: DHCP and TFTP by dnsmasq, and HTTP."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Sequence

from bedplate.drivers.netboot.dhcp import DhcpServer
from bedplate.drivers.netboot.files import Boots, FileServer


class NetworkBootFailed(Exception):
    """Servers can't be answered; the text says why and what to do."""


class NetworkBoot:
    """On one interface, from `start` to `stop`."""

    def __init__(
        self, interface: str, port: int, *, own: ipaddress.IPv4Interface | None = None, within: Sequence[str] = ()
    ) -> None:
        """`own`: the interface's address (default: as the kernel has it). `within`: as `DhcpServer` has it.

        Raises:
            NetworkBootFailed: there is no such interface, or it has no address.
        """
        self._own = own or _address(interface)
        self._port = port
        self.url = f"http://{self._own.ip}:{port}"
        """Where servers fetch what they boot."""
        network = self._own.network
        self.dhcp = DhcpServer(interface, str(network.network_address), str(network.netmask), self.url, within=within)
        self._files: FileServer | None = None

    async def start(self, boots: Boots, listen: tuple[str, int] | None = None) -> int:
        """Begin to answer; gives the port of HTTP. `listen`: where else than at the interface (for tests).

        Raises:
            NetworkBootFailed: something that it needs is not installed, or something else listens there.
        """
        host, port = listen or (str(self._own.ip), self._port)
        try:
            await self.dhcp.start()
        except OSError as error:
            raise NetworkBootFailed(str(error)) from error
        try:
            self._files = FileServer(host, port, boots, lambda: self.dhcp.loader)
        except OSError as error:
            await self.dhcp.stop()
            said = f"can't listen at {host}:{port} for servers that boot from the network: {error.strerror}"
            raise NetworkBootFailed(f"{said}; name another port with --netboot-port") from error
        self._files.start()
        return self._files.port

    async def stop(self) -> None:
        """Answer nobody any more."""
        await self.dhcp.stop()
        if self._files is not None:
            self._files.stop()


def _address(interface: str) -> ipaddress.IPv4Interface:
    """The first IPv4 address of an interface. Raises `NetworkBootFailed`."""
    argv = ["ip", "-json", "-4", "address", "show", "dev", interface]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NetworkBootFailed(f"--netboot: there is no interface {interface!r}; `ip -brief address` lists them")
    for link in json.loads(done.stdout or "[]"):
        for found in link.get("addr_info", ()):
            return ipaddress.IPv4Interface(f"{found['local']}/{found['prefixlen']}")
    raise NetworkBootFailed(f"--netboot: interface {interface} has no IPv4 address, so no server can boot by it")
