"""Arguments: the parser of every command, the options that many share, and how their values are written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from bedplate.cli.errors import UserError, did_you_mean

_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class Parser(argparse.ArgumentParser):
    """A parser whose faults are one sentence with the nearest right option."""

    def __init__(self, prog: str, description: str = "", **more: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=form, allow_abbrev=False, **more)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parse; names may stand before and after options, except where sub-commands or another command line follow."""
        nested = any(a.nargs in (argparse.PARSER, argparse.REMAINDER) for a in self._actions)
        return self.parse_args(arguments) if nested else self.parse_intermixed_args(arguments)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            options = [o for action in self._actions for o in action.option_strings]
            kind = "option" if word.startswith("-") else "argument"
            message = f'unknown {kind} "{word}"' + did_you_mean(word.split("=")[0], options)
        if match := _CHOICE.search(message):
            known = [c.strip(" '") for c in match[2].split(",")]
            message = f'there is no "{match[1]}" here{did_you_mean(match[1], known)}; write one of {", ".join(known)}'
        raise UserError(f"{message} (see `{self.prog} --help`)")


def add_actions(parser: argparse.ArgumentParser) -> Any:
    """Give what the sub-commands of a command are added to; the one given is `args.action`."""
    return parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Options that say which controller to ask."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--kubeconfig", metavar="FILE", help="context file (default: $BEDPLATE_CONFIG or ~/.config/bedplate/config)"
    )
    group.add_argument("--context", metavar="NAME", default="", help="context in that file (default: its current one)")


def add_namespace(parser: argparse.ArgumentParser, all_namespaces: bool = False) -> None:
    """Options that say in which namespace."""
    parser.add_argument("-n", "--namespace", metavar="NAME", default="", help="namespace (default: the context's)")
    if all_namespaces:
        parser.add_argument("-A", "--all-namespaces", action="store_true", help="over all namespaces")


def add_selectors(parser: argparse.ArgumentParser) -> None:
    """Options that choose objects of a collection."""
    parser.add_argument("-l", "--selector", metavar="LABELS", help="labels, such as app=shop,tier!=db")
    parser.add_argument("--field-selector", metavar="FIELDS", help="fields, such as metadata.name=shop")


def add_files(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The option that names manifests."""
    parser.add_argument(
        "-f", "--filename", metavar="FILE", action="append", default=[], required=required,
        help="YAML or JSON file, folder of such, or - for the standard input; may be repeated",
    )  # fmt: skip


def add_timeout(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """The option that bounds a wait."""
    parser.add_argument("--timeout", type=duration, default=duration(default), metavar="TIME",
                        help=f"{what}, such as 90s, 10m or 1h (default: {default}; 0: look once)")  # fmt: skip


def duration(text: str) -> float:
    """Give the seconds of `90`, `90s`, `10m`, `1h30m` or `30d`.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if not text.strip() or match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as 90s, 10m, 1h30m or 30d")
    days, hours, minutes, seconds = (float(g or 0) for g in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds


def output_format(*known: str) -> Callable[[str], str]:
    """Give an argparse type that takes one of the known formats and suggests the nearest for any other."""

    def check(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f'unknown format "{text}"; formats are {", ".join(known)}')
        return text

    return check


def existing_file(text: str) -> Path:
    """Give the path of a file that must be there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def split_target(words: Iterable[str], usage: str) -> list[tuple[str, str]]:
    """Give (kind, name) of `KIND/NAME ...` or `KIND NAME ...`; name is empty where only a kind was given.

    Raises:
        UserError: both forms are mixed, or a part is empty.
    """
    found = list(words)
    if any("/" in w for w in found):
        pairs = [tuple(w.split("/", 1)) for w in found]
        if any(len(p) != 2 or not all(p) for p in pairs):
            raise UserError(f"write every object as KIND/NAME, or one kind and then names: {usage}")
        return [(p[0], p[1]) for p in pairs]
    kinds, names = (found[0], found[1:]) if found else ("", [])
    if not kinds:
        raise UserError(f"name a kind: {usage}")
    return [(k, n) for k in kinds.split(",") if k for n in (names or [""])]
