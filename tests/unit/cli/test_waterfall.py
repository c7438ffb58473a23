"""How a timeline looks on the screen."""

from __future__ import annotations

from typing import Any

import pytest

from bedplate.cli import waterfall


def span(of: str, what: str, work: str, start: float, seconds: float) -> dict[str, Any]:
    return {"of": of, "what": what, "work": work, "start": start, "seconds": seconds}


BOOT = span("m1", "guest boots", "guest boot", 1.0, 20.0)
SLOW = span("m2", "guest boots", "guest boot", 1.0, 5.0)
KUBEADM = span("m1", "kubeadm init", "kubeadm", 23.0, 77.0)
FIRST = span("m1", "from the declaration, before guest boots", "Bedplate", 0.0, 1.0)
WAIT = span("m1", "after guest boots, before kubeadm init", "Bedplate", 21.0, 2.0)
SHORT = span("", "after kubeadm init, until it is shown", "Bedplate", 100.0, 0.01)
TOLD: dict[str, Any] = {
    "object": "cluster/shop",
    "begin": 1.8e9,
    "seconds": 100.01,
    "complete": True,
    "spans": [BOOT, SLOW, KUBEADM],
    "criticalPath": [FIRST, BOOT, WAIT, KUBEADM, SHORT],
    "byWork": {"guest boot": 20.0, "kubeadm": 77.0, "image and disk": 0.0, "hypervisor": 0.0, "Bedplate": 3.01},
    "neither": 3.01,
}


def test_a_line_for_each_span_and_each_longer_wait_in_the_order_of_their_beginning() -> None:
    text = [line for line, _ in waterfall.lines(TOLD, 100)]
    assert text[0] == "cluster/shop: 100.0 s"
    rows = text[2:7]
    assert [(row[0], row.split()[0 if row[0] == " " else 1]) for row in rows] == [
        ("*", "m1"),
        (" ", "m2"),
        ("*", "m1"),
        ("*", "m1"),
        ("*", "m1"),
    ]
    assert sum("(Bedplate waits)" in row for row in rows) == 2
    assert all(len(row) <= 100 for row in rows)


def test_bars_stand_where_and_as_long_as_their_spans() -> None:
    rows = [line for line, _ in waterfall.lines(TOLD, 200) if line.startswith("*")]
    boot = next(row for row in rows if "guest boots" in row)
    kubeadm = next(row for row in rows if "kubeadm init" in row)
    assert boot.count("█") == pytest.approx(12, abs=1)  # a fifth of sixty
    assert kubeadm.count("█") == pytest.approx(46, abs=1)
    assert kubeadm.index("█") > boot.rindex("█")


def test_the_summary_says_what_was_neither_boot_nor_kubeadm() -> None:
    text = [line for line, _ in waterfall.lines(TOLD, 100)]
    at = text.index("On the critical path:")
    assert text[at + 1].split() == ["guest", "boot", "20.0", "s", "20%"]
    assert text[at + 6].split() == ["neither", "guest", "boot", "nor", "kubeadm", "3.0", "s"]
    assert text[at + 8 :] == [
        "      2.00 s  m1: after guest boots, before kubeadm init",
        "      1.00 s  m1: from the declaration, before guest boots",
    ]


def test_what_is_not_ready_says_so_and_nothing_at_all_is_no_fault() -> None:
    empty = {**TOLD, "seconds": 0.0, "complete": False, "spans": [], "criticalPath": []}
    assert waterfall.lines(empty, 80)[0][0] == "cluster/shop: 0.0 s, not ready yet"


def test_where_it_is_no_terminal_it_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    waterfall.show(TOLD)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "neither guest boot nor kubeadm" in out
