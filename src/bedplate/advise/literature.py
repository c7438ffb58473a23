"""Published figures that stand in where the user has none: each with its source. A user's own figure always wins.

Ranges are kept as ranges. A vendor's figure is marked (vendor), a bound from an unfavourable set-up (pessimistic).
"""

from __future__ import annotations

import msgspec

from bedplate.advise.amounts import (
    Amount,
    Carbon,
    CarbonPerKwh,
    Count,
    Factor,
    MoneyPerCoreYear,
    Rate,
    Share,
    Watts,
    Years,
)


class Published(msgspec.Struct, frozen=True):
    """A figure and who published it."""

    amount: Amount
    origin: str
    remark: str = ""


CPU_OVERHEAD = Published(
    Share(0.03, 0.05, 0.09),
    "openstack-in-production, August 2015",
    "KVM: about 5 % tuned, 9 % without guest NUMA; pinning gives 3 % of it back",
)
PODS_ON_ESXI = Published(
    Rate(0.0, 0.04, 0.08), "blogs.vmware.com/performance, October 2019", "(vendor) pods on ESXi against metal"
)
GPU_SHARE = Published(
    Factor(0.944, 0.98, 1.05), "blogs.vmware.com/performance, October 2021", "(vendor) inference, vGPU against metal"
)
CPU_PESSIMISTIC = Published(
    Factor(2.19, 2.19, 2.19), "thenewstack.io, 24 November 2023 (Gcore)", "(pessimistic: the VM shared its host)"
)
PGBENCH_PESSIMISTIC = Published(
    Factor(1.91, 2.25, 2.59),
    "thenewstack.io, 24 November 2023 (Gcore)",
    "(pessimistic) transactions on metal against a VM: 14,087/7,359 with 8 GB, 12,029/4,636 with 75 GB",
)
RAM_WRITE_PESSIMISTIC = Published(
    Factor(2.81, 2.81, 2.81),
    "thenewstack.io, 24 November 2023 (Gcore)",
    "(pessimistic: the VM shared its host) RAM write: 174.5 against 62.0 ms",
)
THROUGHPUT_PESSIMISTIC = Published(
    Factor(4.77, 4.77, 4.77),
    "thenewstack.io, 24 November 2023 (Gcore)",
    "(pessimistic) netperf, small messages: 31 against 6.5 MB/s",
)
LATENCY_PESSIMISTIC = Published(
    Factor(5.9, 5.9, 5.9),
    "thenewstack.io, 24 November 2023 (Gcore)",
    "(pessimistic) netperf latency: 145 against 24.5 microseconds",
)
DISK_QUEUE = Published(
    Factor(2.06, 2.06, 2.06),
    "QEMU commit bdd6a90a",
    "4k random reads at queue depth 1: 10.5k by aio, 21.6k by a userspace NVMe driver",
)
VM_MEMORY_SHARE, VM_MEMORY_FIXED_MIB, VM_MEMORY_PER_VCPU_MIB = 0.002, 218, 8
VM_MEMORY_ORIGIN = "openshift-docs#98819"
VM_CREATE = Published(
    Amount(23.0, 24.0, 60.0), "R. Aboukhalil, 2018", "create to SSH: 23-25 s up to 32 vCPUs, < 60 s up to 96"
)
METAL_DEPLOY = Published(
    Amount(600.0, 720.0, 1800.0), "Chameleon; terraform-provider-maas#175", "deploy: 10-30 min; MAAS ~12"
)
NODE_REBOOT = Published(
    Amount(900.0, 1050.0, 1200.0), "openshift-docs, update duration", "metal takes over 15 min to be back"
)
FAILURE_BASE, FAILURE_PER_DIMM, FAILURE_PER_SSD = 0.024, 0.001, 0.002
FAILURE_ORIGIN = "AzurePublicDataset GreenSKU afr_data.yaml (Hyrax, OSDI'23)"
REPAIR_MU, REPAIR_SIGMA = 0.05, 1.42
"""Of the logarithm of hours."""
REPAIR_ORIGIN = "LANL05 in OpenDC: LogN(0.05, 1.42) hours"
PATCHES = Published(Count(12.0, 12.0, 12.0), "kubernetes/website", "Kubernetes' patch releases come monthly")
IDLE = Published(Watts(160.0, 160.0, 160.0), "SPECpower in ccf-coefficients, March 2026", "two sockets")
FULL = Published(Watts(770.0, 770.0, 770.0), "SPECpower in ccf-coefficients, March 2026", "two sockets")
LOAD_CURVE: tuple[tuple[float, float], ...] = ((0.1, 0.20), (0.5, 0.53), (1.0, 0.95))
"""Power against load, as a share of TDP."""
LOAD_CURVE_ORIGIN = "GreenSKU CPU.yaml"
PUE = Published(Factor(1.58, 1.58, 1.58), "Uptime Institute 2023, via upsite.com")
GRID = Published(CarbonPerKwh(0.35, 0.35, 0.35), "GreenSKU params.yaml")
LIFE = Published(Years(6.0, 6.0, 6.0), "GreenSKU params.yaml: 72 months")
CARBON_DIMM_GB = Published(Carbon(1.65, 1.65, 1.65), "GreenSKU", "DDR5, for each GB")
CARBON_SSD_TB = Published(Carbon(17.3, 17.3, 17.3), "GreenSKU", "for each TB")
CARBON_NIC = Published(Carbon(58.0, 58.0, 58.0), "GreenSKU")
CARBON_CHASSIS = Published(Carbon(350.0, 350.0, 350.0), "GreenSKU")
SUITES: dict[str, Published] = {
    "VCF": Published(MoneyPerCoreYear(350, 350, 350, "USD"), "redresscompliance.com, 2026", "list price"),
    "VVF": Published(MoneyPerCoreYear(135, 135, 135, "USD"), "redresscompliance.com, 2026", "list price"),
}
LICENCE_CORES_PER_CPU, LICENCE_CORES_LEAST = 16, 72
"""A suite's licence counts 16 cores for each CPU at least, and 72 in all."""
NODE_DECLARED_LOST = Published(
    Amount(40.0, 45.0, 50.0), "kubernetes/website nodes.md", "seconds of silence until NotReady"
)
PODS_EVICTED = Published(Amount(300.0, 300.0, 300.0), "kubernetes/website nodes.md", "the default toleration")
FORCE_DETACH = Published(
    Amount(360.0, 360.0, 360.0), "kubernetes/website nodes.md", "until a volume is detached by force"
)
VSPHERE_HA = Published(
    Amount(25.0, 29.0, 33.0), "yellow-bricks.com; Broadcom docs", "15-18 s to declare, 10-15 s to place"
)
