"""What a machine is handed for its bootstrap: one archive, for the guest's memory alone. Pure."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from bedplate.drivers.kubeadm import config
from bedplate.drivers.kubeadm.config import Pace
from bedplate.model.blueprint import ClusterEntry
from bedplate.model.steps import Bootstrap
from bedplate.pki import Authorities, discovery_hash

_GUEST = Path(__file__).parent / "guest"


def guest_text(name: str) -> str:
    """A script or unit for guests, by its file name."""
    return (_GUEST / name).read_text()


def archive(step: Bootstrap, authorities: Authorities, token: str, pace: Pace) -> bytes:
    """The payload of the step as a tar: configuration, scripts and, for a control plane, the authorities' keys."""
    cluster, machine = step.cluster, step.machine
    files = {
        "bootstrap": guest_text("bootstrap"),
        "env": _environment(step),
        "kubeadm.yaml": (
            config.init(cluster, machine, token, pace)
            if step.mode == "init"
            else config.join(cluster, machine, token, discovery_hash(authorities.ca), pace)
        ),
    }
    if machine.role == "control-plane":
        files |= _control_plane(authorities)
        files |= {f"patches/{name}": text for name, text in pace.patches.items()}
        if cluster.endpoint_type == "vrrp":
            files["keepalived.conf"] = keepalived(cluster, machine.nic.address, machine.nic.prefix, machine.name, pace)
    return _tar(files)


def _environment(step: Bootstrap) -> str:
    values = {
        "MODE": step.mode,
        "ROLE": step.machine.role,
        "MACHINE": step.machine.uid,
        "ADDRESS": step.machine.nic.address,
        "POD_NETWORK": step.cluster.pod_network,
        "POD_CIDR": step.cluster.pod_cidr,
        "CRI_SOCKET": config.CRI_SOCKET,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _control_plane(a: Authorities) -> dict[str, str]:
    found = {
        "pki/ca.crt": a.ca.certificate,
        "pki/ca.key": a.ca.key,
        "pki/etcd/ca.crt": a.etcd.certificate,
        "pki/etcd/ca.key": a.etcd.key,
        "pki/front-proxy-ca.crt": a.front_proxy.certificate,
        "pki/front-proxy-ca.key": a.front_proxy.key,
        "pki/sa.pub": a.service_accounts.certificate,
        "pki/sa.key": a.service_accounts.key,
    }
    return {name: content.decode() for name, content in found.items()}


def keepalived(cluster: ClusterEntry, address: str, prefix: int, name: str, pace: Pace) -> str:
    """keepalived's configuration: the cluster's address is held by one machine whose own API server answers.

    Nobody pre-empts: an address that works stays where it is. `address`: the machine's own; `prefix`: its length.
    """
    patience = 20 if pace.slow else 4
    return f"""global_defs {{
    router_id {name}
    script_user root
    enable_script_security
    vrrp_garp_master_refresh 30
}}
vrrp_script api {{
    script "/usr/lib/bedplate/check-api {patience} {address}:{config.api_port(cluster)}"
    interval {10 if pace.slow else 2}
    timeout {patience + 5}
    fall 3
    rise 1
}}
vrrp_instance api {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id {cluster.vrrp_id}
    priority 100
    advert_int {3 if pace.slow else 1}
    virtual_ipaddress {{
        {cluster.endpoint}/{prefix} dev eth0
    }}
    track_script {{
        api
    }}
}}
"""


def _tar(files: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folders: set[str] = set()
        for name, text in files.items():
            for parent in reversed(Path(name).parents):
                if str(parent) not in {".", *folders}:
                    folders.add(str(parent))
                    folder = tarfile.TarInfo(str(parent))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(folder)
            content = text.encode()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644 if name.endswith((".crt", ".pub")) else 0o600
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
