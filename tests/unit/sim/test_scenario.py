"""Scenario files: what is wrong in them is named; statements mean what they say; stories are saved and made short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from bedplate.model.blueprint import ImageRef, MachineEntry, Nic
from bedplate.model.ids import Digest, Key, MachineUid, ServerName
from bedplate.sim import fuzz, fuzz_play
from bedplate.sim.fuzz_story import story_of
from bedplate.sim.history import Event
from bedplate.sim.scenario import expectation
from bedplate.sim.scenario.actions import KillController, Mended, PowerOff, Scale
from bedplate.sim.scenario.cast import Known
from bedplate.sim.scenario.expectation import Seen
from bedplate.sim.scenario.folder import Scenario, load, save
from bedplate.sim.scenario.plain import ScenarioError, Time
from bedplate.sim.scenario.play import Play
from bedplate.sim.scenario.script import Script
from bedplate.sim.scenario.sentences import Roll
from bedplate.sim.scenario.setting import Pool, Setting, Tenant
from bedplate.sim.world import World

GOOD: dict[str, Any] = {
    "world.yaml": {"servers": 3, "clusters": {"shop": {"pools": {"web": {"replicas": 1}}}}},
    "script.yaml": {"lasts": "10m", "names": {"m1": "shop-web/0"}, "events": [{"do": "power-off", "server": "hv1"}]},
    "expect.yaml": ["finally everything is Ready"],
}


def folder(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "README.md").write_text("# A story\n")
    for name, value in GOOD.items():
        value = changes.get(name.partition(".")[0], value)
        (tmp_path / name).write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return tmp_path


def script(*events: Any, **more: Any) -> dict[str, Any]:
    return {**GOOD["script.yaml"], "events": list(events), **more}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"world": {"serverz": 3}}, 'world.yaml: unknown field "serverz"; did you mean "servers"?'),
        ({"world": {"servers": [{"count": 2, "pools": ["fast"]}]}}, "world.yaml: servers[0].pools: there is no disk"),
        ({"world": {"policy": {"patience": 1}}}, "world.yaml: policy: there is no bound patience"),
        ({"world": {"servers": 3, "clusters": {"Shop!": {}}}}, "world.yaml: Cluster Shop!: metadata.name"),
        ({"world": "servers: [3"}, "world.yaml: this is not YAML"),
        ({"script": script({"do": "power-of", "server": "hv1"})}, 'events[0].do: there is no "power-of"; did you mean'),
        ({"script": script({"do": "power-off"})}, "script.yaml: events[0]: object missing required field `server`"),
        ({"script": script({"do": "power-off", "server": "hv9"})}, 'events[0].server: "hv9" is no server; did you'),
        ({"script": script({"do": "hang", "server": "hv1", "for": "soon"})}, "events[0]: for: 'soon' is not a time"),
        ({"script": script({"do": "lose-power", "place": "rack"})}, "events[0].place: write LABEL=VALUE"),
        ({"script": script({"do": "next-step", "step": "Start", "fault": "failed"})}, "events[0].step: there is no"),
        ({"script": script(names={"m1": "shop-wob/0"})}, 'script.yaml: names.m1: "shop-wob/0" is no server and no'),
        ({"script": script(lasts=None)}, "script.yaml: lasts"),
        ({"expect": ["m1 rusn elsewhere"]}, 'expect.yaml: statement 1: "m1 rusn elsewhere" has no verb'),
        ({"expect": ["m7 runs"]}, 'expect.yaml: statement 1: nobody is "m7"'),
        ({"expect": ["m1 runs on hv9"]}, 'statement 1: "hv9" in "m1 runs on hv9" is no server'),
        ({"expect": ["m1 runs within soon of m1 ends"]}, "expect.yaml: statement 1: 'soon' is not a time"),
        ({"expect": ["event cut before m1 ends"]}, 'statement 1: no event of the script is named "cut"'),
        ({"expect": {"never": "m1 ends"}}, "expect.yaml: expected"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_field(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load(folder(tmp_path, **changes))
    assert said in str(error.value)


def test_a_folder_without_its_files_says_which(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"README\.md, world\.yaml, script\.yaml, expect\.yaml is missing"):
        load(tmp_path)


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("10m", 600), ("1h30m", 5400), (7, 7), ("2d", 172_800)])
def test_times_have_units(text: Any, seconds: float) -> None:
    assert Time.read(text) == seconds
    assert Time.read(Time(seconds).write()) == seconds


# --- statements -----------------------------------------------------------------------------------------------------

M1, M2 = MachineUid("uid-1"), MachineUid("uid-2")
KNOWN = Known(
    servers=frozenset({"hv1", "hv2"}),
    owners=frozenset({"shop", "shop-web"}),
    pods=frozenset({"db-0"}),
    names={"m1": "machine", "victim": "server"},
    events=frozenset({"cut"}),
)


def machine(uid: MachineUid, name: str, **more: Any) -> MachineEntry:
    nic = Nic(network="lan", bridge="br0", mac="52:00", address="10.0.0.9", prefix=16)
    image = ImageRef(name="node", disk=Digest("sha256:0"))
    return MachineEntry(
        uid=uid, name=name, namespace="default", owner=Key("nodepool/default/shop-web"), server=ServerName("hv1"),
        cpu=1, memory_mib=1, disk_mib=1, disk_pool="shared", image=image, nic=nic, **more,
    )  # fmt: skip


def seen(*events: tuple[Any, ...]) -> Seen:
    made = [
        Event(time=at, kind=kind, about=about, what=what, **(more[0] if more else {}))
        for at, kind, about, what, *more in events
    ]
    machines = {M1: machine(M1, "shop-web-aaaaa"), M2: machine(M2, "shop-web-bbbbb", replaces=M1)}
    roll = Roll(bound={"m1": M1, "victim": "hv1"}, machines=machines, servers=KNOWN.servers)
    return Seen(events=made, before=[], roll=roll, world=World())


STORY = seen(
    (0.0, "script", "cut", "happens"),
    (0.0, "machine", M1, "ends", {"where": "hv1"}),
    (0.0, "pod", "db-0", "is silent"),
    (12.0, "server", "hv1", "is dead", {"detail": "by power: its power is off"}),
    (12.0, "machine", M1, "is relocated", {"where": "hv2", "elsewhere": True}),
    (14.0, "machine", M1, "starts", {"where": "hv2", "elsewhere": True}),
    (20.0, "pod", "db-0", "answers", {"where": "node-2", "elsewhere": True}),
    (30.0, "machine", M2, "is planned", {"where": "hv2"}),
    (40.0, "machine", M2, "starts", {"where": "hv2"}),
    (50.0, "machine", M1, "is NotReady"),
)


@pytest.mark.parametrize(
    "text",
    [
        "m1 runs elsewhere",
        "m1 runs elsewhere within 15s of event cut",
        "m1 runs on hv2 within 2s of victim is dead",
        "victim is dead by power within 20s of event cut",
        "shop-web-a* starts",
        "m1's replacement is planned",
        "m1 ends before m1 runs",
        "victim is dead before m1 is relocated",
        "never any server is fenced",
        "never m1 runs until event cut",
        "never m1 ends after m1 runs",
        "exactly 2 times, any machine starts",
        "at most 1 times per machine, any machine starts",
        "at most 1 times in 10s, any machine starts",
        "at least 2 times, any machine of shop-web starts",
        "at most 1 at once, any machine is relocated until it starts",
        "pod db-0 is silent for at most 20s",
        "finally m1 runs on hv2",
        "finally pod db-0 answers",
    ],
)
def test_statements_that_hold(text: str) -> None:
    [statement] = expectation.read([text], KNOWN, "expect.yaml")
    assert statement.judge(STORY) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("m1 is Ready", "it never happened"),
        ("m1 runs on hv1", "it never happened"),
        ("m1 runs elsewhere within 10s of event cut", "after 0 s it took 14.0 s"),
        ("m1 is Ready within 10s of event cut", "after 0 s it never happened"),
        ("m1 ends within 10s of victim is fenced", '"victim is fenced" never happened'),
        ("victim is dead by lease within 20s of event cut", "never happened"),
        ("m1 runs before victim is dead", '"victim is dead" happened first, at 12 s'),
        ("never m1 runs", "it happened at 14 s"),
        ("never m1 runs after m1 ends", "it happened at 14 s"),
        ("never m1 runs after victim is fenced", '"victim is fenced" never happened'),
        ("exactly 1 times, any machine starts", "it happened 2 times"),
        ("at least 3 times, any machine starts", "it happened 2 times"),
        ("at most 1 times per server, any machine starts", "it happened 2 times (hv2)"),
        ("at most 1 times in 30s, any machine starts", "it happened 2 times"),
        ("pod db-0 is silent for at most 10s", "from 0 s on it lasted 20.0 s"),
        ("m1 is NotReady for at most 10s", "from 50 s on it was so to the end"),
        ("finally m1 runs on hv1", "shop-web-aaaaa starts on hv2 since 14 s"),
        ("finally m1 is Ready", "is NotReady since 50 s"),
    ],
)
def test_statements_that_do_not_hold(text: str, said: str) -> None:
    [statement] = expectation.read([text], KNOWN, "expect.yaml")
    assert said in statement.judge(STORY)


# --- playing --------------------------------------------------------------------------------------------------------


def small(*events: Any, **more: Any) -> Scenario:
    setting = Setting(servers=3, clusters={"shop": Tenant(pools={"web": Pool(replicas=1)})})
    script = Script(lasts=Time(1800), names={"m1": "shop-web/0"}, events=events)
    return Scenario(name="small", story="# A story", setting=setting, script=script, **more)


def test_the_same_seed_gives_the_same_history() -> None:
    scenario = small(PowerOff(server="server of m1", at=Time(10)))
    first, second, third = Play(scenario, seed=3), Play(scenario, seed=3), Play(scenario, seed=4)
    for play in (first, second, third):
        play.run()
    assert first.history.events == second.history.events
    assert first.sim.trace == second.sim.trace
    assert first.history.events != third.history.events


def test_an_event_can_wait_for_another() -> None:
    scenario = small(
        PowerOff(server="server of m1", at=Time(10)),
        Scale(pool="shop-web", replicas=2, when="m1 runs elsewhere", at=Time(5), name="wish"),
        expect=("m1 runs elsewhere before event wish", "finally everything is Ready"),
    )
    assert not Play(scenario).run().broken


def test_what_nobody_is_now_is_said() -> None:
    scenario = small(PowerOff(server="server of shop-web/7"))
    outcome = Play(scenario).run()
    assert [v.wrong for v in outcome.broken] == ['script.yaml: nobody is "server of shop-web/7" now']


def test_a_story_can_be_saved_and_read_again(tmp_path: Path) -> None:
    scenario = story_of(5, servers=6, hours=3.0)
    save(scenario, tmp_path / "seed_5")
    again = load(tmp_path / "seed_5")
    assert msgspec.structs.replace(again, story="") == msgspec.structs.replace(scenario, story="", name="seed_5")


# --- random stories -------------------------------------------------------------------------------------------------


def test_a_seed_is_told_alike_alone_in_a_group_and_as_a_scenario() -> None:
    alone = [fuzz.tell(fuzz.Job(seed=s, servers=4, hours=2.0)) for s in (8, 9)]
    group = sorted(fuzz.run([8, 9], servers=4, hours=2.0, jobs=1), key=lambda r: r.seed)
    assert [(r.seed, r.events, r.machines) for r in alone] == [(r.seed, r.events, r.machines) for r in group]
    told = Play(fuzz.Job(seed=8, servers=4, hours=2.0).story())
    told.run()
    assert told.sim.events >= alone[0].events  # it goes on to the end, where fuzzing stops once all is well


def test_a_story_that_goes_wrong_is_made_short() -> None:
    scenario = small(
        *(Scale(pool="shop-web", replicas=n % 3 + 1, at=Time(60.0 * n)) for n in range(6)),
        KillController(at=Time(30)),
        PowerOff(server="hv2", at=Time(100)),
        Mended(at=Time(3600)),
    )

    def wrong(told: Scenario) -> bool:
        return any(isinstance(e, PowerOff) for e in told.script.events)

    short = fuzz.shrink(scenario, wrong)
    assert [type(e).__name__ for e in short.script.events] == ["PowerOff", "Mended"]
    assert short.script.events[0].at == 0
    result = fuzz_play.Result(seed=7, wrong=("rule 1: twice",))
    assert "- rule 1: twice" in fuzz.narrate(short, result).story
