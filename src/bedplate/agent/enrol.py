"""Enrolment: a one-time token becomes a key that never leaves the server and a certificate that names it.

Also makes the TLS context and the plain HTTP requests (enrolment, renewal, images). Blocking.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import socket
import ssl
import time

import msgspec

from bedplate.agent.signing import renewal_time, signing_request
from bedplate.agent.state import AgentState, Identity, write_whole
from bedplate.model.agent_protocol import CONTROLLER_NAME, ENROL_PATH, EnrolFile, EnrolReply, EnrolRequest

log = logging.getLogger("bedplate.agent")

HTTP_SECONDS = 30.0
BULK_SECONDS = 60.0
"""Of silence in an image's transfer."""


class EnrolmentFailed(Exception):
    """The controller gave no certificate; the text says why."""


class ControllerConnection(http.client.HTTPSConnection):
    """HTTPS to the controller at `host:port` or `unix:/path`; the certificate must carry its fixed name."""

    def __init__(self, address: str, context: ssl.SSLContext, timeout: float = HTTP_SECONDS) -> None:
        super().__init__(CONTROLLER_NAME, timeout=timeout)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        """Connect where the address says."""
        if self._address.startswith("unix:"):
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            plain.settimeout(HTTP_SECONDS)
            plain.connect(self._address.removeprefix("unix:"))
        else:
            host, port = split_address(self._address)
            plain = socket.create_connection((host, port), timeout=HTTP_SECONDS)
        self.sock = self._tls.wrap_socket(plain, server_hostname=CONTROLLER_NAME)


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` (`[v6]:port`). Raises `ValueError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"controller address {address!r} is not host:port or unix:/path")
    return host.strip("[]"), int(port)


def tls_context(ca: str, state: AgentState | None = None) -> ssl.SSLContext:
    """Trust exactly this authority; show the agent's own certificate if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca)
    if state is not None:
        context.load_cert_chain(state.certificate_file, state.key_file)
    return context


def images_from(state: AgentState, identity: Identity) -> ControllerConnection:
    """A connection for images, as the server that this agent is enrolled as."""
    context = tls_context(state.ca_file.read_text(), state)  # the certificate may have been renewed
    return ControllerConnection(identity.controller, context, BULK_SECONDS)


def enrol(state: AgentState, file: EnrolFile, host_uuid: str) -> Identity:
    """Get this agent's certificate, or keep the identity it has where the file's token is spent.

    Raises:
        EnrolmentFailed: the controller refuses, and there is no identity to go on with.
        OSError: it can't be reached.
    """
    known = state.identity()
    token = hashlib.sha256(file.token.encode()).hexdigest()
    same = known is not None and known.server == file.server and state.ca_file.read_text() == file.ca
    if known is not None and same:
        if known.controller != file.controller:
            known = msgspec.structs.replace(known, controller=file.controller)
            state.keep_identity(known)
        if known.token == token:
            return known
    if known is not None and known.store != file.store:
        raise EnrolmentFailed(
            f"{state.folder} belongs to store {known.store}, the enrolment file to {file.store}: "
            "give the agent another state folder, or remove that one if its machines are gone"
        )
    request = EnrolRequest(
        server=file.server, request=signing_request(state.key_file, file.server), host_uuid=host_uuid, token=file.token
    )
    try:
        certificate = _ask(file.controller, tls_context(file.ca), request)
    except EnrolmentFailed as error:
        if known is None or not same:
            raise
        # A file that lies there from long ago must not end an agent that the controller still knows.
        log.warning("the enrolment file is not taken, the identity stays as it was: %s", error)
        return known
    write_whole(state.certificate_file, certificate.encode())
    write_whole(state.ca_file, file.ca.encode())
    identity = Identity(
        server=file.server,
        store=file.store,
        controller=file.controller,
        host_uuid=host_uuid,
        renew_at=renewal_time(state.certificate_file),
        token=token,
    )
    state.keep_identity(identity)
    return identity


def renew_if_due(state: AgentState) -> bool:
    """Ask for a new certificate once two thirds of the present one's time are over. Raises as `enrol` does."""
    identity = state.identity()
    assert identity is not None, "enrol first"
    if time.time() < identity.renew_at:
        return False
    request = EnrolRequest(
        server=identity.server,
        request=signing_request(state.key_file, identity.server),
        host_uuid=identity.host_uuid,
    )
    renewed = _ask(identity.controller, tls_context(state.ca_file.read_text(), state), request)
    write_whole(state.certificate_file, renewed.encode())
    state.keep_identity(msgspec.structs.replace(identity, renew_at=renewal_time(state.certificate_file)))
    return True


def _ask(controller: str, context: ssl.SSLContext, request: EnrolRequest) -> str:
    connection = ControllerConnection(controller, context)
    try:
        connection.request("POST", ENROL_PATH, msgspec.json.encode(request))
        answer = connection.getresponse()
        body = answer.read(64 * 1024)
    except http.client.HTTPException as error:
        raise EnrolmentFailed(f"the controller at {controller} does not speak as expected: {error}") from error
    finally:
        connection.close()
    try:
        reply = msgspec.json.decode(body, type=EnrolReply)
    except msgspec.MsgspecError as error:
        raise EnrolmentFailed(f"the controller answered {answer.status} {answer.reason}") from error
    if answer.status != 200 or not reply.certificate:
        raise EnrolmentFailed(reply.error or f"the controller answered {answer.status}")
    return reply.certificate
