"""What a bare server's status says: where it is in its life, its hardware, tests and erasures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bedplate.model.blueprint import MetalEntry
from bedplate.model.drift import firmware_changes
from bedplate.model.firmware import JudgedFirmware, judge, unsupported
from bedplate.model.ids import key
from bedplate.model.kinds.infrastructure import (
    BmcStatus,
    DiskStatus,
    ErasureStatus,
    FirmwareStatus,
    MetalStatus,
    Server,
)
from bedplate.model.meta import Condition
from bedplate.model.metal import Described, Erasure, ServerTest
from bedplate.model.quantity import format_mib
from bedplate.model.times import timestamp
from bedplate.planner import peers

if TYPE_CHECKING:
    from bedplate.engine.engine import Engine

_GOOD = frozenset({"available", "deployed"})
_MIB = 2**20
_DRIFTS = 5
"""Differences that the condition names; `status.metal.drift` has them all."""


def conditions(engine: Engine, s: Server, entry: MetalEntry | None) -> tuple[str, Condition]:
    """Phase and Ready condition of a bare server; `entry` None: nobody accepted it, or it waits to be taken on."""
    waiting = engine.waiting.get(key("metal", s.metadata.name))
    running = engine.flight.on(key("metal", s.metadata.name))
    if entry is None and not s.spec.accepted:
        phase, reason = "Enrolled", "NotAccepted"
        message = f"nobody accepted it: `bedplate server accept {s.metadata.name}` lets it be booted and overwritten"
    elif entry is None:
        phase, reason = "Accepted", waiting.reason.value if waiting is not None else "Accepted"
        message = waiting.sentence if waiting is not None else ""
    else:
        phase, reason = entry.state.capitalize(), entry.state.capitalize()
        message = entry.reason
        if running is not None and entry.state not in _GOOD:
            message = f"{running.step.name}: {running.reason}"
        elif waiting is not None:
            reason, message = waiting.reason.value, waiting.sentence
    ok = entry is not None and entry.state in _GOOD
    ready = Condition(
        type="Ready",
        status="True" if ok else "False",
        reason=reason,
        message=message,
        observed_generation=s.metadata.generation,
    )
    return phase, ready


def firmware(engine: Engine, entry: MetalEntry) -> tuple[JudgedFirmware, ...]:
    """Its firmware as it was inspected last, against the matrices as they are now."""
    matrices = engine.spec.spec.compatibility_matrices.values()
    return judge(entry.hardware, matrices) if entry.hardware is not None else ()


def more_conditions(
    engine: Engine, s: Server, entry: MetalEntry, judged: tuple[JudgedFirmware, ...]
) -> tuple[Condition, ...]:
    """What is known of its hardware beyond its being there. `judged`: as `firmware` has it."""
    matrices = engine.spec.spec.compatibility_matrices
    supported = _firmware_supported(s, judged) if matrices and judged else ()
    return (*_degraded(s, entry), *supported, *_as_deployed(engine, s, entry), *_own_bmc(engine, s, entry))


def _own_bmc(engine: Engine, s: Server, entry: MetalEntry) -> tuple[Condition, ...]:
    said = another(engine, entry)
    if not said:
        return ()
    generation = s.metadata.generation
    return (
        Condition(type="OwnBmc", status="False", reason="OtherSerial", message=said, observed_generation=generation),
    )


def drifted(engine: Engine, entry: MetalEntry) -> tuple[str, ...] | None:
    """How what was deployed on it differs from its image, and its firmware from what was inspected, one sentence each;
    None: it was not looked at since it was deployed."""
    seen = engine.inventory.inventory.server(entry.server)
    told = seen.value.drift if seen is not None and entry.state == "deployed" else None
    if told is None:
        return None
    more = (f"and {told.more} more",) if told.more else ()
    return (*firmware_changes(entry.hardware, told.firmware), *told.changes, *more)


def _as_deployed(engine: Engine, s: Server, entry: MetalEntry) -> tuple[Condition, ...]:
    found = drifted(engine, entry)
    if found is None:
        return ()
    return (
        Condition(
            type="AsDeployed",
            status="False" if found else "True",
            reason="Drifted" if found else "AsItsImage",
            message="; ".join(found[:_DRIFTS]) + (f"; and {len(found) - _DRIFTS} more" if found[_DRIFTS:] else ""),
            observed_generation=s.metadata.generation,
        ),
    )


def _degraded(s: Server, entry: MetalEntry) -> tuple[Condition, ...]:
    if entry.tests is None:
        return ()
    behind = peers.degraded(entry.tests)
    return (
        Condition(
            type="Degraded",
            status="True" if behind else "False",
            reason="BehindItsPeers" if behind else "NotBehindItsPeers",
            message="; ".join(f"{t.name}: {t.detail}" for t in behind),
            observed_generation=s.metadata.generation,
        ),
    )


def _firmware_supported(s: Server, judged: tuple[JudgedFirmware, ...]) -> tuple[Condition, ...]:
    wrong = list(unsupported(judged))
    unknown = sum(1 for j in judged if j.verdict == "unknown")
    if wrong:
        status, reason, message = "False", "NotSupported", "; ".join(j.sentence() for j in wrong)
    elif unknown == len(judged):
        status, reason, message = "Unknown", "InNoMatrix", "no matrix speaks of any of its components"
    else:
        status, reason = "True", "AsInMatrix"
        message = f"{unknown} of {len(judged)} components are in no matrix" if unknown else ""
    return (
        Condition(
            type="FirmwareSupported",
            status=status,
            reason=reason,
            message=message,
            observed_generation=s.metadata.generation,
        ),
    )


def described(d: Described) -> BmcStatus:
    """The server as its BMC describes it."""
    return BmcStatus(
        vendor=d.vendor,
        product=d.product,
        serial=d.serial,
        bios=d.bios,
        cpu=d.cpu_model,
        sockets=d.sockets,
        threads=d.threads,
        memory=format_mib(d.memory_mib) if d.memory_mib else "",
        macs=d.macs,
    )


def another(engine: Engine, entry: MetalEntry) -> str:
    """What speaks for the BMC's being another server's, as a sentence; empty: nothing."""
    bmc = engine.inventory.inventory.bmc(entry.server)
    told = bmc.value.described.serial if bmc is not None and bmc.value.described is not None else ""
    found = entry.hardware.serial if entry.hardware is not None else ""
    if not told or not found or told.casefold() == found.casefold():
        return ""
    return f"its BMC has the serial number {told}, the server itself {found}: see that this BMC is this server's"


def metal(engine: Engine, s: Server, entry: MetalEntry, judged: tuple[JudgedFirmware, ...]) -> MetalStatus:
    """All of it. `judged`: as `firmware` has it."""
    seen = engine.inventory.inventory.metal(entry.server)
    view = seen.value if seen is not None and seen.value.run == entry.run else None
    hardware, m = entry.hardware, engine.blueprint.machine(entry.machine)
    return MetalStatus(
        state=entry.state,
        since=timestamp(entry.since),
        role=entry.role if s.spec.role == "auto" else "",
        before=entry.before.state if entry.before is not None else "",
        shell=entry.before is not None and entry.before.up,
        machine=m.name if m is not None else "",
        image=entry.host.image.name if entry.host is not None else "",
        root_disk=entry.root_disk,
        task=view.task if view is not None else "",
        progress=f"{view.progress:.0%}" if view is not None and view.task else "",
        vendor=hardware.vendor if hardware is not None else "",
        product=hardware.product if hardware is not None else "",
        serial=hardware.serial if hardware is not None else "",
        cpus=hardware.threads if hardware is not None else 0,
        memory=format_mib(hardware.memory_mib) if hardware is not None else "",
        disks=tuple(
            DiskStatus(
                serial=d.serial,
                size=format_mib(d.size // _MIB),
                transport=d.transport,
                model=d.model,
                rotational=d.rotational,
                health=d.health,
            )
            for d in (hardware.disks if hardware is not None else ())
        ),
        macs=tuple(n.mac for n in (hardware.nics if hardware is not None else ())),
        problems=hardware.problems if hardware is not None else (),
        tests=tuple(_test(t) for t in (entry.tests.tests if entry.tests is not None else ())),
        firmware=tuple(_firmware(j) for j in judged),
        drift=drifted(engine, entry) or (),
        erasures=tuple(_erasure(d) for d in (entry.erased.disks if entry.erased is not None else ())),
    )


def _test(t: ServerTest) -> str:
    value = f" {t.value:g} {t.unit}".rstrip() if t.unit else ""
    return f"{t.name} {t.verdict}{value}" + (f": {t.detail}" if t.detail else "")


def _firmware(j: JudgedFirmware) -> FirmwareStatus:
    return FirmwareStatus(
        component=j.component.name,
        version=j.component.version,
        model=j.component.model,
        verdict=j.verdict,
        wanted=j.wanted,
        matrix=j.matrix,
        note=j.note,
        url=j.url,
    )


def _erasure(d: Erasure) -> ErasureStatus:
    return ErasureStatus(
        serial=d.serial,
        method=d.method,
        erased=d.erased,
        checked=format_mib(d.checked // _MIB),
        time=timestamp(d.ended) if d.ended else "",
    )
