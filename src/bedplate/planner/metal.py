"""The life of a bare server that a person accepted: inspected, tested, claimed, deployed, erased, given back.

Each state asks for one system on the server; what it reports leads to the next state. What can't be proven, or holds
what nobody released, ends in quarantine and is named. Who claims it is decided in `metal_pools`.
"""

from __future__ import annotations

import msgspec

from bedplate.model.blueprint import BmcRef, Host, ImageRef, MachineEntry, MetalEntry, MetalState
from bedplate.model.ids import Key, MachineUid, ServerName, key
from bedplate.model.inventory import MetalView
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.metal import Suite
from bedplate.model.policy import REQUESTS, SUITE
from bedplate.model.report import Waiting, still_there
from bedplate.model.whereabouts import left_bare, role_of
from bedplate.planner import addresses, metal_rescue, peers
from bedplate.planner.bare_server import failed, into, late, machine, quarantine, ram, system, wait
from bedplate.planner.context import Planning
from bedplate.planner.metal_pools import root_disk
from bedplate.planner.servers import bmc_ref

_REQUESTED: dict[str, MetalState] = {"inspect": "inspecting", "test": "testing", "erase": "erasing"}
"""What a person may ask of a server that nobody uses, and the state that it leads to."""


def advance(p: Planning, unit: Key) -> None:
    """Look at one server."""
    name = ServerName(unit.partition("/")[2])
    declared = p.spec.servers.get(key("server", name))
    entry = p.index.metal(name)
    if entry is None:
        # A server that was declared as a hypervisor from the start is its user's own: it is left as it runs.
        if declared is not None and wanted(declared) and declared.spec.role != "hypervisor":
            _take_on(p, declared)
        return
    if declared is None or not wanted(declared) or declared.metadata.uid != entry.uid:
        _let_go(p, entry, declared)
        return
    entry = _refreshed(p, entry, declared)
    if reason := p.paused(declared):
        p.wait(unit, Waiting.PAUSED, f"{name} is {entry.state}; {reason}")
        return
    match entry.state:
        case "inspecting":
            _inspecting(p, entry)
        case "testing":
            _testing(p, entry)
        case "available":
            _idle(p, entry, declared)
        case "deploying" | "deployed":
            _claimed(p, entry, declared)
        case "erasing":
            _erasing(p, entry)
        case "rescue":
            _in_rescue(p, entry, declared)
        case "retired":
            if not declared.spec.metal.retired:
                into(p, entry, "inspecting", "it is taken back into service")
        case "quarantined":
            _quarantined(p, entry, declared)


def wanted(declared: Server) -> bool:
    """A person accepted it as a bare server, and it is not being deleted."""
    return declared.spec.accepted and declared.spec.bmc is not None and not declared.metadata.deletion_timestamp


# --- coming and going ---------------------------------------------------------------------------------------------


def _take_on(p: Planning, declared: Server) -> None:
    name = ServerName(declared.metadata.name)
    unit = key("metal", name)
    bmc = bmc_ref(declared)
    assert bmc is not None
    seen = p.inventory.server(name)
    if seen is not None and seen.value.connected and seen.value.system == "hypervisor":
        said = f"an agent runs on {name} already: what runs there is left as it is; end the agent to have it deployed"
        p.wait(unit, Waiting.METAL, said)
        return
    twin = next((e for e in p.index.all_metal() if e.bmc.address == bmc.address), None)
    if twin is not None:
        p.wait(unit, Waiting.METAL, f"its BMC {bmc.address} is that of {twin.server}: they are one server; delete one")
        return
    network = declared.spec.metal.network or _only(p.index.declared_networks)
    if network not in p.index.declared_networks:
        said = f"network {network!r} is not declared" if network else "there is not exactly one network"
        p.wait(unit, Waiting.NO_NETWORK, f"{said}; name one in spec.metal.network")
        return
    state = p.index.network(network)
    address = state.free_address()
    if not address:
        p.wait(unit, Waiting.NO_ADDRESS, f"network {network} has no free address in its ranges; widen them")
        return
    entry = MetalEntry(
        server=name,
        uid=declared.metadata.uid,
        state="inspecting",
        since=p.now,
        bmc=bmc,
        boots_from=declared.spec.metal.boot,
        nic=addresses.nic(state, MachineUid(""), declared.spec.metal.boot_mac, address),
        asked=_requests(declared),
        reason="a person accepted it",
    )
    p.put(entry, f"{name} is inspected: a person accepted it")


