"""What only the real store can show: its files, their modes, a full disk, what is forgotten, a backup's way back."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).parent))

from store_rig import SHOP, Real, begin, delta, entry, lead

from bedplate.engine import messages as msg
from bedplate.model.kinds.cluster import Cluster
from bedplate.model.kinds.core import Secret
from bedplate.model.meta import ObjectMeta
from bedplate.model.steps import CreateVolume
from bedplate.runner.controller import StoreUnavailableError
from bedplate.store import tables as t
from bedplate.store.backup import backup, restore
from bedplate.store.errors import Compacted, StoreError, StoreUnavailable
from bedplate.store.retention import Retention
from bedplate.store.store import DATABASE, KEY, Store


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Real]:
    real = Real(tmp_path / "data")
    yield real
    real.store.close()


def rows(store: Store) -> dict[str, int]:
    with store.reading() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar() or 0
            for table in (t.entries, t.changes, t.blueprints)
        }


def test_what_a_commit_writes_is_in_proportion_to_its_change(kept: Real) -> None:
    controller, epoch = lead(kept)
    fleet = [entry(n) for n in range(300)]
    controller.carry_out([msg.Commit(delta=delta(0, *fleet), epoch=epoch)])
    before = rows(kept.store)
    controller.carry_out([msg.Commit(delta=delta(1, entry(7, cpu=4), gone=(entry(8).key,)), epoch=epoch)])
    grown = {name: count - before[name] for name, count in rows(kept.store).items()}
    assert grown == {"entries": 1, "changes": 1, "blueprints": 1}
    first, second = kept.store.load_blueprint(1), kept.store.load_blueprint()  # type: ignore[arg-type]
    assert len(first.entries) == 300
    assert len(second.entries) == 299
    assert first.entries[entry(7).key] == entry(7)
    assert second.entries[entry(7).key] == entry(7, cpu=4)


# --- secrets --------------------------------------------------------------------------------------------------------


def test_files_are_for_their_owner_only_and_hold_no_secret_in_clear(kept: Real) -> None:
    word = b"correct horse battery staple"
    kept.store.put_secret("clusters/shop/ca", word)
    with kept.store.transaction() as tx:
        made = Secret(metadata=ObjectMeta(name="login", namespace="default"))
        tx.put_user_secret(made, {"password": word.hex()})
    folder = kept.store.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    key = (folder / KEY).read_bytes()
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        content = path.read_bytes()
        assert word not in content
        assert word.hex().encode() not in content
        assert path.name == KEY or key not in content
    assert kept.store.get_secret("clusters/shop/ca") == word


@pytest.mark.parametrize("damage", ["gone", "open to all", "another"])
def test_a_key_that_is_not_right_is_refused_with_the_remedy(kept: Real, damage: str) -> None:
    kept.store.put_secret("a", b"secret words")
    kept.store.close()
    file = kept.store.folder / KEY
    good = file.read_bytes()
    match damage:
        case "gone":
            file.unlink()
        case "open to all":
            file.chmod(0o644)
        case _:
            file.write_bytes(b"x" * len(good))
    with pytest.raises(StoreError) as refused:
        Store.open(kept.store.folder)
    assert "secret words" not in str(refused.value)
    file.write_bytes(good)
    file.chmod(0o600)
    kept.reopen()
    assert kept.store.get_secret("a") == b"secret words"


# --- trouble --------------------------------------------------------------------------------------------------------


def full(store: Store, pages: int) -> None:
    """Give the database so many pages beyond what it has, on every connection: SQLite then says that the disk is
    full. 0: no more at all; a million: as many as it likes."""
    with store._engine.connect() as connection:
        present = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0

    def limit(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={present + pages}").close()

    from sqlalchemy import event

    store._engine.dispose()
    event.listen(store._engine, "connect", limit)


def test_a_full_disk_is_told_and_nothing_is_lost_or_half_written(kept: Real) -> None:
    controller, epoch = lead(kept)
    controller.carry_out([msg.Commit(delta=delta(0, entry(1)), epoch=epoch)])
    revision = kept.store.revision
    full(kept.store, 0)
    large = delta(1, *(entry(n) for n in range(400)))
    turn = [begin("1-1", CreateVolume(machine=entry(1)), epoch), msg.Commit(delta=large, epoch=epoch)]
    with pytest.raises(StoreUnavailableError, match="full"):
        controller.carry_out(turn)
    assert (kept.store.revision, kept.store.open_operations()) == (revision, [])
    assert dict(kept.store.load_blueprint().entries) == {entry(1).key: entry(1)}
    full(kept.store, 1_000_000)
    assert [type(e) for e in controller.carry_out(turn)] == [msg.Journalled, msg.Committed]
    assert len(controller.load(epoch).blueprint.entries) == 400


def test_a_read_only_database_is_told_with_the_remedy_and_goes_on_once_it_is_mended(kept: Real) -> None:
    from sqlalchemy import event

    controller, epoch = lead(kept)
    switch = {"on": True}

    def only(connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA query_only={'ON' if switch['on'] else 'OFF'}").close()

    event.listen(kept.store._engine, "checkout", only)
    turn = [msg.Commit(delta=delta(0, entry(1)), epoch=epoch)]
    with pytest.raises(StoreUnavailableError, match="read-only"):
        controller.carry_out(turn)
    with pytest.raises(StoreUnavailableError, match="read-only"):
        controller.renew(epoch)
    assert kept.store.load_blueprint().number == 0
    switch["on"] = False
    assert [type(e) for e in controller.carry_out(turn)] == [msg.Committed]


def test_a_folder_that_can_not_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    with pytest.raises(StoreUnavailable, match="can't be used"):
        Store.open(tmp_path / "data")


def test_another_process_can_not_open_the_folder(kept: Real) -> None:
    code = "import sys; from bedplate.store.store import Store; Store.open(sys.argv[1]).close()"
    argv = [sys.executable, "-c", code, str(kept.store.folder)]
    other = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert other.returncode != 0
    assert "is in use by process" in other.stderr
    with pytest.raises(StoreError, match="in use"):  # nor this one, a second time
        Store.open(kept.store.folder)
    kept.store.close()
    assert subprocess.run(argv, check=False).returncode == 0
    kept.reopen()


# --- what is forgotten, and what comes back -------------------------------------------------------------------------


def test_compacted_history_is_told_and_never_what_is_in_force(kept: Real) -> None:
    controller, epoch = lead(kept)
    kept.store.create(Cluster(metadata=ObjectMeta(name="shop", namespace="default")))
    for number in range(30):
        controller.carry_out([msg.Commit(delta=delta(number, entry(number)), epoch=epoch)])
    controller.carry_out([begin("1-1", CreateVolume(machine=entry(1)), epoch)])
    newest = kept.store.revision
    kept.store.retention = Retention(changes=5, blueprints=3)
    kept.store.maintain()
    with pytest.raises(Compacted):
        kept.store.changes_since(1)
    with pytest.raises(Compacted):
        kept.store.list_raw("Cluster", revision=newest - 20)
    with pytest.raises(Compacted):
        kept.store.changes_since(newest + 100_000)
    with pytest.raises(StoreError, match="not kept"):
        kept.store.load_blueprint(5)  # type: ignore[arg-type]
    kept.reopen()
    controller, epoch = lead(kept)
    found = controller.load(epoch)
    assert len(found.blueprint.entries) == 30
    assert [o.id for o in found.open_operations] == ["1-1"]
    assert set(found.spec.clusters) == {SHOP}


def test_a_restored_store_only_observes_until_it_is_accepted(kept: Real, tmp_path: Path) -> None:
    controller, epoch = lead(kept)
    controller.carry_out([msg.Commit(delta=delta(0, entry(1)), epoch=epoch)])
    kept.store.put_secret("clusters/shop/ca", b"words")
    revision = kept.store.revision
    backup(kept.store.folder, tmp_path / "backup")  # while it is in use
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600
    controller.carry_out([msg.Commit(delta=delta(1, entry(2)), epoch=epoch)])
    for _ in range(3):
        epoch = lead(kept)[1]
    restore(tmp_path / "backup", tmp_path / "again")
    with pytest.raises(StoreError, match="has a store already"):
        restore(tmp_path / "backup", tmp_path / "again")
    other = Real(tmp_path / "again")
    try:
        controller, again = lead(other)
        assert again > epoch + 1000  # the world has seen epochs that the copy does not know
        found = controller.load(again)
        assert found.observe_only
        assert (found.store, dict(found.blueprint.entries)) == (kept.store.id, {entry(1).key: entry(1)})
        assert other.store.get_secret("clusters/shop/ca") == b"words"
        with pytest.raises(Compacted):
            other.store.changes_since(revision)
        other.reopen()
        assert lead(other)[0].load(again).observe_only
        other.store.accept_restored()
        other.reopen()
        assert not lead(other)[0].load(again).observe_only
    finally:
        other.store.close()
    assert not kept.controller().load(epoch).observe_only
    assert not (kept.store.folder / f".{DATABASE}").exists()


def test_a_file_that_is_no_backup_leaves_no_store_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no backup")
    with pytest.raises(StoreError, match="not a backup"):
        restore(tmp_path / "file", tmp_path / "data")
    assert not (tmp_path / "data" / DATABASE).exists()
