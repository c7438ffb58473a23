"""What a command that talks to the API starts from: client, kinds and namespace, made out of its arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bedplate.cli import context as contexts
from bedplate.cli.client import Client
from bedplate.cli.errors import UserError
from bedplate.cli.resources import Catalogue, Resource


class Session:
    """A client with its context; kinds are discovered when first needed."""

    def __init__(self, args: argparse.Namespace) -> None:
        path = Path(args.kubeconfig) if getattr(args, "kubeconfig", None) else None
        self.config_path = path or contexts.default_path()
        self.context = contexts.load(path, getattr(args, "context", ""))
        self.client = Client(self.context)
        self.namespace = getattr(args, "namespace", "") or self.context.namespace
        self.all_namespaces = bool(getattr(args, "all_namespaces", False))
        self._catalogue: Catalogue | None = None

    @property
    def catalogue(self) -> Catalogue:
        """The kinds that the controller serves."""
        if self._catalogue is None:
            self._catalogue = Catalogue(self.client)
        return self._catalogue

    def kind(self, word: str) -> Resource:
        """The kind that the word means. Raises `UserError`."""
        return self.catalogue.find(word)

    def path(self, resource: Resource, name: str = "", subresource: str = "") -> str:
        """Path of the collection (over all namespaces with -A) or of an object in this session's namespace."""
        namespace = "" if self.all_namespaces and not name else self.namespace
        return resource.path(namespace, name, subresource)

    def read(self, resource: Resource, name: str) -> dict[str, Any]:
        """The object of that name. Raises `ApiError`."""
        return self.client.get(self.path(resource, name))

    def target(self, words: list[str], usage: str, default_kind: str = "") -> tuple[Resource, str]:
        """The one object that `KIND/NAME` or `KIND NAME` (or `NAME` of the default kind) means.

        Raises:
            UserError: not one object.
        """
        text = "/".join(words)
        kind, _, name = text.rpartition("/")
        if not name or not (kind or default_kind) or "/" in kind:
            raise UserError(f"name one object: {usage}")
        return self.kind(kind or default_kind), name
