"""An object among all others: references to nothing, names and addresses taken twice, networks that overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from bedplate.model.kinds.base import MachineShape, Object
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.core import Namespace, Secret
from bedplate.model.kinds.infrastructure import DiskPool, Image, Network, Release, Server
from bedplate.model.kinds.virtual_machine import VirtualMachine
from bedplate.model.registry import BY_KIND
from bedplate.model.validation.addresses import inside, overlapping, read_address, read_network, read_range
from bedplate.model.validation.faults import Fault, listing, nearest

T = TypeVar("T", bound=Object)


class World(Protocol):
    """All objects as they would be: the store's with the new ones laid over them."""

    def find(self, kind: str, namespace: str, name: str) -> Object | None: ...

    def all(self, kind: str) -> Iterable[Object]: ...


def check(obj: Object, world: World) -> list[Fault]:
    """Give all faults that the object has among the others."""
    faults = list(_namespace(obj, world))
    match obj:
        case Cluster():
            faults += _cluster(obj, world)
        case NodePool():
            faults += _node_pool(obj, world)
        case VirtualMachine():
            faults += _virtual_machine(obj, world)
        case Network():
            faults += _network(obj, world)
        case Server():
            faults += _server(obj, world)
        case _:
            pass
    return faults


def _every(world: World, type_: type[T]) -> list[T]:
    return [o for o in world.all(type_.__name__) if isinstance(o, type_) and not o.metadata.deletion_timestamp]


def _namespace(obj: Object, world: World) -> Iterator[Fault]:
    if not BY_KIND[type(obj).__name__].namespaced:
        return
    name = obj.metadata.namespace
    found = world.find("Namespace", "", name)
    if found is None:
        known = [n.metadata.name for n in _every(world, Namespace)]
        message = f'there is no namespace "{name}"{nearest(name, known)}; declare it first, or in the same file'
        yield Fault("metadata.namespace", message, "FieldValueNotFound")
    elif found.metadata.deletion_timestamp and not obj.metadata.uid:
        yield Fault("metadata.namespace", f'namespace "{name}" is being deleted; nothing new can be made in it',
                    "FieldValueForbidden")  # fmt: skip


def _reference(path: str, kind: str, name: str, namespace: str, world: World) -> Iterator[Fault]:
    found = world.find(kind, namespace, name) if name else None
    if not name:
        return
    word = _WORDS.get(kind, kind.lower())
    if found is None:
        known = [o.metadata.name for o in world.all(kind) if o.metadata.namespace == namespace]
        hint = nearest(name, known) or (f"; there are {listing(known)}" if known else f"; there is no {word} yet")
        yield Fault(path, f'there is no {word} "{name}"{hint}', "FieldValueNotFound")
    elif found.metadata.deletion_timestamp:
        yield Fault(path, f'{word} "{name}" is being deleted; name another one', "FieldValueNotFound")


_WORDS = {"DiskPool": "disk pool", "NodePool": "node pool", "VirtualMachine": "virtual machine"}


def _one_network(path: str, name: str, world: World) -> Iterator[Fault]:
    networks = [n.metadata.name for n in _every(world, Network)]
    if not name and len(networks) > 1:
        yield Fault(path, f"is missing, and there are several networks; name one of {listing(networks)}",
                    "FieldValueRequired")  # fmt: skip
    yield from _reference(path, "Network", name, "", world)


def network_of(name: str, world: World) -> Network | None:
    """The network that a name means; empty: the only one."""
    if name:
        found = world.find("Network", "", name)
        return found if isinstance(found, Network) else None
    networks = _every(world, Network)
    return networks[0] if len(networks) == 1 else None


def _shape(path: str, m: MachineShape, world: World) -> Iterator[Fault]:
    yield from _reference(f"{path}.image", "Image", m.image, "", world)
    yield from _reference(f"{path}.diskPool", "DiskPool", m.disk_pool, "", world)


def has_version(wanted: str, version: str) -> bool:
    """True where `1.35` or `1.35.3` means the release `1.35.3`."""
    return version == wanted or version.startswith(f"{wanted}.")


