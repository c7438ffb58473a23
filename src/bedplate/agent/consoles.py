"""Serial consoles of a hypervisor's machines as streams."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import termios
import tty
from typing import Any
from xml.etree import ElementTree

import libvirt

from bedplate.agent.streams import CHUNK, Ends
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
    return await _open_terminal(path)


async def _open_terminal(path: str) -> Ends:
    loop = asyncio.get_running_loop()
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    with contextlib.suppress(termios.error):
        tty.setraw(fd)
    reader = asyncio.StreamReader(limit=CHUNK)
    # asyncio's pipe transports take character devices; each end owns its own descriptor.
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), io.FileIO(os.dup(fd), "rb"))
    sink, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, io.FileIO(fd, "wb"))
    writer = asyncio.StreamWriter(sink, protocol, reader, loop)
    return Ends(reader, writer, source, half_close=False)
