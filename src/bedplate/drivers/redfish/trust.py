"""Which certificate of a BMC is taken: one that the system trusts, one that a given CA signed, or any, if so written.

BMCs are shipped with certificates of their own in any name. Such a certificate may be given itself: then it is that one
and no other, and its name does not count.
"""

from __future__ import annotations

import functools
import re
import socket
import ssl

from bedplate.model.bmc_address import INSECURE

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_WRONG_NAME = {62, 64}
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


class Trust:
    """What a BMC's certificate is checked against."""

    def __init__(self, verify_ca: str) -> None:
        """`verify_ca`: PEM certificates, `insecure`, or empty for the system's trust. Reads no file.

        Raises:
            ValueError: what looks like a certificate is none.
        """
        self._pinned: frozenset[bytes] = frozenset()
        self._context: ssl.SSLContext | None = None
        if verify_ca == INSECURE:
            self._context = _any()
        elif verify_ca.strip():
            self._context = ssl.create_default_context(cadata=verify_ca)
            self._context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
            self._pinned = frozenset(ssl.PEM_cert_to_DER_cert(m) for m in _PEM.findall(verify_ca))

    def wrap(self, raw: socket.socket, host: str) -> ssl.SSLSocket:
        """Give a TLS socket whose handshake is yet to be made."""
        context = self._context or _system()
        return context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)

    def only_wrong_name(self, error: ssl.SSLError) -> bool:
        """True where the certificate is trusted but for its name, and could be one that was given itself."""
        return (
            isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _WRONG_NAME and bool(self._pinned)
        )

    def wrap_pinned(self, raw: socket.socket, host: str) -> ssl.SSLSocket:
        """As `wrap`, whatever name is in the certificate; check it with `is_pinned` before a byte is sent."""
        context = ssl.create_default_context(cadata="\n".join(map(ssl.DER_cert_to_PEM_cert, self._pinned)))
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        return context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)

    def is_pinned(self, connection: ssl.SSLSocket) -> bool:
        """True where the BMC showed exactly one of the given certificates."""
        return connection.getpeercert(binary_form=True) in self._pinned


@functools.cache
def _any() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.cache
def _system() -> ssl.SSLContext:
    """Read once, by the first request that needs it: it takes a tenth of a second, which a loop should not spend."""
    return ssl.create_default_context()
