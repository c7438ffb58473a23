"""What is worth telling of a machine on its way to a Ready node: the moments that no step's end tells. Pure.

They are told as events, each with the time when it happened, and timelines are made of them. What is only seen again,
as after a restart of the controller, is not told again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bedplate.model.attempts import Attempt
from bedplate.model.blueprint import Blueprint
from bedplate.model.ids import Key, key
from bedplate.model.inventory import AnyView, DomainView, NodeView, Observation

GUEST_ANSWERS = "GuestAnswers"
NETWORK_UP = "NetworkUp"
KUBEADM_BEGAN = "KubeadmBegan"
KUBEADM_ENDED = "KubeadmEnded"
NODE_JOINED = "NodeJoined"
NODE_READY = "NodeReady"
READY = "Ready"
"""Of a cluster or pool: told where its status is made."""


class Milestone(NamedTuple):
    """Something that happened to a machine."""

    about: Key
    reason: str
    message: str
    at: float
    """Seconds since the epoch."""


def milestones(
    old: AnyView | None, new: Observation[AnyView], blueprint: Blueprint, history: Callable[[Key, str], Attempt]
) -> Iterator[Milestone]:
    """What happened between the view that was known and the one that is told now.

    Args:
        old: None: nothing was known of it since the controller started.
        history: Gives the attempts at a step by its target and name.
    """
    match new.value:
        case DomainView() if isinstance(old, DomainView):
            yield from _in_guest(old, new.value, new.time, history)
        case NodeView():
            yield from _in_cluster(old if isinstance(old, NodeView) else None, new.value, new.time, blueprint)
        case _:
            pass


def _in_guest(
    old: DomainView, new: DomainView, now: float, history: Callable[[Key, str], Attempt]
) -> Iterator[Milestone]:
    about = key("machine", new.uid)
    if new.guest_agent and not old.guest_agent:
        yield Milestone(about, GUEST_ANSWERS, f"its guest answers (boot {new.boot})", now)
    if new.bootstrap in {"done", "failed"} and new.bootstrap != old.bootstrap:
        number = history(about, "Bootstrap").count + 1
        if new.bootstrap_up:
            yield Milestone(about, NETWORK_UP, f"its network was up (try {number})", new.bootstrap_up)
        if new.bootstrap_began:
            yield Milestone(about, KUBEADM_BEGAN, f"kubeadm began in it (try {number})", new.bootstrap_began)
        how = "ended well" if new.bootstrap == "done" else "failed"
        yield Milestone(about, KUBEADM_ENDED, f"kubeadm {how} in it (try {number})", new.bootstrap_ended or now)


def _in_cluster(old: NodeView | None, new: NodeView, now: float, blueprint: Blueprint) -> Iterator[Milestone]:
    entry = blueprint.machine(new.machine) if new.machine and new.present else None
    if entry is None:
        return
    was = old if old is not None and old.present and old.machine == new.machine else None
    if was is None and entry.joined:
        return
    if was is None:
        yield Milestone(entry.key, NODE_JOINED, "its node has joined the cluster", now)
    if new.ready and not (was is not None and was.ready):
        yield Milestone(entry.key, NODE_READY, "its node is Ready", now)
