"""HTML that can't be broken by what is written into it: text is escaped unless it is `Html`, which only this makes."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Html(str):
    """Markup; it is not escaped again."""

    __slots__ = ()


Child = str | Html | None
"""Plain text, markup, or nothing."""
VOID = frozenset({"br", "link", "meta", "input", "wbr"})
"""Elements that have no end."""


def joined(children: Iterable[Child], between: str = "") -> Html:
    """One after the other; what is no markup is escaped."""
    return Html(text(between).join(text(c) for c in children if c is not None))


def text(value: str) -> Html:
    """As text of an element or value of an attribute."""
    return value if isinstance(value, Html) else Html(html.escape(value, quote=True))


def prose(value: str) -> Html:
    """Text in which backticks hold what is code."""
    return joined(tag("code", part) if n % 2 else part for n, part in enumerate(value.split("`")))


def tag(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. `class_` gives `class`, `aria_label` gives `aria-label`; None and False leave an attribute out."""
    said = "".join(_attribute(k, v) for k, v in attributes.items() if v is not None and v is not False)
    opened = f"<{name}{said}>"
    return Html(opened if name in VOID else f"{opened}{joined(children)}</{name}>")


def _attribute(name: str, value: str | int | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


def listed(items: Iterable[Child], **attributes: str | int | bool | None) -> Html:
    """An unordered list."""
    return tag("ul", *(tag("li", item) for item in items), **attributes)
