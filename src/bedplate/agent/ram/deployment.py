"""What makes a written disk a certain machine's, or a certain server's as a hypervisor: an image and credentials."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bedplate.agent.credentials import host_credentials, machine_credentials
from bedplate.agent.faults import AgentFault
from bedplate.agent.ram import gpt
from bedplate.agent.ram.devices import Device
from bedplate.model.blueprint import Host, ImageRef, MachineEntry, Nic
from bedplate.model.ids import Generation, MachineUid, ServerName
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
    entry = step.entry
    if step.machine is not None:
        return of_machine(step.machine, entry.server)
    if entry.host is not None:
        return of_host(entry.host, entry.server, entry.nic)
    raise AgentFault("NothingToWrite", "the step names neither a machine nor a hypervisor", permanent=True)


def of_machine(m: MachineEntry, server: ServerName) -> Deployment:
    """A machine of that server's own."""
    identity = NodeIdentity(uid=m.uid, generation=m.generation, name=m.name, server=server)
    said = [*machine_credentials(m), ("system.hostname", m.name)]
    whole = [*_encoded(said), (MACHINE_CREDENTIAL, msgspec.json.encode(identity))]
    return Deployment(uid=m.uid, generation=m.generation, image=m.image, credentials=tuple(whole))


def of_host(host: Host, server: ServerName, nic: Nic) -> Deployment:
    """The server as a hypervisor, with the interface that its RAM system has."""
    said = [*host_credentials(nic), ("system.hostname", str(server))]
    return Deployment(uid=host.uid, generation=Generation(1), image=host.image, credentials=tuple(_encoded(said)))


def _encoded(said: list[tuple[str, str]]) -> list[tuple[str, bytes]]:
    return [(name, content.encode()) for name, content in said]


def credentials_on(disk: Device, what: Deployment, enrol: bytes) -> Sequence[tuple[str, bytes]]:
    """All of its credentials, on that disk once the image is there."""
    with open(disk.path, "rb") as file:
        root = [p for p in gpt.partitions(file.fileno(), disk.size) if p.type == gpt.ROOT_X86_64]
    found = list(what.credentials)
    if len(root) == 1:
        # Another disk of this server may carry a root with the same label.
        found.append(("bedplate.root", str(root[0].id).encode()))
    return [*found, (ENROL_CREDENTIAL, enrol)]
