"""The builders' cache beside others: what a process has taken or builds is not deleted, what goes goes whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.drivers.artifacts import pruning
from bedplate.drivers.artifacts.cache import Cache, Entry, InUse, key_of
from bedplate.drivers.artifacts.pruning import Item, References

HOUR = 3600.0
_OTHER = """
import sys
from pathlib import Path
from bedplate.drivers.artifacts.cache import Cache
cache, what = Cache(Path(sys.argv[1])), sys.argv[2]
def build(folder):
    (folder / "file").write_bytes(b"x" * 5000)
    if what == "build":
        print("at work", flush=True)
        sys.stdin.readline()
if what == "find":
    assert cache.find("stage", {"n": 1}) is not None
else:
    cache.obtain("stage", {"n": 1 if what == "obtain" else 2}, build)
print("has it", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other(root: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """Another process at work on the cache, until it is told to go on."""
    argv = [sys.executable, "-c", _OTHER, str(root), what]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def made(cache: Cache, number: int = 1, size: int = 5000, age: float = 0.0) -> Entry:
    """An entry that was last used so many seconds ago."""

    def build(folder: Path) -> dict[str, object]:
        (folder / "file").write_bytes(b"x" * size)
        return {}

    entry = cache.obtain("stage", {"n": number}, build)
    manifest = entry.path / "manifest.json"
    text = manifest.read_text().replace(f'"created": {entry.manifest.created}', f'"created": {time.time() - age}')
    manifest.write_text(text)
    use = cache.root / "locks" / f"stage-{entry.key}.use"
    os.utime(use, (time.time() - age,) * 2)
    return next(e for e in cache.all() if e.key == entry.key)


def pruned(cache: Cache, before: float) -> pruning.Pruned:
    verdicts = pruning.decide(pruning.items(cache), References(), before)
    return pruning.prune([v.item for v in verdicts if not v.kept], before, cache)


def test_what_was_not_used_for_long_goes_and_the_rest_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, young = made(cache, 1, 500_000, age=3 * HOUR), made(cache, 2, age=HOUR)
    done = pruned(cache, time.time() - 2 * HOUR)
    assert [i.key for i in done.gone] == [old.key]
    assert 500_000 <= done.freed < 600_000
    assert [e.key for e in cache.all()] == [young.key]
    assert made(cache, 1).path.exists(), "it is made again"


def test_taking_an_entry_is_using_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    made(cache, age=9 * HOUR)
    assert cache.find("stage", {"n": 1}) is not None
    assert not pruned(cache, time.time() - HOUR).gone


@pytest.mark.parametrize("what", ["obtain", "find"])
def test_what_another_process_has_taken_stays_until_it_ends(tmp_path: Path, what: str) -> None:
    cache = Cache(tmp_path)
    entry = made(cache)
    with other(tmp_path, what):
        done = pruned(cache, time.time() + HOUR)
        assert (done.gone, [i.key for i, _ in done.spared]) == ((), [entry.key])
        with pytest.raises(InUse, match="another process uses it"):
            cache.remove(entry)
        assert cache.fault(entry.path, thorough=True) is None
    assert [i.key for i in pruned(cache, time.time() + HOUR).gone] == [entry.key]


def test_what_is_being_built_stays_and_what_a_killed_builder_left_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    scratch = tmp_path / "tmp" / f"stage-{key_of('stage', {'n': 2})}"
    with other(tmp_path, "build") as builder:
        assert pruned(cache, time.time() + HOUR).leftovers == 0
        assert scratch.exists()
        assert builder.stdin is not None
        assert builder.stdout is not None
        builder.stdin.write("\n")
        builder.stdin.flush()
        assert builder.stdout.readline() == "has it\n"
        assert len(cache.all()) == 1
    with other(tmp_path / "again", "build"):
        pass  # killed
    again = Cache(tmp_path / "again")
    done = pruned(again, time.time() + HOUR)
    assert (done.leftovers, again.leftovers()) == (1, [])
    assert done.freed >= 4096


def test_a_deletion_that_was_cut_short_is_ended_by_the_next(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = made(cache)
    entry.path.rename((tmp_path / "tmp") / f"stage-{entry.key}.gone")  # killed here
    assert cache.all() == []
    assert made(cache).path.exists()
    assert pruned(cache, 0.0).leftovers == 1
    assert len(cache.all()) == 1


def test_what_has_another_name_elsewhere_frees_nothing_until_that_goes_too(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = made(cache, 1, 1_000_000)

    def linked(folder: Path) -> None:
        os.link(first.path / "file", folder / "file")

    second = cache.obtain("result", {"of": 1}, linked)
    both = pruning.items(cache)
    assert 1_000_000 <= pruning.would_free(both, cache) < 1_100_000
    assert pruning.would_free(both[:1], cache) < 100_000
    assert cache.remove(first) < 100_000
    assert cache.remove(second) >= 1_000_000


def test_just_taken_by_somebody_else_it_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = made(cache, age=9 * HOUR)
    chosen = pruning.items(cache)
    with other(tmp_path, "find"):
        pass  # it has come and gone since the choice was made
    done = pruning.prune(chosen, time.time() - HOUR, cache)
    assert (done.gone, len(done.spared)) == ((), 1)
    assert entry.path.exists()


@given(
    kind=st.sampled_from(["release", "image", "hypervisor", "metal", "ram", "debian"]),
    used=st.floats(0, 100),
    before=st.floats(0, 100),
    referred=st.booleans(),
)
def test_only_what_is_old_and_nothing_refers_to_may_go(kind: str, used: float, before: float, referred: bool) -> None:
    digests = frozenset({"sha256:aa"}) if kind in {"image", "hypervisor", "metal"} else frozenset[str]()
    version = "1.35.3" if kind == "release" else ""
    item = Item(kind=kind, name="n", key="k", size=1, used=used, digests=digests, version=version)
    known = References(versions=frozenset({"1.35.3"}), digests=frozenset({"sha256:aa"}), ram="k")
    (verdict,) = pruning.decide([item], known if referred else References(), before)
    may_go = used <= before and (not referred or kind == "debian")
    assert (verdict.kept == "") == may_go
