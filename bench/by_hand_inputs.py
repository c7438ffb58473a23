"""What a person would have ready before making the demo's cluster by hand: `python -m bench.by_hand_inputs FOLDER`.

Domains' definitions, kubeadm's configuration and certificates, of the same image and shape as the demo's. Written from
the same parts as Bedplate writes them, so that the guests do the same work; nothing of it is timed. Reads the lab and
its controller, changes neither. The files hold the cluster's keys: the folder is for its owner alone.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bedplate import pki
from bedplate.agent.domains import DomainFiles, domain_name, domain_xml
from bedplate.drivers.kubeadm import payload
from bedplate.drivers.kubeadm.config import Pace
from bedplate.drivers.kubeadm.driver import new_token
from bedplate.drivers.kubeadm.kubeconfig import admin_kubeconfig
from bedplate.drivers.kubernetes.addons import own_manifest
from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, MachineUid, ServerName, StoreId, key
from bedplate.model.quantity import parse_mib
from bedplate.model.steps import Bootstrap

ROOT = Path(__file__).parents[1]
CLUSTER = ClusterKey("default/by-hand")
POOL = "/var/lib/bedplate/pools/shared/by-hand"
"""Inside of each hypervisor: the shared pool, in which the demo's machines are too."""


class Secrets:
    """Implements `ports.SecretStore` for as long as this program runs."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get_secret(self, name: str) -> bytes | None:
        return self._values.get(name)

    def put_secret(self, name: str, value: bytes) -> None:
        self._values[name] = value

    def put_secret_once(self, name: str, value: bytes) -> bytes:
        return self._values.setdefault(name, value)

    def delete_secret(self, name: str) -> None:
        self._values.pop(name, None)

    def list_secrets(self, prefix: str) -> list[str]:
        return sorted(name for name in self._values if name.startswith(prefix))


class Machine(NamedTuple):
    """One machine with its way to libvirt."""

    short: str
    entry: MachineEntry
    uri: str


def main() -> int:
    """Write the inputs into the folder, and `env` with what the shell script needs of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.by_hand_inputs", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write; must not be there")
    parser.add_argument("--kubernetes", default="1.35.3", metavar="VERSION", help="default: 1.35.3")
    args = parser.parse_args()
    lab = _bedplate("lab", "status")
    if lab["phase"] != "up" or len(lab["hypervisors"]) < 3:
        return _refuse("the lab is not up with three hypervisors; run `bedplate lab up --hypervisors 3`")
    there = [m for kind in ("machines", "virtualmachines") for m in _bedplate("get", kind, "-A")["items"]]
    if there:
        return _refuse(f"{len(there)} machines run in the lab and would take its cores; delete them first")
    args.folder.mkdir(mode=0o700)
    write(args.folder, lab, args.kubernetes)
    return 0


def _refuse(why: str) -> int:
    print(f"by hand: {why}", file=sys.stderr)
    return 1


def write(folder: Path, lab: dict[str, Any], version: str) -> None:
    """Write all inputs."""
    state = json.loads((Path(lab["folder"]) / "state.json").read_text())
    kvm = bool(state["kvm"])
    network = _bedplate("get", "networks")["items"][0]["spec"]
    image = next(
        i for i in _bedplate("get", "images")["items"] if i["spec"].get("kubernetesVersion") == version
    )  # the newest of a version is what the lab registers
    cluster = cluster_of(lab, version)
    machines = machines_of(lab, network, image)
    secrets = Secrets()
    authorities = pki.ensure(secrets, cluster.secrets)
    identity = pki.client_identity(secrets, cluster.secrets, name="by-hand", hours=24)
    assert identity is not None
    token, pace = new_token(), Pace(slow=not kvm)
    for m in machines:
        (folder / f"{m.short}.xml").write_text(
            domain_xml(m.entry, store=StoreId("by-hand"), accelerator="kvm" if kvm else "tcg", files=_files(m))
        )
        step = Bootstrap(cluster=cluster, machine=m.entry, mode="init" if m.short == "cp" else "join")
        (folder / f"{m.short}.tar").write_bytes(payload.archive(step, authorities, token, pace))
    for name in ("launch", "look"):
        (folder / name).write_text(payload.guest_text(name))
    (folder / "kubeconfig").write_text(admin_kubeconfig(cluster, identity))
    (folder / "addon.yaml").write_text(own_manifest(cluster))
    (folder / "env").write_text(_environment(lab, state, machines, _image_files(image), version, kvm))


def cluster_of(lab: dict[str, Any], version: str) -> ClusterEntry:
    """The cluster; its address is the last of the lab's, which nothing else has while no cluster is there."""
    return ClusterEntry(
        cluster=CLUSTER,
        uid="by-hand",
        version=version,
        network="lab",
        endpoint=_address(lab, lab["network"]["vips"][1]),
        vrrp_id=254,
        pod_cidr="10.244.0.0/16",
        service_cidr="10.96.0.0/12",
        secrets="clusters/by-hand",
    )


