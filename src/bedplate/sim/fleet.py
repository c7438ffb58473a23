"""Small fleets and the objects that a user would declare for them: for tests, benchmarks and examples."""

from __future__ import annotations

import msgspec

from bedplate.model.ids import Digest
from bedplate.model.kinds.base import MachineShape, Object
from bedplate.model.kinds.cluster import Cluster, ClusterSpec, ControlPlane, NodePool, NodePoolSpec
from bedplate.model.kinds.infrastructure import (
    AddressRange,
    Bmc,
    BmcCredentials,
    DiskPool,
    DiskPoolSpec,
    Image,
    ImageFile,
    ImageSpec,
    Network,
    NetworkSpec,
    Release,
    ReleaseSpec,
    Server,
    ServerSpec,
)
from bedplate.model.kinds.virtual_machine import RunStrategy, VirtualMachine, VirtualMachineSpec
from bedplate.model.meta import ObjectMeta
from bedplate.sim.things import SimPool
from bedplate.sim.world import World

VERSION = "1.35.3"


def world(
    servers: int = 3, *, memory_mib: int = 65_536, cpus: int = 16, shared: bool = False, local: bool | None = None
) -> World:
    """A world of equal hypervisors hv1, hv2, ... with a disk pool each (`local`), one for all (`shared`), or both.

    Without `local` given there is one of them.
    """
    made = World()
    pool = SimPool("shared", shared=True)
    for n in range(1, servers + 1):
        pools = {"shared": pool} if shared else {}
        if local or (local is None and not shared):
            pools["local"] = SimPool("local")
        made.add_server(f"hv{n}", memory_mib=memory_mib, cpus=cpus, pools=pools)
    return made


def infrastructure(
    of: World,
    *,
    racks: int = 0,
    feeds: int = 0,
    bmcs: bool = False,
    addresses: int = 200,
    vips: int = 10,
    images: tuple[str, ...] = (VERSION,),
) -> list[Object]:
    """Servers, a network, disk pools, images and releases that fit the world.

    `racks`, `feeds`: servers are spread over so many racks and power feeds; `bmcs`: their BMCs are declared.
    """
    found: list[Object] = []
    for n, name in enumerate(sorted(of.servers)):
        domain = {"rack": f"r{n % racks + 1}"} if racks else {}
        domain |= {"power": f"f{n % feeds + 1}"} if feeds else {}
        spec = ServerSpec(role="hypervisor", failure_domain=domain, bmc=bmc(name) if bmcs else None)
        found.append(Server(metadata=ObjectMeta(name=name), spec=spec))
    found.append(network(addresses=addresses, vips=vips))
    for name, shared in sorted({(p.name, p.shared) for s in of.servers.values() for p in s.pools.values()}):
        spec = DiskPoolSpec(type="shared" if shared else "local", path=f"/var/lib/bedplate/{name}")
        found.append(DiskPool(metadata=ObjectMeta(name=name), spec=spec))
    for version in images:
        found.append(image(f"node-{version}", version))
        found.append(Release(metadata=ObjectMeta(name=version), spec=ReleaseSpec(version=version)))
    return found


def bmc(name: str) -> Bmc:
    """A server's BMC as it is declared."""
    return Bmc(address=f"redfish+https://bmc-{name}/redfish/v1/Systems/1", credentials=BmcCredentials(secret="bmcs"))


def bare(name: str, *, accepted: bool = True, rack: str = "") -> Server:
    """A bare server as it is declared."""
    domain = {"rack": rack} if rack else {}
    return Server(
        metadata=ObjectMeta(name=name), spec=ServerSpec(bmc=bmc(name), accepted=accepted, failure_domain=domain)
    )


def network(name: str = "lan", *, addresses: int = 200, vips: int = 10) -> Network:
    """A network of a /16 with so many addresses for machines and control planes."""
    last = 256 + addresses - 1
    return Network(
        metadata=ObjectMeta(name=name),
        spec=NetworkSpec(
            cidr="10.20.0.0/16",
            gateway="10.20.0.1",
            ranges=(AddressRange(first="10.20.1.0", last=f"10.20.{last // 256}.{last % 256}"),),
            vip_ranges=(AddressRange(first="10.20.0.10", last=f"10.20.0.{10 + vips - 1}"),),
        ),
    )


def image(name: str, version: str = "", *, content: str = "") -> Image:
    """An image whose digest follows from its name (or `content`)."""
    digest = Digest(f"sha256:{_hex(content or name)}")
    spec = ImageSpec(disk=ImageFile(digest=digest, size=1 << 30), virtual_size=2 << 30, kubernetes_version=version)
    return Image(metadata=ObjectMeta(name=name), spec=spec)


def hypervisor_image(name: str = "hypervisor-1") -> Image:
    """An image that makes a bare server a hypervisor."""
    made = image(name)
    metal = ImageFile(digest=f"sha256:{_hex(f'{name} metal')}", size=1 << 20)
    spec = msgspec.structs.replace(made.spec, metal=metal, metal_data=metal, system="hypervisor")
    return msgspec.structs.replace(made, spec=spec)


def _hex(text: str) -> str:
    return text.encode().hex().ljust(64, "0")[:64]


def cluster(
    name: str = "shop",
    *,
    replicas: int = 1,
    version: str = VERSION,
    shape: MachineShape | None = None,
    spread: str = "",
) -> Cluster:
    """A cluster with a control plane of so many machines."""
    plane = ControlPlane(replicas=replicas, machine=shape or MachineShape(cpu=2, memory="2Gi"), spread=spread)
    spec = ClusterSpec(kubernetes=version, control_plane=plane, network="lan")
    return Cluster(metadata=ObjectMeta(name=name, namespace="default"), spec=spec)


def pool(
    name: str = "shop-web", *, of: str = "shop", replicas: int = 2, shape: MachineShape | None = None, spread: str = ""
) -> NodePool:
    """A pool of workers."""
    spec = NodePoolSpec(
        cluster=of, replicas=replicas, machine=shape or MachineShape(cpu=2, memory="4Gi"), spread=spread
    )
    return NodePool(metadata=ObjectMeta(name=name, namespace="default"), spec=spec)


def machine(
    name: str = "db", *, memory: str = "1Gi", image: str = "", strategy: RunStrategy = "Always"
) -> VirtualMachine:
    """A user's own virtual machine."""
    spec = VirtualMachineSpec(
        cpu=1, memory=memory, image=image or f"node-{VERSION}", network="lan", run_strategy=strategy
    )
    return VirtualMachine(metadata=ObjectMeta(name=name, namespace="default"), spec=spec)
