"""Sentences about events: `m1 runs elsewhere`, `any server is fenced`, `pod db-0 answers`, read once and matched often.

A sentence is a subject, a verb and perhaps where and why. Verbs are those of `bedplate.sim.history`.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, get_args

import msgspec

from bedplate.model import steps
from bedplate.model.blueprint import MachineEntry, MetalState
from bedplate.model.ids import Key, MachineUid
from bedplate.model.validation.faults import nearest
from bedplate.sim.history import EVERYTHING, Event
from bedplate.sim.scenario.cast import Known
from bedplate.sim.scenario.plain import ScenarioError

Kind = Literal["server", "machine", "pod", "step", "controller", "object", "script"]

VERBS: dict[str, tuple[str, ...]] = {
    "loses power": ("loses power",),
    "has power": ("has power",),
    "is connected": ("is connected",),
    "is lost": ("is lost",),
    "is empty": ("is empty",),
    "is suspect": ("is suspect",),
    "is fenced": ("is fenced",),
    "is dead": ("is dead",),
    "is well": ("is well",),
    **{f"is {s}": (f"is {s}",) for s in get_args(MetalState)},
    "is planned": ("is planned",),
    "is relocated": ("is relocated",),
    "is moved": ("is moved",),
    "is called back": ("is called back",),
    "is restarted": ("is restarted",),
    "is given up": ("is given up",),
    "is gone": ("is gone",),
    "starts": ("starts",),
    "arrives": ("arrives",),
    "runs": ("starts", "arrives"),
    "ends": ("ends",),
    "pauses": ("pauses",),
    "goes on": ("goes on",),
    "is Ready": ("is Ready",),
    "is NotReady": ("is NotReady",),
    "is not Ready": ("is not Ready", "is NotReady"),
    "is out of service": ("is out of service",),
    "is in service": ("is in service",),
    "is cordoned": ("is cordoned",),
    "is uncordoned": ("is uncordoned",),
    "answers": ("answers",),
    "is silent": ("is silent",),
    "begins": ("begins",),
    "succeeds": ("succeeds",),
    "fails": ("fails",),
    "is refused": ("is refused",),
    "is unknown": ("is unknown",),
    "is killed": ("is killed",),
    "stops acting": ("stops acting",),
    "waits": ("waits",),
    "happens": ("happens",),
}
"""What a sentence says, and the verbs of history that it means."""

TOGGLES: tuple[frozenset[str], ...] = (
    frozenset({"loses power", "has power"}),
    frozenset({"is connected", "is lost"}),
    frozenset({"is suspect", "is fenced", "is dead", "is well"}),
    frozenset(f"is {s}" for s in get_args(MetalState)),
    frozenset({"starts", "arrives", "ends"}),
    frozenset({"pauses", "goes on"}),
    frozenset({"is Ready", "is NotReady", "is not Ready"}),
    frozenset({"is out of service", "is in service"}),
    frozenset({"is cordoned", "is uncordoned"}),
    frozenset({"answers", "is silent"}),
    frozenset({"is planned", "is given up", "is gone"}),
)
"""Verbs that end one another: the last one said is how it is."""

STEPS = frozenset(t.__name__ for t in get_args(steps.Step))
_ROLES = {"worker": "worker", "control plane": "control-plane", "vm": "vm"}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a sentence is about."""

    kind: Kind
    pattern: str = "*"
    """A name of the script, a glob over names, or a key."""
    owner: str = ""
    role: str = ""
    replaces: str = ""
    """A name of the script: the machine that stands in for that one."""
    of: str = ""
    """A step's machine or server, by the script's name or its own."""


class Roll(msgspec.Struct, frozen=True, kw_only=True):
    """What names mean in one play."""

    bound: Mapping[str, str]
    machines: Mapping[MachineUid, MachineEntry]
    servers: frozenset[str]

    def resolve(self, name: str) -> str:
        return self.bound.get(name, name)


