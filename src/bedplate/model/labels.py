"""Label and field selectors as Kubernetes has them, and the syntax of names and labels. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(rf"^{_LABEL}$")
_DNS_SUBDOMAIN = re.compile(rf"^{_LABEL}(\.{_LABEL})*$")
_QUALIFIED = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
_WORDS = "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"
_SET = re.compile(r"^\s*(\S+)\s+(in|notin)\s+\(([^()]*)\)\s*$")


class SelectorError(ValueError):
    """A text that is no selector; its message says what would be right."""


def name_fault(name: str, limit: int = 253) -> str | None:
    """Say what is wrong with an object's name (RFC 1123), or None. `limit` 63 asks for a label, without dots."""
    label = limit <= 63
    pattern = _DNS_LABEL if label else _DNS_SUBDOMAIN
    if len(name) > limit:
        return f"the name has {len(name)} characters; use at most {limit}"
    if pattern.match(name):
        return None
    allowed = "lower-case letters, digits and '-'" + ("" if label else " and '.'")
    suggestion = re.sub(r"[^a-z0-9.-]" if not label else r"[^a-z0-9-]", "-", name.lower()).strip("-.")
    hint = f", such as {suggestion!r}" if pattern.match(suggestion) else ""
    return f"{name!r} is not a valid name; use {allowed}, beginning and ending with a letter or digit{hint}"


def label_key_fault(key: str) -> str | None:
    """Say what is wrong with a label's or annotation's key, or None."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _DNS_SUBDOMAIN.match(prefix)):
        return f"the prefix {prefix!r} of the key {key!r} must be a domain name, such as example.com"
    if not name or len(name) > 63 or not _QUALIFIED.match(name):
        return f"the key {key!r} must be {_WORDS}"
    return None


def label_value_fault(value: str) -> str | None:
    """Say what is wrong with a label's value, or None."""
    if len(value) > 63:
        return f"the value {value[:20]!r}... has {len(value)} characters; a label's value has at most 63"
    if value and not _QUALIFIED.match(value):
        return f"the value {value!r} must be {_WORDS}"
    return None


class Requirement(NamedTuple):
    """One demand on a label."""

    key: str
    operator: str
    """`in`, `notin`, `exists`, `absent`."""
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True where the labels meet the demand."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case _:
                return value is None


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Read a label selector: `app=web,tier!=db,env in (a,b),zone notin (c),gpu,!spot`.

    Raises:
        SelectorError: it is none.
    """
    return tuple(_requirement(part) for part in _split(text) if part.strip())


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _requirement(part: str) -> Requirement:
    found = _SET.match(part)
    if found:
        values = frozenset(v.strip() for v in found[3].split(","))
        return _checked(Requirement(found[1], found[2], values))
    for sign, operator in (("!=", "notin"), ("==", "in"), ("=", "in")):
        if sign in part:
            key, _, value = part.partition(sign)
            return _checked(Requirement(key.strip(), operator, frozenset({value.strip()})))
    name = part.strip()
    return _checked(Requirement(name[1:].strip(), "absent") if name.startswith("!") else Requirement(name, "exists"))


def _checked(requirement: Requirement) -> Requirement:
    fault = label_key_fault(requirement.key) or next(
        (f for v in requirement.values if (f := label_value_fault(v)) is not None), None
    )
    if fault is not None:
        raise SelectorError(f"{fault}; a selector is written like app=web,tier!=db,env in (a,b)")
    return requirement


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """True where all wanted labels are there with these values; nothing wanted fits all."""
    return all(labels.get(k) == v for k, v in wanted.items())


def selects(requirements: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    """True where the labels meet all demands."""
    return all(r.matches(labels) for r in requirements)


def field_selector(text: str) -> Callable[[Mapping[str, Any]], bool]:
    """Read a field selector, `metadata.name=web,involvedObject.kind!=Machine`; give a test of objects in JSON form.

    Raises:
        SelectorError: it is none.
    """
    demands: list[tuple[tuple[str, ...], str, bool]] = []
    for part in text.split(","):
        if not part.strip():
            continue
        path, sign, value = part.partition("!=")
        equal = not sign
        if equal:
            path, sign, value = part.partition("==" if "==" in part else "=")
        if not sign or not path.strip():
            raise SelectorError(f"{part!r} is not a field selector; write it like metadata.name=web")
        demands.append((tuple(path.strip().split(".")), value.strip(), equal))

    def matches(obj: Mapping[str, Any]) -> bool:
        return all((_field(obj, path) == value) is equal for path, value, equal in demands)

    return matches


def _field(obj: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = obj
    for name in path:
        value = cast(Mapping[str, Any], value).get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
