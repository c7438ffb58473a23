"""An image's pieces from the controller: the manifest, and the data as a stream that is unpacked as it arrives.

Blocking. Keeps no more than what the pipes hold: the data is never on a disk of this server but at its place.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from bedplate.agent.enrol import ControllerConnection
from bedplate.agent.faults import AgentFault
from bedplate.model.agent_protocol import BLOB_PATH
from bedplate.model.ids import Digest
from bedplate.model.metal_protocol import Piece, WriteManifest

Connect = Callable[[], ControllerConnection]

MANIFEST_BYTES = 64 << 20
"""More than a manifest of a disk of 2 TiB in pieces of 4 MiB takes."""
PIECE_BYTES = 16 << 20
"""The largest piece that is taken: some of them are in memory at a time."""
_CHUNK = 1 << 20
_PIPE = 1 << 20
"""Bytes in a pipe: fewer changes between the two processes than with the usual 64 KiB."""


class StreamBroken(Exception):
    """The data broke off; it goes on from the piece that was not whole."""


def fetch_manifest(digest: Digest, connect: Connect) -> WriteManifest:
    """The manifest, verified and well formed.

    Raises:
        AgentFault: the controller does not have it, or what it gives is something else.
        StreamBroken: it could not be fetched now.
    """
    content = _whole(digest, connect)
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise AgentFault("ImageCorrupt", f"the controller's file for manifest {digest} is {found}: make the image anew")
    try:
        made = msgspec.json.decode(content, type=WriteManifest)
    except msgspec.MsgspecError as error:
        raise AgentFault("ImageCorrupt", f"manifest {digest} can't be read: {error}", permanent=True) from error
    _check(made, digest)
    return made


class PieceStream:
    """The pieces' contents from one of them on, by one connection and one process that unpacks."""

    def __init__(self, manifest: WriteManifest, first: int, connect: Connect) -> None:
        self._manifest = manifest
        self._next = first
        self._error = ""
        start = manifest.pieces[first].start
        self._connection = connect()
        try:
            self._connection.request("GET", BLOB_PATH + manifest.data, headers={"Range": f"bytes={start}-"})
            self._socket = self._connection.sock  # the answer takes it over
            self._answer = self._connection.getresponse()
            if self._answer.status == 404:
                raise AgentFault("ImageNotFound", f"the controller has no image file {manifest.data}")
            if self._answer.status != 206:
                raise StreamBroken(f"the controller answered {self._answer.status} for image file {manifest.data}")
            self._unpack = subprocess.Popen(["zstd", "-dcq"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        except FileNotFoundError as error:
            self._connection.close()
            raise AgentFault("ToolMissing", "zstd is missing in this system", permanent=True) from error
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise StreamBroken(f"image file {manifest.data} could not be fetched: {error}") from error
        except BaseException:
            self._connection.close()
            raise
        assert self._unpack.stdin is not None
        assert self._unpack.stdout is not None
        self._in, self._out = self._unpack.stdin, self._unpack.stdout
        for pipe in (self._in, self._out):
            with suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
        self._feeder = threading.Thread(target=self._feed, name="image", daemon=True)
        self._feeder.start()

    def read(self, buffer: memoryview) -> Piece:
        """The next piece's content into the buffer, verified; call it once for each.

        Raises:
            StreamBroken: it broke off in this piece.
            AgentFault: the content is not what the manifest says.
        """
        piece = self._manifest.pieces[self._next]
        length, got = self._manifest.length(piece), 0
        while got < length:
            count = os.readv(self._out.fileno(), [buffer[got:length]])
            if not count:
                raise StreamBroken(self._error or f"piece {piece.index} of the image broke off")
            got += count
        found = hashlib.sha256(buffer[:length]).hexdigest()
        if found != piece.sha256:
            raise AgentFault("ImageCorrupt", f"piece {piece.index} of the image has the digest {found}: make it anew")
        self._next += 1
        return piece

    def close(self) -> None:
        """End it, wherever it stands."""
        self._unpack.kill()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._feeder.join()
        self._unpack.wait()
        self._in.close()
        self._out.close()
        self._answer.close()
        self._connection.close()

    def _feed(self) -> None:
        try:
            while chunk := self._answer.read(_CHUNK):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self._in.fileno(), view) :]
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._error = f"the image's data broke off: {error}"
        finally:
            with suppress(OSError):
                self._in.close()


def _whole(digest: Digest, connect: Connect) -> bytes:
    connection = connect()
    try:
        connection.request("GET", BLOB_PATH + digest)
        answer = connection.getresponse()
        if answer.status == 404:
            raise AgentFault("ImageNotFound", f"the controller has no image file {digest}")
        if answer.status != 200:
            raise StreamBroken(f"the controller answered {answer.status} for image file {digest}")
        content = answer.read(MANIFEST_BYTES + 1)
        if len(content) > MANIFEST_BYTES:
            raise AgentFault("ImageCorrupt", f"manifest {digest} is larger than any can be", permanent=True)
        return content
    except (OSError, http.client.HTTPException) as error:
        raise StreamBroken(f"image file {digest} could not be fetched: {error}") from error
    finally:
        connection.close()


def _check(made: WriteManifest, digest: Digest) -> None:
    """A manifest that could lead anywhere but to its own disk's parts is none."""
    count = -(-made.size // made.piece) if made.piece > 0 else 0
    starts = [p.start for p in made.pieces]
    indexes = {p.index for p in made.pieces}
    sound = (
        made.version == 1
        and made.size > 0
        and made.size % 512 == 0
        and 0 < made.piece <= PIECE_BYTES
        and made.piece % 4096 == 0
        and bool(starts)
        and starts == sorted(set(starts))
        and starts[0] >= 0
        and starts[-1] < made.data_size
        and len(indexes) == len(starts)
        and min(indexes) >= 0
        and max(indexes) < count
        and made.pieces[-1].index == 0
    )
    if not sound:
        raise AgentFault("ImageCorrupt", f"manifest {digest} contradicts itself: make the image anew", permanent=True)
