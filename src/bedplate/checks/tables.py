"""What all entries together take up: addresses, names, servers' memory. Kept from one check to the next, for speed."""

from __future__ import annotations

from collections import Counter, defaultdict

from bedplate.model.blueprint import AnyEntry, Blueprint, ClusterEntry, MachineEntry, MetalEntry
from bedplate.model.ids import ClusterKey, Key, Revision, ServerName
from bedplate.model.whereabouts import servers_of


class Tables:
    """Counts over one blueprint's entries, and over another once `change` was told of every difference."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.number: Revision = blueprint.number
        self.entries: dict[Key, AnyEntry] = {}
        self.taken: Counter[tuple[str, ...]] = Counter()
        """Things of which there may be one: `("address", network, address)`, `("name", namespace, name)` and so on."""
        self.memory_mib: Counter[ServerName] = Counter()
        self.cpus: Counter[ServerName] = Counter()
        self.image_files: Counter[str] = Counter()
        """How many machines were made from each image file."""
        self.planes: dict[ClusterKey, dict[Key, MachineEntry]] = defaultdict(dict)
        for entry in blueprint.entries.values():
            self.change(entry.key, entry)

    def change(self, k: Key, entry: AnyEntry | None) -> None:
        """Set or (None) drop an entry."""
        old = self.entries.pop(k, None)
        if old is not None:
            self._count(old, -1)
        if entry is not None:
            self.entries[k] = entry
            self._count(entry, 1)

    def _count(self, entry: AnyEntry, sign: int) -> None:
        for thing in unique_things(entry):
            self.taken[thing] += sign
        if not isinstance(entry, MachineEntry):
            return
        for digest in entry.image.pooled:
            self.image_files[digest] += sign
        for server in servers_of(entry):
            self.memory_mib[server] += sign * entry.memory_mib
            self.cpus[server] += sign * entry.cpu
        if entry.role == "control-plane":
            if sign > 0:
                self.planes[entry.cluster][entry.key] = entry
            else:
                self.planes[entry.cluster].pop(entry.key, None)


def unique_things(entry: AnyEntry) -> list[tuple[str, ...]]:
    """What no two entries may have alike."""
    match entry:
        case MachineEntry():
            things: list[tuple[str, ...]] = [("name", entry.namespace, entry.name), ("MAC address", entry.nic.mac)]
            if entry.substrate == "metal":
                things.append(("server", entry.server))
            if entry.nic.address:
                things.append(("address", entry.nic.network, entry.nic.address))
            return things
        case MetalEntry():
            held = [("address", entry.nic.network, entry.left.nic.address)] if entry.left is not None else []
            return [("BMC", entry.bmc.address), ("address", entry.nic.network, entry.nic.address), *held]
        case ClusterEntry() if entry.endpoint_type == "vrrp":
            return [
                ("address", entry.network, entry.endpoint),
                ("VRRP id", entry.network, str(entry.vrrp_id)),
            ]
        case _:
            return []
