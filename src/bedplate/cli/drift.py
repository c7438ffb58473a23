"""How deployed bare servers differ from their images, as their agents found it. Decides nothing."""

from __future__ import annotations

import argparse
from typing import Any

from bedplate.cli import output
from bedplate.cli.conditions import condition
from bedplate.cli.firmware import inspected, metal_of
from bedplate.cli.session import Session


def show(session: Session, args: argparse.Namespace) -> int:
    """Show it; 2 where that is asked for and anything is not as deployed."""
    found = [_of(server) for server in inspected(session, args.names)]
    if args.output in {"json", "yaml"}:
        print(output.as_yaml(found) if args.output == "yaml" else output.as_json(found))
    else:
        rows = [[s["server"], s["system"], change] for s in found for change in s["drift"] or [s["verdict"]]]
        output.TableWriter(("Server", "Deployed", "Drift")).write(rows) if rows else print("no bare server")
    return 2 if args.exit_code and any(s["drift"] for s in found) else 0


def _of(server: dict[str, Any]) -> dict[str, Any]:
    metal, told = metal_of(server), condition(server, "AsDeployed")
    system = str(metal.get("image") or metal.get("machine") or "")
    idle = "not looked at yet" if metal.get("state") == "deployed" else "nothing is deployed"
    verdict = "as its image" if told else idle
    return {
        "server": server["metadata"]["name"],
        "system": system,
        "verdict": "drifted" if metal.get("drift") else verdict,
        "drift": list(metal.get("drift") or ()),
    }
