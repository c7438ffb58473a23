"""Making what was built known to a controller: files as blobs by their digest, then the object that names them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bedplate.cli import declare
from bedplate.cli.client import Client
from bedplate.cli.errors import ApiError


class Built(NamedTuple):
    """An Image or Release object and the files it names, by digest (`sha256:<hex>`)."""

    object: dict[str, Any]
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        return str(self.object["metadata"]["name"])


def register(client: Client, built: Built, progress: Callable[[str], None] = lambda _: None) -> str:
    """Upload the files that the controller lacks and declare the object.

    Gives what was done: `created`, `configured` or `unchanged`. Safe to repeat. Raises `UserError`.
    """
    for digest, path in built.files.items():
        send_file(client, digest, path, progress)
    answer = client.request("POST", f"{declare.ROOT}/apply", {"items": [built.object], "dryRun": False})
    return str(answer["items"][0].get("action", "applied"))


def send_file(client: Client, digest: str, path: Path, progress: Callable[[str], None]) -> None:
    """Upload a file that the controller lacks. Raises `UserError`."""
    if _has(client, digest):
        return
    size = os.path.getsize(path)
    progress(f"uploading {path.name} ({size / 2**20:.0f} MiB)")
    with path.open("rb") as file:
        client.upload(f"/blobs/{digest}", file, size)


def _has(client: Client, digest: str) -> bool:
    try:
        client.raw("HEAD", f"/blobs/{digest}", accept="*/*")
    except ApiError as error:
        if error.code in (404, 405):
            return False
        raise
    return True
