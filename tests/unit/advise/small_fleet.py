"""A fleet small enough to be simulated in a test: eight servers, two clusters."""

from __future__ import annotations

import copy
from typing import Any

from bedplate.advise import fleet
from bedplate.advise.fleet import Profile

RAW: dict[str, Any] = {
    "name": "small",
    "currency": "EUR",
    "servers": [
        {
            "name": "big",
            "count": 12,
            "cpus": 32,
            "memory": "128Gi",
            "price": [9000, 10000, 12000],
            "place": {"rack": ["r1", "r2"], "power": ["a", "b"]},
        }
    ],
    "clusters": [
        {
            "name": "shop",
            "controlPlane": 1,
            "workloads": [
                {"name": "web", "replicas": 12, "cpu": 2, "memory": "4Gi", "use": {"mean": 0.3, "peak": 0.7}},
                {
                    "name": "db",
                    "replicas": 3,
                    "cpu": 4,
                    "memory": "16Gi",
                    "use": {"mean": 0.3, "peak": 0.7},
                    "stateful": True,
                    "volume": True,
                },
            ],
        },
        {
            "name": "tools",
            "controlPlane": 1,
            "workloads": [{"name": "ci", "replicas": 4, "cpu": 4, "memory": "8Gi", "use": {"mean": 0.2, "peak": 0.9}}],
        },
    ],
    "prices": {"electricity": [0.1, 0.3], "staff": 80, "hours": {"failure": [1, 4], "patch": 0.2}},
    "operations": {"patches": 2, "failures": 1.0, "repair": ["2 h", "8 h"]},
}


def raw(**changes: Any) -> dict[str, Any]:
    """What its file holds; `a__b=value` changes a field below another."""
    found = copy.deepcopy(RAW)
    for path, value in changes.items():
        here = found
        *way, last = path.split("__")
        for part in way:
            here = here.setdefault(part, {})
        here[last] = value
    return found


def profile(**changes: Any) -> Profile:
    """The fleet, with changes as `raw` takes them."""
    return fleet.read(raw(**changes), "fleet.yaml")
