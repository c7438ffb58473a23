"""What the API is called: in its certificate, and in the context of who sits at the same computer."""

from __future__ import annotations

import ipaddress
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bedplate.cli import serve
from bedplate.cli.identity import api_identity, bracketed, public_names


class Vault(dict[str, bytes]):
    """The least of a secret store."""

    def get_secret(self, name: str) -> bytes | None:
        return self.get(name)

    def put_secret_once(self, name: str, value: bytes) -> bytes:
        return self.setdefault(name, value)


def certified(host: str) -> set[str]:
    vault: Any = Vault()
    identity = api_identity(vault, public_names(host))
    text = Path(identity.certificate).read_bytes()
    Path(identity.certificate).unlink()
    certificate = x509.load_pem_x509_certificate(text[text.index(b"-----BEGIN CERTIFICATE") :])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    return {*names.get_values_for_type(x509.DNSName), *addresses}


def test_the_host_that_was_asked_for_is_kept() -> None:
    assert public_names("api.example.com")[0] == "api.example.com"
    assert certified("api.example.com") == {"api.example.com", "127.0.0.1", "localhost"}
    assert certified("10.20.0.5") == {"10.20.0.5", "127.0.0.1", "localhost"}
    assert public_names("127.0.0.1") == ("127.0.0.1", "localhost")


@pytest.mark.parametrize(("host", "local"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_all_addresses_are_this_computer(host: str, local: str) -> None:
    assert public_names(host)[0] == local
    assert certified(host) >= {socket.gethostname(), local, "127.0.0.1", "localhost"}
    assert not any(ipaddress.ip_address(n).is_unspecified for n in certified(host) if n[0].isdigit())
    assert bracketed(local) == (f"[{local}]" if ":" in local else local)


def test_the_log_has_no_line_of_the_tables_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.structlog, "configure", lambda **_: None)
    serve._log_to_stderr()
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)
