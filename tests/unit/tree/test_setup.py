"""The set-up script brings what the programs call."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_setup_installs_the_tool_that_makes_seeds() -> None:
    script = (ROOT / "scripts" / "setup").read_text()
    packages = script.partition("packages=(")[2].partition("\n)")[0]
    words = {w for line in packages.splitlines() for w in line.partition("#")[0].split()}
    called = set(re.findall(r'shutil\.which\("([a-z]+)"\)', (ROOT / "src/bedplate/agent/seed.py").read_text()))
    assert called & words
