"""A troublesome BMC that also has virtual media and a boot override, and a server that boots what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from troublesome_bmc import SYSTEM, TroublesomeBmc, error

MANAGER = "/redfish/v1/Managers/1"
ANOTHER = "http://somebody/else.iso"


class BootableBmc(TroublesomeBmc):
    """Its drives lie under the system, or, with `under_manager`, under what manages it."""

    def __init__(self, spend: Any, now: Any, *, under_manager: bool = False) -> None:
        super().__init__(spend, now)
        self.booted: list[str] = []
        """What was started, each time that the power came: the medium's URL, `network` or `disk`."""
        self.image_only = False
        """It refuses all that InsertMedia may be told but the image."""
        self.forgets_once = True
        """False: as some boards, it boots a medium again and again that it was told to boot once."""
        self.shows: Callable[[str], str | None] = lambda url: url
        """What it shows as `Image` of a medium that was inserted by this URL."""
        self.keeps: dict[str, str] = {}
        """What of `Boot` stays as it is here, whatever it is told and replies."""
        self.inserts_another = 0
        """So many times somebody else is quicker: their medium is in the drive when ours is to go in."""
        system = self.resources[SYSTEM]
        system["Boot"] = {
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideMode": "UEFI",
        }
        owner = MANAGER if under_manager else SYSTEM
        self.media = f"{owner}/VirtualMedia"
        if under_manager:
            system["Links"]["ManagedBy"] = [{"@odata.id": MANAGER}]
            self.resources[MANAGER] = {"Id": "1", "VirtualMedia": {"@odata.id": self.media}}
        else:
            system["VirtualMedia"] = {"@odata.id": self.media}
        members = [{"@odata.id": f"{self.media}/{name}"} for name in ("Floppy", "Cd")]
        self.resources[self.media] = {"Members": members}
        self._drive("Floppy", ["Floppy", "USBStick"])
        self._drive("Cd", ["CD", "DVD"])

    @property
    def cd(self) -> dict[str, Any]:
        return self.resources[f"{self.media}/Cd"]

    @property
    def boot(self) -> dict[str, Any]:
        return self.resources[SYSTEM]["Boot"]

    def _drive(self, name: str, types: list[str]) -> None:
        path = f"{self.media}/{name}"
        actions = {
            f"#VirtualMedia.{action}": {"target": f"{path}/Actions/VirtualMedia.{action}"}
            for action in ("InsertMedia", "EjectMedia")
        }
        self.resources[path] = {
            "Id": name, "MediaTypes": types, "Inserted": False, "Image": None, "Actions": actions,
        }  # fmt: skip

    def _answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if method == "PATCH" and path in self.resources:
            self._check(headers)
            for name, value in json.loads(body).items():
                found = self.resources[path].get(name)
                self.resources[path][name] = {**found, **value} if isinstance(found, dict) else value
            self.boot.update(self.keeps)
            return 204, {}, b""
        if method == "POST" and "/Actions/VirtualMedia." in path:
            self._check(headers)
            drive, _, action = path.partition("/Actions/VirtualMedia.")
            self._change(self.resources[drive], action, json.loads(body or b"{}"))
            return 204, {}, b""
        if method == "GET" and path == f"{self.media}/Cd" and self.cd["Image"]:
            self._check(headers)
            shown = {**self.cd, "@odata.id": path, "Image": self.shows(self.cd["Image"])}
            return 200, {}, json.dumps(shown).encode()
        return super()._answer(method, path, headers, body)

    def _change(self, drive: dict[str, Any], action: str, told: dict[str, Any]) -> None:
        if action == "EjectMedia":
            drive.update(Inserted=False, Image=None)
            return
        if self.inserts_another:
            self.inserts_another -= 1
            drive.update(Inserted=True, Image=ANOTHER)
        if drive["Inserted"]:
            raise error(409, "Base.1.8.ResourceInUse")
        if self.image_only and set(told) != {"Image"}:
            raise error(400, "Base.1.8.ActionParameterUnknown", "Inserted")
        drive.update(Inserted=True, Image=told["Image"])

    def _order(self, reset: str) -> tuple[int, dict[str, str], bytes]:
        if self.obeys and reset in {"On", "ForceOn"} and self.really() == "Off":
            told = self.boot["BootSourceOverrideEnabled"], self.boot["BootSourceOverrideTarget"]
            from_cd = told in {("Once", "Cd"), ("Continuous", "Cd")} and self.cd["Inserted"]
            from_network = told in {("Once", "Pxe"), ("Continuous", "Pxe")}
            self.booted.append(self.cd["Image"] if from_cd else "network" if from_network else "disk")
            if told[0] == "Once" and self.forgets_once:
                self.boot["BootSourceOverrideEnabled"] = "Disabled"
        return super()._order(reset)
