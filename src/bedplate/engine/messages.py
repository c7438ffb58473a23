"""What goes into the engine and what comes out. The runner and the simulator speak just this.

Effects follow acknowledgement: a step runs only after `Journalled`, a blueprint counts only after `Committed`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bedplate.model.attempts import AttemptsByTarget
from bedplate.model.blueprint import Blueprint, BmcRef, Delta
from bedplate.model.ids import ClusterKey, Epoch, Key, OperationId, Revision, ServerName, StoreId
from bedplate.model.inventory import AnyView, Observation
from bedplate.model.journal import OperationRecord
from bedplate.model.kinds.base import Object
from bedplate.model.spec import Spec
from bedplate.model.steps import Step, StepResult, Ticket
from bedplate.ports import ClusterAccess

# --- events ---------------------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The controller leads from now on; this is what its store holds."""

    store: StoreId
    epoch: Epoch
    spec: Spec
    blueprint: Blueprint
    open_operations: tuple[OperationRecord, ...] = ()
    """Begun and not known to have ended when the last controller stopped."""
    attempts: AttemptsByTarget = {}
    published: Mapping[Key, Object] = {}
    """Derived objects that the store shows now."""
    observe_only: bool = False
    """A restored store: look, change nothing, until a person accepts."""


class SpecChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Declared objects that changed; None: gone."""

    changes: Mapping[Key, Object | None]


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """A collector's changes; `full`: all that the source knows."""

    source: str
    observations: tuple[Observation[AnyView], ...]
    full: bool = False


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """The store took the last `Commit`."""

    number: Revision


class CommitLost(msgspec.Struct, frozen=True, kw_only=True):
    """Another controller committed first or the epoch is over: this engine stops deciding."""

    message: str


class Journalled(msgspec.Struct, frozen=True, kw_only=True):
    """The journal holds this operation now."""

    operation: OperationId


class StepEnded(msgspec.Struct, frozen=True, kw_only=True):
    """A driver's answer."""

    operation: OperationId
    result: StepResult


class Ticked(msgspec.Struct, frozen=True, kw_only=True):
    """The time asked for by `SetTimer` has come."""


class StoreFailed(msgspec.Struct, frozen=True, kw_only=True):
    """The store can't be written: stop acting until `StoreHealed`."""

    message: str


class StoreHealed(msgspec.Struct, frozen=True, kw_only=True):
    """The store can be written again."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A person accepted what a restored store differs in from the world."""


Event = (
    Started
    | SpecChanged
    | Observed
    | Committed
    | CommitLost
    | Journalled
    | StepEnded
    | Ticked
    | StoreFailed
    | StoreHealed
    | Accepted
)

# --- commands -------------------------------------------------------------------------------------------------


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """Compare-and-set the blueprint; answer with `Committed` or `CommitLost`."""

    delta: Delta
    epoch: Epoch


class Begin(msgspec.Struct, frozen=True, kw_only=True):
    """Write the operation into the journal; answer with `Journalled`."""

    operation: OperationRecord


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Hand the step to its driver; answer with `StepEnded`."""

    step: Step
    ticket: Ticket


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """Write into the journal how the operation ended. No answer: losing it only costs an observation."""

    operation: OperationId
    finished: float
    result: StepResult


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """Write the status of a declared object, or a derived object whole."""

    key: Key
    object: Object


class Unpublish(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a derived object."""

    key: Key
    kind: str


class Finalise(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of the object is left in the world: take its finalizer off, so that the store forgets it."""

    key: Key
    kind: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Tell users of something that happened: an Event object."""

    about: Key
    kind: str
    type: str
    """`Normal` or `Warning`."""
    reason: str
    message: str
    at: float = 0.0
    """When it happened, where that is known better than by when it is written; seconds since the epoch."""


class Follow(msgspec.Struct, frozen=True, kw_only=True):
    """Watch exactly these clusters from now on."""

    clusters: Mapping[ClusterKey, ClusterAccess]


class FollowBmcs(msgspec.Struct, frozen=True, kw_only=True):
    """Watch exactly these servers' BMCs from now on."""

    servers: Mapping[ServerName, BmcRef]


class SetTimer(msgspec.Struct, frozen=True, kw_only=True):
    """Send `Ticked` at this time (seconds since the epoch), or earlier; replaces the last one."""

    at: float


class Halt(msgspec.Struct, frozen=True, kw_only=True):
    """Leadership is lost or a rule would be broken: start nothing more."""

    message: str


Command = (
    Commit | Begin | Run | Finish | Publish | Unpublish | Finalise | Record | Follow | FollowBmcs | SetTimer | Halt
)
