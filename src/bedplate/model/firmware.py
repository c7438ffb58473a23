"""Which of a server's firmware is supported, as the compatibility matrices that people keep have it. Pure.

The order of versions: text in parentheses and a `v` before a number say nothing, and case does not count. What is left
is cut into runs of digits and runs of letters; anything between them only parts them. Run by run, digits count as a
number (2.10 is newer than 2.9) and are newer than letters; trailing zeros say nothing (2.0 is 2); of two that begin
alike the longer is newer. A word of letters and digits before the version is its family, such as HPE's `U46 v2.68`:
versions of different families can't be compared, one without a family can with any.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bedplate.model.kinds.firmware import CompatibilityMatrix, SupportedFirmware
from bedplate.model.kinds.infrastructure import FirmwareVerdict
from bedplate.model.metal import Component, Hardware

_ASIDE = re.compile(r"\(.*?\)")
_FAMILY = re.compile(r"^([a-z]+\d+)\s+(?=v?\d)")
_V = re.compile(r"\bv(?=\d)")
_RUN = re.compile(r"\d+|[a-z]+")
_SET = re.compile(r"\[[^\]]+\]|[*?]")

Piece = tuple[int, int, str]
"""A number as `(1, number, "")`, letters as `(0, 0, letters)`."""


class Version(NamedTuple):
    """A version as it is compared."""

    family: str
    pieces: tuple[Piece, ...]

    def comparable(self, other: Version) -> bool:
        """They are not of different families."""
        return not self.family or not other.family or self.family == other.family

    def same(self, other: Version) -> bool:
        """They are one version."""
        return self.comparable(other) and bool(self.pieces) and _short(self.pieces) == _short(other.pieces)

    def at_least(self, bound: Version) -> bool:
        """It is the bound or newer."""
        return self.comparable(bound) and _short(self.pieces) >= _short(bound.pieces)

    def at_most(self, bound: Version) -> bool:
        """It is the bound, older, or begins with it."""
        return self.comparable(bound) and _short(self.pieces[: len(bound.pieces)]) <= _short(bound.pieces)


def _short(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    end = len(pieces)
    while end and pieces[end - 1] == (1, 0, ""):
        end -= 1
    return pieces[:end]


@lru_cache(maxsize=4096)
def read_version(text: str) -> Version:
    """Read any text; without a letter or a digit it is a version of no pieces, older than all others."""
    low = _ASIDE.sub(" ", text.lower()).strip()
    found = _FAMILY.match(low)
    rest = _V.sub("", low[found.end() :] if found else low)
    pieces = (((1, int(run), "") if run.isdigit() else (0, 0, run)) for run in _RUN.findall(rest))
    return Version(found[1] if found else "", tuple(pieces))


class JudgedFirmware(msgspec.Struct, frozen=True, kw_only=True):
    """One component against the matrices."""

    component: Component
    verdict: FirmwareVerdict
    wanted: str = ""
    """Which versions would be supported, as the end of a sentence."""
    matrix: str = ""
    """Names of the matrices that say so."""
    note: str = ""
    url: str = ""

    def sentence(self) -> str:
        """What is wrong, and what would be right; for components that are not supported."""
        c = self.component
        more = "".join(f"; {text}" for text in (self.note, self.url) if text)
        return f"{c.name} has {c.version}, supported is {self.wanted} (matrix {self.matrix}{more})"


class _Row(NamedTuple):
    matrix: str
    entry: SupportedFirmware


def judge(hardware: Hardware, matrices: Iterable[CompatibilityMatrix]) -> tuple[JudgedFirmware, ...]:
    """Judge each component that was found, in the order in which it was found.

    Neither the order of matrices nor that of their entries matters.
    """
    rows = [
        _Row(m.metadata.name, e)
        for m in matrices
        if not m.metadata.deletion_timestamp
        for e in m.spec.entries
        if matches(e.vendor, hardware.vendor) and matches(e.product, hardware.product)
    ]
    return tuple(_judge(component, rows) for component in hardware.firmware)


def _judge(component: Component, rows: list[_Row]) -> JudgedFirmware:
    fitting = [row for row in rows if _speaks_of(row.entry, component)]
    if not fitting:
        return JudgedFirmware(component=component, verdict="unknown")
    closest = max(exactness(row.entry) for row in fitting)
    told = sorted({r for r in fitting if exactness(r.entry) == closest}, key=_order)
    holding = [r for r in told if allows(r.entry, component.version)]
    named = holding[:1] or told
    return JudgedFirmware(
        component=component,
        verdict="supported" if holding else "unsupported",
        wanted=", or ".join(dict.fromkeys(wanted(r.entry) for r in told)),
        matrix=", ".join(dict.fromkeys(r.matrix for r in named)),
        note=next((r.entry.note for r in named if r.entry.note), ""),
        url=next((r.entry.url for r in named if r.entry.url), ""),
    )


def _order(row: _Row) -> tuple[str, ...]:
    e = row.entry
    return (row.matrix, wanted(e), e.note, e.url)


def _speaks_of(entry: SupportedFirmware, component: Component) -> bool:
    if not matches(entry.component, component.name):
        return False
    if is_card(component):  # what is known of its kind is the driver that it has
        return entry.model == "*" and matches(entry.driver, component.model)
    return entry.driver == "*" and matches(entry.model, component.model)


def is_card(component: Component) -> bool:
    """A network card: its `model` is the driver that it is run by."""
    return component.name.startswith("nic ")


def exactness(entry: SupportedFirmware) -> tuple[tuple[bool, int], ...]:
    """The larger, the more exactly an entry says what it speaks of: a name before a glob, a longer glob before a
    shorter one; the product first, then the vendor, the component, its model or driver."""
    return tuple(
        (not _SET.search(glob), len(_SET.sub("", glob)))
        for glob in (entry.product, entry.vendor, entry.component, max(entry.model, entry.driver, key=len))
    )


def allows(entry: SupportedFirmware, version: str) -> bool:
    """The version is one that the entry supports."""
    found = read_version(version)
    if entry.versions:
        return any(matches(v, version) or found.same(read_version(v)) for v in entry.versions)
    low = not entry.minimum or found.at_least(read_version(entry.minimum))
    return low and (not entry.maximum or found.at_most(read_version(entry.maximum)))


def wanted(entry: SupportedFirmware) -> str:
    """What the entry supports, as the end of a sentence."""
    if entry.versions:
        return " or ".join(sorted(entry.versions, key=lambda v: (read_version(v), v)))
    if entry.minimum and entry.maximum:
        return f"{entry.minimum} to {entry.maximum}"
    return f"{entry.minimum} or newer" if entry.minimum else f"{entry.maximum} or older"


@lru_cache(maxsize=65536)
def matches(glob: str, text: str) -> bool:
    """The glob is that of the text, in any case.

    Kept, as a fleet asks the same again and again: some hundred globs of few products, for each server anew.
    """
    return _compiled(glob.lower()).match(text.lower()) is not None


@lru_cache(maxsize=4096)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))


def unsupported(judged: Iterable[JudgedFirmware]) -> Iterator[JudgedFirmware]:
    """Those that are not as any matrix has them."""
    return (j for j in judged if j.verdict == "unsupported")
