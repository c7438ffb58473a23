"""The little cryptography of an enrolment, in a process of its own: its library would stay in the agent's memory.

`python -m bedplate.agent.signing request KEY_FILE NAME` makes the key where there is none and prints the request;
`python -m bedplate.agent.signing renewal CERTIFICATE_FILE` prints when to renew, in seconds since the epoch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RENEW_AFTER = 2 / 3
"""Of a certificate's time: a third is left to notice that renewing does not work."""


class SigningFailed(Exception):
    """The key or the certificate can't be used."""


def signing_request(key_file: Path, name: str) -> str:
    """Give a certificate signing request (PEM); makes the key where there is none. Raises `SigningFailed`."""
    return _child("request", str(key_file), name)


def renewal_time(certificate_file: Path) -> float:
    """When to renew, seconds since the epoch. Raises `SigningFailed`."""
    return float(_child("renewal", str(certificate_file)))


def _child(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bedplate.agent.signing", *argv], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise SigningFailed(f"{argv[0]} of {argv[1]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def _request(key_file: Path, name: str) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    from bedplate.agent.state import write_whole

    # With the key of an earlier try, an answer that was lost can be had again.
    if not key_file.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_whole(key_file, pem)
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def _renewal(certificate_file: Path) -> str:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return str((start + (end - start) * RENEW_AFTER).timestamp())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["request", key, name]:
            sys.stdout.write(_request(Path(key), name))
        case ["renewal", certificate]:
            sys.stdout.write(_renewal(Path(certificate)))
        case _:
            sys.exit("usage: signing request KEY_FILE NAME | signing renewal CERTIFICATE_FILE")
