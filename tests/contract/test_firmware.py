"""Compatibility matrices over the API, and what `bedplate server firmware` shows of servers that were inspected."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_server import GROUP, ApiServer, good, refusal

from bedplate.cli.main import main
from bedplate.model.kinds.infrastructure import FirmwareStatus, MetalStatus, Server, ServerStatus

MATRICES = f"{GROUP}/compatibilitymatrices"
OLD = FirmwareStatus(
    component="bios", version="1.9.2", verdict="unsupported", wanted="1.12 or newer", matrix="lab", note="CVE"
)
GOOD = FirmwareStatus(component="nic eno1", version="4.40", model="ice", verdict="supported", matrix="lab")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    server = ApiServer(tmp_path)
    for name, firmware in (("r1", (OLD, GOOD)), ("r2", (GOOD,)), ("r3", None)):
        server.create(f"{GROUP}/servers", {"kind": "Server", "metadata": {"name": name}, "spec": {}})
        kept = server.store.get("Server", "", name)
        assert isinstance(kept, Server)
        if firmware is not None:
            metal = MetalStatus(vendor="Dell Inc.", product="PowerEdge R650", firmware=firmware)
            server.store.update_status(msgspec.structs.replace(kept, status=ServerStatus(metal=metal)))
    try:
        yield server
    finally:
        server.close()


def bedplate(api: ApiServer, *words: str) -> int:
    return main(["server", "firmware", *words, "--kubeconfig", str(api.kubeconfig)])


def matrix(entry: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "CompatibilityMatrix", "metadata": {"name": "lab"}, "spec": {"entries": [entry]}}


def test_a_matrix_is_kept_as_declared_and_a_wrong_one_is_refused_at_its_field(api: ApiServer) -> None:
    entry = {"component": "bios", "product": "PowerEdge R6*", "minimum": "1.12", "url": "https://example.com"}
    api.create(MATRICES, matrix(entry))
    kept = good(api.call("GET", f"{MATRICES}/lab"))
    assert kept["spec"]["entries"][0] | entry == kept["spec"]["entries"][0]
    wrong = matrix({"component": "bios", "minimum": "2.10", "maximum": "2.9"}) | {"metadata": {"name": "other"}}
    status = refusal(api.call("POST", MATRICES, wrong), 422, "Invalid")
    assert "spec.entries[0].maximum" in status["message"]
    assert api.store.load_spec()[0].compatibility_matrices.keys() == {"compatibilitymatrix/lab"}


def test_all_that_were_inspected_are_shown_with_what_would_be_right(
    api: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bedplate(api) == 0
    lines = [line.split("   ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows[1] == ["r1", "bios", "<none>", "1.9.2", "not supported", "1.12 or newer", "lab", "CVE"]
    assert [r[:2] for r in rows[2:]] == [["r1", "nic eno1"], ["r2", "nic eno1"]]


def test_the_exit_code_tells_of_the_servers_that_are_named(api: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert bedplate(api, "--exit-code") == 2
    assert bedplate(api, "r2", "--exit-code") == 0
    capsys.readouterr()
    assert bedplate(api, "r1", "-o", "json") == 0
    [told] = json.loads(capsys.readouterr().out)
    assert (told["server"], told["product"], len(told["firmware"])) == ("r1", "PowerEdge R650", 2)
    assert told["firmware"][0]["verdict"] == "unsupported"
    assert bedplate(api, "r3") == 1
    assert "server/r3 was never inspected" in capsys.readouterr().err
