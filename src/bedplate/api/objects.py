"""What a request does to objects: defaults, validation, then one transaction of the store. Blocking, for threads.

Knows no HTTP: takes raw JSON, gives objects, refuses with `ApiError`.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from bedplate.api import errors
from bedplate.api.namespaces import delete_namespace
from bedplate.model.defaults import FINALIZER, owned_by, with_defaults, with_finalizer
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.core import Namespace, Secret
from bedplate.model.registry import KindInfo
from bedplate.model.validation import change, single, together
from bedplate.model.validation.faults import Fault
from bedplate.model.validation.shape import decode, shape
from bedplate.model.wire import to_wire
from bedplate.store import codec
from bedplate.store.errors import AlreadyExists, NotFound
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

    def write(self, options: Options, work: Callable[[Transaction], R]) -> R:
        """Do the work in one transaction, which a dry run does not keep."""
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
        writable(info, "made")
        obj, warnings = self.read(info, namespace, raw, options)
        meta = obj.metadata
        if not meta.name and meta.generate_name:
            suffix = "".join(random.choices(_SUFFIX, k=5))
            obj = with_meta(obj, name=f"{meta.generate_name[: 63 - len(suffix)]}{suffix}")
        if meta.resource_version:
            raise errors.bad_request("resourceVersion should not be set on objects to be created")

        def work(tx: Transaction) -> Object:
            existing = tx.find(info.kind, obj.metadata.namespace, obj.metadata.name)
            if existing is None:
                faults = faults_of(obj, None, View(tx))
                _refuse_namespace(obj, faults)
                _refuse(info, obj.metadata.name, faults)
            return keep(tx, new_one(obj), None, create=True)

        return Written(self.write(options, work), warnings)

    def replace(self, info: KindInfo, namespace: str, name: str, raw: dict[str, Any], options: Options) -> Written:
        """Replace an object; its status stays, and so do a Secret's values where none are given: none can be read."""
        raw = mapping(raw, "the body")
        silent = info.kind == "Secret" and not {"data", "stringData"} & raw.keys()
        return self.edit(info, namespace, name, lambda now: {**raw, "data": now["data"]} if silent else raw, options)

    def edit(
        self,
        info: KindInfo,
        namespace: str,
        name: str,
        edit: Callable[[dict[str, Any]], dict[str, Any]],
        options: Options,
    ) -> Written:
        """Change an object by a function from its present JSON to the new one."""
        writable(info, "changed")
        warnings: list[str] = []

        def work(tx: Transaction) -> Object:
            old = tx.get(info.kind, namespace, name)
            raw, stated = _edit_secret(tx, old, edit) if isinstance(old, Secret) else (edit(codec.ordered(old)), False)
            obj, told = self.read(info, namespace, raw, options)
            warnings.extend(told)
            if obj.metadata.name != name:
                fault = Fault(
                    "metadata.name", f'is "{obj.metadata.name}", the request is about "{name}"; a name can\'t change'
                )
                raise errors.invalid(info, name, [fault])
            return self._keep_edit(tx, info, old, obj, secret_stated=stated)

        return Written(self.write(options, work), warnings)

    def _keep_edit(self, tx: Transaction, info: KindInfo, old: Object, obj: Object, *, secret_stated: bool) -> Object:
        obj = carry_over(old, obj)
        if getattr(obj, "spec", None) != getattr(old, "spec", None):
            if old.metadata.deletion_timestamp:
                raise errors.forbidden(
                    info, old.metadata.name, "it is being deleted; its spec can't be changed any more"
                )
            _refuse(info, old.metadata.name, faults_of(obj, old, View(tx)))
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
        writable(info, "changed")

        def work(tx: Transaction) -> Object:
            old = tx.get(info.kind, namespace, name)
            raw = mapping(edit(codec.ordered(old)), "the body")
            try:
                new = msgspec.convert({**to_wire(old), "status": raw.get("status") or {}}, info.type)
            except msgspec.ValidationError as error:
                raise errors.invalid(info, name, [Fault("status", str(error), "FieldValueTypeInvalid")]) from None
            revision = str(mapping(raw.get("metadata") or {}, "metadata").get("resourceVersion") or "")
            done = tx.update_status(with_meta(new, resource_version=revision), check=True)
            if done is None:
                raise NotFound(info.kind, namespace, name)
            return done

        return Written(self.write(options, work), [])

    def delete(
        self, info: KindInfo, namespace: str, name: str, options: Options, *, uid: str = "", revision: str = ""
    ) -> Written:
        """Delete an object, or begin to."""

        def work(tx: Transaction) -> tuple[Object, bool]:
            obj = tx.get(info.kind, namespace, name)
            if info.derived and not info.deletable:
                raise errors.not_allowed(info, f"{info.plural} are records that Bedplate keeps; they can't be deleted")
            if isinstance(obj, Namespace):
                return delete_namespace(tx, View(tx), info, obj, uid=uid, revision=revision)
            user = together.in_use(obj, View(tx))
            if user is not None:
                raise errors.ApiError(409, "Conflict", user, details=errors.about(info, name))
            return tx.delete(info.kind, namespace, name, uid=uid, revision=revision)

        done, gone = self.write(options, work)
        return Written(done, [], gone)

    # --- reading what users wrote ---

    def read(self, info: KindInfo, namespace: str, raw: Any, options: Options) -> tuple[Object, list[str]]:
        """Raw JSON to an object with defaults; raises with every fault of its form. Gives warnings too."""
        raw = mapping(raw, "the body")
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
        return with_defaults(with_meta(obj, namespace=namespace or given)), warnings


