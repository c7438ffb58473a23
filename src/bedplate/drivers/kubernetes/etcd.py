"""Who is a voting member of a cluster's etcd, asked of etcd itself through its JSON gateway. Only reads."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bedplate import pki
from bedplate.drivers.kubernetes.connection import Channel, Route, Tunnel, UnreachableError
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid
from bedplate.ports import Dialer, SecretStore

PORT = 2379
ASK_SECONDS = 20.0


class _Member(msgspec.Struct, rename="camel"):
    name: str = ""
    peer_urls: list[str] = msgspec.field(default_factory=list[str], name="peerURLs")
    is_learner: bool = False


class _Members(msgspec.Struct):
    members: list[_Member] = msgspec.field(default_factory=list[_Member])


class Etcd:
    """etcd of one cluster."""

    def __init__(self, secrets: SecretStore, prefix: str, dialer: Dialer, folder: Path, name: str) -> None:
        """`folder`, `name`: where its sockets lie and how their names begin."""
        self._identity = functools.partial(pki.client_identity, secrets, prefix, authority="etcd", groups=())
        self._dialer = dialer
        self._folder = folder
        self._name = name
        self._channels: dict[MachineUid, Channel] = {}
        self._last: MachineUid | None = None

    async def stop(self) -> None:
        """Break all that is open."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.stop()

    async def voting_members(self, machines: Sequence[MachineEntry]) -> tuple[str, ...]:
        """Names of the voting members, as the first machine that answers tells them.

        Raises:
            UnreachableError: none did.
        """
        for gone in set(self._channels) - {m.uid for m in machines}:
            await self._channels.pop(gone).stop()
        said: list[str] = []
        connected = self._dialer.connected()
        for m in sorted(machines, key=lambda m: m.uid != self._last):
            if m.server not in connected:
                said.append(f"{m.name}: the agent of {m.server} is not connected")
                continue
            try:
                members = await self._ask(m)
            except UnreachableError as error:
                said.append(f"{m.name}: {error}")
                continue
            self._last = m.uid
            return tuple(sorted(_name(member, machines) for member in members if not member.is_learner))
        raise UnreachableError("; ".join(said) or "it has no control-plane machine")

    async def _ask(self, m: MachineEntry) -> list[_Member]:
        response = await self._channel(m).request("POST", "/v3/cluster/member/list", content=b"{}", seconds=ASK_SECONDS)
        if not response.is_success:
            raise UnreachableError(f"etcd answered with HTTP status {response.status_code}")
        try:
            return msgspec.json.decode(response.content, type=_Members).members
        except msgspec.DecodeError:
            raise UnreachableError("what answered is no etcd") from None

    def _channel(self, m: MachineEntry) -> Channel:
        channel = self._channels.get(m.uid)
        if channel is None:
            address = m.nic.address
            host = f"[{address}]" if ":" in address else address
            tunnel = Tunnel(
                self._folder / f"{self._name}-{m.uid[:8]}", self._dialer, lambda: [Route(m.server, address, PORT)]
            )
            channel = self._channels[m.uid] = Channel(tunnel, f"https://{host}:{PORT}", self._identity)
        return channel


def _name(member: _Member, machines: Sequence[MachineEntry]) -> str:
    """A member that was added and never started has no name yet, but counts: it is known by its peer address."""
    if member.name:
        return member.name
    hosts = [urlsplit(url).hostname or "" for url in member.peer_urls]
    return next((m.name for m in machines if m.nic.address in hosts), hosts[0] if hosts else "unknown")
