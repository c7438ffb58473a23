"""A real etcd and a real API server on loopback, as one cluster's control plane, for the contract tests."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bedplate import pki
from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, Nic
from bedplate.model.ids import ClusterKey, Digest, Epoch, MachineUid, OperationId, ServerName, StoreId, key
from bedplate.model.inventory import AnyView, ClusterView, NodeView, Observation
from bedplate.model.steps import Ticket
from bedplate.ports import ClusterAccess, Duplex

sys.path.insert(0, str(Path(__file__).parent))

from memory_store import MemorySecrets

CLUSTER = ClusterKey("default/shop")
SECRETS = "clusters/shop"
ENDPOINT = "10.99.0.10"
PORT = 6443
RELEASES = Path("~/.cache/bedplate/release").expanduser()


def binaries() -> Path | None:
    """The newest release's folder of programs; None where there is none."""
    found = sorted(RELEASES.glob("*/bin/kube-apiserver"), key=lambda p: p.parent.parent.stat().st_mtime)
    return found[-1].parent if found and (found[-1].parent / "etcd").is_file() else None


def machine(number: int, role: Any = "worker", **changes: Any) -> MachineEntry:
    """Machine `cp-<number>` or `w-<number>` on server hv1."""
    fields: dict[str, Any] = {
        "uid": MachineUid(f"00000000-0000-4000-8000-{number:012}"),
        "name": f"{'cp' if role == 'control-plane' else 'w'}-{number}",
        "namespace": "default",
        "owner": key("cluster", CLUSTER),
        "cluster": CLUSTER,
        "role": role,
        "server": ServerName("hv1"),
        "cpu": 1,
        "memory_mib": 1024,
        "disk_mib": 10000,
        "disk_pool": "local",
        "image": ImageRef(name="node", disk=Digest("sha256:0")),
        "nic": Nic(network="lan", bridge="br0", mac="52:54:00:00:00:01", address=f"10.99.0.{number}", prefix=24),
    }
    return MachineEntry(**(fields | changes))


