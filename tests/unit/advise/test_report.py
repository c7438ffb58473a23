"""The page of a comparison: all is in it with its source, nothing is loaded, and no name in it becomes markup."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser

import msgspec
import pytest
from small_fleet import profile, raw
from told_runs import told

from bedplate.advise import claims, comparing, deciding, fleet, judges
from bedplate.advise.claims import Case
from bedplate.advise.comparing import Comparison
from bedplate.advise.figures import Figure
from bedplate.advise.report import ReportError, answer, render
from bedplate.sim.durations import Ranges

EVIL = '<script>alert("x")</script>&<b>"\''
MOST = 3_000_000
"""Bytes."""
VOID = {"meta", "br", "input", "wbr", "link", "img"}
LOADING = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background")


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.headings: list[int] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> ends nothing"
        assert self._open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def case(*, seeds: int = 3, **changes: object) -> Case:
    found = profile(**changes)
    plans = deciding.plans(found)
    runs = told(found, plans, seeds=seeds)
    return Case(profile=found, plans=plans, runs=runs, comparison=comparing.compare(found, plans, runs))


def page_of(found: Case) -> str:
    return render(found.comparison, claims.judge(found, judges.JUDGES))


@pytest.fixture(scope="module")
def whole() -> Case:
    return case()


@pytest.fixture(scope="module")
def page(whole: Case) -> Page:
    return Page(page_of(whole))


def figures_of(c: Comparison) -> Iterator[Figure]:
    for row in c.rows:
        yield from row.cells.values()
    for costs in c.costs.values():
        yield from costs.items.values()
    for w in c.workloads:
        yield from w.silent.values()
        yield from w.interruptions.values()


# --- what is in it ------------------------------------------------------------------------------------------------


def test_every_figure_has_its_source_and_how_one_gets_it_in_the_page(whole: Case, page: Page) -> None:
    told_of = [*figures_of(whole.comparison), *(f for v in claims.judge(whole, judges.JUDGES) for f in v.figures)]
    assert len(told_of) > 100
    for figure in told_of:
        assert f'source-{figure.source}"' in page.text
        assert html.escape(figure.how) in page.text
        assert html.escape(figure.origin) in page.text


def test_the_answer_stands_before_all_charts_with_the_numbers_that_matter(whole: Case, page: Page) -> None:
    first = page.text.partition("<svg")[0]
    assert html.escape(whole.comparison.verdict.sentence) in first
    for title in (
        "Servers",
        "Cost",
        "A replica does not answer",
        "Pods ended by patches",
        "One more node",
        "Electricity",
    ):
        assert f'<th scope="row">{title} ' in first
    for said in whole.comparison.verdict.flips:
        assert said in first


def test_all_capabilities_and_claims_are_there_without_a_script(whole: Case, page: Page) -> None:
    for row in whole.comparison.rows:
        assert html.escape(row.title[1:]) in page.text
        assert f">{row.capability[:1].upper()}{row.capability[1:]}<" in page.text
    shown = [a for a in page.all("li") if a.get("id", "").startswith("claim-")]
    assert len(shown) == 40
    assert not any("hidden" in a for a in shown)
    assert ["hidden" in a for a in page.all("fieldset")] == [True]


def test_each_workload_has_its_place_and_the_reason(whole: Case, page: Page) -> None:
    for w in whole.comparison.workloads:
        assert html.escape(w.placed["mix"].reason) in page.text


def test_what_is_undecided_says_so() -> None:
    found = case(seeds=1)
    assert any(r.winner == "undecided" for r in found.comparison.rows)
    assert "undecided: " in page_of(found)


def test_of_alternatives_that_are_alike_each_is_marked(whole: Case) -> None:
    row = next(r for r in whole.comparison.rows if r.name == "silent")
    alike = msgspec.structs.replace(row, winner="mix", best=("mix", "vm"), said="")
    others = tuple(alike if r is row else r for r in whole.comparison.rows)
    found = render(msgspec.structs.replace(whole.comparison, rows=others), ())
    line = found.partition(">A replica does not answer ")[2].partition("</tr>")[0]
    assert line.count('class="mark"') == 2


def test_a_mix_that_mixes_nothing_is_said_to_be_the_same(whole: Case) -> None:
    said = "is the same as all on VMs"
    for same, shown in (("vm", True), ("", False)):
        verdict = msgspec.structs.replace(whole.comparison.verdict, same=same)
        assert (said in answer.answer(msgspec.structs.replace(whole.comparison, verdict=verdict))) is shown


# --- warnings -----------------------------------------------------------------------------------------------------


def test_durations_that_are_not_the_users_are_warned_of_until_all_are_measured(whole: Case, page: Page) -> None:
    warned = "simulated world&#x27;s own, seen in a lab under software emulation"
    assert warned in page.text
    all_of = tuple(f.name for f in msgspec.structs.fields(Ranges) if f.name != "steps")
    some = msgspec.structs.replace(whole.comparison, calibrated=all_of[:2])
    assert f"You measured {all_of[0]} and {all_of[1]}" in (answer.warnings(some) or "")
    measured = msgspec.structs.replace(whole.comparison, calibrated=all_of)
    assert answer.warnings(measured) is None


def test_faults_of_runs_are_told_before_the_answer(whole: Case) -> None:
    faulty = msgspec.structs.replace(whole.comparison, faults=("VMs, seed 1: rule 1 was broken",))
    found = render(faulty, ())
    before, _, after = found.partition("VMs, seed 1: rule 1 was broken")
    assert "Do not trust this comparison" in before
    assert 'id="verdict"' in after


def test_servers_that_are_not_there_are_told() -> None:
    found = raw()
    found["servers"][0]["count"] = 2
    small = fleet.read(found, "fleet.yaml")
    warned = answer.warnings(comparing.compare(small, deciding.plans(small), {})) or ""
    assert "would have to be bought" in warned


def test_without_runs_the_page_says_what_is_not_known(whole: Case) -> None:
    bare = comparing.compare(whole.profile, whole.plans, {})
    found = render(bare, ())
    _links_lead_somewhere(Page(found))
    assert "Nothing was simulated" in found
    assert "not known" in found
    assert 'id="chart-recoveries"' not in found
    assert 'id="chart-cost-range"' in found


def test_without_prices_cost_has_no_charts_and_says_what_is_missing() -> None:
    found = raw(prices={}, currency="")
    del found["servers"][0]["price"]
    bare = fleet.read(found, "fleet.yaml")
    page = render(comparing.compare(bare, deciding.plans(bare), {}), ())
    Page(page)
    assert "The cost is not known" in page
    assert 'id="chart-cost-range"' not in page


# --- what a browser may do with it --------------------------------------------------------------------------------


def test_no_name_becomes_markup() -> None:
    found = raw(name=EVIL)
    found["servers"][0]["name"] = EVIL
    found["clusters"][0]["name"] = EVIL
    found["clusters"][0]["workloads"][0]["name"] = EVIL
    evil = fleet.read(found, "fleet.yaml")
    plans = deciding.plans(evil)
    runs = told(evil, plans)
    compared = comparing.compare(evil, plans, runs)
    compared = msgspec.structs.replace(compared, faults=(EVIL,))
    given = Case(profile=evil, plans=plans, runs=runs, comparison=compared)
    page = Page(render(compared, claims.judge(given, judges.JUDGES)))
    assert len(page.all("script")) == 1
    assert not page.all("b") or all(a == {} for a in page.all("b"))
    assert "<script>alert" not in page.text
    assert "alert(" in page.text


def test_nothing_is_loaded_and_only_its_own_script_may_run(page: Page) -> None:
    assert len(page.text.encode()) < MOST
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "image", "foreignobject")
        for name in LOADING:
            assert attributes.get(name, "#").startswith("#"), f"{tag} loads {attributes[name]}"
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    style, script = (_inline(page.text, name) for name in ("style", "script"))
    assert "@import" not in style
    assert "url(" not in style
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert f"style-src '{_digest(style)}'" in policy
    assert f"script-src '{_digest(script)}'" in policy


def _inline(page: str, name: str) -> str:
    return page.partition(f"<{name}>")[2].partition(f"</{name}>")[0]


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- for everybody ------------------------------------------------------------------------------------------------


def test_headings_are_in_order_and_landmarks_are_there(page: Page) -> None:
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    assert page.all("html")[0]["lang"] == "en"


def test_ids_are_of_one_element_each_and_links_lead_somewhere(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    _links_lead_somewhere(page)
    for used in re.findall(r"url\(#([^)]+)\)", page.text):
        assert used in ids
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-controls"):
            assert attributes.get(name, ids[0]) in ids


def _links_lead_somewhere(page: Page) -> None:
    ids = {a["id"] for _, a in page.tags if "id" in a}
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in ids


def test_charts_say_in_a_sentence_what_they_show(page: Page) -> None:
    charts = page.all("svg")
    assert len(charts) == 2 * len(page.all("figure"))
    assert {a["id"] for a in page.all("figure")} >= {
        f"chart-{n}"
        for n in ("scores", "times", "cost-range", "cost-items", "tornado", "licence", "silent", "recoveries")
    }
    for chart in charts:
        assert chart["role"] == "img"
        assert chart["aria-label"].endswith(".")


def test_cells_of_tables_know_their_heads(page: Page) -> None:
    assert all(a.get("scope") in ("row", "col", "rowgroup") for a in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 3


# --- the library --------------------------------------------------------------------------------------------------


def test_without_the_library_the_error_names_what_to_install(whole: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ReportError, match=r"vl_convert.*pip install bedplate\[report\]"):
        render(whole.comparison, ())


def test_who_makes_no_page_loads_no_library() -> None:
    code = "import sys, bedplate.advise.report; sys.exit('altair' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_comparison_gives_the_same_page(whole: Case, page: Page) -> None:
    assert page_of(whole) == page.text
