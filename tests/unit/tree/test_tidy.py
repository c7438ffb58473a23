"""The tree's own rules: file sizes, docstrings, no stray debris."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted((ROOT / "src" / "bedplate").rglob("*.py"))
LINES_LIMIT = 560
"""A file fits in a head: about 400 lines are the aim, this is where it must be split."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_fits_in_a_head_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    if path.name == "__init__.py" and not text.strip():
        pytest.fail("an empty package file: say in a docstring what the package is for")
    assert ast.get_docstring(ast.parse(text)), "a module starts by saying what it is for"
    assert text.count("\n") <= LINES_LIMIT


def test_no_debug_prints_in_the_library() -> None:
    offenders: list[str] = []
    for path in SOURCES:
        relative = path.relative_to(ROOT / "src" / "bedplate")
        if relative.parts[0] == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in {"print", "breakpoint"}
            ):
                offenders.append(f"{relative}:{node.lineno}")
    assert offenders == []
