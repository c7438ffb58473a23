"""Steps: single idempotent actions that bring the world nearer the blueprint, and how one can end.

A step carries all that its driver needs, so that a driver makes no choice. It carries no secret.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bedplate.model.blueprint import ClusterEntry, ImageRef, MachineEntry, MetalEntry, ServerEntry
from bedplate.model.ids import (
    Digest,
    Epoch,
    Generation,
    Key,
    MachineUid,
    OperationId,
    ServerName,
    StoreId,
    key,
)
from bedplate.model.inventory import AnyView

_PODS = "pods"
LANES = ("", _PODS)


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step"):
    """Base of all steps."""

    @property
    def name(self) -> str:
        """The step's kind, as people and metrics see it."""
        return type(self).__name__

    @property
    def lane(self) -> str:
        """One of `LANES`: steps on one target run one after another, except beside those of another lane."""
        return ""


# --- on a hypervisor, by its agent -------------------------------------------------------------------------------


class PullImage(_Step, frozen=True, kw_only=True, tag="PullImage"):
    """Have an image's files in a pool's cache, digests verified."""

    server: ServerName
    disk_pool: str
    image: ImageRef

    @property
    def target(self) -> Key:
        return key("image", self.disk_pool, self.server, self.image.disk)


class _MachineStep(_Step, frozen=True, kw_only=True):
    machine: MachineEntry

    @property
    def target(self) -> Key:
        return self.machine.key

    @property
    def server(self) -> ServerName:
        return self.machine.server


class CreateVolume(_MachineStep, frozen=True, kw_only=True, tag="CreateVolume"):
    """Make the machine's disk as a linked clone of its image, grown to its size. An existing one is kept."""


class DefineDomain(_MachineStep, frozen=True, kw_only=True, tag="DefineDomain"):
    """Make the domain known to libvirt with this generation; redefine it where it differs. Does not start it."""


class StartDomain(_MachineStep, frozen=True, kw_only=True, tag="StartDomain"):
    """Start the domain for boot number `machine.boot`; each number is started once."""


class StopDomain(_MachineStep, frozen=True, kw_only=True, tag="StopDomain"):
    """Ask the guest to power off, then cut it after `grace` seconds. Ends when the domain is not running."""

    grace: float = 30.0


class RemoveDomain(_MachineStep, frozen=True, kw_only=True, tag="RemoveDomain"):
    """End the domain, whatever it does, and take it out of libvirt. Its disk stays."""


class DeleteVolume(_MachineStep, frozen=True, kw_only=True, tag="DeleteVolume"):
    """Delete the machine's disk. Only after the domain is gone."""


class RetainVolume(_MachineStep, frozen=True, kw_only=True, tag="RetainVolume"):
    """Move the machine's disk to the pool's retained disks (rule 9)."""


class ReceiveDomain(_MachineStep, frozen=True, kw_only=True, tag="ReceiveDomain"):
    """Make `machine.server` ready to take the running machine over: remember its generation and boot number, see that
    its disk is reached there. Nothing runs by it."""


class MigrateDomain(_MachineStep, frozen=True, kw_only=True, tag="MigrateDomain"):
    """Move the running domain live from `machine.source` to `machine.server`, run by the source's agent.

    Done: it runs there and is not known to the source's libvirt any more. Failed: it runs on at the source. Unknown:
    both sides must be read before anything is resumed (rule 1). Repeating attaches to the running one.
    """

    address: str = ""
    """Where the target's libvirt takes it in."""

    @property
    def server(self) -> ServerName:
        return self.machine.source


class ForgetDomain(_Step, frozen=True, kw_only=True, tag="ForgetDomain"):
    """Have a server that a machine has left, by recovery or migration, know it no more: end what may run of it there,
    take it out of libvirt. Its disk, which is shared and in use elsewhere, is not touched."""

    server: ServerName
    machine: MachineEntry

    @property
    def target(self) -> Key:
        return self.machine.key


class DeleteRetained(_Step, frozen=True, kw_only=True, tag="DeleteRetained"):
    """Delete a retained disk."""

    server: ServerName
    disk_pool: str
    uid: MachineUid
    generation: Generation

    @property
    def target(self) -> Key:
        return key("retained-disk", self.uid)


