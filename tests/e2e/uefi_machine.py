"""A UEFI machine in a network namespace of its own, without the lab: booted, read by its serial console, ended."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bedplate.agent.kvm_probe import probe

FIRMWARE = Path("/usr/share/OVMF")
MAC = "52:54:00:aa:00:02"
HOST = "10.77.0.1"
"""The test's own address in the machine's network, inside of the namespace."""
_ESCAPES = re.compile(r"\x1b(\[[0-9;=?!]*[A-Za-z]|[()].)")


class Wire:
    """A network namespace with one tap, at whose other end a machine is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str) -> str:
        """Run a program inside."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *argv], check=True, capture_output=True, text=True
        ).stdout

    def start(self, *argv: str, **options: object) -> subprocess.Popen[str]:
        """Start a program inside; its output can be read."""
        words = ["ip", "netns", "exec", self.name, *argv]
        return subprocess.Popen(  # type: ignore[call-overload]
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", **options
        )


@contextmanager
def wire() -> Iterator[Wire]:
    """A namespace that is gone afterwards."""
    name = f"bpw{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made = Wire(name)
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
        made.run("ip", "address", "add", f"{HOST}/24", "dev", "tap0")
        made.run("ip", "link", "set", "tap0", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


class Machine:
    """A machine that runs."""

    def __init__(self, process: subprocess.Popen[str], monitor: Path) -> None:
        self.console = ""
        self._process = process
        self._monitor = monitor
        self._news: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, pattern: str, seconds: float = 300) -> re.Match[str]:
        """Wait for words on the console."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.console)) is None:
            try:
                line = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"not within {seconds:.0f} s: {pattern}\n{self.console[-6000:]}") from None
            assert line is not None, f"the machine ended before it said {pattern}\n{self.console[-6000:]}"
            self.console += line
        return found

    def eject(self, drive: str) -> None:
        """Take a medium out; fails while the machine holds it."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(30)
            monitor.connect(str(self._monitor))
            stream = monitor.makefile("rw")
            stream.readline()
            for command in ({"execute": "qmp_capabilities"}, {"execute": "eject", "arguments": {"id": drive}}):
                stream.write(json.dumps(command) + "\n")
                stream.flush()
                while "event" in (answer := json.loads(stream.readline())):
                    continue
                assert "return" in answer, answer

    def stop(self) -> None:
        """Cut its power."""
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._news.put(_ESCAPES.sub("", line))
        self._news.put(None)


@contextmanager
def machine(cable: Wire, devices: Sequence[str], *, first: str = "") -> Iterator[Machine]:
    """A q35 machine with UEFI, 2 GiB, a card without a network and one on the wire (`MAC`). `first`: `network` has it
    boot from the latter."""
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/var/tmp") as name:
        folder = Path(name)
        shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", folder / "vars.fd")
        accelerator = "kvm" if probe().works else "tcg,thread=multi"
        argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "2"]
        argv += ["-uuid", str(uuid.uuid4()), "-m", "2048", "-nodefaults", "-display", "none", "-serial", "stdio"]
        argv += ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd"]
        argv += ["-drive", f"if=pflash,format=raw,file={folder}/vars.fd"]
        argv += ["-netdev", "tap,id=wire,ifname=tap0,script=no,downscript=no", "-netdev", "hubport,id=dead,hubid=1"]
        argv += ["-device", "e1000e,netdev=dead,mac=52:54:00:aa:00:01,romfile="]
        order = ",bootindex=0" if first == "network" else ""
        argv += ["-device", f"virtio-net-pci,netdev=wire,mac={MAC},romfile={order}"]
        running = Machine(cable.start(*argv, *devices, stderr=subprocess.STDOUT), folder / "qmp")
        try:
            yield running
        finally:
            running.stop()