def _only(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else ""


def _let_go(p: Planning, entry: MetalEntry, declared: Server | None) -> None:
    """It is not to be Bedplate's any more: what runs on it is left alone once no machine is planned there."""
    if machine(p, entry) is not None:
        said = f"{entry.server} still has a machine; it is let go once that has left"
        p.wait(entry.key, Waiting.METAL, said)
    elif p.busy(entry.key):
        p.wait(entry.key, Waiting.STEP, "a step on it is still running")
    else:
        why = "it was deleted" if declared is None or declared.metadata.deletion_timestamp else "it is not accepted"
        p.drop(entry.key, f"{entry.server} is let go: {why}")


def _refreshed(p: Planning, entry: MetalEntry, declared: Server) -> MetalEntry:
    """Follow an edit of its BMC, and of how it boots."""
    bmc: BmcRef | None = bmc_ref(declared)
    assert bmc is not None
    way = declared.spec.metal.boot
    if bmc == entry.bmc and way == entry.boots_from:
        return entry
    said = f"the BMC of {entry.server}, or how it boots, was edited"
    return p.put(msgspec.structs.replace(entry, bmc=bmc, boots_from=way), said)


# --- its states ---------------------------------------------------------------------------------------------------


def _inspecting(p: Planning, entry: MetalEntry) -> None:
    view = ram(p, entry)
    if view is None:
        return
    if view.hardware is None:
        if not failed(p, entry, view, "InspectServer"):
            wait(p, entry, "its hardware is looked at")
        return
    twin = next((e.server for e in p.index.all_metal() if _same_serial(e, entry, view)), "")
    if twin:
        said = f"its serial number {view.hardware.serial} is that of {twin}: one of them is not what it says"
        quarantine(p, entry, said, hardware=view.hardware)
        return
    if not any(d.serial for d in view.hardware.disks):
        said = "it has no disk with a serial number, so none can be told apart and written"
        quarantine(p, entry, said, hardware=view.hardware)
        return
    nic = entry.nic
    boot = next((n.mac for n in view.hardware.nics if n.boot), nic.mac)
    into(
        p,
        entry,
        "testing",
        "its hardware is known",
        boot=False,
        hardware=view.hardware,
        nic=msgspec.structs.replace(nic, mac=boot),
    )


def _same_serial(other: MetalEntry, entry: MetalEntry, view: MetalView) -> bool:
    mine = view.hardware.serial if view.hardware is not None else ""
    same = other.hardware is not None and other.hardware.serial == mine
    return bool(mine) and same and other.server != entry.server


def _testing(p: Planning, entry: MetalEntry) -> None:
    view = ram(p, entry)
    if view is None:
        return
    if view.tests is None or view.tests.suite != entry.suite:
        if not failed(p, entry, view, "RunTests"):
            wait(p, entry, f"the {entry.suite} tests run")
        return
    tests = peers.judged(entry, view.tests, p.index.all_metal(), p.policy)
    if tests.verdict == "failed":
        bad = ", ".join(f"{t.name}: {t.detail}" for t in tests.tests if t.verdict == "failed")
        quarantine(p, entry, f"a test failed: {bad}", tests=tests)
    elif entry.held:
        quarantine(p, entry, f"what is on its disks was released by nobody; {peers.summary(tests)}", tests=tests)
    else:
        into(p, entry, "available", peers.summary(tests), boot=False, tests=tests)


def _requests(declared: Server) -> tuple[tuple[str, str], ...]:
    found = declared.metadata.annotations
    return tuple((kind, found[name]) for kind, name in REQUESTS.items() if found.get(name))


def _asked(entry: MetalEntry, declared: Server) -> str:
    """The first request that was not taken up yet; empty where there is none."""
    return next((kind for kind, value in _requests(declared) if (kind, value) not in entry.asked), "")


def _idle(p: Planning, entry: MetalEntry, declared: Server) -> None:
    """Nobody uses it: a person's wishes are taken up."""
    if declared.spec.metal.retired:
        into(p, entry, "erasing", "it is retired", then="retired")
    elif declared.spec.metal.rescue:
        metal_rescue.begin(p, entry)
    elif kind := _asked(entry, declared):
        _on_request(p, entry, declared, kind)
    elif role_of(declared, entry) == "hypervisor":
        _into_hypervisor(p, entry, declared)


def _on_request(p: Planning, entry: MetalEntry, declared: Server, kind: str) -> None:
    suite: Suite = "burn-in" if declared.metadata.annotations.get(SUITE) == "burn-in" else "quick"
    why = f"a person asked to {kind} it"
    into(p, entry, _REQUESTED[kind], why, asked=_requests(declared), suite=suite, then="available")


def _quarantined(p: Planning, entry: MetalEntry, declared: Server) -> None:
    m = machine(p, entry)
    if m is not None:
        p.wait(entry.key, Waiting.QUARANTINED, f"{entry.reason}; machine {m.name} is being given up")
    elif declared.spec.metal.retired:
        into(p, entry, "erasing", "it is retired", then="retired")
    elif declared.spec.metal.rescue:
        metal_rescue.begin(p, entry)
    elif kind := _asked(entry, declared):
        _on_request(p, entry, declared, kind)
    else:
        said = f"{entry.reason}. `bedplate server erase {entry.server}` releases what is on its disks;"
        said = f"{said} `server inspect` or `server test` look at it again"
        p.wait(entry.key, Waiting.QUARANTINED, said)


def _claimed(p: Planning, entry: MetalEntry, declared: Server) -> None:
    """A machine or a hypervisor has it, which is on its way to its disk or runs from it."""
    if entry.host is not None:
        _hosting(p, entry, entry.host, declared)
        return
    m = machine(p, entry)
    if m is None or m.desired == "remove":
        _release(p, entry, declared, m)
    elif entry.state == "deploying":
        _deploying(p, entry, m, m.name, reports(p, m))
    else:
        metal_rescue.of_node(p, entry, m, wanted=declared.spec.metal.rescue)


def _in_rescue(p: Planning, entry: MetalEntry, declared: Server) -> None:
    """A person looks into it, or is done: then what used it goes on, or is given back as from its disk."""
    was, m = entry.before, machine(p, entry)
    assert was is not None
    if declared.spec.metal.rescue:
        metal_rescue.held(p, entry)
    elif was.state == "quarantined":
        into(p, entry, "quarantined", was.reason, boot=False, before=None)
    elif was.state == "available":
        _give_back(p, entry, declared, "a person had it in rescue")
    elif entry.host is not None or (m is not None and m.desired == "run"):
        into(p, entry, "deploying", "a person is done with it", boot=False, before=None)
    elif m is None or m.desired == "remove":
        _release(p, entry, declared, m)
    else:
        wait(p, entry, f"{m.name} is leaving its cluster")


def _deploying(p: Planning, entry: MetalEntry, what: MachineEntry | Host, name: str, there: bool) -> None:
    """`there`: what was written runs and reports."""
    if entry.written:
        if there:
            into(p, entry, "deployed", f"{name} reports", boot=False)
        elif not late(p, entry, name):
            wait(p, entry, f"{name} is to boot from its disk")
        return
    view = ram(p, entry)
    if view is None:
        return
    if view.written is not None and view.written.uid == what.uid:
        written = msgspec.structs.replace(entry, written=True, tries=0, left=None, reason="its disk is written")
        p.put(written, f"{entry.server} is to boot from its disk: {name} is written to it")
    elif not failed(p, entry, view, "WriteImage"):
        wait(p, entry, f"{what.image.name} is written for {name}")


def reports(p: Planning, m: MachineEntry) -> bool:
    """The machine's own agent is connected from the disk that was written for it."""
    seen = p.domain(m)
    return system(p, m.server) == "node" and seen is not None and seen.value.state == "running"


# --- as a hypervisor ----------------------------------------------------------------------------------------------


def _into_hypervisor(p: Planning, entry: MetalEntry, declared: Server) -> None:
    """Its role is to run virtual machines: it is deployed as what does."""
    image = _host_image(p, entry, declared.spec.metal.image)
    if image is None:
        return
    disks = entry.hardware.disks if entry.hardware is not None else ()
    disk = root_disk(disks, declared.spec.metal.root_disk, image.virtual_size >> 20)
    if disk is None:
        said = "it has no disk for a hypervisor that is large enough, well and as spec.metal.rootDisk says"
        p.wait(entry.key, Waiting.METAL, f"{entry.server} is available: {said}")
        return
    if p.busy(entry.key):
        p.wait(entry.key, Waiting.STEP, "a step on it is still running")
        return
    host = Host(uid=MachineUid(f"{entry.uid}-{entry.run + 1}"), image=image)
    into(p, entry, "deploying", "it is to be a hypervisor", host=host, root_disk=disk.serial, written=False)


def _host_image(p: Planning, entry: MetalEntry, named: str) -> ImageRef | None:
    """What makes it a hypervisor; None (and a wait) where there is none."""
    images = p.index.images
    name = named or images.newest_host
    if name in images.hosts:
        return images.refs[name]
    said = f"image {named} does not exist or is no hypervisor's" if named else "there is no hypervisor image"
    p.wait(entry.key, Waiting.NO_IMAGE, f"{said}; `bedplate image build --hypervisor` makes one")
    return None


def _hosting(p: Planning, entry: MetalEntry, host: Host, declared: Server) -> None:
    name = f"{entry.server} as a hypervisor"
    if role_of(declared, entry) != "hypervisor" or declared.spec.metal.retired:
        _vacate(p, entry, declared)
    elif entry.state == "deploying":
        _deploying(p, entry, host, name, system(p, entry.server) == "hypervisor")
    elif declared.spec.metal.rescue:
        metal_rescue.of_host(p, entry)


def _vacate(p: Planning, entry: MetalEntry, declared: Server) -> None:
    """It is given back once nothing of anybody is on it; `maintain` has its machines leave."""
    left = p.index.by_server.get(entry.server, {})
    if left:
        wait(p, entry, still_there(len(left)))
    elif kept := p.index.retained_on(entry.server):
        named = ", ".join(sorted(d.name for d in kept))
        wait(p, entry, f"it holds retained disks ({named}); delete them, or copy them away and then delete them")
    elif p.busy(entry.key):
        p.wait(entry.key, Waiting.STEP, "a step on it is still running")
    else:
        _give_back(p, entry, declared, "it is no hypervisor any more")


# --- giving back --------------------------------------------------------------------------------------------------


def _give_back(p: Planning, entry: MetalEntry, declared: Server, why: str) -> None:
    """It is nobody's any more, once its disks are erased where its user wants that."""
    if declared.spec.metal.erase or declared.spec.metal.retired:
        then = "retired" if declared.spec.metal.retired else "available"
        into(p, entry, "erasing", why, then=then, written=False, host=None, before=None)
    else:
        into(p, entry, "available", why, boot=False, written=False, host=None, before=None)


def _release(p: Planning, entry: MetalEntry, declared: Server, m: MachineEntry | None) -> None:
    """Its machine goes: it is ended first, so that none of its pods runs on when its Node is deleted (rule 1). What
    nobody released stays on its disks (rules 3 and 9)."""
    if p.busy(entry.key) or (m is not None and p.busy(m.key)):
        p.wait(entry.key, Waiting.METAL, f"{entry.server} is given back once no step on its machine runs any more")
    elif m is not None and m.retain_disk:
        quarantine(p, entry, f"it holds the disk of {m.name}, which was given up ({m.reason})", before=None)
    else:
        _give_back(p, entry, declared, "its machine has left")


def has_left(p: Planning, m: MachineEntry) -> bool:
    """Nothing of the machine is left in its cluster, or there is no cluster any more."""
    cluster = p.index.entries.get(key("cluster", m.cluster))
    if cluster is None or getattr(cluster, "desired", "absent") == "absent" or not m.joined:
        return True
    node = p.inventory.node(m.cluster, m.name)
    if node is None:
        return f"cluster/{m.cluster}" in p.inventory.synced
    return not node.value.present or node.value.machine not in {"", m.uid}


def _erasing(p: Planning, entry: MetalEntry) -> None:
    view = ram(p, entry)
    if view is None:
        return
    if view.erased is None:
        if not failed(p, entry, view, "EraseDisks"):
            wait(p, entry, "its disks are erased")
    elif machine(p, entry) is not None:
        wait(p, entry, "its machine's entry is to go")
    elif view.erased.proven:
        into(
            p, entry, entry.then, "every disk was read back blank", boot=False, erased=view.erased,
            machine=MachineUid(""), root_disk="", left=None, held=False,
        )  # fmt: skip
    else:
        bad = ", ".join(d.serial or d.model for d in view.erased.disks if not d.erased) or "no disk was found"
        quarantine(p, entry, f"not proven to be blank: {bad}", erased=view.erased)


def keep_address(p: Planning, m: MachineEntry) -> None:
    """The machine is gone and still lies on its server's disks."""
    entry = p.index.metal(m.server)
    if entry is not None and entry.machine == m.uid:
        left = msgspec.structs.replace(entry, left=m)
        p.put(left, f"{m.nic.address} is kept for what lies on the disks of {m.server}")
        p.round_changed.add(entry.key)


def ended(p: Planning, m: MachineEntry) -> bool:
    """The machine's end on its bare server is confirmed."""
    return left_bare(p.inventory, p.index.metal(m.server), m, usable=p.usable(m.server))
