"""The configuration files of a lab hypervisor, as texts. Reads nothing, writes nothing.

Each odd setting is there because the lab lies in namespaces of one host.
"""

from __future__ import annotations

from collections.abc import Iterable

from bedplate.lab.config import HypervisorState

PKI = "/etc/libvirt/pki"
"""Where the agent puts the certificates for live migration: inside a folder that each hypervisor has for itself."""


def libvirtd_conf(hypervisor: HypervisorState, *, tls: bool = False) -> str:
    """`libvirtd.conf`. `tls` opens the port for live migration; it needs the agent's certificates in place."""
    return f"""# Written by `bedplate lab`; a change is lost at the next power-on.
host_uuid = "{hypervisor.host_uuid}"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = {int(tls)}
listen_tcp = 0
listen_addr = "{hypervisor.address}"
key_file = "{PKI}/serverkey.pem"
cert_file = "{PKI}/servercert.pem"
ca_file = "{PKI}/cacert.pem"
# A peer that says nothing for four seconds is gone.
keepalive_interval = 1
keepalive_count = 3
log_outputs = "3:stderr"
"""


def qemu_conf(hypervisor: HypervisorState) -> str:
    """`qemu.conf`."""
    return f"""# Written by `bedplate lab`; a change is lost at the next power-on.
user = "root"
group = "root"
# The same disks are seen from several hypervisors: none may change their owner.
dynamic_ownership = 0
remember_owner = 0
# No virtlogd runs here; consoles and QEMU's own messages go straight to files.
stdio_handler = "file"
security_driver = "none"
# /dev is private already, and the host's cgroups are not this hypervisor's to divide.
namespaces = []
cgroup_controllers = []
default_tls_x509_cert_dir = "{PKI}/qemu"
migration_address = "{hypervisor.address}"
migration_host = "{hypervisor.address}"
"""


def hosts(hypervisors: Iterable[HypervisorState], gateway: str) -> str:
    """`/etc/hosts` with all names of the lab: live migration needs them on both sides."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", f"{gateway} gateway controller"]
    lines += [f"{hypervisor.address} {hypervisor.name}" for hypervisor in hypervisors]
    return "\n".join(lines) + "\n"
