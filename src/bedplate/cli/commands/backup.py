"""Save the store and its key in one file of mode 0600, while the controller runs. It holds secrets: keep it safe.

Examples:
  bedplate backup fleet.backup --data /var/lib/bedplate
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bedplate.cli.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup to write")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the controller's folder")


def run(args: argparse.Namespace) -> int:
    """Save."""
    from bedplate.store.backup import backup
    from bedplate.store.errors import StoreError

    try:
        backup(args.data, args.file)
    except (StoreError, OSError) as error:
        raise UserError(f"no backup was written: {error}") from None
    print(f"wrote {args.file}; it holds secrets: keep it safe")
    return 0
