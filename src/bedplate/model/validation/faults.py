"""One fault of a declared object, and words for it. Messages are sentences that read well aloud."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, NamedTuple

Reason = Literal[
    "FieldValueRequired",
    "FieldValueInvalid",
    "FieldValueTypeInvalid",
    "FieldValueNotSupported",
    "FieldValueNotFound",
    "FieldValueDuplicate",
    "FieldValueForbidden",
]
"""As Kubernetes names the causes of a refusal."""


class Fault(NamedTuple):
    """`field` is a path in wire names, such as `spec.controlPlane.replicas` or `spec.ranges[0].first`."""

    field: str
    message: str
    reason: Reason = "FieldValueInvalid"

    def under(self, prefix: str) -> Fault:
        """The same fault with its field below `prefix`."""
        return self._replace(field=f"{prefix}.{self.field}" if self.field else prefix)

    def sentence(self) -> str:
        """Field and message in one."""
        return f"{self.field}: {self.message}" if self.field else self.message


def nearest(word: str, known: Iterable[str]) -> str:
    """Give `; did you mean "x"?`, or nothing where nothing is near."""
    by_low = {k.lower(): k for k in known}
    found = difflib.get_close_matches(word.lower(), by_low, n=1, cutoff=0.6)
    return f'; did you mean "{by_low[found[0]]}"?' if found else ""


def listing(words: Iterable[str], limit: int = 8) -> str:
    """Join names for a sentence: `a, b and c`; long lists are cut."""
    names = sorted(words)
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)
