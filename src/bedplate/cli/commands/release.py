"""Kubernetes releases: build them from Go modules, download them where the network allows, list and remove them.

Examples:
  bedplate release build 1.35.3
  bedplate release download 1.35.3
  bedplate release ls
  bedplate release path 1.35.3 -o json
  bedplate release rm 1.35.3
"""

from __future__ import annotations

import argparse

from bedplate.cli import building
from bedplate.cli.output import as_json
from bedplate.cli.parsing import add_actions, add_connection, output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = add_actions(parser)
    build = actions.add_parser("build", help="build a release from Go modules, or take it from the cache")
    download = actions.add_parser("download", help="download a release, verified by its checksums")
    register = actions.add_parser("register", help="make a release of the cache known to the controller")
    path = actions.add_parser("path", help="where a release's programs are, such as kubectl")
    path.add_argument("-o", "--output", type=output_format("text", "json"), default="text", metavar="FORMAT",
                      help="text or json")  # fmt: skip
    ls = actions.add_parser("ls", help="list releases, in the cache and at the controller")
    rm = actions.add_parser("rm", help="remove a release from the cache and from the controller")
    rm.add_argument("version", metavar="VERSION", help="the release, by its version or its name at the controller")
    for action in (build, download, register, path):
        action.add_argument("version", metavar="VERSION", help="such as 1.35.3")
    for action in (build, download, register, ls, rm):
        add_connection(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    from bedplate.cli import artifacts

    if args.action == "build":
        return building.build(args, "release", lambda say: artifacts.build_release(args.version, say))
    if args.action == "download":
        return building.build(args, "release", lambda say: artifacts.download_release(args.version, say))
    if args.action == "register":
        return building.register(args, artifacts.release(args.version))
    if args.action == "path":
        paths = artifacts.release_paths(args.version)
        print(as_json(paths) if args.output == "json" else "\n".join(f"{k:<24} {v}" for k, v in paths.items()))
        return 0
    if args.action == "rm":
        return building.remove_release(args, args.version, artifacts.remove_release)
    return building.listing(args, "releases", artifacts.releases())
