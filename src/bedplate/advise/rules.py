"""The hard rules: where a workload must run, whatever it costs, and why. Pure."""

from __future__ import annotations

import msgspec

from bedplate.advise.fleet import ClusterProfile, Substrate, Workload

DEVICES: dict[str, str] = {
    "gpu": "passed through, it ties the VM to its server; shared as vGPU it needs a licence",
    "sriov": "passed through, it ties the VM to its server",
    "rdma": "passed through, it ties the VM to its server",
    "nvme": "passed through, it ties the VM to its server",
    "fpga": "passed through, it ties the VM to its server",
    "usb": "it stays in one server",
}
"""Special devices, and what keeps each from being virtualised well: passed through, they, and RDMA, cannot move live
(harvesterhci.io)."""


class Ruling(msgspec.Struct, frozen=True):
    """Where a workload must run."""

    substrate: Substrate
    reason: str
    rule: str
    """`device`, `kernel`, `tenant`, `yours`."""


def ruling(cluster: ClusterProfile, w: Workload) -> Ruling | None:
    """What a hard rule says of a workload; None: it may run on either.

    Devices come first, then the kernel, then tenants, then the user's own word (claims M2, M4, C4 of the debate).
    """
    if w.devices:
        known = DEVICES.get(w.devices[0], "Bedplate passes no device through to a VM")
        return Ruling("metal", f"it needs {', '.join(w.devices)}: {known}", "device")
    if w.kernel == "real-time":
        return Ruling("metal", "it needs a real-time kernel, whose promises a hypervisor's scheduler breaks", "kernel")
    if w.kernel == "own" and len(cluster.tenants) > 1:
        others = len(cluster.tenants)
        return Ruling("vm", f"it needs a kernel of its own, and {others} tenants share the cluster", "tenant")
    if w.substrate != "auto":
        return Ruling(w.substrate, "the file says so", "yours")
    return None
