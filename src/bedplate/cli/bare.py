"""What people ask of bare servers: added, accepted, given a role, looked at again, erased, retired. Decides nothing."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bedplate.cli import declare, racking
from bedplate.cli.asking import confirm
from bedplate.cli.client import MERGE_PATCH
from bedplate.cli.conditions import condition, is_true
from bedplate.cli.errors import UserError
from bedplate.cli.firmware import metal_of
from bedplate.cli.session import Session
from bedplate.cli.times import span
from bedplate.model.bmc_address import INSECURE
from bedplate.model.policy import REQUESTS, SUITE

_LOOK_SECONDS = 1.0
_OVER = frozenset({"quarantined", "retired"})
"""States that do not pass by themselves."""


def add(session: Session, args: argparse.Namespace) -> int:
    """Declare servers with their BMCs; nothing is booted or written before they are accepted."""
    if args.scan:
        from bedplate.cli import scanning  # it brings the Redfish driver, which no other of these commands needs

        return scanning.add(session, args, _shared(args))
    if args.dry_run:
        raise UserError("--dry-run is for --scan; `bedplate apply --dry-run` has manifests checked only")
    rows = _rows(args)
    for done in declare.apply(session, racking.objects(rows), dry_run=False):
        if done.resource.kind == "Server":
            print(f"server/{done.object['metadata']['name']} {done.action}")
    names = " ".join(r.fields["name"] for r in rows)
    print(f"nothing is done to them before somebody accepts them: bedplate server accept {names}", file=sys.stderr)
    return 0


def _rows(args: argparse.Namespace) -> list[racking.Row]:
    if args.filename:
        if args.name or args.bmc:
            raise UserError("give a file with many servers, or NAME and --bmc for one, not both")
        text = sys.stdin.read() if args.filename == "-" else Path(args.filename).read_text()
        return racking.read_csv(text, "standard input" if args.filename == "-" else args.filename)
    if not args.name or not args.bmc:
        raise UserError("give NAME and --bmc ADDRESS, or -f FILE with many: bedplate server add --help")
    fields = {
        "name": args.name,
        "bmc": args.bmc,
        "credentials": args.credentials,
        "username": args.username,
        "password": password(args.password_file),
        "verifyCA": verify_ca(args),
        "bootMac": args.boot_mac,
        **_shared(args),
    }
    return [racking.Row(fields, "the command line")]


def _shared(args: argparse.Namespace) -> dict[str, str]:
    """What may be the same for many servers."""
    fields = {"network": args.network}
    for prefix, pairs in (("labels.", args.label), ("failureDomain.", args.domain)):
        fields |= {f"{prefix}{k}": v for k, v in (_pair(p) for p in pairs)}
    return fields


def verify_ca(args: argparse.Namespace) -> str:
    """What `spec.bmc.verifyCA` is to say, by the options for that."""
    return INSECURE if args.insecure else args.verify_ca.read_text() if args.verify_ca else ""


def password(path: str) -> str:
    """The password in that file, `-` for the standard input's first line; empty: no file is named."""
    if not path:
        return ""
    return (sys.stdin.readline() if path == "-" else Path(path).read_text()).strip("\r\n")


def _pair(text: str) -> tuple[str, str]:
    key, sep, value = text.partition("=")
    if not sep or not key or not value:
        raise UserError(f'"{text}" is not KEY=VALUE')
    return key, value


def accept(session: Session, args: argparse.Namespace) -> int:
    """Release servers to be booted and overwritten."""
    said = f"Whatever is on the disks of {_listed(args.names)} may be overwritten from now on."
    _confirm(args, said, "Accept them", "nothing was accepted")
    for name in args.names:
        _patch(session, name, {"spec": {"accepted": True}})
        print(f"server/{name} accepted", flush=True)
    return _wait(session, args, "available")


def ask(session: Session, args: argparse.Namespace) -> int:
    """Have idle servers inspected, tested or erased."""
    if args.action == "erase":
        said = f"All disks of {_listed(args.names)} are erased; what is on them is lost."
        _confirm(args, said, "Erase them", "nothing was erased")
    for name in args.names:
        annotations = {REQUESTS[args.action]: datetime.now(UTC).isoformat()}
        if args.action == "test":
            annotations[SUITE] = args.suite
        _patch(session, name, {"metadata": {"annotations": annotations}})
        print(f"server/{name}: {args.action} is asked for", flush=True)
    return _wait(session, args, "available", begun=True)


def retire(session: Session, args: argparse.Namespace) -> int:
    """Have servers erased and switched off for good, or take them back."""
    if not args.undo:
        said = f"All disks of {_listed(args.names)} are erased once nothing uses them; what is on them is lost."
        _confirm(args, said, "Retire them", "nothing was retired")
    for name in args.names:
        _patch(session, name, {"spec": {"metal": {"retired": not args.undo}}})
        print(f"server/{name} {'is taken back' if args.undo else 'retires'}", flush=True)
    return _wait(session, args, "available" if args.undo else "retired", begun=True)


