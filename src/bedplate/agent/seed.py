"""Cloud-init seeds (NoCloud) for users' own images: made in memory, gone after the first boot.

The seed of a first boot holds user data, which may be secret; later boots get one without.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bedplate.agent.faults import AgentFault
from bedplate.model.blueprint import MachineEntry
from bedplate.model.ids import MachineUid

FOLDER = Path("/run/bedplate/seeds")
"""Memory, not disk."""


class Seeds:
    """The seeds of this server's machines."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def path(self, machine: MachineEntry) -> str:
        """Where the machine's seed lies while it starts."""
        return str(self._folder / f"{machine.uid}.iso")

    def write(self, machine: MachineEntry, user_data: bytes) -> None:
        """Make the seed. Raises `AgentFault` where no ISO can be made."""
        tool = shutil.which("genisoimage") or shutil.which("xorrisofs")
        if tool is None:
            raise AgentFault(
                "ToolMissing", "a cloud-init seed needs genisoimage or xorriso: install one", permanent=True
            )
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            files = {
                "meta-data": meta_data(machine).encode(),
                "network-config": network_config(machine).encode(),
                "user-data": user_data or b"#cloud-config\n{}\n",
            }
            for name, content in files.items():
                (Path(work) / name).write_bytes(content)
            beside = Path(work) / "seed.iso"
            argv = [tool, "-quiet", "-output", str(beside), "-volid", "cidata", "-joliet", "-rock"]
            done = subprocess.run([*argv, *(str(Path(work) / n) for n in files)], capture_output=True, check=False)
            if done.returncode != 0:
                raise AgentFault("SeedFailed", f"{tool} could not make the cloud-init seed of {machine.name}")
            beside.chmod(0o600)
            os.replace(beside, self.path(machine))

    def remove(self, uid: MachineUid) -> None:
        """Remove a machine's seed; done where there is none."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / f"{uid}.iso").unlink()


def meta_data(machine: MachineEntry) -> str:
    """NoCloud meta-data; JSON is YAML."""
    data: dict[str, object] = {"instance-id": machine.uid, "local-hostname": machine.name}
    if machine.ssh_keys:
        data["public-keys"] = list(machine.ssh_keys)
    return json.dumps(data) + "\n"


def network_config(machine: MachineEntry) -> str:
    """Network configuration, version 2. The route is `0.0.0.0/0`: older cloud-init does not know `default`."""
    nic = machine.nic
    interface: dict[str, object] = {
        "match": {"macaddress": nic.mac},
        "addresses": [f"{nic.address}/{nic.prefix}"],
        "mtu": nic.mtu,
        "dhcp4": False,
    }
    if nic.gateway:
        interface["routes"] = [{"to": "0.0.0.0/0", "via": nic.gateway}]
    if nic.name_servers:
        interface["nameservers"] = {"addresses": list(nic.name_servers)}
    return json.dumps({"version": 2, "ethernets": {"nic0": interface}}) + "\n"
