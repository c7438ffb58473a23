"""Approves kubelets' serving certificates: those that ask for nothing but their own machine's name and address.

May not: deny anything. A request that is not clearly in order is left to others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from collections.abc import Callable, Sequence

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from bedplate.drivers.kubernetes.api import ClusterApi, ExpiredError, Json, RefusedError
from bedplate.drivers.kubernetes.connection import UnreachableError
from bedplate.model.blueprint import MachineEntry

log = structlog.get_logger()

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kubelet-serving"
NODES_GROUP = "system:nodes"
NODE_USER = "system:node:"
_NEEDED = {"digital signature", "server auth"}
_ALLOWED = _NEEDED | {"key encipherment"}
RETRY_SECONDS = 5.0


class Approvals:
    """Approves for one cluster, as long as it runs."""

    def __init__(self, api: ClusterApi, machines: Callable[[], Sequence[MachineEntry]]) -> None:
        self._api = api
        self._machines = machines

    async def run(self) -> None:
        """List, then watch; for ever. What was passed over is looked at again with each listing."""
        while True:
            try:
                await self._once()
            except (UnreachableError, RefusedError) as error:
                log.debug("certificate requests can't be watched", cluster=self._api.access.cluster, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except ExpiredError:
                continue

    async def _once(self) -> None:
        listed = await self._api.request("GET", REQUESTS)
        for request in listed.get("items") or ():
            await self._consider("ADDED", request)
        await self._api.watch(REQUESTS, listed["metadata"]["resourceVersion"], self._consider)

    async def _consider(self, kind: str, request: Json) -> None:
        if kind == "DELETED" or (request.get("status") or {}).get("conditions"):
            return
        machine = in_order(request.get("spec") or {}, self._machines())
        if machine is None:
            return
        name = request["metadata"]["name"]
        condition = {
            "type": "Approved",
            "status": "True",
            "reason": "BedplateMachine",
            "message": f"Asks for the name and address of machine {machine.name} alone.",
        }
        body: Json = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name, "resourceVersion": request["metadata"]["resourceVersion"]},
            "status": {"conditions": [condition]},
        }
        try:
            await self._api.request("PUT", f"{REQUESTS}/{name}/approval", body=body)
        except RefusedError as error:
            if error.status not in (404, 409):  # gone, or changed: its own event comes
                raise
        else:
            log.info("kubelet's certificate approved", cluster=self._api.access.cluster, machine=machine.name)


def in_order(spec: Json, machines: Sequence[MachineEntry]) -> MachineEntry | None:
    """The machine whose kubelet may have what this request asks for; None where it is not to be approved."""
    user = str(spec.get("username", ""))
    if spec.get("signerName") != SIGNER or not user.startswith(NODE_USER):
        return None
    if NODES_GROUP not in (spec.get("groups") or ()):
        return None
    usages = set(spec.get("usages") or ())
    if not _NEEDED <= usages <= _ALLOWED:
        return None
    name = user.removeprefix(NODE_USER)
    machine = next((m for m in machines if m.name == name and m.is_node and m.desired != "remove"), None)
    if machine is None:
        return None
    try:
        request = x509.load_pem_x509_csr(base64.b64decode(spec.get("request") or "", validate=True))
        return machine if _asks_for_itself(request, user, machine) else None
    except (ValueError, binascii.Error, UnsupportedAlgorithm):
        return None


def _asks_for_itself(request: x509.CertificateSigningRequest, user: str, machine: MachineEntry) -> bool:
    subject = sorted((attribute.oid.dotted_string, attribute.value) for attribute in request.subject)
    wanted = [(NameOID.COMMON_NAME.dotted_string, user), (NameOID.ORGANIZATION_NAME.dotted_string, NODES_GROUP)]
    if not request.is_signature_valid or subject != sorted(wanted):
        return False
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    address = ipaddress.ip_address(machine.nic.address)
    return len(list(names)) > 0 and all(
        (isinstance(name, x509.DNSName) and name.value == machine.name)
        or (isinstance(name, x509.IPAddress) and name.value == address)
        for name in names
    )