def rescue(session: Session, args: argparse.Namespace) -> int:
    """Have servers run the RAM system for a person, or be again what they were."""
    was: dict[str, str] = {}
    for name in args.names:
        metal = metal_of(session.read(session.kind("server"), name))
        if not metal.get("state"):
            said = f"server/{name} is no bare server that Bedplate runs: boot a rescue system there by your own means"
            raise UserError(said)
        was[name] = str(metal.get("before") or metal["state"])
    if args.undo:
        idle = [name for name, state in was.items() if state == "available"]
        if idle:
            said = f"Nobody uses {_listed(idle)}: what is on the disks is erased, unless spec.metal.erase is false."
            _confirm(args, said, "End the rescue", "nothing was changed")
    else:
        said = f"What runs on {_listed(args.names)} moves away or ends for as long; the disks stay as they are."
        _confirm(args, said, "Start the RAM system there", "nothing was changed")
    for name in args.names:
        _patch(session, name, {"spec": {"metal": {"rescue": not args.undo}}})
        print(f"server/{name} {'is to be what it was' if args.undo else 'is to be in rescue'}", flush=True)
    if not args.undo:
        return _wait(session, args, "rescue", mark="shell")
    return _wait(session, args, "available", *was.values(), begun=True)


def role(session: Session, args: argparse.Namespace) -> int:
    """Have accepted bare servers be hypervisors, or be given back."""
    for name in args.names:
        spec = session.read(session.kind("server"), name)["spec"]
        if not spec.get("accepted"):
            said = f"server/{name} is not accepted: whoever runs it now gives it its role. "
            raise UserError(f"{said}A bare server is accepted first: `bedplate server accept {name}`")
    where = _listed(args.names)
    if args.to == "auto":
        said = f"{where} may be overwritten, emptied and erased whenever pools or virtual machines wait for room."
        _confirm(args, said, "Leave the role to the fleet's policy", "nothing was changed")
    elif args.to == "hypervisor":
        _confirm(args, f"The disks of {where} are overwritten.", "Make hypervisors of them", "nothing was changed")
    else:
        said = f"Machines on {where} move away; then what is on the disks is lost."
        _confirm(args, said, "Give them back", "nothing was changed")
    for name in args.names:
        _patch(session, name, {"spec": {"role": args.to}})
        print(f"server/{name} {_ROLES[args.to]}", flush=True)
    if args.to == "auto":
        return 0  # nothing may ever have to change
    return _wait(session, args, "deployed" if args.to == "hypervisor" else "available", begun=True)


_ROLES = {
    "hypervisor": "is to be a hypervisor",
    "free": "is to be free",
    "auto": "becomes what waits for room, as the fleet's policy allows",
}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _patch(session: Session, name: str, patch: dict[str, Any]) -> None:
    session.client.request("PATCH", session.path(session.kind("server"), name), patch, content_type=MERGE_PATCH)


def _confirm(args: argparse.Namespace, said: str, question: str, refused: str) -> None:
    """Ask, unless that is not wanted. Raises `UserError` where the answer is not yes, or nobody can answer."""
    if not args.yes:
        print(said, file=sys.stderr)
        confirm(question, "go on", refused)


def _wait(session: Session, args: argparse.Namespace, *states: str, begun: bool = False, mark: str = "") -> int:
    """Wait, where it is asked for, until the servers are in one of the states, telling of each they pass.

    `begun`: the state that they are in now is to be left first, whichever it is. `mark`: a field of `status.metal` that
    is to be true as well.
    """
    if not args.wait:
        return 0
    end = time.monotonic() + args.timeout
    told: dict[str, str] = {}
    left: set[str] = set() if begun else set(args.names)
    open_ = set(args.names)
    while open_:
        for name in sorted(open_):
            server = session.read(session.kind("server"), name)
            metal = metal_of(server)
            now = str(metal.get("state", ""))
            if now != told.get(name):
                if name in told:
                    left.add(name)
                told[name] = now
                print(f"server/{name} {now or 'waits'}", flush=True)
            if name not in left:
                continue
            if now in states and (not mark or metal.get(mark)):
                open_.discard(name)
            elif now in _OVER:
                raise UserError(f"server/{name} is {now}: {_message(server)}")
        if open_ and time.monotonic() > end:
            name = min(open_)
            server = session.read(session.kind("server"), name)
            raise UserError(f"server/{name} is not {states[0]} after {span(args.timeout)}: {_message(server)}")
        if open_:
            time.sleep(_LOOK_SECONDS)
    return 0


def _message(server: dict[str, Any]) -> str:
    found = condition(server, "Ready") or {}
    return str(found.get("message") or ("it is Ready" if is_true(server, "Ready", "True") else "it says nothing"))
