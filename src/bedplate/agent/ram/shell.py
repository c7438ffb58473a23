"""A person's shell in the RAM system, over the agent's own connection: nothing listens, and there is no password."""

from __future__ import annotations

import asyncio
import os
import pty

from bedplate.agent.streams import Ends
from bedplate.agent.terminals import ends_of

_SHELL = ("setsid", "--ctty", "bash", "--login")
"""In a session of its own with the terminal, so that it is hung up when whoever asked for it goes."""
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "xterm",
    "LANG": "C.UTF-8",
}

_reapers: set[asyncio.Task[int]] = set()


async def open_shell() -> Ends:
    """Start a shell on a terminal of its own. Raises `OSError`."""
    terminal, inside = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *_SHELL, stdin=inside, stdout=inside, stderr=inside, env=_ENVIRONMENT, cwd="/"
        )
    except OSError:
        os.close(terminal)
        raise
    finally:
        os.close(inside)
    reaper = asyncio.ensure_future(process.wait())
    _reapers.add(reaper)
    reaper.add_done_callback(_reapers.discard)
    return await ends_of(terminal)
