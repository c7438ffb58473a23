"""Bounds and times that an operator may set; each default justifies itself."""

from __future__ import annotations

from typing import Literal

import msgspec

ALLOW_MANY = "bedplate.dev/allow-many"
"""Annotation of a Cluster. `true`: a person has confirmed that more than 30 % of it may be acted on (rule 6)."""


PAUSED = "bedplate.dev/paused"
"""Annotation of a Cluster, a VirtualMachine or a Server, with the reason: it is left as it is until this is gone."""

REQUESTS = {kind: f"bedplate.dev/{kind}" for kind in ("inspect", "test", "erase")}
"""Annotations of a Server by which a person asks for something once; each value, such as a time, is one request."""
SUITE = "bedplate.dev/test-suite"
"""Annotation of a Server: which suite `test` runs, `quick` or `burn-in`."""

PLANNED = (ALLOW_MANY, PAUSED, SUITE, *REQUESTS.values())
"""Annotations that planning reads: a change of any is news."""


class PeerBound(msgspec.Struct, frozen=True, kw_only=True):
    """From when on a test of a bare server counts as degraded beside those of its peers."""

    test: Literal["cpu", "memory", "disk", "network"]
    share: float
    """Of the peers' median. Below 1: more is better, and less than this share is degraded. Above 1: less is better, and
    more than this multiple is."""
    reason: str


PEER_BOUNDS = (
    PeerBound(
        test="cpu",
        share=0.8,
        reason="all threads work at once, so chance evens out; a fifth is lost to throttling, a power profile, threads "
        "that are switched off",
    ),
    PeerBound(
        test="memory",
        share=0.7,
        reason="one thread copies, which its neighbours in the cache disturb; a module that runs at a lower speed or a "
        "channel that is missing costs more than that",
    ),
    PeerBound(
        test="disk",
        share=0.7,
        reason="disks of one model differ by wear and place; half the lanes, or a link of the generation before, halve",
    ),
    PeerBound(
        test="network",
        share=3.0,
        reason="the middle of ten connects varies with whatever else the controller does; a packet lost or a detour is "
        "many times that",
    ),
)
"""Assumed from what breaks, not measured on a fleet: to be set where one's own varies more."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds."""

    settle: float = 1.0
    """Before a step that ended well is begun again because its effect is not seen: watchers need a moment."""
    boot_timeout: float = 300.0
    """Start to guest agent. 16-33 s were seen under software emulation on an idle machine, a loaded one takes several
    times that; metal takes over 15 min but has its own limit."""
    bootstrap_timeout: float = 900.0
    """kubeadm init or join; 106 s seen under software emulation."""
    node_timeout: float = 300.0
    """From a finished join to Ready."""
    image_kept: float = 3600.0
    """Seconds that an image's files stay in a disk pool once nothing needs them: who deletes an Image to declare it
    anew within the hour does not want gigabytes sent to every server again."""
    metal_boot_timeout: float = 1800.0
    """From a bare server's power-on to the agent in its RAM system or on its disk: firmware that trains much memory and
    tests its cards takes over 15 min."""
    metal_lost: float = 120.0
    """Seconds that a RAM system which reported may be silent before it is booted anew: an agent is back in two, its
    switch after an update in sixty."""
    metal_tries: int = 3
    """Boots of a bare server that lead to nothing before it is quarantined."""
    peer_bounds: tuple[PeerBound, ...] = PEER_BOUNDS
    """From when on a bare server's tests count as degraded; kinds without a bound are not compared."""
    peers_least: int = 3
    """Comparable values without which none is: of two, nobody can tell which is the odd one."""
    metal_give_up: float = 3600.0
    """Seconds in which a bare server can't be booted, whatever is tried, before it is quarantined: a BMC is back from
    an update or a reset within minutes, and nobody else is harmed by waiting."""
    boot_limit: int = 3
    """Starts of a domain that died, within `boot_window`, before it is replaced."""
    boot_window: float = 3600.0
    replace_at_once: int = 2
    """Machines being replaced after failures at any time per cluster: never more than a few at once."""
    joins_at_once: int = 10
    """Workers that join one cluster at a time: each costs its API server and etcd some seconds of work. On emulated
    guests two at once made an API server miss its own deadlines."""
    steps_per_server: int = 4
    """Steps in flight on one server: libvirt serialises the rest anyway."""
    steps_per_kind: int = 64
    steps_in_ram: int = 512
    """Of one kind, in RAM systems of bare servers: each is its server's own work; what writing images shares is the
    controller's link, which fewer at a time do not fill (a disk of 500 MB/s takes 5 % of 100 Gbit/s)."""
    backoff_first: float = 2.0
    backoff_limit: float = 300.0
    step_attempts_limit: int = 8
    """Tries of a machine's step before the machine is replaced, where rule 9 allows."""
    silence: float = 15.0
    """Without a word from an agent for so long, its server counts as not connected."""
    tick: float = 0.05
    """News is gathered this long before planning, so that a busy fleet does not make a blueprint per event."""
    suspect_after: float = 4.0
    """Seconds without an agent's connection before its server is suspect: an agent that is restarted is back in two,
    a connection that is cut and heals in three. Its power is read from then on, so that even a BMC that takes 5 s for
    an answer has given one when the lease expires."""
    power_fresh: float = 5.0
    """Seconds for which a suspect server's power state, once read, is believed."""
    unconfirmed_replace: float = 300.0
    """Seconds after which nodes on a server whose end nobody can confirm are replaced under new identities; Kubernetes
    itself gives pods up after as long (default toleration of `node.kubernetes.io/unreachable`)."""
    restart_expected: float = 60.0
    """Seconds from a confirmed end until a restarted machine's node is Ready again (23-25 s to SSH for a VM: R.
    Aboukhalil, 2018; twice that with its kubelet)."""
    pods_expected: float = 30.0
    """Seconds in which freed pods are back elsewhere. Where `restart_expected` is longer, they are freed at once."""
    recover_at_once: int = 32
    """Machines restarted elsewhere at a time over the fleet, so that survivors and storage are not drowned (vSphere HA
    restarts in batches of 32: yellow-bricks.com)."""
    recover_per_server: int = 4
    """Of those, on one surviving server."""
    moves_per_server: int = 2
    """Live migrations at once from or to one server: each fills a link (libvirt suites default to 2)."""
    isolated_after: float = 60.0
    """Seconds after which a server is fenced that still renews its leases while neither its agent nor any of its nodes
    is heard of: its guests run, but nobody reaches them. Longer than Kubernetes' 40-50 s until a node is NotReady."""
    api_silence: float = 300.0
    """Seconds for which what a cluster's API said of its nodes is believed after it fell silent, when it is weighed
    whether a server is to be fenced: an API server that restarts is back in one minute or two, and to cut the power of
    guests that run would cost more than waiting."""
    not_ready_limit: float = 600.0
    """Seconds that a node may be NotReady on a well server before its machine is restarted, then replaced: twice what
    Kubernetes waits before it gives the node's pods up."""
    kubelet_limit: float = 120.0
    """Seconds that a node may be NotReady, though its guest answers, before its kubelet is restarted: its pods run on,
    and its machine's restart may never be needed. A kubelet that comes back by itself has done so by then (it reports
    every 10 s, and systemd restarts one that ended within 10 s)."""
    move_window: float = 600.0
    """Seconds in which no machine is moved a second time by balancing: no ping-pong."""
    after_limit: float = 300.0
    """Seconds that a machine waits for those it is to start after, from its server's death on: what hangs must not hold
    up the rest for ever."""
