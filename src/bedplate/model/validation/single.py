"""One object by itself: names, labels, quantities, versions, addresses. Looks at no other object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bedplate.model import bmc_address, measuring, quantity
from bedplate.model.kinds.base import MachineShape, Object, Rollout
from bedplate.model.kinds.cluster import Cluster, NodePool
from bedplate.model.kinds.core import Secret
from bedplate.model.kinds.firmware import CompatibilityMatrix
from bedplate.model.kinds.fleet import FLEET_POLICY_NAME, FleetPolicy
from bedplate.model.kinds.infrastructure import Bmc, DiskPool, Image, ImageFile, Network, Release, Server
from bedplate.model.kinds.measurement import Measurement
from bedplate.model.kinds.virtual_machine import PlacementRule, VirtualMachine
from bedplate.model.labels import label_key_fault, label_value_fault, name_fault
from bedplate.model.registry import BY_KIND
from bedplate.model.times import seconds_of
from bedplate.model.validation.addresses import (
    Range,
    inside,
    overlap,
    overlapping,
    read_address,
    read_network,
    read_range,
)
from bedplate.model.validation.faults import Fault, nearest
from bedplate.model.validation.firmware import compatibility_matrix

MACHINE_OWNER_LIMIT = 50
"""Names of clusters, pools and virtual machines become host names with a suffix; those have at most 63 characters."""
_VERSION = re.compile(r"^\d+\.\d+(\.\d+)?$")
_FULL_VERSION = re.compile(r"^\d+\.\d+\.\d+$")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_BASE64 = re.compile(r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")
_BRIDGE_LIMIT = 15
"""Linux' limit of an interface's name."""


def check(obj: Object) -> list[Fault]:
    """Give all faults of the object."""
    faults = list(_metadata(obj))
    checker = _CHECKS.get(type(obj))
    return faults + (list(checker(obj)) if checker is not None else [])


def _metadata(obj: Object) -> Iterator[Fault]:
    meta, info = obj.metadata, BY_KIND[type(obj).__name__]
    owner = isinstance(obj, Cluster | NodePool | VirtualMachine)
    limit = MACHINE_OWNER_LIMIT if owner else 63 if info.kind in {"Namespace", "Server"} else 253
    if not meta.name:
        yield Fault("metadata.name", "is missing; give the object a name", "FieldValueRequired")
    elif fault := name_fault(meta.name, limit):
        yield Fault("metadata.name", fault)
    if info.namespaced and meta.namespace and (fault := name_fault(meta.namespace, 63)):
        yield Fault("metadata.namespace", fault)
    yield from labels("metadata.labels", meta.labels)
    for key in meta.annotations:
        if fault := label_key_fault(key):
            yield Fault("metadata.annotations", fault)


def labels(path: str, values: Mapping[str, str]) -> Iterator[Fault]:
    """Faults of label keys and values."""
    for key, value in values.items():
        if fault := label_key_fault(key):
            yield Fault(path, fault)
        if fault := label_value_fault(value):
            yield Fault(f"{path}.{key}" if "." not in key else f"{path}[{key}]", fault)


def size(path: str, text: str, *, zero: bool = False) -> Iterator[Fault]:
    """Faults of a memory or disk quantity."""
    try:
        value = quantity.parse(text)
    except quantity.QuantityError as error:
        yield Fault(path, str(error))
        return
    if value < 0 or (value == 0 and not zero):
        yield Fault(path, f'"{text}" must be above zero')
    elif 0 < value < quantity.MIB:
        yield Fault(path, f'"{text}" is less than a MiB; a unit may be missing, as in 4Gi')


def at_least(path: str, value: float, minimum: float) -> Iterator[Fault]:
    """A number's lower bound."""
    if value < minimum:
        yield Fault(path, f"{value:g} is too low; it must be at least {minimum:g}")


def _shape(path: str, m: MachineShape) -> Iterator[Fault]:
    yield from at_least(f"{path}.cpu", m.cpu, 1)
    yield from size(f"{path}.memory", m.memory)
    yield from size(f"{path}.disk", m.disk)
    yield from labels(f"{path}.match", m.match)


def _control_plane_rollout(path: str, r: Rollout) -> Iterator[Fault]:
    yield from _rollout_kind(path, r)
    plain, why = Rollout(), "can't be changed: a control plane always adds one machine and then removes one"
    if r.max_surge != plain.max_surge:
        yield Fault(f"{path}.maxSurge", f"{why}; leave maxSurge out", "FieldValueForbidden")
    if r.max_unavailable != plain.max_unavailable:
        yield Fault(f"{path}.maxUnavailable", f"{why}; leave maxUnavailable out", "FieldValueForbidden")