def _version(c: Cluster, world: World) -> Iterator[Fault]:
    wanted = c.spec.kubernetes
    if c.status.version and has_version(wanted, c.status.version):
        return  # resolved once; a release that went since changes nothing
    known = {r.spec.version for r in _every(world, Release)}
    known |= {i.spec.kubernetes_version for i in _every(world, Image) if i.spec.kubernetes_version}
    if wanted and not any(has_version(wanted, v) for v in known):
        rest = f"releases are {listing(known)}" if known else "there is no release yet"
        yield Fault("spec.kubernetes", f'no release has version "{wanted}"; {rest}. `bedplate release build {wanted}` '
                    "makes one", "FieldValueNotFound")  # fmt: skip


def _cluster(c: Cluster, world: World) -> Iterator[Fault]:
    yield from _version(c, world)
    yield from _one_network("spec.network", c.spec.network, world)
    yield from _shape("spec.controlPlane.machine", c.spec.control_plane.machine, world)
    network = network_of(c.spec.network, world)
    if network is None:
        return
    named = (("spec.podCIDR", c.spec.pod_cidr), ("spec.serviceCIDR", c.spec.service_cidr))
    machines = read_network(network.spec.cidr)
    if not isinstance(machines, str):
        for path, text in named:
            found = read_network(text)
            if not isinstance(found, str) and overlapping([("", machines), (path, found)]):
                yield Fault(path, f"{found} overlaps the machines' network {network.metadata.name} ({machines}); "
                            "choose another one")  # fmt: skip
    yield from _endpoint(c, network, world)


def _endpoint(c: Cluster, network: Network, world: World) -> Iterator[Fault]:
    address = read_address(c.spec.endpoint.address)
    if c.spec.endpoint.type != "vrrp" or isinstance(address, str):
        return
    cidr = read_network(network.spec.cidr)
    if not isinstance(cidr, str) and address not in cidr:
        yield Fault("spec.endpoint.address", f"{address} is not in network {network.metadata.name} ({cidr})")
    for i, r in enumerate(network.spec.ranges):
        found = read_range(r, "")
        if not isinstance(found, Fault) and inside(found, address):
            yield Fault("spec.endpoint.address", f"{address} is in ranges[{i}] of network {network.metadata.name}, "
                        "which is for machines; take one of its vipRanges")  # fmt: skip
    for other in _every(world, Cluster):
        same = (other.metadata.namespace, other.metadata.name) == (c.metadata.namespace, c.metadata.name)
        if not same and str(address) in {other.spec.endpoint.address, other.status.endpoint.rpartition(":")[0]}:
            yield Fault("spec.endpoint.address", f"{address} is cluster {_label(other)}'s; choose another one",
                        "FieldValueDuplicate")  # fmt: skip


def _label(obj: Object) -> str:
    m = obj.metadata
    return f"{m.namespace}/{m.name}" if m.namespace else m.name


def _node_pool(p: NodePool, world: World) -> Iterator[Fault]:
    yield from _reference("spec.cluster", "Cluster", p.spec.cluster, p.metadata.namespace, world)
    yield from _shape("spec.machine", p.spec.machine, world)


def _virtual_machine(v: VirtualMachine, world: World) -> Iterator[Fault]:
    yield from _reference("spec.image", "Image", v.spec.image, "", world)
    yield from _reference("spec.diskPool", "DiskPool", v.spec.disk_pool, "", world)
    yield from _one_network("spec.network", v.spec.network, world)
    yield from _reference("spec.userData", Secret.__name__, v.spec.user_data, v.metadata.namespace, world)
    network, address = network_of(v.spec.network, world), read_address(v.spec.address)
    if network is None or isinstance(address, str):
        return
    cidr = read_network(network.spec.cidr)
    if not isinstance(cidr, str) and address not in cidr:
        yield Fault("spec.address", f"{address} is not in network {network.metadata.name} ({cidr})")
    for other in _every(world, VirtualMachine):
        same = (other.metadata.namespace, other.metadata.name) == (v.metadata.namespace, v.metadata.name)
        if not same and str(address) in {other.spec.address, other.status.address}:
            yield Fault("spec.address", f"{address} is virtual machine {_label(other)}'s; choose another one",
                        "FieldValueDuplicate")  # fmt: skip


