"""The BMC of one bare server: Redfish by sushy-tools, with power, boot override, virtual media, cards and a summary.

Run as `python -m bedplate.lab.metal_bmc FOLDER NAME`, on the host's loopback alone. Like a hypervisor's BMC it keeps
nothing in mind: all that it tells is read from the kernel and the lab's state at every request.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, cast, get_args

from bedplate.lab import bmc, metal
from bedplate.lab.bmc_faults import told_health
from bedplate.lab.bmc_service import RESET_TYPES, OneServer, base_class, carefully, log_plainly, redfish, serve
from bedplate.lab.config import BootTarget, MetalState
from bedplate.lab.errors import LabError
from bedplate.lab.faults import BmcFault
from bedplate.lab.keeper import find_server
from bedplate.lab.lab import Lab

DRIVE = "Cd"
FETCH_LIMIT = 30.0
"""Seconds without a byte after which a medium is given up."""
FETCHED = ".medium-"
"""Beginning of a file's name while it is fetched."""
RESTART_LIMIT = 300.0
"""Seconds that a system may take to shut down for a graceful restart; an emulated one takes a minute."""

log = logging.getLogger("bedplate.lab.bmc")


class BareServer(OneServer):
    """The server as its BMC has it in hand."""

    def state(self) -> MetalState:
        """What the lab remembers of it, read anew."""
        return find_server(self.lab.load(), self.name)

    def order(self, reset: str) -> None:
        """Carry out a Redfish reset. Hard ones are done on return; graceful ones are the server's own to do.

        Raises:
            LabError: it could not be done.
        """
        match reset:
            case "On" | "ForceOn":
                self.lab.power(self.name, "on")
            case "ForceOff":
                self.lab.power(self.name, "off")
            case "ForceRestart":
                self.lab.power(self.name, "off")
                self.lab.power(self.name, "on")
            case "GracefulShutdown":
                self.lab.shut_down(self.name)
            case "GracefulRestart":
                self.lab.shut_down(self.name)
                threading.Thread(target=self._on_when_off).start()
            case _:
                raise LabError(f"this BMC knows no reset {reset!r}: it knows {', '.join(RESET_TYPES)}")

    def _on_when_off(self) -> None:
        deadline = time.monotonic() + RESTART_LIMIT
        while self.lab.powered(self.name):
            if time.monotonic() > deadline:
                log.error("%s did not shut down within %.0f s and is not restarted", self.name, RESTART_LIMIT)
                return
            time.sleep(0.5)
        try:
            self.lab.power(self.name, "on")
        except (LabError, OSError) as error:
            log.error("%s", error)

    def set_boot(self, target: str, enabled: str, mode: str) -> None:
        """Set what the next boots begin with. Raises ValueError for what there is not."""
        targets = get_args(BootTarget)
        if target not in targets:
            raise ValueError(f"BootSourceOverrideTarget {target!r} is not one of {', '.join(targets)}")
        if enabled not in ("Disabled", "Once", "Continuous"):
            raise ValueError(f"BootSourceOverrideEnabled {enabled!r} is not one of Disabled, Once, Continuous")
        if mode != "UEFI":
            raise ValueError(f"BootSourceOverrideMode {mode!r}: this server knows UEFI only")
        none = target == "None" or enabled == "Disabled"
        with self.lab.changing() as state:
            one = find_server(state, self.name)
            one.boot = "None" if none else cast(BootTarget, target)
            one.boot_once = not none and enabled == "Once"
            self.lab.save(state)

    def insert(self, url: str, login: tuple[str, str], trust: ssl.SSLContext) -> None:
        """Fetch a medium and put it into the drive. Raises LabError, OSError."""
        base = metal.home(self.lab.folder, self.name)
        handle, fresh = tempfile.mkstemp(prefix=FETCHED, dir=base)
        try:
            with os.fdopen(handle, "wb") as file, fetch(url, login, trust) as answer:
                shutil.copyfileobj(answer, file, 1 << 20)
                expected = answer.headers.get("Content-Length")
                if expected is not None and int(expected) != file.tell():
                    raise LabError(f"{url} ended after {file.tell()} of {expected} bytes")
            with self.lab.changing() as state:
                metal.insert(self.lab, state, find_server(state, self.name), url, Path(fresh))
        finally:
            Path(fresh).unlink(missing_ok=True)

    def eject(self) -> None:
        """Empty the drive."""
        with self.lab.changing() as state:
            metal.eject(self.lab, state, find_server(state, self.name))