def _rollout_kind(path: str, r: Rollout) -> Iterator[Fault]:
    if r.strategy != "Replace":
        message = f'"{r.strategy}" is not supported yet: roll-outs replace machines; write Replace or leave it out'
        yield Fault(f"{path}.strategy", message, "FieldValueNotSupported")
    yield from at_least(f"{path}.drainTimeoutSeconds", r.drain_timeout_seconds, 0)


def _rollout(path: str, r: Rollout) -> Iterator[Fault]:
    yield from _rollout_kind(path, r)
    yield from at_least(f"{path}.maxSurge", r.max_surge, 0)
    yield from at_least(f"{path}.maxUnavailable", r.max_unavailable, 0)
    if r.max_surge == 0 and r.max_unavailable == 0:
        yield Fault(f"{path}.maxUnavailable", "maxSurge and maxUnavailable are both 0, so that nothing could ever be "
                    "replaced; set one of them to at least 1")  # fmt: skip


def _spread(path: str, key: str) -> Iterator[Fault]:
    if key and (fault := label_key_fault(key)):
        yield Fault(path, fault)


def version(path: str, text: str, *, full: bool = False) -> Iterator[Fault]:
    """Faults of a Kubernetes version."""
    wanted = "1.35.3" if full else "1.35 or 1.35.3"
    if not text:
        yield Fault(path, f"is missing; write a Kubernetes version such as {wanted}, in quotes", "FieldValueRequired")
    elif not (_FULL_VERSION if full else _VERSION).match(text):
        hint = (
            f"; write {text[1:]}" if text.startswith("v") and _VERSION.match(text[1:]) else f"; write it like {wanted}"
        )
        yield Fault(path, f'"{text}" is not a Kubernetes version{hint}')


def _cluster(c: Cluster) -> Iterator[Fault]:
    s = c.spec
    yield from version("spec.kubernetes", s.kubernetes)
    plane = s.control_plane
    if plane.replicas not in {1, 3, 5}:
        more = next((n for n in (1, 3, 5) if n >= plane.replicas), 5)
        yield Fault("spec.controlPlane.replicas", f"{plane.replicas} control-plane nodes can't keep a safe majority; "
                    f"write 1, 3 or 5, here {more}")  # fmt: skip
    yield from _shape("spec.controlPlane.machine", plane.machine)
    yield from _spread("spec.controlPlane.spread", plane.spread)
    yield from _control_plane_rollout("spec.controlPlane.rollout", plane.rollout)
    yield from _endpoint(c)
    networks = {"spec.podCIDR": read_network(s.pod_cidr), "spec.serviceCIDR": read_network(s.service_cidr)}
    for path, network in networks.items():
        if isinstance(network, str):
            yield Fault(path, network)
    good = [(path, n) for path, n in networks.items() if not isinstance(n, str)]
    for path, network, other_path, other in overlapping(good):
        yield Fault(path, f"{network} overlaps {other_path} {other}; choose networks that share no address")
    yield from _addons(c)
    yield from _ssh_keys(s.ssh_keys)


def _endpoint(c: Cluster) -> Iterator[Fault]:
    e = c.spec.endpoint
    if not 1 <= e.port <= 65535:
        yield Fault("spec.endpoint.port", f"{e.port} is not a port; write a number from 1 to 65535")
    if e.address and isinstance(fault := read_address(e.address), str) and e.type == "vrrp":
        yield Fault("spec.endpoint.address", fault)
    if e.type == "external" and not e.address:
        yield Fault("spec.endpoint.address", "is missing; with type external, give the load balancer's address",
                    "FieldValueRequired")  # fmt: skip


def _addons(c: Cluster) -> Iterator[Fault]:
    seen: set[str] = set()
    for i, addon in enumerate(c.spec.addons):
        path = f"spec.addons[{i}]"
        if fault := name_fault(addon.name, 63):
            yield Fault(f"{path}.name", fault)
        if addon.name in seen:
            yield Fault(
                f"{path}.name", f'"{addon.name}" is there twice; give each addon its own name', "FieldValueDuplicate"
            )
        seen.add(addon.name)
        if not addon.manifest.strip():
            yield Fault(f"{path}.manifest", "is empty; give the manifests' YAML", "FieldValueRequired")


def _node_pool(p: NodePool) -> Iterator[Fault]:
    s = p.spec
    if not s.cluster:
        yield Fault("spec.cluster", "is missing; name the cluster that the pool belongs to", "FieldValueRequired")
    yield from replicas("spec.replicas", s.replicas)
    yield from _shape("spec.machine", s.machine)
    yield from _spread("spec.spread", s.spread)
    yield from labels("spec.labels", s.labels)
    yield from _rollout("spec.rollout", s.rollout)
    for i, taint in enumerate(s.taints):
        yield from labels(f"spec.taints[{i}]", {taint.key: taint.value})


