"""Stories in the simulated world: the controllers of production on servers that only seem to be there.

Examples:
  bedplate sim run tests/scenarios/restart_elsewhere
  bedplate sim run tests/scenarios/restart_elsewhere --seed 7
  bedplate sim replay tests/scenarios/restart_elsewhere
  bedplate sim fuzz --seeds 100 --servers 50 --hours 24
  bedplate sim validate
  bedplate sim fuzz --seeds 1 --first-seed 4711 --servers 6 --hours 6 --keep /tmp/found
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bedplate.cli.errors import UserError
from bedplate.cli.parsing import add_actions, output_format


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = add_actions(parser)
    run = actions.add_parser("run", help="tell a scenario, and say whether what must be true is")
    run.add_argument("folder", metavar="DIR", type=Path, help="folder of the scenario")
    run.add_argument("--seed", type=int, metavar="N", help="another seed than the world's own")
    run.add_argument("-q", "--quiet", action="store_true", help="no timeline, only what holds and what does not")
    replay = actions.add_parser("replay", help="step through a scenario")
    replay.add_argument("folder", metavar="DIR", type=Path, help="folder of the scenario")
    replay.add_argument("--seed", type=int, metavar="N", help="another seed than the world's own")
    validate = actions.add_parser("validate", help="hold published figures against what the simulated world gives")
    validate.add_argument("--seeds", type=int, metavar="N", default=20, help="how many tellings of each (default: 20)")
    validate.add_argument("-o", "--output", type=output_format("table", "json", "yaml"), default="table",
                          metavar="FORMAT", help="table, json or yaml")  # fmt: skip
    fuzz = actions.add_parser("fuzz", help="tell random stories, and make one that goes wrong as short as can be")
    fuzz.add_argument("--seeds", type=int, metavar="N", default=100, help="how many (default: 100)")
    fuzz.add_argument("--first-seed", type=int, metavar="K", default=1, help="the first one (default: 1)")
    fuzz.add_argument("--servers", type=int, metavar="M", default=12, help="in each world (default: 12)")
    fuzz.add_argument("--hours", type=float, metavar="H", default=6.0, help="of each story (default: 6)")
    fuzz.add_argument("--jobs", type=int, metavar="J", default=0, help="at a time (default: one per core)")
    fuzz.add_argument("--keep", type=Path, metavar="DIR", help="write a scenario folder of each story that goes wrong")


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    from bedplate.cli import simulating
    from bedplate.sim.scenario.plain import ScenarioError

    try:
        match args.action:
            case "run":
                return simulating.tell(args.folder, args.seed, quiet=args.quiet)
            case "replay":
                return simulating.replay(args.folder, args.seed)
            case "validate":
                if args.seeds <= 0:
                    raise UserError(f"--seeds {args.seeds} is nothing to tell; write a number above zero")
                from bedplate.cli import validated

                return validated.show(range(1, args.seeds + 1), args.output)
            case _:
                for name, value in (("--seeds", args.seeds), ("--servers", args.servers), ("--hours", args.hours)):
                    if value <= 0:
                        raise UserError(f"{name} {value:g} is nothing to tell; write a number above zero")
                seeds = range(args.first_seed, args.first_seed + args.seeds)
                return simulating.fuzz(seeds, servers=args.servers, hours=args.hours, jobs=args.jobs, keep=args.keep)
    except ScenarioError as error:
        raise UserError(str(error)) from None
