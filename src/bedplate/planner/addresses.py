"""Addresses, VRRP ids and MAC addresses out of a Network's ranges: always the lowest free one.

The lowest free one is a function of what is used alone, so it does not matter how the index of it came about.
"""

from __future__ import annotations

import heapq
from collections import Counter
from ipaddress import ip_address, ip_network

from bedplate.model.blueprint import ClusterEntry, MachineEntry, MetalEntry, Nic
from bedplate.model.ids import MachineUid
from bedplate.model.kinds.infrastructure import AddressRange, Network


class NumberPool:
    """Numbers of sorted ranges that are not in `used`; finds the lowest in constant time, amortised."""

    def __init__(self, ranges: list[tuple[int, int]], used: Counter[int]) -> None:
        self._ranges = _merged(ranges)
        self._used = used
        self._at = 0
        self._cursor = self._ranges[0][0] if self._ranges else 0
        self._freed: list[int] = []

    def lowest(self) -> int | None:
        """The lowest free number; None where all are used. Does not take it."""
        while self._freed and self._used[self._freed[0]]:
            heapq.heappop(self._freed)
        self._advance()
        if self._freed:
            return self._freed[0]
        return self._cursor if self._at < len(self._ranges) else None

    def _advance(self) -> None:
        while self._at < len(self._ranges):
            _, last = self._ranges[self._at]
            if self._cursor <= last and not self._used[self._cursor]:
                return
            self._cursor += 1
            if self._cursor > last:
                self._at += 1
                if self._at < len(self._ranges):
                    self._cursor = self._ranges[self._at][0]

    def freed(self, number: int) -> None:
        """Tell that the number is no longer used."""
        passed = self._at >= len(self._ranges) or number < self._cursor
        if passed and any(first <= number <= last for first, last in self._ranges):
            heapq.heappush(self._freed, number)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for first, last in sorted(r for r in ranges if r[0] <= r[1]):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def _numbers(ranges: tuple[AddressRange, ...]) -> list[tuple[int, int]]:
    return [(int(ip_address(r.first)), int(ip_address(r.last))) for r in ranges]


class NetworkState:
    """One network with what of it is taken. `spec` None: a network that was deleted under its users."""

    def __init__(self, name: str, network: Network | None) -> None:
        self.name = name
        self.spec = network.spec if network is not None else None
        self._used: Counter[int] = Counter()
        self._vrrp_used: Counter[int] = Counter()
        self.prefix = 0
        machines: list[tuple[int, int]] = []
        vips: list[tuple[int, int]] = []
        ids: list[tuple[int, int]] = []
        if self.spec is not None:
            net = ip_network(self.spec.cidr, strict=False)
            self.prefix = net.prefixlen
            reserved = {int(net.network_address), int(net.broadcast_address)}
            reserved |= {int(ip_address(a)) for a in (self.spec.gateway, *self.spec.name_servers) if a}
            for number in reserved:
                self._used[number] += 1
            machines, vips = _numbers(self.spec.ranges), _numbers(self.spec.vip_ranges)
            ids = [(int(self.spec.vrrp_ids.first), int(self.spec.vrrp_ids.last))]
        self._v6 = bool(self.spec and ":" in self.spec.cidr)
        self._machines = NumberPool(machines, self._used)
        self._vips = NumberPool(vips, self._used)
        self._vrrp = NumberPool(ids, self._vrrp_used)

    def _text(self, number: int | None) -> str:
        if number is None:
            return ""
        return str(ip_address(number)) if not self._v6 else str(ip_address(number.to_bytes(16, "big")))

    def free_address(self) -> str:
        """The lowest free machine address; empty where there is none."""
        return self._text(self._machines.lowest())

    def free_vip(self) -> str:
        """The lowest free control-plane address; empty where there is none."""
        return self._text(self._vips.lowest())

    def free_vrrp_id(self) -> int:
        """The lowest free VRRP router id; 0 where there is none."""
        return self._vrrp.lowest() or 0

    def is_free(self, address: str) -> bool:
        """True where nobody has this address."""
        return not self._used[int(ip_address(address))]

    def take(self, address: str, count: int = 1) -> None:
        """Count an address as used (`count` 1) or as no longer used (-1)."""
        self._count(self._used, (self._machines, self._vips), int(ip_address(address)), count)

    def take_cluster(self, c: ClusterEntry, count: int = 1) -> None:
        """Count a cluster's endpoint and VRRP id."""
        if c.endpoint_type == "vrrp" and c.endpoint:
            self.take(c.endpoint, count)
        if c.vrrp_id:
            self._count(self._vrrp_used, (self._vrrp,), c.vrrp_id, count)

    @staticmethod
    def _count(used: Counter[int], pools: tuple[NumberPool, ...], number: int, count: int) -> None:
        used[number] += count
        if used[number] <= 0:
            del used[number]
            for pool in pools:
                pool.freed(number)


def nic(network: NetworkState, uid: MachineUid, mac: str, address: str) -> Nic:
    """Give a machine's interface on the network."""
    assert network.spec is not None, uid
    return Nic(
        network=network.name,
        bridge=network.spec.bridge,
        mac=mac,
        address=address,
        prefix=network.prefix,
        gateway=network.spec.gateway,
        name_servers=network.spec.name_servers,
        mtu=network.spec.mtu,
    )


def count_machine(network: NetworkState, m: MachineEntry | MetalEntry, count: int) -> None:
    """Count a machine's or a RAM system's address as used or as no longer used."""
    network.take(m.nic.address, count)
    if isinstance(m, MetalEntry) and m.left is not None:
        network.take(m.left.nic.address, count)
