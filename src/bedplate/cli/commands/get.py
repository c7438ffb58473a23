"""List objects of one or several kinds.

Examples:
  bedplate get machines
  bedplate get clusters,nodepools -A
  bedplate get machine shop-web-1 -o yaml
  bedplate get machines -l bedplate.dev/cluster=shop -w
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bedplate.cli import output, watching
from bedplate.cli.client import TABLE
from bedplate.cli.errors import ApiError, UnreachableError, UserError
from bedplate.cli.parsing import add_connection, add_namespace, add_selectors, output_format, split_target
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session

_USAGE = "bedplate get KIND[,KIND...] [NAME...]"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", nargs="+", metavar="KIND [NAME...]", help="kinds, then names; or KIND/NAME ...")
    parser.add_argument("-o", "--output", type=output_format(*output.FORMATS), default="table", metavar="FORMAT",
                        help="table, wide, name, json or yaml")  # fmt: skip
    parser.add_argument("-w", "--watch", action="store_true", help="go on showing changes until interrupted")
    parser.add_argument("--no-headers", action="store_true", help="no column headings")
    add_selectors(parser)
    add_namespace(parser, all_namespaces=True)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show the objects."""
    session = Session(args)
    targets = [(session.kind(kind), name) for kind, name in split_target(args.what, _USAGE)]
    query = {"labelSelector": args.selector, "fieldSelector": args.field_selector}
    if any(name for _, name in targets) and (args.selector or args.field_selector or args.all_namespaces):
        raise UserError("names cannot be combined with -l, --field-selector or -A; leave one of them out")
    if args.watch:
        if len(targets) > 1:
            raise UserError("-w follows one kind or one object; run one `bedplate get -w` for each")
        return _watch(session, *targets[0], query, args)
    if args.output in ("table", "wide"):
        return _tables(session, targets, query, args)
    return _objects(session, targets, query, args.output)


def _tables(
    session: Session, targets: list[tuple[Resource, str]], query: dict[str, Any], args: argparse.Namespace
) -> int:
    prefix = len({t[0] for t in targets}) > 1
    groups: dict[Resource, list[str]] = {}
    for resource, name in targets:
        groups.setdefault(resource, []).append(name)
    shown = 0
    for resource, names in groups.items():
        tables = [_fetch(session, resource, name, query, TABLE) for name in names]
        rows = [row for table in tables for row in table.get("rows") or ()]
        if not rows:
            continue
        if shown:
            print()
        shown += len(rows)
        view = _TableView(session, resource, args, prefix)
        view.show({**tables[0], "rows": rows})
    if not shown:
        where = "" if session.all_namespaces or not targets[0][0].namespaced else f' in namespace "{session.namespace}"'
        kinds = ", ".join(dict.fromkeys(r.plural for r, _ in targets))
        print(f"there are no {kinds}{where}", file=sys.stderr)
    return 0


def _fetch(session: Session, resource: Resource, name: str, query: dict[str, Any], accept: str) -> dict[str, Any]:
    if name:
        return session.client.get(session.path(resource, name), accept=accept)
    return watching.list_all(session.client, session.path(resource), query, accept)


def _objects(session: Session, targets: list[tuple[Resource, str]], query: dict[str, Any], style: str) -> int:
    found: list[dict[str, Any]] = []
    for resource, name in targets:
        if name:
            found.append(session.read(resource, name))
            continue
        items = watching.items(session.client, session.path(resource), query)
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        found.extend({**kind, **item} for item in items)
    output.write_objects(found, style, as_list=len(targets) != 1 or not targets[0][1])
    return 0


def _watch(session: Session, resource: Resource, name: str, query: dict[str, Any], args: argparse.Namespace) -> int:
    if name:
        query = {**query, "fieldSelector": f"metadata.name={name}"}
    path = session.path(resource)
    if args.output not in ("table", "wide"):
        for change in watching.follow(session.client, path, query):
            if change.type == "SYNCED":
                continue
            if args.output == "yaml":
                print("---")
            output.write_objects([change.object], args.output, as_list=False)
            sys.stdout.flush()
        return 0
    view = _TableView(session, resource, args, prefix=False)
    patience = watching.Patience()
    version = ""
    while True:
        try:
            if not version:
                table = watching.list_all(session.client, path, query, TABLE)
                view.show(table)
                version = table["metadata"]["resourceVersion"]
            patience.well()
            for change in watching.watch(session.client, path, query, version, TABLE):
                version = _version(change.object) or version
                if change.type != "BOOKMARK":
                    view.show(change.object)
        except ApiError as error:
            if error.code != 410:
                raise
            version = ""  # what was missed is compacted: show all again
        except UnreachableError as error:
            patience.lost(error)


def _version(table: dict[str, Any]) -> str:
    """The version to go on from after a lost connection: a bookmark and each row carry it."""
    versions = [(row.get("object") or {}).get("metadata", {}).get("resourceVersion") for row in table.get("rows") or ()]
    return str((versions[-1] if versions else None) or (table.get("metadata") or {}).get("resourceVersion") or "")


class _TableView:
    """Writes tables of one kind; the first one's columns stand for those that follow."""

    def __init__(self, session: Session, resource: Resource, args: argparse.Namespace, prefix: bool) -> None:
        self._namespaces = session.all_namespaces and resource.namespaced
        self._prefix = f"{resource.singular}/" if prefix else ""
        self._wide = args.output == "wide"
        self._headers = not args.no_headers
        self._writer: output.TableWriter | None = None
        self._columns: list[int] = []

    def show(self, table: dict[str, Any]) -> None:
        """Write the table's rows."""
        definitions = table.get("columnDefinitions") or []
        if definitions:
            self._columns = output.columns_of(table, self._wide)
        if self._writer is None:
            headings = [str(definitions[i]["name"]) for i in self._columns]
            self._writer = output.TableWriter(["namespace"] * self._namespaces + headings, self._headers)
        self._writer.write(self._row(row) for row in table.get("rows") or ())

    def _row(self, row: dict[str, Any]) -> list[str]:
        cells = [output.cell_text(row["cells"][i]) for i in self._columns]
        cells[0] = self._prefix + cells[0]
        metadata = (row.get("object") or {}).get("metadata") or {}
        return [str(metadata.get("namespace") or "")] * self._namespaces + cells
