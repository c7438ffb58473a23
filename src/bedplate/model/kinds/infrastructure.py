"""Cluster-scoped kinds: the servers, networks, disk pools, images and releases that clusters are built from."""

from __future__ import annotations

from typing import Literal

from bedplate.model.cpus import CpuModel
from bedplate.model.kinds.base import BedplateObject, Status
from bedplate.model.wire import Wire

ServerRole = Literal["free", "hypervisor", "node", "auto"]
FirmwareVerdict = Literal["supported", "unsupported", "unknown"]


class BmcCredentials(Wire, frozen=True):
    """Where the BMC's user name and password are kept."""

    secret: str
    namespace: str = "default"


class Bmc(Wire, frozen=True):
    """A server's management controller, spoken to in Redfish."""

    address: str
    """`redfish+https://HOST[:PORT]/redfish/v1/Systems/ID`; without a path: the only system that it has."""
    credentials: BmcCredentials
    verify_ca: str = ""
    """PEM of the certificate's CA, or the certificate itself; `insecure` takes any; empty: what the system trusts."""


class Reservation(Wire, frozen=True):
    """What the hypervisor keeps for itself."""

    cpu: float = 0.0
    memory: str = "512Mi"
    """360 MiB per hypervisor (openshift-docs, virt resource requirements) and the agent, rounded up."""


class Maintenance(Wire, frozen=True):
    """A server that is to be empty: its machines move away, nothing new comes, until this is taken out again."""

    reason: str = ""
    until: str | None = None
    """RFC 3339; from then on it counts as over."""


class RootDisk(Wire, frozen=True):
    """Which disk a bare server is deployed to: all that is given must fit. Of several the smallest with room is taken,
    one without moving parts before others."""

    serial: str = ""
    wwn: str = ""
    model: str = ""
    """A part of it is enough."""
    transport: str = ""
    """`nvme`, `sata`, `sas` ..."""
    min_size: str = ""


class Metal(Wire, frozen=True):
    """How a bare server is dealt with once it is accepted."""

    network: str = ""
    """Name of the Network that it boots the RAM system in; empty where there is one only."""
    boot_mac: str = ""
    """MAC address of the interface on that network; empty: the first by which the controller answers."""
    boot: Literal["media", "network"] = "media"
    """How it boots the RAM system: from virtual media of its BMC, or from its network card (PXE, or UEFI HTTP boot) for
    BMCs without virtual media or the licence for it. `network` needs `bootMac` and a controller on that network."""
    root_disk: RootDisk = RootDisk()
    image: str = ""
    """Name of the Image that makes it a hypervisor where its role says so; empty: the newest one for that."""
    erase: bool = True
    """Erase all its disks when a machine has left it, or when it is no hypervisor any more. False: what is on them
    stays until it is overwritten."""
    retired: bool = False
    """True: it is erased, switched off, and taken by nothing any more."""
    rescue: bool = False
    """True: it runs the RAM system for a person to look into it, whatever it was; nothing writes to its disks. A node
    on it is drained first, a hypervisor emptied. False again: it goes back to what it was."""


class ServerSpec(Wire, frozen=True):
    role: ServerRole = "free"
    """`hypervisor`: it runs virtual machines; a bare server that was accepted as `free` is deployed as one, and given
    back where that is edited again. `free` and `node`: pools on metal may claim it. `auto`: either, as what waits for
    room needs it and `FleetPolicy.spec.roles` allows."""
    bmc: Bmc | None = None
    accepted: bool = False
    """True: a person has released it. Only then is it booted by Bedplate, and its disks may be overwritten."""
    metal: Metal = Metal()
    failure_domain: dict[str, str] = {}
    """A label path, such as `{room: a, rack: r1, power: a1}`."""
    unschedulable: bool = False
    """True: nothing new is placed here; what runs stays."""
    maintenance: Maintenance | None = None
    reservation: Reservation = Reservation()
    cpu_overcommit: float = 4.0
    """Virtual CPUs per logical CPU; memory is never over-committed. Hypervisor suites default to 10
    (KubeVirt) and 16 (Nova); 4 keeps a node's kubelet responsive."""


