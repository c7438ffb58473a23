"""The plan of a roll-out to its end, asked from the API and written as a list of steps, each with its reason."""

from __future__ import annotations

from typing import Any

from bedplate.cli import declare
from bedplate.cli.manifest.marks import Item
from bedplate.cli.session import Session


def ask(session: Session, items: list[Item]) -> dict[str, Any]:
    """Ask what would happen if these objects were declared; with none, what will happen as things are."""
    pairs = declare.check_kinds(session, items)
    return declare.refusable(session, pairs, "plan", {"items": declare.with_namespaces(session, pairs)})


def show(plan: dict[str, Any]) -> None:
    """Write the plan."""
    steps: list[dict[str, Any]] = list(plan.get("steps") or ())
    for stage in plan.get("stages") or ():
        steps.extend(stage.get("steps") or ())
    if not steps and not plan.get("changes"):
        print("Nothing would change.")
    else:
        print(f"\n{len(steps)} step{'s' if len(steps) != 1 else ''}:")
        width = len(str(len(steps)))
        for number, step in enumerate(steps, 1):
            print(f"  {number:>{width}}. {_step(step)}")
    waiting = plan.get("waiting") or ()
    if waiting:
        print("\nAt the end these would still wait:")
        for wait in waiting:
            print(f"  {wait.get('object', '')}: {wait.get('message') or wait.get('reason', '')}")


def _step(step: dict[str, Any]) -> str:
    where = f" on {step['server']}" if step.get("server") else ""
    why = f": {step['reason']}" if step.get("reason") else ""
    return f"{step.get('step', '')} {step.get('target', '')}{where}{why}"
