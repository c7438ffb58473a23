"""Scenarios and random stories on the screen: a timeline that one can read, steps, a progress bar, what was wrong."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bedplate.cli import output
from bedplate.cli.bars import Bar
from bedplate.cli.times import span
from bedplate.sim import fuzz as fuzzing
from bedplate.sim.fuzz_play import Result, play
from bedplate.sim.scenario.folder import Scenario, load, save
from bedplate.sim.scenario.play import Outcome, Play, tellings

_STYLES = (("BROKEN", "bold red"), ("loses", "red"), ("hangs", "red"), ("ends", "red"), ("does not", "red"),
           ("is cut", "red"), ("answers", "green"), ("connected", "green"), ("mended", "green"),
           ("blueprint", "bold"))  # fmt: skip
_HELP = "Enter: next line; a number: so many; m: where machines are; s: servers; w: what waits; q: to the end"


class _Page:
    """Writes lines of history, with colours on a terminal."""

    def __init__(self) -> None:
        self._shown = 0
        self._console = None
        if not output.plain():
            from rich.console import Console

            self._console = Console(highlight=False)

    def line(self, text: str) -> None:
        """Write one line."""
        if self._console is None:
            print(text, flush=True)
            return
        from rich.text import Text

        style = next((style for word, style in _STYLES if word in text), "")
        self._console.print(Text(text, style), soft_wrap=True)

    def catch_up(self, told: Play) -> None:
        """Write what is new in the history."""
        for text in told.sim.trace[self._shown :]:
            self.line(text)
        self._shown = len(told.sim.trace)


def tell(folder: Path, seed: int | None, *, quiet: bool) -> int:
    """Tell a scenario with all its kills; 1 where something does not hold."""
    scenario = load(folder)
    page = _Page()
    for line in scenario.story.strip().splitlines():
        page.line(line)
    page.line("")
    broken, count, began = 0, 0, time.monotonic()
    for told in tellings(scenario, seed):
        count += 1
        shown = not quiet and told.kill == 0
        story = _Page()
        for _ in told.steps():
            if shown:
                story.catch_up(told)
        outcome = told.judge()
        if outcome.broken or told.kill == 0:
            _verdicts(page, outcome)
        broken += bool(outcome.broken)
    if count > 1:
        page.line(f"told {count} times, with the controller killed at another moment each time; {broken} went wrong")
    page.line(f"seed {scenario.setting.seed if seed is None else seed}, {span(time.monotonic() - began)}")
    return 1 if broken else 0


def _verdicts(page: _Page, outcome: Outcome) -> None:
    if outcome.kill:
        page.line(f"\nwith the controller killed before its command {outcome.kill}:")
    page.line("")
    for v in outcome.verdicts:
        page.line(f"{'BROKEN' if v.wrong else 'holds '}  {v.text}{f': {v.wrong}' if v.wrong else ''}")


def replay(folder: Path, seed: int | None) -> int:
    """Step through a scenario; without a terminal it is told in one go."""
    scenario = load(folder)
    told, page = Play(scenario, seed=seed), _Page()
    interactive = sys.stdin.isatty()
    if interactive:
        page.line(_HELP)
    left = 1
    for _ in told.steps():
        page.catch_up(told)
        left -= 1
        while interactive and left <= 0:
            left = _ask(told, page)
    _verdicts(page, told.judge())
    return 0


def _ask(told: Play, page: _Page) -> int:
    """What a person wants next: how many lines."""
    try:
        wish = input("> ").strip()
    except EOFError:
        wish = "q"
    match wish:
        case "":
            return 1
        case "q":
            return sys.maxsize
        case "m":
            for m in sorted(told.sim.store.blueprint.machines(), key=lambda m: m.name):
                runs = [d.server for d in told.sim.world.live.get(m.uid, ())]
                page.line(f"  {m.name}: planned on {m.server}, {m.desired}; runs on {', '.join(runs) or 'no server'}")
        case "s":
            for s in told.sim.world.servers.values():
                words = ["has power" if s.powered else "has no power", "connected" if s.connected else "not connected"]
                entry = told.sim.store.blueprint.server(s.name)
                words += [entry.standing] if entry is not None else []
                page.line(f"  {s.name}: {', '.join(words)}; {len(s.domains)} domains")
        case "w":
            for k, w in sorted(told.sim.engine.waiting.items()):
                page.line(f"  {k}: {w.reason.value}: {w.sentence}")
        case _ if wish.isdigit():
            return int(wish)
        case _:
            page.line(_HELP)
    return 0


# --- random stories -----------------------------------------------------------------------------------------------


def fuzz(seeds: Sequence[int], *, servers: int, hours: float, jobs: int, keep: Path | None) -> int:
    """Tell the stories of seeds; 1 where one goes wrong."""
    began = time.monotonic()
    results: list[Result] = []
    wrong: list[Result] = []
    with Bar("stories", len(seeds), after=("{task.fields[wrong]} wrong",), wrong=0) as progress:
        for result in fuzzing.run(seeds, servers=servers, hours=hours, jobs=jobs or os.cpu_count() or 1):
            results.append(result)
            if result.wrong:
                wrong.append(result)
                progress.note(f"seed {result.seed}: {result.wrong[0]}")
            progress.update(completed=len(results), wrong=len(wrong))
    seconds = time.monotonic() - began
    told = sum(r.hours for r in results)
    print(
        f"{len(results)} stories of {servers} servers and {hours:g} hours in {span(seconds)} "
        f"({len(results) / seconds * 60:.0f} a minute; {told / 24:.0f} days, {sum(r.events for r in results)} events): "
        f"{len(wrong)} went wrong"
    )
    for result in sorted(wrong, key=lambda r: r.seed):
        _show_wrong(result, servers=servers, hours=hours, keep=keep)
    return 1 if wrong else 0


def _show_wrong(result: Result, *, servers: int, hours: float, keep: Path | None) -> None:
    print(f"\nseed {result.seed}:")
    for said in result.wrong:
        print(f"  {said}")
    if keep is None:
        print(f"  again: bedplate sim fuzz --seeds 1 --first-seed {result.seed} --servers {servers} --hours {hours:g} "
              "--keep DIR")  # fmt: skip
        return
    full = fuzzing.Job(seed=result.seed, servers=servers, hours=hours).story()

    def same(scenario: Scenario) -> bool:
        return any(_rule(said) == _rule(result.wrong[0]) for said in play(scenario).wrong)

    short = fuzzing.shrink(full, same)
    folder = keep / f"seed_{result.seed}"
    save(fuzzing.narrate(short, play(short)), folder)
    print(f"  {len(full.script.events)} events shrank to {len(short.script.events)}: bedplate sim run {folder}")


def _rule(said: str) -> str:
    """Of what a sentence speaks: which rule, liveness, a crash."""
    found = re.search(r"refused|rule \d|not live|ping-pong|crashed|truth|rest", said)
    return found[0] if found else said[:12]
