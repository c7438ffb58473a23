"""Measure servers and the machines on them with the same tools, by turns: CPU, memory, disk, network.

Each benchmark runs once to warm up and then several times on each target. Medians with their 95 % intervals are kept,
with all that it takes to measure the same again, as an object: `bedplate get measurements`. The tools are sent when
they are needed and leave with the measurement. What others disturbed on the server is marked and measured again.
Interrupted, `--resume NAME` goes on. A guest under software emulation is measured, and its figures enter no comparison.

Examples:
  bedplate measure server/hv1 machine/shop-web-1
  bedplate measure server/hv1 virtualmachine/builder --only cpu,memory --repetitions 7
  bedplate measure --resume measure-x7k2p
  bedplate describe measurement measure-x7k2p
  bedplate fleet calibrate -f fleet.yaml --measurement measure-x7k2p > measured.yaml
"""

from __future__ import annotations

import argparse

from bedplate.cli.parsing import add_connection, add_namespace, output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="server/NAME, machine/NAME, virtualmachine/NAME")
    parser.add_argument("--only", default="", metavar="GROUPS",
                        help="some of cpu,memory,disk,network (default: all)")  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=5, metavar="N",
                        help="undisturbed samples of each (default: 5; fewer have no interval)")  # fmt: skip
    parser.add_argument("--seconds", type=int, default=10, metavar="S", help="that each run measures (default: 10)")
    parser.add_argument("--scratch", default="256Mi", metavar="SIZE",
                        help="of the file that disks are measured with (default: 256Mi)")  # fmt: skip
    parser.add_argument(
        "--name", default="", metavar="NAME", help="of the Measurement (default: measure- and a suffix)"
    )
    parser.add_argument("--resume", default="", metavar="NAME", help="carry this Measurement on")
    parser.add_argument("-o", "--output", type=output_format("table", "json", "yaml"), default="table",
                        metavar="FORMAT", help="table, json or yaml")  # fmt: skip
    add_namespace(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Measure."""
    from bedplate.cli import measure

    return measure.run(args)
