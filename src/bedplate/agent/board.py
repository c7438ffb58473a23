"""What a server is as hardware, where no libvirt says it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from bedplate import __version__
from bedplate.agent.host import boot_id
from bedplate.agent.starting import StartFailed
from bedplate.model.ids import ServerName
from bedplate.model.inventory import ServerView

PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")


def host_uuid(path: Path = PRODUCT_UUID) -> str:
    """The board's identity, as its firmware has it. Raises `StartFailed`."""
    try:
        return str(uuid.UUID(path.read_text().strip()))
    except (OSError, ValueError) as error:
        raise StartFailed(f"the server's firmware tells no UUID in {path}: {error}") from error


def plain_view(server: ServerName, board: str) -> ServerView:
    """A server that runs no hypervisor, as it is now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return ServerView(
        server=server,
        connected=True,
        host_uuid=board,
        boot_id=boot_id(),
        agent_version=__version__,
        cpus=os.cpu_count() or 1,
        memory_mib=memory >> 20,
    )
