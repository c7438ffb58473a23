"""Faults that a person can put right, and the nearest name for a wrong one. Does not print or exit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """One clear sentence on what is wrong and what would be right. Shown without a traceback; exit code 1."""

    has_place = False
    """Whether its lines start with file and line."""


class UnreachableError(UserError):
    """No controller answers now; the same may work a little later."""


class ApiError(UserError):
    """The API refused a request; `status` is its `Status` object, `code` the HTTP status."""

    def __init__(self, message: str, code: int, status: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @property
    def reason(self) -> str:
        """Kubernetes' reason for programs, such as `NotFound`."""
        return str(self.status.get("reason") or "")

    @property
    def causes(self) -> list[dict[str, str]]:
        """The single faults, each with `field`, `message` and `reason`."""
        details: dict[str, Any] = self.status.get("details") or {}
        return list(details.get("causes") or ())


def nearest(word: str, known: Iterable[str]) -> str:
    """Give the known word that is nearest to `word`, or an empty text."""
    import difflib

    names = list(known)
    lower = {n.lower(): n for n in names}
    found = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return lower[found[0]] if found else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give `; did you mean X?` for the nearest known word, or an empty text."""
    found = nearest(word, known)
    return f'; did you mean "{found}"?' if found else ""
