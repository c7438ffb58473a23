"""A bar that moves on a terminal, and is nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Self

from bedplate.cli import output


class Bar:
    """Progress of a known number of things; begins and ends with its `with`.

    Args:
        what: Is done; shown where `before` asks for it.
        total: How many.
        before: Rich's formats of what stands before the bar.
        after: And behind it.
        error: On the standard error, and gone at its end.
        fields: What those formats name.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        before: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        error: bool = False,
        **fields: Any,
    ) -> None:
        self._bar = None
        if not output.plain(sys.stderr if error else sys.stdout):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                *map(TextColumn, before),
                BarColumn(),
                MofNCompleteColumn(),
                *map(TextColumn, after),
                TimeRemainingColumn(),
                console=Console(stderr=error),
                transient=error,
            )
            self._task = self._bar.add_task(what, total=total, **fields)

    @property
    def shown(self) -> bool:
        """Whether there is a terminal for it."""
        return self._bar is not None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, **changes: Any) -> None:
        """Change what it shows: `completed`, `description`, or a field."""
        if self._bar is not None:
            self._bar.update(self._task, **changes)

    def note(self, text: str) -> None:
        """Write a line above it."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, flush=True)
