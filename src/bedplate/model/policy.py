"""Bounds and times that an operator may set; each default justifies itself."""

from __future__ import annotations

import msgspec

ALLOW_MANY = "bedplate.dev/allow-many"
"""Annotation of a Cluster. `true`: a person has confirmed that more than 30 % of it may be acted on (rule 6)."""


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
    backoff_first: float = 2.0
    backoff_limit: float = 300.0
    step_attempts_limit: int = 8
    """Tries of a machine's step before the machine is replaced, where rule 9 allows."""
    silence: float = 15.0
    """Without a word from an agent for so long, its server counts as not connected."""
    tick: float = 0.05
    """News is gathered this long before planning, so that a busy fleet does not make a blueprint per event."""
