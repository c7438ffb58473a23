"""A scenario as a folder: read with every fault named by file and field, and written for people to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

from bedplate.model.validation.faults import nearest
from bedplate.sim.scenario import expectation, plain, sentences, setting
from bedplate.sim.scenario.acting import Action
from bedplate.sim.scenario.actions import AnyAction
from bedplate.sim.scenario.cast import Known, known_of
from bedplate.sim.scenario.expectation import Statement
from bedplate.sim.scenario.plain import ScenarioError
from bedplate.sim.scenario.script import FILE as SCRIPT
from bedplate.sim.scenario.script import Script
from bedplate.sim.scenario.setting import FILE as WORLD
from bedplate.sim.scenario.setting import Setting

README = "README.md"
EXPECT = "expect.yaml"
FILES = (README, WORLD, SCRIPT, EXPECT)
_ACTIONS: dict[str, type[Action]] = {t.__struct_config__.tag: t for t in get_args(AnyAction)}


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A story that was read."""

    name: str
    story: str
    """In words, for people."""
    setting: Setting
    script: Script
    expect: tuple[str, ...] = ()

    def known(self) -> Known:
        """Whom its files may speak of. Raises `ScenarioError`."""
        return known_of(self.setting, self.script.names, self.script.event_names(), SCRIPT)

    def statements(self) -> list[Statement]:
        """What must be true. Raises `ScenarioError`."""
        return expectation.read(self.expect, self.known(), EXPECT)


def load(folder: Path) -> Scenario:
    """Read a folder.

    Raises:
        ScenarioError: a file is missing, or something in one is wrong.
    """
    missing = [f for f in FILES if not (folder / f).is_file()]
    if missing:
        raise ScenarioError(f"{folder}: {', '.join(missing)} is missing; a scenario has {', '.join(FILES)}")
    scenario = Scenario(
        name=folder.name,
        story=(folder / README).read_text(),
        setting=plain.read(_yaml(folder / WORLD) or {}, Setting, WORLD),
        script=_script(_yaml(folder / SCRIPT)),
        expect=plain.read(_yaml(folder / EXPECT) or [], tuple[str, ...], EXPECT),
    )
    check(scenario)
    return scenario


def check(scenario: Scenario) -> None:
    """See that all that its files speak of is there.

    Raises:
        ScenarioError: something is not.
    """
    setting.objects_of(scenario.setting)
    setting.policy_of(scenario.setting)
    known = scenario.known()
    for i, action in enumerate(scenario.script.events):
        where = f"{SCRIPT}: events[{i}]"
        if action.when:
            sentences.read(action.when, known, f"{where}.when")
        _check_parts(action, known, where)
    if scenario.script.kills is not None:
        sentences.read(scenario.script.kills.after, known, f"{SCRIPT}: kills.after")
    scenario.statements()


def _check_parts(action: Action, known: Known, where: str) -> None:
    for field, role in (("server", "server"), ("machine", "machine"), ("servers", "server")):
        raw: Any = getattr(action, field, ())
        for text in (raw,) if isinstance(raw, str) else raw:
            if text and known.role(text) != role:
                raise ScenarioError(f'{where}.{field}: "{text}" is no {role}{known.near(text)}')
    place: str = getattr(action, "place", "x=y")
    if not all(place.partition("=")):
        raise ScenarioError(f'{where}.place: write LABEL=VALUE as in rack=r1, not "{place}"')
    step: str = getattr(action, "step", "")
    if step and step not in sentences.STEPS:
        raise ScenarioError(f'{where}.step: there is no step "{step}"{nearest(step, sentences.STEPS)}')


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path.name}: this is not YAML: {error}") from None


def _script(raw: Any) -> Script:
    """The script, with faults that name the action and its field."""
    if not isinstance(raw, dict):
        raise ScenarioError(f"{SCRIPT}: must be a mapping with lasts, names and events")
    head: dict[str, Any] = {k: v for k, v in raw.items() if k != "events"}
    script = plain.read(head, Script, SCRIPT)
    listed: Any = raw.get("events") or []
    if not isinstance(listed, list):
        raise ScenarioError(f"{SCRIPT}: events: must be a list of actions")
    events = tuple(_action(e, f"{SCRIPT}: events[{i}]") for i, e in enumerate(listed))
    return msgspec.structs.replace(script, events=events)


def _action(raw: Any, where: str) -> AnyAction:
    if not isinstance(raw, dict):
        raise ScenarioError(f"{where}: must be a mapping with `do:` and what that takes")
    name: Any = raw.get("do")
    type_ = _ACTIONS.get(str(name))
    if type_ is None:
        raise ScenarioError(
            f'{where}.do: there is no "{name}"{nearest(str(name), _ACTIONS)}; known are {", ".join(sorted(_ACTIONS))}'
        )
    return plain.read(raw, type_, where)  # type: ignore[return-value]


# --- writing ----------------------------------------------------------------------------------------------------------


def save(scenario: Scenario, folder: Path) -> None:
    """Write a folder that `load` reads again. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / README).write_text(scenario.story.rstrip() + "\n")
    (folder / WORLD).write_text(_text(plain.write(scenario.setting)))
    (folder / SCRIPT).write_text(_text(plain.write(scenario.script)))
    (folder / EXPECT).write_text(_text(list(scenario.expect)))


def _text(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
