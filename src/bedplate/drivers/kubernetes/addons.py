"""Applies addons' manifests to a cluster and records there what was applied.

Objects of an addon that is no longer declared stay in the cluster: they may hold data, and taking them away is for
their owner. May not: know of any addon in particular.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import yaml

from bedplate.drivers.kubernetes.api import ClusterApi, Json, RefusedError
from bedplate.model.blueprint import BASE_ADDON, AddonRef, ClusterEntry

ROUTES_ROLE = "bedplate:node-routes"
RECORD = "/api/v1/namespaces/kube-system/configmaps/bedplate-addons"
SETTLE_SECONDS = 60.0
"""How long a definition may take to be served, and a webhook of the same addon to answer."""
LOOK_SECONDS = 1.0
_FIRST = {"Namespace": 0, "CustomResourceDefinition": 1}


class AddonError(Exception):
    """An addon can't be applied as it is."""

    def __init__(self, reason: str, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.permanent = permanent


class _Object(NamedTuple):
    addon: str
    body: Json

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    def __str__(self) -> str:
        return f"addon {self.addon}: {self.kind} {self.name}"


class _Resource(NamedTuple):
    plural: str
    namespaced: bool


async def recorded(api: ClusterApi) -> tuple[str, ...]:
    """What was applied, as `name@digest`. Raises as `ClusterApi.request`."""
    found = await api.get(RECORD)
    return tuple(sorted(f"{name}@{value}" for name, value in ((found or {}).get("data") or {}).items()))


async def install(api: ClusterApi, cluster: ClusterEntry, text: Callable[[str], str | None]) -> None:
    """Apply all addons of the entry and record them.

    Args:
        api: The cluster's API.
        cluster: The entry with the addons' names and digests.
        text: Gives an addon's manifest by its name.

    Raises:
        AddonError: an addon is not as planned, or the cluster does not take it.
        UnreachableError, RefusedError: as `ClusterApi.request`.
    """
    texts = [(ref, text(ref.name)) for ref in cluster.addons]
    objects = await asyncio.to_thread(_read, texts)  # definitions come in megabytes
    installer = _Installer(api)
    for o in [*_own(cluster), *objects]:
        await installer.apply(o)
    data = {ref.name: ref.digest for ref in (*cluster.addons, BASE_ADDON)}
    metadata = {"name": "bedplate-addons", "namespace": "kube-system"}
    await api.apply(RECORD, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def own_manifest(cluster: ClusterEntry) -> str:
    """Bedplate's own part as YAML, for whoever makes a cluster without a controller."""
    return yaml.safe_dump_all([o.body for o in _own(cluster)])


def _own(cluster: ClusterEntry) -> list[_Object]:
    """Bedplate's own part: nodes may see each other, for the routes between them.

    Since Kubernetes 1.34 a kubelet's credential alone shows its own Node only (`AuthorizeNodeWithSelectors`).
    """
    if cluster.pod_network != "routes":
        return []
    group = "rbac.authorization.k8s.io"
    head: Json = {"apiVersion": f"{group}/v1", "metadata": {"name": ROUTES_ROLE}}
    rules = [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}]
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": ROUTES_ROLE}
    subjects = [{"apiGroup": group, "kind": "Group", "name": "system:nodes"}]
    return [
        _Object(BASE_ADDON.name, {**head, "kind": "ClusterRole", "rules": rules}),
        _Object(BASE_ADDON.name, {**head, "kind": "ClusterRoleBinding", "roleRef": reference, "subjects": subjects}),
    ]


class _Installer:
    def __init__(self, api: ClusterApi) -> None:
        self._api = api
        self._resources: dict[tuple[str, str], _Resource] = {}

    async def apply(self, o: _Object) -> None:
        """Apply one object; where it is a definition, wait until it is served."""
        path = await self._path(o)
        ends = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                await self._api.apply(path, o.body)
                break
            except RefusedError as error:
                if error.status not in (404, 429, 500) or time.monotonic() >= ends:
                    raise AddonError("AddonRefused", _refusal(o, error)) from None
                # 404: the definition is known, but not served yet; 500: an admission webhook that is still starting.
                await asyncio.sleep(LOOK_SECONDS)
        if o.kind == "CustomResourceDefinition":
            await self._established(o, path)

    async def _established(self, o: _Object, path: str) -> None:
        ends = time.monotonic() + SETTLE_SECONDS
        while True:
            found = await self._api.get(path) or {}
            conditions = {c["type"]: c for c in (found.get("status") or {}).get("conditions") or ()}
            if (conditions.get("Established") or {}).get("status") == "True":
                return
            if time.monotonic() >= ends:
                why = (conditions.get("NamesAccepted") or {}).get("message") or "the API server gives no reason"
                raise AddonError("DefinitionNotEstablished", f"{o} is not established: {why}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _path(self, o: _Object) -> str:
        version = str(o.body["apiVersion"])
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        resource = await self._resource(o, group)
        metadata = o.body["metadata"]
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return f"{group}/{resource.plural}/{o.name}"
        namespace = metadata.setdefault("namespace", "default")
        return f"{group}/namespaces/{namespace}/{resource.plural}/{o.name}"

    async def _resource(self, o: _Object, group: str) -> _Resource:
        """How the cluster serves objects of that kind; asked again for a while where it does not know the kind."""
        ends = time.monotonic() + SETTLE_SECONDS
        while (group, o.kind) not in self._resources:
            found = await self._api.get(group)
            for r in (found or {}).get("resources") or ():
                if "/" not in r["name"]:
                    self._resources[group, r["kind"]] = _Resource(r["name"], r["namespaced"])
            if (group, o.kind) in self._resources:
                break
            if time.monotonic() >= ends:
                message = (
                    f"{o}: the cluster knows no {o.kind} in {o.body['apiVersion']}; add its definition to an addon"
                )
                raise AddonError("UnknownKind", message)
            await asyncio.sleep(LOOK_SECONDS)
        return self._resources[group, o.kind]


def _refusal(o: _Object, error: RefusedError) -> str:
    # What is wrong with a Secret may quote what is in it.
    return f"{o}: {error.reason}" if o.kind == "Secret" else f"{o}: {error}"


# --- reading manifests ----------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes takes it: dates are text, and `=` is no tag of its own."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] not in {"timestamp", "value"}]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _read(texts: list[tuple[AddonRef, str | None]]) -> list[_Object]:
    """All objects, in the order in which they are applied: within a rank, as written."""
    objects = [o for ref, text in texts for o in _objects(ref, text)]
    return sorted(objects, key=lambda o: _FIRST.get(o.kind, 2))


def _objects(ref: AddonRef, text: str | None) -> list[_Object]:
    if ref.name == BASE_ADDON.name:
        raise AddonError(
            "AddonName", f"an addon can't be named {BASE_ADDON.name}; give it another name", permanent=True
        )
    if text is None or "sha256:" + hashlib.sha256(text.encode()).hexdigest() != ref.digest:
        raise AddonError("AddonChanged", f"addon {ref.name} was changed since it was planned; planning follows")
    try:
        documents = list(yaml.load_all(text, _Loader))
        msgspec.json.encode(documents)  # what JSON has no form for, or an alias of itself, ends here
    except (TypeError, ValueError, RecursionError):
        message = f"addon {ref.name} holds what has no form in JSON; correct it"
        raise AddonError("AddonInvalid", message, permanent=True) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise AddonError("AddonInvalid", f"addon {ref.name} is no YAML{where}; correct it", permanent=True) from None
    return [o for number, document in enumerate(documents, 1) for o in _flat(ref.name, number, document)]


def _flat(addon: str, number: int, document: Any) -> list[_Object]:
    if document is None:
        return []
    valid = isinstance(document, dict) and document.get("apiVersion") and document.get("kind")
    if valid and str(document["kind"]).endswith("List") and isinstance(document.get("items"), list):
        return [o for item in document["items"] for o in _flat(addon, number, item)]
    if not valid or not isinstance(document.get("metadata"), dict) or not document["metadata"].get("name"):
        message = f"addon {addon}, document {number}: apiVersion, kind and metadata.name are needed; add them"
        raise AddonError("AddonInvalid", message, permanent=True)
    return [_Object(addon, document)]
