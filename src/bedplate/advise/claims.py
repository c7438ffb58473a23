"""The debate's forty claims, as data, and their verdicts on a fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Literal

import msgspec
import yaml

from bedplate.advise.comparing import Comparison, Row, Shown
from bedplate.advise.days import Load
from bedplate.advise.deciding import Plan
from bedplate.advise.figures import Figure
from bedplate.advise.fleet import Profile
from bedplate.advise.years import Run

Status = Literal["holds", "does not hold", "holds within bounds", "undecided", "not answerable"]


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says."""

    id: str
    claim: str


class Verdict(Shown, frozen=True, kw_only=True):
    """What this fleet says to it."""

    id: str
    claim: str
    status: Status
    because: str
    figures: tuple[Figure, ...] = ()


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence."""

    profile: Profile
    plans: Mapping[str, Plan]
    runs: Mapping[str, Sequence[Run]]
    comparison: Comparison
    load: Load | None = None
    """Days of load on virtual machines; None: they were not told."""

    def row(self, name: str) -> Row:
        """The comparison's row of that name."""
        return next(r for r in self.comparison.rows if r.name == name)


class Said(msgspec.Struct, frozen=True):
    """What a judge says."""

    status: Status
    because: str
    figures: tuple[Figure, ...] = ()


Judge = Callable[[Case], Said]


@cache
def claims() -> tuple[Claim, ...]:
    """All of them, as the project keeps them."""
    raw = yaml.safe_load(resources.files("bedplate.advise").joinpath("claims.yaml").read_text())
    return msgspec.convert(tuple(raw), tuple[Claim, ...])


def judge(case: Case, judges: Mapping[str, Judge]) -> tuple[Verdict, ...]:
    """A verdict on every claim.

    Raises:
        KeyError: a claim has no judge.
    """
    found: list[Verdict] = []
    for claim in claims():
        said = judges[claim.id](case)
        found.append(
            Verdict(id=claim.id, claim=claim.claim, status=said.status, because=said.because, figures=said.figures)
        )
    return tuple(found)
