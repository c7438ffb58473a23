"""`expect.yaml`: statements over the history. They follow from the story and are written by hand, never from a run.

Forms, with E for a sentence about an event (`sentences`):

    E                                   it happens at least once
    E within 45s of F                   after every F (which happens at least once)
    E before F                          F does not happen before E has
    never E [after F] [until G]
    at most|at least|exactly N times [in 10m] [per server|machine], E
    at most N at once [per server], E until VERB
    E for at most 30s                   each time, what ends it follows within so long
    finally E                           so it is at the end
    finally SERVER is empty
    finally everything is Ready or waits for a person
    finally OWNER spreads over LABEL    no two of its machines share more than they must; `servers` for servers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil

import msgspec

from bedplate.model.ids import ServerName
from bedplate.sim.history import Event, History
from bedplate.sim.scenario import sentences
from bedplate.sim.scenario.cast import Known
from bedplate.sim.scenario.plain import ScenarioError, Time
from bedplate.sim.scenario.sentences import VERBS, Roll, Sentence
from bedplate.sim.world import World

_BOUND = re.compile(r"(at most|at least|exactly) (\d+) times?(?: in (\S+?))?(?: per (server|machine))?, (.+)")
_AT_ONCE = re.compile(r"at most (\d+) at once( per server)?, (.+) until (?:it )?(.+)")
_SPREADS = re.compile(r"(\S+) spreads over (\S+)")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What statements are judged by."""

    events: Sequence[Event]
    """Since the story began."""
    before: Sequence[Event]
    """Of the time before it."""
    roll: Roll
    world: World
    stuck: Sequence[str] = ()
    """What is not Ready at the end and does not wait for a person."""

    def times(self, s: Sentence) -> list[Event]:
        """The events that a sentence means."""
        return [e for e in self.events if s.matches(e, self.roll)]


