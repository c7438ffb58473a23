"""Run the agent on a server. It enrols once with the file of `bedplate server enrol`, then keeps its identity.

On bare metal the RAM system and the node's image start it by themselves, as --ram and --node.

Examples:
  bedplate agent --enrol-file /etc/bedplate/enrol.json
  bedplate server enrol hv1 | ssh root@hv1 bedplate agent --enrol-file -
"""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--enrol-file", default="", metavar="FILE", help="enrol file, or -; needed the first time only")
    parser.add_argument("--state", type=Path, default=Path("/var/lib/bedplate/agent"), metavar="DIR",
                        help="where it keeps its identity (default: /var/lib/bedplate/agent)")  # fmt: skip
    parser.add_argument(
        "--libvirt", default="qemu:///system", metavar="URI", help="its libvirt (default: qemu:///system)"
    )
    parser.add_argument("--address", default="", metavar="ADDRESS", help="at which other hypervisors reach this one")
    parser.add_argument("--use", choices=("auto", "kvm", "tcg"), default="auto",
                        help="how guests run; auto tries KVM by booting a tiny guest (default: auto)")  # fmt: skip
    parser.add_argument("--watchdog", default="", metavar="PATH",
                        help="device that cuts the server's power unless fed, for guests on shared disks; auto:"
                             " /dev/watchdog if it is there (default: none)")  # fmt: skip
    bare = parser.add_mutually_exclusive_group()
    bare.add_argument("--ram", default="", metavar="FILE", help="be the agent of a RAM system with these settings")
    bare.add_argument("--node", action="store_true", help="be the agent of a node on bare metal")


def run(args: argparse.Namespace) -> int:
    """Run it until it is told to stop."""
    if args.ram:
        from bedplate.agent.ram.main import run as run_ram

        return run_ram(args.ram)
    if args.node:
        from bedplate.agent.node.main import run as run_node

        return run_node(state=args.state)
    from bedplate.agent.main import run as run_agent

    return run_agent(
        enrol_file=args.enrol_file,
        state=args.state,
        libvirt_uri=args.libvirt,
        address=args.address,
        use=args.use,
        watchdog=args.watchdog,
    )
