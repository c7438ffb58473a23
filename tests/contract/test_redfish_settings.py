"""How a BMC is declared: what is taken, what is refused and with which remedy; and whose certificate is trusted."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

sys.path.insert(0, str(Path(__file__).parent))

from redfish_rig import Clock, Troubled
from troublesome_bmc import SYSTEM

from bedplate.model.blueprint import BmcRef
from bedplate.model.bmc_address import BmcAddress, BmcAddressError, parse
from bedplate.model.inventory import BmcView
from bedplate.model.kinds.infrastructure import Bmc, BmcCredentials, Server, ServerSpec
from bedplate.model.meta import ObjectMeta
from bedplate.model.steps import Done
from bedplate.model.validation import single


@pytest.mark.parametrize(
    ("text", "url", "system"),
    [
        ("redfish+https://10.0.0.7/redfish/v1/Systems/1", "https://10.0.0.7:443", "/redfish/v1/Systems/1"),
        ("redfish+https://10.0.0.7/redfish/v1/Systems/1/", "https://10.0.0.7:443", "/redfish/v1/Systems/1"),
        ("redfish+http://bmc.example:8000", "http://bmc.example:8000", ""),
        ("redfish+http://bmc.example/redfish/v1/", "http://bmc.example:80", ""),
        ("redfish+https://[fd00::7]:8443/", "https://[fd00::7]:8443", ""),
        (
            "redfish+https://idrac/redfish/v1/Systems/System.Embedded.1",
            "https://idrac:443",
            "/redfish/v1/Systems/System.Embedded.1",
        ),
    ],
)
def test_an_address_is_read(text: str, url: str, system: str) -> None:
    found = parse(text)
    assert isinstance(found, BmcAddress)
    assert (found.base_url, found.system) == (url, system)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://10.0.0.7", "does not say that Redfish is spoken"),
        ("10.0.0.7", "does not say that Redfish is spoken"),
        ("redfish://10.0.0.7", "does not say that Redfish is spoken"),
        ("ipmi://10.0.0.7", "does not say that Redfish is spoken"),
        ("redfish+https://", "names no host"),
        ("redfish+https:///redfish/v1/Systems/1", "names no host"),
        ("redfish+https://10.0.0.7:99999", "is not an address"),
        ("redfish+https://10.0.0.7:0", "no usable port"),
        ("redfish+https://[::1", "is not an address"),
        ("redfish+https://10.0.0.7/redfish/v1/Managers/1", "does not end in a system's path"),
        ("redfish+https://10.0.0.7/redfish/v1/Systems/1?x=1", "does not end in a system's path"),
        ("redfish+https://admin:hunter2@10.0.0.7", "put them into the Secret"),
    ],
)
def test_an_address_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(BmcAddressError, match=r"write it like|leave it out|Secret") as raised:
        parse(text)
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


def faults(address: str = "redfish+https://10.0.0.7", verify_ca: str = "") -> dict[str, str]:
    bmc = Bmc(address=address, credentials=BmcCredentials(secret="hv1-bmc"), verify_ca=verify_ca)
    found = single.check(Server(metadata=ObjectMeta(name="hv1"), spec=ServerSpec(bmc=bmc)))
    return {f.field: f.message for f in found}


def test_a_server_with_a_bmc_is_checked_where_it_is_declared() -> None:
    assert faults() == {}
    assert list(faults(address="")) == ["spec.bmc.address"]
    assert "redfish+https://" in faults(address="https://10.0.0.5")["spec.bmc.address"]


@pytest.mark.parametrize(
    ("verify_ca", "said"),
    [
        ("Insecure", "is not understood"),
        ("false", "is not understood"),
        ("/etc/ssl/ca.pem", "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----", "damaged"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "private key"),
    ],
)
def test_trust_that_is_none_is_refused(verify_ca: str, said: str) -> None:
    [(field, message)] = faults(verify_ca=verify_ca).items()
    assert field == "spec.bmc.verifyCA"
    assert said in message


# --- certificates -----------------------------------------------------------------------------------------------


class Certificate:
    """Signed by itself, or by another."""

    def __init__(self, name: str, *, ip: str = "", signer: Certificate | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(ip))] if ip else [x509.DNSName(name)]
        by = signer or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(by.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
            .sign(by.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def context(self, folder: Path) -> ssl.SSLContext:
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = folder / "bmc.pem"
        file.write_bytes(self.pem.encode() + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


CA = Certificate("our CA")
OTHER = Certificate("somebody else")


@pytest.mark.parametrize(
    ("shown", "verify_ca", "trusted"),
    [
        (Certificate("idrac", ip="127.0.0.1", signer=CA), CA.pem, True),
        (Certificate("idrac", ip="127.0.0.1", signer=CA), OTHER.pem + CA.pem, True),
        (Certificate("idrac", ip="127.0.0.1", signer=CA), OTHER.pem, False),
        (Certificate("idrac", ip="127.0.0.1", signer=CA), "", False),
        (Certificate("idrac", ip="127.0.0.1", signer=CA), "insecure", True),
        (Certificate("idrac-ABC", signer=CA), CA.pem, False),
        (own := Certificate("idrac-ABC"), own.pem, True),
        (Certificate("idrac-ABC"), own.pem, False),
        (Certificate("idrac-ABC"), "insecure", True),
    ],
    ids=["ca", "two-cas", "other-ca", "system", "insecure", "wrong-name", "given-itself", "not-given", "any"],
)
async def test_a_certificate_is_trusted_or_not(
    shown: Certificate, verify_ca: str, trusted: bool, tmp_path: Path
) -> None:
    rig = Troubled(Clock())
    server = rig.bmc.server
    server.socket = shown.context(tmp_path).wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    address = f"redfish+https://127.0.0.1:{rig.bmc.port}{SYSTEM}"
    rig.ref = BmcRef(address=address, secret=rig.ref.secret, verify_ca=verify_ca)
    try:
        result = await rig.read()
        assert isinstance(result, Done)
        [told] = result.views
        assert isinstance(told, BmcView)
        assert told.reachable == trusted, told.error
        if not trusted:
            assert "verifyCA" in told.error
            assert rig.bmc.requests == []
    finally:
        await rig.stop()


async def test_plain_http_where_tls_is_spoken_is_told() -> None:
    rig = Troubled(Clock())
    rig.ref = BmcRef(address=f"redfish+https://127.0.0.1:{rig.bmc.port}", secret=rig.ref.secret, verify_ca="insecure")
    try:
        result = await rig.read()
        assert isinstance(result, Done)
        [told] = result.views
        assert isinstance(told, BmcView)
        assert "no TLS" in told.error
    finally:
        await rig.stop()
