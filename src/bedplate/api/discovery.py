"""Discovery: which kinds are served where, in the documents that kubectl and client libraries read first. Pure."""

from __future__ import annotations

from typing import Any

from bedplate.model.meta import GROUP, VERSION
from bedplate.model.registry import KINDS, KindInfo

READ = ("get", "list", "watch")
WRITE = ("create", "delete", "deletecollection", "patch", "update")
_IN_ALL = frozenset({"Cluster", "NodePool", "Machine", "VirtualMachine"})
"""Kinds that `kubectl get all` shows."""


def core_versions() -> dict[str, Any]:
    """The answer to `/api`."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group() -> dict[str, Any]:
    """The answer to `/apis/<group>`."""
    version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version}


def groups() -> dict[str, Any]:
    """The answer to `/apis`."""
    one = {k: v for k, v in group().items() if k not in {"kind", "apiVersion"}}
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [one]}


def verbs(info: KindInfo) -> tuple[str, ...]:
    """What may be done with objects of the kind."""
    if info.derived:
        return ("delete", "deletecollection", *READ) if info.deletable else READ
    return tuple(sorted((*READ, *WRITE)))


def resources(group_name: str, version: str) -> dict[str, Any]:
    """The answer to `/api/v1` or `/apis/<group>/<version>`."""
    found: list[dict[str, Any]] = []
    for info in KINDS:
        if info.group != group_name:
            continue
        one: dict[str, Any] = {
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.namespaced,
            "kind": info.kind,
            "verbs": list(verbs(info)),
            "shortNames": list(info.short_names),
        }
        if info.kind in _IN_ALL:
            one["categories"] = ["all"]
        found.append(one)
        if hasattr(info.type, "status") and not info.derived:
            found.append(_sub(info, "status", info.kind, ("get", "patch", "update")))
        if info.scalable:
            scale = _sub(info, "scale", "Scale", ("get", "patch", "update"))
            found.append({**scale, "group": "autoscaling", "version": "v1"})
    prefix = f"{group_name}/" if group_name else ""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{prefix}{version}",
        "resources": found,
    }


def _sub(info: KindInfo, name: str, kind: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": f"{info.plural}/{name}",
        "singularName": "",
        "namespaced": info.namespaced,
        "kind": kind,
        "verbs": list(allowed),
    }
