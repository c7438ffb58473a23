"""Refusals as Kubernetes' `Status`: a code, a reason for programs, a sentence for people, a cause for each field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bedplate.model.registry import KindInfo
from bedplate.model.validation.faults import Fault
from bedplate.store import errors as stored


class ApiError(Exception):
    """A request that is refused."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: dict[str, Any] | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details = details or {}
        self.retry_after = retry_after

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


def about(info: KindInfo, name: str = "") -> dict[str, Any]:
    """What a refusal is about."""
    return {k: v for k, v in (("name", name), ("group", info.group), ("kind", info.plural)) if v}


def label(info: KindInfo, name: str) -> str:
    """`clusters.bedplate.dev "shop"`, as Kubernetes names things in its refusals."""
    resource = f"{info.plural}.{info.group}" if info.group else info.plural
    return f'{resource} "{name}"'


def bad_request(message: str) -> ApiError:
    """The request itself can't be understood."""
    return ApiError(400, "BadRequest", message)


def forbidden(info: KindInfo, name: str, why: str) -> ApiError:
    """Understood, and refused for a reason that the sentence gives."""
    return ApiError(403, "Forbidden", f"{label(info, name)} is forbidden: {why}", details=about(info, name))


def not_allowed(info: KindInfo, why: str) -> ApiError:
    """This kind has no such verb."""
    return ApiError(405, "MethodNotAllowed", why, details=about(info))


def not_found_path(path: str) -> ApiError:
    """Nothing is served there."""
    return ApiError(404, "NotFound", f"the server could not find the requested resource: {path}")


def expired(message: str) -> ApiError:
    """The history asked for is compacted."""
    return ApiError(410, "Expired", message)


def ending() -> ApiError:
    """The server is about to end, and another one may come up in its place."""
    message = "this server is ending; ask again in a moment"
    return ApiError(429, "TooManyRequests", message, details={"retryAfterSeconds": 1}, retry_after=1)


def causes(faults: Sequence[Fault]) -> list[dict[str, str]]:
    """Faults as a Status has them."""
    return [{"reason": f.reason, "message": f.message, "field": f.field} for f in faults]


def invalid(info: KindInfo, name: str, faults: Sequence[Fault]) -> ApiError:
    """A declared object with faults."""
    sentences = [f.sentence() for f in faults]
    text = sentences[0] if len(sentences) == 1 else f"[{', '.join(sentences)}]"
    head = f"{info.kind}.{info.group}" if info.group else info.kind
    details = {**about(info, name), "causes": causes(faults)}
    return ApiError(422, "Invalid", f'{head} "{name}" is invalid: {text}', details=details)


def invalid_batch(faults: Sequence[Fault]) -> ApiError:
    """A list of objects with faults; their fields begin with `items[N]`."""
    sentences = [f.sentence() for f in faults]
    message = sentences[0] if len(sentences) == 1 else f"{len(sentences)} faults: " + "; ".join(sentences)
    return ApiError(422, "Invalid", message, details={"causes": causes(faults)})


def from_store(error: stored.StoreError, info: KindInfo | None) -> ApiError:
    """The store's refusal in the API's words."""
    name: str = getattr(error, "name", "")
    details = about(info, name) if info is not None else {}
    match error:
        case stored.NotFound():
            message = f"{label(info, name)} not found" if info is not None else str(error)
            return ApiError(404, "NotFound", message, details=details)
        case stored.AlreadyExists():
            message = f"{label(info, name)} already exists" if info is not None else str(error)
            return ApiError(409, "AlreadyExists", message, details=details)
        case stored.Conflict():
            what = label(info, name) if info is not None else name
            return ApiError(409, "Conflict", f"Operation cannot be fulfilled on {what}: {error}", details=details)
        case stored.Compacted():
            return expired(str(error))
        case stored.StoreUnavailable():
            return ApiError(503, "ServiceUnavailable", str(error), details={"retryAfterSeconds": 5}, retry_after=5)
        case _:
            return ApiError(500, "InternalError", str(error))
