"""The page on all kinds is the model's own, complete, and readable."""

from __future__ import annotations

from pathlib import Path

from bedplate.cli import objects_reference
from bedplate.model.registry import KINDS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "objects.md"


def test_the_reference_in_the_docs_is_the_models_own() -> None:
    assert PAGE.read_text() == objects_reference.markdown(), (
        "run: python -m bedplate.cli.objects_reference > docs/reference/objects.md"
    )


def test_every_kind_and_nested_field_is_there() -> None:
    text = objects_reference.markdown()
    for info in KINDS:
        assert f"\n## {info.kind}\n" in text
    assert "- `spec.controlPlane.machine.memory` (quantity, default `2Gi`)" in text
    assert "- `spec.addons[].manifest` (string, required): YAML documents." in text
    assert "- `spec.files.NAME.digest` (string)" in text
    assert "- `spec.bmc.credentials.secret` (string, required)" in text
    assert "- `stringData` (map)" in text
    assert "- `status.conditions` (list of [Condition](#condition))" in text
    assert max(len(line) for line in text.splitlines()) <= 120
