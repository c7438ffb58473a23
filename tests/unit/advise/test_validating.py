"""Published figures are what the simulated world gives, as near as is said; what is outside is said to be."""

from __future__ import annotations

import msgspec
import pytest

from bedplate.advise import validating
from bedplate.advise.validating import Published
from bedplate.sim.scenario.plain import ScenarioError

FIGURE = Published(
    name="it", story="restart_elsewhere", from_="event cut", to="m1 starts", published=(10.0, 20.0), origin="somebody"
)


def test_the_simulated_world_gives_what_was_published() -> None:
    held = list(validating.hold(range(1, 6)))
    assert len(held) == len(validating.figures())
    assert [h.name for h in held if h.verdict == "outside"] == []
    assert {h.verdict for h in held} == {"within", "beside"}
    for h in held:
        assert h.low <= h.median <= h.high
        assert h.seeds == 5
        assert h.origin
        assert not h.slack or h.of, "what is not counted is said"


@pytest.mark.parametrize(
    ("times", "slack", "beside", "verdict"),
    [
        ([10.0], 0.0, False, "within"),
        ([20.0, 20.0, 90.0], 0.0, False, "within"),
        ([9.9], 0.0, False, "outside"),
        ([20.1], 0.0, False, "outside"),
        ([24.9], 5.0, False, "within"),
        ([9.9], 5.0, False, "outside"),
        ([99.0], 0.0, True, "beside"),
    ],
)
def test_within_is_what_was_published_with_what_it_does_not_count(
    times: list[float], slack: float, beside: bool, verdict: str
) -> None:
    figure = msgspec.structs.replace(FIGURE, slack=slack, beside=beside)
    assert validating.judge(figure, times).verdict == verdict


def test_what_never_happens_is_a_fault_and_no_figure() -> None:
    with pytest.raises(ScenarioError, match="restart_elsewhere, seed 1: any server is quarantined: it did not happen"):
        list(validating.hold([1], [msgspec.structs.replace(FIGURE, to="any server is quarantined")]))
