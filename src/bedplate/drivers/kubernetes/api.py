"""One cluster's API: requests, server-side apply, watches. Knows its conventions; may not know what for."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bedplate import pki
from bedplate.drivers.kubernetes.connection import REQUEST_SECONDS, Channel, Route, Tunnel, UnreachableError
from bedplate.ports import ClusterAccess, Dialer, SecretStore

Json = dict[str, Any]
OnEvent = Callable[[str, Json], Awaitable[None]]
"""Takes an event's type (`ADDED`, `MODIFIED`, `DELETED`) and its object."""

FIELD_MANAGER = "bedplate"
DIRECT_PORT = 6443
"""Where a control-plane machine's own API server listens, if not at the endpoint's port."""
WATCH_SECONDS = 240
SILENCE_SECONDS = 90.0
"""API servers send a bookmark every minute or so: a watch that says nothing for longer may be dead."""


class RefusedError(Exception):
    """The API answered with an error. `reason` is Kubernetes' own word, such as `Conflict`."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ExpiredError(Exception):
    """What happened since that resource version is forgotten: list again."""


class ClusterApi:
    """The API of one cluster, reached in whatever way works."""

    def __init__(self, access: ClusterAccess, dialer: Dialer, secrets: SecretStore, socket: Path) -> None:
        self.access = access
        self._dialer = dialer
        host = f"[{access.endpoint}]" if ":" in access.endpoint else access.endpoint
        self._channel = Channel(
            Tunnel(socket, dialer, self._routes),
            f"https://{host}:{access.port}",
            functools.partial(pki.client_identity, secrets, access.secrets),
        )

    async def stop(self) -> None:
        """Break all that is open."""
        await self._channel.stop()

    def _routes(self) -> list[Route]:
        """The endpoint as the hosts of the control plane see it (or two others), then each machine itself."""
        access, connected = self.access, self._dialer.connected()
        hosts = [s for s in dict.fromkeys(m.server for m in access.control_planes) if s in connected]
        others = [s for s in connected if s not in hosts]
        routes = [Route(s, access.endpoint, access.port) for s in [*hosts, *others][: max(2, len(hosts))]]
        for m in access.control_planes:
            if m.server in connected:
                routes += [Route(m.server, m.nic.address, port) for port in dict.fromkeys((access.port, DIRECT_PORT))]
        return routes

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        seconds: float = REQUEST_SECONDS,
    ) -> Json:
        """Ask, and give the decoded answer.

        Raises:
            UnreachableError: no answer.
            RefusedError: an answer other than success.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content_type, "Accept": "application/json"}
        response = await self._channel.request(
            method, path, params=params, content=content, headers=headers, seconds=seconds
        )
        if response.is_success:
            return _decode(response.content)
        raise _refused(response.status_code, response.content)

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json | None:
        """Read an object or list; None where there is none. Raises as `request`."""
        try:
            return await self.request("GET", path, params=params)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    async def merge(self, path: str, body: Json) -> Json:
        """Merge-patch an object. Raises as `request`."""
        return await self.request(
            "PATCH",
            path,
            body=body,
            params={"fieldManager": FIELD_MANAGER},
            content_type="application/merge-patch+json",
        )

    async def strategic(self, path: str, body: Json) -> Json:
        """Patch an object with lists merged by their keys, such as conditions by type. Raises as `request`."""
        return await self.request(
            "PATCH",
            path,
            body=body,
            params={"fieldManager": FIELD_MANAGER},
            content_type="application/strategic-merge-patch+json",
        )

    async def apply(self, path: str, body: Json) -> Json:
        """Apply an object on the server's side, taking over fields that others own. Raises as `request`."""
        return await self.request(
            "PATCH",
            path,
            body=body,
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )

    async def watch(self, path: str, version: str, on_event: OnEvent) -> str:
        """Watch until the server ends it or says nothing for long; gives the version from which to go on.

        Raises:
            ExpiredError: the version is too old.
            UnreachableError: the connection was lost.
            RefusedError: watching is refused.
        """
        began = time.monotonic()
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        try:
            async with self._channel.stream(path, params, SILENCE_SECONDS) as response:
                if not response.is_success:
                    refused = _refused(response.status_code, await response.aread())
                    raise ExpiredError if refused.status == 410 else refused
                async for line in response.aiter_lines():
                    version = await _event(line, on_event) or version
        except httpx.ReadTimeout:
            pass
        if time.monotonic() - began < 1.0:
            await asyncio.sleep(1.0)  # a server that ends watches at once must not be asked in a circle
        return version


async def _event(line: str, on_event: OnEvent) -> str:
    if not line.strip():
        return ""
    event = _decode(line.encode())
    kind, obj = event.get("type", ""), event.get("object") or {}
    if kind == "ERROR":
        if obj.get("code") == 410:
            raise ExpiredError
        raise RefusedError(int(obj.get("code") or 500), str(obj.get("reason", "")), str(obj.get("message", "")))
    if kind != "BOOKMARK":
        await on_event(kind, obj)
    return str(obj.get("metadata", {}).get("resourceVersion", ""))


def _decode(content: bytes) -> Json:
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        raise UnreachableError("what answered is no Kubernetes API") from None
    return found if isinstance(found, dict) else {}


def _refused(status: int, content: bytes) -> RefusedError:
    try:
        said = _decode(content)
    except UnreachableError:
        said = {}
    message = str(said.get("message") or f"HTTP status {status}")
    return RefusedError(status, str(said.get("reason") or f"Status{status}"), message[:500])
