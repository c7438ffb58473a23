"""What `why` says of a controller that does not act and of a server whose agent is away."""

from __future__ import annotations

from typing import Any

from bedplate.engine import messages as msg
from bedplate.engine.explain import why
from bedplate.model.inventory import ServerView
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.meta import ObjectMeta
from bedplate.model.spec import Spec

Loop = Any
HV1 = Server(metadata=ObjectMeta(name="hv1"))


def started(loop: Loop, **more: Any) -> None:
    loop.start(spec=Spec(servers={"server/hv1": HV1}), **more)  # type: ignore[dict-item]


def told(loop: Loop) -> list[str]:
    found = why(loop.engine, "Server", "", "hv1")
    assert found is not None
    return found["sentences"]


def test_of_a_server_it_says_whether_its_agent_is_there_and_since_when_not(loop: Loop) -> None:
    started(loop)
    [never] = told(loop)
    assert "has not connected since this controller started" in never
    assert "bedplate server enrol hv1" in never
    loop.connect()
    assert told(loop) == ["is as declared"]
    loop.see("agent/hv1", ServerView(server="hv1", connected=False, error="its agent is not connected"))  # type: ignore[arg-type]
    [away] = told(loop)
    assert away.startswith("its agent is not connected since 1970-01-01T00:16:40Z")
    loop.see("agent/hv1", ServerView(server="hv1", connected=False, error="it comes back with another identity"))  # type: ignore[arg-type]
    assert told(loop) == ["its agent may not connect: it comes back with another identity"]


def test_a_restored_controller_says_that_it_only_observes_until_it_is_accepted(loop: Loop) -> None:
    loop.want(loop.vm(1))
    started(loop, observe_only=True)
    loop.connect()
    assert loop.begun() == []
    assert "bedplate accept" in loop.engine.idle
    assert told(loop)[0] == loop.engine.idle
    loop.send(msg.Accepted())
    assert loop.engine.idle is None
    assert loop.begun() == ["CreateVolume machine/u1"]


def test_a_controller_whose_store_failed_or_that_lost_its_lead_says_so(loop: Loop) -> None:
    assert loop.engine.idle is not None
    started(loop)
    loop.connect()
    assert loop.engine.idle is None
    loop.send(msg.StoreFailed(message="the disk is full"))
    assert "the disk is full" in loop.engine.idle
    loop.send(msg.StoreHealed())
    assert loop.engine.idle is None
    loop.send(msg.CommitLost(message="another controller has taken over"))
    assert "another controller has taken over" in loop.engine.idle