class PoolStatus(Wire, frozen=True):
    """A disk pool as one server sees it."""

    name: str
    capacity: str = ""
    free: str = ""


class DiskStatus(Wire, frozen=True):
    """A bare server's disk, as it was inspected."""

    serial: str
    size: str = ""
    transport: str = ""
    model: str = ""
    rotational: bool = False
    health: str = ""


class ErasureStatus(Wire, frozen=True):
    """One disk's certificate of erasure."""

    serial: str
    method: str = ""
    erased: bool = False
    checked: str = ""
    """How much of it was read back as blank."""
    time: str = ""


class FirmwareStatus(Wire, frozen=True):
    """The software of a bare server's component, as it was inspected, against the compatibility matrices."""

    component: str
    """`bios`, `nic eno1`, `disk nvme0n1`."""
    version: str = ""
    model: str = ""
    """A disk's model, a BIOS' vendor, a network card's driver."""
    verdict: FirmwareVerdict = "unknown"
    """`unknown`: no matrix speaks of it."""
    wanted: str = ""
    """Which versions are supported."""
    matrix: str = ""
    """Name of the CompatibilityMatrix that says so."""
    note: str = ""
    url: str = ""


class BmcStatus(Wire, frozen=True):
    """The server as its BMC describes it, whether or not anything runs there."""

    vendor: str = ""
    product: str = ""
    serial: str = ""
    bios: str = ""
    cpu: str = ""
    sockets: int = 0
    threads: int = 0
    memory: str = ""
    macs: tuple[str, ...] = ()
    """Of its network cards."""


class MetalStatus(Wire, frozen=True):
    """A bare server's life."""

    state: str = ""
    since: str = ""
    role: str = ""
    """What the fleet's policy has it be, `free` or `hypervisor`, where `spec.role` is `auto`."""
    before: str = ""
    """The state that it had before it was in rescue, and goes back to."""
    shell: bool = False
    """In rescue: its RAM system has reported, and a shell can be opened there."""
    machine: str = ""
    """Name of the machine that it is claimed by."""
    image: str = ""
    """Name of the image that makes it a hypervisor."""
    root_disk: str = ""
    task: str = ""
    progress: str = ""
    vendor: str = ""
    product: str = ""
    serial: str = ""
    cpus: int = 0
    memory: str = ""
    disks: tuple[DiskStatus, ...] = ()
    macs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    """`cpu passed 1200 events/s`, one for each test."""
    erasures: tuple[ErasureStatus, ...] = ()
    """Of its last erasure."""
    firmware: tuple[FirmwareStatus, ...] = ()
    """Of each component that tells its version."""
    drift: tuple[str, ...] = ()
    """How what was deployed differs from its image, and its firmware from what was inspected, one sentence each."""


class ServerStatus(Status, frozen=True):
    host_uuid: str = ""
    address: str = ""
    agent_version: str = ""
    cpus: int = 0
    memory: str = ""
    allocated_cpus: int = 0
    allocated_memory: str = ""
    accelerator: Literal["", "kvm", "tcg"] = ""
    cpu: str = ""
    """Which CPU it is; guests that see it move live only between servers that show the same."""
    cpu_models: tuple[CpuModel, ...] = ()
    """Levels that guests may be given instead, lowest first."""
    machines: int = 0
    power: Literal["", "on", "off", "unknown"] = ""
    """As its BMC said last; empty: it has none, or is not reached."""
    bmc: BmcStatus | None = None
    """As its BMC describes the server; none: it has none, or was never reached."""
    disk_pools: tuple[PoolStatus, ...] = ()
    bridges: tuple[str, ...] = ()
    metal: MetalStatus | None = None
    """Of a server that was accepted."""


class Server(BedplateObject, frozen=True):
    """A physical machine with a BMC."""

    kind: Literal["Server"] = "Server"
    spec: ServerSpec = ServerSpec()
    status: ServerStatus = ServerStatus()


def server_labels(server: Server) -> dict[str, str]:
    """What selectors match a server by: its failure domain and its labels, which win."""
    return {**server.spec.failure_domain, **server.metadata.labels}


class AddressRange(Wire, frozen=True):
    """Addresses from first to last, both included."""

    first: str
    last: str


