"""sushy's connector on our own wire: no hidden waits or retries, one new login where a session is over. Blocking.

sushy's own would sleep and repeat for half a minute within one call, which no deadline could bound, and would log in
anew for each resource that a BMC's licence does not cover (HTTP 403), until the BMC gives up.
"""

from __future__ import annotations

import base64
import email.utils
import json
import time
from typing import Any

from sushy import auth as sushy_auth
from sushy import connector as sushy_connector
from sushy import exceptions as sushy_errors

from bedplate.drivers.redfish import quirks
from bedplate.drivers.redfish.faults import BmcError, Kind
from bedplate.drivers.redfish.wire import Reply, Wire, WireError

_RETRY_AFTER_LIMIT = 600.0


class Login(sushy_auth.SessionOrBasicAuth):
    """A session where the BMC offers them, else the password with each request.

    sushy closes a login when its object is collected, in whatever thread that is; here only `log_out` does. And sushy
    would try a refused password again in the other way: here a refusal is one, as BMCs lock accounts after a few.
    """

    def _do_authenticate(self) -> None:
        resource: Any = self._root_resource
        root: dict[str, Any] = resource.json or {}
        links = root.get("Links")
        if "SessionService" not in root and not (isinstance(links, dict) and "Sessions" in links):
            self._fallback_to_basic_authentication()
            return
        try:
            sushy_auth.SessionAuth._do_authenticate(self)
        except sushy_errors.ConnectionError:
            raise
        except sushy_errors.AccessError as error:
            if error.status_code == 401:
                raise
            self._fallback_to_basic_authentication()
        except sushy_errors.SushyError:  # its places for sessions are taken, or it only says that it offers them
            self._fallback_to_basic_authentication()

    def close(self) -> None:
        """Do nothing; see `log_out`."""

    def log_out(self) -> None:
        """End the session at the BMC, so that its few places do not fill up. Raises sushy's errors."""
        connector: Any = self._connector
        connector.set_auth(None)  # a session that is over already is not begun anew to be ended
        super().close()


class Connector(sushy_connector.Connector):
    """Speaks with one BMC."""

    def __init__(self, wire: Wire, base_url: str) -> None:
        super().__init__(base_url)
        self._wire = wire

    def _op(
        self,
        method: str,
        path: str = "",
        data: Any = None,
        headers: dict[str, str] | None = None,
        blocking: bool = False,
        timeout: Any = None,
        server_side_retries_left: int | None = None,
        allow_reauth: bool = True,
        **_more: Any,
    ) -> Reply:
        """Make one request; where the session is over, log in once and make it once more."""
        reply = self._request(method, path, data, headers)
        if reply.status_code == 401 and allow_reauth and self._may_log_in(method, path):
            auth: Any = self._auth
            auth.authenticate()
            reply = self._request(method, path, data, headers)
        try:
            sushy_errors.raise_for_response(method, path, reply)
        except sushy_errors.HTTPError as error:
            setattr(error, "retry_after", retry_after(reply))  # noqa: B010 - sushy's class does not know it
            raise
        except (AttributeError, TypeError):  # its body is JSON, and no error
            raise BmcError("failed", f"it answered HTTP {reply.status_code}", retry_after=retry_after(reply)) from None
        return reply

    def _may_log_in(self, method: str, path: str) -> bool:
        """True where a session may be over; a password that was refused is not sent again."""
        login = method == "POST" and bool(self._sessions_uri) and self._sessions_uri in path
        return self._auth is not None and self._session.auth is None and not login

    def _request(self, method: str, path: str, data: Any, headers: dict[str, str] | None) -> Reply:
        sent = {"Accept": "application/json", "OData-Version": "4.0", "User-Agent": "bedplate", **(headers or {})}
        body = None
        if data is not None:
            body = json.dumps(data).encode()
            sent["Content-Type"] = "application/json"
        token = self._session.headers.get("X-Auth-Token")
        if token:
            sent["X-Auth-Token"] = str(token)
        elif self._session.auth:
            pair: Any = self._session.auth
            username, password = pair
            sent["Authorization"] = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        return self._wire.request(method, path, body, sent)


def retry_after(reply: Reply) -> float:
    """Seconds that the answer asks to wait: a number or a date; 0 where it asks for nothing."""
    text = str(reply.headers.get("Retry-After") or "").strip()
    if text.isdigit():
        return min(float(text), _RETRY_AFTER_LIMIT)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return 0.0
    return min(max(0.0, at - time.time()), _RETRY_AFTER_LIMIT)


_KINDS: dict[int, Kind] = {401: "credentials", 403: "forbidden", 404: "missing", 429: "busy", 503: "busy"}


def translate(error: Exception) -> BmcError:
    """Give a sentence for whatever came out of a request. The BMC's own words are not repeated: they may quote ours."""
    if isinstance(error, BmcError):
        return error
    if isinstance(error, WireError):
        return BmcError("unreachable", error.message or "it did not answer", sent=error.sent)
    if isinstance(error, sushy_errors.HTTPError):
        return _refusal(error)
    if isinstance(error, sushy_errors.SushyError):
        return BmcError("garbage", f"its answer lacks what Redfish requires ({type(error).__name__})")
    return BmcError("garbage", "its answer is not the JSON that Redfish requires")


def _refusal(error: sushy_errors.HTTPError) -> BmcError:
    status: int = error.status_code or 0
    seconds: float = getattr(error, "retry_after", 0.0)
    known = quirks.sayings(error.body)
    names = "".join(f", {s.message}" for s in known)
    busy = next((s for s in known if s.meaning == "busy"), None)
    kind: Kind = "busy" if busy is not None else _KINDS.get(status, "failed")
    if any(s.meaning == "unlicensed" for s in known):
        kind = "forbidden"
    words = {
        "busy": "it is busy and asks to come back later",
        "credentials": "it does not take the user name and password of the Secret",
        "forbidden": "its user may not do this, or it has no licence for it",
        "missing": "it has no such resource",
    }.get(kind, "it says that it failed")
    wanted = quirks.wanted(error.body)
    names += f", it wants {', '.join(sorted(wanted))}" if wanted else ""
    wait = max(seconds, busy.seconds if busy else 0.0)
    return BmcError(kind, f"{words} (HTTP {status}{names})", retry_after=wait, wants=wanted)
