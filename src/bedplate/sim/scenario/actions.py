"""What can happen in a script: one struct per action, written as `do: power-off` with its fields.

Each says what it does to the simulator. Servers and machines are expressions (see `cast`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bedplate.model.ids import Key, key
from bedplate.model.policy import ALLOW_MANY, PAUSED
from bedplate.model.times import timestamp
from bedplate.sim.faults import Fault
from bedplate.sim.happenings import Network, Way
from bedplate.sim.scenario import ending, setting
from bedplate.sim.scenario.acting import Action, OnMachine, OnServer
from bedplate.sim.scenario.bare_actions import Accept, Ask, Bare, Rescue, Retire, Role
from bedplate.sim.scenario.cast import Cast
from bedplate.sim.scenario.editing import annotate, edit_spec
from bedplate.sim.scenario.plain import Time
from bedplate.sim.simulator import Simulator

MoveFault = Literal["fails", "arrives unknown", "stays unknown", "paused"]
StepFault = Literal["lost reply", "lost command", "done twice", "half done", "failed"]


class Note(Action, frozen=True, kw_only=True, tag="note"):
    """Nothing happens: a moment that statements may speak of by its name."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        del sim, cast


# --- networks ---------------------------------------------------------------------------------------------------------


class Cut(Action, frozen=True, kw_only=True, tag="cut"):
    """Servers lose one of the networks, or one way of the management network."""

    servers: tuple[str, ...]
    network: Network = "management"
    lost: Way = "both"
    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        names = [cast.server(s) for s in self.servers]
        if self.network == "management":
            for name in names:
                sim.cut(name, self.for_, lost=self.lost)
        else:
            sim.cut_network(self.network, names, self.for_)


class Heal(Action, frozen=True, kw_only=True, tag="heal"):
    """They get it back."""

    servers: tuple[str, ...]
    network: Network = "management"

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.heal_network(self.network, [cast.server(s) for s in self.servers])


# --- power ------------------------------------------------------------------------------------------------------------


class PowerOff(OnServer, frozen=True, kw_only=True, tag="power-off"):
    """A server's power is cut; its BMC's is not."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.power_off(cast.server(self.server))


class PowerOn(OnServer, frozen=True, kw_only=True, tag="power-on"):
    """It is switched on."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.power_on(cast.server(self.server))


class LosePower(Action, frozen=True, kw_only=True, tag="lose-power"):
    """A rack, a room, a feed ... loses its power, with the BMCs there."""

    place: str
    """`rack=r1`."""
    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        label, _, value = self.place.partition("=")
        sim.lose_power(label, value, self.for_)


class LoseFeed(OnServer, frozen=True, kw_only=True, tag="lose-feed"):
    """The rack of a server loses its power, or whatever `label` names of its place."""

    label: str = "rack"
    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        server = sim.world.servers.get(cast.server(self.server))
        if server is not None and self.label in server.place:
            sim.lose_power(self.label, server.place[self.label], self.for_)


class RestorePower(Action, frozen=True, kw_only=True, tag="restore-power"):
    """It gets it back; servers start where `switchOn`."""

    place: str
    switch_on: bool = True

    def act(self, sim: Simulator, cast: Cast) -> None:
        label, _, value = self.place.partition("=")
        sim.restore_power(label, value, switch_on=self.switch_on)


class Reboot(OnServer, frozen=True, kw_only=True, tag="reboot"):
    """A server is rebooted; perhaps it does not come up again."""

    returns: bool = True

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.reboot(cast.server(self.server), returns=self.returns)


class Repair(OnServer, frozen=True, kw_only=True, tag="repair"):
    """A server that did not come up is repaired and switched on."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.repair(cast.server(self.server))


class BmcChange(OnServer, frozen=True, kw_only=True, tag="bmc"):
    """A server's BMC is as said from now on."""

    reachable: bool | None = None
    seconds: float | None = None
    lies: Literal["", "on", "off"] | None = None
    deaf: bool | None = None
    health: Literal["", "ok", "warning", "critical"] | None = None
    problems: tuple[str, ...] | None = None

    def act(self, sim: Simulator, cast: Cast) -> None:
        fields = ("reachable", "seconds", "lies", "deaf", "health", "problems")
        changes = {f: v for f in fields if (v := getattr(self, f)) is not None}
        sim.bmc(cast.server(self.server), **changes)


# --- servers that hang ------------------------------------------------------------------------------------------------


class Ails(OnServer, frozen=True, kw_only=True, tag="ails"):
    """It finds its own hardware failing: memory errors, a disk that says so."""

    severity: Literal["", "warning", "critical"] = "critical"

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.ails(cast.server(self.server), self.severity)


class KillAgent(OnServer, frozen=True, kw_only=True, tag="kill-agent"):
    """Its agent is killed and, unless `returns` is false, back after `for`."""

    for_: Time = msgspec.field(default=Time(2), name="for")
    returns: bool = True

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.kill_agent(cast.server(self.server), self.for_ if self.returns else None)


