"""A bare server's tests against those of its peers in the fleet: what works, and is well behind its like, is degraded.

Judged once, when a server's tests are known, by what is known of the others then; the verdict is kept with its entry,
and changes by another test only. Decides nothing else: what is done about it is for `metal_pools`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median

import msgspec

from bedplate.model.blueprint import MetalEntry
from bedplate.model.metal import Hardware, ServerTest, ServerTests
from bedplate.model.policy import PeerBound, Policy


def judged(entry: MetalEntry, tests: ServerTests, everybody: Iterable[MetalEntry], policy: Policy) -> ServerTests:
    """Give the tests, each that is well behind its peers made `degraded`, with why in its detail.

    Args:
        entry: The server, with the hardware that was tested.
        tests: As its RAM system told them.
        everybody: Bare servers, of which itself is left out but for its own other disks.
        policy: Says what is well behind, and how many must be comparable.
    """
    others = [e for e in everybody if e.server != entry.server]
    bounds = {b.test: b for b in policy.peer_bounds}
    return msgspec.structs.replace(
        tests,
        tests=tuple(
            _judged(t, bounds.get(_kind(t)), [*_values(entry, tests, t, others)], policy.peers_least)
            for t in tests.tests
        ),
    )


def _judged(test: ServerTest, bound: PeerBound | None, values: list[float], least: int) -> ServerTest:
    if bound is None or not _measured(test) or len(values) < least:
        return test
    share = test.value / median(values)
    behind = share < bound.share if bound.share < 1 else share > bound.share
    if not behind:
        return test
    said = f"{test.value:g} {test.unit} is {100 * share:.0f} % of the median of {len(values)} like it"
    detail = f"{said}; {test.detail}" if test.detail else said
    return msgspec.structs.replace(test, verdict="degraded", detail=detail)


def _values(entry: MetalEntry, tests: ServerTests, test: ServerTest, others: Iterable[MetalEntry]) -> Iterator[float]:
    """What peers' tests of that kind measured: by the same suite and in the same unit."""
    if _kind(test) == "disk":
        model = _disk_model(entry.hardware, test)
        if not model:
            return
        for hardware, found in [(entry.hardware, tests), *((o.hardware, o.tests) for o in others)]:
            for t in _alike(test, tests, found):
                if t is not test and _disk_model(hardware, t) == model:
                    yield t.value
        return
    make = _make(entry.hardware)
    for other in others if make is not None else ():
        if other.nic.network == entry.nic.network and _make(other.hardware) == make:
            yield from (t.value for t in _alike(test, tests, other.tests))


def _alike(test: ServerTest, tests: ServerTests, found: ServerTests | None) -> Iterator[ServerTest]:
    if found is not None and found.suite == tests.suite:
        yield from (t for t in found.tests if _kind(t) == _kind(test) and t.unit == test.unit and _measured(t))


def _measured(test: ServerTest) -> bool:
    """It has a value that says how good the part is; what failed has none."""
    return test.verdict != "failed" and bool(test.unit) and test.value > 0


def _kind(test: ServerTest) -> str:
    return test.name.partition(" ")[0]


def _disk_model(hardware: Hardware | None, test: ServerTest) -> str:
    disk = hardware.disk(test.name.partition(" ")[2]) if hardware is not None else None
    return disk.model if disk is not None else ""


def _make(hardware: Hardware | None) -> tuple[str, str, str, int] | None:
    """What servers must share to be peers; None: it is not known. One socket does half of what two do."""
    if hardware is None or not hardware.product or not hardware.cpu_model:
        return None
    return (hardware.vendor, hardware.product, hardware.cpu_model, hardware.sockets)


def degraded(tests: ServerTests | None) -> tuple[ServerTest, ...]:
    """Those that are degraded."""
    return tuple(t for t in tests.tests if t.verdict == "degraded") if tests is not None else ()


def summary(tests: ServerTests) -> str:
    """How they ended, of tests of which none failed, as a reason."""
    behind = degraded(tests)
    return f"no test failed; degraded: {', '.join(t.name for t in behind)}" if behind else "its tests passed"