def trusted(verify: bool, certificate: str = "") -> ssl.SSLContext:
    """What vouches for a medium's server: the certificate (PEM), or without one who does for the host; or nobody.

    Raises:
        LabError: the certificate is none.
    """
    try:
        tls = ssl.create_default_context(cadata=certificate or None)
    except ssl.SSLError as error:
        raise LabError(f"the certificate for virtual media can't be read as PEM: {error}") from None
    if not verify:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return tls


def fetch(url: str, login: tuple[str, str], trust: ssl.SSLContext) -> Any:
    """Open a medium's URL."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise LabError(f"Image {url!r} is no http or https URL")
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=trust),
    ]
    if login[0]:
        known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        known.add_password(None, url, *login)
        handlers.append(urllib.request.HTTPBasicAuthHandler(known))
    return urllib.request.build_opener(*handlers).open(url, timeout=FETCH_LIMIT)


def driver_class(server: BareServer) -> Any:
    """A driver of sushy-tools for the system: with its power, boot override and cards."""
    base = base_class(server)

    class MetalDriver(base):
        """The server behind sushy-tools' interface; names and defaults are that interface's."""

        def get_boot_device(self, identity: str) -> str:
            self.uuid(identity)
            return server.state().boot

        def set_boot_device(self, identity: str, boot_source: str) -> None:
            self.uuid(identity)
            server.set_boot(boot_source, "Once", "UEFI")

        def get_boot_mode(self, identity: str) -> str:
            self.uuid(identity)
            return "UEFI"

        def get_http_boot_uri(self, identity: str) -> str:
            self.uuid(identity)
            return ""

        def get_nics(self, identity: str) -> list[dict[str, str]]:
            self.uuid(identity)
            return [{"id": f"NIC{number}", "mac": mac} for number, mac in enumerate(server.state().macs, 1)]

        def set_boot_image(
            self, identity: str, device: str, boot_image: Any = None, write_protected: bool = True
        ) -> None:
            """Nothing is left to do: the drive has the medium already."""

    return MetalDriver


def media_class(server: BareServer) -> Any:
    """sushy-tools' driver of virtual media: one CD drive, which the lab's state knows."""
    vmedia: Any = importlib.import_module("sushy_tools.emulator.resources.vmedia")
    error: Any = importlib.import_module("sushy_tools.error")

    class MetalMedia(vmedia.BaseDriver):
        """The CD drive behind sushy-tools' interface."""

        def __init__(self, config: Any, logger: Any) -> None:
            super().__init__({**config, "SUSHY_EMULATOR_VMEDIA_DEVICES": DEVICES}, logger)

        def get_device_image_info(self, identity: str, device: str) -> Any:
            kept = self._get_device(identity, device)
            url = server.state().medium
            file = os.path.basename(urllib.parse.urlsplit(url).path)
            return vmedia.DeviceInfo(file, url, bool(url), bool(url), "", "", kept.get("Verify", False))

        def insert_image(
            self,
            identity: str,
            device: str,
            image_url: str,
            inserted: bool = True,
            write_protected: bool = True,
            username: str | None = None,
            password: str | None = None,
        ) -> str:
            kept = self._get_device(identity, device)
            if not isinstance(image_url, str) or not image_url:
                raise error.BadRequest("Image is missing: give the URL of an ISO")
            if not inserted or not write_protected:
                raise error.BadRequest("this drive takes a CD only: Inserted and WriteProtected must be true")
            login = (username or "", password or "")
            verify = bool(kept.get("Verify", False))  # as on most BMCs, only where that is asked for
            known = str(kept.get("Certificate", {}).get("String", ""))
            carefully(lambda: server.insert(image_url, login, trusted(verify, known)))
            return image_url

        def eject_image(self, identity: str, device: str) -> None:
            self._get_device(identity, device)
            carefully(server.eject)

    return MetalMedia


