"""Finds BMCs in a range of addresses, politely: few at a time, slowly, and nothing is asked that need not be. Blocking.

Two rounds. First each address is asked for `/redfish/v1/` over TLS, once and without credentials. Then, of what
answered as Redfish, each is logged in to once, and its systems are read; only under the certificate that it showed in
the first round, or one that a given CA signed. May not: change anything, try a password twice, speak without TLS.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import msgspec

from bedplate.drivers.redfish.credentials import Credentials
from bedplate.drivers.redfish.trust import Trust
from bedplate.drivers.redfish.wire import Limits, Reply, Wire, WireError
from bedplate.model.bmc_address import INSECURE, ROOT, BmcAddress

MOST_ADDRESSES = 4096
"""Of one range, a /20: some four minutes. What is larger is mistyped more often than meant."""
AT_ONCE = 32
"""Addresses in hand at a time: most of a range answer nothing, and each such takes `Limits.connect`."""
PER_SECOND = 20.0
"""New addresses a second: not what an intrusion detection takes for a flood, nor a BMC's switch for a storm."""
REFUSED_AT_MOST = 3
"""Logins refused with none taken, after which no more are tried: the password is wrong, and where BMCs ask one
directory, going on would lock its account."""
MOST_SYSTEMS = 16
"""Of one BMC; a blade chassis has as many."""
LIMITS = Limits(connect=2.0, read=10.0, answer=15.0)
LOOK_SECONDS, READ_SECONDS = 30.0, 120.0
"""For all of one address in the first round and in the second, however slowly it trickles in."""
_SESSIONS = f"{ROOT}/SessionService/Sessions"
_NO_SERIAL = {"", "0", "none", "unknown", "n/a", "null", "not specified", "to be filled by o.e.m.", "default string"}

T = TypeVar("T")
R = TypeVar("R")
Json = dict[str, Any]


class RangeError(ValueError):
    """A text that is no range, or too large a one: what is wrong and what would be right."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An address that answered, of the first round."""

    host: str
    port: int
    redfish: bool
    """It is a BMC that speaks Redfish."""
    vendor: str = ""
    product: str = ""
    certificate: str = ""
    """PEM."""
    root: Json = {}
    error: str = ""
    """Why nothing is asked of it further."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as browsers and `openssl x509 -fingerprint -sha256` show it, without colons."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate)).hexdigest() if self.certificate else ""


class System(msgspec.Struct, frozen=True, kw_only=True):
    """A system behind a BMC, of the second round."""

    path: str
    """`/redfish/v1/Systems/1`."""
    vendor: str = ""
    model: str = ""
    serial: str = ""
    """Empty: it has none, or a maker's placeholder."""
    uuid: str = ""
    power: str = ""
    """In the BMC's own word."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A BMC and what is behind it."""

    answer: Answer
    systems: tuple[System, ...] = ()
    error: str = ""
    """Why its systems are not known."""


def addresses(text: str) -> list[str]:
    """Give the addresses of `10.0.0.10-10.0.0.50`, `10.0.0.0/28` (without the network's own and its broadcast) or one.

    Raises:
        RangeError: it is none of these, or holds more than `MOST_ADDRESSES`.
    """
    text = text.strip()
    try:
        if "/" in text:
            network = ipaddress.ip_network(text)
            count = network.num_addresses
            first = network.network_address
            skip = 1 if network.version == 4 and count > 2 else 0
            low, high = int(first) + skip, int(first) + count - 1 - skip
        else:
            one, _, other = (part.strip() for part in text.partition("-"))
            first, last = ipaddress.ip_address(one), ipaddress.ip_address(other or one)
            if first.version != last.version:
                raise RangeError(f'"{text}" begins in IPv{first.version} and ends in IPv{last.version}')
            low, high = int(first), int(last)
    except ValueError as error:
        if isinstance(error, RangeError):
            raise
        hint = _network_hint(text)
        raise RangeError(f'"{text}" is no range of addresses; write it like 10.0.0.10-10.0.0.50 or {hint}') from None
    if low > high:
        raise RangeError(f'"{text}" ends before it begins; write the lower address first')
    if high - low + 1 > MOST_ADDRESSES:
        said = f'"{text}" holds {high - low + 1} addresses, and at most {MOST_ADDRESSES} are scanned at once'
        raise RangeError(f"{said}; name the part in which BMCs are, or scan it in parts")
    kind = type(first)
    return [str(kind(n)) for n in range(low, high + 1)]


