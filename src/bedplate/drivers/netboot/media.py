"""The RAM system for each server: one medium for all, with a server's own settings put in as it is read, or the same
by the network, in parts.

Implements `ports.Netboot`, `ports.MediaSource` and `files.Boots`. A path is known to whoever was given it, and good
for one boot: once its settings were read, the next who asks gets another. It ends with its token, or when the server
that it booted is heard of. What is offered is kept, so that a slow BMC goes on fetching from a restarted controller.
"""

from __future__ import annotations

import asyncio
import os
import secrets as random_source
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from bedplate.drivers.agents.authority import TOKEN_SECONDS
from bedplate.drivers.netboot import archive
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import MetalEntry
from bedplate.model.ids import ServerName
from bedplate.model.metal_protocol import (
    MEDIA_PATH,
    NETWORK_FOLDER,
    NETWORK_SETTINGS,
    NETWORK_SYSTEM,
    RamSettings,
    settings_block,
)
from bedplate.ports import NotOffered, SecretStore

NAME = "ram.iso"
"""Some BMCs take a medium for a CD only where its name ends like that."""
OFFERS = "netboot/offer/"
BOOT_SECONDS = 3600.0
"""What a token must still be good for where a boot begins: slow BMCs fetch for minutes, and firmware may start over."""


NETWORK_PATH = "/net/"


class Parts(msgspec.Struct, frozen=True):
    """Paths of the same system's files, as a boot loader fetches them."""

    kernel: str
    initrd: str
    system: str
    command_line: str


class Medium(msgspec.Struct, frozen=True):
    """The file that all servers' media are made of."""

    path: Path
    settings_offset: int
    """Bytes from its beginning to the place for settings."""
    parts: Parts | None = None


class Network(Protocol):
    """Answers servers that boot from the network. Blocking."""

    def admit(self, server: ServerName, mac: str, address: str) -> None: ...

    def dismiss(self, server: ServerName) -> None: ...


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    run: int
    path: str
    file: str
    settings_offset: int
    settings: RamSettings
    ends: float
    """When its token does."""
    mac: str = ""
    """Of the interface that it boots from; empty: it boots its medium."""
    parts: Parts | None = None
    told: bool = False
    """Its settings were read: the token in them may be spent, and then nobody enrols with it again."""


