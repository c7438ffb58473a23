"""What people do in a story: declare, edit, delete, put into maintenance, pause, confirm."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bedplate.engine import messages as msg
from bedplate.model.ids import ClusterKey, Key, ServerName, key
from bedplate.model.kinds.base import Object
from bedplate.model.kinds.cluster import Cluster
from bedplate.model.kinds.fleet import FLEET_POLICY_NAME, FleetPolicy, FleetPolicySpec
from bedplate.model.kinds.infrastructure import Maintenance, Server
from bedplate.model.meta import ObjectMeta
from bedplate.model.policy import ALLOW_MANY
from bedplate.sim import workload
from bedplate.sim.stage import Stage


class People(Stage):
    """Users and operators."""

    def apply(self, *objects: Object) -> None:
        """A user declares objects. What a Server says of its place and its upkeep is so in the world from now on."""
        for obj in objects:
            self.say("user", f"declares {type(obj).__name__} {obj.metadata.name}")
            self._is_so(obj)
            self._tell_spec(self.store.put(obj, self.now))

    def edit(self, k: Key | str, change: Callable[[Object], Object]) -> None:
        """A user edits a declared object. Raises `KeyError` where there is none."""
        self.apply(change(self.store.objects[Key(k)]))

    def delete(self, k: Key | str) -> None:
        """A user deletes an object."""
        self.say("user", f"deletes {k}")
        kind, *rest = k.split("/")
        if kind == "cluster":
            for cluster in self.world.clusters.values():
                cluster.going |= cluster.key == "/".join(rest)
        self._tell_spec(self.store.delete(Key(k), self.now))

    def maintain(self, name: str, reason: str = "patch", *, until: str | None = None) -> None:
        """An operator wants a server empty, until `unmaintain` or an RFC 3339 time."""
        self._upkeep(name, Maintenance(reason=reason, until=until))

    def unmaintain(self, name: str) -> None:
        """An operator gives a server back."""
        self._upkeep(name, None)

    def pause(self, reason: str = "people look into it") -> None:
        """An operator stops all that is done by itself."""
        self.fleet_policy(paused=reason)

    def resume(self) -> None:
        """An operator lets it go on."""
        self.fleet_policy(paused="")

    def fleet_policy(self, *, allow_many: bool | None = None, **changes: object) -> None:
        """An operator edits fields of the FleetPolicy `default`, or confirms that many servers may be acted on."""
        found = self.store.objects.get(key("fleetpolicy", FLEET_POLICY_NAME))
        policy = found if isinstance(found, FleetPolicy) else FleetPolicy(metadata=ObjectMeta(name=FLEET_POLICY_NAME))
        if allow_many is not None:
            said = {**policy.metadata.annotations, ALLOW_MANY: "true" if allow_many else "false"}
            meta = msgspec.structs.replace(policy.metadata, annotations=said)
            policy = msgspec.structs.replace(policy, metadata=meta)
        spec: FleetPolicySpec = msgspec.structs.replace(policy.spec, **changes)
        self.apply(msgspec.structs.replace(policy, spec=spec))

    def deploy(self, cluster: str, *apps: workload.App) -> None:
        """A tenant runs apps on a cluster (`namespace/name`)."""
        workload.deploy(self.world, ClusterKey(cluster), *apps)
        self.touched()

    def pod(self, cluster: str, name: str) -> workload.SimPod:
        """A tenant's pod by its name, with the history of when it answered. Raises `KeyError`."""
        return self.world.clusters[ClusterKey(cluster)].pods[name]

    def _upkeep(self, name: str, upkeep: Maintenance | None) -> None:
        def change(obj: Object) -> Object:
            assert isinstance(obj, Server)
            return msgspec.structs.replace(obj, spec=msgspec.structs.replace(obj.spec, maintenance=upkeep))

        self.edit(key("server", name), change)

    def _is_so(self, obj: Object) -> None:
        many = obj.metadata.annotations.get(ALLOW_MANY) == "true"
        if isinstance(obj, Server):
            server = self.world.servers.get(ServerName(obj.metadata.name))
            if server is not None:
                server.place = dict(obj.spec.failure_domain)
                if server.bare is not None:
                    server.bare.accepted = obj.spec.accepted
                server.maintenance = obj.spec.maintenance is not None or obj.spec.unschedulable
        elif isinstance(obj, Cluster):
            self.world.cluster(ClusterKey(f"{obj.metadata.namespace}/{obj.metadata.name}")).allow_many = many
        elif isinstance(obj, FleetPolicy):
            self.world.allow_many = many

    def _tell_spec(self, changes: dict[Key, Object | None]) -> None:
        self.active = self.now
        for controller in self.controllers:
            if controller.alive and changes:
                controller.tell(msg.SpecChanged(changes=changes))
