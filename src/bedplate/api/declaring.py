"""Many objects declared together, as `apply` does: merged into what is there, checked as one, all kept or none.

Blocking, for threads; refuses with `ApiError`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bedplate.api import errors
from bedplate.api.objects import (
    Objects,
    Options,
    View,
    Written,
    carry_over,
    faults_of,
    keep,
    new_one,
    spec_of,
    with_meta,
    writable,
)
from bedplate.api.patch import three_way
from bedplate.model.defaults import LAST_APPLIED
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.core import Secret
from bedplate.model.registry import BY_KIND, KINDS, KindInfo
from bedplate.model.validation.faults import Fault
from bedplate.store import codec
from bedplate.store.transaction import Transaction, user_secret


def apply(objects: Objects, items: list[Any], options: Options) -> list[Written]:
    """Declare objects, checked against each other and all others; they are kept together or not at all."""
    faults: list[Fault] = []
    read: list[tuple[int, KindInfo, Object, dict[str, Any]]] = []
    seen: dict[tuple[str, str, str], int] = {}
    for i, raw in enumerate(items):
        found = _read_item(objects, i, raw, options, faults)
        if found is None:
            continue
        info, obj = found
        place = (info.kind, obj.metadata.namespace, obj.metadata.name)
        if place in seen and obj.metadata.name:
            where = f' in namespace "{place[1]}"' if place[1] else ""
            message = f'{info.kind} "{place[2]}"{where} is declared twice; rename or remove one of the two'
            faults.append(Fault(f"items[{i}].metadata.name", message, "FieldValueDuplicate"))
            continue
        seen[place] = i
        read.append((i, info, obj, raw))
    order = {info.kind: n for n, info in enumerate(_APPLY_ORDER)}
    read.sort(key=lambda r: order[r[1].kind])

    def work(tx: Transaction) -> dict[int, Written]:
        prepared = _prepare(objects, tx, read, options, faults)
        return {i: _apply_one(tx, old, obj, stated) for i, old, obj, stated in prepared}

    done = objects.write(options, work)
    return [done[i] for i in range(len(items))]


def _read_item(
    objects: Objects, i: int, raw: Any, options: Options, faults: list[Fault]
) -> tuple[KindInfo, Object] | None:
    try:
        info = kind_of(raw)
        writable(info, "declared")
        obj, _ = objects.read(info, "", raw, options)
        return info, obj
    except errors.ApiError as error:
        listed = error.details.get("causes")
        if listed:
            faults.extend(_fault_of(i, c) for c in listed)
        else:
            faults.append(Fault(f"items[{i}].kind", error.message))
        return None


def _prepare(
    objects: Objects,
    tx: Transaction,
    read: list[tuple[int, KindInfo, Object, dict[str, Any]]],
    options: Options,
    faults: list[Fault],
) -> list[tuple[int, Object | None, Object, bool]]:
    """Merge each declared object into the one that is there; check all of them together. Raises with all faults."""
    view = View(tx)
    prepared: list[tuple[int, Object | None, Object, bool]] = []
    for i, info, declared, raw in read:
        old = tx.find(info.kind, declared.metadata.namespace, declared.metadata.name)
        stated = "data" in raw or "stringData" in raw
        try:
            obj = declared if old is None else _merged(objects, info, old, declared, raw, options)
        except errors.ApiError as error:
            listed = error.details.get("causes") or [
                {"field": "", "message": error.message, "reason": "FieldValueInvalid"}
            ]
            faults.extend(_fault_of(i, c) for c in listed)
            continue
        if old is not None and old.metadata.deletion_timestamp and spec_of(old) != spec_of(obj):
            faults.append(Fault(f"items[{i}].metadata.name", "the object is being deleted; wait for its end, then "
                                "apply again", "FieldValueForbidden"))  # fmt: skip
        obj = _remember(obj, raw)
        view.put(obj)
        prepared.append((i, old, obj, stated))
    for i, old, obj, _ in prepared:
        faults.extend(f.under(f"items[{i}]") for f in faults_of(obj, old, view))
    if faults:
        raise errors.invalid_batch(faults)
    return prepared


def _merged(
    objects: Objects, info: KindInfo, old: Object, declared: Object, raw: dict[str, Any], options: Options
) -> Object:
    live = codec.ordered(old)
    text = old.metadata.annotations.get(LAST_APPLIED, "")
    try:
        last: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except msgspec.DecodeError:
        last = {}
    if isinstance(declared, Secret):
        last = {}
    live.pop("status", None)
    new = {k: v for k, v in raw.items() if k != "status"}
    new["metadata"] = {k: v for k, v in dict(raw["metadata"]).items() if k in {"name", "labels", "annotations"}}
    last["metadata"] = {k: v for k, v in dict(last.get("metadata") or {}).items() if k in {"labels", "annotations"}}
    merged, _ = objects.read(info, old.metadata.namespace, three_way(last, new, live), options)
    revision = str(dict(raw["metadata"]).get("resourceVersion") or "")
    return with_meta(carry_over(old, merged), resource_version=revision)


def kind_of(raw: Any) -> KindInfo:
    """Find the kind of raw JSON. Raises `ApiError`."""
    if not isinstance(raw, dict) or not isinstance(raw.get("metadata"), dict):
        raise errors.bad_request("must be an object with apiVersion, kind and metadata")
    version, kind = raw.get("apiVersion"), raw.get("kind")
    info = BY_KIND.get(str(kind))
    if info is None or info.api_version != version:
        wanted = f"; write apiVersion: {info.api_version}" if info is not None else ""
        raise errors.bad_request(f"no kind {kind!r} in {version!r} is served{wanted}")
    return info


_APPLY_ORDER = sorted(
    KINDS,
    key=lambda i: (
        ("Namespace", "Secret", "Network", "DiskPool", "Image", "Release", "Server", "Cluster").index(i.kind)
        if i.kind in {"Namespace", "Secret", "Network", "DiskPool", "Image", "Release", "Server", "Cluster"}
        else 99
    ),
)
"""What others refer to comes first."""


def _fault_of(item: int, cause: dict[str, Any]) -> Fault:
    """A cause of one object's refusal as a fault of the list."""
    return Fault(f"items[{item}].{cause['field']}", cause["message"], cause["reason"])


def _apply_one(tx: Transaction, old: Object | None, obj: Object, secret_stated: bool) -> Written:
    if old is None:
        return Written(keep(tx, new_one(obj), None, create=True), [], action="created")
    if isinstance(obj, Secret) and secret_stated:
        kept = tx.get_secret(user_secret(obj.metadata.namespace, obj.metadata.name))
        same = kept is not None and msgspec.json.decode(kept, type=dict[str, str]) == obj.data
        secret_stated = not same
    new = keep(tx, obj, old, create=False, secret_stated=secret_stated)
    same = new.metadata.resource_version == old.metadata.resource_version
    return Written(new, [], action="unchanged" if same else "configured")


def _remember(obj: Object, raw: dict[str, Any]) -> Object:
    """Write down what was declared, as kubectl does, so that fields taken out later are taken out."""
    if isinstance(obj, Secret):
        return obj
    metadata = {k: v for k, v in dict(raw["metadata"]).items() if k in {"name", "namespace", "labels"}}
    given = {k: v for k, v in dict(raw["metadata"].get("annotations") or {}).items() if k != LAST_APPLIED}
    body = {**{k: v for k, v in raw.items() if k != "status"}, "metadata": {"annotations": given, **metadata}}
    text = msgspec.json.encode(body).decode() + "\n"
    return with_meta(obj, annotations={**obj.metadata.annotations, LAST_APPLIED: text})
