"""Servers that die under a cluster: what Kubernetes' users see of it. Long, since guests are emulated here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_cluster import CLUSTER, delete, ready
from tests.e2e.test_failover import bring_back

pytestmark = [pytest.mark.lab, pytest.mark.long]

LOCAL = CLUSTER.replace("REPLICAS", "2").replace("disk: 12Gi}\n", "disk: 12Gi, diskPool: local}\n")
PATIENCE_SECONDS = 2400


def test_a_worker_whose_local_disk_died_with_its_server_is_replaced(world: Any, tmp_path: Path) -> None:
    """Its node leaves at once and another comes under a new name; its disk is kept once the server is back."""
    world.bedplate("apply", "-f", "-", "--wait", "--timeout", str(PATIENCE_SECONDS), stdin=LOCAL, timeout=2500)
    kubeconfig = tmp_path / "kubeconfig"
    world.bedplate("kubeconfig", "shop", "-o", str(kubeconfig))
    plane = next(m for m in world.objects("machines") if m["spec"]["role"] == "control-plane")
    victim = next(m for m in workers(world) if m["spec"]["server"] != plane["spec"]["server"])
    name, server = victim["metadata"]["name"], victim["spec"]["server"]
    world.bedplate("lab", "fault", "power-off", server)
    world.until("its node has left the cluster", lambda: name not in nodes(world, kubeconfig), 300)
    world.until(
        "another is Ready in its place",
        lambda: sum(ready(m) for m in workers(world) if m["metadata"]["name"] != name) == 2,
        PATIENCE_SECONDS,
    )
    assert server not in {m["spec"]["server"] for m in workers(world) if m["metadata"]["name"] != name}
    bring_back(world, server)
    kept = world.until("its disk is kept", lambda: world.objects("retaineddisks"), 120)
    assert [d["spec"]["machine"] for d in kept] == [name]
    world.until("nothing else is left of it", lambda: name not in {m["metadata"]["name"] for m in workers(world)}, 60)
    assert name not in world.virsh(server, "list", "--all", "--name")
    delete(world)


def workers(world: Any) -> list[dict[str, Any]]:
    return [m for m in world.objects("machines") if m["spec"]["role"] == "worker"]


def nodes(world: Any, kubeconfig: Path) -> set[str]:
    """Names of the cluster's nodes; of an API that does not answer just now, what can't be mistaken for an answer."""
    try:
        shown = world.kubectl(kubeconfig, "get", "nodes", "-o", "json", "--request-timeout=20s")
    except (AssertionError, subprocess.TimeoutExpired):
        return {m["metadata"]["name"] for m in workers(world)}
    return {n["metadata"]["name"] for n in json.loads(shown)["items"]}
