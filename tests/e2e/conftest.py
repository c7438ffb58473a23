"""The lab for the end-to-end tests, with a state folder and a context of its own: a user's own lab is not touched."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BEDPLATE = [sys.executable, "-m", "bedplate.cli.main"]
RELEASE = os.environ.get("BEDPLATE_TEST_RELEASE", "1.35.3")
"""Another one, where that is built already."""


class World:
    """A lab with its controller, driven by the same commands that a user types."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder

    def bedplate(self, *argv: str, stdin: str | None = None, timeout: float = 1500, check: bool = True) -> str:
        """Run a command; its output. With `check`, it must end well."""
        done = subprocess.run(
            [*BEDPLATE, *argv],
            env=self.environment,
            input=stdin,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"bedplate {' '.join(argv)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done.stdout + ("" if check else done.stderr)

    def objects(self, kind: str, *more: str) -> list[dict[str, Any]]:
        """All objects of a kind in the default namespace."""
        found = json.loads(self.bedplate("get", kind, "-o", "json", *more))
        return found.get("items", [found])

    def object(self, kind: str, name: str) -> dict[str, Any]:
        return json.loads(self.bedplate("get", kind, name, "-o", "json"))

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 1200) -> Any:
        """Look until the condition gives something true; the last look's failure is told."""
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline:
                state = self.bedplate("get", "machines", "-o", "wide", check=False)
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{state}")
            time.sleep(1)

    def kubectl(self, kubeconfig: Path, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        """Run the kubectl that Bedplate built. Only through the lab's proxy: its addresses may be others' outside."""
        assert "proxy-url" in kubeconfig.read_text(), "the kubeconfig does not lead into the lab"
        program = json.loads(self.bedplate("release", "path", RELEASE, "-o", "json"))["kubectl"]
        done = subprocess.run(
            [program, "--kubeconfig", str(kubeconfig), *argv],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=600,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(argv)}: {done.stdout}\n{done.stderr}")
        return done.stdout

    # --- behind Bedplate's back ---

    def lab(self) -> Any:
        from bedplate.lab import Lab

        return Lab(root=self.folder / "state" / "bedplate" / "lab")

    def controller(self) -> Any:
        from bedplate.cli.wiring import LabController

        return LabController(Path(self.lab().status().folder))

    def start_controller(self) -> None:
        """Nothing else of the lab is mended, as `lab up` would. Its context is this world's, not the tester's own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BEDPLATE_CONFIG", self.environment["BEDPLATE_CONFIG"])
            self.controller().ensure()

    def in_guest(self, server: str, uid: str, path: str, *argv: str) -> str:
        """What a command in a guest prints, run by its guest agent once that answers."""
        run = {"execute": "guest-exec", "arguments": {"path": path, "arg": list(argv), "capture-output": True}}
        begun = self.until(
            "its guest agent answers", lambda: self.virsh(server, "qemu-agent-command", uid, json.dumps(run)), 180
        )
        pid = json.loads(begun)["return"]["pid"]
        look = json.dumps({"execute": "guest-exec-status", "arguments": {"pid": pid}})

        def ended() -> dict[str, Any]:
            found = json.loads(self.virsh(server, "qemu-agent-command", uid, look))["return"]
            return found if found["exited"] else {}

        return base64.b64decode(self.until(f"{path} ends", ended, 60).get("out-data", "")).decode()

    def virsh(self, server: str, *argv: str) -> str:
        """Act on a hypervisor's libvirt by hand."""
        return self.lab().exec(server, ["virsh", "-q", *argv], timeout=60).stdout


@contextlib.contextmanager
def a_world() -> Iterator[World]:
    """A place for a lab, with a node image; whatever lab is there is gone afterwards."""
    if os.geteuid() != 0:
        pytest.fail("the lab needs root")
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/var/tmp") as name:
        folder = Path(name)
        environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "BEDPLATE_CONFIG": str(folder / "config"),
            "NO_COLOR": "1",
        }
        made = World(environment, folder)
        made.bedplate("release", "build", RELEASE, timeout=3600)
        made.bedplate("image", "build", "--release", RELEASE, timeout=3600)
        try:
            yield made
        finally:
            keep = os.environ.get("BEDPLATE_KEEP_LOGS")
            if keep:
                _keep_logs(made, Path(keep))
            made.bedplate("lab", "down", timeout=300)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """A lab of three hypervisors with a node image; all of it is gone afterwards."""
    with a_world() as made:
        made.bedplate("lab", "up", "--hypervisors", "3", timeout=300)
        yield made


def _keep_logs(world: World, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in world.folder.rglob("*"):
        if path.is_file() and (path.name in {"log"} or path.suffix == ".log"):
            name = str(path.relative_to(world.folder)).replace("/", "_")
            (target / name).write_bytes(path.read_bytes())