class Hang(OnServer, frozen=True, kw_only=True, tag="hang"):
    """It hangs, with its guests or without."""

    guests_run_on: bool = False
    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.hang(cast.server(self.server), self.for_, guests_run_on=self.guests_run_on)


class HangLibvirt(OnServer, frozen=True, kw_only=True, tag="hang-libvirt"):
    """Its libvirt does not answer; guests and agent run on."""

    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.hang_libvirt(cast.server(self.server), self.for_)


# --- disks ------------------------------------------------------------------------------------------------------------


class DiskPoolChange(Action, frozen=True, kw_only=True, tag="disk-pool"):
    """A disk pool is full, gone or slow; a shared one for all, a local one for a server."""

    pool: str
    server: str = ""
    full: bool | None = None
    gone: bool | None = None
    slow: float | None = None
    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        changes = {f: v for f in ("full", "gone", "slow") if (v := getattr(self, f)) is not None}
        name = cast.server(self.server) if self.server else ""
        sim.pool(self.pool, name, self.for_, **changes)


class BadFirmware(Action, frozen=True, kw_only=True, tag="bad-firmware"):
    """The disks of these servers fail for good, each at some time within so long."""

    servers: tuple[str, ...]
    pool: str = "local"
    within: Time = Time(86_400)

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.bad_firmware([cast.server(s) for s in self.servers], self.pool, within=self.within)


# --- guests and clusters ----------------------------------------------------------------------------------------------


class EndMachine(OnMachine, frozen=True, kw_only=True, tag="end-machine"):
    """A guest ends by itself, perhaps with its disk."""

    lose_disk: bool = False
    undefine: bool = False

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.end_domain(cast.machine(self.machine), lose_disk=self.lose_disk, undefine=self.undefine)


class HangGuest(OnMachine, frozen=True, kw_only=True, tag="hang-guest"):
    """Its kernel hangs."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.hang_guest(cast.machine(self.machine))


class StopKubelet(OnMachine, frozen=True, kw_only=True, tag="stop-kubelet"):
    """Its kubelet fails."""

    broken: bool = False
    """Restarting it does not help, only a new boot does."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.stop_kubelet(cast.machine(self.machine), broken=self.broken)


