"""Single acts on libvirt's domains, each run in a worker's thread with its connection. Blocking.

A domain that does not carry the store's mark is refused, whatever its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

import libvirt

from bedplate.agent.domains import METADATA_PREFIX, METADATA_URI, DomainMark, mark_of, mark_xml, read_mark
from bedplate.agent.faults import AgentFault
from bedplate.model.ids import MachineUid, StoreId
from bedplate.model.steps import Failed

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
)


def lookup(connection: Any, uid: MachineUid) -> Any:
    """The domain, or None."""
    try:
        return connection.lookupByUUIDString(uid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def mark(domain: Any) -> DomainMark | None:
    """The domain's mark, or None."""
    try:
        return read_mark(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, 0))
    except libvirt.libvirtError:
        return None


def check_ours(domain: Any, store: StoreId) -> None:
    """Raise `AgentFault` for a domain of somebody else."""
    found = mark(domain)
    if found is None or found.store != store:
        raise AgentFault(
            "NotOurs", f"domain {domain.name()} was not made by this store; it is left alone", permanent=True
        )


def define(connection: Any, uid: MachineUid, store: StoreId, xml: str) -> str:
    """Make the domain known with this definition; gives what was done."""
    domain = lookup(connection, uid)
    if domain is None:
        connection.defineXML(xml)
        return "the domain was defined"
    check_ours(domain, store)
    wanted = mark_of(xml)
    assert wanted is not None
    if mark(domain) == wanted:
        return "the domain was as it is to be"
    connection.defineXML(xml)
    if domain.isActive():
        # The running guest keeps its hardware until it next starts; its mark is raised at once.
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            mark_xml(wanted, bare=True),
            METADATA_PREFIX,
            METADATA_URI,
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )
    return "the domain was redefined"


def press(connection: Any, uid: MachineUid) -> None:
    """Press the power button; a guest that is just ending is not an error."""
    with contextlib.suppress(libvirt.libvirtError):
        connection.lookupByUUIDString(uid).shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def cut(connection: Any, uid: MachineUid) -> None:
    """Cut the power; done where it is off."""
    domain = connection.lookupByUUIDString(uid)
    if not domain.isActive():
        return
    try:
        domain.destroy()
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def remove(connection: Any, uid: MachineUid, store: StoreId) -> str:
    """End the domain, whatever it does, and take it out of libvirt; gives what was done."""
    domain = lookup(connection, uid)
    if domain is None:
        return "the domain was gone"
    check_ours(domain, store)
    cut(connection, uid)
    try:
        domain.undefineFlags(_UNDEFINE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # one that was never defined went with its end
            raise
    return "the domain is gone"


def failure(error: libvirt.libvirtError) -> Failed:
    """What libvirt's refusal means as a step's result."""
    text = error.get_error_message() or str(error)
    reason = "LibvirtError"
    if 'Failed to get "write" lock' in text or "Failed to get shared" in text:
        reason = "DiskInUse"
    elif os.strerror(errno.ENOSPC) in text:
        reason = "DiskFull"
    elif "Cannot allocate memory" in text or "cannot set up guest memory" in text:
        reason = "OutOfMemory"
    elif error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        reason = "DomainMissing"
    return Failed(reason=reason, message=f"libvirt: {text}")
