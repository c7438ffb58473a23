"""Many runs of a layout on all cores; what was run once is kept, so that an interrupted sweep goes on where it was.

The same seed gives the same run, whoever tells it and in whatever order: results are a function of the fleet, the
layout, the seed, the years and Bedplate's own code, and are kept under a digest of these.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import msgspec

import bedplate
from bedplate.advise import trouble
from bedplate.advise.fleet import Profile
from bedplate.advise.packing import Layout
from bedplate.advise.twin import ranges_of, setting_of
from bedplate.advise.years import Run, Telling
from bedplate.sim import copying
from bedplate.sim.scenario import opening, plain
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.scenario.setting import Setting
from bedplate.sim.simulator import Simulator

READY_WITHIN = 60 * 86_400.0
"""Seconds in which a fleet must come up from nothing: metal is deployed a few servers at a time."""
ENDED = (
    "the process that tells a fleet's years was ended (by hand, or for want of memory); "
    "run it again: what was told is kept"
)
T = TypeVar("T", bound=msgspec.Struct)
_CODE = ("model", "planner", "checks", "engine", "sim", "advise")


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run."""

    profile: Profile
    layout: Layout
    seeds: tuple[int, ...]
    years: float = 1.0

    @property
    def digest(self) -> str:
        """Of all that decides a run but its seed."""
        ops = self.profile.operations
        rates = {m.name: trouble.failures_a_year(self.profile, m) for m in self.profile.servers}
        decided = {
            "setting": plain.write(setting_of(self.profile, self.layout)),
            "operations": plain.write(msgspec.structs.replace(ops, growth=None, years=1)),
            "durations": dict(self.profile.durations),
            "rates": rates,
            "servers": self.layout.servers,
            "years": self.years,
            "code": _code(),
        }
        return hashlib.sha256(msgspec.json.encode(decided, order="deterministic")).hexdigest()[:32]


@cache
def _code() -> str:
    """Digest of the code by which runs are told."""
    root = Path(bedplate.__file__).parent
    digest = hashlib.sha256()
    for part in _CODE:
        for path in sorted((root / part).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Kept:
    """Results in a folder, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, digest: str, name: object, kind: type[T]) -> T | None:
        """What was kept by that name (a run's is its seed) under that digest, if it is there whole."""
        try:
            return msgspec.json.decode(self._path(digest, name).read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, digest: str, name: object, result: msgspec.Struct) -> None:
        """Keep a result; a reader sees all of it or nothing."""
        path = self._path(digest, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}")
        half.write_bytes(msgspec.json.encode(result))
        half.replace(path)

    def _path(self, digest: str, name: object) -> Path:
        return self._folder / digest / f"{name}.json"


def run(sweep: Sweep, *, jobs: int = 0, kept: Kept | None = None) -> Iterator[Run]:
    """Tell every seed; runs come as they end, those that were kept first.

    Raises:
        ScenarioError: the fleet does not become Ready on that layout, or a process was ended from outside.
    """
    if kept is None:
        yield from _run(sweep, sweep.seeds, jobs)
        return
    digest, left = sweep.digest, list[int]()
    for seed in sweep.seeds:
        known = kept.get(digest, seed, Run)
        if known is None:
            left.append(seed)
        else:
            yield known
    for one in _run(sweep, left, jobs):
        kept.put(digest, one.seed, one)
        yield one


def _run(sweep: Sweep, left: Sequence[int], jobs: int) -> Iterator[Run]:
    """Tell those seeds, so many at once, in a process that brings the world to its beginning."""
    if not left:
        return
    context = multiprocessing.get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    teller = context.Process(target=_tell, args=(sweep, left, jobs or os.cpu_count() or 1, writing), daemon=True)
    teller.start()
    writing.close()
    try:
        for _ in left:
            got: Run | Exception = reading.recv()
            if isinstance(got, Exception):
                raise got
            yield got
    except EOFError:
        raise ScenarioError(ENDED) from None
    finally:
        teller.terminate()
        teller.join()
        reading.close()


def begun(profile: Profile, setting: Setting) -> Simulator:
    """The twin, Ready and calm. Raises `ScenarioError`."""
    sim = opening.simulator(setting, seed=setting.seed, keep=False, ranges=ranges_of(profile))
    opening.begin(sim, setting, within=READY_WITHIN)
    return sim


def _tell(sweep: Sweep, seeds: Sequence[int], at_once: int, results: Connection) -> None:
    """In a process of its own: bring the world to its beginning once, and tell each seed in a copy of it."""

    def telling(seed: int) -> Callable[[], Run]:
        return Telling(sim, sweep.profile, sweep.layout, seed=seed, years=sweep.years).tell

    try:
        sim = begun(sweep.profile, setting_of(sweep.profile, sweep.layout))
        with copying.frozen():
            for n, told in copying.in_copies(map(telling, seeds), Run, at_once=at_once):
                results.send(told or ScenarioError(f"seed {seeds[n]}: {ENDED}"))
    except Exception as error:
        results.send(error)
