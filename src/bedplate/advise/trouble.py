"""What happens to a fleet over years: which server fails when, and for how long. Pure; drawn by seed and name.

Each server has its own chance, by its name: the same server fails at the same moment in every alternative and under
every what-if, so that what differs between two is their answer to it and never their luck.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import msgspec

from bedplate.advise import literature
from bedplate.advise.amounts import Amount
from bedplate.advise.fleet import Profile, ServerModel

YEAR = 365.25 * 86_400.0
"""Seconds."""


class Failure(msgspec.Struct, frozen=True):
    """A server's hardware fails and is repaired."""

    at: float
    """Seconds after the beginning."""
    server: str
    repair: float
    """Seconds until it can be switched on again."""


class Outage(msgspec.Struct, frozen=True):
    """A failure domain loses its power."""

    at: float
    label: str
    value: str
    lasts: float


def failures_a_year(profile: Profile, model: ServerModel) -> float:
    """Of one server: the user's figure, or 0.024 + 0.001 for each DIMM + 0.002 for each SSD (GreenSKU)."""
    given = profile.operations.failures
    if given is not None:
        return given.mid
    base = literature.FAILURE_BASE
    return base + literature.FAILURE_PER_DIMM * model.dimms + literature.FAILURE_PER_SSD * model.ssds


def failures(profile: Profile, servers: Iterable[tuple[str, ServerModel]], seed: int, years: float) -> list[Failure]:
    """All failures of those servers, in order of time. One that is being repaired does not fail."""
    found: list[Failure] = []
    for name, model in servers:
        dice = random.Random(f"{seed}/{name}/fails")
        rate = failures_a_year(profile, model) / YEAR
        now = dice.expovariate(rate) if rate > 0 else math.inf
        while now < years * YEAR:
            repair = _repair(profile, dice)
            found.append(Failure(now, name, repair))
            now += repair + dice.expovariate(rate)
    return sorted(found, key=lambda f: (f.at, f.server))


def outages(profile: Profile, seed: int, years: float) -> list[Outage]:
    """Of failure domains, in order of time: only what the user gave a rate for."""
    found: list[Outage] = []
    lasts = profile.operations.outage
    for label, rate in sorted(profile.operations.outages.items()):
        values = {v for m in profile.servers for v in _values(m, label)}
        for value in sorted(values):
            dice = random.Random(f"{seed}/{label}/{value}/outages")
            now = dice.expovariate(rate.mid / YEAR) if rate.mid > 0 else math.inf
            while now < years * YEAR and lasts is not None:
                hours = _drawn(lasts, dice)
                found.append(Outage(now, label, value, hours * 3600.0))
                now += hours * 3600.0 + dice.expovariate(rate.mid / YEAR)
    return sorted(found, key=lambda o: (o.at, o.label, o.value))


def _values(model: ServerModel, label: str) -> tuple[str, ...]:
    found = model.place.get(label, ())
    return (found,) if isinstance(found, str) else found


def _repair(profile: Profile, dice: random.Random) -> float:
    given = profile.operations.repair
    if given is not None:
        return _drawn(given, dice) * 3600.0
    return dice.lognormvariate(literature.REPAIR_MU, literature.REPAIR_SIGMA) * 3600.0


def _drawn(amount: Amount, dice: random.Random) -> float:
    return dice.triangular(amount.low, amount.high, amount.mid) if amount.high > amount.low else amount.mid
