"""A disk pool in a folder, and machines whose disks lie in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bedplate.agent.volumes import DiskPool
from bedplate.model.agent_protocol import Pool
from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Generation, MachineUid, ServerName, StoreId, key

STORE = StoreId("s1")
HV1, HV2 = ServerName("hv1"), ServerName("hv2")


def machine(image: ImageRef, **changes: Any) -> MachineEntry:
    made = MachineEntry(
        generation=Generation(1),
        uid=MachineUid("11111111-2222-4333-8444-000000000001"),
        name="m1",
        namespace="default",
        owner=key("virtualmachine", "default", "m1"),
        role="vm",
        server=HV1,
        cpu=1,
        memory_mib=128,
        disk_mib=32,
        disk_pool="p",
        image=image,
        nic=Nic(network="lan", bridge="br0", mac="02:bd:00:00:00:01", address="10.0.0.1", prefix=24),
    )
    return msgspec.structs.replace(made, **changes)


def pool(folder: Path, store: StoreId = STORE, server: ServerName = HV1, kind: Any = "shared") -> DiskPool:
    made = DiskPool(Pool(name="p", path=str(folder), type=kind), store, server)
    made.prepare()
    return made
