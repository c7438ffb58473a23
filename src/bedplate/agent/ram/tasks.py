"""The four steps of a bare server, each from what it is asked for to what came of it, in a thread. Chooses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from bedplate.agent.faults import AgentFault
from bedplate.agent.ram.deployment import deployment
from bedplate.agent.ram.devices import Device, devices
from bedplate.agent.ram.erasing import DiskEraser
from bedplate.agent.ram.inspect import LLDP_SECONDS, inspect
from bedplate.agent.ram.pieces import Connect
from bedplate.agent.ram.testing import EFFORTS, Tester
from bedplate.agent.ram.writing import ImageWriter
from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.inventory import MetalView
from bedplate.model.metal import Erased, ServerTests
from bedplate.model.steps import EraseDisks, InspectServer, RamStep, RunTests, WriteImage

Task = Literal["", "inspect", "test", "write", "erase"]
TASKS: dict[type[RamStep], Task] = {
    InspectServer: "inspect",
    RunTests: "test",
    WriteImage: "write",
    EraseDisks: "erase",
}


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a step finds around it."""

    folder: Path
    """In memory, for what a restarted agent goes on with."""
    controller: str
    connect: Connect
    address: str
    """Of this server in the connection to the controller."""
    lldp_seconds: float = LLDP_SECONDS
    look: Callable[[], list[Device]] = devices


def identity(step: RamStep) -> tuple[str, ...]:
    """Two steps of one identity are the same work."""
    match step:
        case InspectServer():
            return ("inspect",)
        case RunTests():
            return ("test", step.entry.suite)
        case WriteImage():
            what = deployment(step)
            return ("write", step.entry.root_disk, what.uid, str(what.generation), what.image.metal)
        case EraseDisks():
            disks = step.entry.hardware.disks if step.entry.hardware is not None else ()
            return ("erase", step.entry.machine, *(d.serial for d in disks))


def answered(step: RamStep, view: MetalView) -> bool:
    """True where what the step asks for is known already, in this boot."""
    match step:
        case InspectServer():
            return view.hardware is not None
        case RunTests():
            return view.tests is not None and view.tests.suite == step.entry.suite
        case EraseDisks():
            wanted = {d.serial for d in step.entry.hardware.disks} if step.entry.hardware is not None else set[str]()
            there = view.erased
            same = there is not None and there.machine == step.entry.machine and there.proven
            return same and there is not None and wanted <= {d.serial for d in there.disks}
        case WriteImage():
            return False  # the disk itself is asked


def begun(step: RamStep, view: MetalView) -> MetalView:
    """The view as the step begins: what it takes away is no more."""
    view = msgspec.structs.replace(view, task=TASKS[type(step)], progress=0.0)
    match step:
        case WriteImage():
            return msgspec.structs.replace(view, written=None, erased=None)
        case EraseDisks():
            return msgspec.structs.replace(view, written=None, erased=None)
        case _:
            return view


def perform(
    step: RamStep,
    enrol: bytes,
    around: Surroundings,
    view: MetalView,
    progress: Callable[[float], None],
    stop: threading.Event,
) -> MetalView:
    """Do it; gives the view with what came of it.

    Raises:
        AgentFault: it can't be done.
        OSError: a disk or the controller failed.
        Stopped: told to end.
    """
    match step:
        case InspectServer():
            found = inspect(around.address, listen=around.lldp_seconds, look=around.look, progress=progress, stop=stop)
            return msgspec.structs.replace(view, hardware=found)
        case RunTests():
            began = time.time()
            card = next((n for n in view.hardware.nics if n.boot), None) if view.hardware is not None else None
            tester = Tester(around.controller, card, progress, stop, around.look)
            tests = tester.run(EFFORTS[step.entry.suite])
            made = ServerTests(suite=step.entry.suite, tests=tests, began=began, ended=time.time())
            return msgspec.structs.replace(view, tests=made)
        case WriteImage():
            writer = ImageWriter(around.folder, around.connect, progress, stop, around.look)
            file = next_enrolment(enrol, around.controller)
            written = writer.run(deployment(step), step.entry.root_disk, file)
            return msgspec.structs.replace(view, written=written)
        case EraseDisks():
            if step.entry.hardware is None:
                raise AgentFault("NotInspected", "no disk is erased that was not inspected: inspect it", permanent=True)
            done = DiskEraser(progress, stop, around.look).run(step.entry.hardware.disks)
            return msgspec.structs.replace(view, erased=Erased(machine=step.entry.machine, disks=done))


def next_enrolment(enrol: bytes, controller: str) -> bytes:
    """The enrolment file of what is written: it dials the controller where this system reaches it, by that interface.

    Raises:
        AgentFault: it is none.
    """
    if not enrol:
        return b""
    try:
        file = msgspec.json.decode(enrol, type=EnrolFile)
    except msgspec.MsgspecError as error:
        raise AgentFault("BadEnrolment", f"the enrolment file of what is written can't be read: {error}") from error
    return msgspec.json.encode(msgspec.structs.replace(file, controller=controller))
