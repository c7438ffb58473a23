"""The RAM system's medium for each server: one file for all, with a server's own settings put in as it is read.

Implements `ports.Netboot` and `ports.MediaSource`. A path is known to whoever was given it, and good for one boot: once
its settings were read, the next who asks gets another. It ends with its token, or when the server that it booted is
heard of.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bedplate.drivers.agents.authority import TOKEN_SECONDS
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.blueprint import MetalEntry
from bedplate.model.ids import ServerName
from bedplate.model.metal_protocol import MEDIA_PATH, RamSettings, settings_block
from bedplate.ports import NotOffered

NAME = "ram.iso"
"""Some BMCs take a medium for a CD only where its name ends like that."""
BOOT_SECONDS = 3600.0
"""What a token must still be good for where a boot begins: slow BMCs fetch for minutes, and firmware may start over."""


class Medium(msgspec.Struct, frozen=True):
    """The file that all servers' media are made of."""

    path: Path
    settings_offset: int
    """Bytes from its beginning to the place for settings."""


class _Offer(msgspec.Struct, frozen=True):
    run: int
    path: str
    medium: Medium
    settings: bytes
    ends: float
    """When its token does."""


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


class Media:
    """What is offered now.

    Args:
        find: Gives the RAM system's file, or None where none was built. Blocking.
        enrolment: Gives an enrolment file (JSON) with a fresh one-time token for a server.
        base_url: Where BMCs reach this controller, such as `https://10.0.0.2:7444`.
        lasts: Seconds for which such a token is good.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        find: Callable[[], Medium | None],
        enrolment: Callable[[ServerName], Awaitable[bytes]],
        base_url: Callable[[], str],
        *,
        lasts: float = TOKEN_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find = find
        self._enrolment = enrolment
        self._base_url = base_url
        self._lasts = lasts
        self._clock = clock
        self._by_path: dict[str, _Offer] = {}
        self._by_server: dict[ServerName, _Offer] = {}
        self._told: set[str] = set()
        """Paths whose settings were read: the token in them may be spent, and then nobody enrols with it again."""

    async def offer(self, entry: MetalEntry) -> str:
        """URL of the medium for this boot of this server; see `ports.Netboot`."""
        known = self._by_server.get(entry.server)
        if known is None or not self._good(known, entry.run):
            medium = await asyncio.to_thread(self._find)
            if medium is None:
                raise NotOffered("there is no RAM system to boot; build it: bedplate image build --ram")
            ends = self._clock() + self._lasts
            enrol = msgspec.json.decode(await self._enrolment(entry.server), type=EnrolFile)
            await self.withdraw(entry.server)
            path = f"{MEDIA_PATH}{secrets.token_urlsafe(32)}/{NAME}"
            known = _Offer(entry.run, path, medium, settings_block(_settings(entry, enrol)), ends)
            self._by_path[path] = self._by_server[entry.server] = known
        return f"{self._base_url()}{known.path}"

    def _good(self, known: _Offer, run: int) -> bool:
        """Whether that boot may begin with what was offered before."""
        fresh = known.path not in self._told and known.ends - self._clock() >= min(BOOT_SECONDS, self._lasts / 2)
        return fresh and known.run == run and known.medium.path.exists()

    async def arrived(self, server: ServerName, run: int) -> None:
        """That boot has come up, with all of its medium in memory; see `ports.MediaSource`."""
        known = self._by_server.get(server)
        if known is not None and known.run <= run:
            await self.withdraw(server)

    async def withdraw(self, server: ServerName) -> None:
        """Offer this server nothing any more."""
        known = self._by_server.pop(server, None)
        if known is not None:
            del self._by_path[known.path]
            self._told.discard(known.path)

    def open(self, path: str) -> MediaFile | None:
        """The medium of that path; None where nothing is offered there. Blocking; raises `OSError`."""
        offer = self._by_path.get(path)
        if offer is None or self._clock() >= offer.ends:
            return None
        return MediaFile(offer.medium, offer.settings, lambda: self._told.add(offer.path))


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
