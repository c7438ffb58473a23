"""The administrator's kubeconfig of a cluster."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from bedplate.drivers.kubeadm.config import endpoint
from bedplate.model.blueprint import ClusterEntry
from bedplate.pki import Identity

HOURS = 365 * 24.0
USER = "bedplate-admin"
GROUP = "kubeadm:cluster-admins"
"""kubeadm binds it to cluster-admin; unlike `system:masters` it can be taken away again."""


def admin_kubeconfig(cluster: ClusterEntry, identity: Identity, proxy_url: str = "") -> str:
    """A kubeconfig as YAML. `proxy_url`: how the cluster's address is reached from where users are, if not directly."""
    name = cluster.cluster.replace("/", "-")
    server: dict[str, Any] = {
        "server": f"https://{endpoint(cluster)}",
        "certificate-authority-data": _base64(identity.ca),
    }
    if proxy_url:
        server["proxy-url"] = proxy_url
    user = {
        "client-certificate-data": _base64(identity.certificate),
        "client-key-data": _base64(identity.key),
    }
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": server}],
            "users": [{"name": f"{name}-admin", "user": user}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": f"{name}-admin"}}],
            "current-context": name,
        },
        sort_keys=False,
    )


def _base64(pem: bytes) -> str:
    return base64.b64encode(pem).decode()
