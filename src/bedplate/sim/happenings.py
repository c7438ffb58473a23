"""What happens to the world in a story: to power, networks, disks, guests, clocks. Each has an end, if one is given.

Names are servers' names; times are seconds. What is not there (a name, a guest that ended) is passed over in silence,
so that random scripts need not look first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from bedplate.model.ids import ClusterKey, MachineUid, ServerName
from bedplate.sim import leases, migration, network, power
from bedplate.sim.delivery import RESUME
from bedplate.sim.people import People
from bedplate.sim.things import SimDomain, SimPool, SimServer

Network = Literal["management", "storage", "guests"]
Way = Literal["both", "up", "down"]
"""`up`: only what the agent says is lost; `down`: only what it is told."""


class Happenings(People):
    """Faults of the world, and their ends."""

    # --- networks -------------------------------------------------------------------------------------------------

    def cut(self, name: str, seconds: float | None = None, *, lost: Way = "both") -> None:
        """Cut a server off the management network, or one way only: its agent's connection is lost.

        Controllers notice after a while (`Ranges.noticed`); until then what is not `lost` still passes.
        """
        server = self.world.servers.get(ServerName(name))
        if server is None or not server.management:
            return
        passes: dict[Way, Literal["", "up", "down"]] = {"both": "", "up": "down", "down": "up"}
        server.management = False
        network.refresh(self.world, server)
        server.half = passes[lost]
        self.world.touch_server(server)
        self._until(seconds, lambda: self.heal(name))

    def heal(self, name: str) -> None:
        """Give a server the management network back; its agent connects where it is there."""
        server = self.world.servers.get(ServerName(name))
        if server is None or server.connected:
            return
        server.management = True
        if server.host_uuid != server.enrolled and server.alive and server.agent:
            self.say("world", f"{name} is refused: it has another identity")
            for controller in self.controllers:
                controller.agent_refused(server.name)
        self.world.touch_server(server)
        self.touched()

    def cut_network(self, kind: Network, names: Iterable[str], seconds: float | None = None) -> None:
        """Cut servers off one of the networks: `storage`: shared pools; `guests`: their guests' traffic."""
        names = list(names)
        self.say("world", f"the {kind} network is cut at {', '.join(names)}")
        self._links(kind, names, False)
        self._until(seconds, lambda: self.heal_network(kind, names))

    def heal_network(self, kind: Network, names: Iterable[str]) -> None:
        """Mend it."""
        names = list(names)
        self.say("world", f"the {kind} network is mended at {', '.join(names)}")
        self._links(kind, names, True)

    def _links(self, kind: Network, names: Iterable[str], there: bool) -> None:
        for server in self._servers(names):
            if kind == "management":
                self.heal(server.name) if there else self.cut(server.name)
                continue
            setattr(server, kind, there)
            self.world.touch_server(server)
            self.world.touch_guests(server)
        self.touched()

    def in_place(self, label: str, value: str) -> list[str]:
        """Names of the servers in a rack, a room, at a feed ..."""
        return [s.name for s in self.world.servers.values() if s.place.get(label) == value]

    # --- power ----------------------------------------------------------------------------------------------------

    def power_off(self, name: str) -> None:
        """A server's power is cut."""
        for server in self._servers([name]):
            self.world.cut_power(server, "it is cut")
        self.touched()

    def power_on(self, name: str) -> None:
        """A server is switched on: after its boot its agent is back; its domains do not start by themselves."""
        for server in self._servers([name]):
            power.on(self.world, server)
        self.touched()

    def lose_power(self, label: str, value: str, seconds: float | None = None) -> None:
        """A feed, a rack, a room ... loses its power, with the BMCs there."""
        self.say("world", f"{label} {value} loses its power")
        power.darken(self.world, label, value)
        self.touched()
        self._until(seconds, lambda: self.restore_power(label, value))

    def restore_power(self, label: str, value: str, *, switch_on: bool = True) -> None:
        """It gets it back."""
        self.say("world", f"{label} {value} has power again")
        power.lighten(self.world, label, value, switch_on=switch_on)
        self.touched()

    def reboot(self, name: str, *, returns: bool = True) -> None:
        """A server is rebooted, as after a patch; with `returns` False it does not come up again."""
        for server in self._servers([name]):
            server.broken = not returns
            self.world.cut_power(server, "it is rebooted")
            power.on(self.world, server)
        self.touched()

    def repair(self, name: str) -> None:
        """A server that did not come up is repaired and switched on."""
        for server in self._servers([name]):
            server.broken = False
            if server.powered and not server.booted:
                server.powered = False
            power.on(self.world, server)
        self.touched()

    def bmc(self, name: str, **changes: Any) -> None:
        """Change what a server's BMC is like: fields of `SimBmc` (`reachable`, `seconds`, `lies`, `health` ...)."""
        for server in self._servers([name]):
            self.say("world", f"the BMC of {name}: {', '.join(f'{k} {v}' for k, v in changes.items())}")
            for field, value in changes.items():
                if not hasattr(server.bmc, field):
                    raise AttributeError(f"a BMC has no {field}")
                setattr(server.bmc, field, value)
            self.world.touch_bmc(server)
        self.touched()

    # --- servers that hang ----------------------------------------------------------------------------------------

    def kill_agent(self, name: str, seconds: float | None = 2.0) -> None:
        """`kill -9` of an agent: what it was doing is not finished; it is back after a while, if ever (None)."""
        for server in self._servers([name]):
            if server.agent:
                self.say("world", f"the agent of {name} is killed")
                server.agent, server.restarted = False, True
                server.commands += 1
                self.world.touch_server(server)
                self._until(seconds, lambda server=server, boot=server.boots: self._agent_back(server, boot))
        self.touched()

    def _agent_back(self, server: SimServer, boot: int) -> None:
        if server.boots == boot and server.powered and server.booted:
            server.agent = True
            self.world.touch_server(server)

    def hang(self, name: str, seconds: float | None = None, *, guests_run_on: bool = False) -> None:
        """A server hangs, with its guests or without; where it has shared pools its watchdog will cut its power."""
        for server in self._servers([name]):
            if server.alive:
                self.say("world", f"{name} hangs{' while its guests run on' if guests_run_on else ''}")
                self._freeze(server, "host" if guests_run_on else "all")
                self._until(seconds, lambda server=server, boot=server.boots: self._thaw(server, boot))
        self.touched()

    def _thaw(self, server: SimServer, boot: int) -> None:
        if server.frozen and server.boots == boot:
            self.say("world", f"{server.name} goes on")
            self._freeze(server, "")

    def _freeze(self, server: SimServer, frozen: Literal["", "host", "all"]) -> None:
        server.frozen = frozen
        server.restarted = False
        self.world.touch_server(server)
        self.world.touch_guests(server)
        self.touched()

    def stick(self, name: str, *, stuck: bool = True) -> None:
        """A server's guests can't be killed any more, as where they hang in I/O; or they can again."""
        for server in self._servers([name]):
            self.say("world", f"the guests of {name} {'can not be killed' if stuck else 'can be killed again'}")
            server.stuck = stuck
            self.world.touch_server(server)
        self.touched()

    def hang_libvirt(self, name: str, seconds: float | None = None) -> None:
        """A server's libvirt does not answer; its guests and its agent run on."""
        for server in self._servers([name]):
            self.say("world", f"libvirt of {name} hangs")
            server.error = "libvirt has not answered for 30 s"
            self.world.touch_server(server)
            self._until(seconds, lambda: self.heal_libvirt(name))
        self.touched()

    def heal_libvirt(self, name: str) -> None:
        """It answers again."""
        for server in self._servers([name]):
            self.say("world", f"libvirt of {name} answers again")
            server.error = ""
            self.world.touch_server(server)
        self.touched()

    # --- disks ----------------------------------------------------------------------------------------------------

    def pool(self, name: str, server: str = "", seconds: float | None = None, **changes: Any) -> None:
        """Change what a disk pool is like (`full`, `gone`, `slow`): a shared one, or a local one of a server."""
        for pool, users in self._pools(name, server):
            before = {field: getattr(pool, field) for field in changes}
            self.say("world", f"disk pool {name}{f' of {server}' if server else ''}: {changes}")
            self._set_pool(pool, users, changes)
            self._until(seconds, lambda p=pool, u=users, b=before: self._set_pool(p, u, b))

    def _set_pool(self, pool: SimPool, users: list[SimServer], changes: dict[str, Any]) -> None:
        for field, value in changes.items():
            setattr(pool, field, value)
        for user in users:
            self.world.touch_server(user)
            self.world.touch_guests(user)
        self.touched()

    def _pools(self, name: str, server: str) -> list[tuple[SimPool, list[SimServer]]]:
        users = [s for s in self.world.servers.values() if name in s.pools and server in {"", s.name}]
        found: dict[int, tuple[SimPool, list[SimServer]]] = {}
        for user in users:
            found.setdefault(id(user.pools[name]), (user.pools[name], []))[1].append(user)
        return list(found.values())

    def ails(self, name: str, severity: Literal["", "warning", "critical"]) -> None:
        """A server itself finds its hardware failing, whatever its BMC says; empty: no longer."""
        self.say("world", f"{name} finds its hardware {severity or 'well'}")
        server = self.world.servers[ServerName(name)]
        server.ails = severity
        self.world.touch_server(server)
        self.touched()

    def bad_firmware(self, names: Iterable[str], pool: str = "local", *, within: float = 86_400.0) -> None:
        """A batch of servers has disks whose firmware fails for good, each within so many seconds."""
        for server in list(self._servers(names)):
            delay = self.chance.uniform(0.0, within)
            self.after(delay, lambda server=server: self._disk_dies(server, pool), idle=True)

    def _disk_dies(self, server: SimServer, pool: str) -> None:
        self.pool(pool, server.name, gone=True)
        self.bmc(server.name, health="critical", problems=("Disk 1: failed",))

    # --- guests and clusters --------------------------------------------------------------------------------------

    def end_domain(self, uid: MachineUid, *, lose_disk: bool = False, undefine: bool = False) -> None:
        """A domain ends by itself or by somebody's hand; its disk may go with it."""
        for server in self.world.servers.values():
            domain = server.domains.get(uid)
            if domain is None:
                continue
            self.say("world", f"{domain.entry.name} on {server.name} ends{' with its disk' if lose_disk else ''}")
            if server.is_node:
                self.world.cut_power(server, "its system powers it off")
            else:
                self.world.set_state(server, domain, "crashed")
            if undefine:
                self.world.drop_domain(server, uid)
            if lose_disk:
                self.world.drop_volume(server, uid)
            if lose_disk and server.bare is not None:
                server.bare.lose(uid)
        self.touched()

    def hang_guest(self, uid: MachineUid) -> None:
        """A guest's kernel hangs: it runs, and nothing in it does."""
        for domain in list(self._live(uid)):
            if self.world.servers[domain.server].is_node:
                self.hang(domain.server)
                continue
            self.say("world", f"the kernel of {domain.entry.name} hangs")
            domain.hung = True
            domain.guest_agent = False
            self.world.touch(self.world.servers[domain.server], uid)
        self.touched()

    def stop_kubelet(self, uid: MachineUid, *, broken: bool = False) -> None:
        """A guest's kubelet fails while its machine is well; `broken`: restarting it does not help."""
        for domain in self._live(uid):
            self.say("world", f"the kubelet of {domain.entry.name} fails")
            domain.kubelet, domain.kubelet_broken = False, broken
            self.world.touch(self.world.servers[domain.server], uid)
        self.touched()

    def stop_api(self, cluster: str, seconds: float | None = None) -> None:
        """A tenant's API server is down though its machines are well."""
        self._api(cluster, stopped=True)
        self._until(seconds, lambda: self._api(cluster, stopped=False))

    def start_api(self, cluster: str) -> None:
        """It is back."""
        self._api(cluster, stopped=False)

    def _api(self, name: str, *, stopped: bool) -> None:
        cluster = self.world.clusters.get(ClusterKey(name))
        if cluster is not None and cluster.stopped != stopped:
            self.say("world", f"the API server of {name} {'is down' if stopped else 'is back'}")
            cluster.stopped = stopped
            self.world.touch_cluster(cluster)
            self.touched()

    def next_move(self, fault: str, name: str = "*") -> None:
        """Something goes wrong with the next live move of the machine of that name: one of `migration.FAULTS`."""
        if fault not in migration.FAULTS:
            raise ValueError(f"a move can go wrong by {', '.join(migration.FAULTS)}; not by {fault}")
        self.world.move_faults[name].append(fault)

    def dirty(self, uid: MachineUid, mib_a_second: float) -> None:
        """A guest rewrites so much of its memory a second."""
        self.world.dirty_rates[uid] = mib_a_second

    # --- clocks ---------------------------------------------------------------------------------------------------

    def jump_clock(self, seconds: float, name: str = "") -> None:
        """The clock of a server jumps; without a name, that of all controllers."""
        self.say("world", f"the clock of {name or 'the controllers'} jumps by {seconds:g} s")
        for server in self._servers([name]):
            server.clock += seconds
        for controller in self.controllers if not name else ():
            controller.clock += seconds
        self.touched()

    # --- helpers --------------------------------------------------------------------------------------------------

    def _servers(self, names: Iterable[str]) -> list[SimServer]:
        return [s for n in names if (s := self.world.servers.get(ServerName(n))) is not None]

    def _live(self, uid: MachineUid) -> list[SimDomain]:
        return [d for d in self.world.live.get(uid, ()) if d.state == "running"]

    def _until(self, seconds: float | None, end: Callable[[], None]) -> None:
        if seconds is not None:
            self.after(seconds, end)

    # --- agents' connections --------------------------------------------------------------------------------------

    def _linked(self, server: SimServer) -> None:
        """An agent's connection came or went: told at once where somebody says so, noticed after a while where not."""
        if server.connected:
            self.say("world", f"{server.name} is connected")
            leases.spoken(self.world, server)
            self.active = self.now
            for controller in self.controllers:
                controller.agent_connected(server.name)
            return
        self.say("world", f"{server.name} loses its connection")
        goodbye = not server.agent and server.alive and server.management
        seconds = 0.0 if goodbye else self._durations.draw(self._durations.ranges.noticed)
        self.after(seconds, lambda number=server.links: self._noticed(server, number), idle=True)

    def _noticed(self, server: SimServer, number: int) -> None:
        if server.links != number:
            return
        server.half = ""
        for controller in self.controllers:
            if controller.alive:
                controller.agent_lost(server.name)
        self.after(RESUME, lambda: self._given_up(server, number), idle=True)

    def _given_up(self, server: SimServer, number: int) -> None:
        if server.links == number:
            for controller in self.controllers:
                controller.give_up(server.name)
