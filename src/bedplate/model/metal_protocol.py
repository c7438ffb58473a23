"""What a bare server is told before its agent is connected: the RAM system by its medium, a node by its own disk."""

from __future__ import annotations

import msgspec

from bedplate.model.agent_protocol import EnrolFile
from bedplate.model.ids import Digest, Generation, MachineUid, ServerName

SETTINGS_PATH = "bedplate/settings"
"""In the medium's ISO9660 root."""
SETTINGS_SIZE = 64 * 1024
"""Bytes that the file always has: whoever gives the medium out puts a server's own in its place."""
SETTINGS_MAGIC = b"BEDPLATE-SETTINGS\n"
MEDIUM_LABEL = "BEDPLATE_RAM"
MEDIA_PATH = "/media/"
NETWORK_FOLDER = "net"
"""In the first file system of a RAM system that came over the network: what else is on the medium."""
NETWORK_SYSTEM, NETWORK_SETTINGS = "system", "settings"
"""Its files there: the packed system, and the settings as they lie on the medium."""

ENROL_CREDENTIAL = "bedplate.enrol"
MACHINE_CREDENTIAL = "bedplate.machine"
MARKER_PATH = "bedplate/written.json"
"""On the EFI system partition."""


class RamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that a RAM system is told of the server that it is booted on. Holds a one-time token: a secret."""

    enrol: EnrolFile
    run: int
    """Which boot of the RAM system this is."""
    mac: str = ""
    """The interface to use; empty: the first by which the controller answers."""
    address: str = ""
    """`10.0.0.9/24`; empty: DHCP."""
    gateway: str = ""
    name_servers: tuple[str, ...] = ()
    mtu: int = 1500


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A part of a disk that is not all zero."""

    index: int
    """It begins at so many times the manifest's `piece`."""
    start: int
    """Where its own zstd frame begins in the data file; the next piece's begins where it ends."""
    sha256: str
    """Of its content, uncompressed, in hex."""


class WriteManifest(msgspec.Struct, frozen=True, kw_only=True):
    """How a disk image is written to a disk as it arrives: which parts hold something, and what each must be.

    What no piece tells of is zero. The pieces come in the order in which they are to be written, and the one with the
    partition table is the last: a disk that is written in part has none.
    """

    version: int = 1
    size: int
    """Bytes of the disk image, a multiple of 512."""
    piece: int
    """Bytes of each piece but perhaps the last of the disk."""
    data: Digest
    """The file with the pieces' zstd frames, one after another."""
    data_size: int
    pieces: tuple[Piece, ...]

    def length(self, piece: Piece) -> int:
        """Bytes of a piece, uncompressed."""
        return min(self.piece, self.size - piece.index * self.piece)


class NodeIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which machine a deployed disk is."""

    uid: MachineUid
    generation: Generation
    name: str
    server: ServerName


def settings_block(settings: RamSettings) -> bytes:
    """The settings file's whole content, `SETTINGS_SIZE` bytes.

    Raises:
        ValueError: the settings do not fit.
    """
    content = SETTINGS_MAGIC + msgspec.json.encode(settings)
    if len(content) > SETTINGS_SIZE:
        raise ValueError(f"the settings of {settings.enrol.server} take {len(content)} bytes of {SETTINGS_SIZE}")
    return content.ljust(SETTINGS_SIZE, b"\n")


def read_settings(block: bytes) -> RamSettings:
    """The settings in the file's content.

    Raises:
        ValueError: there are none in it, or they are not readable.
    """
    if not block.startswith(SETTINGS_MAGIC) or not block[len(SETTINGS_MAGIC) :].strip():
        raise ValueError("the medium carries no settings: it was not given out by a controller for this server")
    try:
        return msgspec.json.decode(block[len(SETTINGS_MAGIC) :].strip(), type=RamSettings)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the medium's settings are not readable: {error}") from error
