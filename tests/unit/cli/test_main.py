"""The entry point: help for all, the nearest word for a wrong one, and no needless import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.cli import reference
from bedplate.cli.main import COMMANDS, main
from bedplate.cli.parsing import duration, split_target
from bedplate.cli.times import span

ROOT = Path(__file__).parents[3]


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 1
    return capsys.readouterr().err.strip()


def test_wrong_words_bring_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'did you mean "get"' in told(capsys, "gte")
    assert 'did you mean "--watch"' in told(capsys, "get", "machines", "--wacth")
    assert 'did you mean "status"' in told(capsys, "lab", "statsu")
    assert "formats are table" in told(capsys, "get", "machines", "-o", "yml")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"  bedplate {command}" in text or command == "proxy"


def test_the_reference_in_the_docs_is_the_commands_own() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    assert page == reference.markdown(), "run: python -m bedplate.cli.reference > docs/reference/cli.md"


def test_the_quick_way_imports_nothing_heavy(tmp_path: Path) -> None:
    """`bedplate get` may take at most twice a bare Python program's time for the same request."""
    from bedplate.cli import context

    config = tmp_path / "config"
    context.save("x", "https://127.0.0.1:1", "", "t", config)
    script = (
        "import sys; from bedplate.cli.main import main;"
        f"code = main(['get', 'machines', '--kubeconfig', {str(config)!r}]);"
        "heavy = {'yaml', 'msgspec', 'rich', 'httpx', 'asyncio', 'inspect', 'subprocess'} & set(sys.modules);"
        "print(code, sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []"
    assert "no controller answers at https://127.0.0.1:1; start one with `bedplate lab up`" in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d12h", 216_000), ("0", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (95, "95s"), (125, "2m5s"), (3600, "60m"), (7500, "2h5m"), (200_000, "2d7h")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_targets_in_both_forms() -> None:
    assert split_target(["machine/a", "cluster/b"], "") == [("machine", "a"), ("cluster", "b")]
    assert split_target(["machines", "a", "b"], "") == [("machines", "a"), ("machines", "b")]
    assert split_target(["clusters,machines"], "") == [("clusters", ""), ("machines", "")]
