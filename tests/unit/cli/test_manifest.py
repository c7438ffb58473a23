"""What users write is read with the line of every fault."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from bedplate.cli.errors import UserError
from bedplate.cli.manifest.load import MAX_BYTES, FaultsError, load
from bedplate.cli.manifest.marks import Item, parse_field
from bedplate.cli.manifest.yaml_reader import ManifestError, read_yaml

CLUSTER = "apiVersion: bedplate.dev/v1alpha1\nkind: Cluster\nmetadata: {name: shop}\n"


def faults(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read_yaml(text, "shop.yaml")
    return [str(f) for f in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'the key "a" is there twice; the first is at line 1'),
        ("spec:\n  x: 1\n  x: 2\n", 3, 'the key "x" is there twice in spec; the first is at line 2'),
        ("spec:\n\tx: 1\n", 2, "a tab indents this line"),
        ("spec: [1, 2\nx: 1\n", 2, "not YAML"),
        ("a: {b: *nope}\n", 1, "an anchor that is not there"),
        ("a: &a\n  b: *a\n", 2, "refers to what it stands in"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "has no meaning here"),
        ("a: .inf\n", 1, "no number that an object can hold"),
        ("x: 1\na: \x07\n", 2, "may not stand in YAML"),
        ("? [1, 2]\n: 3\n", 1, "a key must be a text"),
        ("[" * 100_000, 1, "nested deeper"),
        ("- " * 100_000, 1, "nested deeper"),
    ],
)
def test_each_treachery_is_told_with_its_line(text: str, line: int, says: str) -> None:
    (told,) = faults(text)
    assert told.startswith(f"shop.yaml:{line}: ")
    assert says in told


def test_two_faults_are_told_both() -> None:
    assert len(faults("a: 1\na: 2\nb: {c: 1,\n  c: 2}\n")) == 2


def test_an_anchor_bomb_is_refused_before_it_expands() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    (told,) = faults(bomb)
    assert "write out what is meant" in told


def test_scalars_are_those_of_yaml_1_2() -> None:
    (document,) = read_yaml("{a: yes, b: on, c: true, d: 012, e: 0x10, f: 1.30, g: '1.30', h: ~, i: 1e3, j: 1:30}", "x")
    assert document.value == {
        "a": "yes", "b": "on", "c": True, "d": 12, "e": 16, "f": 1.3, "g": "1.30", "h": None, "i": 1000.0, "j": "1:30",
    }  # fmt: skip
    assert document.marks.texts[("f",)] == "1.30"
    assert ("g",) not in document.marks.texts


def test_aliases_and_merges_are_written_out() -> None:
    (document,) = read_yaml("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nagain: *b\n", "x")
    assert document.value["use"] == {"x": 1, "y": 3}
    assert document.value["again"] == {"x": 1, "y": 2}


def test_lines_are_known_for_fields_and_for_what_is_not_there() -> None:
    (item,) = load_text(CLUSTER + "spec:\n  controlPlane:\n    replicas: 2\n  addons:\n    - name: x\n")
    assert item.fault(("spec", "controlPlane", "replicas"), "").line == 6
    assert item.fault(("spec", "addons", 0, "name"), "").line == 8
    assert item.fault(("spec", "network"), "").line == 4


def test_field_paths_of_the_api_are_understood() -> None:
    assert parse_field("spec.ranges[0].first") == ("spec", "ranges", 0, "first")
    assert parse_field("metadata.labels[example.com/x].y") == ("metadata", "labels", "example.com/x", "y")
    assert parse_field('metadata.labels["a.b"]') == ("metadata", "labels", "a.b")


def load_text(text: str) -> list[Item]:
    return load(["-"], stdin=io.BytesIO(text.encode()))


def test_documents_and_lists_become_objects() -> None:
    namespace = "- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n"
    text = f"{CLUSTER}---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n{namespace}"
    items = load_text(text)
    assert [i.object["kind"] for i in items] == ["Cluster", "Namespace"]
    assert items[1].fault(("metadata", "name"), "").line == 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("just a text\n", "stdin:1: an object must be a mapping"),
        ("kind: Cluster\nmetadata: {name: x}\n", "stdin:1: apiVersion is missing"),
        ("apiVersion: v1\nkind: Namespace\n", "stdin:1: metadata is missing"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {}\n", "stdin:3: metadata.name is missing"),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: 007}\n",
            'stdin:3: metadata.name must be a text; write "007"',
        ),
        (f"{CLUSTER}---\n{CLUSTER}", "stdin:5: Cluster shop is declared twice; the first is at stdin:1"),
    ],
)
def test_faults_of_an_object_s_head(text: str, says: str) -> None:
    with pytest.raises(FaultsError) as caught:
        load_text(text)
    assert says in str(caught.value)
    assert str(caught.value).endswith("nothing was applied")


def test_a_folder_is_read_in_order_and_all_faults_are_told(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("a: 1\na: 2\n")
    (tmp_path / "a.yml").write_text(CLUSTER)
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not ours")
    with pytest.raises(FaultsError) as caught:
        load([str(tmp_path)])
    assert [Path(f.source).name for f in caught.value.faults] == ["b.yaml", "c.json"]


def test_what_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"# " + b"x" * 10 * MAX_BYTES)
    (tmp_path / "disk.yaml").write_bytes(b"\x7fELF\xff\xfe")
    with pytest.raises(FaultsError) as caught:
        load([str(tmp_path / "big.yaml"), str(tmp_path / "disk.yaml")])
    assert "larger than the 1 MiB" in str(caught.value)
    assert "not UTF-8 text" in str(caught.value)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load([str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match=r"has no \*\.yaml"):
        load([str(tmp_path)])
    with pytest.raises(UserError, match="there are no objects"):
        load_text("# empty\n")