class DropImage(_Step, frozen=True, kw_only=True, tag="DropImage"):
    """Delete an image's file from a pool's cache, where this store fetched it and no disk in the pool stands on it.

    Done too where it is not there, and where it stays because another store has asked for it.
    """

    server: ServerName
    disk_pool: str
    digest: Digest

    @property
    def target(self) -> Key:
        return key("cached-image", self.server, self.disk_pool, self.digest)


# --- on a cluster -------------------------------------------------------------------------------------------------


class _ClusterStep(_Step, frozen=True, kw_only=True):
    cluster: ClusterEntry

    @property
    def target(self) -> Key:
        return self.cluster.key

    @property
    def server(self) -> ServerName:
        return ServerName("")


class MakeSecrets(_ClusterStep, frozen=True, kw_only=True, tag="MakeSecrets"):
    """Make and keep the cluster's certificate authorities and keys, where they are not kept already."""


class DropSecrets(_ClusterStep, frozen=True, kw_only=True, tag="DropSecrets"):
    """Forget the cluster's certificate authorities and keys."""


class InstallAddons(_ClusterStep, frozen=True, kw_only=True, tag="InstallAddons"):
    """Apply the cluster's addons and Bedplate's own objects (node routes' access, kubelet approvals)."""


class _NodeStep(_Step, frozen=True, kw_only=True):
    cluster: ClusterEntry
    machine: MachineEntry

    @property
    def target(self) -> Key:
        return self.machine.key

    @property
    def server(self) -> ServerName:
        return self.machine.server


class Bootstrap(_NodeStep, frozen=True, kw_only=True, tag="Bootstrap"):
    """Hand the machine its payload over the guest agent's channel and start `kubeadm init` or `join` in it.

    Ends when it runs; how it ends is observed in `DomainView.bootstrap`. Repeating attaches to the running one.
    """

    mode: Literal["init", "join"]
    peers: tuple[MachineEntry, ...] = ()
    """Control-plane machines that are up (for etcd's leftovers of an earlier try of this machine)."""


class RestartKubelet(_NodeStep, frozen=True, kw_only=True, tag="RestartKubelet"):
    """Restart the kubelet of a machine that answers: its pods run on."""


class DrainNode(_NodeStep, frozen=True, kw_only=True, tag="DrainNode"):
    """Cordon, then evict with respect for disruption budgets, for `machine.drain_timeout` seconds at most."""


class DeleteNode(_NodeStep, frozen=True, kw_only=True, tag="DeleteNode"):
    """Delete the Node object of exactly this machine (checked by its provider id)."""


class UncordonNode(_NodeStep, frozen=True, kw_only=True, tag="UncordonNode"):
    """Let pods onto the Node of exactly this machine again. Done where there is none."""


class ForgetNode(DeleteNode, frozen=True, kw_only=True, tag="ForgetNode"):
    """Delete the Node that a machine which is gone has registered anew from a bare server's disks, after the server
    was switched off again."""

    entry: MetalEntry

    @property
    def target(self) -> Key:
        return self.entry.key

    @property
    def lane(self) -> str:
        return _PODS


class RemoveEtcdMember(_NodeStep, frozen=True, kw_only=True, tag="RemoveEtcdMember"):
    """Take this machine's member out of etcd, asked of one of `peers`; done where it is no member."""

    peers: tuple[MachineEntry, ...] = ()


class MarkOutOfService(_NodeStep, frozen=True, kw_only=True, tag="MarkOutOfService"):
    """Of a node whose machine's end is confirmed: set it not ready, taint it `node.kubernetes.io/out-of-service`, and
    delete its pods by force, so that stateful ones and their volumes are free at once.

    It runs beside the steps that start the machine again elsewhere: a tenant's slow API server holds up nobody.
    """

    @property
    def lane(self) -> str:
        return _PODS


class ClearOutOfService(_NodeStep, frozen=True, kw_only=True, tag="ClearOutOfService"):
    """Take the out-of-service taint off a node that is back."""


# --- on a server's BMC ---------------------------------------------------------------------------------------------


class _BmcStep(_Step, frozen=True, kw_only=True):
    entry: ServerEntry | MetalEntry

    @property
    def target(self) -> Key:
        return self.entry.key

    @property
    def server(self) -> ServerName:
        return ServerName("")


