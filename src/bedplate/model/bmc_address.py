"""How the address of a BMC and the trust in its certificate are written. Reads texts, opens nothing."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

INSECURE = "insecure"
"""`verifyCA` in this word: any certificate is taken. Never meant by leaving it out."""
EXAMPLE = "redfish+https://10.0.0.7/redfish/v1/Systems/1"
ROOT = "/redfish/v1"

_SYSTEM = re.compile(r"^/redfish/v1/Systems/[^/?#\s]+$")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


class BmcAddressError(ValueError):
    """What is wrong with the text and what would be right, to be read after the field's name."""


class BmcAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a BMC is spoken to."""

    scheme: Literal["https", "http"]
    host: str
    """A name or an address; an IPv6 one without brackets."""
    port: int
    system: str = ""
    """Path of the system, such as `/redfish/v1/Systems/1`; empty: the only one that the BMC has."""

    @property
    def base_url(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str) -> BmcAddress:
    """Read `redfish+https://HOST[:PORT][/redfish/v1/Systems/ID]`, or the same with `redfish+http`.

    Raises:
        BmcAddressError: anything else.
    """
    try:
        url = urlsplit(text.strip())
        host, port = url.hostname or "", url.port
    except ValueError as error:
        raise BmcAddressError(f'"{text}" is not an address ({error}); write it like {EXAMPLE}') from None
    if "@" in url.netloc:  # the text is not repeated: it may hold a password
        raise BmcAddressError("holds a user name or password; put them into the Secret that credentials names")
    if url.scheme not in {"redfish+https", "redfish+http"}:
        raise BmcAddressError(f'"{text}" does not say that Redfish is spoken; write it like {EXAMPLE}')
    if not host or re.search(r"\s", url.netloc):
        raise BmcAddressError(f'"{text}" names no host; write it like {EXAMPLE}')
    if port == 0:
        raise BmcAddressError(f'"{text}" has no usable port; leave it out or write one from 1 to 65535')
    path = url.path.rstrip("/")
    if url.query or url.fragment or (path not in {"", ROOT} and not is_system(path)):
        remedy = f"write it like {EXAMPLE}, or leave the path out where the BMC has one system only"
        raise BmcAddressError(f'"{text}" does not end in a system\'s path; {remedy}')
    scheme = "https" if url.scheme == "redfish+https" else "http"
    default = 443 if scheme == "https" else 80
    return BmcAddress(scheme=scheme, host=host, port=port or default, system=path if path not in {"", ROOT} else "")


def is_system(path: str) -> bool:
    """True for a path at which a system is looked for."""
    return bool(_SYSTEM.match(path))


def verify_ca_fault(text: str) -> str:
    """Say what is wrong with a `verifyCA`, or give an empty text. Empty means the system's own trust."""
    if not text.strip() or text == INSECURE:
        return ""
    remedy = f"paste a PEM certificate, write {INSECURE}, or leave it out to trust what the system trusts"
    if "PRIVATE KEY" in text:
        return "holds a private key; give the certificate only, and treat this key as known"
    if text.strip().lower() in {INSECURE, "false", "no", "none", "true"}:
        return f'"{text}" is not understood; {remedy}'
    blocks = _PEM.findall(text)
    if not blocks:
        return f"holds no certificate; {remedy}"
    for block in blocks:
        try:
            base64.b64decode("".join(block.split()), validate=True)
        except binascii.Error:
            return f"holds a certificate that is damaged; {remedy}"
    return ""
