"""What a guest may know of its server's CPU, so that it can move live to a server of another generation.

`host-passthrough` is fastest and moves only between servers whose CPUs are alike. The others are the levels of the
x86-64 psABI (https://gitlab.com/x86-psABIs/x86-64-ABI, "Micro-Architecture Levels"), with AES beside them, named as
Proxmox VE has them: TLS without AES costs far more.
"""

from __future__ import annotations

from typing import Literal

CpuModel = Literal["host-passthrough", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4"]
CpuChoice = Literal["auto", "host-passthrough", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4"]
"""`auto`: planning chooses."""
HOST: CpuModel = "host-passthrough"

_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", "aes")
_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", "xsaveopt")
_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
FEATURES: dict[CpuModel, tuple[str, ...]] = {
    "x86-64-v2-AES": _V2,
    "x86-64-v3": (*_V2, *_V3),
    "x86-64-v4": (*_V2, *_V3, *_V4),
}
"""What each level has, as Linux names it in `/proc/cpuinfo`; lowest first. `xsaveopt` is not of the psABI's, but every
CPU with AVX2 has it, and under QEMU's emulation a kernel of Linux 6.1 hangs in its start with `xsave` alone."""


def models(flags: frozenset[str]) -> tuple[CpuModel, ...]:
    """The levels that a CPU with these flags of `/proc/cpuinfo` has, lowest first."""
    return tuple(model for model, needed in FEATURES.items() if flags.issuperset(needed))
