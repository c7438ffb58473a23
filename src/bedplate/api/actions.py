"""What is asked beyond the verbs: apply as one, plan, accept, why, timeline, kubeconfig, enrol, power, measure. Thin.

The hooks do the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bedplate.api import errors, requests
from bedplate.api.declaring import apply
from bedplate.api.hooks import Hooks, Measuring, NotAvailable
from bedplate.api.objects import Objects, Options
from bedplate.api.requests import Target
from bedplate.api.resources import json_response
from bedplate.store import codec

_POWER_ACTIONS = ("on", "off", "cycle")


class Actions:
    """Handlers of the endpoints that are Bedplate's own."""

    def __init__(self, objects: Objects, hooks: Hooks) -> None:
        self._objects = objects
        self._hooks = hooks
        self._by_subresource: dict[str, Callable[[Request, Target], Awaitable[Response]]] = {
            "why": self._why,
            "timeline": self._timeline,
            "kubeconfig": self._kubeconfig,
            "enrol": self._enrol,
            "power": self._power,
            "carry-on": self._carry_on,
            "stop": self._stop,
        }

    def of(self, target: Target) -> Callable[[Request, Target], Awaitable[Response]] | None:
        """The handler of a subresource, or None where it is none of these."""
        return self._by_subresource.get(target.subresource) if target.name else None

    # --- on the group ---

    async def apply(self, request: Request) -> Response:
        """Declare objects together: all of them are kept, or none."""
        body = await _mapping(request)
        options = Options(dry_run=bool(body.get("dryRun")))
        done = await to_thread.run_sync(apply, self._objects, _items(body), options)
        items = [{"action": w.action, "object": codec.ordered(w.object)} for w in done]
        warnings = [warning for w in done for warning in w.warnings]
        return json_response({"items": items}, 200, warnings)

    async def plan(self, request: Request) -> Response:
        """What would happen if these objects were declared; with none, what will happen as things are."""
        if self._hooks.planner is None:
            raise _not_served("plans")
        items = _items(await _mapping(request))
        checked = await to_thread.run_sync(apply, self._objects, items, Options(dry_run=True)) if items else []
        objects = [w.object for w in checked if w.action != "unchanged"]
        return json_response(await self._hooks.planner.preview(objects, ()))

    async def accept(self, _request: Request) -> Response:
        """A person accepts what a restored store differs in from the world."""
        if self._hooks.operator is None:
            raise _not_served("acceptance")
        await self._hooks.operator.accept()
        return json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    # --- on one object ---

    async def _why(self, request: Request, target: Target) -> Response:
        _only(request, target, "GET")
        if self._hooks.planner is None:
            raise _not_served("explanations")
        kind, room, name = target.info.kind, target.room, target.name
        await to_thread.run_sync(self._objects.store.get, kind, room, name)
        return json_response(await self._hooks.planner.why(kind, room, name))

    async def _timeline(self, request: Request, target: Target) -> Response:
        _only(request, target, "GET")
        if self._hooks.planner is None:
            raise _not_served("timelines")
        kind, room, name = target.info.kind, target.room, target.name
        await to_thread.run_sync(self._objects.store.get, kind, room, name)
        return json_response(await self._hooks.planner.timeline(kind, room, name))

    async def _kubeconfig(self, request: Request, target: Target) -> Response:
        _only(request, target, "GET", of="Cluster")
        if self._hooks.operator is None:
            raise _not_served("kubeconfigs")
        await to_thread.run_sync(self._objects.store.get, "Cluster", target.room, target.name)
        text = await self._hooks.operator.kubeconfig(target.room, target.name)
        return PlainTextResponse(text, headers={"Cache-Control": "no-store"})

    async def _enrol(self, request: Request, target: Target) -> Response:
        _only(request, target, "POST", of="Server")
        if self._hooks.operator is None:
            raise _not_served("enrolment")
        body = await _mapping(request)
        await to_thread.run_sync(self._objects.store.get, "Server", "", target.name)
        controller, replace = str(body.get("controller") or ""), bool(body.get("replace"))
        made = await self._hooks.operator.enrol(target.name, controller, replace=replace)
        response = json_response(made)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _power(self, request: Request, target: Target) -> Response:
        _only(request, target, "POST", of="Server")
        if self._hooks.operator is None:
            raise _not_served("power orders")
        body = await _mapping(request)
        action = body.get("action")
        if action not in _POWER_ACTIONS:
            said = f'action: "{action}" is no power order' if action else "action: is missing"
            raise errors.bad_request(f'{said}; write "on", "off" or "cycle"')
        await to_thread.run_sync(self._objects.store.get, "Server", "", target.name)
        force, dry_run = bool(body.get("force")), bool(body.get("dryRun"))
        return json_response(await self._hooks.operator.power(target.name, action, force=force, dry_run=dry_run))

    async def _carry_on(self, request: Request, target: Target) -> Response:
        measuring = await self._measured(request, target)
        return json_response(await measuring.carry_on(target.room, target.name))

    async def _stop(self, request: Request, target: Target) -> Response:
        measuring = await self._measured(request, target)
        await measuring.stop(target.room, target.name)
        return json_response({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    async def _measured(self, request: Request, target: Target) -> Measuring:
        _only(request, target, "POST", of="Measurement")
        if self._hooks.measuring is None:
            raise _not_served("measurements")
        await to_thread.run_sync(self._objects.store.get, "Measurement", target.room, target.name)
        return self._hooks.measuring


async def _mapping(request: Request) -> dict[str, Any]:
    raw = await requests.json_body(request, empty={})
    if not isinstance(raw, dict):
        raise errors.bad_request("the body must be a mapping")
    return cast(dict[str, Any], raw)


def _items(body: dict[str, Any]) -> list[Any]:
    items = body.get("items", [])
    if not isinstance(items, list):
        raise errors.bad_request("items must be a list of objects")
    return cast(list[Any], items)


def _only(request: Request, target: Target, method: str, of: str = "") -> None:
    """Serve that method alone, of objects of that kind where one is named."""
    if request.method != method:
        raise errors.not_allowed(target.info, f"{request.method} is not served for {target.subresource}")
    if of and target.info.kind != of:
        raise errors.not_found_path(request.url.path)


def _not_served(what: str) -> NotAvailable:
    return NotAvailable(f"{what} are not served by this process; ask a controller", missing=True)
