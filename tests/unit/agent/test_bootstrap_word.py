"""What a guest says of its bootstrap, and when it was: by the server's clock, whatever the guest's says."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from bedplate.agent.bootstrap_word import STATUS_FILE, TIMES_FILE, BootstrapStatus, read_times
from bedplate.agent.guest import GuestChannel, GuestUnreachable
from bedplate.model.ids import MachineUid

UID = MachineUid("u1")


class Guest(GuestChannel):
    """A guest agent with a few files and a clock that is an hour ahead."""

    AHEAD = 3600.0

    def __init__(self, files: dict[str, str], *, clock: bool = True) -> None:
        self.files = files
        self.clock = clock

    async def _ask(self, uid: MachineUid, command: dict[str, Any], timeout: float) -> Any:
        del uid, timeout
        arguments = command.get("arguments", {})
        match command["execute"]:
            case "guest-file-open":
                if arguments["path"] not in self.files:
                    raise GuestUnreachable("failed to open file '...': No such file or directory")
                return arguments["path"]
            case "guest-file-read":
                return {"buf-b64": base64.b64encode(self.files[arguments["handle"]].encode()).decode()}
            case "guest-get-time" if self.clock:
                return int((time.time() + self.AHEAD) * 1e9)
            case "guest-file-close":
                return {}
            case other:
                raise GuestUnreachable(f"{other} is not known")


async def test_times_count_by_how_long_ago_they_were() -> None:
    there = time.time() + Guest.AHEAD
    times = f"up {there - 90}\nbegan {there - 80}\nended {there - 10}\nended {there}\n"
    status = await Guest({STATUS_FILE: "done\n", TIMES_FILE: times}).bootstrap(UID)
    ago = [time.time() - x for x in (status.up, status.began, status.ended)]
    assert ago == pytest.approx([90, 80, 10], abs=2)


async def test_without_times_the_word_alone_counts() -> None:
    assert await Guest({STATUS_FILE: "done\n"}).bootstrap(UID) == BootstrapStatus("done")
    times = "began 5\nended 6\n"
    old = Guest({STATUS_FILE: "failed\nwhy\n", TIMES_FILE: times}, clock=False)
    assert (await old.bootstrap(UID)).state == "failed"
    assert await Guest({STATUS_FILE: "running\n", TIMES_FILE: times}).bootstrap(UID) == BootstrapStatus("running")
    assert await Guest({}).bootstrap(UID) == BootstrapStatus()


def test_whatever_else_stands_there_is_passed_over() -> None:
    assert read_times(b"up 1,5\nbegan x\nbegan 2\nother 3\nended 4\nended 9\n\xff\n") == {
        "up": 1.5,
        "began": 2.0,
        "ended": 4.0,
    }
