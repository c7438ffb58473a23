"""Values in a scenario's files: structs with unknown fields refused, times with units, faults with file and field."""

from __future__ import annotations

import re
from typing import Any, Protocol, Self, TypeVar, cast

import msgspec

from bedplate.model.validation.faults import nearest

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "fields and their values",
    "null": "nothing",
}
"""What a reader calls YAML's types."""

T = TypeVar("T")


class ScenarioError(Exception):
    """What is wrong with a scenario's files; one line per fault, each with file and field."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Plain(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all that is written in a scenario."""


class Time(float):
    """Seconds, to a hundredth, written as `45s`, `10m`, `1h30m`, `2d` or a bare number."""

    def __new__(cls, seconds: float) -> Time:
        return super().__new__(cls, round(float(seconds), 2))

    @staticmethod
    def read(raw: object) -> Time:
        """Raises `ValueError`."""
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return Time(raw)
        match = _TIME.fullmatch(raw.strip()) if isinstance(raw, str) and raw.strip() else None
        if match is None:
            raise ValueError(f"{raw!r} is not a time; write it as 45s, 10m or 1h30m")
        d, h, m, s = (float(g or 0) for g in match.groups())
        return Time(d * 86_400 + h * 3600 + m * 60 + s)

    def write(self) -> str:
        """The shortest form."""
        for unit, size in (("h", 3600.0), ("m", 60.0)):
            if self and self % size == 0:
                return f"{self / size:g}{unit}"
        return f"{float(self):.10g}s"


class Readable(Protocol):
    """A value that is written as a text or a number of its own form."""

    @classmethod
    def read(cls, raw: object) -> Self:
        """Raises `ValueError`."""
        ...

    def write(self) -> object:
        """As it is read."""
        ...


def _decode(type_: type, raw: Any) -> Any:
    if hasattr(type_, "read"):
        return cast(type[Readable], type_).read(raw)
    raise TypeError(f"no reader for {type_}")


def _encode(value: Any) -> Any:
    if hasattr(value, "write"):
        return cast(Readable, value).write()
    raise TypeError(f"no writer for {type(value)}")


def read(raw: Any, type_: type[T], file: str, *, strict: bool = True) -> T:
    """Read what YAML gave; not `strict`: a text that is a number is taken for one, as in lists.

    Raises:
        ScenarioError: it does not fit, with file and field.
    """
    try:
        return msgspec.convert(raw, type_, dec_hook=_decode, strict=strict)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        field = path.rstrip("`").removeprefix("$").lstrip(".")
        raise ScenarioError(f"{file}: {field + ': ' if field else ''}{_said(text, type_)}") from None


def _said(text: str, type_: Any) -> str:
    found = _UNKNOWN_FIELD.match(text)
    if found is None:
        for name, words in _WORDS.items():
            text = text.replace(f"`{name}`", words)
        return text[:1].lower() + text[1:]
    fields = [f.encode_name for f in msgspec.structs.fields(type_)] if _is_struct(type_) else []
    return f'unknown field "{found[1]}"{nearest(found[1], fields)}'


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def write(value: Any) -> Any:
    """Plain values for YAML; defaults are left out."""
    return msgspec.to_builtins(value, enc_hook=_encode)