class NetworkSpec(Wire, frozen=True):
    cidr: str = ""
    gateway: str = ""
    name_servers: tuple[str, ...] = ()
    ranges: tuple[AddressRange, ...] = ()
    """For machines."""
    vip_ranges: tuple[AddressRange, ...] = ()
    """For control-plane addresses."""
    vrrp_ids: AddressRange = AddressRange(first="1", last="255")
    """VRRP router ids that Bedplate may use on this network (RFC 5798: 1 to 255)."""
    bridge: str = "br0"
    mtu: int = 1500
    server_selector: dict[str, str] = {}
    """Labels of the servers that reach this network; empty: all."""


class NetworkStatus(Status, frozen=True):
    addresses_total: int = 0
    addresses_used: int = 0


class Network(BedplateObject, frozen=True):
    """A layer-2 network with the addresses that Bedplate may give out."""

    kind: Literal["Network"] = "Network"
    spec: NetworkSpec = NetworkSpec()
    status: NetworkStatus = NetworkStatus()


class PoolMount(Wire, frozen=True):
    """What servers mount at a shared disk pool's path, as mount(8) takes it."""

    type: str = "nfs4"
    source: str = ""
    """`10.20.0.9:/pools/shared`."""
    options: str = ""
    """Such as `hard,vers=4.2`; empty: the file system's own."""


class DiskPoolSpec(Wire, frozen=True):
    type: Literal["shared", "local"] = "local"
    path: str = ""
    mount: PoolMount | None = None
    """Of a shared pool: agents mount it where it is not. Without it, whoever makes a server mounts it there, and a
    hypervisor that Bedplate deployed does not serve the pool."""
    server_selector: dict[str, str] = {}
    retention_hours: float = 72.0
    """How long disks of replaced machines are kept."""


class DiskPoolStatus(Status, frozen=True):
    capacity: str = ""
    free: str = ""
    retained: int = 0


class DiskPool(BedplateObject, frozen=True):
    """A folder for disks: on every server that the selector names, one content (shared) or each its own (local)."""

    kind: Literal["DiskPool"] = "DiskPool"
    spec: DiskPoolSpec = DiskPoolSpec()
    status: DiskPoolStatus = DiskPoolStatus()


class ImageFile(Wire, frozen=True):
    """One file of an image, known by its content."""

    digest: str = ""
    """`sha256:<hex>`."""
    size: int = 0
    """Bytes."""


class ImageSpec(Wire, frozen=True):
    disk: ImageFile = ImageFile()
    format: Literal["qcow2", "raw"] = "qcow2"
    virtual_size: int = 0
    """Bytes that the disk has inside."""
    kernel: ImageFile = ImageFile()
    initrd: ImageFile = ImageFile()
    """Kernel and initrd are the fast path for VMs; empty digests: the disk boots by UEFI."""
    metal: ImageFile = ImageFile()
    """What is to be written to a bare server's disk, piece by piece with a digest of each; empty: VMs only."""
    metal_data: ImageFile = ImageFile()
    """The pieces that `metal` tells of, compressed."""
    command_line: str = ""
    kubernetes_version: str = ""
    """The release inside, `1.35.3`; empty: a user's own image."""
    bootstrap: Literal["guest-agent", "cloud-init"] = "guest-agent"
    system: Literal["node", "hypervisor"] = "node"
    """What it is: of machines (nodes and users' own), or what makes a bare server a hypervisor."""
    architecture: str = "amd64"


class Image(BedplateObject, frozen=True):
    """A bootable disk image."""

    kind: Literal["Image"] = "Image"
    spec: ImageSpec = ImageSpec()
    status: Status = Status()


class ReleaseSpec(Wire, frozen=True):
    version: str = ""
    """`1.35.3`."""
    etcd: str = ""
    coredns: str = ""
    pause: str = ""
    source: Literal["built", "downloaded"] = "built"
    files: dict[str, ImageFile] = {}


class Release(BedplateObject, frozen=True):
    """A set of Kubernetes binaries and container images of one version."""

    kind: Literal["Release"] = "Release"
    spec: ReleaseSpec = ReleaseSpec()
    status: Status = Status()
