"""Images: build them for a Kubernetes release or for hypervisors, bring your own, list and remove them.

Built images lie in the user's cache folder; a build also registers the image where a controller runs (or `register`
does later, as `bedplate lab up` does by itself).

Examples:
  bedplate image build --release 1.35.3
  bedplate image build --ram
  bedplate image build --hypervisor
  bedplate image import debian-12-genericcloud-amd64.qcow2 --name debian-12
  bedplate image ls
  bedplate image rm node-1.35.3
"""

from __future__ import annotations

import argparse

from bedplate.cli import building
from bedplate.cli.parsing import add_actions, add_connection


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = add_actions(parser)
    build = actions.add_parser("build", help="build an image or the RAM system, or take it from the cache")
    what = build.add_mutually_exclusive_group(required=True)
    what.add_argument("--release", default="", metavar="VERSION", help="Kubernetes release inside, such as 1.35.3")
    what.add_argument("--ram", action="store_true", help="the RAM system that bare servers boot from virtual media")
    what.add_argument("--hypervisor", action="store_true", help="the image that makes a bare server a hypervisor")
    register = actions.add_parser("register", help="make a built image known to the controller")
    register.add_argument("name", metavar="NAME", help="the image, as `ls` shows it")
    own = actions.add_parser("import", help="make a disk image of your own known, for virtual machines")
    own.add_argument("file", metavar="FILE", help="a qcow2 or raw disk that boots by UEFI, or with --kernel")
    own.add_argument("--name", required=True, metavar="NAME", help="name of the Image")
    own.add_argument("--bootstrap", choices=("cloud-init", "guest-agent"), default="cloud-init",
                     help="how the guest gets its name and network (default: cloud-init)")  # fmt: skip
    own.add_argument("--kernel", default="", metavar="FILE", help="boot this kernel directly instead of by UEFI")
    own.add_argument("--initrd", default="", metavar="FILE", help="its initial RAM disk")
    own.add_argument("--command-line", default="", metavar="TEXT", help="the kernel's command line")
    ls = actions.add_parser("ls", help="list images, in the cache and at the controller")
    rm = actions.add_parser("rm", help="remove an image from the cache and from the controller")
    rm.add_argument("name", metavar="NAME", help="the image, as `ls` shows it")
    for action in (build, register, own, ls, rm):
        add_connection(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    from bedplate.cli import artifacts

    if args.action == "build" and args.ram:
        return building.in_cache("RAM system", artifacts.build_ram_system)
    if args.action == "build" and args.hypervisor:
        return building.build(args, "image", artifacts.build_hypervisor_image)
    if args.action == "build":
        return building.build(args, "image", lambda say: artifacts.build_image(args.release, say))
    if args.action == "register":
        return building.register(args, artifacts.image(args.name))
    if args.action == "import":
        from bedplate.cli import importing

        return building.register(args, importing.own_image(args))
    if args.action == "rm":
        return building.remove(args, "images", args.name, artifacts.remove_image)
    return building.listing(args, "images", artifacts.images())
