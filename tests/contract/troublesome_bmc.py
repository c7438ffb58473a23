"""A BMC on loopback that speaks Redfish and does all that real ones do wrong: slow, busy, forgetful, lying."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROOT = "/redfish/v1/"
SYSTEM = "/redfish/v1/Systems/1"
CHASSIS = "/redfish/v1/Chassis/1"
RESET = f"{SYSTEM}/Actions/ComputerSystem.Reset"
SESSIONS = "/redfish/v1/SessionService/Sessions"
OK = {"State": "Enabled", "Health": "OK", "HealthRollup": "OK"}
CRITICAL = {"State": "Enabled", "Health": "Critical", "HealthRollup": "Critical"}


class Say(Exception):
    """Answer this instead."""

    def __init__(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        self.status, self.headers = status, headers
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


class Drop(Exception):
    """Close the connection without an answer."""


class Hang(Exception):
    """Never answer, until the server ends."""


def error(status: int, message_id: str = "Base.1.8.GeneralError", *args: str, **headers: str) -> Say:
    info = [{"MessageId": message_id, "MessageArgs": list(args), "Message": "the words of the vendor"}]
    body = {"error": {"code": "Base.1.8.GeneralError", "message": "see there", "@Message.ExtendedInfo": info}}
    return Say(status, body, **headers)


class TroublesomeBmc:
    """Its state, and what it does wrong. All fields may be changed at any time."""

    def __init__(
        self, spend: Callable[[float], None], now: Callable[[], float], place: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.power = "On"
        self.username, self.password = "admin", "hunter2"
        self.basic_only = False
        self.answer_seconds = 0.0
        """On the tests' clock."""
        self.takes_effect_after = 0.0
        self.obeys = True
        self.lies: list[Any] = []
        """Power states shown instead of the true one, each once."""
        self.trouble: Callable[[str, str], None] | None = None
        """Called with method and path before anything else; may raise."""
        self.orders: list[str] = []
        self.order_reply: Exception | None = None
        """Said after an order has had its effect."""
        self.requests: list[str] = []
        self.logins = 0
        self.refused_logins = 0
        self.sessions: set[str] = set()
        self.resources: dict[str, dict[str, Any]] = {
            ROOT: {
                "Id": "RootService",
                "Systems": {"@odata.id": "/redfish/v1/Systems"},
                "SessionService": {"@odata.id": "/redfish/v1/SessionService"},
                "Links": {"Sessions": {"@odata.id": SESSIONS}},
            },
            "/redfish/v1/Systems": {"Members": [{"@odata.id": SYSTEM}], "Name": "Systems"},
            SYSTEM: {
                "Id": "1",
                "Status": dict(OK),
                "MemorySummary": {"Status": dict(OK)},
                "ProcessorSummary": {"Status": dict(OK)},
                "Memory": {"@odata.id": f"{SYSTEM}/Memory"},
                "Processors": {"@odata.id": f"{SYSTEM}/Processors"},
                "Storage": {"@odata.id": f"{SYSTEM}/Storage"},
                "Links": {"Chassis": [{"@odata.id": CHASSIS}]},
                "Actions": {
                    "#ComputerSystem.Reset": {
                        "target": RESET,
                        "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown"],
                    }
                },
            },
            f"{SYSTEM}/Memory": {"Members": [{"@odata.id": f"{SYSTEM}/Memory/A1"}]},
            f"{SYSTEM}/Memory/A1": {"Id": "A1", "Name": "DIMM A1", "Status": dict(OK)},
            f"{SYSTEM}/Processors": {"Members": [{"@odata.id": f"{SYSTEM}/Processors/1"}]},
            f"{SYSTEM}/Processors/1": {"Id": "1", "Name": "CPU 1", "Status": dict(OK)},
            f"{SYSTEM}/Storage": {"Members": [{"@odata.id": f"{SYSTEM}/Storage/1"}]},
            f"{SYSTEM}/Storage/1": {
                "Name": "RAID 1",
                "Status": dict(OK),
                "Drives": [{"@odata.id": f"{SYSTEM}/Storage/1/Drives/0"}],
            },
            f"{SYSTEM}/Storage/1/Drives/0": {"Name": "Disk 0", "Status": dict(OK)},
            CHASSIS: {
                "Id": "1",
                "Status": dict(OK),
                "Thermal": {"@odata.id": f"{CHASSIS}/Thermal"},
                "Power": {"@odata.id": f"{CHASSIS}/Power"},
            },
            f"{CHASSIS}/Thermal": {"Fans": [{"Name": "Fan 1", "Status": dict(OK)}], "Temperatures": []},
            f"{CHASSIS}/Power": {"PowerSupplies": [{"Name": "PSU 1", "Status": dict(OK)}]},
        }
        self._spend, self._now = spend, now
        self._pending: tuple[float, str] | None = None
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._server = ThreadingHTTPServer(place, self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def server(self) -> ThreadingHTTPServer:
        return self._server

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """The BMC itself starts anew: it knows no session any more."""
        self.sessions.clear()

    def really(self) -> str:
        """The true power state, now."""
        with self._lock:
            if self._pending is not None and self._now() >= self._pending[0]:
                self.power, self._pending = self._pending[1], None
            return self.power

    # --- answering ---

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            self.requests.append(f"{method} {path}")
            self._spend(self.answer_seconds)
        try:
            if self.trouble is not None:
                self.trouble(method, path)
            with self._lock:
                return self._answer(method, path, headers, body)
        except Say as said:
            return said.status, said.headers, said.body
        except Hang:
            self._spend(10.0)  # what the driver waits for in earnest is short in tests
            self._ending.wait()
            raise Drop from None

    def _answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if method == "POST" and path == SESSIONS and not self.basic_only:
            return self._login(json.loads(body))
        if path != ROOT:
            self._check(headers)
        if method == "DELETE":
            self.sessions.discard(path.rpartition("/")[2])
            return 204, {}, b""
        if method == "POST" and path == RESET:
            return self._order(json.loads(body)["ResetType"])
        found = self.resources.get(path)
        if found is None or method != "GET":
            raise error(404, "Base.1.8.ResourceMissingAtURI")
        if path == SYSTEM:
            shown = self.lies.pop(0) if self.lies else self.really()
            found = {**found, "PowerState": shown}
        return 200, {}, json.dumps({"@odata.id": path, **found}).encode()

    def _login(self, body: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if (body["UserName"], body["Password"]) != (self.username, self.password):
            self.refused_logins += 1
            raise error(401, "Base.1.8.InsufficientPrivilege")
        self.logins += 1
        token = f"t{self.logins}"
        self.sessions.add(token)
        return 201, {"X-Auth-Token": token, "Location": f"{SESSIONS}/{token}"}, b"{}"

    def _check(self, headers: Any) -> None:
        basic = "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        if headers.get("X-Auth-Token") in self.sessions or headers.get("Authorization") == basic:
            return
        raise error(401, "Base.1.8.NoValidSession")

    def _order(self, reset: str) -> tuple[int, dict[str, str], bytes]:
        self.orders.append(reset)
        if self.obeys:
            self._pending = (self._now() + self.takes_effect_after, "On" if reset in {"On", "ForceOn"} else "Off")
        if self.order_reply is not None:
            raise self.order_reply
        return 204, {}, b""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bmc = self

        class Handler(BaseHTTPRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # whoever asked has gone, or did not trust this certificate
                    super().handle()

            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    status, headers, content = bmc.answer(self.command, self.path, self.headers, body)
                except Drop:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_DELETE = do_PATCH = _do

            def log_message(self, *_args: object) -> None:
                return

        return Handler
