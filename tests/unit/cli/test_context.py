"""The context file: private, kept whole, readable by kubectl, never without TLS verification."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import yaml

from bedplate.cli import context
from bedplate.cli.errors import UserError


def test_what_is_saved_is_loaded_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config"
    context.save("lab", "https://127.0.0.1:7443", "PEM", "secret", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert context.load(path) == context.Context("lab", "https://127.0.0.1:7443", "PEM", "secret")
    assert yaml.safe_load(path.read_text())["current-context"] == "lab"


def test_contexts_stand_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "config"
    context.save("one", "https://one", "", "1", path)
    context.save("two", "https://two", "", "2", path)
    assert context.load(path).name == "two"
    assert context.load(path, "one").token == "1"
    context.remove("two", path)
    assert context.load(path).name == "one"
    context.remove("one", path)
    assert not path.exists()


def test_yaml_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "config"
    context.save("lab", "https://one", "", "1", path)
    path.write_text(yaml.safe_dump(json.loads(path.read_text())))
    assert context.load(path).server == "https://one"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["clusters"][0]["cluster"].update(server="http://x"), "must be an https:// URL"),
        (lambda c: c["clusters"][0]["cluster"].update({"insecure-skip-tls-verify": True}), "Bedplate always does"),
        (lambda c: c.update({"current-context": "labb"}), 'did you mean "lab"'),
        (lambda c: c.pop("current-context"), "names no current context"),
    ],
)
def test_broken_contexts_are_refused_with_the_remedy(tmp_path: Path, change, says: str) -> None:
    path = tmp_path / "config"
    context.save("lab", "https://one", "", "1", path)
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=says):
        context.load(path)


def test_no_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bedplate lab up"):
        context.load(tmp_path / "none")