def replicas(path: str, value: int) -> Iterator[Fault]:
    """Faults of a pool's size."""
    if value < 0:
        yield Fault(path, f"{value} is below zero; write 0 for no machines, or more")


def _virtual_machine(v: VirtualMachine) -> Iterator[Fault]:
    s = v.spec
    yield from at_least("spec.cpu", s.cpu, 1)
    yield from size("spec.memory", s.memory)
    yield from size("spec.disk", s.disk)
    yield from labels("spec.match", s.match)
    yield from _rules("spec.affinity", s.affinity)
    yield from _rules("spec.antiAffinity", s.anti_affinity)
    if v.metadata.name in s.after:
        yield Fault("spec.after", "names the machine itself; it would wait for itself")
    if not s.image:
        yield Fault("spec.image", "is missing; name an Image to boot from", "FieldValueRequired")
    if s.address and isinstance(fault := read_address(s.address), str):
        yield Fault("spec.address", fault)
    yield from _ssh_keys(s.ssh_keys)


def _ssh_keys(keys: Sequence[str]) -> Iterator[Fault]:
    for i, key in enumerate(keys):
        if "PRIVATE KEY" in key:
            yield Fault(f"spec.sshKeys[{i}]", "is a private key; give the public one, and treat this one as known")
        elif len(key.split()) < 2:
            yield Fault(f"spec.sshKeys[{i}]", "is not a public key; write it like ssh-ed25519 AAAA... name")


def _network(n: Network) -> Iterator[Fault]:
    s = n.spec
    if not s.cidr:
        yield Fault("spec.cidr", "is missing; write the network like 10.20.0.0/24", "FieldValueRequired")
    network = read_network(s.cidr) if s.cidr else ""
    if isinstance(network, str) and s.cidr:
        yield Fault("spec.cidr", network)
    for path, texts in (("spec.gateway", (s.gateway,)), ("spec.nameServers", s.name_servers)):
        for text in texts:
            if text and isinstance(fault := read_address(text), str):
                yield Fault(path, fault)
    if not isinstance(network, str):
        gateway = read_address(s.gateway)
        if not isinstance(gateway, str) and gateway not in network:
            yield Fault("spec.gateway", f"{gateway} is not in {network}")
    yield from _ranges(n)
    if not 576 <= s.mtu <= 65535:
        yield Fault("spec.mtu", f"{s.mtu} is not an MTU; write a number from 576 to 65535")
    if not 1 <= len(s.bridge) <= _BRIDGE_LIMIT or re.search(r"[\s/]", s.bridge):
        yield Fault("spec.bridge", f'"{s.bridge}" can\'t name a bridge; use at most {_BRIDGE_LIMIT} characters, no "/"')
    yield from labels("spec.serverSelector", s.server_selector)
    ids = (s.vrrp_ids.first, s.vrrp_ids.last)
    if not all(i.isdigit() and 1 <= int(i) <= 255 for i in ids) or int(ids[0]) > int(ids[1]):
        yield Fault("spec.vrrpIds", f'from "{ids[0]}" to "{ids[1]}" is no range of VRRP ids; they go from "1" to "255"')


def _ranges(n: Network) -> Iterator[Fault]:
    network = read_network(n.spec.cidr)
    gateway = read_address(n.spec.gateway)
    named = [(f"spec.ranges[{i}]", r) for i, r in enumerate(n.spec.ranges)]
    named += [(f"spec.vipRanges[{i}]", r) for i, r in enumerate(n.spec.vip_ranges)]
    seen: list[tuple[str, Range]] = []
    for path, text in named:
        found = read_range(text, path)
        if isinstance(found, Fault):
            yield found
            continue
        if not isinstance(network, str) and not (found[0] in network and found[1] in network):
            yield Fault(path, f"{found[0]} to {found[1]} is not inside {network}")
        if not isinstance(gateway, str) and inside(found, gateway):
            yield Fault(path, f"holds the gateway {gateway}; leave it out")
        for other_path, other in seen:
            if overlap(found, other):
                yield Fault(path, f"{found[0]} to {found[1]} overlaps {other_path}; ranges may not share addresses")
        seen.append((path, found))


