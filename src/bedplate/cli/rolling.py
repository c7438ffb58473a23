"""Maintenance of servers from the client: set it, wait for it, and go over a fleet in turns. Decides no placement."""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bedplate.cli import conditions
from bedplate.cli.client import MERGE_PATCH
from bedplate.cli.errors import UserError
from bedplate.cli.session import Session
from bedplate.cli.times import span

DONE = "bedplate.dev/maintained-in"
"""Annotation of a Server: the round of rolling maintenance in which it was done."""
_LOOK_SECONDS = 1.0


def wanted(args: argparse.Namespace) -> dict[str, Any]:
    """The maintenance that the arguments ask for."""
    return {"reason": args.reason, "until": args.until}


def set_maintenance(session: Session, name: str, maintenance: dict[str, Any] | None, done_in: str = "") -> None:
    """Set a server's maintenance, or (None) end it."""
    patch: dict[str, Any] = {"spec": {"maintenance": maintenance}}
    if done_in:
        patch["metadata"] = {"annotations": {DONE: done_in}}
    path = session.path(session.kind("server"), name)
    session.client.request("PATCH", path, patch, content_type=MERGE_PATCH)


def until(session: Session, name: str, condition: str, timeout: float) -> dict[str, Any]:
    """Wait until the server has the condition; gives it.

    Raises:
        UserError: it has not in time; the text says what it waits on.
    """
    end = time.monotonic() + timeout
    while True:
        server = session.read(session.kind("server"), name)
        if conditions.is_true(server, condition, "True"):
            return server
        if time.monotonic() > end:
            found = conditions.condition(server, condition) or {}
            raise UserError(f"server/{name} is not {condition} after {span(timeout)}: {found.get('message', '')}")
        time.sleep(_LOOK_SECONDS)


def roll(session: Session, args: argparse.Namespace) -> int:
    """Go over all hypervisors, `args.parallel` at once and out of one failure domain at a time."""
    listing = session.client.get(session.path(session.kind("server")))
    round_name = args.run or time.strftime("%Y-%m-%d")
    waiting = [s for s in listing["items"] if s["spec"].get("role") == "hypervisor"]
    done = [s for s in waiting if (s["metadata"].get("annotations") or {}).get(DONE) == round_name]
    waiting = [s for s in waiting if s not in done]
    if done:
        print(f"{len(done)} servers were done in round {round_name} already", flush=True)
    groups: dict[str, list[str]] = {}
    for server in waiting:
        domain = (server["spec"].get("failureDomain") or {}).get(args.per, "") if args.per else ""
        groups.setdefault(domain, []).append(server["metadata"]["name"])
    for domain in sorted(groups):
        with ThreadPoolExecutor(args.parallel) as pool:
            for result in [pool.submit(_one, args, name, round_name) for name in sorted(groups[domain])]:
                print(result.result(), flush=True)
    print(f"round {round_name} is over: {len(waiting)} servers done", flush=True)
    return 0


def _one(args: argparse.Namespace, name: str, round_name: str) -> str:
    """Empty one server, run the hook, fill it again. A hook that fails leaves the server in maintenance."""
    session = Session(args)  # connections are not shared between threads
    began = time.monotonic()
    set_maintenance(session, name, wanted(args))
    server = until(session, name, "Empty", args.timeout)
    empty = time.monotonic()
    if args.hook:
        address = str(server.get("status", {}).get("address", ""))
        env = {**os.environ, "SERVER": name, "SERVER_ADDRESS": address}
        code = subprocess.run(args.hook, shell=True, env=env, check=False).returncode
        if code:
            raise UserError(
                f"the hook ended with {code} for server/{name}, which stays in maintenance; mend it, then run the same "
                f"command again, or end it with: bedplate maintain server/{name} --undo"
            )
        until(session, name, "Ready", args.timeout)
    set_maintenance(session, name, None, round_name)
    return f"server/{name}: empty after {span(empty - began)}, back after {span(time.monotonic() - began)}"
