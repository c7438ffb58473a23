"""What a BMC of the lab says and does while it is broken: late, dropped and failed requests, and lies.

Pure but for the sleeping and the cut connections of `FaultLayer`.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, NoReturn

from bedplate.lab.faults import BmcFault

App = Callable[[dict[str, Any], Any], Iterable[bytes]]
"""A WSGI application."""


class FaultLayer:
    """WSGI middleware in front of a BMC. `fault` is asked at each request; `chance` gives numbers from 0 to 1."""

    def __init__(
        self,
        app: App,
        fault: Callable[[], BmcFault],
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._app = app
        self._fault = fault
        self._chance = chance
        self._sleep = sleep

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve a request as a broken BMC does. Raises ConnectionError, for the server to end the connection."""
        fault = self._fault()
        if fault.delay:
            self._sleep(fault.delay)
        lost = self._chance() < fault.drop
        if lost and self._chance() < 0.5:
            _hang_up(environ)  # on its way in
        if fault.error:
            return _error(fault.error, start_response)
        if lost:
            for _ in self._app(environ, _swallow):  # carried out; the answer is lost on its way back
                pass
            _hang_up(environ)
        return self._app(environ, start_response)


def told_power(fault: BmcFault, on: bool) -> str:
    """Redfish's `PowerState` as the BMC gives it."""
    if fault.lie:
        return "On" if fault.lie == "on" else "Off"
    return "On" if on else "Off"


def told_health(fault: BmcFault, *, on: bool) -> dict[str, Any]:
    """Redfish's `Status` of the system."""
    health = fault.health or "OK"
    status: dict[str, Any] = {
        "State": "Enabled" if on else "StandbyOffline",
        "Health": health,
        "HealthRollup": health,
    }
    if fault.health:
        status["Conditions"] = [
            {
                "MessageId": "ResourceEvent.1.0.ResourceErrorsDetected",
                "Message": fault.problem or f"The health of the system is {health}.",
                "Severity": health,
            }
        ]
    return status


def _error(status: int, start_response: Any) -> Iterable[bytes]:
    words = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    body = {"error": {"code": "Base.1.0.GeneralError", "message": f"{words}: the lab broke this BMC on purpose"}}
    start_response(f"{status} {words}", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


def _swallow(*_answer: Any) -> None:
    """Take the beginning of an answer that nobody will see."""


def _hang_up(environ: dict[str, Any]) -> NoReturn:
    """End the connection without an answer. The server gives its socket in the environment."""
    link = environ.get("werkzeug.socket")
    if link is not None:
        link.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("dropped on purpose")
