"""One HTTP request to a BMC, bounded in time and size, that another thread can cut off. Blocking; no retries.

Each request has a connection of its own: BMCs choke on kept ones. Nothing is ever sent to another host than the BMC's,
whatever a redirect or a link says; no proxy is used.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sushy import exceptions as sushy_errors

from bedplate.drivers.redfish.trust import Trust
from bedplate.model.bmc_address import BmcAddress

SIZE_LIMIT = 8 << 20
"""Bytes of an answer: a large collection with all in it has some hundred KiB."""
REDIRECTS = 3


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that a BMC may take."""

    connect: float = 3.0
    """A management network answers in milliseconds, a TCP handshake is sent again after 1 s."""
    read: float = 15.0
    """Of silence. Loaded BMCs take 5 s for a system, some 10 s."""
    answer: float = 20.0
    """For one whole request, however it trickles in."""


class WireError(sushy_errors.ConnectionError):
    """No whole answer came. `sent`: the request may have arrived."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, in the form that sushy takes."""

    status_code: int
    headers: http.client.HTTPMessage
    content: bytes

    def json(self) -> Any:
        """The body. Raises `ValueError`."""
        return json.loads(self.content)


class Wire:
    """Makes one request at a time."""

    def __init__(self, address: BmcAddress, trust: Trust, limits: Limits) -> None:
        self._address = address
        self._trust = trust
        self._limits = limits
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False
        self.reached = False
        """Something took a connection."""
        self.certificate = b""
        """The one that the BMC showed last, in DER; empty: none yet, or no TLS."""

    def begin(self) -> None:
        """Forget an earlier `cut`; what follows may take its time again."""
        with self._lock:
            self._cut = False

    def cut(self) -> None:
        """End the request that another thread is waiting for, and refuse others until `begin`. Does not block."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Of the base class: an SSLSocket's own would pull the TLS state away from under its reader.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def request(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        """Make a request.

        Args:
            method: HTTP's.
            url: A path; of a whole URL only its path is used.
            body: JSON, or None.
            headers: All but the host's.

        Raises:
            WireError: there is no whole answer.
        """
        for _ in range(REDIRECTS + 1):
            reply = self._once(method, url, body, headers)
            location = reply.headers.get("Location")
            if reply.status_code not in {301, 302, 307, 308} or not location or method != "GET":
                return reply
            url = location
        raise WireError("it sends in a circle; where it speaks TLS, write redfish+https", sent=True)

    def _once(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        end = time.monotonic() + self._limits.answer
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(self._address.host, self._address.port)
        sent = False
        try:
            connection.sock = self._open()
            connection.sock.settimeout(self._limits.read)
            sent = True
            connection.request(method, target, body=body, headers={**headers, "Connection": "close"})
            response = connection.getresponse()
            content = self._body(response, end)
            return Reply(status_code=response.status, headers=response.headers, content=content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise WireError(self._sentence(error), sent=sent) from None
        finally:
            connection.close()
            with self._lock:
                opened, self._socket = self._socket, None
            if opened is not None:
                opened.close()

    def _open(self) -> socket.socket:
        try:
            return self._connect(pinned=False)
        except ssl.SSLError as error:
            if not self._trust.only_wrong_name(error):
                raise
        return self._connect(pinned=True)

    def _connect(self, *, pinned: bool) -> socket.socket:
        host = self._address.host
        raw = socket.create_connection((host, self._address.port), timeout=self._limits.connect)
        self.reached = True
        if self._address.scheme == "http":
            return self._hold(raw)
        wrap = self._trust.wrap_pinned if pinned else self._trust.wrap
        secured = wrap(raw, host)
        self._hold(secured)
        secured.settimeout(self._limits.read)
        secured.do_handshake()
        if pinned and not self._trust.is_pinned(secured):
            why = f"the certificate of {host} is for another name, and is none that spec.bmc.verifyCA gives"
            raise WireError(f"{why}; give this very certificate there, or use the name that is in it", sent=False)
        self.certificate = secured.getpeercert(binary_form=True) or b""
        return secured

    def _hold(self, opened: socket.socket) -> socket.socket:
        """Keep it in reach of `cut`."""
        with self._lock:
            if self._cut:
                opened.close()
                raise TimeoutError("cut off")
            earlier, self._socket = self._socket, opened
        if earlier is not None:
            earlier.close()
        return opened

    @staticmethod
    def _body(response: http.client.HTTPResponse, end: float) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while chunk := response.read1(1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > SIZE_LIMIT:
                raise http.client.HTTPException(f"its answer is larger than {SIZE_LIMIT >> 20} MiB")
            if time.monotonic() > end:
                raise TimeoutError("its answer trickles in too slowly")
        if response.length:  # a connection that closes early ends `read1` without a word
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(chunks)

    def _sentence(self, error: Exception) -> str:
        where = f"{self._address.host}:{self._address.port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"the certificate of {where} is not trusted ({error.verify_message})"
            return f'{why}; give it or its CA in spec.bmc.verifyCA, or write "insecure" there'
        if isinstance(error, ssl.SSLError):
            return f"no TLS with {where}: {error.reason or error}"
        if isinstance(error, TimeoutError):
            return f"{where} did not answer in time"
        if isinstance(error, socket.gaierror):
            return f"the host {self._address.host} can't be found: {error.strerror}"
        if isinstance(error, ConnectionRefusedError):
            return f"{where} refuses connections"
        if isinstance(error, http.client.IncompleteRead):
            return f"{where} broke off in the middle of its answer"
        if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
            return f"{where} closed the connection without an answer"
        return f"the connection to {where} failed: {error}"
