"""A driver that follows a real control plane, and whoever else is there: the kubelet, the controllers, people."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kubernetes_world as world

from bedplate.drivers.kubernetes.driver import KubernetesDriver
from bedplate.model.blueprint import AddonRef, MachineEntry
from bedplate.model.ids import Digest

NEEDS_RELEASE = [
    pytest.mark.lab,
    pytest.mark.skipif(world.binaries() is None, reason="no Kubernetes release is built; `bedplate release build`"),
]

CP1 = world.machine(1, "control-plane")
PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.ControlPlane]:
    yield from world.control_plane(tmp_path_factory.mktemp("control-plane"))


class Driven:
    """A driver that follows the cluster, with its surroundings."""

    def __init__(self, plane: world.ControlPlane) -> None:
        self.news = world.News()
        self.dialer = world.LoopbackDialer(dict(plane.ports))
        self.texts: dict[str, str] = {}
        self.machines: list[MachineEntry] = [CP1]
        self.driver = KubernetesDriver(
            dialer=self.dialer,
            secrets=plane.secrets,
            sink=self.news,
            addon_text=lambda _, name: self.texts.get(name),
            machines=lambda _: self.machines,
        )
        self.driver.follow({world.CLUSTER: world.access(CP1)})

    def addon(self, name: str, text: str) -> AddonRef:
        """Declare an addon."""
        self.texts[name] = text
        return AddonRef(name, Digest("sha256:" + sha256(text.encode()).hexdigest()))


@pytest.fixture
async def driven(plane: world.ControlPlane) -> AsyncIterator[Driven]:
    found = Driven(plane)
    await found.news.until(lambda: found.news.cluster().api)
    yield found
    await found.driver.stop()


# --- playing the kubelet and the controllers ------------------------------------------------------------------------


def ok(response: Any) -> dict[str, Any]:
    assert response.is_success, response.text
    return response.json()


def add_node(plane: world.ControlPlane, m: MachineEntry, provider: str | None = None) -> dict[str, Any]:
    provider = f"bedplate://{m.uid}" if provider is None else provider
    node = {"metadata": {"name": m.name}, "spec": {"providerID": provider}}
    made = ok(plane.admin.post("/api/v1/nodes", json=node))
    status = {
        "addresses": [{"type": "InternalIP", "address": m.nic.address}, {"type": "Hostname", "address": m.name}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": made["status"]["nodeInfo"] | {"kubeletVersion": "v1.35.3"},
    }
    return patch(plane, f"/api/v1/nodes/{m.name}/status", {"status": status})


def patch(plane: world.ControlPlane, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return ok(plane.admin.patch(path, json=body, headers={"Content-Type": "application/merge-patch+json"}))


def add_pod(
    plane: world.ControlPlane, name: str, node: str, tolerations: tuple[dict[str, Any], ...] = (), **metadata: Any
) -> None:
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 5}
    pod = {
        "metadata": {"name": name, "labels": {"app": name}} | metadata,
        "spec": spec | {"tolerations": list(tolerations)},
    }
    ok(plane.admin.post(PODS, json=pod))
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    patch(plane, f"{PODS}/{name}/status", {"status": ready})


def add_budget(plane: world.ControlPlane, app: str) -> None:
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}}
    ok(plane.admin.post(BUDGETS, json={"metadata": {"name": app}, "spec": spec}))
    allow(plane, app, 0)


def allow(plane: world.ControlPlane, app: str, disruptions: int) -> None:
    status = {"disruptionsAllowed": disruptions, "currentHealthy": 1 + disruptions, "desiredHealthy": 1}
    generation = ok(plane.admin.get(f"{BUDGETS}/{app}"))["metadata"]["generation"]
    full = status | {"expectedPods": 1, "observedGeneration": generation}
    patch(plane, f"{BUDGETS}/{app}/status", {"status": full})


def pods_of(plane: world.ControlPlane, node: str) -> dict[str, bool]:
    """Names of a node's pods; True where it is being deleted."""
    listed = ok(plane.admin.get(PODS, params={"fieldSelector": f"spec.nodeName={node}"}))
    return {p["metadata"]["name"]: "deletionTimestamp" in p["metadata"] for p in listed["items"]}


def kubelet(plane: world.ControlPlane, node: str) -> None:
    """End the pods that are to end."""
    for name, going in pods_of(plane, node).items():
        if going:
            plane.admin.delete(f"{PODS}/{name}", params={"gracePeriodSeconds": "0"})


async def until(found: Any, seconds: float = 20.0) -> None:
    """Ask the API until it is so (the API has no other way to tell a test)."""
    async with asyncio.timeout(seconds):
        while not found():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
