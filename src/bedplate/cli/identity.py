"""The API's own certificate authority, serving certificate and the administrator's token, kept in the store's vault.

The serving certificate is made anew at every start and never kept.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets as random_source
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bedplate.ports import SecretStore

CA_SECRET = "api/ca"
TOKEN_SECRET = "api/admin-token"
CA_DAYS = 3650
LEAF_DAYS = 365
_SKEW = datetime.timedelta(hours=1)


class ApiIdentity(NamedTuple):
    """What the API shows and asks for."""

    ca: str
    """PEM text for clients."""
    token: str
    certificate: Path
    """PEM file with certificate and key, mode 0600; delete it once the server has read it."""


def api_identity(vault: SecretStore, hosts: tuple[str, ...]) -> ApiIdentity:
    """Make or load the authority and the token; make a serving certificate for `hosts` (names or addresses)."""
    kept = vault.get_secret(CA_SECRET) or vault.put_secret_once(CA_SECRET, _new_authority())
    key = serialization.load_pem_private_key(kept, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    ca = x509.load_pem_x509_certificate(kept[kept.index(b"-----BEGIN CERTIFICATE") :])
    token = vault.put_secret_once(TOKEN_SECRET, random_source.token_urlsafe(32).encode()).decode()
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = _sign(ca.subject, key, leaf_key.public_key(), hosts)
    with tempfile.NamedTemporaryFile(prefix="bedplate-", suffix=".pem", delete=False) as file:
        file.write(_private(leaf_key) + leaf.public_bytes(serialization.Encoding.PEM))
    return ApiIdentity(ca.public_bytes(serialization.Encoding.PEM).decode(), token, Path(file.name))


def public_names(host: str) -> tuple[str, ...]:
    """Hosts that the API is known by when it listens at `host`; clients on this computer find it at the first."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if everywhere:
        names = ("::1" if ":" in host else "127.0.0.1", socket.gethostname(), "127.0.0.1", "localhost")
    else:
        names = (host, "127.0.0.1", "localhost")
    return tuple(dict.fromkeys(names))


def bracketed(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _new_authority() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bedplate API")])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _private(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _sign(
    issuer: x509.Name, ca_key: ec.EllipticCurvePrivateKey, public: ec.EllipticCurvePublicKey, hosts: tuple[str, ...]
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = [_general_name(host) for host in hosts]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + datetime.timedelta(days=LEAF_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
