"""What all objects share: metadata and conditions, as Kubernetes has them."""

from __future__ import annotations

from typing import Literal

from bedplate.model.wire import Wire

GROUP = "bedplate.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

ConditionStatus = Literal["True", "False", "Unknown"]


class OwnerReference(Wire, frozen=True):
    """A link to the object that an object belongs to; the owner's deletion deletes it."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Wire, frozen=True):
    """Kubernetes' `metadata`. Times are RFC 3339 texts in UTC."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(Wire, frozen=True):
    """One truth about an object, for programs: `Ready=False, reason=NoRoom, message=...`."""

    type: str
    """What the truth is about, such as `Ready`."""
    status: ConditionStatus
    """Whether it holds."""
    reason: str
    """Why, in one word for programs."""
    message: str = ""
    """Why, in a sentence for people."""
    observed_generation: int = 0
    last_transition_time: str | None = None


def condition(conditions: tuple[Condition, ...], type_: str) -> Condition | None:
    """Give the condition of that type, or None."""
    return next((c for c in conditions if c.type == type_), None)
