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
    """Give the JSON form of an object as users see it: fields that are empty texts, lists, maps or nulls are left out.
    What users keep in a map of their own, such as labels, is theirs: an empty text there is a value."""
    return cast(dict[str, Any], _plain(value))


_TEXTS_AND_NUMBERS = (str, int, float)


def _plain(value: Any) -> Any:
    if isinstance(value, _TEXTS_AND_NUMBERS) or value is None:
        return value
    if isinstance(value, msgspec.Struct):
        out: dict[str, Any] = {}
        for name, field in zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True):
            found = getattr(value, field)
            if found is not None and found != "" and found != () and (found := _plain(found)) != {}:
                out[name] = found
        return out
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast(list[Any], value)]
    return msgspec.to_builtins(value)
