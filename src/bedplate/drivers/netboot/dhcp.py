"""Answers bare servers that boot from their network card, by dnsmasq: an address, and a boot loader (iPXE) over TFTP
or, where the firmware boots by HTTP, over that. Nobody else on the network is answered.

Only servers that were offered a boot are known to it, by the hardware address of their boot interface, and only for as
long. May not: know what they boot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bedplate.model.ids import ServerName

log = logging.getLogger("bedplate.netboot")

LOADERS = Path("/usr/lib/ipxe")
"""Of Debian's package `ipxe`."""
LOADER = "snponly.efi"
"""iPXE that uses the card by the firmware's own driver."""
RETRY_SECONDS = 5.0
"""Before a dnsmasq that ended is started again."""


def configuration(interface: str, network: str, netmask: str, folder: Path, base_url: str) -> str:
    """dnsmasq's.

    Args:
        interface: Where it listens.
        network: The network's address, such as `10.0.0.0`.
        netmask: Such as `255.255.255.0`.
        folder: With the loaders and who is known.
        base_url: Where what is booted is fetched.
    """
    lines = [
        "port=0",  # no DNS
        "no-resolv",
        "no-hosts",
        f"interface={interface}",
        "bind-dynamic",
        f"dhcp-range={network},static,{netmask}",
        "dhcp-ignore=tag:!known",
        f"dhcp-hostsdir={folder / 'known'}",
        "leasefile-ro",  # addresses are planned, not leased
        "log-dhcp",
        "enable-tftp",
        f"tftp-root={folder / 'loaders'}",
        "dhcp-option=option:router",  # none: what is fetched is on this network
        # RFC 4578 and IANA's registry of processor architectures: 7 and 9 are x86-64 UEFI, 16 the same by HTTP.
        "dhcp-match=set:pxe,option:client-arch,7",
        "dhcp-match=set:pxe,option:client-arch,9",
        "dhcp-match=set:http,option:client-arch,16",
        "dhcp-userclass=set:ipxe,iPXE",
        f"dhcp-boot=tag:pxe,tag:!ipxe,{LOADER}",
        f"dhcp-boot=tag:http,tag:!ipxe,{base_url}/{LOADER}",
        "dhcp-option-force=tag:http,tag:!ipxe,option:vendor-class,HTTPClient",
        f"dhcp-boot=tag:ipxe,{base_url}/boot.ipxe?mac=${{net0/mac:hexhyp}}",
    ]
    return "\n".join(lines) + "\n"


def _path() -> str:
    """Where dnsmasq is looked for: not all users have `/usr/sbin` in theirs."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin"


class DhcpServer:
    """dnsmasq for one network, as long as it is wanted."""

    def __init__(
        self, interface: str, network: str, netmask: str, base_url: str, *, within: Sequence[str] = ()
    ) -> None:
        """As `configuration`. `within`: a command that runs it elsewhere, as in a network namespace (for tests)."""
        self._settings = (interface, network, netmask)
        self._base_url = base_url
        self._within = tuple(within)
        self._folder = Path()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def loader(self) -> Path:
        """The file that is given out as the boot loader."""
        return self._folder / "loaders" / LOADER

    async def start(self) -> None:
        """Begin to answer. Raises `OSError` where dnsmasq or the loader is not installed."""
        source = LOADERS / LOADER
        if shutil.which("dnsmasq", path=_path()) is None or not source.exists():
            raise OSError("to boot servers from the network, install Debian's packages dnsmasq-base and ipxe")
        self._folder = Path(tempfile.mkdtemp(prefix="bedplate-netboot-"))
        self._folder.chmod(0o755)  # dnsmasq reads it as nobody
        for name in ("known", "loaders"):
            (self._folder / name).mkdir()
        shutil.copyfile(source, self.loader)
        (self._folder / "dnsmasq.conf").write_text(configuration(*self._settings, self._folder, self._base_url))
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answer nobody any more."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        shutil.rmtree(self._folder, ignore_errors=True)

    def admit(self, server: ServerName, mac: str, address: str) -> None:
        """Answer this server, and give it that address. Blocking."""
        path = self._folder / "known" / server
        part = self._folder / f"{server}.part"
        part.write_text(f"{mac},{address}\n")
        part.rename(path)  # dnsmasq sees it come
        self._look_again()

    def dismiss(self, server: ServerName) -> None:
        """Answer it no more. Blocking."""
        path = self._folder / "known" / server
        if path.exists():
            path.unlink()
            self._look_again()

    def _look_again(self) -> None:
        """It sees files that come by itself, not that one has gone or was replaced."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    async def _run(self) -> None:
        argv = [*self._within, "dnsmasq", "--keep-in-foreground", f"--conf-file={self._folder / 'dnsmasq.conf'}"]
        argv += ["--log-facility=-"]
        environment = {**os.environ, "PATH": _path()}
        while True:
            process = self._process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=environment
            )
            try:
                assert process.stderr is not None
                async for line in process.stderr:
                    log.info("%s", line.decode(errors="replace").rstrip())
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            log.error("dnsmasq ended with %d; it is started again in %.0f s", code, RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)