class Sentence(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence that was read."""

    text: str
    subject: Subject
    verb: str
    where: str = ""
    """A server by name."""
    elsewhere: bool = False
    reason: str = ""
    """Of a wait, or a part of the event's own words."""

    def matches(self, event: Event, roll: Roll) -> bool:
        """Whether the event is what the sentence says."""
        if event.what not in VERBS[self.verb] or event.kind != self.subject.kind:
            return False
        if self.elsewhere and not event.elsewhere:
            return False
        if self.where and event.where != roll.resolve(self.where):
            return False
        if self.reason and self.reason not in event.detail:
            return False
        return self._is_about(event, roll)

    def _is_about(self, event: Event, roll: Roll) -> bool:
        s = self.subject
        if s.kind == "machine":
            return _is_machine(s, event.about, roll)
        if s.kind == "step" and s.of:
            wanted = roll.resolve(s.of)
            m = roll.machines.get(MachineUid(event.detail))
            if event.detail != wanted and (m is None or m.name != wanted):
                return False
        if s.pattern in roll.bound:
            return event.about == roll.bound[s.pattern]
        return fnmatchcase(event.about, s.pattern)

    @property
    def toggles(self) -> frozenset[str]:
        """Verbs that end, or repeat, what the sentence says."""
        meant = VERBS[self.verb][0]
        return next((t for t in TOGGLES if meant in t), frozenset({meant}))


def _is_machine(s: Subject, uid: str, roll: Roll) -> bool:
    m = roll.machines.get(MachineUid(uid))
    if s.replaces:
        return m is not None and m.replaces == roll.resolve(s.replaces)
    if s.pattern in roll.bound:
        return uid == roll.bound[s.pattern]
    if m is None:
        return s.pattern == "*" and not s.owner and not s.role
    owner = m.owner.rpartition("/")[2]
    return fnmatchcase(m.name, s.pattern) and s.owner in {"", owner} and s.role in {"", m.role}


# --- reading ----------------------------------------------------------------------------------------------------------


def read(text: str, known: Known, where: str) -> Sentence:
    """Read a sentence.

    Raises:
        ScenarioError: it has no verb, or nobody is meant.
    """
    text = " ".join(text.split())
    subject, verb, rest = _split(text, where)
    elsewhere, place, reason = False, "", ""
    if rest == "elsewhere":
        elsewhere = True
    elif rest.startswith("on "):
        place = rest.removeprefix("on ")
        if known.role(place) != "server":
            raise ScenarioError(f'{where}: "{place}" in "{text}" is no server{known.near(place)}')
    elif rest.startswith(("as ", "by ")):
        reason = rest.removeprefix("as ")
    elif rest:
        raise ScenarioError(f'{where}: "{rest}" in "{text}": write `elsewhere`, `on SERVER`, `as REASON` or nothing')
    return Sentence(
        text=text,
        subject=_subject(subject, verb, known, where),
        verb=verb,
        where=place,
        elsewhere=elsewhere,
        reason=reason,
    )


def _split(text: str, where: str) -> tuple[str, str, str]:
    if text.startswith("event "):
        return text, "happens", ""
    for verb in sorted(VERBS, key=len, reverse=True):
        before, found, after = f"{text} ".partition(f" {verb} ")
        if found:
            return before, verb, after.strip()
    raise ScenarioError(f'{where}: "{text}" has no verb; verbs are: {", ".join(VERBS)}')


def _subject(text: str, verb: str, known: Known, where: str) -> Subject:
    word, _, rest = text.partition(" ")
    if word == "any":
        return _any(text, rest, known, where)
    if word == "pod":
        if not any(fnmatchcase(p, rest) for p in known.pods):
            raise ScenarioError(f'{where}: there is no pod "{rest}"{nearest(rest, known.pods)}')
        return Subject(kind="pod", pattern=rest)
    if word == "event":
        if rest not in known.events:
            raise ScenarioError(f'{where}: no event of the script is named "{rest}"{nearest(rest, known.events)}')
        return Subject(kind="script", pattern=rest)
    if word in STEPS:
        return Subject(kind="step", pattern=word, of=rest.removeprefix("of ")) if rest else _step(word)
    if word == "controller":
        return Subject(kind="controller")
    if word == EVERYTHING:
        return Subject(kind="object", pattern=EVERYTHING)
    if word in {"cluster", "pool", "vm"} and rest in known.owners:
        kind = {"cluster": "cluster", "pool": "nodepool", "vm": "virtualmachine"}[word]
        return Subject(kind="object", pattern=Key(f"{kind}/default/{rest}"))
    if text.endswith("'s replacement"):
        return Subject(kind="machine", replaces=_named(text.removesuffix("'s replacement"), known, where))
    return _by_name(text, verb, known, where)


def _step(word: str) -> Subject:
    return Subject(kind="step", pattern=word)


def _any(text: str, rest: str, known: Known, where: str) -> Subject:
    what, _, owner = rest.partition(" of ")
    if owner and owner not in known.owners:
        raise ScenarioError(f'{where}: nobody is "{owner}"{nearest(owner, known.owners)}')
    if what in {"server", "pod", "step"} and not owner:
        return Subject(kind=what)  # type: ignore[arg-type]
    if what == "machine":
        return Subject(kind="machine", owner=owner)
    if what in _ROLES:
        return Subject(kind="machine", owner=owner, role=_ROLES[what])
    raise ScenarioError(f'{where}: "{text}": write any server, machine, worker, control plane, vm, pod or step')


def _named(name: str, known: Known, where: str) -> str:
    if known.names.get(name) != "machine":
        raise ScenarioError(f'{where}: the script gives no machine the name "{name}"{known.near(name)}')
    return name


def _by_name(text: str, verb: str, known: Known, where: str) -> Subject:
    if text in known.names:
        return Subject(kind=known.names[text], pattern=text)
    if any(fnmatchcase(s, text) for s in known.servers):
        return Subject(kind="server", pattern=text)
    if text in known.owners or any(text.startswith(f"{o}-") and "*" in text for o in known.owners):
        return Subject(kind="machine", pattern=text)
    raise ScenarioError(f'{where}: nobody is "{text}" in "{text} {verb}"{known.near(text)}')
