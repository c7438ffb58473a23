"""What a system's resource says of its power. Strict: only the plain word `Off` is off."""

from __future__ import annotations

from typing import Any, Literal

Power = Literal["on", "off", "unknown"]

_STATES: dict[str, Power] = {"On": "on", "Off": "off", "PoweringOn": "on", "PoweringOff": "on", "Paused": "on"}
"""On its way off is on: fence_redfish once took all but `On` for off (ClusterLabs/fence-agents#253)."""


def power_of(system: dict[str, Any]) -> tuple[Power, str]:
    """Give the power state, and the BMC's own word for it (empty where there is none)."""
    raw = system.get("PowerState")
    if not isinstance(raw, str):
        return "unknown", ""
    return _STATES.get(raw, "unknown"), raw[:40]
