"""Bring a saved store back into an empty folder. The controller on it only observes until `bedplate accept`.

Examples:
  bedplate restore fleet.backup --data /var/lib/bedplate
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bedplate.cli.errors import UserError
from bedplate.cli.parsing import existing_file


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", type=existing_file, metavar="FILE", help="the backup")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the folder to fill; must be new or empty"
    )


def run(args: argparse.Namespace) -> int:
    """Restore."""
    from bedplate.store.backup import restore
    from bedplate.store.errors import StoreError

    try:
        restore(args.file, args.data)
    except (StoreError, OSError) as error:
        raise UserError(f"nothing was restored: {error}") from None
    print(f"restored into {args.data}; after `bedplate serve --data {args.data}` look at `bedplate plan`, then accept")
    return 0
