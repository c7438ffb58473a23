"""What firmware bare servers have against the compatibility matrices, as the controller judged it. Decides nothing."""

from __future__ import annotations

import argparse
from typing import Any

from bedplate.cli import output, watching
from bedplate.cli.errors import UserError
from bedplate.cli.session import Session

_WRONG = "unsupported"
_WORDS = {"supported": "supported", "unsupported": "not supported", "unknown": "in no matrix"}
_FIELDS = ("component", "version", "model", "verdict", "wanted", "matrix", "note", "url")


def show(session: Session, args: argparse.Namespace) -> int:
    """Show it; 2 where that is asked for and something is not supported."""
    found = [_of(server) for server in inspected(session, args.names)]
    if args.output in {"json", "yaml"}:
        print(output.as_yaml(found) if args.output == "yaml" else output.as_json(found))
    else:
        _table(found)
    wrong = any(c["verdict"] == _WRONG for s in found for c in s["firmware"])
    return 2 if wrong and args.exit_code else 0


def inspected(session: Session, names: list[str]) -> list[dict[str, Any]]:
    """Those that are named, or all that were inspected. Raises `UserError` where one that is named was not."""
    kind = session.kind("server")
    if not names:
        found = [s for s in watching.items(session.client, session.path(kind)) if metal_of(s)]
        return sorted(found, key=lambda s: str(s["metadata"]["name"]))
    found = [session.read(kind, name) for name in names]
    for server in found:
        if not metal_of(server):
            name = server["metadata"]["name"]
            said = f"server/{name} was never inspected, so its firmware is not known"
            raise UserError(f"{said}; `bedplate server accept {name}` has a bare server inspected")
    return found


def metal_of(server: dict[str, Any]) -> dict[str, Any]:
    """What is known of it as a bare server; empty: it is none."""
    return (server.get("status") or {}).get("metal") or {}


def _of(server: dict[str, Any]) -> dict[str, Any]:
    metal = metal_of(server)
    components = [{k: c[k] for k in _FIELDS if k in c} for c in metal.get("firmware") or ()]
    known = {k: metal[k] for k in ("vendor", "product") if k in metal}
    return {"server": server["metadata"]["name"], **known, "firmware": components}


def _table(found: list[dict[str, Any]]) -> None:
    rows: list[list[str]] = []
    for server in found:
        for c in server["firmware"]:
            told = "; ".join(c[k] for k in ("note", "url") if c.get(k))
            cells = [server["server"], c["component"], c.get("model"), c.get("version"), _WORDS[c["verdict"]]]
            rows.append([output.cell_text(x) for x in [*cells, c.get("wanted"), c.get("matrix"), told]])
    if rows:
        headings = ("Server", "Component", "Model", "Installed", "Verdict", "Supported", "Matrix", "Note")
        output.TableWriter(headings).write(rows)
    else:
        print("no server with known firmware")
