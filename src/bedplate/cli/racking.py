"""Servers as they stand in a list, made into objects to declare: one from options, many from a CSV file. Pure."""

from __future__ import annotations

import csv
import io
from typing import Any, NamedTuple

from bedplate.cli.errors import UserError, did_you_mean
from bedplate.cli.manifest.marks import Item, Marks

NAMESPACE = "default"
COLUMNS = ("name", "bmc", "credentials", "username", "password", "verifyCA", "network", "bootMac")
"""Of a CSV file; beside them `labels.KEY` and `failureDomain.KEY`."""
_MAPS = ("labels.", "failureDomain.")


class Row(NamedTuple):
    """One server as a person writes it: its fields by column, and where they stand."""

    fields: dict[str, str]
    source: str
    line: int = 0
    """From 1; 0: it is no file."""

    @property
    def where(self) -> str:
        """For errors."""
        return f"{self.source}:{self.line}" if self.line else self.source

    def item(self, obj: dict[str, Any]) -> Item:
        """An object of this server, to be declared."""
        marks = Marks()
        marks.lines[()] = self.line
        return Item(obj, self.source, marks)


def read_csv(text: str, source: str) -> list[Row]:
    """Read a list of servers, with the columns' names in its first line.

    Raises:
        UserError: a column is not known or missing, a line has too many fields, a server is there twice.
    """
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    names = [n.strip() for n in reader.fieldnames or ()]
    reader.fieldnames = names
    for name in names:
        if name not in COLUMNS and not any(name.startswith(m) and len(name) > len(m) for m in _MAPS):
            known = ", ".join((*COLUMNS, "labels.KEY", "failureDomain.KEY"))
            near = did_you_mean(name, COLUMNS)
            raise UserError(f'{source}:1: there is no column "{name}"{near}; columns are {known}')
    for needed in ("name", "bmc"):
        if needed not in names:
            raise UserError(f"{source}:1: the column {needed} is missing; write the columns' names in the first line")
    rows: list[Row] = []
    lines: dict[str, int] = {}
    for raw in reader:
        where = f"{source}:{reader.line_num}"
        if None in raw:
            raise UserError(f"{where}: more fields than columns; put fields that hold a comma in quotes")
        fields = {k: (v or "").strip() for k, v in raw.items()}
        if not any(fields.values()):
            continue
        name = fields["name"]
        if name in lines:
            raise UserError(f"{where}: server {name} is in line {lines[name]} already; a server has one name")
        lines[name] = reader.line_num
        rows.append(Row(fields, source, reader.line_num))
    if not rows:
        raise UserError(f"{source}: there is no server in it, only the columns' names")
    return rows


def objects(rows: list[Row]) -> list[Item]:
    """The Secrets and Servers to declare, Secrets first. No server is accepted by it.

    Raises:
        UserError: a server has no name, no BMC, or no credentials.
    """
    secrets = [row.item(s) for row in rows if (s := _secret(row)) is not None]
    return [*secrets, *(row.item(_server(row)) for row in rows)]


def _secret(row: Row) -> dict[str, Any] | None:
    f = row.fields
    if f.get("credentials"):
        if f.get("username") or f.get("password"):
            raise UserError(f"{row.where}: give credentials (the name of a Secret), or username and password, not both")
        return None
    if not f.get("username") or not f.get("password"):
        raise UserError(f"{row.where}: the BMC's credentials are missing: name a Secret, or give username and password")
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(f["name"]), "namespace": NAMESPACE},
        "stringData": {"username": f["username"], "password": f["password"]},
    }


def secret_name(server: str) -> str:
    """Name of the Secret that is made for a server's BMC."""
    return f"bmc-{server}"


def _server(row: Row) -> dict[str, Any]:
    f = row.fields
    for needed in ("name", "bmc"):
        if not f.get(needed):
            raise UserError(f"{row.where}: {needed} is empty")
    bmc: dict[str, Any] = {
        "address": f["bmc"],
        "credentials": {"secret": f.get("credentials") or secret_name(f["name"]), "namespace": NAMESPACE},
    }
    if f.get("verifyCA"):
        bmc["verifyCA"] = f["verifyCA"]
    spec: dict[str, Any] = {"role": "free", "bmc": bmc}
    domain = _map(f, "failureDomain.")
    if domain:
        spec["failureDomain"] = domain
    metal = {k: f[k] for k in ("network", "bootMac") if f.get(k)}
    if metal:
        spec["metal"] = metal
    metadata: dict[str, Any] = {"name": f["name"]}
    labels = _map(f, "labels.")
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "bedplate.dev/v1alpha1", "kind": "Server", "metadata": metadata, "spec": spec}


def _map(fields: dict[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix) and v}
