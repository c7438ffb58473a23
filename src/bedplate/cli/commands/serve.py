"""Run the controller and its API in one process, on an embedded store. Ends with Ctrl-C or SIGTERM.

Examples:
  bedplate serve --data /var/lib/bedplate
  bedplate serve --data ./data --listen 127.0.0.1:7443
  bedplate serve --data ./data --agents 0.0.0.0:7444 --agent-address 10.0.0.2:7444 --netboot eno1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bedplate.cli.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of the store, its key and caches"
    )
    parser.add_argument(
        "--listen", default="127.0.0.1:7443", metavar="HOST:PORT", help="the API (default: 127.0.0.1:7443)"
    )
    parser.add_argument("--agents", default="127.0.0.1:7444", metavar="HOST:PORT",
                        help="where agents connect (default: 127.0.0.1:7444)")  # fmt: skip
    parser.add_argument("--agent-address", default="", metavar="HOST:PORT",
                        help="where servers reach that from their network (default: as --agents)")  # fmt: skip
    parser.add_argument("--media-url", default="", metavar="URL",
                        help="where BMCs reach it for media (default: https:// and --agent-address)")  # fmt: skip
    parser.add_argument("--netboot", default="", metavar="INTERFACE",
                        help="answer accepted servers of spec.metal.boot: network on this interface, and nobody else "
                        "(DHCP, TFTP, HTTP)")  # fmt: skip
    parser.add_argument("--netboot-port", type=int, default=7445, metavar="N",
                        help="where they fetch what they boot, over plain HTTP (default: 7445)")  # fmt: skip
    parser.add_argument("--context-file", type=Path, metavar="FILE",
                        help="write the administrator's context there (default: DIR/context)")  # fmt: skip
    parser.add_argument("--emulated-guests", action="store_true",
                        help="guests run without KVM: give clusters longer leases and time-outs")  # fmt: skip
    parser.add_argument("--proxy-url", default="", metavar="URL",
                        help="proxy that kubeconfigs name, where clusters are reached through one only")  # fmt: skip


def address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` (`[v6]:PORT`). Raises `UserError`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{text!r} is no address to listen at; write HOST:PORT, such as 127.0.0.1:7443")
    return host.strip("[]"), int(port)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    listen, agents = address(args.listen), address(args.agents)
    if args.agent_address:
        address(args.agent_address)
    if args.media_url and not args.media_url.startswith(("http://", "https://")):
        raise UserError(f"--media-url {args.media_url!r} is no URL; write https://HOST:PORT")
    from bedplate.cli.serve import serve

    return serve(
        args.data,
        listen=listen,
        agents=agents,
        context_file=args.context_file,
        slow=args.emulated_guests,
        proxy_url=args.proxy_url,
        agent_address=args.agent_address,
        media_url=args.media_url,
        netboot=args.netboot,
        netboot_port=args.netboot_port,
    )