class ReadPower(_BmcStep, frozen=True, kw_only=True, tag="ReadPower"):
    """Read the power state. Done carries a `BmcView`, also where the BMC does not answer."""


class PowerOff(_BmcStep, frozen=True, kw_only=True, tag="PowerOff"):
    """Cut the power at once and read back until it is off; already off is off. The reply to the order counts nothing.

    Done only where `off` was read back. Failed where it was not in time.
    """


class PowerOn(_BmcStep, frozen=True, kw_only=True, tag="PowerOn"):
    """Switch on and read back; on already is on. Done only where `on` was read back."""


class _MetalBmcStep(_BmcStep, frozen=True, kw_only=True):
    entry: MetalEntry


class BootMedia(_MetalBmcStep, frozen=True, kw_only=True, tag="BootMedia"):
    """Start boot `entry.run` of the RAM system: its medium inserted, the next boot from it, the power cycled.

    Done where the power was read back as on. That it came up is told by its agent.
    """


class BootDisk(_MetalBmcStep, frozen=True, kw_only=True, tag="BootDisk"):
    """Start what was written to the server's disk: medium ejected, boot from disk for good, the power cycled."""


# --- on a bare server, by the agent in its RAM system ---------------------------------------------------------------


class _RamStep(_Step, frozen=True, kw_only=True):
    entry: MetalEntry

    @property
    def target(self) -> Key:
        return self.entry.key

    @property
    def server(self) -> ServerName:
        return self.entry.server


class InspectServer(_RamStep, frozen=True, kw_only=True, tag="InspectServer"):
    """Find out what hardware is there; told as `MetalView.hardware`."""


class RunTests(_RamStep, frozen=True, kw_only=True, tag="RunTests"):
    """Run `entry.suite`; told as `MetalView.tests`. A disk that holds something is only read."""


class WriteImage(_RamStep, frozen=True, kw_only=True, tag="WriteImage"):
    """Write the machine's or the hypervisor's image to the disk `entry.root_disk`, verified, with its credentials on
    it; told as `MetalView.written`. Repeating it attaches to what runs, or goes on where a break left it."""

    machine: MachineEntry | None = None
    """None: the hypervisor that the server is to be, `entry.host`."""


class EraseDisks(_RamStep, frozen=True, kw_only=True, tag="EraseDisks"):
    """Erase every disk of `entry.hardware`, each by the strongest means that reads back clean; told as
    `MetalView.erased`. Disks that were not inspected are not touched."""


HypervisorStep = (
    ReceiveDomain
    | MigrateDomain
    | ForgetDomain
    | PullImage
    | CreateVolume
    | DefineDomain
    | StartDomain
    | StopDomain
    | RemoveDomain
    | DeleteVolume
    | RetainVolume
    | DeleteRetained
    | DropImage
)
BootstrapStep = MakeSecrets | DropSecrets | Bootstrap | RemoveEtcdMember | RestartKubelet
KubernetesStep = (
    InstallAddons | DrainNode | UncordonNode | DeleteNode | ForgetNode | MarkOutOfService | ClearOutOfService
)
BmcStep = ReadPower | PowerOff | PowerOn | BootMedia | BootDisk
RamStep = InspectServer | RunTests | WriteImage | EraseDisks
AgentStep = HypervisorStep | RamStep
Step = AgentStep | BootstrapStep | KubernetesStep | BmcStep


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What entitles a driver to act: written into the journal before it is handed out."""

    operation: OperationId
    store: StoreId
    epoch: Epoch
    deadline: float
    """Seconds the driver has in all; past it the outcome is `Unknown`."""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="result", tag="done"):
    """The world is as the step wants it. `views`: what was read back, if anything."""

    views: tuple[AnyView, ...] = ()
    message: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag_field="result", tag="failed"):
    """Nothing more will come of this try. `reason` is CamelCase for programs, `message` a sentence for people."""

    reason: str
    message: str
    permanent: bool = False
    """Trying again can't help until something else changes."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="result", tag="refused"):
    """The world has seen a higher epoch or generation: whoever asked is out of date."""

    message: str


class Unknown(msgspec.Struct, frozen=True, kw_only=True, tag_field="result", tag="unknown"):
    """The reply is lost or late: it may or may not have happened. Observe before doing anything else."""

    message: str


StepResult = Done | Failed | Refused | Unknown
