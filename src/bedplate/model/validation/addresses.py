"""Networks, addresses and ranges: read, compared, found wanting. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from bedplate.model.kinds.infrastructure import AddressRange
from bedplate.model.validation.faults import Fault

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Range = tuple[Address, Address]


def read_network(text: str) -> Network | str:
    """Give the network, or a sentence on what is wrong."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        return f'"{text}" has bits beyond its prefix; write {ip_network(text, strict=False)}'
    except ValueError:
        return f'"{text}" is not a network; write it like 10.20.0.0/24'


def read_address(text: str) -> Address | str:
    """Give the address, or a sentence on what is wrong."""
    try:
        return ip_address(text)
    except ValueError:
        return f'"{text}" is not an address; write it like 10.20.0.1'


def read_range(r: AddressRange, path: str) -> Range | Fault:
    """Give first and last address, or the fault."""
    first, last = read_address(r.first), read_address(r.last)
    if isinstance(first, str):
        return Fault(f"{path}.first", first)
    if isinstance(last, str):
        return Fault(f"{path}.last", last)
    if first.version != last.version:
        return Fault(f"{path}.last", f"{last} is of another IP version than {first}")
    if first > last:  # type: ignore[operator]
        return Fault(f"{path}.last", f"{last} is before {first}; swap the two")
    return first, last


def overlap(a: Range, b: Range) -> bool:
    """True where two ranges share an address."""
    return a[0].version == b[0].version and a[0] <= b[1] and b[0] <= a[1]  # type: ignore[operator]


def inside(r: Range, address: Address) -> bool:
    """True where the range holds the address."""
    return overlap(r, (address, address))


def overlapping(pairs: Iterable[tuple[str, Network]]) -> list[tuple[str, Network, str, Network]]:
    """Give each pair of named networks that share addresses."""
    found: list[tuple[str, Network, str, Network]] = []
    seen: list[tuple[str, Network]] = []
    for name, network in pairs:
        for other_name, other in seen:
            if other.version == network.version and other.overlaps(network):  # type: ignore[arg-type]
                found.append((name, network, other_name, other))
        seen.append((name, network))
    return found