def _network_hint(text: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_network(text, strict=False))
    return "10.0.0.0/28"


class Scanner:
    """Scans with one trust.

    Args:
        verify_ca: PEM of a CA or of certificates, `insecure` for any, or empty: the certificate that is shown in the
            first round, and no other, is taken in the second.
        port: At which BMCs are spoken to.
        limits: For each request.
        per_second: Addresses begun a second.

    Raises:
        ValueError: `verify_ca` is no certificate.
        OSError: the same, as OpenSSL says it.
    """

    def __init__(
        self, verify_ca: str = "", port: int = 443, limits: Limits = LIMITS, per_second: float = PER_SECOND
    ) -> None:
        Trust(verify_ca)
        self._verify_ca = verify_ca
        self._port = port
        self._limits = limits
        self._pace = _Pace(per_second)

    def verify_ca(self, answer: Answer) -> str:
        """What `spec.bmc.verifyCA` of a server behind it is to say."""
        return self._verify_ca or answer.certificate

    # --- the first round: who is there ---

    def look(self, hosts: Sequence[str]) -> list[Answer]:
        """Ask all addresses who they are; those that answer nothing at all are left out."""
        return [a for a in self._all(self._look, hosts) if a is not None]

    def _look(self, host: str) -> Answer | None:
        self._pace.wait()
        wire = self._wire(host, self._verify_ca or INSECURE)
        try:
            with _bounded(wire, LOOK_SECONDS):
                reply = wire.request("GET", f"{ROOT}/", None, _HEADERS)
        except WireError as error:
            if not wire.reached:
                return None
            return self._answer(host, wire, error=str(error.message))
        root = _json(reply)
        if reply.status_code != 200 or not _is_root(root):
            return self._answer(host, wire, error="it answers, and does not speak Redfish")
        oem = root.get("Oem")
        vendor = _text(root.get("Vendor")) or (next(iter(cast(Json, oem)), "") if isinstance(oem, dict) else "")
        product = _text(root.get("Product"))
        return self._answer(host, wire, redfish=True, vendor=vendor, product=product, root=root)

    def _answer(self, host: str, wire: Wire, *, redfish: bool = False, **known: Any) -> Answer:
        shown = ssl.DER_cert_to_PEM_cert(wire.certificate) if wire.certificate else ""
        return Answer(host=host, port=self._port, redfish=redfish, certificate=shown, **known)

    # --- the second round: what is behind them ---

    def read(self, answers: Sequence[Answer], credentials: Credentials) -> list[Found]:
        """Log in to each once and read its systems.

        One by one until the first takes the credentials; where `REFUSED_AT_MOST` refuse before, the rest is not tried.
        """
        done: list[Found] = []
        rest = list(answers)
        refused = 0
        while rest and not any(f.systems for f in done):
            if refused >= REFUSED_AT_MOST:
                why = f"not tried: {refused} others refused the user name and password, and none took them"
                return [*done, *(Found(answer=a, error=why) for a in rest)]
            found, taken = self._read(rest.pop(0), credentials)
            refused += not taken
            done.append(found)
        return [*done, *(found for found, _ in self._all(lambda a: self._read(a, credentials), rest))]

    def _read(self, answer: Answer, credentials: Credentials) -> tuple[Found, bool]:
        """What was found, and False where the credentials were refused."""
        self._pace.wait()
        wire = self._wire(answer.host, self.verify_ca(answer))
        try:
            with _bounded(wire, READ_SECONDS):
                visit = _Visit(wire, answer.root, credentials)
                try:
                    return Found(answer=answer, systems=visit.systems()), True
                finally:
                    visit.leave()
        except _Refused as error:
            return Found(answer=answer, error=str(error)), False
        except WireError as error:
            return Found(answer=answer, error=str(error.message)), True
        except _Odd as error:
            return Found(answer=answer, error=str(error)), True

    # --- both ---

    def _wire(self, host: str, verify_ca: str) -> Wire:
        return Wire(BmcAddress(scheme="https", host=host, port=self._port), Trust(verify_ca), self._limits)

    def _all(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do it for each, few at a time, in their order; interrupted, nothing new is begun."""
        pool = ThreadPoolExecutor(AT_ONCE, "scan")
        try:
            done = list(pool.map(work, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        return done


_HEADERS = {"Accept": "application/json", "OData-Version": "4.0", "User-Agent": "bedplate"}


class _Refused(Exception):
    """The credentials were refused."""


class _Odd(Exception):
    """An answer that is not what Redfish says."""


class _Visit:
    """One login at one BMC, and what is read under it."""

    def __init__(self, wire: Wire, root: Json, credentials: Credentials) -> None:
        self._wire = wire
        self._root = root
        self._headers = dict(_HEADERS)
        self._session = ""
        if "SessionService" in root or _link(root.get("Links"), "Sessions"):
            self._log_in(credentials)
        else:
            pair = f"{credentials.username}:{credentials.password}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()

    def _log_in(self, credentials: Credentials) -> None:
        path = _link(self._root.get("Links"), "Sessions") or _SESSIONS
        body = json.dumps({"UserName": credentials.username, "Password": credentials.password}).encode()
        reply = self._wire.request("POST", path, body, {**_HEADERS, "Content-Type": "application/json"})
        token = reply.headers.get("X-Auth-Token")
        if reply.status_code in {200, 201} and token:
            self._headers["X-Auth-Token"] = token
            self._session = reply.headers.get("Location") or _text(_json(reply).get("@odata.id"))
        elif reply.status_code in {400, 401, 403}:
            raise _Refused(f"it does not take the user name and password (HTTP {reply.status_code})")
        else:
            raise _Odd(f"it does not let anybody log in now (HTTP {reply.status_code})")

    def systems(self) -> tuple[System, ...]:
        """All its systems."""
        collection = self._get(_link(self._root, "Systems") or f"{ROOT}/Systems")
        members = collection.get("Members")
        links = [_link({"m": m}, "m") for m in cast(list[Any], members)] if isinstance(members, list) else []
        paths = sorted({p for p in links if p})
        if not paths:
            raise _Odd("it shows no system")
        if len(paths) > MOST_SYSTEMS:
            raise _Odd(f"it shows {len(paths)} systems, more than {MOST_SYSTEMS}; add those that are meant one by one")
        return tuple(self._system(path) for path in paths)

    def _system(self, path: str) -> System:
        found = self._get(path)
        serial = _text(found.get("SerialNumber"))
        return System(
            path=path.rstrip("/"),
            vendor=_text(found.get("Manufacturer")),
            model=_text(found.get("Model")),
            serial="" if serial.lower() in _NO_SERIAL else serial,
            uuid=_text(found.get("UUID")).lower(),
            power=_text(found.get("PowerState")),
        )

    def _get(self, path: str) -> Json:
        reply = self._wire.request("GET", path, None, self._headers)
        if reply.status_code in {401, 403}:
            raise _Refused(f"it does not take the user name and password (HTTP {reply.status_code})")
        found = _json(reply)
        if reply.status_code != 200 or not found:
            raise _Odd(f"it has no answer for {path} (HTTP {reply.status_code})")
        return found

    def leave(self) -> None:
        """End the session, so that the few places for them do not fill up."""
        if self._session:
            with contextlib.suppress(WireError):
                self._wire.request("DELETE", self._session, None, self._headers)


class _Pace:
    """Lets through so many a second, from any thread."""

    def __init__(self, per_second: float) -> None:
        self._step = 1.0 / per_second
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._step
        time.sleep(mine - now)


@contextlib.contextmanager
def _bounded(wire: Wire, seconds: float) -> Generator[None]:
    """Cut the wire off after so long, whatever it is at."""
    timer = threading.Timer(seconds, wire.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _json(reply: Reply) -> Json:
    with contextlib.suppress(ValueError):
        found = reply.json()
        if isinstance(found, dict):
            return cast(Json, found)
    return {}


def _is_root(root: Json) -> bool:
    """It says of itself that it is a Redfish service, and where its systems are."""
    said = "RedfishVersion" in root or _text(root.get("@odata.type")).startswith("#ServiceRoot.")
    return said and _link(root, "Systems").startswith(ROOT)


def _link(holder: Any, name: str) -> str:
    """The path that a resource refers to by that name; empty where it does not."""
    target = cast(Json, holder).get(name) if isinstance(holder, dict) else None
    return _text(cast(Json, target).get("@odata.id")) if isinstance(target, dict) else ""


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
