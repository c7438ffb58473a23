"""Runs as a simulation would sum them up, told in no time: metal's pods feel each patch, VMs' feel little."""

from __future__ import annotations

from collections.abc import Mapping

from bedplate.advise.deciding import Plan
from bedplate.advise.fleet import Profile
from bedplate.advise.years import Blast, Downtime, Patched, Run, Struck

SILENT = {"vm": 6.0, "metal": 250.0, "mix": 18.0}
"""Seconds of a replica in a year."""
ADDED = {"vm": 140.0, "metal": 1800.0}


def told(profile: Profile, plans: Mapping[str, Plan], *, seeds: int = 3) -> dict[str, list[Run]]:
    """Of each alternative."""
    return {a: [_run(profile, a, seed) for seed in range(1, seeds + 1)] for a in plans}


def _run(profile: Profile, alternative: str, seed: int) -> Run:
    silent = SILENT[alternative] * (1 + seed / 20)
    downtimes = tuple(
        Downtime(
            cluster=c.name,
            workload=w.name,
            replicas=w.replicas,
            silent=silent * w.replicas,
            outage=0.0,
            interruptions=w.replicas * (1 if alternative == "vm" else 12),
        )
        for c, w in profile.workloads()
    )
    struck = Struck(at=1e6, server="s1", bare=False, clusters=2, share=0.2, pods=5, recovered=50.0 + seed)
    patched = Patched(
        server="s1", bare=False, seconds=900.0, interrupted=2 if alternative == "vm" else 60, by_force=False
    )
    return Run(
        seed=seed,
        years=1.0,
        downtimes=downtimes,
        struck=(struck,),
        patched=(patched,),
        blast=Blast(clusters=1.5, share=0.2, worst=0.5, pods=6.0, together=2),
        added={s: t + seed for s, t in ADDED.items() if alternative in (s, "mix")},
    )
