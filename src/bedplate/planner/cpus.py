"""Which CPU a guest is given: as its owner says, else as the fleet's policy says, else what all hypervisors have."""

from __future__ import annotations

from bedplate.model.cpus import CpuChoice, CpuModel
from bedplate.planner.context import Planning


def chosen(p: Planning, declared: CpuChoice) -> CpuModel:
    """The model that a guest gets at its start, for what its owner declared."""
    choice = p.spec.fleet.cpu_model if declared == "auto" else declared
    return p.index.fleet.cpu_model if choice == "auto" else choice
