"""`python -m bedplate.agent [ENROL_FILE | --ram SETTINGS_FILE | --node | --hypervisor]`: the agent by itself.

A hypervisor's, unless it is told to be that of a RAM system or of a node on bare metal, which need no libvirt.
`--hypervisor`: on a disk that a RAM system wrote, which brought its enrolment along.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bedplate.agent.starting import STATE_FOLDER


def main(argv: list[str]) -> int:
    """Run the role that the arguments name; the exit code."""
    board = os.environ.get("BEDPLATE_HOST_UUID", "")
    own_addresses = os.environ.get("BEDPLATE_DIAL_OWN_ADDRESSES") == "1"
    match argv:
        case ["--ram", settings]:
            from bedplate.agent.ram import main as ram

            folder = Path(os.environ.get("BEDPLATE_AGENT_STATE", ram.STATE_FOLDER))
            return ram.run(settings, state=folder, board=board)
        case ["--node"]:
            from bedplate.agent.node import main as node

            folder = Path(os.environ.get("BEDPLATE_AGENT_STATE", STATE_FOLDER))
            return node.run(state=folder, board=board, dial_own_addresses=own_addresses)
        case ["--hypervisor"]:
            from bedplate.agent.main import run

            return run(deployed=True, watchdog="auto", dial_own_addresses=own_addresses)
        case [] | [_] if not argv or not argv[0].startswith("--"):
            from bedplate.agent.main import run

            return run(
                argv[0] if argv else "",
                state=Path(os.environ.get("BEDPLATE_AGENT_STATE", STATE_FOLDER)),
                libvirt_uri=os.environ.get("BEDPLATE_LIBVIRT_URI", "qemu:///system"),
                watchdog=os.environ.get("BEDPLATE_WATCHDOG", ""),
                dial_own_addresses=own_addresses,
            )
        case _:
            roles = "ENROL_FILE | --ram SETTINGS_FILE | --node | --hypervisor"
            sys.stderr.write(f"usage: python -m bedplate.agent [{roles}]\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
