"""Who is asked before what can't be taken back, and what an answer is worth."""

from __future__ import annotations

import io

import pytest

from bedplate.cli.asking import confirm
from bedplate.cli.errors import UserError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y\n", " YES \n"])
def test_yes_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    confirm("Erase them", "go on", "nothing was erased")
    assert capsys.readouterr().err == "Erase them? [y/N] "


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "yess\n"])
def test_all_else_is_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with pytest.raises(UserError, match="nothing was erased"):
        confirm("Erase them", "go on", "nothing was erased")


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UserError, match="add --yes to go on without being asked"):
        confirm("Erase them", "go on", "nothing was erased")
