"""Sending manifests to the API, all or nothing, and its refusals back to file and line."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from bedplate.cli.errors import ApiError
from bedplate.cli.manifest.load import FaultsError
from bedplate.cli.manifest.marks import Fault, Item, parse_field
from bedplate.cli.resources import Resource
from bedplate.cli.session import Session

ROOT = "/apis/bedplate.dev/v1alpha1"
_ITEM = re.compile(r"^items\[(\d+)\]\.?")
_WANTS_TEXT = re.compile(r"\b(str|string|text)\b", re.IGNORECASE)


class Declared(NamedTuple):
    """One object as the API now has it, and what was done: `created`, `configured` or `unchanged`."""

    action: str
    object: dict[str, Any]
    resource: Resource


def check_kinds(session: Session, items: list[Item]) -> list[tuple[Item, Resource]]:
    """Find each object's kind.

    Raises:
        FaultsError: a kind that the API does not serve; names the nearest.
    """
    pairs: list[tuple[Item, Resource]] = []
    faults: list[Fault] = []
    for item in items:
        resource = session.catalogue.of(item.object)
        if resource is None:
            faults.append(_unknown_kind(session, item))
        else:
            pairs.append((item, resource))
    if faults:
        raise FaultsError(faults)
    return pairs


def with_namespaces(session: Session, pairs: list[tuple[Item, Resource]]) -> list[dict[str, Any]]:
    """Give the objects with the session's namespace where they name none and live in one."""
    objects: list[dict[str, Any]] = []
    for item, resource in pairs:
        metadata: dict[str, Any] = item.object["metadata"]
        if resource.namespaced and not metadata.get("namespace"):
            metadata = {**metadata, "namespace": session.namespace}
        objects.append({**item.object, "metadata": metadata})
    return objects


def apply(session: Session, items: list[Item], dry_run: bool) -> list[Declared]:
    """Declare the objects, or only have the API check them.

    Raises:
        FaultsError: the API refuses some; nothing was applied.
    """
    pairs = check_kinds(session, items)
    answer = refusable(session, pairs, "apply", {"items": with_namespaces(session, pairs), "dryRun": dry_run})
    return [
        Declared(str(entry.get("action", "applied")), entry["object"], resource)
        for entry, (_, resource) in zip(answer["items"], pairs, strict=True)
    ]


def refusable(session: Session, pairs: list[tuple[Item, Resource]], endpoint: str, body: dict[str, Any]) -> Any:
    """POST objects to an endpoint of the group; faults of single fields become faults of files."""
    try:
        return session.client.request("POST", f"{ROOT}/{endpoint}", body)
    except ApiError as error:
        faults = _faults(error, [item for item, _ in pairs])
        if faults:
            raise FaultsError(faults) from None
        raise


def _faults(error: ApiError, items: list[Item]) -> list[Fault]:
    """The refusal's causes as faults of files; empty where it speaks of no object of ours."""
    faults: list[Fault] = []
    for cause in error.causes:
        field = str(cause.get("field") or "")
        match = _ITEM.match(field)
        if match and int(match[1]) < len(items):
            item, rest = items[int(match[1])], field[match.end() :]
        elif len(items) == 1:
            item, rest = items[0], field
        else:
            continue
        faults.append(_fault(item, rest, str(cause.get("message") or error)))
    return sorted(set(faults), key=lambda f: (f.source, f.line))


def _fault(item: Item, field: str, message: str) -> Fault:
    path = parse_field(field)
    written = item.written(path)
    if written is not None and _WANTS_TEXT.search(message):
        message = f'{written} is not a text in YAML; put it in quotes: "{written}"'
    message = message if not field or message.startswith(field) else f"{field}: {message}"
    return item.fault(path, message)


def _unknown_kind(session: Session, item: Item) -> Fault:
    from bedplate.cli.errors import did_you_mean

    version, kind = str(item.object["apiVersion"]), str(item.object["kind"])
    served = [r for r in session.catalogue.all() if r.kind == kind]
    if served:
        message = f'kind {kind} is not in apiVersion "{version}"; write apiVersion: {served[0].api_version}'
        return item.fault(("apiVersion",), message)
    return item.fault(
        ("kind",), f'there is no kind "{kind}"{did_you_mean(kind, [r.kind for r in session.catalogue.all()])}'
    )
