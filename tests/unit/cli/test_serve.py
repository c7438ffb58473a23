"""A whole controller with an agent's connection: what follows when servers, disk pools and images are changed."""

from __future__ import annotations

import asyncio
import hashlib
import io
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from enrolling import OLD_BOARD, connecting, until

from bedplate.agent.enrol import enrol
from bedplate.agent.state import AgentState
from bedplate.api.server import listening
from bedplate.cli import context
from bedplate.cli.client import Client
from bedplate.cli.errors import ApiError
from bedplate.cli.serve import Process
from bedplate.model.agent_protocol import EnrolFile
from bedplate.store.store import Store

API = "/apis/bedplate.dev/v1alpha1"


class Controller:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        return await asyncio.to_thread(self._client.request, method, f"{API}/{path}", body)

    async def make(self, plural: str, kind: str, name: str, spec: dict[str, Any]) -> Any:
        body = {"apiVersion": "bedplate.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return await self.ask("POST", plural, body)

    async def change(self, plural: str, name: str, **spec: Any) -> None:
        found = await self.ask("GET", f"{plural}/{name}")
        await self.ask("PUT", f"{plural}/{name}", {**found, "spec": {**found["spec"], **spec}})

    async def upload(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        await asyncio.to_thread(self._client.upload, f"/blobs/{digest}", io.BytesIO(content), len(content))
        return digest

    async def has(self, digest: str) -> bool:
        try:
            await asyncio.to_thread(lambda: self._client.raw("HEAD", f"/blobs/{digest}", accept="*/*"))
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    async def lost(self, digest: str) -> None:
        async with asyncio.timeout(120):
            while await self.has(digest):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Controller]:
    store = Store.open(tmp_path / "data")
    listener = listening("127.0.0.1", 0)
    file = tmp_path / "context"
    process = Process(store, tmp_path / "data", listener, ("127.0.0.1", 0), False, "")
    task = asyncio.create_task(process.run(file))
    await until(lambda: file.exists() or task.done())
    client = Client(context.load(file), timeout=120)
    try:
        yield Controller(client)
    finally:
        client.close()
        if not task.done():
            signal.raise_signal(signal.SIGTERM)
        assert await task == 0
        store.close()


async def test_an_agent_follows_its_server_and_the_disk_pools(controller: Controller, tmp_path: Path) -> None:
    await controller.make("servers", "Server", "hv1", {"role": "hypervisor", "failureDomain": {"rack": "r1"}})
    await controller.make("diskpools", "DiskPool", "here", {"path": "/a", "serverSelector": {"rack": "r1"}})
    await controller.make("diskpools", "DiskPool", "there", {"path": "/b", "serverSelector": {"rack": "r2"}})
    state = AgentState(tmp_path / "state")
    file = msgspec.convert(await controller.ask("POST", "servers/hv1/enrol", {}), EnrolFile)
    identity = await asyncio.to_thread(enrol, state, file, OLD_BOARD)
    async with connecting(state, identity) as observer:

        def served() -> list[str]:
            return sorted(p.name for p in observer.pools[-1]) if observer.pools else []

        await until(lambda: observer.connected)
        assert served() == ["here"]
        await controller.change("diskpools", "there", serverSelector={"rack": "r1"})
        await until(lambda: served() == ["here", "there"])
        await controller.change("servers", "hv1", failureDomain={"rack": "r9"})
        await until(lambda: served() == [])
        await controller.ask("DELETE", "servers/hv1")
        await until(lambda: not observer.connected)


async def test_files_go_with_the_last_image_that_names_them(controller: Controller) -> None:
    shared, own = [await controller.upload(content) for content in (b"shared", b"own")]
    for name, kernel in (("one", own), ("two", shared)):
        spec = {"disk": {"digest": shared, "size": 6}, "kernel": {"digest": kernel, "size": 3}, "virtualSize": 1 << 20}
        await controller.make("images", "Image", name, {**spec, "initrd": spec["kernel"], "bootstrap": "cloud-init"})
    await controller.ask("DELETE", "images/one")
    await controller.lost(own)
    assert await controller.has(shared)
    await controller.ask("DELETE", "images/two")
    await controller.lost(shared)


async def test_a_measuring_kit_goes_with_the_last_measurement_that_names_it(controller: Controller) -> None:
    kit = await controller.upload(b"tools")
    for name in ("one", "two"):
        await controller.make("namespaces/default/measurements", "Measurement", name,
                              {"targets": ["server/hv1"], "kit": kit})  # fmt: skip
    await controller.ask("DELETE", "namespaces/default/measurements/one")
    assert await controller.has(kit)
    await controller.ask("DELETE", "namespaces/default/measurements/two")
    await controller.lost(kit)
