"""Several collections followed at once, their changes in one queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from bedplate.cli import watching
from bedplate.cli.client import Client, Query
from bedplate.cli.errors import UserError
from bedplate.cli.session import Session
from bedplate.cli.watching import Change


class Feeds:
    """Changes of several collections, each tagged with the name it was added under.

    Each feed runs in a thread of its own that ends with the process.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: queue.Queue[tuple[str, Change | BaseException]] = queue.Queue()

    def add(self, tag: str, path: str, query: Query | None = None, since: str = "") -> None:
        """Follow one more collection."""
        threading.Thread(target=self._run, args=(tag, path, query, since), daemon=True).start()

    def take(self, timeout: float) -> Iterator[tuple[str, Change]]:
        """Give what has come, waiting up to `timeout` seconds for the first.

        Raises:
            UserError: a feed cannot go on.
        """
        try:
            item = self._queue.get(timeout=max(timeout, 0.0))
            while True:
                tag, change = item
                if isinstance(change, BaseException):
                    raise change
                yield tag, change
                item = self._queue.get_nowait()
        except queue.Empty:
            return

    def _run(self, tag: str, path: str, query: Query | None, since: str) -> None:
        # A client of its own: connections are not shared between threads.
        client = Client(self._session.context)
        try:
            for change in watching.follow(client, path, query, since):
                self._queue.put((tag, change))
        except UserError as error:
            self._queue.put((tag, error))
        except Exception as error:
            self._queue.put((tag, UserError(f"following {path} failed: {error}")))
