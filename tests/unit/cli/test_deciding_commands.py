"""`fleet`, `compare`, `simulate`, `claims` as a person types them: output in every form, faults in one line each."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from bedplate.cli.main import main

EXAMPLES = Path(__file__).parents[3] / "examples"
FLEET = str(EXAMPLES / "fleet.yaml")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_compare_begins_with_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "-f", FLEET, "--runs", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(("For this fleet:", "Undecided:"))
    assert "performance" in out
    assert "literature" in out
    assert "Nothing was simulated" in out


def test_compare_writes_json_yaml_and_csv_that_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for form in ("json", "yaml", "csv"):
        assert main(["compare", "-f", FLEET, "--runs", "0", "-o", form]) == 0
        found[form] = capsys.readouterr().out
    read = json.loads(found["json"])
    assert yaml.safe_load(found["yaml"]) == read
    lines = list(csv.DictReader(io.StringIO(found["csv"])))
    cost = next(line for line in lines if line["quantity"] == "cost" and line["alternative"] == "vm")
    row = next(r for r in read["rows"] if r["name"] == "cost")
    assert float(cost["value"]) == row["cells"]["vm"]["value"]
    assert cost["source"] == "yours"


def test_a_simulated_fleet_is_taken_from_what_was_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    read = yaml.safe_load(Path(FLEET).read_text())
    read["clusters"] = read["clusters"][-1:]
    small.write_text(yaml.safe_dump(read))
    command = ["simulate", "-f", str(small), "--runs", "2", "--years", "0.1", "-o", "json"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert list((tmp_path / "cache" / "bedplate" / "simulated").rglob("*.json"))
    assert main(command) == 0
    assert capsys.readouterr().out == first


def test_a_what_if_shows_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    change = str(EXAMPLES / "what-if.yaml")
    assert main(["simulate", "-f", FLEET, "--what-if", change, "--runs", "0", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    changes = {c["name"]: c for c in found["changes"]}
    assert changes["cost"]["difference"]["value"] > 0
    assert changes["cost"]["verdict"] == "worse"


def test_claims_can_be_asked_for_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "V17", "M2", "-f", FLEET, "--runs", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("→") == 2
    assert "no snapshots yet" in out
    assert main(["claims", "V99", "-f", FLEET]) == 1
    assert 'there is no claim "V99"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["compare", "-f", "nowhere.yaml"], "nowhere.yaml cannot be read: No such file"),
        (["compare", "-f", FLEET, "--runs", "-1"], "--runs -1 is below zero"),
        (["compare", "-f", FLEET, "--years", "0"], "--years 0 is out of bounds"),
        (["fleet", "import"], "there is no server in it"),
        (["fleet", "import", "--cluster", "x.json"], "write NAME=FILE"),
        (["fleet", "import", "--servers", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1


def test_a_broken_file_is_told_with_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("servers: [\n  - {name: a\n")
    assert main(["compare", "-f", str(broken)]) == 1
    assert capsys.readouterr().err.startswith(f"{broken}:")


def test_what_was_imported_is_a_fleet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    servers, work = tmp_path / "s.csv", tmp_path / "w.csv"
    servers.write_text("name,count,cpus,memory,price\nr650,10,64,512Gi,12000 EUR\n")
    work.write_text("cluster,name,replicas,cpu,memory\nshop,web,20,2,4Gi\n")
    assert main(["fleet", "import", "--servers", str(servers), "--workloads", str(work)]) == 0
    made = tmp_path / "fleet.yaml"
    made.write_text(capsys.readouterr().out)
    assert yaml.safe_load(made.read_text())["currency"] == "EUR"
    assert main(["fleet", "check", "-f", str(made)]) == 0
    assert "10 servers of 1 models, 1 clusters, 1 workloads" in capsys.readouterr().out
