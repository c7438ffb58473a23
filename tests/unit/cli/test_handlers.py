"""What the controller tells of itself to probes and to Prometheus."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bedplate.cli.handlers import Handlers
from bedplate.engine import messages as msg
from bedplate.engine.engine import Engine
from bedplate.model.blueprint import Blueprint
from bedplate.model.ids import Epoch, StoreId
from bedplate.model.policy import Policy
from bedplate.model.spec import Spec


def told(engine: Engine) -> tuple[str | None, float]:
    nobody: Any = SimpleNamespace(connected=list, engine=engine, halted=None)
    handlers = Handlers(nobody, nobody, nobody, nobody, nobody, seed=1)
    [acts] = [g.samples[()] for g in handlers.gauges() if g.name == "bedplate_controller_acts"]
    return handlers.ready(), acts


def test_a_controller_that_only_observes_is_not_ready_and_does_not_act() -> None:
    engine = Engine(Policy(), 1, lambda _inp, _result: ())
    started = msg.Started(store=StoreId("s"), epoch=Epoch(1), spec=Spec(), blueprint=Blueprint(), observe_only=True)
    engine.handle(started, 1.0)
    why, acts = told(engine)
    assert "bedplate accept" in (why or "")
    assert acts == 0
    engine.handle(msg.Accepted(), 2.0)
    assert told(engine) == (None, 1)
    engine.handle(msg.StoreFailed(message="the disk is full"), 3.0)
    why, acts = told(engine)
    assert "the disk is full" in (why or "")
    assert acts == 0