class ResumeGuest(OnMachine, frozen=True, kw_only=True, tag="resume-guest"):
    """A person lets a paused guest go on."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        for domain in sim.world.live.get(cast.machine(self.machine), ()):
            if domain.state == "paused":
                sim.say("user", f"resumes {domain.entry.name}")
                sim.world.pause(domain, resume=True)
        sim.touched()


class DirtyMemory(OnMachine, frozen=True, kw_only=True, tag="dirty-memory"):
    """It rewrites so many MiB a second."""

    rate: float

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.dirty(cast.machine(self.machine), self.rate)


class StopApi(Action, frozen=True, kw_only=True, tag="stop-api"):
    """A tenant's API server is down though its machines are well."""

    cluster: str
    for_: Time | None = msgspec.field(default=None, name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.stop_api(f"{setting.NAMESPACE}/{self.cluster}", self.for_)


class FailJoins(Action, frozen=True, kw_only=True, tag="fail-joins"):
    """kubeadm fails the next so many times."""

    times: int = 1

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.world.failing_joins["*"] = self.times


class NextMove(Action, frozen=True, kw_only=True, tag="next-move"):
    """Something goes wrong with the next live moves, of any machine or of one."""

    fault: MoveFault
    machine: str = ""
    times: int = 1

    def act(self, sim: Simulator, cast: Cast) -> None:
        m = cast.entry(self.machine) if self.machine else None
        for _ in range(self.times):
            sim.next_move(self.fault, m.name if m is not None else "*")


class NextStep(Action, frozen=True, kw_only=True, tag="next-step"):
    """Something goes wrong with the next steps of that name, between controller and world."""

    step: str
    fault: StepFault
    times: int = 1

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.spoil(self.step, Fault(self.fault), self.times)


# --- clocks and controllers -------------------------------------------------------------------------------------------


class JumpClock(Action, frozen=True, kw_only=True, tag="jump-clock"):
    """A server's clock jumps, or the controllers'."""

    seconds: float
    server: str = ""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.jump_clock(self.seconds, cast.server(self.server) if self.server else "")


class KillController(Action, frozen=True, kw_only=True, tag="kill-controller"):
    """The controller that leads is killed; another starts after `for`."""

    for_: Time = msgspec.field(default=Time(2), name="for")
    before: int = 0
    """Killed just before its n-th command from now on; 0: now."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        if self.before:
            sim.kill_before(self.before)
            return
        if sim.controller.alive:
            sim.kill_controller()
        sim.after(self.for_, lambda: _start_if_none(sim))


def _start_if_none(sim: Simulator) -> None:
    if not sim.led():
        sim.start_controller()


class StartController(Action, frozen=True, kw_only=True, tag="start-controller"):
    """One more controller starts and takes the lead, whatever others do."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.start_controller()


class BreakStore(Action, frozen=True, kw_only=True, tag="break-store"):
    """The store can't be written for a while."""

    for_: Time = msgspec.field(default=Time(20), name="for")

    def act(self, sim: Simulator, cast: Cast) -> None:
        sim.break_store(self.for_)


# --- people -----------------------------------------------------------------------------------------------------------


class Maintain(OnServer, frozen=True, kw_only=True, tag="maintain"):
    """An operator wants it empty, perhaps until some time after now."""

    reason: str = "patch"
    until: Time | None = None

    def act(self, sim: Simulator, cast: Cast) -> None:
        until = timestamp(sim.now + self.until) if self.until is not None else None
        name = cast.server(self.server)
        if name:
            sim.maintain(name, self.reason, until=until)


class Unmaintain(OnServer, frozen=True, kw_only=True, tag="unmaintain"):
    """An operator gives it back."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        name = cast.server(self.server)
        if name:
            sim.unmaintain(name)


class Pause(Action, frozen=True, kw_only=True, tag="pause"):
    """An operator stops what is done by itself: to the fleet, or to one object (`cluster/shop`, `server/hv1` ...)."""

    object: str = ""
    reason: str = "people look into it"

    def act(self, sim: Simulator, cast: Cast) -> None:
        if not self.object:
            sim.pause(self.reason)
        else:
            _annotate(sim, cast, self.object, PAUSED, self.reason)


class Resume(Action, frozen=True, kw_only=True, tag="resume"):
    """An operator lets it go on."""

    object: str = ""

    def act(self, sim: Simulator, cast: Cast) -> None:
        if not self.object:
            sim.resume()
        else:
            _annotate(sim, cast, self.object, PAUSED, None)


class Mended(Action, frozen=True, kw_only=True, tag="all-is-mended"):
    """Every fault ends, no maintenance and no pause is left; from then on a person looks at what waits for one."""

    def act(self, sim: Simulator, cast: Cast) -> None:
        ending.mend(sim)


class AllowMany(Action, frozen=True, kw_only=True, tag="allow-many"):
    """A person confirms that more than 30 % of the fleet, or of a cluster, may be acted on."""

    cluster: str = ""
    allow: bool = True

    def act(self, sim: Simulator, cast: Cast) -> None:
        if not self.cluster:
            sim.fleet_policy(allow_many=self.allow)
        else:
            _annotate(sim, cast, f"cluster/{self.cluster}", ALLOW_MANY, "true" if self.allow else None)


class Scale(Action, frozen=True, kw_only=True, tag="scale"):
    """A user gives a pool so many machines."""

    pool: str
    replicas: int

    def act(self, sim: Simulator, cast: Cast) -> None:
        edit_spec(sim, key("nodepool", setting.NAMESPACE, self.pool), replicas=self.replicas)


class Unschedulable(OnServer, frozen=True, kw_only=True, tag="unschedulable"):
    """An operator wants nothing new there."""

    value: bool = True

    def act(self, sim: Simulator, cast: Cast) -> None:
        edit_spec(sim, key("server", cast.server(self.server)), unschedulable=self.value)


class Declare(Action, frozen=True, kw_only=True, tag="declare"):
    """Users declare more: clusters, machines, or objects as they write them."""

    clusters: dict[str, setting.Tenant] = {}
    machines: dict[str, setting.Vm] = {}
    objects: tuple[dict[str, Any], ...] = ()

    def act(self, sim: Simulator, cast: Cast) -> None:
        wanted = setting.Setting(servers=(), clusters=self.clusters, machines=self.machines, objects=self.objects)
        sim.apply(*setting.declared_of(wanted))
        for name, tenant in self.clusters.items():
            if tenant.apps:
                sim.deploy(f"{setting.NAMESPACE}/{name}", *setting.apps_of(name, tenant))


class Delete(Action, frozen=True, kw_only=True, tag="delete"):
    """A user deletes an object: `cluster/shop`, `server/hv1` ..."""

    object: str

    def act(self, sim: Simulator, cast: Cast) -> None:
        k = _key(sim, cast, self.object)
        if k in sim.store.objects:
            sim.delete(k)


def _key(sim: Simulator, cast: Cast, text: str) -> Key:
    kind, _, name = text.partition("/")
    if kind == "server":
        return key("server", cast.server(name))
    if kind == "image":
        return key(kind, name)
    return key(kind, setting.NAMESPACE, name)


def _annotate(sim: Simulator, cast: Cast, text: str, annotation: str, value: str | None) -> None:
    annotate(sim, _key(sim, cast, text), annotation, value)


AnyAction = (
    Note | Cut | Heal | PowerOff | PowerOn | LosePower | LoseFeed | RestorePower | Reboot | Repair | BmcChange
    | Ails | KillAgent | Hang | HangLibvirt | DiskPoolChange | BadFirmware | EndMachine | HangGuest | StopKubelet
    | ResumeGuest | DirtyMemory | StopApi | FailJoins | NextMove | NextStep | JumpClock | KillController
    | StartController | BreakStore | Maintain | Unmaintain | Pause | Resume | AllowMany | Scale | Unschedulable
    | Declare | Delete | Mended | Bare | Accept | Role | Rescue | Retire | Ask
)  # fmt: skip
