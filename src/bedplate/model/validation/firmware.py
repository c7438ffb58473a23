"""A compatibility matrix by itself: each entry names a component and versions that can be met."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bedplate.model.firmware import read_version
from bedplate.model.kinds.firmware import CompatibilityMatrix, SupportedFirmware
from bedplate.model.validation.faults import Fault

_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"^https?://\S+$")


def compatibility_matrix(m: CompatibilityMatrix) -> Iterator[Fault]:
    """Faults of the matrix."""
    if not m.spec.entries:
        yield Fault("spec.entries", "is empty; give what is supported, each with a component and its versions",
                    "FieldValueRequired")  # fmt: skip
    for i, entry in enumerate(m.spec.entries):
        path = f"spec.entries[{i}]"
        yield from _globs(path, entry)
        yield from _versions(path, entry)
        if entry.url and not _URL.match(entry.url):
            yield Fault(f"{path}.url", f'"{entry.url}" is no URL; write it from https:// on, or leave it out')


def _globs(path: str, e: SupportedFirmware) -> Iterator[Fault]:
    if not e.component:
        yield Fault(f"{path}.component", 'is missing; name what it speaks of: bios, "nic *" or "disk *"',
                    "FieldValueRequired")  # fmt: skip
    for name, glob in (("vendor", e.vendor), ("product", e.product), ("model", e.model), ("driver", e.driver)):
        if not glob:
            yield Fault(f"{path}.{name}", 'is empty, which nothing matches; write "*" for any, or leave it out')
    if e.model != "*" and e.driver != "*":
        yield Fault(f"{path}.model", "stands beside a driver: only network cards have a driver, and no model is known "
                    "of these; give one of the two")  # fmt: skip


def _versions(path: str, e: SupportedFirmware) -> Iterator[Fault]:
    bounds = {"minimum": e.minimum, "maximum": e.maximum}
    if not e.versions and not any(bounds.values()):
        yield Fault(f"{path}.versions", "is missing; list the versions that are supported, or give a minimum or a "
                    "maximum", "FieldValueRequired")  # fmt: skip
    if e.versions and any(bounds.values()):
        yield Fault(f"{path}.versions", "stands beside a minimum or maximum; give the versions one by one, or the "
                    "bounds, or each in an entry of its own")  # fmt: skip
    for i, version in enumerate(e.versions):
        if not version.strip():
            yield Fault(f"{path}.versions[{i}]", "is empty; write a version such as 2.10.2, or a glob")
    for name, bound in bounds.items():
        if not bound:
            continue
        if _GLOB.search(bound):
            remedy = "a maximum holds all that begin with it" if name == "maximum" else "write the oldest version"
            yield Fault(f"{path}.{name}", f'"{bound}" is a glob; {remedy}, so leave the stars out')
        elif not any(ch.isdigit() for ch in bound):
            yield Fault(f"{path}.{name}", f'"{bound}" has no number in it; write a version such as 2.10.2')
    if e.minimum and e.maximum:
        low, high = read_version(e.minimum), read_version(e.maximum)
        if not low.comparable(high):
            yield Fault(f"{path}.maximum", f"is of family {high.family}, the minimum of {low.family}; versions of two "
                        "families can't be compared, so give each an entry")  # fmt: skip
        elif not low.at_most(high):
            yield Fault(f"{path}.maximum", f"{e.maximum} is older than the minimum {e.minimum}; no version could be "
                        "both")  # fmt: skip
