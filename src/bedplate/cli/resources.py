"""Which kinds the API serves and where, from its discovery; remembered between runs as kubectl does.

What users call a kind (`machine`, `machines`, `ma`, `Machine`) is resolved here, so that the command line needs no
copy of the model's table.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from bedplate.cli.client import Client
from bedplate.cli.errors import UserError, did_you_mean

_GROUPS = ("/apis/bedplate.dev/v1alpha1", "/api/v1")


class Resource(NamedTuple):
    """One kind as the API serves it."""

    root: str
    """`/apis/bedplate.dev/v1alpha1` or `/api/v1`."""
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool
    verbs: tuple[str, ...]

    @property
    def api_version(self) -> str:
        return self.root.removeprefix("/apis/").removeprefix("/api/")

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object or its subresource; no namespace: over all."""
        room = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{self.root}{room}/{self.plural}{tail}"

    def names(self) -> tuple[str, ...]:
        """All words that mean this kind, in lower case."""
        return (self.plural, self.singular, self.kind.lower(), *self.short_names)


class Catalogue:
    """The kinds of one controller."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cached = True
        self._resources = _remembered(client) or self._refresh()

    def find(self, word: str) -> Resource:
        """Give the kind that the word means.

        Raises:
            UserError: no such kind; names the nearest.
        """
        low = word.lower().split(".", 1)[0]
        found = self._look(low)
        if found is None and self._cached:
            self._resources = self._refresh()
            found = self._look(low)
        if found is None:
            known = [name for r in self._resources for name in r.names()]
            hint = did_you_mean(low, known) or f"; kinds are {', '.join(sorted(r.plural for r in self._resources))}"
            raise UserError(f'there is no kind "{word}"{hint}')
        return found

    def of(self, obj: dict[str, Any]) -> Resource | None:
        """Give the kind of an object by its `apiVersion` and `kind`, or None."""
        wanted = (obj.get("apiVersion"), obj.get("kind"))
        for _ in range(2):
            for resource in self._resources:
                if (resource.api_version, resource.kind) == wanted:
                    return resource
            if not self._cached:
                break
            self._resources = self._refresh()
        return None

    def all(self) -> list[Resource]:
        """All kinds."""
        return self._resources

    def _look(self, low: str) -> Resource | None:
        return next((r for r in self._resources if low in r.names()), None)

    def _refresh(self) -> list[Resource]:
        self._cached = False
        found: list[Resource] = []
        for root in _GROUPS:
            found.extend(_parse(root, self._client.get(root)))
        _remember(self._client, found)
        return found


def _parse(root: str, listing: dict[str, Any]) -> list[Resource]:
    return [
        Resource(
            root,
            item["kind"],
            item["name"],
            item.get("singularName") or item["kind"].lower(),
            tuple(item.get("shortNames") or ()),
            bool(item.get("namespaced")),
            tuple(item.get("verbs") or ()),
        )
        for item in listing.get("resources") or ()
        if "/" not in item["name"]
    ]


def _cache_file(client: Client) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{base}/bedplate/discovery/{client.host.replace(':', '_')}_{client.port}.json"


def _remembered(client: Client) -> list[Resource]:
    try:
        with open(_cache_file(client), encoding="utf-8") as file:
            rows = json.load(file)
        return [Resource(r, k, p, s, tuple(short), n, tuple(v)) for r, k, p, s, short, n, v in rows]
    except (OSError, ValueError, TypeError):
        return []


def _remember(client: Client, resources: list[Resource]) -> None:
    path = _cache_file(client)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(resources, file)
        os.replace(temporary, path)
    except OSError:
        return  # a read-only home costs a request per run, nothing more
