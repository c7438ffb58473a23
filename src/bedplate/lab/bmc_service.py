"""The BMC of one lab hypervisor: Redfish by sushy-tools, whose one system is that hypervisor.

Run as `python -m bedplate.lab.bmc_service FOLDER NAME`, outside of the hypervisor, on the host's loopback alone. It
keeps nothing in mind: power is read from the kernel, its own faults from the lab's state, at every request. Orders are
carried out by `Lab`, with the lab's lock, whether a command runs beside it or none.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt

from bedplate.lab import bmc
from bedplate.lab.bmc import Managed
from bedplate.lab.bmc_faults import FaultLayer, told_health, told_power
from bedplate.lab.config import HypervisorState, MetalState
from bedplate.lab.errors import LabError
from bedplate.lab.faults import BmcFault
from bedplate.lab.keeper import find
from bedplate.lab.lab import Lab

RESET_TYPES = ("On", "ForceOn", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart")
HASH_ROUNDS = 4
"""The least. The password is random and long, so a slow hash would only make each request slow."""

log = logging.getLogger("bedplate.lab.bmc")


class OneServer(ABC):
    """A server as its BMC has it in hand."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    @abstractmethod
    def state(self) -> HypervisorState | MetalState:
        """What the lab remembers of it, read anew."""

    @abstractmethod
    def order(self, reset: str) -> None:
        """Carry out a Redfish reset. Raises `LabError` where it could not be done."""

    def fault(self) -> BmcFault:
        """What is wrong with this BMC at the moment."""
        kept = self.state().faults.get("bmc")
        return kept.fault if kept is not None and isinstance(kept.fault, BmcFault) else BmcFault()


class Server(OneServer):
    """The hypervisor as its BMC has it in hand."""

    def state(self) -> HypervisorState:
        """What the lab remembers of it, read anew."""
        return find(self.lab.load(), self.name)

    def order(self, reset: str) -> None:
        """Carry out a Redfish reset. Hard ones are done on return; graceful ones go on by themselves, as on hardware.

        Raises:
            LabError: it could not be done.
        """
        match reset:
            case "On" | "ForceOn":
                self._on()
            case "ForceOff":
                self.lab.power(self.name, "off")
            case "ForceRestart":
                self.lab.power(self.name, "off")
                self._on()
            case "GracefulShutdown":
                self._later(lambda: self.lab.shut_down(self.name))
            case "GracefulRestart":
                self._later(self._restart)
            case _:
                raise LabError(f"this BMC knows no reset {reset!r}: it knows {', '.join(RESET_TYPES)}")

    def _on(self) -> None:
        if not self.lab.powered(self.name):
            self.lab.power(self.name, "on", wait=False)

    def _restart(self) -> None:
        self.lab.shut_down(self.name)
        self._on()

    def _later(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (LabError, OSError) as error:
                log.error("%s", error)

        threading.Thread(target=run).start()


def base_class(server: OneServer) -> Any:
    """A driver of sushy-tools for this one server, with its power. Built here, for the package has no types."""
    base: Any = importlib.import_module("sushy_tools.emulator.resources.systems.base")
    error: Any = importlib.import_module("sushy_tools.error")

    class OneDriver(base.AbstractSystemsDriver):
        """The lab's power behind sushy-tools' interface; names and defaults are that interface's."""

        @classmethod
        def initialize(cls, config: Any, logger: Any, *args: Any, **kwargs: Any) -> Any:
            super().initialize(config, logger, *args, **kwargs)
            return cls

        @property
        def driver(self) -> str:
            return "<bedplate-lab>"

        @property
        def systems(self) -> list[str]:
            return [server.state().host_uuid]

        def uuid(self, identity: str) -> str:
            state = server.state()
            if identity == state.name:
                raise error.AliasAccessError(state.host_uuid)
            if identity != state.host_uuid:
                raise error.NotFound(f"there is no system {identity} here")
            return state.host_uuid

        def name(self, identity: str) -> str:
            self.uuid(identity)
            return server.name

        def get_power_state(self, identity: str) -> str:
            self.uuid(identity)
            return told_power(server.fault(), server.lab.powered(server.name))

        def set_power_state(self, identity: str, state: str) -> None:
            self.uuid(identity)
            if state not in RESET_TYPES:
                raise error.BadRequest(f"ResetType {state!r} is not one of {', '.join(RESET_TYPES)}")
            if not server.fault().deaf:
                carefully(lambda: server.order(state))

    return OneDriver


def carefully(work: Callable[[], None]) -> None:
    """Turn what the lab or the host refuses into an answer of Redfish."""
    error: Any = importlib.import_module("sushy_tools.error")
    try:
        work()
    except (LabError, OSError) as failure:
        raise error.FishyError(str(failure)) from failure


def driver_class(server: Server) -> Any:
    """The driver for a hypervisor, which boots from its disk alone."""
    base = base_class(server)
    error: Any = importlib.import_module("sushy_tools.error")

    class LabDriver(base):
        """As the base, and what it boots from."""

        def get_boot_device(self, identity: str) -> str:
            self.uuid(identity)
            return "Hdd"

        def set_boot_device(self, identity: str, boot_source: str) -> None:
            self.uuid(identity)
            if boot_source != "Hdd":
                raise error.NotSupportedError(f"a lab hypervisor boots from its disk, and not from {boot_source}")

    return LabDriver


def configure(app: Any, password: str, folder: Path, features: str) -> None:
    """Put sushy-tools' application behind the password; its files go into the BMC's folder."""
    users = folder / "users"
    users.touch(0o600)
    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(HASH_ROUNDS))
    users.write_text(f"{bmc.USER}:{digest.decode()}\n")
    app.configure(
        extra_config={
            "SUSHY_EMULATOR_FAKE_DRIVER": True,
            "SUSHY_EMULATOR_FEATURE_SET": features,
            "SUSHY_EMULATOR_AUTH_FILE": str(users),
            "SUSHY_EMULATOR_STATE_DIR": str(folder),
        }
    )