def cluster(**changes: Any) -> ClusterEntry:
    """The cluster's entry."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER,
        "uid": "shop",
        "version": "1.35.3",
        "network": "lan",
        "endpoint": ENDPOINT,
        "pod_cidr": "10.1.0.0/16",
        "service_cidr": "10.2.0.0/16",
        "secrets": SECRETS,
    }
    return ClusterEntry(**(fields | changes))


def access(*control_planes: MachineEntry) -> ClusterAccess:
    """The way to the cluster."""
    return ClusterAccess(
        cluster=CLUSTER, secrets=SECRETS, endpoint=ENDPOINT, port=PORT, control_planes=tuple(control_planes)
    )


def ticket(deadline: float = 30.0) -> Ticket:
    """Any ticket."""
    return Ticket(operation=OperationId("op"), store=StoreId("store"), epoch=Epoch(1), deadline=deadline)


class News:
    """A sink that keeps what it was told and can be waited on."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[Observation[AnyView]], bool]] = []
        self.known: dict[str, Observation[AnyView]] = {}
        self._more = asyncio.Event()

    def __call__(self, source: str, observations: Sequence[Observation[AnyView]], *, full: bool = False) -> None:
        self.told.append((source, list(observations), full))
        if full:
            self.known.clear()
        for o in observations:
            self.known[o.value.key] = o
        self._more.set()

    def node(self, name: str) -> NodeView | None:
        """The node as it was told last."""
        o = self.known.get(key("node", CLUSTER, name))
        return o.value if o is not None and isinstance(o.value, NodeView) else None

    def cluster(self) -> ClusterView:
        """The cluster as it was told last."""
        o = self.known.get(key("cluster-view", CLUSTER))
        return o.value if o is not None and isinstance(o.value, ClusterView) else ClusterView(cluster=CLUSTER)

    async def until(self, told: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until it was told."""
        async with asyncio.timeout(seconds):
            while not told():
                self._more.clear()
                await self._more.wait()


class _Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()


class LoopbackDialer:
    """Implements `ports.Dialer`: the control plane's addresses lead to ports of this machine."""

    def __init__(self, ports: dict[tuple[str, int], int]) -> None:
        self.ports = ports
        self.agents = [ServerName("hv1")]
        self.dialed: list[tuple[str, int]] = []

    async def dial(self, server: ServerName, host: str, port: int, timeout: float = 10) -> Duplex:
        self.dialed.append((host, port))
        if (host, port) not in self.ports:
            raise ConnectionRefusedError(f"nothing listens at {host}:{port}")
        return _Stream(*await asyncio.open_connection("127.0.0.1", self.ports[host, port]))

    async def console(self, server: ServerName, uid: MachineUid) -> Duplex:
        raise ConnectionRefusedError("no consoles here")

    def connected(self) -> Sequence[ServerName]:
        return self.agents


class ControlPlane:
    """etcd and an API server, to be started and stopped."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.secrets = MemorySecrets()
        self._authorities = pki.ensure(self.secrets, SECRETS)
        self._etcd, self._peer, self.port = _free_ports(3)
        self.ports = {(ENDPOINT, PORT): self.port, ("10.99.0.1", 6443): self.port, ("10.99.0.1", 2379): self._etcd}
        self._write_files()
        self.admin = self.client("admin", ("system:masters",))

    def start_etcd(self) -> None:
        """Start etcd; its only member is cp-1."""
        peer, f = f"http://127.0.0.1:{self._peer}", self._folder
        client = f"https://127.0.0.1:{self._etcd}"
        self._start(
            "etcd",
            f"--name=cp-1 --data-dir={f}/data --unsafe-no-fsync --log-level=error",
            f"--listen-client-urls={client} --advertise-client-urls={client}",
            f"--listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster=cp-1={peer}",
            f"--cert-file={f}/etcd.crt --key-file={f}/etcd.key --client-cert-auth --trusted-ca-file={f}/etcd-ca.crt",
        )

    def start_api(self) -> None:
        """Start the API server and wait until it is ready."""
        f = self._folder
        self._start(
            "kube-apiserver",
            f"--etcd-servers=https://127.0.0.1:{self._etcd} --etcd-cafile={f}/etcd-ca.crt",
            f"--etcd-certfile={f}/etcd-client.crt --etcd-keyfile={f}/etcd-client.key",
            f"--bind-address=127.0.0.1 --secure-port={self.port} --cert-dir={f}/generated",
            f"--tls-cert-file={f}/api.crt --tls-private-key-file={f}/api.key --client-ca-file={f}/ca.crt",
            "--service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.2.0.0/24",
            f"--service-account-key-file={f}/sa.pub --service-account-signing-key-file={f}/sa.key",
            "--authorization-mode=Node,RBAC --disable-admission-plugins=ServiceAccount,PersistentVolumeClaimResize",
            "--shutdown-delay-duration=0s",
        )
        self._wait()

    def stop(self, name: str) -> None:
        """End one of the two at once."""
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End both."""
        self.admin.close()
        for name in list(self._running):
            self.stop(name)

    def client(self, name: str, groups: tuple[str, ...]) -> httpx.Client:
        """A client in somebody's name."""
        identity = pki.client_identity(self.secrets, SECRETS, name=name, groups=groups)
        assert identity is not None
        base = f"https://127.0.0.1:{self.port}"
        return httpx.Client(base_url=base, verify=pki.ssl_context(identity), trust_env=False, timeout=20)

    def _start(self, name: str, *arguments: str) -> None:
        argv = [str(self._programs / name), *(word for line in arguments for word in line.split())]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self._folder)

    def _wait(self) -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            with contextlib.suppress(httpx.HTTPError):
                if self.admin.get("/readyz").status_code == 200:
                    return
            for name, process in self._running.items():
                if process.poll() is not None:
                    log = (self._folder / f"{name}.log").read_text()[-2000:]
                    raise RuntimeError(f"{name} ended:\n{log}")
            time.sleep(0.1)
        raise TimeoutError("the API server did not become ready")

    def _write_files(self) -> None:
        a, f = self._authorities, self._folder
        (f / "ca.crt").write_bytes(a.ca.certificate)
        (f / "etcd-ca.crt").write_bytes(a.etcd.certificate)
        (f / "sa.pub").write_bytes(a.service_accounts.certificate)
        (f / "sa.key").write_bytes(a.service_accounts.key)
        _serving(a.ca, f, "api")
        _serving(a.etcd, f, "etcd")
        identity = pki.client_identity(self.secrets, SECRETS, authority="etcd")
        assert identity is not None
        (f / "etcd-client.crt").write_bytes(identity.certificate)
        (f / "etcd-client.key").write_bytes(identity.key)


def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """A running control plane for a fixture; nothing of it is left afterwards."""
    programs = binaries()
    assert programs is not None
    found = ControlPlane(programs, folder)
    try:
        found.start_etcd()
        found.start_api()
        yield found
    finally:
        found.stop_all()


def serving_request(user: str, names: Sequence[str], group: str = "system:nodes") -> bytes:
    """A certificate request as a kubelet makes it, PEM; a name that is an address is asked for as one."""
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group), x509.NameAttribute(NameOID.COMMON_NAME, user)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _serving(authority: pki.KeyPair, folder: Path, name: str) -> None:
    """A server's certificate for all the control plane's addresses."""
    ca = x509.load_pem_x509_certificate(authority.certificate)
    ca_key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    hosts = [_general(h) for h in (ENDPOINT, "10.99.0.1", "127.0.0.1", "localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=2))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(
            # etcd's gateway is a client of etcd itself
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    private = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(private)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
