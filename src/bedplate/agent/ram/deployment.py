"""What makes a written disk a certain machine's, or a certain server's as a hypervisor: an image and credentials."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bedplate.agent.credentials import host_credentials, machine_credentials
from bedplate.agent.faults import AgentFault
from bedplate.agent.ram import gpt
from bedplate.agent.ram.devices import Device
from bedplate.model.blueprint import ImageRef
from bedplate.model.ids import Generation, MachineUid
from bedplate.model.metal_protocol import ENROL_CREDENTIAL, MACHINE_CREDENTIAL, NodeIdentity
from bedplate.model.steps import WriteImage


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What is to stand on a disk."""

    uid: MachineUid
    generation: Generation
    image: ImageRef
    credentials: tuple[tuple[str, bytes], ...]
    """Names and contents, but for what is secret or the disk's own."""


def deployment(step: WriteImage) -> Deployment:
    """What the step asks for. Raises `AgentFault` where it asks for nothing."""
    m, host = step.machine, step.entry.host
    if m is not None:
        identity = NodeIdentity(uid=m.uid, generation=m.generation, name=m.name, server=step.entry.server)
        own = [*machine_credentials(m), ("system.hostname", m.name)]
        said = [
            *((name, content.encode()) for name, content in own),
            (MACHINE_CREDENTIAL, msgspec.json.encode(identity)),
        ]
        return Deployment(uid=m.uid, generation=m.generation, image=m.image, credentials=tuple(said))
    if host is not None:
        own = [*host_credentials(step.entry.nic), ("system.hostname", str(step.entry.server))]
        said = [(name, content.encode()) for name, content in own]
        return Deployment(uid=host.uid, generation=Generation(1), image=host.image, credentials=tuple(said))
    raise AgentFault("NothingToWrite", "the step names neither a machine nor a hypervisor", permanent=True)


def credentials_on(disk: Device, what: Deployment, enrol: bytes) -> Sequence[tuple[str, bytes]]:
    """All of its credentials, on that disk once the image is there."""
    with open(disk.path, "rb") as file:
        root = [p for p in gpt.partitions(file.fileno(), disk.size) if p.type == gpt.ROOT_X86_64]
    found = list(what.credentials)
    if len(root) == 1:
        # Another disk of this server may carry a root with the same label.
        found.append(("bedplate.root", str(root[0].id).encode()))
    return [*found, (ENROL_CREDENTIAL, enrol)]
