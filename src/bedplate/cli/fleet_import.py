"""`bedplate fleet`: gathers what a person names, and writes one file of it. Remarks go to the standard error."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from bedplate.advise import calibrating, deciding, fleet, measuring
from bedplate.advise.fleet import ClusterProfile, FleetError, Profile, ServerModel
from bedplate.advise.importing import grouping, kubectl, lists, live
from bedplate.advise.importing.grouping import Seen
from bedplate.cli import output
from bedplate.cli.errors import UserError
from bedplate.cli.fleets import FaultyFile
from bedplate.model.kinds.measurement import Measurement

Listed = dict[str, list[dict[str, Any]]]
"""Objects by the plural of their kind."""

HEAD = """\
# A fleet, to be compared with `bedplate compare -f THIS_FILE`. Add prices, and what you know of use, power and place:
# docs/tasks/decide.md tells of every field."""


def run(args: argparse.Namespace) -> int:
    """Write a fleet's file. Raises `UserError`."""
    try:
        listed = _listed(args) if args.from_live else {}
        servers, clusters, remarks = _gathered(args, listed)
        profile = Profile(servers=servers, clusters=clusters, name=args.name)
        if args.from_live:
            measured, said = live.overheads(listed["measurements"])
            profile = calibrating.with_overheads(profile, measured)
            remarks += said
        known = fleet.currencies(profile)
        currency = args.currency or (min(known) if len(known) == 1 else "")
        profile = msgspec.structs.replace(profile, currency=currency)
        written = fleet.write(profile)
        fleet.read(written, "the fleet")
    except FleetError as error:
        raise FaultyFile(str(error)) from None
    for said in remarks:
        print(said, file=sys.stderr)
    print(HEAD)
    print(output.as_yaml(written))
    return 0


def _gathered(
    args: argparse.Namespace, listed: Listed
) -> tuple[tuple[ServerModel, ...], tuple[ClusterProfile, ...], list[str]]:
    models: list[ServerModel] = []
    clusters: list[ClusterProfile] = []
    seen: list[Seen] = []
    remarks: list[str] = []
    if args.from_live:
        found, said = live.servers(listed["servers"])
        seen += found
        remarks += said
        clusters += live.clusters(listed["clusters"], listed["nodepools"])
    if args.servers:
        models += lists.servers(_text(args.servers), args.servers)
    if args.workloads:
        clusters += lists.clusters(_text(args.workloads), args.workloads)
    for given in args.cluster:
        name, _, file = given.partition("=")
        if not name or not file:
            raise UserError(f'--cluster "{given}" names no file; write NAME=FILE, as shop=shop.json')
        read = kubectl.Read(_json(file), file)
        if args.nodes_are == "servers":
            seen += read.servers()
        clusters = [c for c in clusters if c.name != name]
        clusters.append(read.cluster(name, shape=None if args.nodes_are == "servers" else read.shape()))
        remarks += read.remarks
    models += grouping.models(seen)
    if not models:
        raise UserError("there is no server in it; add --servers CSV, --from-live, or --nodes-are servers")
    return tuple(models), tuple(clusters), remarks


def _listed(args: argparse.Namespace) -> Listed:
    """What the controller in use has, over all namespaces."""
    from bedplate.cli import watching
    from bedplate.cli.session import Session

    session = Session(args)
    session.all_namespaces = True
    items: Listed = {}
    for word in ("servers", "clusters", "nodepools", "measurements"):
        items[word] = watching.items(session.client, session.path(session.kind(word)))
    return items


def calibrate(args: argparse.Namespace, profile: Profile) -> int:
    """Write the fleet's file with durations that clusters took and overheads that were measured. Raises `UserError`."""
    from bedplate.cli import watching
    from bedplate.cli.session import Session

    session = Session(args)
    if not args.cluster and not args.measurement:
        raise UserError("name what it is calibrated by: --cluster NAME, --measurement NAME, or both")
    if args.cluster:
        kind = session.kind("cluster")
        told = [session.client.get(session.path(kind, name, "timeline")) for name in args.cluster]
        found = calibrating.taken(told)
        if not found:
            raise UserError(
                f"the timelines of {', '.join(args.cluster)} tell of nothing that has ended; wait until Ready"
            )
        servers = watching.items(session.client, session.path(session.kind("servers")))
        emulated = any((s.get("status") or {}).get("accelerator") == "tcg" for s in servers)
        for name, t in found.items():
            print(f"{name}: {t.range[0]:g} to {t.range[1]:g} s, seen {len(t.seconds)} times", file=sys.stderr)
        if emulated:
            print("guests are EMULATED in software here: these are not what servers take", file=sys.stderr)
        profile = calibrating.calibrated(profile, found, emulated=emulated)
    if args.measurement:
        raw = session.read(session.kind("measurements"), args.measurement)
        profile = _measured(profile, msgspec.convert(raw, Measurement))
    print(output.as_yaml(fleet.write(profile)))
    return 0


def _measured(profile: Profile, found: Measurement) -> Profile:
    try:
        overheads, remarks = measuring.overheads(found)
    except measuring.Refused as error:
        raise UserError(str(error)) from None
    for said in remarks:
        print(said, file=sys.stderr)
    if not overheads:
        raise UserError(f"measurement {found.metadata.name} has no overhead that could be taken, as said above")
    for row, m in overheads.items():
        print(f"{row}: {m.times.mid:.3f} ({m.times.low:.3f} to {m.times.high:.3f}) times its server", file=sys.stderr)
    return calibrating.with_overheads(profile, overheads)


def _text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FaultyFile(f"{name}: it is no text in UTF-8") from None


def _json(name: str) -> Any:
    try:
        return json.loads(_text(name))
    except ValueError as error:
        raise FaultyFile(f"{name}: it is no JSON: {error}; write it with kubectl get nodes,pods -A -o json") from None


def summarise(profile: Profile) -> None:
    """Say what a fleet is, and what each alternative takes of it."""
    servers = sum(m.count for m in profile.servers)
    work = sum(1 for _ in profile.workloads())
    print(f"{profile.name}: {servers} servers of {len(profile.servers)} models, {len(profile.clusters)} clusters, "
          f"{work} workloads")  # fmt: skip
    for name, plan in deciding.plans(profile).items():
        layout = plan.layout
        needs = ", ".join(f"{n} {m}" for m, n in layout.servers.items()) or "nothing"
        short = ", ".join(f"{n} {m} too few" for m, n in layout.shortage.items())
        print(f"  {name:<6} {needs}{f' ({short})' if short else ''}")
        for said in layout.impossible:
            print(f"         {said}")
