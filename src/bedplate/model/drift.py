"""How a deployed system differs from the image that was written, and its firmware from what was inspected. Pure.

What a system makes by itself when it first starts, and what Bedplate writes to make a node or a hypervisor of it, is no
drift (`EXPECTED`). Beyond `/etc`, `/usr` and `/opt` nothing is looked at: that is data.
"""

from __future__ import annotations

import fnmatch
import re
import stat
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from bedplate.model.metal import Component, Hardware

WATCHED = ("etc", "opt", "usr")
"""Folders of the root whose files are those of the image."""

EXPECTED = (
    # by the system at its first start, and by its own tools
    *("/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/.updated", "/etc/.pwd.lock", "/etc/adjtime"),
    *("/etc/resolv.conf", "/etc/ssh/ssh_host_*", "/etc/mtab", "/etc/ld.so.cache", "*/__pycache__/*"),
    # by Bedplate: a node's identity, its configuration, its certificates; a hypervisor's network, domains and pools
    *("/etc/kubernetes/*", "/etc/cni/net.d/*", "/etc/keepalived/*", "/etc/bedplate/*", "/etc/default/kubelet"),
    *("/etc/systemd/network/*", "/etc/systemd/system/kubelet.service.d/*", "/etc/libvirt/*", "/etc/pki/*"),
)
"""Patterns of paths that may be other than the image's."""

SHOWN = 50
"""Changes that are told one by one; of more their number is."""


class BuiltFile(msgspec.Struct, frozen=True, array_like=True):
    """A file or a link of a system, whatever its name."""

    mode: int
    """As `stat` has it, with the type."""
    owner: int
    group: int
    size: int
    modified: int
    """Seconds since the epoch."""
    content: str
    """SHA-256 in hex; of a link where it leads."""


class AsBuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What an image holds, written into it when it is built."""

    version: int = 1
    kernel: str
    """Its release."""
    command_line: str
    packages: dict[str, str]
    """Name, with `:architecture` where dpkg has it so, to version."""
    files: dict[str, BuiltFile]
    """By path, such as `/etc/fstab`."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """What a server tells of its deployed system."""

    changes: tuple[str, ...] = ()
    """One sentence each, `SHOWN` at most."""
    more: int = 0
    """How many more there are."""
    firmware: tuple[Component, ...] = ()
    """As it is now. Cards are named `nic <mac>`, disks `disk <serial>`: their names in the kernel may be others than
    when they were inspected."""


def drift(built: AsBuilt, now: AsBuilt, owners: Mapping[str, str], firmware: Iterable[Component] = ()) -> Drift:
    """Compare.

    Args:
        built: The image.
        now: The system as it is.
        owners: File to package, of packages that are not as they were: their files are not told one by one.
        firmware: As `Drift` has it.
    """
    found = [*_of_kernel(built, now), *_of_packages(built.packages, now.packages)]
    found += _of_files(built.files, now.files, owners)
    return Drift(changes=tuple(found[:SHOWN]), more=max(0, len(found) - SHOWN), firmware=tuple(firmware))


def changed_packages(built: AsBuilt, now: AsBuilt) -> list[str]:
    """Packages that are not as they were: another version, new, or gone."""
    names = {*built.packages, *now.packages}
    return sorted(n for n in names if built.packages.get(n) != now.packages.get(n))


def _of_kernel(built: AsBuilt, now: AsBuilt) -> Iterator[str]:
    if now.kernel != built.kernel:
        yield f"kernel {now.kernel} runs, {built.kernel} was deployed"
    was, is_ = built.command_line.split(), now.command_line.split()
    added = [w for w in is_ if w not in was and not w.startswith(("BOOT_IMAGE=", "initrd="))]
    gone = [w for w in was if w not in is_]
    if added or gone:
        words = " ".join([*(f"+{w}" for w in added), *(f"-{w}" for w in gone)])
        yield f"the kernel's command line is not as deployed: {words}"


def _of_packages(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*was, *now}):
        before, after = was.get(name), now.get(name)
        if before is None:
            yield f"package {name} {after} was added"
        elif after is None:
            yield f"package {name} {before} was removed"
        elif before != after:
            yield f"package {name} is {after}, {before} was deployed"


_EXPECTED = re.compile("|".join(fnmatch.translate(p) for p in EXPECTED))


def _of_files(was: Mapping[str, BuiltFile], now: Mapping[str, BuiltFile], owners: Mapping[str, str]) -> Iterator[str]:
    for path in sorted({*was, *now}):
        before, after = was.get(path), now.get(path)
        if before == after or path in owners or _EXPECTED.match(path):
            continue
        if before is None:
            yield f"{path} was added"
        elif after is None:
            yield f"{path} was removed"
        elif stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode) or before.content != after.content:
            yield f"{path} was changed"
        else:
            yield from _of_rights(path, before, after)


def _of_rights(path: str, before: BuiltFile, after: BuiltFile) -> Iterator[str]:
    if before.mode != after.mode and not stat.S_ISLNK(after.mode):
        yield f"{path} has mode {stat.S_IMODE(after.mode):04o}, {stat.S_IMODE(before.mode):04o} was deployed"
    if (before.owner, before.group) != (after.owner, after.group):
        yield f"{path} belongs to {after.owner}:{after.group}, to {before.owner}:{before.group} when deployed"


def firmware_changes(hardware: Hardware | None, now: Iterable[Component]) -> tuple[str, ...]:
    """What firmware is other than at the last inspection, one sentence each; what one of both does not tell is none."""
    if hardware is None:
        return ()
    known = {f"nic {n.name}": f"nic {n.mac}" for n in hardware.nics}
    known |= {f"disk {d.name}": f"disk {d.serial}" for d in hardware.disks}
    then = {known.get(c.name, c.name): c for c in hardware.firmware}
    found: list[str] = []
    for component in now:
        before = then.get(component.name)
        if before is not None and before.version.strip() != component.version.strip():
            found.append(f"firmware of {before.name} is {component.version}, {before.version} was inspected")
    return tuple(found)
