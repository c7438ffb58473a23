"""The agent's certificate where QEMU looks for it, so that a machine's memory is encrypted on its way elsewhere.

QEMU reads the files anew for each move. Files of another authority are never touched: then theirs are used.
"""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import re
from pathlib import Path

from bedplate.agent.state import AgentState, write_whole

log = logging.getLogger("bedplate.agent")

QEMU_CONF = Path("/etc/libvirt/qemu.conf")
DEFAULT_FOLDER = "/etc/pki/qemu"
"""Where libvirt tells QEMU to look unless `qemu.conf` says otherwise."""
QEMU_GROUP = "libvirt-qemu"
"""QEMU's group on Debian: its processes, which are not root, read the key."""
_SETTING = re.compile(r'^\s*(migrate|default)_tls_x509_cert_dir\s*=\s*"([^"]+)"', re.MULTILINE)


def qemu_folder(configuration: Path = QEMU_CONF) -> Path:
    """Where libvirt tells QEMU to look for the certificates of moves."""
    try:
        found = dict(_SETTING.findall(configuration.read_text()))
    except OSError:
        found = {}
    return Path(found.get("migrate") or found.get("default") or DEFAULT_FOLDER)


class MoveCertificates:
    """The certificates of moves on this server."""

    def __init__(self, state: AgentState, folder: Path) -> None:
        self._state = state
        self._folder = folder

    @property
    def ready(self) -> bool:
        """True where QEMU finds all it needs."""
        names = ("ca-cert", "server-cert", "server-key", "client-cert", "client-key")
        return all((self._folder / f"{name}.pem").is_file() for name in names)

    def install(self) -> None:
        """Write the agent's present certificate there. A failure is told and leaves moves unencrypted or as they
        were."""
        try:
            self._install()
        except OSError as error:
            log.warning("no certificates for moves in %s: %s", self._folder, error)

    def _install(self) -> None:
        authority = self._state.ca_file.read_bytes()
        there = self._folder / "ca-cert.pem"
        with contextlib.suppress(FileNotFoundError):
            if there.read_bytes() != authority:
                log.info("%s holds certificates of another authority: moves use those", self._folder)
                return
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        certificate, key = self._state.certificate_file.read_bytes(), self._state.key_file.read_bytes()
        for role in ("server", "client"):
            write_whole(self._folder / f"{role}-cert.pem", certificate, 0o644)
            self._write_key(self._folder / f"{role}-key.pem", key)
        write_whole(there, authority, 0o644)

    def _write_key(self, path: Path, key: bytes) -> None:
        write_whole(path, key, 0o600)
        with contextlib.suppress(KeyError):  # QEMU runs as root here
            os.chown(path, -1, grp.getgrnam(QEMU_GROUP).gr_gid)
            path.chmod(0o640)
