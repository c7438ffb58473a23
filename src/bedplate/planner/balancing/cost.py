"""What a live migration costs: how long it takes and how much work it takes away meanwhile.

Pre-copy sends all memory once, then again and again what was written to meanwhile (Clark et al., "Live migration of
virtual machines", NSDI 2005). With memory M, bandwidth B and dirty rate D each round is D/B of the one before, so the
rounds add up to M / (B - D) at most (Akoush et al., "Predicting the performance of virtual machine migration", MASCOTS
2010); they end when what is left can be sent in the downtime that is allowed.
"""

from __future__ import annotations

import math

import msgspec

DOWNTIME = 0.5
"""Seconds for the last round; Nova's default (`live_migration_downtime`), libvirt takes 0.3."""
SET_UP = 2.0
"""Seconds that a migration takes apart from copying; 2.0 s were seen for an idle guest."""
CONVERGES = 0.9
"""Dirty rate, as a share of the bandwidth, above which pre-copy is not begun: each round would be nearly as long as the
one before."""
COPYING_CORES = 2.0
"""One thread that sends, one that receives."""
SLOWED = 0.2
"""Share of its work that a guest loses while its memory is tracked and copied. Clark et al. saw 12 to 20 % less
throughput of a busy web server."""
FAILURES = 0.01
"""Share of migrations after which the guest must be started again. No published figure was found; a cautious one."""
RESTART = 60.0
"""Seconds that such a guest is away (23-25 s to SSH for a VM: R. Aboukhalil, 2018; twice that with its services)."""


class MigrationCost(msgspec.Struct, frozen=True):
    """Of one live migration."""

    seconds: float
    core_seconds: float


def converges(dirty_mib_s: float, bandwidth_mib_s: float) -> bool:
    """True where pre-copy comes to an end."""
    return dirty_mib_s < CONVERGES * bandwidth_mib_s


def copy_seconds(memory_mib: float, dirty_mib_s: float, bandwidth_mib_s: float) -> float:
    """Seconds of copying, the last round included; infinity where it does not converge. Rates in MiB/s."""
    if not converges(dirty_mib_s, bandwidth_mib_s):
        return math.inf
    share = dirty_mib_s / bandwidth_mib_s
    first = memory_mib / bandwidth_mib_s
    if share <= 0.0 or first <= DOWNTIME:
        return first
    rounds = max(1, math.ceil(math.log(DOWNTIME / first) / math.log(share)))
    return first * (1.0 - share ** (rounds + 1)) / (1.0 - share)


def migration(memory_mib: float, cores: float, dirty_mib_s: float, bandwidth_mib_s: float) -> MigrationCost:
    """What moving a machine costs that uses so many cores."""
    copying = copy_seconds(memory_mib, dirty_mib_s, bandwidth_mib_s)
    work = copying * (COPYING_CORES + SLOWED * cores)
    away = (DOWNTIME + FAILURES * RESTART) * max(cores, 1.0)
    return MigrationCost(copying + SET_UP, work + away)
