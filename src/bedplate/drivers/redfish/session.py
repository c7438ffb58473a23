"""What is kept of one BMC between requests: its login and its system's path. Blocking; used by one thread at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import sushy

from bedplate.drivers.redfish import credentials, quirks
from bedplate.drivers.redfish.connector import Connector, Login, translate
from bedplate.drivers.redfish.credentials import Credentials, SecretData
from bedplate.drivers.redfish.faults import BmcError
from bedplate.drivers.redfish.trust import Trust
from bedplate.drivers.redfish.wire import Limits, Wire
from bedplate.model.blueprint import BmcRef
from bedplate.model.bmc_address import BmcAddressError, parse, verify_ca_fault

Json = dict[str, Any]
T = TypeVar("T")

LOCKED_SECONDS = 30.0
"""After credentials were refused, the same ones are not tried again for so long: BMCs lock accounts or addresses after
a few failures a minute (iDRAC: three)."""


class Session:
    """One BMC. All methods raise `BmcError` and nothing else."""

    def __init__(self, ref: BmcRef, secrets: SecretData, limits: Limits, clock: Callable[[], float]) -> None:
        """Nothing is opened before the first request.

        Raises:
            BmcError: the address or the trust can't be used.
        """
        try:
            self._address = parse(ref.address)
        except BmcAddressError as error:
            raise BmcError("settings", f"spec.bmc.address {error}", sent=False) from None
        if fault := verify_ca_fault(ref.verify_ca):
            raise BmcError("settings", f"spec.bmc.verifyCA {fault}", sent=False)
        try:
            trust = Trust(ref.verify_ca)
        except ValueError as error:  # ssl.SSLError too
            raise BmcError(
                "settings", f"spec.bmc.verifyCA can't be read ({error}); paste a PEM certificate", sent=False
            ) from None
        self._secret = ref.secret
        self._secrets = secrets
        self._clock = clock
        self._wire = Wire(self._address, trust, limits)
        self._root: Any = None
        self._login: Login | None = None
        self._system = self._address.system
        self._tried: Credentials | None = None
        self._refusals = 0
        self._refused_at = float("-inf")

    # --- requests ---

    def system(self) -> Json:
        """The system's resource, asked for anew."""
        return self._ask(lambda: self._get(self._system_path()))

    def get(self, path: str) -> Json:
        """Another resource, asked for anew."""
        return self._ask(lambda: self._get(path))

    def patch(self, path: str, body: Json) -> None:
        """Change a resource."""

        def change() -> None:
            self._connector().patch(path, data=body)

        self._ask(change)

    def post(self, path: str, body: Json) -> None:
        """Order an action."""

        def order() -> None:
            self._connector().post(path, data=body)

        self._ask(order)

    def order(self, system: Json, choices: tuple[str, ...]) -> str:
        """Order a change of power: the first of `choices` that the system lists. Gives what was ordered.

        `system` is the system's resource, if it was read before; empty: the standard path is used.
        """
        reset = quirks.choose(choices, system)

        def post() -> None:
            connector = self._connector()
            connector.post(self._action(system), data={"ResetType": reset})

        self._ask(post)
        return reset

    def close(self) -> None:
        """Log out, if the BMC answers."""
        root, login = self._root, self._login
        self._root = self._login = None
        if root is not None and login is not None:
            with contextlib.suppress(Exception):
                login.log_out()

    # --- of another thread ---

    def begin(self) -> None:
        """A new call begins: it has its own time."""
        self._wire.begin()

    def cut(self) -> None:
        """End the request in hand. Does not block."""
        self._wire.cut()

    @property
    def refusals(self) -> int:
        """How often in a row the credentials were refused."""
        return self._refusals

    # --- within ---

    def _ask(self, request: Callable[[], T]) -> T:
        try:
            answer = request()
        except Exception as error:
            fault = translate(error)
        else:
            self._refusals = 0
            return answer
        if fault.kind == "credentials" and fault.sent:
            self._root = self._login = None  # the next login reads the Secret again
            self._refusals += 1
            self._refused_at = self._clock()
        raise fault from None

    def _connector(self) -> Connector:
        if self._root is None:
            held = credentials.read(self._secrets, self._secret)
            locked = self._refused_at + LOCKED_SECONDS > self._clock()
            if self._refusals > 1 and held == self._tried and locked:
                why = f"it did not take the user name and password of Secret {self._secret}"
                raise BmcError("credentials", f"{why}; they are tried again in a while", sent=False)
            self._tried = held
            login = Login(held.username, held.password)
            connector = Connector(self._wire, self._address.base_url)
            self._root = sushy.Sushy(self._address.base_url, auth=login, connector=connector)
            self._login = login
        return self._root._conn

    def _get(self, path: str) -> Json:
        found = self._connector().get(path).json()
        if not isinstance(found, dict) or not found:
            raise BmcError("garbage", "its answer is empty or no JSON object")
        return cast(Json, found)

    def _system_path(self) -> str:
        if not self._system:
            self._connector()
            paths = self._root.get_system_collection().members_identities
            if len(paths) != 1:
                said = (
                    f"it has {len(paths)} systems ({', '.join(sorted(paths)[:4])})" if paths else "it shows no system"
                )
                raise BmcError("settings", f"{said}; add the path of the one that is meant to spec.bmc.address")
            self._system = str(paths[0])
        return self._system

    def _action(self, system: Json) -> str:
        actions = system.get("Actions")
        reset = actions.get("#ComputerSystem.Reset") if isinstance(actions, dict) else None
        target = reset.get("target") if isinstance(reset, dict) else None
        if isinstance(target, str) and target:
            return target
        return f"{self._system_path()}/Actions/ComputerSystem.Reset"
