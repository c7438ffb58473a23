"""The agents' certificate authority: makes enrolment files, signs and renews agents' certificates, knows who is who.

All that it keeps lies in the secret store; tokens only as hashes. Blocking (the store is); callers use a thread.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import secrets as random_source
import time
from collections.abc import Callable

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bedplate.model.agent_protocol import CONTROLLER_NAME, EnrolFile, EnrolRequest
from bedplate.model.ids import ServerName, StoreId
from bedplate.ports import SecretStore

CA_SECRET = "agents/ca"
TOKENS = "agents/token/"
USED = "agents/token-used/"
SERVERS = "agents/server/"

CA_DAYS = 3650
LEAF_DAYS = 365
"""Agents renew after two thirds of it."""
TOKEN_SECONDS = 24 * 3600
"""Long enough to carry a file to a rack, short enough that a forgotten one is worthless."""
SKEW = datetime.timedelta(hours=24)
"""A server's clock may be off before it has met a time server."""


class EnrolmentRefused(Exception):
    """The agent gets no certificate; the text says why and what to do."""


class _Token(msgspec.Struct, frozen=True):
    server: ServerName
    expires: float
    addresses: tuple[str, ...] = ()
    replace: bool = False
    beside: bool = False


class KnownServer(msgspec.Struct, frozen=True):
    """What an enrolled server is known by: the digest of its public key, and its hardware's identity."""

    key: str
    host_uuid: str
    resting: str = ""
    """Digest of the key of what lies on its disk, while something else runs for a time: it is as good as `key`."""

    def has(self, key: str) -> bool:
        """Whether that is a key of this server."""
        return key == self.key or (bool(self.resting) and key == self.resting)


