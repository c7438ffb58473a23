"""Run the agent on a hypervisor. It enrols once with the file of `bedplate server enrol`, then keeps its identity.

Examples:
  bedplate agent --enrol-file /etc/bedplate/enrol.json
  bedplate server enrol hv1 | ssh root@hv1 bedplate agent --enrol-file -
"""

from __future__ import annotations

OWN_PARSER = True
"""The agent reads its own arguments: it also runs where the rest of the command line is not installed."""


def run(arguments: list[str]) -> int:
    """Run it."""
    from bedplate.agent.main import main

    return int(main(arguments) or 0)