DEVICES = {DRIVE: {"Name": "Virtual CD", "MediaTypes": ["CD", "DVD"]}}


def told_boot(one: MetalState) -> dict[str, Any]:
    """Redfish's `Boot` of the system."""
    return {
        "BootSourceOverrideEnabled": "Disabled" if one.boot == "None" else "Once" if one.boot_once else "Continuous",
        "BootSourceOverrideTarget": one.boot,
        "BootSourceOverrideTarget@Redfish.AllowableValues": list(get_args(BootTarget)),
        "BootSourceOverrideMode": "UEFI",
        "BootSourceOverrideMode@Redfish.AllowableValues": ["UEFI"],
    }


def told_system(one: MetalState, fault: BmcFault, *, on: bool) -> dict[str, Any]:
    """What of the system sushy-tools does not tell, or not rightly."""
    status = {"State": "Enabled", "Health": "OK", "HealthRollup": "OK"}
    return {
        "Manufacturer": "Bedplate",
        "Model": "Lab server",
        "SerialNumber": one.name,
        "Status": told_health(fault, on=on),
        "Boot": told_boot(one),
        "MemorySummary": {"TotalSystemMemoryGiB": one.memory / 1024, "Status": status},
        "ProcessorSummary": {"Count": 1, "CoreCount": one.cpus, "LogicalProcessorCount": one.cpus, "Status": status},
    }


def application(server: BareServer, folder: Path) -> Any:
    """sushy-tools' application for the bare server."""
    vmedia: Any = importlib.import_module("sushy_tools.emulator.resources.vmedia")
    vmedia.StaticDriver = media_class(server)
    error: Any = importlib.import_module("sushy_tools.error")
    flask: Any = importlib.import_module("flask")

    def told(body: dict[str, Any]) -> dict[str, Any]:
        return told_system(server.state(), server.fault(), on=body.get("PowerState") == "On")

    app = redfish(server, folder, driver_class(server), "vmedia", told)

    def patch_boot() -> Any:
        """Take the boot override: sushy-tools knows neither once nor none."""
        request = flask.request
        if request.method != "PATCH" or request.endpoint != "system_resource":
            return None
        app.systems.uuid(request.view_args["identity"])
        body = request.get_json(silent=True)
        boot = body.get("Boot") if isinstance(body, dict) else None
        if not isinstance(boot, dict):
            raise error.BadRequest("only Boot can be changed here")
        enabled = boot.get("BootSourceOverrideEnabled", "Once")
        target = boot.get("BootSourceOverrideTarget", "None" if enabled == "Disabled" else server.state().boot)
        try:
            server.set_boot(target, enabled, boot.get("BootSourceOverrideMode", "UEFI"))
        except ValueError as wrong:
            raise error.BadRequest(str(wrong)) from None
        return "", 204

    app.before_request(patch_boot)
    return app


def main() -> int:
    """Be the BMC of a bare server."""
    log_plainly()
    folder, name = Path(sys.argv[1]), sys.argv[2]
    server = BareServer(Lab(folder.name, folder.parent), name)
    for left in metal.home(folder, name).glob(f"{FETCHED}*"):  # by a BMC that was killed while it fetched
        left.unlink()
    return serve(name, server.state(), lambda: application(server, bmc.home(folder, name)))


if __name__ == "__main__":
    raise SystemExit(main())
