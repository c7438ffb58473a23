"""The schema says what validation does."""

from __future__ import annotations

from typing import Any

import pytest

from bedplate.model.registry import BY_KIND
from bedplate.model.schema import components


def fields(kind: str, struct: str) -> dict[str, Any]:
    found = components(BY_KIND[kind], "#/")
    return next(s for name, s in found.items() if name.rpartition(".")[2] == struct)


@pytest.mark.parametrize(
    ("kind", "required"),
    [
        ("Cluster", ["kubernetes"]),
        ("NodePool", ["cluster"]),
        ("VirtualMachine", ["image"]),
        ("Network", ["cidr"]),
        ("DiskPool", ["path"]),
        ("Image", ["disk"]),
        ("Release", ["version"]),
    ],
)
def test_what_validation_misses_is_required(kind: str, required: list[str]) -> None:
    assert fields(kind, f"{kind}Spec")["required"] == required


def test_values_are_listed_in_the_order_that_they_are_told_of() -> None:
    strategy = fields("VirtualMachine", "VirtualMachineSpec")["properties"]["runStrategy"]
    assert strategy["enum"] == ["Always", "RerunOnFailure", "Manual", "Halted"]
    told = [strategy["description"].index(f"`{v}`") for v in strategy["enum"]]
    assert told == sorted(told)


def test_only_an_objects_own_status_is_written_by_bedplate_only() -> None:
    assert "Bedplate only" in fields("Cluster", "Cluster")["properties"]["status"]["description"]
    assert "Bedplate only" not in fields("Cluster", "Condition")["properties"]["status"]["description"]
