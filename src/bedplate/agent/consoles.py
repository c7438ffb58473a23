"""Serial consoles of a hypervisor's machines as streams."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from typing import Any
from xml.etree import ElementTree

import libvirt

from bedplate.agent.streams import Ends
from bedplate.agent.terminals import ends_of
from bedplate.agent.worker import Worker
from bedplate.model.ids import MachineUid


async def open_console(worker: Worker, uid: MachineUid) -> Ends:
    """Attach to a machine's serial console. Raises `OSError`."""

    def work(connection: Any) -> str:
        xml = connection.lookupByUUIDString(uid).XMLDesc(0)
        source = ElementTree.fromstring(xml).find("./devices/serial/source")
        return source.get("path", "") if source is not None else ""

    try:
        path = await worker.call(work)
    except libvirt.libvirtError as error:
        raise ConnectionRefusedError(f"the machine has no domain here: {error.get_error_message()}") from error
    if not path:
        raise ConnectionRefusedError("the machine is not running")
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    with contextlib.suppress(termios.error):
        tty.setraw(fd)
    return await ends_of(fd)
