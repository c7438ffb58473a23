"""Pausing and resuming: what `bedplate pause` and `bedplate resume` have in common."""

from __future__ import annotations

import argparse
from typing import Any

from bedplate.cli.client import MERGE_PATCH
from bedplate.cli.errors import ApiError, UserError
from bedplate.cli.session import Session

PAUSED = "bedplate.dev/paused"
_KINDS = ("Cluster", "VirtualMachine", "Server")


def set_paused(session: Session, args: argparse.Namespace, reason: str | None, usage: str) -> int:
    """Set the reason of a pause, or (None) end it, on the named objects or the whole fleet."""
    if bool(args.what) == bool(args.all):
        raise UserError(f"name what is meant: {usage}")
    verb = "resumed" if reason is None else "paused"
    if args.all:
        _fleet(session, reason or "")
        print(f"the fleet is {verb}", flush=True)
        return 0
    for word in args.what:
        resource, name = session.target([word], usage)
        if resource.kind not in _KINDS:
            raise UserError(f"a {resource.kind} cannot be {verb}; clusters, virtual machines and servers can: {usage}")
        patch = {"metadata": {"annotations": {PAUSED: reason}}}
        session.client.request("PATCH", session.path(resource, name), patch, content_type=MERGE_PATCH)
        print(f"{resource.singular}/{name} is {verb}", flush=True)
    return 0


def _fleet(session: Session, reason: str) -> None:
    resource = session.kind("fleetpolicy")
    path = session.path(resource, "default")
    spec: dict[str, Any] = {"paused": reason}
    try:
        session.client.request("PATCH", path, {"spec": spec}, content_type=MERGE_PATCH)
    except ApiError as error:
        if error.code != 404:
            raise
        made = {
            "apiVersion": resource.api_version,
            "kind": "FleetPolicy",
            "metadata": {"name": "default"},
            "spec": spec,
        }
        session.client.request("POST", session.path(resource), made)
