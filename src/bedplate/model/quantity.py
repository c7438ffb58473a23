"""Kubernetes quantities (`4Gi`, `500m`) to numbers and back."""

from __future__ import annotations

import re

_SUFFIX = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip
_PATTERN = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)$")
MIB = 2**20


class QuantityError(ValueError):
    """A text that is no quantity; its message says what would be right."""


def parse(text: str) -> float:
    """Give the value of a Kubernetes quantity in its base unit (bytes for memory, cores for CPU).

    Raises:
        QuantityError: with the nearest right form.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise QuantityError(f"{text!r} is not a quantity; write a number with a unit such as 4Gi or 500Mi")
    number, suffix = match.groups()
    if suffix not in _SUFFIX:
        stem = suffix[:-1] if suffix[-1:] in {"B", "b"} else suffix
        near = next((s for s in ("Ki", "Mi", "Gi", "Ti") if s[0].lower() == stem[:1].lower()), "Gi")
        raise QuantityError(f"{text!r} has the unit {suffix!r}, which Kubernetes does not know; write {number}{near}")
    return float(number) * _SUFFIX[suffix]


def parse_mib(text: str) -> int:
    """Give a memory or disk quantity in whole MiB, rounded up.

    Raises:
        QuantityError: not a quantity, or not above zero.
    """
    value = parse(text)
    if value <= 0:
        raise QuantityError(f"{text!r} must be above zero")
    return int(-(-value // MIB))


def format_mib(mib: int) -> str:
    """Write MiB as Kubernetes does: `4Gi`, or `1536Mi` where it is no whole number of GiB."""
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"


def rough_mib(mib: int) -> str:
    """Write MiB with two significant digits, rounded down: `120Gi`, `9.7Gi`, `510Mi`. Small changes are no news."""
    if mib < 1024:
        return f"{_two_digits(mib)}Mi"
    tenths = _two_digits(mib * 10 // 1024)
    return f"{tenths / 10:g}Gi" if tenths % 10 else f"{tenths // 10}Gi"


def _two_digits(number: int) -> int:
    step = 10 ** max(0, len(str(number)) - 2)
    return number // step * step
