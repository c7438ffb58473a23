"""The RAM system's medium for each server: one file for all, with a server's own settings put in as it is read.

Implements `ports.Netboot` and `ports.MediaSource`. A path is known to whoever was given it, and good for one boot: once
its settings were read, the next who asks gets another. It ends with its token, or when the server that it booted is
heard of. What is offered is kept, so that a slow BMC goes on fetching from a restarted controller.
"""

from __future__ import annotations

import asyncio
import os
import secrets as random_source
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bedplate.drivers.agents.authority import TOKEN_SECONDS
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import MetalEntry
from bedplate.model.ids import ServerName
from bedplate.model.metal_protocol import MEDIA_PATH, RamSettings, settings_block
from bedplate.ports import NotOffered, SecretStore

NAME = "ram.iso"
"""Some BMCs take a medium for a CD only where its name ends like that."""
OFFERS = "netboot/offer/"
BOOT_SECONDS = 3600.0
"""What a token must still be good for where a boot begins: slow BMCs fetch for minutes, and firmware may start over."""


class Medium(msgspec.Struct, frozen=True):
    """The file that all servers' media are made of."""

    path: Path
    settings_offset: int
    """Bytes from its beginning to the place for settings."""


class _Offer(msgspec.Struct, frozen=True, kw_only=True):
    run: int
    path: str
    file: str
    settings_offset: int
    settings: RamSettings
    ends: float
    """When its token does."""
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
        enrolment: Gives an enrolment file (JSON) with a fresh one-time token for a server.
        base_url: Where BMCs reach this controller, such as `https://10.0.0.2:7444`.
        lasts: Seconds for which such a token is good.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        secrets: SecretStore,
        find: Callable[[], Medium | None],
        enrolment: Callable[[ServerName], Awaitable[bytes]],
        base_url: Callable[[], str],
        *,
        lasts: float = TOKEN_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._offers = _Offers(secrets, clock)
        self._find = find
        self._enrolment = enrolment
        self._base_url = base_url
        self._lasts = lasts
        self._clock = clock

    async def offer(self, entry: MetalEntry) -> str:
        """URL of the medium for this boot of this server; see `ports.Netboot`."""
        known = await asyncio.to_thread(self._offers.of, entry.server)
        if known is None or not self._good(known, entry.run):
            medium = await asyncio.to_thread(self._find)
            if medium is None:
                raise NotOffered("there is no RAM system to boot; build it: bedplate image build --ram")
            ends = self._clock() + self._lasts
            enrol = msgspec.json.decode(await self._enrolment(entry.server), type=EnrolFile)
            known = _Offer(
                run=entry.run,
                path=f"{MEDIA_PATH}{random_source.token_urlsafe(32)}/{NAME}",
                file=str(medium.path),
                settings_offset=medium.settings_offset,
                settings=_settings(entry, enrol),
                ends=ends,
            )
            await asyncio.to_thread(self._offers.put, entry.server, known)
        return f"{self._base_url()}{known.path}"

    def _good(self, known: _Offer, run: int) -> bool:
        """Whether that boot may begin with what was offered before."""
        fresh = not known.told and known.ends - self._clock() >= min(BOOT_SECONDS, self._lasts / 2)
        return fresh and known.run == run and Path(known.file).exists()

    async def arrived(self, server: ServerName, run: int) -> None:
        """That boot has come up, with all of its medium in memory; see `ports.MediaSource`."""
        await asyncio.to_thread(self._offers.drop, server, run)

    async def withdraw(self, server: ServerName) -> None:
        """Offer this server nothing any more."""
        await asyncio.to_thread(self._offers.drop, server)

    def open(self, path: str) -> MediaFile | None:
        """The medium of that path; None where nothing is offered there. Blocking; raises `OSError`."""
        offer = self._offers.at(path)
        if offer is None:
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
