"""What libvirt says of this store's domains: read, never kept."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import libvirt
import msgspec

from bedplate.agent.domains import METADATA_URI, DomainMark, read_mark
from bedplate.model.ids import MachineUid
from bedplate.model.inventory import DomainState


class Facts(msgspec.Struct, frozen=True):
    """What libvirt says of one domain of ours."""

    mark: DomainMark
    state: DomainState
    agent_channel: bool = False
    moving: bool = False
    """It stands still for a moment because it moves to or from another server."""
    left: bool = False
    """It has moved to another server; only its definition is left."""

    @property
    def active(self) -> bool:
        """Its QEMU runs."""
        return self.state in {"running", "paused"}


_STATES: dict[int, DomainState] = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_SHUTOFF: "shutoff",
}
_MOVING = {libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY}
_DIED = {libvirt.VIR_DOMAIN_SHUTOFF_CRASHED, libvirt.VIR_DOMAIN_SHUTOFF_FAILED}


def read_facts(domain: Any) -> Facts | None:
    """Read one domain; None where it is none of ours or has just gone."""
    try:
        mark = read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, 0))
        if mark is None:
            return None
        number, reason = domain.state()
        state = _STATES.get(number, "shutoff")
        off = number == libvirt.VIR_DOMAIN_SHUTOFF
        if off and reason in _DIED:
            state = "crashed"
        return Facts(
            mark,
            state,
            agent_channel=state == "running" and _agent_channel(domain.XMLDesc(0)),
            moving=number == libvirt.VIR_DOMAIN_PAUSED and reason in _MOVING,
            left=off and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED,
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN}:
            return None
        raise


def facts_of(connection: Any, uid: MachineUid) -> Facts | None:
    """Read one domain by its machine's uid; None where there is none of ours."""
    try:
        return read_facts(connection.lookupByUUIDString(uid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def all_facts(connection: Any) -> list[Facts]:
    """Read all domains that carry a mark."""
    found = (read_facts(domain) for domain in connection.listAllDomains())
    return [f for f in found if f is not None]


def _agent_channel(xml: str) -> bool:
    target = ElementTree.fromstring(xml).find("./devices/channel/target[@name='org.qemu.guest_agent.0']")
    return target is not None and target.get("state") == "connected"
