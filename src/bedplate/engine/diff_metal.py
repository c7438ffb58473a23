"""From a bare server's entry, and a machine's on one, to the step that may run now. Pure, as `diff`.

Each state of the server asks for one system on it: the RAM system in the boot that planning numbered, the disk that was
written, or none.
"""

from __future__ import annotations

from bedplate.engine.diff_nodes import drained, joined, leave_behind, put_aside
from bedplate.engine.wanted import SATISFIED, Next, World, attempt, cluster_view, domain_at, usable, wait
from bedplate.model.blueprint import MachineEntry, MetalEntry, ServerEntry
from bedplate.model.ids import ServerName
from bedplate.model.inventory import NodeView, Observation
from bedplate.model.report import Waiting
from bedplate.model.steps import (
    BootDisk,
    BootMedia,
    EraseDisks,
    ForgetNode,
    InspectServer,
    PowerOff,
    PowerOn,
    RunTests,
    Step,
    WriteImage,
)
from bedplate.model.whereabouts import left_bare, ram_system


def server(world: World, e: MetalEntry) -> Next:
    """What the bare server needs next."""
    match e.state:
        case "inspecting" | "testing" | "erasing" | "rescue":
            return _in_ram(world, e)
        case "deploying":
            return _from_disk(world, e) if e.written else _in_ram(world, e)
        case "available" | "retired" | "quarantined":
            done = attempt(world, e.key, "PowerOff", e.generation).succeeded
            if done and not _woken(world, e, done):
                return SATISFIED
            return _step(PowerOff(entry=e), f"nothing is to run on it: {e.reason}")
        case "deployed":
            return SATISFIED


def revived(world: World, s: ServerEntry) -> Next:
    """A dead server that is a node is switched on again: its disk is whole, and nothing of it runs elsewhere."""
    e = world.blueprint.metal(s.server)
    m = world.blueprint.machine(e.machine) if e is not None and e.state == "deployed" else None
    if m is None or m.desired != "run" or s.by != "power":
        return SATISFIED
    if attempt(world, s.key, "PowerOn").succeeded > s.confirmed:
        return wait(Waiting.BOOT, f"{s.server} was switched on again")
    return _step(PowerOn(entry=s), f"{m.name} is to run again: {s.reason}")


def _woken(world: World, e: MetalEntry, off: float) -> bool:
    """Since its power was cut, somebody has switched it on and what was given up runs again: its kubelet would come
    back to a cluster that has replaced it. Or its machine is still planned, and its end is yet to be seen."""
    if world.blueprint.machine(e.machine) is not None:
        bmc = world.inventory.bmc(e.server)
        return bmc is None or bmc.value.power != "off" or bmc.time < e.since
    ghost = _node_left(world, e)
    if ghost is not None and ghost.time > off:
        return True
    seen = world.inventory.server(e.server)
    return seen is not None and seen.time > off and _system(world, e.server) in {"node", "hypervisor"}


def _node_left(world: World, e: MetalEntry) -> Observation[NodeView] | None:
    """The Node that the machine which is gone has registered anew; None: there is none."""
    if e.left is None:
        return None
    node = world.inventory.node(e.left.cluster, e.left.name)
    return node if node is not None and node.value.present and node.value.machine == e.left.uid else None


def registered_anew(world: World, e: MetalEntry) -> Next:
    """Take the Node of a machine that is gone out of its cluster, once the server is known to run it no more: its pods
    are started elsewhere then (rule 1)."""
    node = _node_left(world, e)
    if node is None or e.left is None:
        return SATISFIED
    cluster = world.blueprint.cluster(e.left.cluster)
    if cluster is None or cluster.desired == "absent" or not cluster_view(world, cluster).api:
        return SATISFIED
    in_ram = _system(world, e.server) == "ram" and ram_system(world.inventory, e) is not None
    off = attempt(world, e.key, "PowerOff", e.generation).succeeded
    idle = e.state in {"available", "retired", "quarantined"}
    if not in_ram and not (idle and off > node.time and not _woken(world, e, off)):
        return SATISFIED
    return _step(ForgetNode(cluster=cluster, machine=e.left, entry=e), "it is of a machine that is gone")


def _system(world: World, server: ServerName) -> str:
    """What runs on it, as its agent tells now; empty where that is not known."""
    seen = world.inventory.server(server)
    return seen.value.system if seen is not None and usable(world, server) else ""


def _step(step: Step, reason: str) -> Next:
    return Next(step=step, reason=reason)


def _in_ram(world: World, e: MetalEntry) -> Next:
    view = ram_system(world.inventory, e) if usable(world, e.server) else None
    if view is None:
        if attempt(world, e.key, "BootMedia", e.generation).succeeded:
            return wait(Waiting.BOOT, f"RAM system {e.run} is starting on {e.server}")
        return _step(BootMedia(entry=e), e.reason)
    if e.state == "inspecting" and view.hardware is None:
        return _step(InspectServer(entry=e), "its hardware is to be known")
    if e.state == "testing" and (view.tests is None or view.tests.suite != e.suite):
        return _step(RunTests(entry=e), f"the {e.suite} tests are to run")
    if e.state == "erasing" and view.erased is None:
        if world.blueprint.machine(e.machine) is not None:
            return wait(Waiting.METAL, "its disks are erased once its machine has left its cluster")
        return _step(EraseDisks(entry=e), "its disks are to be blank")
    if e.state == "deploying" and e.host is not None:
        if view.written is None or view.written.uid != e.host.uid:
            return _step(WriteImage(entry=e), f"{e.host.image.name} is to be on disk {e.root_disk}")
    elif e.state == "deploying":
        m = world.blueprint.machine(e.machine)
        if m is not None and m.desired == "run" and (view.written is None or view.written.uid != m.uid):
            return _step(WriteImage(entry=e, machine=m), f"{m.name} is to be on disk {e.root_disk}")
    return SATISFIED


def _from_disk(world: World, e: MetalEntry) -> Next:
    if _system(world, e.server) == ("node" if e.host is None else "hypervisor"):
        return SATISFIED
    if attempt(world, e.key, "BootDisk", e.generation).succeeded:
        return wait(Waiting.BOOT, f"{e.server} is starting from disk {e.root_disk}")
    return _step(BootDisk(entry=e), "what was written is to run")


def machine(world: World, m: MachineEntry) -> Next:
    """What a machine on a bare server needs next: it joins and leaves as any, the rest is its server's business."""
    e = world.blueprint.metal(m.server)
    mine = e is not None and e.machine == m.uid
    runs = mine and _system(world, m.server) == "node"
    cluster = world.blueprint.cluster(m.cluster)
    match m.desired:
        case "run" if not runs:
            return wait(Waiting.METAL, f"server {m.server} is {e.state if mine and e is not None else 'not its own'}")
        case "run":
            return put_aside(world, m) or joined(world, m, domain_at(world, m))
        case "drain" if cluster is not None and cluster.desired == "present":
            return drained(world, cluster, m)
        case "remove" if cluster is not None and cluster.desired == "present":
            if not left_bare(world.inventory, e, m, usable=usable(world, m.server)):
                # Its pods may run on: what has its Node deleted has them started elsewhere (rule 1).
                return wait(Waiting.METAL, f"it is not known yet to have ended on {m.server}")
            return leave_behind(world, cluster, m) or SATISFIED
        case _:
            return SATISFIED