def mapping(value: Any, what: str) -> dict[str, Any]:
    """The value, which must be a JSON object. Raises `ApiError`."""
    if not isinstance(value, dict):
        raise errors.bad_request(f"{what} must be a mapping of fields")
    return cast(dict[str, Any], value)


def spec_of(obj: Object) -> Any:
    """The spec, or None for a kind without one."""
    return getattr(obj, "spec", None)


def with_meta(obj: Object, **fields: Any) -> Any:
    """The object with some fields of its metadata replaced."""
    return msgspec.structs.replace(obj, metadata=msgspec.structs.replace(obj.metadata, **fields))


def new_one(obj: Object) -> Object:
    """A declared object about to be made: what says which one it is comes from the store, not from the client."""
    return with_meta(obj, uid="", generation=0, resource_version="")


def writable(info: KindInfo, verb: str) -> None:
    """Raises `ApiError` for a kind that users can't write."""
    if info.derived:
        why = f"{info.plural} come from Bedplate's own planning and can't be {verb} by users"
        if info.kind == "Machine":
            why += "; change the cluster or the node pool that they belong to"
        raise errors.not_allowed(info, why)


def _refuse(info: KindInfo, name: str, faults: list[Fault]) -> None:
    if faults:
        raise errors.invalid(info, name, faults)


def _refuse_namespace(obj: Object, faults: list[Fault]) -> None:
    """As Kubernetes refuses what is made in a namespace that is not there, or not for long: clients look for both."""
    fault = next((f for f in faults if f.field == "metadata.namespace"), None)
    if fault is None:
        return
    details = {"name": obj.metadata.namespace, "kind": "namespaces", "causes": errors.causes(faults)}
    if fault.reason == "FieldValueNotFound":
        message = f'namespaces "{obj.metadata.namespace}" not found: {fault.message}'
        raise errors.ApiError(404, "NotFound", message, details=details)
    if fault.reason == "FieldValueForbidden":
        details["causes"] = [{"reason": "NamespaceTerminating", "message": fault.message, "field": fault.field}]
        raise errors.ApiError(403, "Forbidden", fault.message, details=details)


def faults_of(obj: Object, old: Object | None, view: View) -> list[Fault]:
    """All faults of the object; a field that is wrong in itself is not looked up among the others."""
    faults = single.check(obj) + ([] if old is None else change.check(old, obj))
    if old is not None and spec_of(old) == spec_of(obj) and not isinstance(obj, Secret):
        return faults  # what was accepted once stays so: only a changed spec is held against the others
    known = {f.field for f in faults}
    return faults + [f for f in together.check(obj, view) if f.field not in known]


def carry_over(old: Object, obj: Object) -> Object:
    """What a user's edit can't change: status, and the finalizer by which Bedplate cleans up."""
    if hasattr(old, "status"):
        obj = msgspec.structs.replace(obj, status=getattr(old, "status"))  # noqa: B009
    finalizers = obj.metadata.finalizers
    kept = tuple(f for f in old.metadata.finalizers if f in {FINALIZER, CONTENT_FINALIZER} and f not in finalizers)
    owners = obj.metadata.owner_references or old.metadata.owner_references
    return with_meta(obj, finalizers=finalizers + kept, owner_references=owners)


def _edit_secret(
    tx: Transaction, old: Secret, edit: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Edit a Secret whose values stay unseen: a patch meets a mark in place of each, so that it can't show or test one.

    Gives the new JSON and whether its data is another.
    """
    kept = tx.get_secret(user_secret(old.metadata.namespace, old.metadata.name))
    values = msgspec.json.decode(kept, type=dict[str, str]) if kept else {}
    nonce = secrets.token_hex(16)
    marks = {key: f"{nonce}/{key}" for key in values}
    raw = mapping(edit({**codec.ordered(old), "data": dict(marks)}), "the body")
    data = raw.get("data")
    untouched = data == marks and "stringData" not in raw
    if isinstance(data, dict):
        by_mark = {mark: values[key] for key, mark in marks.items()}
        data = {k: by_mark.get(v, v) if isinstance(v, str) else v for k, v in cast(dict[str, Any], data).items()}
        raw = {**raw, "data": data}
    if nonce.encode() in msgspec.json.encode(raw):
        raise errors.bad_request("a Secret's data is never shown: it can't be copied or moved out of data")
    return raw, not untouched


def keep(tx: Transaction, obj: Object, old: Object | None, *, create: bool, secret_stated: bool = True) -> Object:
    """Write a checked object."""
    if isinstance(obj, NodePool):
        cluster = tx.find("Cluster", obj.metadata.namespace, obj.spec.cluster)
        obj = owned_by(obj, cluster) if isinstance(cluster, Cluster) else obj
    if isinstance(obj, Secret):
        if create and tx.find("Secret", obj.metadata.namespace, obj.metadata.name) is not None:
            raise AlreadyExists("Secret", obj.metadata.namespace, obj.metadata.name)
        return tx.put_user_secret(obj, obj.data if secret_stated else None)
    return tx.create(with_finalizer(obj)) if create else tx.update(obj)
