"""The agent as images carry it: whole, no more than needed, and with the packages that the project was tested with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bedplate.drivers.artifacts import agent_tree

PROJECT = Path(__file__).parents[3]


def _pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_packages_of_the_images_are_those_of_the_project() -> None:
    ours, images = _pins(PROJECT / "requirements.lock"), _pins(agent_tree.LOCK)
    assert {"msgspec", "websockets", "cryptography"} <= set(images)
    assert images == {name: ours[name] for name in images}


def test_the_tree_holds_what_the_agent_imports_and_no_more() -> None:
    names = {name for name, _ in agent_tree.sources()}
    assert {
        "bedplate/__init__.py",
        "bedplate/agent/enrol.py",
        "bedplate/model/__init__.py",
        "bedplate/multiplex.py",
    } <= names
    assert "bedplate/model/metal_protocol.py" in names
    assert not [
        n for n in names if n.startswith(("bedplate/planner", "bedplate/cli", "bedplate/store", "bedplate/lab"))
    ]


def test_the_tree_runs_without_libvirt_and_without_the_rest(tmp_path: Path) -> None:
    for name, source in agent_tree.sources():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    words = (
        "import sys; sys.modules.update({'libvirt': None, 'libvirt_qemu': None})\n"
        "import bedplate.agent.ram_setup, bedplate.agent.enrol, bedplate.agent.signing\n"
        "print(bedplate.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "bedplate" / "__init__.py")