def seen(history: History, world: World, bound: Mapping[str, str], stuck: Sequence[str]) -> Seen:
    """What a play left behind."""
    roll = Roll(bound=bound, machines=history.machines, servers=frozenset(world.servers))
    return Seen(
        events=[e for e in history.events if e.time >= 0.0],
        before=[e for e in history.events if e.time < 0.0],
        roll=roll,
        world=world,
        stuck=stuck,
    )


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file; `judge` gives what is wrong, or nothing."""

    text: str
    judge: Callable[[Seen], str]


def read(lines: Sequence[str], known: Known, file: str) -> list[Statement]:
    """Read all statements.

    Raises:
        ScenarioError: one is not understood.
    """
    return [_statement(" ".join(line.split()), known, f"{file}: statement {n}") for n, line in enumerate(lines, 1)]


def _statement(text: str, known: Known, where: str) -> Statement:
    def sentence(part: str) -> Sentence:
        return sentences.read(part, known, where)

    if text.startswith("finally "):
        return Statement(text=text, judge=_finally(text.removeprefix("finally "), known, where))
    if text.startswith("never "):
        rest, _, until = text.removeprefix("never ").partition(" until ")
        what, _, after = rest.partition(" after ")
        bounds = (sentence(after) if after else None, sentence(until) if until else None)
        return Statement(text=text, judge=_Never(sentence(what), *bounds))
    if found := _AT_ONCE.fullmatch(text):
        most, per, what, verb = found.groups()
        if verb not in VERBS:
            raise ScenarioError(f'{where}: "{verb}" is no verb; verbs are: {", ".join(VERBS)}')
        return Statement(text=text, judge=_AtOnce(sentence(what), verb, int(most), bool(per)))
    if bound := _BOUND.fullmatch(text):
        how, number, window, per, what = bound.groups()
        span = _time(window, where) if window else None
        return Statement(text=text, judge=_Count(sentence(what), how, int(number), span, per))
    first, found, rest = text.partition(" within ")
    if found:
        span, of, second = rest.partition(" of ")
        if not of:
            raise ScenarioError(f'{where}: "{text}": write E within 45s of F')
        return Statement(text=text, judge=_Within(sentence(first), _time(span, where), sentence(second)))
    first, found, rest = text.partition(" for at most ")
    if found:
        return Statement(text=text, judge=_Lasts(sentence(first), _time(rest, where)))
    first, found, second = text.partition(" before ")
    if found:
        return Statement(text=text, judge=_Before(sentence(first), sentence(second)))
    return Statement(text=text, judge=_Happens(sentence(text)))


def _time(text: str, where: str) -> float:
    try:
        return Time.read(text)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from None


# --- judging ----------------------------------------------------------------------------------------------------------


class _Happens:
    def __init__(self, what: Sentence) -> None:
        self._what = what

    def __call__(self, seen: Seen) -> str:
        return "" if seen.times(self._what) else "it never happened"


class _Within:
    def __init__(self, what: Sentence, span: float, of: Sentence) -> None:
        self._what, self._span, self._of = what, span, of

    def __call__(self, seen: Seen) -> str:
        causes, effects = seen.times(self._of), [e.time for e in seen.times(self._what)]
        if not causes:
            return f'"{self._of.text}" never happened'
        for cause in causes:
            after = [t for t in effects if t >= cause.time]
            if not after:
                return f"after {cause.time:g} s it never happened"
            if after[0] > cause.time + self._span:
                return f"after {cause.time:g} s it took {after[0] - cause.time:.1f} s"
        return ""


class _Before:
    def __init__(self, first: Sentence, second: Sentence) -> None:
        self._first, self._second = first, second

    def __call__(self, seen: Seen) -> str:
        first, second = seen.times(self._first), seen.times(self._second)
        if not second:
            return f'"{self._second.text}" never happened'
        if not first or first[0].time > second[0].time:
            return f'"{self._second.text}" happened first, at {second[0].time:g} s'
        return ""


class _Never:
    def __init__(self, what: Sentence, after: Sentence | None, until: Sentence | None) -> None:
        self._what, self._after, self._until = what, after, until

    def __call__(self, seen: Seen) -> str:
        active = self._after is None
        began = active
        for e in seen.events:
            if self._after is not None and self._after.matches(e, seen.roll):
                active = began = True
                continue
            if active and self._until is not None and self._until.matches(e, seen.roll):
                active = False
            if active and self._what.matches(e, seen.roll):
                return f"it happened at {e.time:g} s{f': {e.detail}' if e.detail else ''}"
        return "" if began or self._after is None else f'"{self._after.text}" never happened'


class _Count:
    def __init__(self, what: Sentence, how: str, number: int, span: float | None, per: str | None) -> None:
        self._what, self._how, self._number, self._span, self._per = what, how, number, span, per

    def __call__(self, seen: Seen) -> str:
        groups: dict[str, list[Event]] = {}
        for e in seen.times(self._what):
            group = e.where if self._per == "server" else e.about if self._per == "machine" else ""
            groups.setdefault(group, []).append(e)
        for group, events in (groups or {"": []}).items():
            most = self._most(events)
            wrong = most > self._number if self._how != "at least" else False
            wrong = wrong or (self._how != "at most" and most < self._number)
            if wrong:
                where = f" ({_name(seen, group)})" if group else ""
                return f"it happened {most} times{where}: at {', '.join(f'{e.time:g}' for e in events[:8])} s"
        return ""

    def _most(self, events: list[Event]) -> int:
        if self._span is None:
            return len(events)
        times = [e.time for e in events]
        return max((sum(1 for t in times if begin <= t < begin + self._span) for begin in times), default=0)


def _name(seen: Seen, group: str) -> str:
    m = seen.roll.machines.get(group)  # type: ignore[call-overload]
    return m.name if m is not None else group


class _AtOnce:
    """From an event until another of the same subject it counts: never more than so many at a time."""

    def __init__(self, what: Sentence, until: str, most: int, per_server: bool) -> None:
        self._what, self._until, self._most, self._per_server = what, VERBS[until], most, per_server

    def __call__(self, seen: Seen) -> str:
        going: dict[str, str] = {}
        happened = False
        for e in seen.events:
            if e.what in self._until:
                going.pop(e.about, None)
            elif self._what.matches(e, seen.roll):
                happened = True
                going[e.about] = e.where if self._per_server else ""
                crowd = sum(1 for where in going.values() if where == going[e.about])
                if crowd > self._most:
                    return f"at {e.time:g} s {crowd} were going on{f' on {e.where}' if self._per_server else ''}"
        return "" if happened else "it never happened"


class _Lasts:
    def __init__(self, what: Sentence, span: float) -> None:
        self._what, self._span = what, span

    def __call__(self, seen: Seen) -> str:
        ends = self._what.toggles - set(VERBS[self._what.verb])
        for e in seen.times(self._what):
            after = (o for o in seen.events if o.time >= e.time and o.about == e.about and o.what in ends)
            end = next(after, None)
            if end is None:
                return f"from {e.time:g} s on it was so to the end"
            if end.time > e.time + self._span:
                return f"from {e.time:g} s on it lasted {end.time - e.time:.1f} s"
        return ""


LIVE = "everything is Ready or waits for a person"


def _finally(text: str, known: Known, where: str) -> Callable[[Seen], str]:
    if text == LIVE:
        return lambda seen: "; ".join(seen.stuck[:5])
    if found := _SPREADS.fullmatch(text):
        return _Spreads(found[1], found[2], known, where)
    sentence = sentences.read(text, known, where)
    if sentence.verb == "is empty":
        return _IsEmpty(sentence)
    return _Finally(sentence)


class _Finally:
    """How it is at the end: of all that the sentence may be about, what was said last is that."""

    def __init__(self, what: Sentence) -> None:
        self._what = what

    def __call__(self, seen: Seen) -> str:
        last: dict[str, Event] = {}
        probe = msgspec.structs.replace(self._what, where="", elsewhere=False, reason="")
        for e in (*seen.before, *seen.events):
            if e.what in self._what.toggles:
                said = msgspec.structs.replace(e, what=VERBS[self._what.verb][0])
                if probe.matches(said, seen.roll):
                    last[e.about] = e
        if not last:
            return "" if self._what.verb == "is well" else "nothing was ever said of it"
        for about, e in last.items():
            if e.what not in VERBS[self._what.verb]:
                return f"{_name(seen, about)} {e.what} since {e.time:g} s"
            if self._what.where and e.where != seen.roll.resolve(self._what.where):
                return f"{_name(seen, about)} {e.what} on {e.where} since {e.time:g} s"
        return ""


class _IsEmpty:
    def __init__(self, what: Sentence) -> None:
        self._what = what

    def __call__(self, seen: Seen) -> str:
        name = seen.roll.resolve(self._what.subject.pattern)
        server = seen.world.servers[ServerName(name)]
        left = [d.entry.name for d in server.domains.values() if d.state in {"running", "paused"}]
        return f"{', '.join(left)} still run there" if left else ""


class _Spreads:
    def __init__(self, owner: str, over: str, known: Known, where: str) -> None:
        if owner not in known.owners:
            raise ScenarioError(f'{where}: nobody is "{owner}"')
        self._owner, self._over = owner, over

    def __call__(self, seen: Seen) -> str:
        alive = [s for s in seen.world.servers.values() if s.alive]
        places = {s.name if self._over == "servers" else s.place.get(self._over, "") for s in alive}
        count = dict.fromkeys(places, 0)
        total = 0
        for server, domain in seen.world.running():
            if domain.entry.owner.rpartition("/")[2] == self._owner:
                place = server.name if self._over == "servers" else server.place.get(self._over, "")
                count[place] = count.get(place, 0) + 1
                total += 1
        most = ceil(total / max(1, len(places)))
        crowded = {p: n for p, n in count.items() if n > most}
        if not total:
            return f"no machine of {self._owner} runs"
        return f"{crowded} of {total}, where {most} are enough" if crowded else ""
