"""What a request does to objects: defaults, validation, then one transaction of the store. Blocking, for threads.

Knows no HTTP: takes raw JSON, gives objects, refuses with `ApiError`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from bedplate.api import errors
from bedplate.api.patch import three_way
from bedplate.model.defaults import (
    DEFAULT_NAMESPACE,
    FINALIZER,
    LAST_APPLIED,
    owned_by,
    with_defaults,
    with_finalizer,
)
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.core import Namespace, NamespaceStatus, Secret
from bedplate.model.meta import ObjectMeta
from bedplate.model.registry import BY_KIND, KINDS, KindInfo
from bedplate.model.validation import change, single, together
from bedplate.model.validation.faults import Fault
from bedplate.model.validation.shape import decode, shape
from bedplate.model.wire import to_wire
from bedplate.store import codec
from bedplate.store.errors import NotFound
from bedplate.store.store import Store
from bedplate.store.transaction import CONTENT_FINALIZER, Transaction, user_secret

R = TypeVar("R")

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"  # as Kubernetes: no vowels, so that no words come out


class Options(NamedTuple):
    """What a writing request asks for beside the object."""

    dry_run: bool = False
    validation: str = "Strict"
    """What unknown fields do: `Strict` refuses, `Warn` tells, `Ignore` says nothing."""


class Written(NamedTuple):
    """What a write did."""

    object: Object
    warnings: list[str]
    gone: bool = False
    action: str = ""
    """`created`, `configured` or `unchanged`; for lists of objects."""


class _DryRun(Exception):
    """Ends a transaction without keeping it."""


class View:
    """`together.World` on a transaction, with objects not yet written laid over it."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._over: dict[tuple[str, str, str], Object] = {}
        self._all: dict[str, dict[tuple[str, str], Object]] = {}

    def put(self, obj: Object) -> None:
        kind, meta = codec.kind_of(obj), obj.metadata
        self._over[(kind, meta.namespace, meta.name)] = obj
        if kind in self._all:
            self._all[kind][(meta.namespace, meta.name)] = obj

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        if kind in self._all:
            return self._all[kind].get((namespace, name))
        return self._over.get((kind, namespace, name)) or self._tx.find(kind, namespace, name)

    def all(self, kind: str) -> Iterable[Object]:
        if kind not in self._all:
            found = {(o.metadata.namespace, o.metadata.name): o for o in self._tx.all(kind)}
            found |= {(ns, n): o for (k, ns, n), o in self._over.items() if k == kind}
            self._all[kind] = found
        return self._all[kind].values()