def machines_of(lab: dict[str, Any], network: dict[str, Any], image: dict[str, Any]) -> list[Machine]:
    """One control-plane machine and two workers on the first three hypervisors, of the demo's shapes."""
    plane, pool = yaml.safe_load_all((ROOT / "examples/demo.yaml").read_text())
    shapes = [plane["spec"]["controlPlane"]["machine"], pool["spec"]["machine"], pool["spec"]["machine"]]
    found: list[Machine] = []
    for n, (short, shape, server) in enumerate(zip(("cp", "w1", "w2"), shapes, lab["hypervisors"][:3], strict=True)):
        entry = MachineEntry(
            uid=MachineUid(str(uuid.uuid4())),
            name=f"by-hand-{short}",
            namespace="default",
            owner=key("cluster", CLUSTER),
            cluster=CLUSTER,
            role="control-plane" if short == "cp" else "worker",
            server=ServerName(server["name"]),
            cpu=int(shape["cpu"]),
            memory_mib=parse_mib(shape["memory"]),
            disk_mib=parse_mib(shape["disk"]),
            disk_pool="shared",
            image=_image_ref(image),
            nic=Nic(
                network="lab",
                bridge=network.get("bridge", "br0"),
                mac=f"52:54:00:bd:fe:0{n + 1}",
                address=_address(lab, lab["network"]["machines"][1] - n),
                prefix=int(lab["network"]["cidr"].rpartition("/")[2]),
                gateway=network.get("gateway", ""),
                name_servers=tuple(network.get("nameServers", ())),
                mtu=network.get("mtu", 1500),
            ),
        )
        found.append(Machine(short, entry, server["uri"]))
    return found


def _address(lab: dict[str, Any], offset: int) -> str:
    return str(ipaddress.ip_network(lab["network"]["cidr"])[offset])


def _image_ref(image: dict[str, Any]) -> ImageRef:
    spec = image["spec"]
    return ImageRef(
        name=image["metadata"]["name"],
        disk=Digest(spec["disk"]["digest"]),
        format=spec.get("format", "qcow2"),
        virtual_size=spec.get("virtualSize", 0),
        kernel=Digest(spec["kernel"]["digest"]),
        initrd=Digest(spec["initrd"]["digest"]),
        command_line=spec.get("commandLine", ""),
    )


def _files(m: Machine) -> DomainFiles:
    return DomainFiles(
        disk=f"{POOL}/{m.short}.qcow2",
        console_log=f"{POOL}/{m.short}.log",
        nvram="",
        kernel=f"{POOL}/vmlinuz",
        initrd=f"{POOL}/initrd",
    )


def _image_files(image: dict[str, Any]) -> dict[str, Path]:
    """The image's files in the user's cache, by what they are."""
    from bedplate.cli import artifacts

    built = artifacts.image(image["metadata"]["name"])
    return {what: built.files[image["spec"][what]["digest"]] for what in ("disk", "kernel", "initrd")}


def _environment(
    lab: dict[str, Any],
    state: dict[str, Any],
    machines: list[Machine],
    image: dict[str, Path],
    version: str,
    kvm: bool,
) -> str:
    first = machines[0]
    values = {
        "MACHINES": " ".join(m.short for m in machines),
        "WORKERS": " ".join(m.short for m in machines[1:]),
        "POOL": str(Path(lab["folder"]) / "shared/by-hand"),
        "IMAGE_DISK": str(image["disk"]),
        "IMAGE_KERNEL": str(image["kernel"]),
        "IMAGE_INITRD": str(image["initrd"]),
        "IMAGE_FORMAT": first.entry.image.format,
        "KUBECTL": _bedplate("release", "path", version)["kubectl"],
        "NAMESPACE_PID": str(state["hypervisors"][first.entry.server]["process"]["pid"]),
        "JOINS": "together" if kvm else "in-turn",
    }
    for m in machines:
        values |= {
            f"URI_{m.short}": m.uri,
            f"DOMAIN_{m.short}": domain_name(m.entry),
            f"UID_{m.short}": m.entry.uid,
            f"NODE_{m.short}": m.entry.name,
            f"DISK_{m.short}": f"{m.entry.disk_mib}M",
        }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _bedplate(*argv: str) -> Any:
    program = Path(sys.executable).parent / "bedplate"
    done = subprocess.run([program, *argv, "-o", "json"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and not done.stdout:
        raise SystemExit(f"by hand: `bedplate {' '.join(argv)}` ended with {done.returncode}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
