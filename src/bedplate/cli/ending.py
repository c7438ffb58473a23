"""Waiting until objects are gone, saying on what they wait meanwhile."""

from __future__ import annotations

import time
from typing import NamedTuple

from bedplate.cli import conditions
from bedplate.cli.board import Line, board
from bedplate.cli.errors import UserError
from bedplate.cli.feeds import Feeds
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session
from bedplate.cli.times import span


class Ending(NamedTuple):
    """An object whose end is waited for; one of the same name with another uid counts as gone."""

    resource: Resource
    namespace: str
    name: str
    uid: str

    @property
    def label(self) -> str:
        return f"{self.resource.singular}/{self.name}"


def until_gone(session: Session, endings: list[Ending], timeout: float) -> int:
    """Show progress until all are gone; gives the exit code.

    Raises:
        UserError: something is still there after `timeout` seconds; says on what it waits.
    """
    feeds = Feeds(session)
    began = time.monotonic()
    waiting = {e.label: "" for e in endings}
    for i, e in enumerate(endings):
        feeds.add(str(i), e.resource.path(e.namespace), {"fieldSelector": f"metadata.name={e.name}"})
    present: set[str] = set()
    try:
        with board() as view:
            while waiting:
                left = began + timeout - time.monotonic()
                if left <= 0:
                    still = "; ".join(f"{k}: {why}" if why else k for k, why in waiting.items())
                    raise UserError(f"still there after {span(timeout)}; the deletion goes on. {still}")
                for tag, change in feeds.take(min(left, 1.0)):
                    e = endings[int(tag)]
                    mine = change.object.get("metadata", {}).get("uid", "") == e.uid
                    if (change.type == "SYNCED" and e.label not in present) or (change.type == "DELETED" and mine):
                        waiting.pop(e.label, None)
                        view.set(e.label, Line(e.label, "Done", "gone", began, time.monotonic()))
                    elif change.type != "SYNCED" and mine:
                        present.add(e.label)
                        waiting[e.label] = conditions.waits_on(change.object)
                        view.set(e.label, Line(e.label, "Deleting", waiting[e.label], began))
    except KeyboardInterrupt:
        print("\nno longer waiting; the deletion goes on")
        return 130
    return 0