def _network(n: Network, world: World) -> Iterator[Fault]:
    mine = read_network(n.spec.cidr)
    if isinstance(mine, str):
        return
    for other in _every(world, Network):
        theirs = read_network(other.spec.cidr)
        if other.metadata.name == n.metadata.name or isinstance(theirs, str):
            continue
        if overlapping([("", theirs), ("", mine)]):
            yield Fault("spec.cidr", f"{mine} overlaps network {other.metadata.name} ({theirs}); networks may not "
                        "share addresses")  # fmt: skip


def _server(s: Server, world: World) -> Iterator[Fault]:
    if s.spec.bmc is not None:
        credentials = s.spec.bmc.credentials
        yield from _reference("spec.bmc.credentials.secret", "Secret", credentials.secret, credentials.namespace, world)
    if s.spec.metal.network:
        yield from _reference("spec.metal.network", "Network", s.spec.metal.network, "", world)


def in_use(obj: Object, world: World) -> str | None:
    """Say by whom the object is needed, or None where it may go."""
    name = obj.metadata.name
    users: list[str] = []
    match obj:
        case Network():
            users = [f"cluster {_label(c)}" for c in _every(world, Cluster) if _uses(c.spec.network, name, world)]
            users += [f"virtual machine {_label(v)}" for v in _every(world, VirtualMachine)
                      if _uses(v.spec.network, name, world)]  # fmt: skip
        case Image():
            users = [*_shapes(world, "image", name), *_machines(world, "image", name)]
        case DiskPool():
            users = [*_shapes(world, "disk_pool", name), *_retained(world, name)]
        case Server(status=status) if status.phase == "Dead":
            users = []  # its user gives it up, with what is left on it
        case Server():
            users = [*_machines(world, "server", name)]
        case Release():
            users = [f"cluster {_label(c)}" for c in _every(world, Cluster) if c.status.version == obj.spec.version]
        case Secret():
            users = [*_secret_users(obj, world)]
        case _:
            return None
    if not users:
        return None
    word = _WORDS.get(type(obj).__name__, type(obj).__name__.lower())
    them = "these" if users[1:] else "that"
    return f"{word} {_label(obj)} is used by {listing(users, 5)}; delete or change {them} first"


def _uses(network: str, name: str, world: World) -> bool:
    return network == name or (not network and len(_every(world, Network)) == 1)


def _shapes(world: World, field: str, name: str) -> Iterator[str]:
    for c in _every(world, Cluster):
        if getattr(c.spec.control_plane.machine, field) == name:
            yield f"cluster {_label(c)}"
    for p in _every(world, NodePool):
        if getattr(p.spec.machine, field) == name:
            yield f"node pool {_label(p)}"
    for v in _every(world, VirtualMachine):
        if getattr(v.spec, field) == name:
            yield f"virtual machine {_label(v)}"


def _machines(world: World, field: str, name: str) -> Iterator[str]:
    for m in world.all("Machine"):
        if getattr(m.spec, field) == name:  # type: ignore[attr-defined]
            yield f"machine {_label(m)}"
    if field == "server":
        for v in _every(world, VirtualMachine):
            if v.status.server == name:
                yield f"virtual machine {_label(v)}"


def _retained(world: World, pool: str) -> Iterator[str]:
    for r in world.all("RetainedDisk"):
        if r.spec.disk_pool == pool:  # type: ignore[attr-defined]
            yield f"retained disk {_label(r)}"


def _secret_users(s: Secret, world: World) -> Iterator[str]:
    for v in _every(world, VirtualMachine):
        if v.spec.user_data == s.metadata.name and v.metadata.namespace == s.metadata.namespace:
            yield f"virtual machine {_label(v)}"
    for server in _every(world, Server):
        bmc = server.spec.bmc
        if bmc and (bmc.credentials.secret, bmc.credentials.namespace) == (s.metadata.name, s.metadata.namespace):
            yield f"server {_label(server)}"
