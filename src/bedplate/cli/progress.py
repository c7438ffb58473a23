"""Watching declared objects and their machines until all are Ready."""

from __future__ import annotations

import time
from typing import Any

from bedplate.cli import conditions
from bedplate.cli.board import Board, Line, board
from bedplate.cli.errors import UserError
from bedplate.cli.feeds import Feeds
from bedplate.cli.output import short_name
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session
from bedplate.cli.times import span

CLUSTER_LABEL = "bedplate.dev/cluster"
_WAITABLE = ("Cluster", "NodePool", "VirtualMachine")
"""Kinds whose `Ready` depends on work; the others are there once they are declared."""

Target = tuple[Resource, dict[str, Any]]


def until_ready(session: Session, targets: list[Target], timeout: float) -> int:
    """Show progress until every target is Ready; gives the exit code.

    Raises:
        UserError: not Ready after `timeout` seconds; says what still waits and on what.
    """
    waited = [(r, o) for r, o in targets if r.kind in _WAITABLE]
    if not waited:
        print("nothing to wait for: these objects need no work")
        return 0
    watch = _Watch(session, waited)
    try:
        with board() as view:
            watch.run(view, timeout)
    except KeyboardInterrupt:
        print("\nno longer waiting; the controller goes on with the work (see `bedplate get machines -w`)")
        return 130
    print(watch.summary())
    return 0


class _Watch:
    """What is known of the targets and their machines."""

    def __init__(self, session: Session, targets: list[Target]) -> None:
        self._feeds = Feeds(session)
        self._began = time.monotonic()
        self._waiting: dict[str, str] = {}
        self._lines: dict[str, Line] = {}
        self._owners = {_owner_of(obj) for _, obj in targets}
        self._minimum: dict[str, int] = {}
        for _, obj in targets:
            self._waiting[_identity(obj)] = conditions.waits_on(obj)
            self._minimum[_identity(obj)] = int(obj["metadata"].get("generation") or 0)
        for resource, namespace in sorted({(r, str(o["metadata"].get("namespace") or "")) for r, o in targets}):
            self._feeds.add("target", resource.path(namespace))
        machines = session.kind("machines")
        for namespace in sorted({n for n, cluster in self._owners if cluster}):
            self._feeds.add("machine", machines.path(namespace))

    def run(self, view: Board, timeout: float) -> None:
        """Follow until none waits."""
        end = self._began + timeout
        while self._waiting:
            now = time.monotonic()
            if now >= end:
                raise UserError(self._late(timeout))
            for tag, change in self._feeds.take(min(end - now, 1.0)):
                if change.type == "SYNCED":
                    continue
                if tag == "machine":
                    self._machine(view, change.type, change.object)
                else:
                    self._target(view, change.type, change.object)

    def summary(self) -> str:
        """One line on how it went."""
        return f"all Ready after {span(time.monotonic() - self._began)}"

    def _target(self, view: Board, type_: str, obj: dict[str, Any]) -> None:
        identity = _identity(obj)
        if identity not in self._minimum:
            return
        if type_ == "DELETED":
            raise UserError(f"{short_name(obj)} was deleted while it was waited for")
        new_enough = (obj["metadata"].get("generation") or 0) >= self._minimum[identity]
        ready = new_enough and conditions.is_true(obj)
        if ready:
            self._waiting.pop(identity, None)
        else:
            self._waiting[identity] = conditions.gist(conditions.waits_on(obj))
        phase = "Ready" if ready else str((obj.get("status") or {}).get("phase") or "Waiting")
        self._show(view, identity, short_name(obj), phase, self._waiting.get(identity, ""), ready)

    def _machine(self, view: Board, type_: str, obj: dict[str, Any]) -> None:
        if _owner_of(obj) not in self._owners:
            return
        identity = str(obj["metadata"].get("uid") or _identity(obj))
        if type_ == "DELETED":
            self._lines.pop(identity, None)
            view.drop(identity)
            return
        phase = str((obj.get("status") or {}).get("phase") or "Pending")
        server = (obj.get("spec") or {}).get("server") or "no server yet"
        detail = "" if phase == "Ready" else conditions.gist(conditions.waits_on(obj))
        text = f"{server}{': ' if detail else ''}{detail}"
        self._show(view, identity, f"  {obj['metadata']['name']}", phase, text, phase == "Ready")

    def _show(self, view: Board, key: str, name: str, phase: str, detail: str, done: bool) -> None:
        before = self._lines.get(key)
        now = time.monotonic()
        ended = (before.ended if before and before.ended else now) if done else 0.0
        started = self._began if key in self._minimum else now  # a machine's time runs from when it is first seen
        line = Line(name, phase, detail, before.started if before else started, ended)
        self._lines[key] = line
        view.set(key, line)

    def _late(self, timeout: float) -> str:
        still = "; ".join(f"{identity.rpartition('|')[2]}: {why}" for identity, why in self._waiting.items())
        return f"not all Ready after {span(timeout)}; work goes on. {still}"


def _identity(obj: dict[str, Any]) -> str:
    return f"{obj['metadata'].get('namespace', '')}|{short_name(obj)}"


def _owner_of(obj: dict[str, Any]) -> tuple[str, str]:
    """Namespace and name of the cluster that the object belongs to; no name for what is of no cluster."""
    metadata = obj["metadata"]
    namespace = str(metadata.get("namespace") or "")
    if obj.get("kind") == "Cluster":
        return namespace, str(metadata["name"])
    label = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
    return namespace, str(label or (obj.get("spec") or {}).get("cluster") or "")
