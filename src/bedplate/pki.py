"""A cluster's certificate authorities and what is signed with them. Keeps them in the vault, and nowhere else.

Blocking (the vault is). May not: talk to anybody.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
import tempfile
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bedplate.ports import SecretStore

CA_DAYS = 3650
"""As kubeadm's own."""
_SKEW = datetime.timedelta(hours=1)
_NAME = "authorities"

AuthorityName = Literal["ca", "etcd", "front-proxy"]
_COMMON_NAMES: dict[AuthorityName, str] = {
    "ca": "kubernetes",
    "etcd": "etcd-ca",
    "front-proxy": "front-proxy-ca",
}


class KeyPair(msgspec.Struct, frozen=True):
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes


class Authorities(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes one cluster's trust."""

    ca: KeyPair
    etcd: KeyPair
    front_proxy: KeyPair
    service_accounts: KeyPair
    """The key pair that signs service accounts' tokens; its `certificate` is the bare public key."""

    def of(self, name: AuthorityName) -> KeyPair:
        """The authority of that name."""
        return {"ca": self.ca, "etcd": self.etcd, "front-proxy": self.front_proxy}[name]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A client's certificate and key with the authority to trust, all PEM."""

    ca: bytes
    certificate: bytes
    key: bytes


# --- keeping --------------------------------------------------------------------------------------------------


def exists(secrets: SecretStore, prefix: str) -> bool:
    """True where the cluster's authorities were made and are kept."""
    return secrets.get_secret(f"{prefix}/{_NAME}") is not None


def load(secrets: SecretStore, prefix: str) -> Authorities | None:
    """The cluster's authorities; None where they were never made or are forgotten."""
    kept = secrets.get_secret(f"{prefix}/{_NAME}")
    return None if kept is None else msgspec.json.decode(kept, type=Authorities)


def ensure(secrets: SecretStore, prefix: str) -> Authorities:
    """Make the authorities unless there are some already, and give the ones that are kept."""
    found = load(secrets, prefix)
    if found is not None:
        return found
    made = Authorities(
        ca=_new_authority(_COMMON_NAMES["ca"]),
        etcd=_new_authority(_COMMON_NAMES["etcd"]),
        front_proxy=_new_authority(_COMMON_NAMES["front-proxy"]),
        service_accounts=_new_signing_key(),
    )
    kept = secrets.put_secret_once(f"{prefix}/{_NAME}", msgspec.json.encode(made))
    return msgspec.json.decode(kept, type=Authorities)


def forget(secrets: SecretStore, prefix: str) -> None:
    """Forget the authorities and whatever else is kept under the prefix."""
    for name in secrets.list_secrets(f"{prefix}/"):
        secrets.delete_secret(name)


# --- using ----------------------------------------------------------------------------------------------------


def client_identity(
    secrets: SecretStore,
    prefix: str,
    *,
    name: str = "bedplate",
    groups: tuple[str, ...] = ("system:masters",),
    hours: float = 24.0,
    authority: AuthorityName = "ca",
) -> Identity | None:
    """A new client certificate; None where the cluster has no authorities.

    Args:
        secrets: The vault.
        prefix: Where the cluster's secrets lie in it.
        name: The user, as Kubernetes takes it from the certificate.
        groups: The user's groups.
        hours: How long it is good.
        authority: Which of the cluster's authorities signs it.
    """
    kept = load(secrets, prefix)
    if kept is None:
        return None
    pair = kept.of(authority)
    ca = x509.load_pem_x509_certificate(pair.certificate)
    ca_key = serialization.load_pem_private_key(pair.key, password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*subject, x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(hours=hours))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return Identity(ca=pair.certificate, certificate=_pem(certificate), key=_private(key))


def ssl_context(identity: Identity) -> ssl.SSLContext:
    """A client's TLS settings: trusts that authority alone, shows that certificate. The key touches memory only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.ca.decode())
    # The ssl module takes certificates from files alone: this one lives in memory, for a moment, readable by us.
    with tempfile.NamedTemporaryFile(dir=_memory(), prefix="bedplate-", suffix=".pem") as file:
        file.write(identity.certificate + identity.key)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def discovery_hash(authority: KeyPair) -> str:
    """`sha256:<hex>` of the authority's public key, as kubeadm's `caCertHashes` take it."""
    public = x509.load_pem_x509_certificate(authority.certificate).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# --- making ---------------------------------------------------------------------------------------------------


def _new_authority(common_name: str) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, False, True, False, False, True, False, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(_pem(certificate), _private(key))


def _new_signing_key() -> KeyPair:
    # RSA: service accounts' tokens are then RS256, which all that verifies OIDC tokens understands.
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return KeyPair(public, _private(key))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    # kubeadm reads PKCS#1 and SEC 1 keys everywhere, PKCS#8 not in all versions.
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