class MediaFile:
    """One server's medium, open for reading. Blocking."""

    def __init__(self, medium: Medium, settings: bytes, told: Callable[[], object]) -> None:
        """`told` is called when settings are read. Raises `OSError`."""
        self._file = open(medium.path, "rb")  # noqa: SIM115 - `close` closes it
        self._at = medium.settings_offset
        self._settings = settings
        self._told = told
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes from there on; fewer at the end."""
        data = os.pread(self._file.fileno(), length, offset)
        first, last = max(offset, self._at), min(offset + len(data), self._at + len(self._settings))
        if first >= last:
            return data
        self._told()
        own = self._settings[first - self._at : last - self._at]
        return data[: first - offset] + own + data[last - offset :]

    def close(self) -> None:
        """Close it."""
        self._file.close()


class _Offers:
    """What is offered to which server, kept as secrets for the tokens in it. Blocking; called from any thread."""

    def __init__(self, secrets: SecretStore, clock: Callable[[], float]) -> None:
        self._secrets = secrets
        self._clock = clock
        self._lock = threading.Lock()
        self._loaded: dict[ServerName, _Offer] | None = None

    def of(self, server: ServerName) -> _Offer | None:
        """What that server is offered."""
        with self._lock:
            return self._all().get(server)

    def at(self, path: str) -> _Offer | None:
        """What is offered under that path."""
        with self._lock:
            return next((o for o in self._all().values() if o.path == path), None)

    def by(self, mac: str) -> _Offer | None:
        """What is offered to whoever boots from that interface."""
        with self._lock:
            return next((o for o in self._all().values() if mac and o.mac == mac), None)

    def everything(self) -> list[tuple[ServerName, _Offer]]:
        """All that is offered."""
        with self._lock:
            return list(self._all().items())

    def put(self, server: ServerName, offer: _Offer) -> None:
        """Offer this, and nothing else any more."""
        with self._lock:
            self._put(server, offer)

    def drop(self, server: ServerName, run: int | None = None) -> None:
        """Offer that server nothing any more; with a `run`, nothing of that boot or an earlier one."""
        with self._lock:
            known = self._all().get(server)
            if known is not None and (run is None or known.run <= run):
                self._drop(server)

    def tell(self, path: str) -> None:
        """The settings there are about to be read."""
        with self._lock:
            found = next(((s, o) for s, o in self._all().items() if o.path == path), None)
            if found is not None and not found[1].told:
                self._put(found[0], msgspec.structs.replace(found[1], told=True))

    def _all(self) -> dict[ServerName, _Offer]:
        if self._loaded is None:
            self._loaded = {}
            for name in self._secrets.list_secrets(OFFERS):
                server = ServerName(name.removeprefix(OFFERS))
                try:
                    self._loaded[server] = msgspec.json.decode(self._secrets.get_secret(name) or b"", type=_Offer)
                except msgspec.MsgspecError:  # of another version: the next boot has an offer of its own
                    self._secrets.delete_secret(name)
        for server in [s for s, o in self._loaded.items() if o.ends <= self._clock()]:
            self._drop(server)
        return self._loaded

    def _put(self, server: ServerName, offer: _Offer) -> None:
        self._secrets.put_secret(OFFERS + server, msgspec.json.encode(offer))
        self._all()[server] = offer

    def _drop(self, server: ServerName) -> None:
        assert self._loaded is not None
        self._secrets.delete_secret(OFFERS + server)
        del self._loaded[server]


class Media:
    """What is offered now.

    Args:
        secrets: Keeps what is offered.
        find: Gives the RAM system's file, or None where none was built. Blocking.
        enrolment: Gives an enrolment file (JSON) with a fresh one-time token for that boot of a server.
        base_url: Where BMCs reach this controller, such as `https://10.0.0.2:7444`.
        network: Answers those that boot from the network; None: none are.
        network_url: Where these fetch what they boot, such as `http://10.0.0.2:7445`.
        lasts: Seconds for which such a token is good.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        secrets: SecretStore,
        find: Callable[[], Medium | None],
        enrolment: Callable[[MetalEntry], Awaitable[bytes]],
        base_url: Callable[[], str],
        *,
        network: Network | None = None,
        network_url: str = "",
        lasts: float = TOKEN_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._offers = _Offers(secrets, clock)
        self._find = find
        self._enrolment = enrolment
        self._base_url = base_url
        self._network = network
        self._network_url = network_url
        self._lasts = lasts
        self._clock = clock

    async def offer(self, entry: MetalEntry) -> str:
        """URL of the medium for this boot of this server; see `ports.Netboot`."""
        mac = self._mac(entry)
        known = await asyncio.to_thread(self._offers.of, entry.server)
        if known is None or known.mac != mac or not self._good(known, entry.run):
            medium = await asyncio.to_thread(self._find)
            if medium is None:
                raise NotOffered("there is no RAM system to boot; build it: bedplate image build --ram")
            ends = self._clock() + self._lasts
            enrol = msgspec.json.decode(await self._enrolment(entry), type=EnrolFile)
            token = random_source.token_urlsafe(32)
            known = _Offer(
                run=entry.run,
                path=f"{NETWORK_PATH}{token}" if mac else f"{MEDIA_PATH}{token}/{NAME}",
                mac=mac,
                parts=medium.parts if mac else None,
                file=str(medium.path),
                settings_offset=medium.settings_offset,
                settings=_settings(entry, enrol),
                ends=ends,
            )
            await asyncio.to_thread(self._offers.put, entry.server, known)
        if mac and self._network is not None:
            await asyncio.to_thread(self._network.admit, entry.server, mac, entry.nic.address)
            return f"{self._network_url}{known.path}"
        return f"{self._base_url()}{known.path}"

    def _mac(self, entry: MetalEntry) -> str:
        """The interface that it boots from; empty where it boots its medium. Raises `NotOffered`."""
        if entry.boots_from == "media":
            return ""
        if self._network is None:
            said = "it is to boot from the network, and this controller answers nobody there: start it with --netboot"
            raise NotOffered(f"{said}, or set spec.metal.boot to media")
        if not entry.nic.mac:
            raise NotOffered("which interface it boots from is not known: give it in spec.metal.bootMac")
        return entry.nic.mac.lower()

    def _good(self, known: _Offer, run: int) -> bool:
        """Whether that boot may begin with what was offered before."""
        fresh = not known.told and known.ends - self._clock() >= min(BOOT_SECONDS, self._lasts / 2)
        return fresh and known.run == run and Path(known.file).exists()

    async def arrived(self, server: ServerName, run: int) -> None:
        """That boot has come up, with all of its medium in memory; see `ports.MediaSource`."""
        await asyncio.to_thread(self._end, server, run)

    async def withdraw(self, server: ServerName) -> None:
        """Offer this server nothing any more."""
        await asyncio.to_thread(self._end, server)

    def _end(self, server: ServerName, run: int | None = None) -> None:
        self._offers.drop(server, run)
        if self._network is not None and self._offers.of(server) is None:
            self._network.dismiss(server)

    async def resume(self) -> None:
        """Have those answered again that were offered a boot from the network before this controller began."""
        for server, offer in await asyncio.to_thread(self._offers.everything):
            if offer.mac and self._network is not None:
                address = offer.settings.address.partition("/")[0]
                await asyncio.to_thread(self._network.admit, server, offer.mac, address)

    # --- from the network -----------------------------------------------------------------------------------------

    def script(self, mac: str) -> str | None:
        """iPXE's script for the server that boots from that interface; see `files.Boots`."""
        offer = self._offers.by(mac)
        if offer is None or offer.parts is None:
            return None
        at = f"{self._network_url}{offer.path}"
        names = (NETWORK_SYSTEM, NETWORK_SETTINGS, "initrd")  # the kernel takes a compressed archive as the last only
        lines = ["#!ipxe", f"kernel {at}/kernel {' '.join(f'initrd={n}' for n in names)} {offer.parts.command_line}"]
        return "\n".join([*lines, *(f"initrd --name {n} {at}/{n}" for n in names), "boot", ""])

    def part(self, path: str) -> Path | bytes | None:
        """A file of that script; see `files.Boots`."""
        folder, _, name = path.rpartition("/")
        offer = self._offers.at(folder)
        if offer is None or offer.parts is None:
            return None
        if name == NETWORK_SETTINGS:
            self._offers.tell(folder)
            return archive.archive(NETWORK_FOLDER, {NETWORK_SETTINGS: settings_block(offer.settings)})
        files = {"kernel": offer.parts.kernel, "initrd": offer.parts.initrd, NETWORK_SYSTEM: offer.parts.system}
        return Path(files[name]) if name in files else None

    # --- as a medium ----------------------------------------------------------------------------------------------

    def open(self, path: str) -> MediaFile | None:
        """The medium of that path; None where nothing is offered there. Blocking; raises `OSError`."""
        offer = self._offers.at(path)
        if offer is None or offer.parts is not None:
            return None
        medium = Medium(Path(offer.file), offer.settings_offset)
        return MediaFile(medium, settings_block(offer.settings), lambda: self._offers.tell(path))


def _settings(entry: MetalEntry, enrol: EnrolFile) -> RamSettings:
    nic = entry.nic
    return RamSettings(
        enrol=enrol,
        run=entry.run,
        mac=nic.mac,
        address=f"{nic.address}/{nic.prefix}" if nic.address else "",
        gateway=nic.gateway,
        name_servers=nic.name_servers,
        mtu=nic.mtu,
    )
