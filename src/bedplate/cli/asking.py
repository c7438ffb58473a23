"""Asking a person before what can't be taken back."""

from __future__ import annotations

import sys

from bedplate.cli.errors import UserError


def confirm(question: str, unasked: str, refused: str) -> None:
    """Ask on the terminal.

    Args:
        question: Without its question mark.
        unasked: What `--yes` lets the command do without being asked.
        refused: What is said where the answer is not yes.

    Raises:
        UserError: the answer is not yes, or nobody can answer.
    """
    if not sys.stdin.isatty():
        raise UserError(f"nobody is here to confirm; add --yes to {unasked} without being asked")
    print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise UserError(refused)
