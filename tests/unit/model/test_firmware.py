"""Firmware against compatibility matrices: which version is the newer, which entry counts, what is said."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.model.firmware import JudgedFirmware, allows, judge, read_version
from bedplate.model.kinds.firmware import CompatibilityMatrix, CompatibilityMatrixSpec, SupportedFirmware
from bedplate.model.meta import ObjectMeta
from bedplate.model.metal import Component, Hardware
from bedplate.model.validation import single

R650 = Hardware(
    vendor="Dell Inc.",
    product="PowerEdge R650",
    firmware=(
        Component(name="bios", version="1.9.2", model="Dell Inc."),
        Component(name="nic eno1", version="4.40 0x8001ba19 1.3429.0", model="ice"),
        Component(name="disk nvme0n1", version="EPK9GB5Q", model="SAMSUNG MZQL23T8HCLS-00A07"),
    ),
)


def entry(component: str = "bios", **more: Any) -> SupportedFirmware:
    return SupportedFirmware(component=component, **more)


def matrix(*entries: SupportedFirmware, name: str = "lab") -> CompatibilityMatrix:
    return CompatibilityMatrix(metadata=ObjectMeta(name=name), spec=CompatibilityMatrixSpec(entries=entries))


def bios(*matrices: CompatibilityMatrix, version: str = "1.9.2", product: str = "PowerEdge R650") -> JudgedFirmware:
    found = Component(name="bios", version=version, model="Dell Inc.")
    [judged] = judge(msgspec.structs.replace(R650, product=product, firmware=(found,)), matrices)
    return judged


# --- versions -----------------------------------------------------------------------------------------------------


def test_versions_are_ordered_by_their_numbers() -> None:
    rising = ("1.0a", "1.0b", "1.0.1", "2.9", "v2.10", "2.10.1", "2.10.1a", "2.11.0-rc", "3", "20230901")
    read = [read_version(v) for v in rising]
    for older, newer in pairwise(read):
        assert newer.at_least(older), (older, newer)
        assert not older.at_least(newer), (older, newer)


@pytest.mark.parametrize(
    ("minimum", "maximum", "version", "allowed"),
    [
        ("2.9", "", "2.10", True),
        ("2.10", "", "2.9", False),
        ("2.0", "", "2", True),
        ("", "2.10", "2.10.7", True),
        ("", "2.10", "2.11", False),
        ("", "2.0", "2.5.1", False),
        ("", "2.0", "2", True),
        ("U46 v2.50", "", "U46 v2.68 (07/20/2023)", True),
        ("U46 v2.70", "", "U46 v2.68 (07/20/2023)", False),
        ("2.50", "2.68", "U46 v2.68 (07/20/2023)", True),
        ("U30 v2.50", "", "U46 v2.68 (07/20/2023)", False),
        ("4.40", "4.40", "4.40 0x8001ba19 1.3429.0", True),
        ("4.41", "", "4.40 0x8001ba19 1.3429.0", False),
    ],
)
def test_bounds_hold_what_they_say(minimum: str, maximum: str, version: str, allowed: bool) -> None:
    assert allows(entry(minimum=minimum, maximum=maximum), version) is allowed


@pytest.mark.parametrize(
    ("versions", "version", "allowed"),
    [
        (("2.8", "2.10.*"), "2.10.3", True),
        (("2.8", "2.10.*"), "2.9", False),
        (("2.8",), "v2.8.0", True),
        (("EPK9GB5Q",), "epk9gb5q", True),
        (("EPK9*",), "EPK8CB5Q", False),
    ],
)
def test_a_set_holds_what_is_in_it(versions: tuple[str, ...], version: str, allowed: bool) -> None:
    assert allows(entry(versions=versions), version) is allowed


_TEXTS = st.from_regex(r"(U[0-9] )?v?[0-9]{1,3}(\.[0-9]{1,3}){0,3}[a-z]?", fullmatch=True)


@given(_TEXTS, _TEXTS, _TEXTS)
def test_the_order_of_versions_is_one(a: str, b: str, c: str) -> None:
    x, y, z = (v._replace(family="") for v in map(read_version, (a, b, c)))
    assert x.at_least(y) or y.at_least(x)
    assert (x.at_least(y) and y.at_least(x)) == x.same(y)
    if x.at_least(y) and y.at_least(z):
        assert x.at_least(z)
    assert x.at_most(x)
    assert x.at_most(y) or x.at_least(y)


# --- which entry counts -------------------------------------------------------------------------------------------


def test_each_component_has_its_own_verdict() -> None:
    found = judge(
        R650,
        [
            matrix(
                entry(vendor="dell*", product="PowerEdge R6*", minimum="1.12", note="CVE", url="https://example.com/1"),
                entry("nic *", driver="ice", versions=("4.40*", "4.50*")),
                entry("disk *", model="KIOXIA*", versions=("1",)),
            )
        ],
    )
    assert [(j.component.name, j.verdict) for j in found] == [
        ("bios", "unsupported"),
        ("nic eno1", "supported"),
        ("disk nvme0n1", "unknown"),
    ]
    assert found[0].sentence() == (
        "bios has 1.9.2, supported is 1.12 or newer (matrix lab; CVE; https://example.com/1)"
    )
    assert found[1].wanted == "4.40* or 4.50*"


def test_a_more_specific_model_wins_over_a_glob_in_whichever_matrix_it_is() -> None:
    wide = matrix(entry(product="PowerEdge *", minimum="2.0"), name="wide")
    near = matrix(entry(product="PowerEdge R65*", maximum="1.5"), name="near")
    exact = matrix(entry(product="PowerEdge R650", versions=("1.9.2",)), name="exact")
    assert bios(wide).verdict == "unsupported"
    assert (bios(wide, near).wanted, bios(wide, near).matrix) == ("1.5 or older", "near")
    assert (bios(wide, near, exact).verdict, bios(wide, near, exact).matrix) == ("supported", "exact")
    assert bios(wide, near, exact, product="PowerEdge R660").matrix == "wide"


def test_of_entries_as_exact_one_that_holds_is_enough_and_else_all_are_named() -> None:
    two = matrix(entry(product="PowerEdge R650", versions=("1.5",)), entry(product="PowerEdge R650", minimum="1.12"))
    assert bios(two, version="1.5").verdict == "supported"
    assert bios(two, version="1.12.1").verdict == "supported"
    wrong = bios(two, version="1.9")
    assert (wrong.verdict, wrong.wanted) == ("unsupported", "1.12 or newer, or 1.5")


def test_a_driver_speaks_of_network_cards_and_a_model_of_all_else() -> None:
    assert [j.verdict for j in judge(R650, [matrix(entry("*", driver="*", minimum="0"))])] == ["supported"] * 3
    assert [j.verdict for j in judge(R650, [matrix(entry("*", driver="ic*", minimum="0"))])] == [
        "unknown", "supported", "unknown",
    ]  # fmt: skip
    assert [j.verdict for j in judge(R650, [matrix(entry("*", model="samsung*", minimum="0"))])] == [
        "unknown", "unknown", "supported",
    ]  # fmt: skip


def test_a_matrix_that_is_being_deleted_says_nothing() -> None:
    going = msgspec.structs.replace(
        matrix(entry(minimum="2")), metadata=ObjectMeta(name="x", deletion_timestamp="2026-01-01T00:00:00Z")
    )
    assert bios(going).verdict == "unknown"


_GLOBS = st.sampled_from(["*", "PowerEdge *", "PowerEdge R6?0", "PowerEdge R650", "ProLiant*"])
_ENTRIES = st.builds(
    lambda product, vendor, component, versions, minimum, note: entry(
        component, product=product, vendor=vendor, versions=versions, minimum="" if versions else minimum, note=note
    ),
    _GLOBS,
    st.sampled_from(["*", "dell*", "HPE"]),
    st.sampled_from(["bios", "*", "nic *"]),
    st.sampled_from([(), ("1.9.2",), ("1.*", "2.0")]),
    st.sampled_from(["1.0", "1.10", "5"]),
    st.sampled_from(["", "a", "b"]),
)


@given(st.data(), st.lists(_ENTRIES, max_size=6), st.lists(_ENTRIES, max_size=4))
def test_the_order_of_entries_and_matrices_never_matters(
    data: st.DataObject, one: list[SupportedFirmware], two: list[SupportedFirmware]
) -> None:
    first = judge(R650, [matrix(*one, name="a"), matrix(*two, name="b")])
    again = judge(
        R650,
        [
            matrix(*data.draw(st.permutations(two)), name="b"),
            matrix(*data.draw(st.permutations(one)), name="a"),
        ],
    )
    assert first == again


@given(st.lists(_ENTRIES, min_size=1, max_size=6))
def test_what_speaks_of_the_very_product_silences_all_globs(entries: list[SupportedFirmware]) -> None:
    exact = entry(vendor="Dell Inc.", product="PowerEdge R650", versions=("9.9.9",))
    globs = [e for e in entries if e.product != "PowerEdge R650"]
    assert bios(matrix(*globs, exact)) == bios(matrix(exact))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        (entry("", minimum="1"), "component", "is missing; name what it speaks of"),
        (entry(), "versions", "is missing; list the versions"),
        (entry(versions=("1",), minimum="1"), "versions", "stands beside a minimum"),
        (entry(versions=("1", " ")), "versions[1]", "is empty"),
        (entry(minimum="2.*"), "minimum", "is a glob"),
        (entry(maximum="newest"), "maximum", "has no number in it"),
        (entry(minimum="2.10", maximum="2.9"), "maximum", "2.9 is older than the minimum 2.10"),
        (entry(minimum="U46 v1.0", maximum="U30 v2.0"), "maximum", "is of family u30"),
        (entry(minimum="1", product=""), "product", 'write "*" for any'),
        (entry(minimum="1", model="x", driver="ice"), "model", "give one of the two"),
        (entry(minimum="1", url="ftp://x"), "url", "is no URL"),
    ],
)
def test_an_entry_that_can_not_be_met_is_refused(wrong: SupportedFirmware, field: str, said: str) -> None:
    [fault] = single.check(matrix(entry(minimum="1"), wrong))
    assert fault.field == f"spec.entries[1].{field}"
    assert said in fault.message


def test_a_matrix_without_entries_is_refused_and_a_whole_one_taken() -> None:
    [fault] = single.check(matrix())
    assert fault.field == "spec.entries"
    assert (
        single.check(matrix(entry(minimum="2.0", maximum="2"), entry("nic *", driver="ice", versions=("4.*",)))) == []
    )