class AgentAuthority:
    """The authority of one store."""

    def __init__(self, secrets: SecretStore, store: StoreId, clock: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._store = store
        self._clock = clock
        kept = secrets.get_secret(CA_SECRET) or secrets.put_secret_once(CA_SECRET, _new_authority(store))
        key = serialization.load_pem_private_key(kept, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(kept[kept.index(b"-----BEGIN CERTIFICATE") :])

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def listener_identity(self) -> bytes:
        """A fresh key and certificate for the listener, PEM, in one text. Never kept."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(CONTROLLER_NAME)]
        certificate = self._sign(key.public_key(), CONTROLLER_NAME, names, [ExtendedKeyUsageOID.SERVER_AUTH])
        return _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)

    def enrolment(
        self,
        server: ServerName,
        controller: str,
        addresses: tuple[str, ...] = (),
        *,
        replace: bool = False,
        beside: bool = False,
        valid_for: float = TOKEN_SECONDS,
    ) -> bytes:
        """Give an enrolment file (JSON) with a new one-time token.

        Args:
            server: Name under which the server will be known.
            controller: Where it dials: `host:port` or `unix:/path`.
            addresses: Its IP addresses, for the certificate that it also shows to other hypervisors.
            replace: True lets other hardware take over a name that is known already.
            beside: True leaves the key that the server is known by now in force: what has it comes back.
            valid_for: Seconds until the token ends.
        """
        token = random_source.token_urlsafe(32)
        record = _Token(server, self._clock() + valid_for, addresses, replace, beside)
        self._secrets.put_secret(TOKENS + _digest(token.encode()), msgspec.json.encode(record))
        file = EnrolFile(server=server, store=self._store, controller=controller, ca=self.pem, token=token)
        return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"

    def enrol(self, request: EnrolRequest, peer: ServerName | None) -> str:
        """Sign an agent's request; gives the certificate as PEM.

        Args:
            request: With a token, or without one where `peer` renews.
            peer: Name proved by the connection's client certificate, if it has one.

        Raises:
            EnrolmentRefused: no right to it.
        """
        csr = _read_request(request.request)
        fingerprint = public_key_digest(csr.public_key())
        if request.token:
            addresses = self._spend_token(request, fingerprint)
        elif peer is not None and peer == request.server:
            known = self.known(peer)
            if known is None or known.host_uuid != request.host_uuid:
                raise EnrolmentRefused(f"server {peer} is not known with this hardware; enrol it again with a new file")
            addresses = ()
            if not known.has(fingerprint):
                raise EnrolmentRefused("renewal keeps the key; enrol again to change it")
        else:
            raise EnrolmentRefused("neither a token nor a certificate of that server was shown")
        names: list[x509.GeneralName] = [x509.DNSName(request.server)]
        names += [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = self._sign(csr.public_key(), request.server, names, usages)
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def known(self, server: ServerName) -> KnownServer | None:
        """What an enrolled server is known by; None: not enrolled."""
        kept = self._secrets.get_secret(SERVERS + server)
        return msgspec.json.decode(kept, type=KnownServer) if kept is not None else None

    def forget(self, server: ServerName) -> None:
        """Take a server's right to connect away, and that of files that were made for it."""
        self._secrets.delete_secret(SERVERS + server)
        self._drop_tokens(lambda token: token.server == server)

    def enrolled(self) -> list[ServerName]:
        """The servers that are known."""
        return [ServerName(name.removeprefix(SERVERS)) for name in self._secrets.list_secrets(SERVERS)]

    def prune_tokens(self) -> None:
        """Drop tokens that have ended, and what is known of their use."""
        self._drop_tokens(lambda token: token.expires < self._clock())

    def _drop_tokens(self, wanted: Callable[[_Token], bool]) -> None:
        for name in self._secrets.list_secrets(TOKENS):
            kept = self._secrets.get_secret(name)
            if kept is not None and wanted(msgspec.json.decode(kept, type=_Token)):
                self._secrets.delete_secret(name)
                self._secrets.delete_secret(USED + name.removeprefix(TOKENS))

    def _spend_token(self, request: EnrolRequest, fingerprint: str) -> tuple[str, ...]:
        digest = _digest(request.token.encode())
        kept = self._secrets.get_secret(TOKENS + digest)
        token = msgspec.json.decode(kept, type=_Token) if kept is not None else None
        if token is None or token.expires < self._clock() or token.server != request.server:
            raise EnrolmentRefused(
                "the token is not known, has ended or is another server's; make a new enrolment file"
            )
        before = self.known(token.server)
        if before is not None and before.host_uuid != request.host_uuid and not token.replace:
            raise EnrolmentRefused(
                f"server {token.server} comes back with another identity: host uuid {request.host_uuid}, "
                f"known is {before.host_uuid}; if that is meant, `bedplate server enrol {token.server} --replace`"
            )
        # The same key may ask twice: its first answer may have been lost on the way.
        if self._secrets.put_secret_once(USED + digest, fingerprint.encode()) != fingerprint.encode():
            raise EnrolmentRefused("the token was used already; make a new enrolment file")
        rests = token.beside and before is not None and before.host_uuid == request.host_uuid
        resting = (before.resting or before.key) if rests and before is not None else ""
        known = KnownServer(key=fingerprint, host_uuid=request.host_uuid, resting=resting)
        self._secrets.put_secret(SERVERS + token.server, msgspec.json.encode(known))
        return token.addresses

    def _sign(
        self,
        key: object,
        name: str,
        names: list[x509.GeneralName],
        usages: list[x509.ObjectIdentifier],
    ) -> x509.Certificate:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + datetime.timedelta(days=LEAF_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def public_key_digest(key: object) -> str:
    """SHA-256 of a public key, in hex."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return _digest(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def certificate_identity(der: bytes) -> tuple[ServerName, str]:
    """The server's name and its key's digest in a client certificate that TLS has verified."""
    certificate = x509.load_der_x509_certificate(der)
    name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return ServerName(str(name)), public_key_digest(certificate.public_key())


def _new_authority(store: StoreId) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Bedplate agents {store}"[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=not signs,  # GnuTLS in libvirt asks for it also of EC keys
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _read_request(pem: str) -> x509.CertificateSigningRequest:
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        if not csr.is_signature_valid or not isinstance(csr.public_key(), ec.EllipticCurvePublicKey):
            raise ValueError("not signed by its own key")
    except (ValueError, InvalidSignature) as error:
        raise EnrolmentRefused("the certificate signing request is not valid") from error
    return csr


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
