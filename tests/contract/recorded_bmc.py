"""A BMC that answers what others have recorded: the samples that the package sushy brings along for its own tests.

Most are the DMTF's examples of Redfish, some are vendors' answers that made sushy fail once. They are read where they
are installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sushy
from troublesome_bmc import ROOT, SESSIONS, Say, TroublesomeBmc, error

SAMPLES = Path(sushy.__file__).parent / "tests/unit/json_samples"
Json = dict[str, Any]


def sample(name: str) -> Json:
    """One of them."""
    return json.loads((SAMPLES / f"{name}.json").read_text())


def refusal(name: str) -> Say:
    """A recorded error, as an answer."""
    return Say(400, sample(name))


class RecordedBmc(TroublesomeBmc):
    """Resources are where they say that they are; what is changed is changed, orders are carried out."""

    def __init__(self, spend: Any, now: Any, *names: str, system: str = "system") -> None:
        super().__init__(spend, now)
        self.resources = {}
        for name in ("root", "system_collection", "manager", system, *names):
            found = sample(name)
            self.resources[found["@odata.id"]] = found
        self.path: str = sample("system_collection")["Members"][0]["@odata.id"]
        self.changes: list[tuple[str, Json]] = []
        """What was changed and ordered, but power: path and body."""
        self.before_insert: Callable[[Json], None] = lambda _told: None
        """Called with the body of InsertMedia; may raise."""

    @property
    def system(self) -> Json:
        return self.resources[self.path]

    def _answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        told = json.loads(body or b"{}")
        if (path == SESSIONS and method == "POST") or method == "DELETE":
            return super()._answer(method, path, headers, body)
        if path != ROOT:
            self._check(headers)
        if method == "POST" and path.endswith("/Actions/ComputerSystem.Reset"):
            return self._order(told["ResetType"])
        drive, _, action = path.partition("/Actions/VirtualMedia.")
        found = self.resources.get(drive)
        if found is None:
            raise error(404, "Base.1.8.ResourceMissingAtURI")
        if method == "GET":
            shown = {**found, "PowerState": self.really()} if path == self.path else found
            return 200, {}, json.dumps(shown).encode()
        if action == "InsertMedia":
            self.before_insert(told)
            found.update(Inserted=True, Image=told["Image"])
        elif action == "EjectMedia":
            found.update(Inserted=False, Image=None)
        else:
            for name, value in told.items():
                found[name] = {**found[name], **value} if isinstance(value, dict) else value
        self.changes.append((path, told))
        return 204, {}, b""
