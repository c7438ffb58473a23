"""A process for measurements: Bedplate's API over TLS on a store that shows some Machines and Servers.

`python -m bench.serving DIR SERVERS` prints the path of a context file once it answers; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from bedplate.api.app import create_app
from bedplate.api.blobs import Blobs
from bedplate.api.hooks import Hooks
from bedplate.api.server import listening, serve_app
from bedplate.cli import context
from bedplate.cli.identity import api_identity
from bedplate.model.kinds.cluster import Machine, MachineSpec, MachineStatus
from bedplate.model.kinds.infrastructure import Server, ServerSpec, ServerStatus
from bedplate.model.meta import Condition, ObjectMeta
from bedplate.store.store import Store

MACHINES = 100


def server(n: int) -> Server:
    """A bare server as the controller would show it."""
    spec = ServerSpec(failure_domain={"rack": f"r{n // 40}"}, accepted=True)
    ready = Condition(type="Ready", status="True", reason="Available", message="its tests passed")
    status = ServerStatus(observed_generation=1, phase="Available", conditions=(ready,), power="off")
    return Server(metadata=ObjectMeta(name=f"metal-{n:04}", labels={"disk": "nvme"}), spec=spec, status=status)


def machine(n: int) -> Machine:
    """A worker as the controller would show it."""
    spec = MachineSpec(
        cluster="shop",
        pool="shop-web",
        server=f"hv{n % 10}",
        address=f"10.20.1.{n}",
        cpu=4,
        memory="16Gi",
        image="node-1.35.3",
        version="1.35.3",
    )
    ready = Condition(type="Ready", status="True", reason="NodeReady", message="its node is Ready")
    status = MachineStatus(observed_generation=1, phase="Ready", conditions=(ready,), node_name=f"web-{n:03}", boots=1)
    return Machine(metadata=ObjectMeta(name=f"shop-web-{n:03}", namespace="default"), spec=spec, status=status)


async def _serve(folder: Path, servers: int) -> None:
    store = Store.open(folder / "data")
    try:
        with store.transaction() as tx:
            for n in range(MACHINES):
                tx.publish(machine(n))
            for n in range(servers):
                made = tx.create(server(n))
                tx.update_status(msgspec.structs.replace(made, status=server(n).status))
        listener = listening("127.0.0.1", 0)
        identity = api_identity(store, ("127.0.0.1",))
        app = create_app(store, token=identity.token, blobs=Blobs(folder / "blobs"), hooks=Hooks())
        port = listener.getsockname()[1]
        file = context.save("bench", f"https://127.0.0.1:{port}", identity.ca, identity.token, folder / "context")
        serving = asyncio.create_task(serve_app(app, listener, identity.certificate))
        print(file, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    finally:
        store.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
