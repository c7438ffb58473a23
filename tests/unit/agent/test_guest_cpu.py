"""Which CPU an agent tells that guests see, and which levels they may be given."""

from __future__ import annotations

from pathlib import Path

from bedplate.agent.host import guest_cpu
from bedplate.model.cpus import FEATURES

V3 = " ".join(FEATURES["x86-64-v3"])
CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz
flags\t\t: FLAGS

processor\t: 1
flags\t\t: other
"""


def told(tmp_path: Path, flags: str) -> tuple[str, tuple[str, ...]]:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO.replace("FLAGS", flags))
    return guest_cpu("kvm", 0, path)


def test_levels_are_those_whose_flags_are_all_there(tmp_path: Path) -> None:
    cpu, models = told(tmp_path, f"fpu {V3} avx512f")
    assert cpu.startswith("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz ")
    assert models == ("x86-64-v2-AES", "x86-64-v3")
    assert told(tmp_path, V3.replace("bmi2 ", ""))[1] == ("x86-64-v2-AES",)
    assert told(tmp_path, "fpu sse2")[1] == ()


def test_cpus_are_alike_only_with_the_same_flags_in_any_order(tmp_path: Path) -> None:
    one = told(tmp_path, "fpu sse2 aes")
    assert told(tmp_path, "aes fpu sse2") == one
    assert told(tmp_path, "fpu sse2")[0] != one[0], "a kernel or microcode that hides a feature makes another CPU"


def test_an_emulated_cpu_is_that_of_its_qemu() -> None:
    assert guest_cpu("tcg", 7_002_022) == ("QEMU TCG 7002022", ("x86-64-v2-AES", "x86-64-v3"))
    assert guest_cpu("tcg", 6_002_000)[1] == ("x86-64-v2-AES",)
