"""Tells a server's views to the controller: all of them once for each connection, then those that changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from bedplate.agent.role import Send
from bedplate.model.ids import Key
from bedplate.model.inventory import AnyView


class Telling:
    """For roles whose views are few and made at once. `everything`: gives all of them as they are now."""

    def __init__(self, everything: Callable[[], Sequence[AnyView]]) -> None:
        self._everything = everything
        self._told: dict[Key, AnyView] = {}
        self._send: Send | None = None
        self._turn = asyncio.Lock()

    async def attach(self, send: Send) -> None:
        """A controller is there. Raises `ConnectionError`."""
        async with self._turn:
            views = self._everything()
            self._told = {v.key: v for v in views}
            self._send = send
            await send(views, True)

    def detach(self) -> None:
        """The controller is gone."""
        self._send = None

    async def tell(self) -> None:
        """Send what differs from what was told; when this returns, it was said before whatever is said next."""
        async with self._turn:
            send = self._send
            fresh = [v for v in self._everything() if self._told.get(v.key) != v]
            if send is None or not fresh:
                return
            self._told |= {v.key: v for v in fresh}
            with contextlib.suppress(ConnectionError):  # the next connection is told all
                await send(fresh, False)
