"""Has looked now and then whether the deployed system is still as its image, and its firmware. Changes nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bedplate.model.drift import Drift

log = logging.getLogger("bedplate.agent.drift")

FIRST_SECONDS = 90.0
"""From the agent's start: a node that joins has other things to do."""
LOOK_SECONDS = 3600.0
"""Between looks. Each asks for the state of some 40,000 files and reads those that are not as they were."""
TIMEOUT_SECONDS = 1800.0


class DriftWatch:
    """Looks until it is cancelled."""

    def __init__(self, changed: Callable[[Drift], Awaitable[None]], *, root: Path = Path("/")) -> None:
        """`changed` is told what was found, each time."""
        self._changed = changed
        self._root = root
        self._known: tuple[str, ...] = ()

    async def run(self) -> None:
        """Look `FIRST_SECONDS` after the start, then every `LOOK_SECONDS`."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                found = await self._look()
            except (OSError, TimeoutError, msgspec.MsgspecError) as error:
                log.warning("it could not be looked at what was deployed: %s", error or "it took too long")
            else:
                if found is None:
                    log.info("the image has no record of what it holds: drift is not looked for")
                    return
                await self._tell(found)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> Drift | None:
        """Raises `OSError`, `TimeoutError`, `MsgspecError`."""
        argv = ("nice", "-n", "19", sys.executable, "-m", "bedplate.agent.drift_look", str(self._root))
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        return msgspec.json.decode(said, type=Drift | None)

    async def _tell(self, found: Drift) -> None:
        for change in found.changes:
            if change not in self._known:
                log.warning("not as deployed: %s", change)
        self._known = found.changes
        await self._changed(found)
