"""The builders' cache in your cache folder: what is in it, and delete what is no longer needed.

Whatever is deleted can be made again; it costs the time. What another builder is at, what a process uses, and what a
controller that answers knows as a Release or an Image stays.

Examples:
  bedplate cache ls
  bedplate cache prune --dry-run
  bedplate cache prune --older-than 7d
"""

from __future__ import annotations

import argparse

from bedplate.cli.parsing import add_actions, add_connection, duration, output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = add_actions(parser)
    ls = actions.add_parser("ls", help="list what is in the cache, and when it was last used")
    ls.add_argument("-o", "--output", type=output_format("table", "json"), default="table", metavar="FORMAT",
                    help="table or json")  # fmt: skip
    prune = actions.add_parser("prune", help="delete what was not used for long, and what killed builds left")
    prune.add_argument("--older-than", type=duration, default=duration("30d"), metavar="TIME",
                       help="not used for so long, such as 12h or 7d (default: 30d)")  # fmt: skip
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    for action in (ls, prune):
        add_connection(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    from bedplate.cli import caching

    return caching.listing(args) if args.action == "ls" else caching.prune(args)
