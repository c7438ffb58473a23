"""How Python names become Kubernetes' field names, and the base of every struct that users see."""

from __future__ import annotations

from typing import Any, cast

import msgspec

_UPPER = {"cidr", "uuid", "ca", "ip", "os", "id", "mac", "api", "url", "dns", "mtu", "etcd"}
_KEEP_LOWER = {"mtu", "etcd", "mac", "os", "dns"}


def kubernetes_name(name: str) -> str:
    """Turn `pod_cidr` into `podCIDR`, `resource_version` into `resourceVersion` (Kubernetes' API conventions)."""
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(
        part.upper() if part in _UPPER and part not in _KEEP_LOWER else part.capitalize() for part in rest
    )


class Wire(msgspec.Struct, rename=kubernetes_name, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Base of all structs in users' objects: camelCase names, immutable; defaults are written out.

    Unknown fields are refused by `bedplate.model.validation`, not here, so that stored objects of a
    later version can still be read.
    """


def to_wire(value: msgspec.Struct) -> dict[str, Any]:
    """Give the JSON form of an object as users see it: empty texts, lists, maps and nulls are left out."""
    return cast(dict[str, Any], _prune(msgspec.to_builtins(value)))


def _prune(value: Any) -> Any:
    if isinstance(value, dict):
        pruned = {k: _prune(v) for k, v in cast(dict[str, Any], value).items()}
        return {k: v for k, v in pruned.items() if v is not None and v != "" and v != {} and v != []}
    if isinstance(value, list | tuple):
        return [_prune(v) for v in cast(list[Any], value)]
    return value