def _disk_pool(p: DiskPool) -> Iterator[Fault]:
    if not p.spec.path:
        yield Fault("spec.path", "is missing; give the folder's absolute path", "FieldValueRequired")
    elif not p.spec.path.startswith("/") or ".." in p.spec.path.split("/"):
        yield Fault("spec.path", f'"{p.spec.path}" is not an absolute path; write it from "/" on, without ".."')
    if p.spec.mount is not None:
        yield from _mount(p)
    yield from labels("spec.serverSelector", p.spec.server_selector)
    yield from at_least("spec.retentionHours", p.spec.retention_hours, 0)


_FILE_SYSTEM = re.compile(r"[a-z0-9._]+")


def _mount(p: DiskPool) -> Iterator[Fault]:
    mount = p.spec.mount
    assert mount is not None
    if p.spec.type != "shared":
        yield Fault("spec.mount", "is for shared pools; give type: shared, or leave it out")
    if not _FILE_SYSTEM.fullmatch(mount.type):
        yield Fault("spec.mount.type", f'"{mount.type}" is no file system; write one such as nfs4')
    if not mount.source or mount.source.startswith("-"):
        said = f'"{mount.source}" is nothing to mount; write it like 10.20.0.9:/pools/shared'
        yield Fault("spec.mount.source", said, "FieldValueInvalid")
    if mount.options.startswith("-") or any(c.isspace() for c in mount.options):
        yield Fault("spec.mount.options", "holds spaces or begins with -; write it like hard,vers=4.2")


def _image(i: Image) -> Iterator[Fault]:
    s = i.spec
    if not s.disk.digest:
        yield Fault("spec.disk.digest", "is missing; give the disk file's sha256", "FieldValueRequired")
    files = {"disk": s.disk, "kernel": s.kernel, "initrd": s.initrd, "metal": s.metal, "metalData": s.metal_data}
    for name, file in files.items():
        yield from _file(f"spec.{name}", file)
    if bool(s.kernel.digest) != bool(s.initrd.digest):
        yield Fault("spec.kernel", "kernel and initrd belong together; give both or none")
    if bool(s.metal.digest) != bool(s.metal_data.digest):
        yield Fault("spec.metal", "metal and metalData belong together; give both or none")
    if s.kubernetes_version:
        yield from version("spec.kubernetesVersion", s.kubernetes_version, full=True)


def _file(path: str, file: ImageFile) -> Iterator[Fault]:
    if file.digest and not _DIGEST.match(file.digest):
        yield Fault(f"{path}.digest", f'"{file.digest[:30]}" is not a digest; write sha256: and 64 hexadecimal digits')
    yield from at_least(f"{path}.size", file.size, 0)


def _release(r: Release) -> Iterator[Fault]:
    yield from version("spec.version", r.spec.version, full=True)
    for name, file in r.spec.files.items():
        yield from _file(f"spec.files.{name}", file)


def _server(s: Server) -> Iterator[Fault]:
    yield from labels("spec.failureDomain", s.spec.failure_domain)
    yield from size("spec.reservation.memory", s.spec.reservation.memory, zero=True)
    yield from at_least("spec.reservation.cpu", s.spec.reservation.cpu, 0)
    yield from at_least("spec.cpuOvercommit", s.spec.cpu_overcommit, 1)
    yield from _maintenance(s.spec.maintenance.until if s.spec.maintenance is not None else None)
    if s.spec.bmc is not None:
        yield from _bmc(s.spec.bmc)
    yield from _metal(s)


_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")


def _metal(s: Server) -> Iterator[Fault]:
    m = s.spec.metal
    if s.spec.accepted and s.spec.bmc is None:
        said = "is missing: a bare server is booted through its BMC; give spec.bmc, or accepted: false"
        yield Fault("spec.bmc", said, "FieldValueRequired")
    if m.boot_mac and not _MAC.fullmatch(m.boot_mac):
        yield Fault("spec.metal.bootMac", f"{m.boot_mac!r} is not like 52:54:00:12:ab:cd (lower case)")
    if m.boot == "network" and not m.boot_mac:
        yield Fault("spec.metal.bootMac", "is missing: a server that boots from the network is known by it")
    if m.root_disk.min_size:
        yield from size("spec.metal.rootDisk.minSize", m.root_disk.min_size)


def _bmc(b: Bmc) -> Iterator[Fault]:
    if not b.address:
        yield Fault("spec.bmc.address", f"is missing; write it like {bmc_address.EXAMPLE}", "FieldValueRequired")
    else:
        try:
            bmc_address.parse(b.address)
        except bmc_address.BmcAddressError as error:
            yield Fault("spec.bmc.address", str(error))
    if fault := bmc_address.verify_ca_fault(b.verify_ca):
        yield Fault("spec.bmc.verifyCA", fault)


