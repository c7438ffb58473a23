"""Few, quick examples by default; `HYPOTHESIS_PROFILE=long` looks further and shrinks what fails."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings

from bedplate.checks.blueprint import Checker
from bedplate.engine import engine as engine_module
from bedplate.model.blueprint import apply_delta
from bedplate.model.ids import Key, Revision
from bedplate.planner.plan import PlanInput, PlanResult, plan

_quick = (Phase.explicit, Phase.reuse, Phase.generate)
_calm = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("quick", max_examples=25, deadline=None, phases=_quick, suppress_health_check=_calm)
_all = (*_quick, Phase.shrink)
settings.register_profile("long", max_examples=400, deadline=None, phases=_all, suppress_health_check=_calm)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


Plans = list[tuple[PlanInput, frozenset[Key] | None, PlanResult]]


@pytest.fixture(scope="module")
def compared() -> Any:
    """Every planning of an engine is repeated from nothing, and once more after itself."""
    seen: Plans = []

    def checked(inp: PlanInput, changed: frozenset[Key] | None = None) -> PlanResult:
        before = msgspec.structs.replace(inp, cache=None)
        result = plan(inp, changed)
        whole = plan(before, None)
        assert _canonical(result) == _canonical(whole)
        child = apply_delta(inp.parent, result.delta, Revision(inp.parent.number + 1))
        again = plan(msgspec.structs.replace(before, parent=child), None)
        assert not again.delta.changes, "planning twice without news changes nothing"
        assert Checker()(before, result) == ()
        seen.append((before, changed, result))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "plan", checked)
        yield seen


def _canonical(result: PlanResult) -> dict[Key, object]:
    return dict(result.delta.changes)
