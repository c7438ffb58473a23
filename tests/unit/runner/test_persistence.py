"""What users declare reaches the engine, whatever its kind."""

from __future__ import annotations

from bedplate.model.meta import GROUP
from bedplate.model.registry import KINDS
from bedplate.runner.persistence import DECLARED as TOLD
from bedplate.runner.persistence import STATUS_KINDS
from bedplate.store.store import DECLARED

SELDOM = {"Image", "Release", "CompatibilityMatrix"}
"""Kinds without a status of their own."""


def test_every_kind_that_users_declare_is_told_to_the_engine_and_reported_on() -> None:
    assert {k.kind for k in KINDS if not k.planned} == {"Measurement"}, "whatever is not planned changes nothing"
    declared = {k.kind for k in KINDS if k.group == GROUP and not k.derived and k.planned}
    assert set(DECLARED) == set(TOLD) == declared
    assert set(STATUS_KINDS) == declared - SELDOM
