"""A small HTTPS client of the API on the standard library. TLS is always verified.

Knows requests, streams and errors; knows nothing of kinds.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from bedplate.cli.context import Context
from bedplate.cli.errors import ApiError, UnreachableError, UserError

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

_UPLOAD_SECONDS = 600.0
"""The longest silence of an upload: the server verifies a disk's digest before it answers."""

Query = Mapping[str, str | int | bool | None]


class Client:
    """One controller's API. Keeps one connection for requests; each stream has a connection of its own.

    `timeout` is in seconds and bounds each wait for the network.
    """

    def __init__(self, context: Context, timeout: float = 30.0) -> None:
        self.context = context
        self.timeout = timeout
        parts = urlsplit(context.server)
        self.host = parts.hostname or ""
        self.port = parts.port or 443
        self._prefix = parts.path
        self._tls: ssl.SSLContext | None = None
        self._connection: http.client.HTTPSConnection | None = None

    def tls(self) -> ssl.SSLContext:
        """The TLS settings: verified against the context's certificate authority."""
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cadata=self.context.ca or None)
            except ssl.SSLError:
                raise UserError(f'the certificate authority of context "{self.context.name}" is not PEM') from None
        return self._tls

    def headers(self) -> dict[str, str]:
        """Headers that say who asks."""
        return {"Authorization": f"Bearer {self.context.token}"} if self.context.token else {}

    def get(self, path: str, query: Query | None = None, accept: str = JSON) -> Any:
        """GET a path and give its JSON."""
        return self.request("GET", path, query=query, accept=accept)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Query | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Any:
        """Send a request with a JSON body and give the reply's JSON.

        Raises:
            ApiError: the API refused.
            UserError: no controller answers, or not over trusted TLS.
        """
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        return _decode(self.raw(method, path, data, query, content_type, accept))

    def raw(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        query: Query | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> bytes:
        """Send a request and give the reply's bytes. Raises as `request` does."""
        headers = {**self.headers(), "Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        kept = self._connection is not None
        try:
            response, data = self._once(method, path, query, body, headers)
        except UnreachableError:
            # The server may have closed an idle connection; only then, and only once, is trying again right.
            if not kept or method != "GET":
                raise
            response, data = self._once(method, path, query, body, headers)
        if response.status >= 400:
            raise _refusal(response.status, data)
        return data

    def upload(self, path: str, file: IO[bytes], size: int) -> None:
        """PUT a file's bytes, streamed. `size` is in bytes. Raises as `request` does."""
        headers = {**self.headers(), "Content-Type": "application/octet-stream", "Content-Length": str(size)}
        # Its own connection: the server may refuse before all is sent.
        connection = self._connect()
        try:
            with _Faults(self):
                connection.timeout = _UPLOAD_SECONDS
                connection.request("PUT", self._prefix + path, body=file, headers=headers)
                response = connection.getresponse()
                data = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise _refusal(response.status, data)

    def stream(self, path: str, query: Query, accept: str = JSON, timeout: float | None = None) -> Iterator[Any]:
        """GET a path that answers with JSON lines, and give each as it comes; ends when the server ends.

        `timeout` is the longest silence in seconds. Raises as `request` does.
        """
        connection = self._connect()
        try:
            with _Faults(self):
                headers = {**self.headers(), "Accept": accept}
                connection.connect()
                connection.sock.settimeout(timeout)
                connection.request("GET", self._url(path, query), headers=headers)
                response = connection.getresponse()
                if response.status >= 400:
                    raise _refusal(response.status, response.read())
            try:
                for line in _lines(response):
                    yield json.loads(line)
            except (OSError, http.client.HTTPException):
                return
        finally:
            connection.close()

    def close(self) -> None:
        """Close the kept connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(
        self, method: str, path: str, query: Query | None, body: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        with _Faults(self):
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request(method, self._url(path, query), body=body, headers=headers)
            response = self._connection.getresponse()
            return response, response.read()

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, timeout=self.timeout, context=self.tls())

    def _url(self, path: str, query: Query | None) -> str:
        used = {k: str(v).lower() if isinstance(v, bool) else v for k, v in (query or {}).items() if v is not None}
        return f"{self._prefix}{path}?{urlencode(used)}" if used else self._prefix + path

    def explain(self, error: BaseException) -> UserError | None:
        """Turn a fault of the network into a sentence with its remedy; None for any other fault."""
        server = self.context.server
        if isinstance(error, ssl.SSLCertVerificationError):
            return UserError(
                f"the certificate of {server} is not trusted ({error.verify_message}); the context file "
                f'"{self.context.name}" belongs to another controller: fetch the right one'
            )
        if isinstance(error, ssl.SSLError):
            return UserError(f"no TLS with {server}: {error.reason or error}; is it Bedplate's API?")
        if isinstance(error, ConnectionRefusedError):
            return UnreachableError(
                f"no controller answers at {server}; start one with `bedplate lab up` or `bedplate serve`"
            )
        if isinstance(error, socket.gaierror):
            return UserError(f"the host of {server} cannot be found: {error.strerror}; check the context file")
        if isinstance(error, TimeoutError):
            return UnreachableError(f"the controller at {server} did not answer in time; look at its log")
        if isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError):
            return UnreachableError(f"the controller at {server} closed the connection without an answer")
        if isinstance(error, OSError | http.client.HTTPException):
            return UnreachableError(f"the connection to {server} failed: {error}")
        return None


class _Faults:
    """Turns faults of the network into `UserError`. A class, as `contextlib` would cost start-up time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        explained = self._client.explain(error)
        if explained is not None:
            self._client.close()
            raise explained from None


def _lines(response: http.client.HTTPResponse) -> Iterable[bytes]:
    while line := response.readline():
        if line.strip():
            yield line


def _decode(data: bytes) -> Any:
    if not data:
        return {}
    try:
        return json.loads(data)
    except ValueError:
        raise UserError(f"the controller answered with something that is not JSON: {data[:80]!r}") from None


def _refusal(code: int, data: bytes) -> ApiError:
    try:
        status = json.loads(data)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        status = {"message": data.decode(errors="replace").strip()[:500]}
    message = str(status.get("message") or f"the controller answered {code} {http.client.responses.get(code, '')}")
    if code == 401:
        message = f"the controller does not accept this context's token ({message}); fetch a new context file"
    return ApiError(message, code, status)
