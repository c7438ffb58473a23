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
GPU_SHARE = Published(
    Factor(0.944, 0.98, 1.05), "blogs.vmware.com/performance, October 2021", "(vendor) inference, vGPU against metal"
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
"""What a VM takes beside its own memory (openshift-docs#98819)."""
FAILURE_BASE, FAILURE_PER_DIMM, FAILURE_PER_SSD = 0.024, 0.001, 0.002
"""Of a server in a year (AzurePublicDataset GreenSKU `afr_data.yaml`; Hyrax, OSDI'23)."""
REPAIR_MU, REPAIR_SIGMA = 0.05, 1.42
"""Of the logarithm of hours (LANL05 in OpenDC)."""
PATCHES = Published(Count(12.0, 12.0, 12.0), "kubernetes/website", "Kubernetes' patch releases come monthly")
IDLE = Published(Watts(160.0, 160.0, 160.0), "SPECpower in ccf-coefficients, March 2026", "two sockets")
FULL = Published(Watts(770.0, 770.0, 770.0), "SPECpower in ccf-coefficients, March 2026", "two sockets")
PUE = Published(Factor(1.58, 1.58, 1.58), "Uptime Institute 2023, via upsite.com")
GRID = Published(CarbonPerKwh(0.35, 0.35, 0.35), "GreenSKU params.yaml")
LIFE = Published(Years(6.0, 6.0, 6.0), "GreenSKU params.yaml: 72 months")
CARBON_DIMM_GB = Published(Carbon(1.65, 1.65, 1.65), "GreenSKU", "DDR5, for each GB")
CARBON_SSD_TB = Published(Carbon(17.3, 17.3, 17.3), "GreenSKU", "for each TB")
CARBON_NIC = Published(Carbon(58.0, 58.0, 58.0), "GreenSKU")
CARBON_CHASSIS = Published(Carbon(350.0, 350.0, 350.0), "GreenSKU")
LICENCE_CORES_PER_CPU, LICENCE_CORES_LEAST = 16, 72
"""A suite's licence counts 16 cores for each CPU at least, and 72 in all."""
NODE_DECLARED_LOST = Published(
    Amount(40.0, 45.0, 50.0), "kubernetes/website nodes.md", "seconds of silence until NotReady"
)
PODS_EVICTED = Published(Amount(300.0, 300.0, 300.0), "kubernetes/website nodes.md", "the default toleration")
FORCE_DETACH = Published(
    Amount(360.0, 360.0, 360.0), "kubernetes/website nodes.md", "until a volume is detached by force"
)