def redfish(
    server: OneServer, folder: Path, driver: Any, features: str, told: Callable[[dict[str, Any]], dict[str, Any]]
) -> Any:
    """sushy-tools' application for one server, behind a password and the layer of faults.

    `told`: what the system's resource is to say that sushy-tools does not, or not rightly, by what it says.
    """
    sys.modules.setdefault("libvirt", None)  # type: ignore[arg-type]  # it only costs memory here: 20 MiB
    fake: Any = importlib.import_module("sushy_tools.emulator.resources.systems.fakedriver")
    fake.FakeDriver = driver  # it has no other way to take a driver of somebody's own
    main: Any = importlib.import_module("sushy_tools.emulator.main")
    app: Any = main.app
    configure(app, bmc.password(server.lab.folder), folder, features)

    def complete(response: Any) -> Any:
        body = response.get_json(silent=True) if response.status_code == 200 else None
        if isinstance(body, dict) and str(body.get("@odata.type", "")).startswith("#ComputerSystem."):
            body |= told(body)
            body["Actions"]["#ComputerSystem.Reset"]["ResetType@Redfish.AllowableValues"] = list(RESET_TYPES)
            response.set_data(json.dumps(body))
        return response

    app.after_request(complete)
    app.wsgi_app = FaultLayer(app.wsgi_app, server.fault)
    return app


def application(server: Server, folder: Path) -> Any:
    """sushy-tools' application for the hypervisor."""

    def told(body: dict[str, Any]) -> dict[str, Any]:
        return {"Status": told_health(server.fault(), on=body.get("PowerState") == "On")}

    return redfish(server, folder, driver_class(server), "minimum", told)


def serve(name: str, one: Managed, make: Callable[[], Any]) -> int:
    """Listen at the BMC's port, say "ready" or what is wrong on descriptor 3, serve the application for ever."""
    serving: Any = importlib.import_module("werkzeug.serving")
    port = one.bmc.port if one.bmc is not None else 0
    try:
        if not port:
            raise LabError(f"the BMC of {name} has no port yet")
        listener = serving.make_server("127.0.0.1", port, make(), threaded=True)
    except (LabError, OSError) as error:
        os.write(3, f"{error}\n".encode())
        return 1
    except SystemExit:  # so werkzeug ends where it can't listen, having said why on standard error
        os.write(3, f"port {port}: address already in use\n".encode())
        return 1
    os.write(3, b"ready\n")
    os.close(3)
    listener.serve_forever()
    return 0


def log_plainly() -> None:
    """Log to standard error, without a line for each request."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)


def main() -> int:
    """Be the BMC of a hypervisor."""
    log_plainly()
    folder, name = Path(sys.argv[1]), sys.argv[2]
    server = Server(Lab(folder.name, folder.parent), name)
    return serve(name, server.state(), lambda: application(server, bmc.home(folder, name)))


if __name__ == "__main__":
    raise SystemExit(main())
