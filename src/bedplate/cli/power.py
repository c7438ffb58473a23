"""A person's power orders for servers: what runs there is told first, and a fence goes before any person. Decides on no
more than whether the order is let through.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from bedplate.api.hooks import NotAvailable, PowerAction
from bedplate.drivers.redfish.driver import PowerError
from bedplate.engine.engine import Engine
from bedplate.model.blueprint import BmcRef, MachineEntry
from bedplate.model.ids import ServerName
from bedplate.model.inventory import BmcView
from bedplate.model.kinds.infrastructure import Server
from bedplate.model.validation.faults import listing
from bedplate.model.whereabouts import ALIVE, servers_of
from bedplate.planner.servers import bmc_ref
from bedplate.store.store import Store


class BmcPower(Protocol):
    """What switches a server."""

    async def read(self, server: ServerName, bmc: BmcRef) -> BmcView:
        """Read the power; a BMC that does not answer is told in the view."""
        ...

    async def power(self, server: ServerName, bmc: BmcRef, action: PowerAction) -> BmcView:
        """Switch and give what was read back. Raises `PowerError`."""
        ...


async def order(
    store: Store, engine: Engine, bmcs: BmcPower, name: str, action: PowerAction, *, force: bool, dry_run: bool
) -> dict[str, Any]:
    """Carry out an order, or with `dry_run` only tell what it would meet.

    Raises:
        NotAvailable: it is refused, or what was read back is not what was ordered.
    """
    server = ServerName(name)
    declared = await asyncio.to_thread(store.find, "Server", "", name)
    bmc = bmc_ref(declared) if isinstance(declared, Server) else None
    if bmc is None:
        raise NotAvailable(f"server {name} has no BMC; declare it in spec.bmc (`bedplate explain server.spec.bmc`)")
    runs = running_on(engine, server)
    if dry_run:
        return _told(await bmcs.read(server, bmc), runs)
    if action != "on" and runs and not force:
        raise NotAvailable(refusal(name, runs))
    lost = engine.blueprint.server(server)
    if action != "off" and lost is not None and lost.standing == "fence":
        raise NotAvailable(
            f"server {name} is being fenced ({lost.reason}); power it on once it is confirmed to be down"
        )
    try:
        return _told(await bmcs.power(server, bmc, action), runs)
    except PowerError as error:
        raise NotAvailable(str(error)) from None


def running_on(engine: Engine, server: ServerName) -> list[str]:
    """Names of the machines that run on the server, or may run there for all that is known."""
    lost = engine.blueprint.server(server)
    if lost is not None and lost.standing == "dead":
        return []
    seen = engine.inventory.inventory.server(server)
    heard = seen is not None and seen.value.connected
    machines = (m for m in engine.blueprint.machines() if server in servers_of(m))
    return sorted(f"{m.namespace}/{m.name}" for m in machines if _may_run(engine, m, server, heard))


def refusal(name: str, runs: list[str]) -> str:
    """Why a server with machines is not switched off, and what helps."""
    machines = f"{len(runs)} machine{'s run' if len(runs) > 1 else ' runs'} on server {name} ({listing(runs, 5)})"
    return f"{machines} and would end at once; empty it first with `bedplate maintain server/{name}`, or add --force"


def _may_run(engine: Engine, m: MachineEntry, server: ServerName, heard: bool) -> bool:
    domain = engine.inventory.inventory.domain(server, m.uid)
    if domain is not None:
        return domain.value.state in ALIVE
    return not heard and m.desired in {"run", "drain"}


def _told(view: BmcView, runs: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"server": view.server, "power": view.power, "runs": runs}
    return {**told, "error": view.error} if view.error else told
