"""Progress on the screen: one live line per thing on a terminal, plain lines on change elsewhere."""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol

from bedplate.cli import output
from bedplate.cli.times import span

_STYLES = {"Ready": "green", "Done": "green", "Failing": "red", "Down": "red", "NotReady": "yellow"}


class Line(NamedTuple):
    """One thing and where it is. `started` and `ended` are readings of `time.monotonic`; `ended` 0: not yet."""

    name: str
    phase: str
    detail: str
    started: float
    ended: float = 0.0

    def elapsed(self) -> str:
        """Its time so far."""
        return span((self.ended or time.monotonic()) - self.started)


class Board(Protocol):
    """Shows lines by key."""

    def set(self, key: str, line: Line) -> None: ...

    def drop(self, key: str) -> None: ...

    def note(self, text: str) -> None:
        """Write one line above all."""
        ...

    def __enter__(self) -> Board: ...

    def __exit__(self, *error: object) -> None: ...


def board() -> Board:
    """The board that fits the standard output."""
    return PlainBoard() if output.plain() else LiveBoard()


class PlainBoard:
    """A line each time that a phase or detail changes."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> PlainBoard:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def set(self, key: str, line: Line) -> None:
        """Write the line if it says something new."""
        says = (line.phase, line.detail)
        if self._shown.get(key) != says:
            self._shown[key] = says
            detail = f" - {line.detail}" if line.detail else ""
            print(f"{line.name}: {line.phase} ({line.elapsed()}){detail}", flush=True)

    def drop(self, key: str) -> None:
        """Forget the line."""
        self._shown.pop(key, None)

    def note(self, text: str) -> None:
        """Write one line."""
        print(text, flush=True)


class LiveBoard:
    """Lines that stay in place, with clocks that run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lines: dict[str, Line] = {}
        self._console = Console(highlight=False)
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)

    def __enter__(self) -> LiveBoard:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def set(self, key: str, line: Line) -> None:
        """Show or change a line."""
        self._lines[key] = line

    def drop(self, key: str) -> None:
        """Take a line away."""
        self._lines.pop(key, None)

    def note(self, text: str) -> None:
        """Write one line above all."""
        self._console.print(text, markup=False)

    def _render(self) -> Any:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2), expand=False)
        for column in range(5):
            grid.add_column(no_wrap=True, overflow="ellipsis", justify="right" if column == 3 else "left")
        for line in self._lines.values():
            style = _STYLES.get(line.phase, "cyan")
            sign: Any = Text("✔", "green") if line.ended else Spinner("dots", style=style)
            grid.add_row(sign, Text(line.name), Text(line.phase, style), Text(line.elapsed()), Text(line.detail, "dim"))
        return grid
