"""Docs that are made from the code are what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from bedplate.model.blueprint import MetalState
from bedplate.model.lifecycle import METAL_STATES, TRANSITIONS, Phase, diagram, metal_diagram, standing_diagram

CONCEPTS = Path(__file__).parents[3] / "docs" / "concepts.md"


def test_lifecycle_diagram_in_the_docs_is_the_table() -> None:
    text = CONCEPTS.read_text()
    shown = text.split("<!-- lifecycle:begin -->")[1].split("<!-- lifecycle:end -->")[0]
    assert shown.strip() == f"```mermaid\n{diagram()}\n```"


def test_every_phase_can_be_reached_and_left_to_the_end() -> None:
    assert set(TRANSITIONS) == set(Phase)
    reached = {Phase.PENDING}
    while True:
        more = reached | {f for p in reached for f in TRANSITIONS[p]}
        if more == reached:
            break
        reached = more
    assert reached == set(Phase)


def test_the_diagram_of_servers_standings_in_the_docs_is_the_table() -> None:
    text = (CONCEPTS.parent / "tasks" / "keep-it-running.md").read_text()
    shown = text.split("<!-- standing:begin -->")[1].split("<!-- standing:end -->")[0]
    assert shown.strip() == f"```mermaid\n{standing_diagram()}\n```"


def test_the_diagram_of_bare_servers_states_in_the_docs_is_the_table() -> None:
    text = (CONCEPTS.parent / "tasks" / "bare-metal.md").read_text()
    shown = text.split("<!-- metal:begin -->")[1].split("<!-- metal:end -->")[0]
    assert shown.strip() == f"```mermaid\n{metal_diagram()}\n```"
    before, after = ({old for old, _ in METAL_STATES}, {new for _, new in METAL_STATES})
    assert before | after == {"enrolled", *get_args(MetalState)}
    assert after == set(get_args(MetalState)), "every state can be reached"