def _rules(path: str, rules: tuple[PlacementRule, ...]) -> Iterator[Fault]:
    for i, rule in enumerate(rules):
        if not rule.match:
            yield Fault(f"{path}[{i}].match", "is empty; name labels of the machines that are meant")
        yield from labels(f"{path}[{i}].match", rule.match)


def _maintenance(until: str | None) -> Iterator[Fault]:
    try:
        if until:
            seconds_of(until)
    except ValueError:
        yield Fault("spec.maintenance.until", f'"{until}" is no time; write it like 2026-05-01T22:00:00Z')


def _fleet_policy(f: FleetPolicy) -> Iterator[Fault]:
    if f.metadata.name != FLEET_POLICY_NAME:
        yield Fault("metadata.name", f'"{f.metadata.name}" would count nothing; name it {FLEET_POLICY_NAME}')
    yield from at_least("spec.balance.horizonSeconds", f.spec.balance.horizon_seconds, 60)
    yield from at_least("spec.balance.minGainPercent", f.spec.balance.min_gain_percent, 0)
    yield from at_least("spec.reserve.servers", f.spec.reserve.servers, 0)
    yield from at_least("spec.substrate.holdSeconds", f.spec.substrate.hold_seconds, 0)
    yield from at_least("spec.roles.minimum", f.spec.roles.minimum, 0)
    yield from at_least("spec.roles.maximum", f.spec.roles.maximum, f.spec.roles.minimum)
    yield from at_least("spec.roles.settleSeconds", f.spec.roles.settle_seconds, 0)
    if not 0 <= f.spec.roles.spare < 1:
        yield Fault("spec.roles.spare", f"is {f.spec.roles.spare:g}; it must be at least 0 and below 1, such as 0.1")
    for i, rule in enumerate(f.spec.substrate.rules):
        for k, v in rule.match.items():
            said = label_key_fault(k) or label_value_fault(v)
            if said:
                yield Fault(f"spec.substrate.rules[{i}].match", said)


_TARGET = re.compile(r"(server|machine|virtualmachine)/([a-z0-9.-]+)")


def _measurement(m: Measurement) -> Iterator[Fault]:
    s = m.spec
    if not s.targets:
        yield Fault("spec.targets", "is missing; name what to measure, as server/hv1", "FieldValueRequired")
    for i, target in enumerate(s.targets):
        if not _TARGET.fullmatch(target):
            said = f'"{target}" is no target; write server/NAME, machine/NAME or virtualmachine/NAME'
            yield Fault(f"spec.targets[{i}]", said)
        if target in s.targets[:i]:
            yield Fault(f"spec.targets[{i}]", f'"{target}" is there twice; name it once', "FieldValueDuplicate")
    if not s.only:
        yield Fault("spec.only", f"is empty; name some of {', '.join(measuring.GROUPS)}", "FieldValueRequired")
    for i, group in enumerate(s.only):
        if group not in measuring.GROUPS:
            said = f'"{group}" is not measured{nearest(group, measuring.GROUPS)}; known are '
            yield Fault(f"spec.only[{i}]", said + ", ".join(measuring.GROUPS), "FieldValueNotSupported")
    yield from _between("spec.repetitions", s.repetitions, 1, measuring.MOST_REPETITIONS)
    yield from _between("spec.seconds", s.seconds, 1, measuring.MOST_SECONDS)
    faults = list(size("spec.scratch", s.scratch))
    yield from faults
    if not faults:
        yield from _between("spec.scratch", quantity.parse_mib(s.scratch), 8, measuring.MOST_SCRATCH_MIB, " MiB")
    if not _DIGEST.match(s.kit):
        yield Fault("spec.kit", "is no digest of a measuring kit; `bedplate measure` makes one and fills it in")


def _between(path: str, value: int, least: int, most: int, unit: str = "") -> Iterator[Fault]:
    if not least <= value <= most:
        yield Fault(path, f"{value}{unit} is out of bounds; write {least} to {most}{unit}")


def _secret(s: Secret) -> Iterator[Fault]:
    for key, value in s.data.items():
        if not _BASE64.match(value):
            yield Fault(f"data.{key}", "is not base64; put plain values into stringData instead")


_CHECKS: dict[type[Object], Callable[[Any], Iterator[Fault]]] = {
    Cluster: _cluster,
    NodePool: _node_pool,
    VirtualMachine: _virtual_machine,
    Network: _network,
    DiskPool: _disk_pool,
    Image: _image,
    Release: _release,
    Server: _server,
    FleetPolicy: _fleet_policy,
    Measurement: _measurement,
    CompatibilityMatrix: compatibility_matrix,
    Secret: _secret,
}
