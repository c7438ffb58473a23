"""Let a restored controller act. Until a person says so, it only observes: the world may have gone on since the backup.

Examples:
  bedplate plan                      what it would do
  bedplate accept
"""

from __future__ import annotations

import argparse

from bedplate.cli.declare import ROOT
from bedplate.cli.parsing import add_connection
from bedplate.cli.session import Session


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Accept."""
    Session(args).client.request("POST", f"{ROOT}/accept", {})
    print("accepted; the controller acts from now on")
    return 0
