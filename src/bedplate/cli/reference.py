"""The command line's reference as Markdown, made from the parsers: `python -m bedplate.cli.reference`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from bedplate.cli.main import GROUPS, parser_of

_WIDTH = "100"

_HEAD = """# Command line

Made from the commands themselves (`python -m bedplate.cli.reference`).

Every command is a client of the API: what it can do, `kubectl` with the same context file and any client library can
do too. The context file is a kubeconfig of mode 0600, `~/.config/bedplate/config` unless `--kubeconfig` or
`$BEDPLATE_CONFIG` name another; TLS is always verified. Options may stand before or after names.

Exit codes: 0 done; 1 a fault, told in one sentence with its remedy (for manifests one line per fault, with file and
line); 2 something would change (`plan --exit-code`); 130 interrupted. Waiting may be interrupted at any time: the work
goes on in the controller.

Output is plain text where it is no terminal, or where `NO_COLOR` is set. Live progress then becomes one line per
change.

## Manifests

`-f` takes YAML or JSON files, folders (their `*.yaml`, `*.yml` and `*.json` in order of name) and `-`; several
documents and `List` objects are fine, 1 MiB per file is the limit. All of it is declared or nothing. YAML is read as
YAML 1.2 has it: `yes` and `on` are texts, and `kubernetes: 1.30` is a number, so write `kubernetes: "1.30"`. Duplicate
keys, tabs as indentation, foreign tags and aliases that expand beyond measure are refused.
"""


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            for sub in action.choices.values():
                yield from _parsers(sub)


def markdown() -> str:
    """The whole page."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        out = [_HEAD]
        for group, commands in GROUPS.items():
            out.append(f"## {group}\n")
            for name in commands:
                for parser in _parsers(parser_of(name)):
                    out.append(f"### {parser.prog}\n\n```text\n{parser.format_help().strip()}\n```\n")
        return "\n".join(out)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


if __name__ == "__main__":
    print(markdown(), end="")