class Objects:
    """The verbs. Every method raises `ApiError` or the store's errors."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def _write(self, options: Options, work: Callable[[Transaction], R]) -> R:
        result: list[R] = []
        try:
            with self.store.transaction() as tx:
                result.append(work(tx))
                if options.dry_run:
                    raise _DryRun
        except _DryRun:
            pass
        return result[0]

    # --- one object ---

    def create(self, info: KindInfo, namespace: str, raw: dict[str, Any], options: Options) -> Written:
        """Make a new object."""
        _writable(info, "made")
        obj, warnings = self.read(info, namespace, raw, options)
        meta = obj.metadata
        if not meta.name and meta.generate_name:
            suffix = "".join(random.choices(_SUFFIX, k=5))
            obj = _with_meta(obj, name=f"{meta.generate_name[: 63 - len(suffix)]}{suffix}")
        if meta.resource_version:
            raise errors.bad_request("resourceVersion should not be set on objects to be created")

        def work(tx: Transaction) -> Object:
            existing = tx.find(info.kind, obj.metadata.namespace, obj.metadata.name)
            if existing is None:
                _refuse(info, obj.metadata.name, _faults(obj, None, View(tx)))
            return keep(tx, obj, None, create=True)

        return Written(self._write(options, work), warnings)

    def replace(self, info: KindInfo, namespace: str, name: str, raw: dict[str, Any], options: Options) -> Written:
        """Replace an object; its status stays."""
        return self.edit(info, namespace, name, lambda _: raw, options)

    def edit(
        self,
        info: KindInfo,
        namespace: str,
        name: str,
        edit: Callable[[dict[str, Any]], dict[str, Any]],
        options: Options,
    ) -> Written:
        """Change an object by a function from its present JSON to the new one."""
        _writable(info, "changed")
        warnings: list[str] = []

        def work(tx: Transaction) -> Object:
            old = tx.get(info.kind, namespace, name)
            raw = edit(_with_data(tx, old))
            obj, told = self.read(info, namespace, raw, options)
            warnings.extend(told)
            if obj.metadata.name != name:
                fault = Fault(
                    "metadata.name", f'is "{obj.metadata.name}", the request is about "{name}"; a name can\'t change'
                )
                raise errors.invalid(info, name, [fault])
            stated = isinstance(raw.get("data"), dict) or isinstance(raw.get("stringData"), dict)
            return self._keep_edit(tx, info, old, obj, secret_stated=stated)

        return Written(self._write(options, work), warnings)

    def _keep_edit(self, tx: Transaction, info: KindInfo, old: Object, obj: Object, *, secret_stated: bool) -> Object:
        obj = _carry_over(old, obj)
        if getattr(obj, "spec", None) != getattr(old, "spec", None):
            if old.metadata.deletion_timestamp:
                raise errors.forbidden(
                    info, old.metadata.name, "it is being deleted; its spec can't be changed any more"
                )
            _refuse(info, old.metadata.name, _faults(obj, old, View(tx)))
        else:
            _refuse(info, old.metadata.name, single.check(obj))
        return keep(tx, obj, old, create=False, secret_stated=secret_stated)

    def set_status(
        self,
        info: KindInfo,
        namespace: str,
        name: str,
        edit: Callable[[dict[str, Any]], dict[str, Any]],
        options: Options,
    ) -> Written:
        """Change the status only; `edit` makes the new JSON from the present one."""
        _writable(info, "changed")

        def work(tx: Transaction) -> Object:
            old = tx.get(info.kind, namespace, name)
            raw = edit(codec.ordered(old))
            try:
                new = msgspec.convert({**to_wire(old), "status": raw.get("status") or {}}, info.type)
            except msgspec.ValidationError as error:
                raise errors.invalid(info, name, [Fault("status", str(error), "FieldValueTypeInvalid")]) from None
            revision = str((raw.get("metadata") or {}).get("resourceVersion") or "")
            done = tx.update_status(_with_meta(new, resource_version=revision), check=True)
            if done is None:
                raise NotFound(info.kind, namespace, name)
            return done

        return Written(self._write(options, work), [])

    def delete(
        self, info: KindInfo, namespace: str, name: str, options: Options, *, uid: str = "", revision: str = ""
    ) -> Written:
        """Delete an object, or begin to."""

        def work(tx: Transaction) -> tuple[Object, bool]:
            obj = tx.get(info.kind, namespace, name)
            if info.derived and not info.deletable:
                raise errors.not_allowed(info, f"{info.plural} are records that Bedplate keeps; they can't be deleted")
            if isinstance(obj, Namespace):
                return _delete_namespace(tx, info, obj)
            user = together.in_use(obj, View(tx))
            if user is not None:
                raise errors.ApiError(409, "Conflict", user, details=errors.about(info, name))
            return tx.delete(info.kind, namespace, name, uid=uid, revision=revision)

        done, gone = self._write(options, work)
        return Written(done, [], gone)

    # --- many objects, all or nothing ---

    def apply(self, items: list[Any], options: Options) -> list[Written]:
        """Declare objects, checked against each other and all others; they are kept together or not at all."""
        faults: list[Fault] = []
        read: list[tuple[int, KindInfo, Object, dict[str, Any]]] = []
        seen: dict[tuple[str, str, str], int] = {}
        for i, raw in enumerate(items):
            found = self._read_item(i, raw, options, faults)
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
            prepared = self._prepare(tx, read, options, faults)
            return {i: _apply_one(tx, old, obj, stated) for i, old, obj, stated in prepared}

        done = self._write(options, work)
        return [done[i] for i in range(len(items))]

    def _read_item(self, i: int, raw: Any, options: Options, faults: list[Fault]) -> tuple[KindInfo, Object] | None:
        try:
            info = kind_of(raw)
            _writable(info, "declared")
            obj, _ = self.read(info, "", raw, options)
            return info, obj
        except errors.ApiError as error:
            listed = error.details.get("causes")
            if listed:
                faults.extend(_fault_of(i, c) for c in listed)
            else:
                faults.append(Fault(f"items[{i}].kind", error.message))
            return None

    def _prepare(
        self,
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
                obj = declared if old is None else self._merged(info, old, declared, raw, options)
            except errors.ApiError as error:
                listed = error.details.get("causes") or [
                    {"field": "", "message": error.message, "reason": "FieldValueInvalid"}
                ]
                faults.extend(_fault_of(i, c) for c in listed)
                continue
            if old is not None and old.metadata.deletion_timestamp and _spec(old) != _spec(obj):
                faults.append(Fault(f"items[{i}].metadata.name", "the object is being deleted; wait for its end, then "
                                    "apply again", "FieldValueForbidden"))  # fmt: skip
            obj = _remember(obj, raw)
            view.put(obj)
            prepared.append((i, old, obj, stated))
        for i, old, obj, _ in prepared:
            faults.extend(f.under(f"items[{i}]") for f in _faults(obj, old, view))
        if faults:
            raise errors.invalid_batch(faults)
        return prepared

    def _merged(self, info: KindInfo, old: Object, declared: Object, raw: dict[str, Any], options: Options) -> Object:
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
        merged, _ = self.read(info, old.metadata.namespace, three_way(last, new, live), options)
        revision = str(dict(raw["metadata"]).get("resourceVersion") or "")
        return _with_meta(_carry_over(old, merged), resource_version=revision)

    # --- reading what users wrote ---

    def read(self, info: KindInfo, namespace: str, raw: Any, options: Options) -> tuple[Object, list[str]]:
        """Raw JSON to an object with defaults; raises with every fault of its form. Gives warnings too."""
        if not isinstance(raw, dict):
            raise errors.bad_request("the body must be an object")
        for field, wanted in (("apiVersion", info.api_version), ("kind", info.kind)):
            given = raw.get(field, wanted)
            if given != wanted:
                raise errors.bad_request(f"{field} is {given!r}, this place is for {wanted!r}")
        shaped = shape(info.type, raw)
        metadata = raw.get("metadata")
        name = str(metadata.get("name") or "") if isinstance(metadata, dict) else ""
        faults = shaped.faults + (shaped.unknown if options.validation == "Strict" else [])
        if faults:
            raise errors.invalid(info, name, faults)
        warnings = [f.sentence() for f in shaped.unknown] if options.validation == "Warn" else []
        obj = decode(info.type, shaped.value)
        given = obj.metadata.namespace
        if namespace and given and given != namespace:
            raise errors.bad_request(f"the object's namespace {given!r} is not the request's, {namespace!r}")
        return with_defaults(_with_meta(obj, namespace=namespace or given)), warnings


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


def _spec(obj: Object) -> Any:
    return getattr(obj, "spec", None)


def _with_meta(obj: Object, **fields: Any) -> Any:
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, **fields))


def _writable(info: KindInfo, verb: str) -> None:
    if info.derived:
        why = f"{info.plural} come from Bedplate's own planning and can't be {verb} by users"
        if info.kind == "Machine":
            why += "; change the cluster or the node pool that they belong to"
        raise errors.not_allowed(info, why)


def _refuse(info: KindInfo, name: str, faults: list[Fault]) -> None:
    if faults:
        raise errors.invalid(info, name, faults)


def _faults(obj: Object, old: Object | None, view: View) -> list[Fault]:
    """All faults of the object; a field that is wrong in itself is not looked up among the others."""
    faults = single.check(obj) + ([] if old is None else change.check(old, obj))
    if old is not None and _spec(old) == _spec(obj) and not isinstance(obj, Secret):
        return faults  # what was accepted once stays so: only a changed spec is held against the others
    known = {f.field for f in faults}
    return faults + [f for f in together.check(obj, view) if f.field not in known]


def _carry_over(old: Object, obj: Object) -> Object:
    """What a user's edit can't change: status, and the finalizer by which Bedplate cleans up."""
    if hasattr(old, "status"):
        obj = msgspec.structs.replace(obj, status=getattr(old, "status"))  # noqa: B009
    finalizers = obj.metadata.finalizers
    kept = tuple(f for f in old.metadata.finalizers if f in {FINALIZER, CONTENT_FINALIZER} and f not in finalizers)
    owners = obj.metadata.owner_references or old.metadata.owner_references
    return _with_meta(obj, finalizers=finalizers + kept, owner_references=owners)


def _with_data(tx: Transaction, obj: Object) -> dict[str, Any]:
    """The object's JSON for an edit; a Secret's with its data, which never leaves this module."""
    raw = codec.ordered(obj)
    if isinstance(obj, Secret):
        kept = tx.get_secret(user_secret(obj.metadata.namespace, obj.metadata.name))
        raw["data"] = msgspec.json.decode(kept, type=dict[str, str]) if kept else {}
    return raw


def keep(tx: Transaction, obj: Object, old: Object | None, *, create: bool, secret_stated: bool = True) -> Object:
    """Write a checked object."""
    if isinstance(obj, NodePool):
        cluster = tx.find("Cluster", obj.metadata.namespace, obj.spec.cluster)
        obj = owned_by(obj, cluster) if isinstance(cluster, Cluster) else obj
    if isinstance(obj, Secret):
        if create:
            tx.create(msgspec.structs.replace(obj, data={}, string_data={}))
        return tx.put_user_secret(obj, obj.data if secret_stated else None)
    return tx.create(with_finalizer(obj)) if create else tx.update(obj)


def _apply_one(tx: Transaction, old: Object | None, obj: Object, secret_stated: bool) -> Written:
    if old is None:
        return Written(keep(tx, obj, None, create=True), [], action="created")
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
    return _with_meta(obj, annotations={**obj.metadata.annotations, LAST_APPLIED: text})


def _delete_namespace(tx: Transaction, info: KindInfo, room: Namespace) -> tuple[Object, bool]:
    name = room.metadata.name
    if name == DEFAULT_NAMESPACE:
        raise errors.forbidden(info, name, "this namespace always is there; delete what is in it instead")
    view = View(tx)
    for kind in ("Secret",):  # used from outside of the namespace: by servers' BMCs
        for obj in tx.all(kind, name):
            user = together.in_use(obj, view)
            if user is not None and "server" in user:
                raise errors.ApiError(409, "Conflict", user, details=errors.about(info, name))
    finalizers = tuple({*room.metadata.finalizers, CONTENT_FINALIZER})
    ending = msgspec.structs.replace(room, status=NamespaceStatus(phase="Terminating"))
    tx.update(_with_meta(ending, finalizers=finalizers))
    tx.delete("Namespace", "", name)
    for other in KINDS:
        if other.namespaced and not other.derived and other.kind != "Event":
            for obj in list(tx.all(other.kind, name)):
                if not obj.metadata.deletion_timestamp and tx.find(other.kind, name, obj.metadata.name):
                    tx.delete(other.kind, name, obj.metadata.name)
    tx.release_namespace(name)
    found = tx.find("Namespace", "", name)
    return (room, True) if found is None else (found, False)


def ensure_default_namespace(store: Store) -> None:
    """Make the namespace `default` where it is not there yet."""
    with store.transaction() as tx:
        if tx.find("Namespace", "", DEFAULT_NAMESPACE) is None:
            tx.create(Namespace(metadata=ObjectMeta(name=DEFAULT_NAMESPACE)))
