"""What vendors' BMCs say and do in their own way, as data. A row has its source; nothing here is guessed.

None of it decides whether a server is off: that is read back.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

Meaning = Literal["busy", "already", "sessions-full", "unlicensed"]


class Saying(msgspec.Struct, frozen=True):
    """A message in a BMC's answer and what it means, whatever its HTTP status."""

    message: str
    """Last part of Redfish's `MessageId`."""
    vendor: str
    meaning: Meaning
    seconds: float = 0.0
    """When to come back, where the answer does not say."""
    source: str = ""


SAYINGS = (
    Saying("ServiceTemporarilyUnavailable", "any", "busy", 5.0, "DMTF Base registry; its argument is the seconds"),
    Saying("SYS518", "Dell", "busy", 5.0, "sushy connector.py; ironcore-dev/metal-operator#170 (503 after a reset)"),
    Saying("SWC0700", "Dell", "busy", 10.0, "quadsproject/badfish#129: iDRAC not ready, told as HTTP 400"),
    Saying("RAC0218", "Dell", "sessions-full", 0.0, "bb-Ricardo/check_redfish#89: eight sessions at most, HTTP 503"),
    Saying("ResourceNotReadyRetry", "HPE", "busy", 5.0, "bb-Ricardo/check_redfish#170: while powered off"),
    Saying("InvalidOperationForSystemState", "HPE", "already", 0.0, "goldyfruit/ansible-ilo#1: HTTP 400, power is off"),
    Saying("OemLicenseNotPassed", "Supermicro", "unlicensed", 0.0, "metal3-io/ironic-image#688: HTTP 403"),
)

_BY_MESSAGE = {s.message: s for s in SAYINGS}

OFF = ("ForceOff",)
"""Only what cuts the power at once: a fence must not wait for a guest that hangs. It is ordered also where it is not
listed: lists are incomplete (openbmc/openbmc-test-automation#1916), and a refusal costs nothing."""
ON = ("On", "ForceOn")

WANTED = {"TransferProtocolType": "", "TransferMethod": "Stream", "UserName": "none", "Password": "none"}
"""What Redfish leaves to whoever inserts a medium and some BMCs insist on, with what they are told; the protocol is the
URL's. NVIDIA's DGX wants a login for a medium that needs none. (sushy virtual_media.py; the answers are among its
samples)"""
_WANTING = ("ActionParameterMissing", "PropertyMissing", "GeneralError")

USB_CD_MAKERS = frozenset({"supermicro"})
"""X11 and X12 know `Cd` and boot virtual media only by `UsbCd`, where they list it (sushy system.py)."""

STRAY_401_SECONDS = 2.0
"""After a reset an iDRAC refuses right passwords now and then for minutes, and takes them at the next try
(dell/iDRAC-Redfish-Scripting#383): a refusal is asked once more after so long before it is believed."""


def sayings(body: object) -> list[Saying]:
    """What is known of the messages in an error's body (the value of its `error`)."""
    found: list[Saying] = []
    for message in _messages(body):
        name = str(message.get("MessageId") or "").rpartition(".")[2]
        known = _BY_MESSAGE.get(name)
        if known is None:
            continue
        arguments = message.get("MessageArgs")
        first: object = arguments[0] if isinstance(arguments, list) and arguments else None  # type: ignore[misc]
        if name == "ServiceTemporarilyUnavailable" and str(first).isdigit():
            known = msgspec.structs.replace(known, seconds=float(str(first)))
        found.append(known)
    return found


def wanted(body: object) -> frozenset[str]:
    """Which of `WANTED` an error's body says were missing in the request."""
    found: set[str] = set()
    for message in _messages(body):
        if str(message.get("MessageId") or "").rpartition(".")[2] in _WANTING:
            told = [message.get(field) for field in ("Message", "MessageArgs", "RelatedProperties")]
            found |= set(re.findall(r"\w+", str(told)))
    return frozenset(found.intersection(WANTED))


def boots_media_by(system: dict[str, Any]) -> str:
    """The boot source that its virtual CD drive is."""
    boot = system.get("Boot")
    listed = boot.get("BootSourceOverrideTarget@Redfish.AllowableValues") if isinstance(boot, dict) else None
    maker = str(system.get("Manufacturer") or "").strip().lower()
    return "UsbCd" if maker in USB_CD_MAKERS and isinstance(listed, list) and "UsbCd" in listed else "Cd"


def choose(orders: tuple[str, ...], system: dict[str, Any]) -> str:
    """The first of the orders that the system lists; the first of all where it lists none of them."""
    actions = system.get("Actions")
    reset = actions.get("#ComputerSystem.Reset") if isinstance(actions, dict) else None
    listed = reset.get("ResetType@Redfish.AllowableValues") if isinstance(reset, dict) else None
    if isinstance(listed, list):
        return next((o for o in orders if o in listed), orders[0])
    return orders[0]


def _messages(body: object) -> list[dict[str, Any]]:
    info = body.get("@Message.ExtendedInfo") if isinstance(body, dict) else None
    found = info if isinstance(info, list) else [info]
    return [m for m in found if isinstance(m, dict)]
