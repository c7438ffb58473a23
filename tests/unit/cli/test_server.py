"""`bedplate server enrol`: what it asks of the API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bedplate.cli.commands import server
from bedplate.cli.main import main


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], {"controller": "", "replace": False}),
        (["--controller", "c.example.com:7444"], {"controller": "c.example.com:7444", "replace": False}),
        (["--replace"], {"controller": "", "replace": True}),
    ],
)
def test_an_enrolment_file_names_the_controller_and_replaces(
    options: list[str], asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[str, str, Any]] = []

    class Session:
        def __init__(self, _: object) -> None:
            self.client = self

        def kind(self, word: str) -> str:
            return word

        def path(self, *parts: str) -> str:
            return "/".join(parts)

        def request(self, method: str, path: str, body: object) -> dict[str, str]:
            requests.append((method, path, body))
            return {"token": "once"}

    monkeypatch.setattr(server, "Session", Session)
    assert main(["server", "enrol", "hv1", "-o", str(tmp_path / "f"), *options]) == 0
    assert requests == [("POST", "servers/hv1/enrol", asked)]
    assert json.loads((tmp_path / "f").read_text()) == {"token": "once"}
