"""The page of a comparison in a real browser: it renders, its script runs and no other, and it fits a phone."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "advise"))

from small_fleet import profile
from told_runs import told

from bedplate.advise import claims, comparing, deciding, judges
from bedplate.advise.claims import Case
from bedplate.advise.report import render

SCREEN, PHONE = (1280, 900), (390, 844)
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
"""A browser without a screen that speaks to nobody and says what its console says."""
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
WITHIN = 120.0
"""Seconds of a browser's run; under load it takes some ten."""


class Browser:
    """Opens pages from files."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._runs = 0

    def dom(self, page: Path, *more: str) -> tuple[str, list[str]]:
        """The page's elements once it was loaded, and what the console said."""
        done = self._run(page, "--dump-dom", *more)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    def picture(self, page: Path, size: tuple[int, int], *more: str) -> Path:
        """What one sees at first."""
        shot = self._folder / f"shot-{self._runs}.png"
        self._run(page, f"--screenshot={shot}", f"--window-size={size[0]},{size[1]}", *more)
        return shot

    def _run(self, page: Path, *more: str) -> subprocess.CompletedProcess[str]:
        self._runs += 1
        own = self._folder / f"profile-{self._runs}"
        argv = [self._program, *QUIET, f"--user-data-dir={own}", *more, page.as_uri()]
        return subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN, check=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs the browser of the Debian package chromium; `make test` installs it")
    return Browser(program, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = profile()
    plans = deciding.plans(found)
    runs = told(found, plans)
    compared = comparing.compare(found, plans, runs)
    given = Case(profile=found, plans=plans, runs=runs, comparison=compared)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(compared, claims.judge(given, judges.JUDGES)), encoding="utf-8")
    return path


def test_it_renders_with_its_script_and_nothing_to_complain_of(browser: Browser, page: Path) -> None:
    dom, complaints = browser.dom(page)
    assert complaints == []
    assert "</footer>" in dom
    assert dom.count("<svg") == page.read_text().count("<svg")
    filtering = re.search(r'<fieldset[^>]*id="claim-filter"[^>]*>', dom)
    assert filtering is not None
    assert "hidden" not in filtering[0], "the script shows what it makes work"


def test_a_script_that_is_not_its_own_does_not_run(browser: Browser, page: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.html"
    foreign.write_text(page.read_text().replace("</footer>", '</footer><script>document.title = "taken"</script>'))
    dom, complaints = browser.dom(foreign)
    assert "<title>taken" not in dom
    assert any("Content Security Policy" in line for line in complaints)


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
def test_light_and_dark_are_what_the_reader_prefers(browser: Browser, page: Path, size: tuple[int, int]) -> None:
    light, dark = (browser.picture(page, size, scheme) for scheme in (LIGHT, DARK))
    assert min(_first_pixel(light)) > 230
    assert max(_first_pixel(dark)) < 50


def _first_pixel(picture: Path) -> tuple[int, ...]:
    """Of a PNG. The first pixel of the first row is the same whatever filter its row has."""
    raw = picture.read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    at, data = 8, b""
    while at < len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        if raw[at + 4 : at + 8] == b"IDAT":
            data += raw[at + 8 : at + 8 + length]
        at += length + 12
    return tuple(zlib.decompress(data)[1:4])


def _with_script(page: Path, script: str) -> str:
    """The page with a script at its end, and a policy under which it runs."""
    open_ = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", page.read_text().replace("&#x27;", "'"))
    return open_.replace("</body>", f"<script>{script}</script></body>")


def test_nothing_is_wider_than_a_phone(browser: Browser, page: Path, tmp_path: Path) -> None:
    """In a frame of that width, as the browser's own windows are wider; the copy may run a script that measures."""
    script = "parent.postMessage(document.documentElement.scrollWidth, '*')"
    (tmp_path / "measured.html").write_text(_with_script(page, script))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!DOCTYPE html><body><script>addEventListener('message', e => document.body.dataset.width = e.data)</script>"
        f'<iframe src="measured.html" style="width:{PHONE[0]}px;height:{PHONE[1]}px;border:0"></iframe></body>'
    )
    dom, _ = browser.dom(frame, "--virtual-time-budget=10000")
    assert f'data-width="{PHONE[0]}"' in dom


def test_claims_are_filtered_by_verdict_and_counted(browser: Browser, page: Path, tmp_path: Path) -> None:
    """A reader's click on `holds`, made by a script that the copy's policy lets run."""
    script = "document.querySelector('#claim-filter input[value=holds]').click()"
    (tmp_path / "filtered.html").write_text(_with_script(page, script))
    dom, _ = browser.dom(tmp_path / "filtered.html")
    shown = re.findall(r'<li id="claim-[^>]*>', dom)
    held = [claim for claim in shown if 'data-status="holds"' in claim]
    assert len(shown) == 40
    assert 0 < len(held) < 40
    assert [claim for claim in shown if "hidden" not in claim] == held
    assert f"{len(held)} of 40 shown" in dom
