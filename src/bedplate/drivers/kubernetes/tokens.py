"""Bootstrap tokens at a cluster's API: made for one machine's join, deleted once that machine is a node."""

from __future__ import annotations

import base64
import binascii
import datetime
import secrets as random_source
import string
from collections.abc import Set

from bedplate.drivers.kubernetes.api import ClusterApi, Json, RefusedError
from bedplate.model.ids import MachineUid

SECRETS = "/api/v1/namespaces/kube-system/secrets"
TYPE = "bootstrap.kubernetes.io/token"
_ALPHABET = string.ascii_lowercase + string.digits
_DESCRIPTION = "bedplate "
"""Followed by the machine's uid; the first machine's token, which kubeadm makes, is described the same way."""


async def make(api: ClusterApi, machine: MachineUid, minutes: int) -> str:
    """Make a token for that machine's join. Raises as `ClusterApi.request`."""
    letters = "".join(random_source.choice(_ALPHABET) for _ in range(22))
    token_id, token_secret = letters[:6], letters[6:]
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    body: Json = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": TYPE,
        "metadata": {"name": f"bootstrap-token-{token_id}", "namespace": "kube-system"},
        "stringData": {
            "description": f"{_DESCRIPTION}{machine}",
            "token-id": token_id,
            "token-secret": token_secret,
            "expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    }
    await api.request("POST", SECRETS, body=body)
    return f"{token_id}.{token_secret}"


async def drop(api: ClusterApi, joined: Set[MachineUid]) -> None:
    """Delete the tokens of machines that are nodes. Raises as `ClusterApi.request`."""
    listed = await api.request("GET", SECRETS, params={"fieldSelector": f"type={TYPE}"})
    for secret in listed.get("items") or ():
        if _machine(secret) in joined:
            try:
                await api.request("DELETE", f"{SECRETS}/{secret['metadata']['name']}")
            except RefusedError as error:
                if error.status != 404:
                    raise


def _machine(secret: Json) -> MachineUid | None:
    try:
        text = base64.b64decode((secret.get("data") or {}).get("description") or "", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return MachineUid(text.removeprefix(_DESCRIPTION)) if text.startswith(_DESCRIPTION) else None
