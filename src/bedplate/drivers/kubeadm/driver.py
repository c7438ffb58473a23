"""Makes clusters' authorities, starts kubeadm in machines, and takes members out of etcd. Decides nothing."""

from __future__ import annotations

import asyncio
import secrets as random_source
from typing import Protocol

from bedplate import pki
from bedplate.drivers.kubeadm import config, payload
from bedplate.drivers.kubeadm.config import Pace
from bedplate.drivers.kubeadm.kubeconfig import GROUP, HOURS, USER, admin_kubeconfig
from bedplate.model.blueprint import ClusterEntry, MachineEntry
from bedplate.model.ids import ClusterKey
from bedplate.model.inventory import ClusterView
from bedplate.model.steps import (
    Bootstrap,
    BootstrapStep,
    Done,
    DropSecrets,
    Failed,
    MakeSecrets,
    RemoveEtcdMember,
    RestartKubelet,
    StepResult,
    Ticket,
    Unknown,
)
from bedplate.ports import GuestError, GuestFile, Guests, SecretStore

PAYLOAD = "/run/bedplate/payload.tar"
_TOKEN_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


class JoinTokens(Protocol):
    """Makes bootstrap tokens at the clusters' own APIs, and deletes them once their machine is a node."""

    async def join_token(self, cluster: ClusterKey, machine: MachineEntry, minutes: int) -> str:
        """A token for that machine alone. Raises `OSError` where the API does not take it."""
        ...


class KubeadmDriver:
    """`ports.ClusterBootstrap` over guests' agents."""

    def __init__(self, guests: Guests, secrets: SecretStore, tokens: JoinTokens, *, slow: bool = False) -> None:
        """`slow`: guests are emulated in software: longer leases and waits."""
        self._guests = guests
        self._secrets = secrets
        self._tokens = tokens
        self._pace = Pace(slow=slow)

    async def run(self, step: BootstrapStep, ticket: Ticket) -> StepResult:
        """Run one step within the ticket's deadline."""
        try:
            async with asyncio.timeout(ticket.deadline):
                match step:
                    case MakeSecrets():
                        return await self._make_secrets(step)
                    case DropSecrets():
                        await asyncio.to_thread(pki.forget, self._secrets, step.cluster.secrets)
                        return Done()
                    case Bootstrap():
                        return await self._bootstrap(step, ticket)
                    case RemoveEtcdMember():
                        return await self._remove_member(step.machine, step.peers, ticket)
                    case RestartKubelet():
                        said = await self._shell(step.machine, "restart-kubelet", (), ticket)
                        return said if isinstance(said, Failed) else Done()
        except TimeoutError:
            return Unknown(message=f"{step.name} did not end within {ticket.deadline:.0f} s")
        except GuestError as error:
            return Failed(reason="GuestUnreachable", message=str(error))

    async def admin_kubeconfig(self, cluster: ClusterEntry, proxy_url: str = "") -> str | None:
        """A new administrator's kubeconfig, good for a year; None where the cluster has no authorities (yet)."""
        identity = await asyncio.to_thread(
            pki.client_identity, self._secrets, cluster.secrets, name=USER, groups=(GROUP,), hours=HOURS
        )
        return None if identity is None else admin_kubeconfig(cluster, identity, proxy_url)

    # --- steps ------------------------------------------------------------------------------------------------

    async def _make_secrets(self, step: MakeSecrets) -> StepResult:
        await asyncio.to_thread(pki.ensure, self._secrets, step.cluster.secrets)
        return Done(views=(ClusterView(cluster=step.cluster.cluster, secrets=True),))

    async def _bootstrap(self, step: Bootstrap, ticket: Ticket) -> StepResult:
        machine = step.machine
        stands = await self._shell(machine, "look", (machine.uid,), ticket)
        if isinstance(stands, Failed):
            return stands
        if stands == "new":
            prepared = await self._prepare(step, ticket)
            if isinstance(prepared, Failed):
                return prepared
            await self._guests.write_files(machine, [GuestFile(path=PAYLOAD, content=prepared)], ticket)
        else:
            # Writing anything makes the agent look for the bootstrap's word from now on.
            attached = GuestFile(path="/run/bedplate/attached", content=b"")
            await self._guests.write_files(machine, [attached], ticket)
        started = await self._shell(machine, "launch", (machine.uid,), ticket)
        return started if isinstance(started, Failed) else Done()

    async def _prepare(self, step: Bootstrap, ticket: Ticket) -> bytes | Failed:
        authorities = await asyncio.to_thread(pki.load, self._secrets, step.cluster.secrets)
        if authorities is None:
            return Failed(reason="NoSecrets", message=f"cluster {step.cluster.cluster} has no certificate authorities")
        if step.mode == "init":
            token = new_token()
        else:
            if step.machine.role == "control-plane":
                removed = await self._remove_member(step.machine, step.peers, ticket)
                if not isinstance(removed, Done):
                    message = getattr(removed, "message", "")
                    return Failed(reason="EtcdMember", message=f"its member of an earlier try is left over: {message}")
            try:
                token = await self._tokens.join_token(step.cluster.cluster, step.machine, config.TOKEN_MINUTES)
            except OSError as error:
                return Failed(reason="NoToken", message=f"the cluster's API gave no join token: {error}")
        return payload.archive(step, authorities, token, self._pace)

    async def _remove_member(
        self, machine: MachineEntry, peers: tuple[MachineEntry, ...], ticket: Ticket
    ) -> StepResult:
        if not peers:
            return Failed(reason="NoPeer", message="no other control-plane machine is up to be asked")
        seconds = 60 if self._pace.slow else 15
        said = await self._shell(
            peers[0], "remove-member", (machine.name, f"{seconds}s", f"https://{machine.nic.address}:2380"), ticket
        )
        return said if isinstance(said, Failed) else Done()

    async def _shell(
        self, machine: MachineEntry, script: str, arguments: tuple[str, ...], ticket: Ticket
    ) -> str | Failed:
        """Run one of our scripts in the guest; what it said, or how it failed."""
        argv = ["/bin/sh", "-c", payload.guest_text(script), script, *arguments]
        seconds = max(1.0, min(ticket.deadline, 240.0 if self._pace.slow else 60.0))
        output = await self._guests.execute(machine, argv, ticket, timeout=seconds)
        if output.exit_code:
            words = (output.stderr or output.stdout).decode(errors="replace").strip().splitlines()[-3:]
            said = " / ".join(words) or "without a word"
            return Failed(
                reason="GuestCommandFailed", message=f"{script} in {machine.name} ended {output.exit_code}: {said}"
            )
        return output.stdout.decode(errors="replace").strip()


def new_token() -> str:
    """A bootstrap token: `[a-z0-9]{6}.[a-z0-9]{16}`."""
    letters = "".join(random_source.choice(_TOKEN_ALPHABET) for _ in range(22))
    return f"{letters[:6]}.{letters[6:]}"
