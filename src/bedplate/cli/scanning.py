"""BMCs found in a range of addresses, as Servers to declare: which are new, which are known, which are one twice."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bedplate.cli import bare, declare, output, racking, watching
from bedplate.cli.asking import confirm
from bedplate.cli.errors import UserError
from bedplate.cli.firmware import metal_of
from bedplate.cli.session import Session
from bedplate.drivers.redfish import scan
from bedplate.drivers.redfish.credentials import Credentials
from bedplate.model.bmc_address import BmcAddressError, is_system, parse, verify_ca_fault
from bedplate.model.labels import name_fault


class Known(NamedTuple):
    """A declared server, as what was found is compared with it."""

    name: str
    host: str
    port: int
    system: str
    serial: str


class Candidate(NamedTuple):
    """A system that was found, and what becomes of it."""

    found: scan.Found
    system: scan.System
    bmc: str
    name: str = ""
    """Of the new Server; empty: it is not added."""
    why: str = ""
    """What speaks against adding it."""


def add(session: Session, args: argparse.Namespace, more: dict[str, str]) -> int:
    """Scan, show what is there, and declare what is new. `more`: fields that all new servers get.

    Raises:
        UserError: what was asked for is not whole, or a person does not confirm.
    """
    hosts, credentials = _asked(args)
    verify_ca = bare.verify_ca(args)
    if fault := verify_ca_fault(verify_ca):
        raise UserError(f"{args.verify_ca} {fault}")
    try:
        scanner = scan.Scanner(verify_ca, args.port)
    except (ValueError, OSError) as error:
        raise UserError(f"{args.verify_ca} can't be read as a certificate: {error}") from None
    declared = _known(session)
    print(f"looking at {len(hosts)} addresses, at most {scan.PER_SECOND:g} a second", file=sys.stderr)
    answers = scanner.look(hosts)
    bmcs = [a for a in answers if a.redfish]
    for a in answers:
        if not a.redfish:
            print(f"{a.host}: {a.error}", file=sys.stderr)
    if not bmcs:
        print("no BMC that speaks Redfish over TLS answered", file=sys.stderr)
        return 0
    _agree(args, bmcs, pinned=not verify_ca)
    found = scanner.read(bmcs, credentials)
    for f in found:
        if f.error:
            print(f"{f.answer.host}: {f.error}", file=sys.stderr)
    candidates = sort_out(found, declared)
    _table(candidates)
    new = [c for c in candidates if c.name]
    rows = [
        racking.Row(_fields(c, scanner.verify_ca(c.found.answer), credentials, more), f"the scan of {args.scan}")
        for c in new
    ]
    if not rows:
        print("nothing new was found", file=sys.stderr)
        return 0
    declare.apply(session, racking.objects(rows), dry_run=args.dry_run)
    names = " ".join(c.name for c in new)
    if args.dry_run:
        print(f"{len(new)} servers would be added; nothing was", file=sys.stderr)
    else:
        said = f"{len(new)} servers were added; nothing is done to them before somebody accepts them"
        print(f"{said}: bedplate server accept {names}", file=sys.stderr)
    return 0


def _asked(args: argparse.Namespace) -> tuple[list[str], Credentials]:
    alone = {"NAME": args.name, "--bmc": args.bmc, "-f": args.filename, "--boot-mac": args.boot_mac}
    if wrong := next((option for option, value in alone.items() if value), ""):
        raise UserError(f"{wrong} speaks of single servers, and --scan finds them; give one of the two")
    if args.credentials:
        raise UserError("a scan logs in from here and can't read a Secret; give --username and --password-file")
    if not args.username or not args.password_file:
        raise UserError("a scan needs the BMCs' --username and --password-file; each is tried once at each BMC")
    if not 1 <= args.port <= 65535:
        raise UserError(f"{args.port} is not a port; write a number from 1 to 65535")
    path = args.password_file
    password = bare.password(path)
    if not password:
        raise UserError(f"there is no password in {'the standard input' if path == '-' else path}")
    try:
        return scan.addresses(args.scan), Credentials(args.username, password)
    except scan.RangeError as error:
        raise UserError(f"--scan {error}") from None


def _agree(args: argparse.Namespace, bmcs: Sequence[scan.Answer], *, pinned: bool) -> None:
    """Show whose certificates are taken on sight, and ask. Raises `UserError` where the answer is not yes."""
    if not pinned:
        return
    print("These answer as Redfish, each under the certificate with this SHA-256 fingerprint:", file=sys.stderr)
    for a in bmcs:
        print(f"  {a.host}  {a.fingerprint}  {' '.join(t for t in (a.vendor, a.product) if t)}", file=sys.stderr)
    if not args.yes:
        confirm(
            f"Send the user name and password to these {len(bmcs)}, and pin their certificates",
            "send the password to whatever answers as Redfish",
            "the password was sent to nobody",
        )


# --- what is new ----------------------------------------------------------------------------------------------------


def _known(session: Session) -> list[Known]:
    return [known(server) for server in watching.items(session.client, session.path(session.kind("server")))]


def known(server: dict[str, Any]) -> Known:
    """A declared Server."""
    name = str(server["metadata"]["name"])
    serial = str(metal_of(server).get("serial") or "")
    try:
        address = parse(str(((server.get("spec") or {}).get("bmc") or {}).get("address") or ""))
    except BmcAddressError:
        return Known(name, "", 0, "", serial)
    return Known(name, address.host, address.port, address.system, serial)


def sort_out(found: Iterable[scan.Found], declared: Sequence[Known]) -> list[Candidate]:
    """Say of each system whether it is new, and under which name. Pure."""
    out: list[Candidate] = []
    by_serial: dict[str, Candidate] = {}
    taken = {k.name for k in declared}
    for f in found:
        for system in f.systems:
            c = Candidate(f, system, _bmc(f, system))
            same = by_serial.get(system.serial) if system.serial else None
            twin = _declared(f, system, declared)
            if twin is not None:
                c = c._replace(why=twin)
            elif same is not None:
                c = c._replace(why=f"one serial number with {_place(same, f)}: one server, or a wrong number")
            elif not _addressable(f, system):
                c = c._replace(why=f"its system is at {system.path}, where Bedplate does not look")
            else:
                c = c._replace(name=_name(f, system, taken))
                taken.add(c.name)
            if system.serial:
                by_serial.setdefault(system.serial, c)
            out.append(c)
    return out


def _place(other: Candidate, f: scan.Found) -> str:
    if other.found is f:
        return f"system {other.system.path.rpartition('/')[2]} there"
    return other.found.answer.host


def _declared(f: scan.Found, system: scan.System, declared: Sequence[Known]) -> str | None:
    for k in declared:
        here = (k.host, k.port) == (f.answer.host, f.answer.port)
        if here and (not k.system or k.system == system.path or len(f.systems) == 1):
            return f"is {k.name}"
    for k in declared:
        if system.serial and k.serial == system.serial:
            return f"is {k.name} by its serial number, declared with another BMC"
    return None


def _addressable(f: scan.Found, system: scan.System) -> bool:
    return len(f.systems) == 1 or is_system(system.path)


def _bmc(f: scan.Found, system: scan.System) -> str:
    host = f"[{f.answer.host}]" if ":" in f.answer.host else f.answer.host
    port = "" if f.answer.port == 443 else f":{f.answer.port}"
    return f"redfish+https://{host}{port}{system.path if len(f.systems) > 1 else ''}"


def _name(f: scan.Found, system: scan.System, taken: set[str]) -> str:
    """Its serial number, which is on its front too; else where its BMC is."""
    place = "bmc-" + re.sub(r"[^0-9a-f]+", "-", f.answer.host.lower()).strip("-")
    if len(f.systems) > 1:
        place += "-" + re.sub(r"[^a-z0-9]+", "-", system.path.rpartition("/")[2].lower()).strip("-")
    serial = re.sub(r"[^a-z0-9-]+", "-", system.serial.lower()).strip("-")
    names = [n for n in (serial, place) if n and name_fault(n, 63) is None and n not in taken]
    return names[0] if names else _numbered(place[:55].strip("-"), taken)


def _numbered(name: str, taken: set[str]) -> str:
    return next(n for n in (f"{name}-{i}" for i in range(2, len(taken) + 3)) if n not in taken)


def _fields(c: Candidate, verify_ca: str, credentials: Credentials, more: dict[str, str]) -> dict[str, str]:
    return {
        **more,
        "name": c.name,
        "bmc": c.bmc,
        "username": credentials.username,
        "password": credentials.password,
        "verifyCA": verify_ca,
    }


def _table(candidates: Sequence[Candidate]) -> None:
    rows: list[list[str]] = []
    for c in candidates:
        s = c.system
        cells = [c.found.answer.host, s.vendor or c.found.answer.vendor, s.model, s.serial, s.path.rpartition("/")[2]]
        rows.append([output.cell_text(x) for x in [*cells, s.power, f"{c.name} (new)" if c.name else c.why]])
    if rows:
        output.TableWriter(("Address", "Vendor", "Model", "Serial", "System", "Power", "Server")).write(rows)
