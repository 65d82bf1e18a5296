"""The page in a real browser, opened from disk without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tfmpq.api.report import report

_SECONDS = 120
_PROBE = """<script>
const wide = [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
  && e.tagName !== 'CODE' && e.getBoundingClientRect().right > innerWidth + 1);
const charts = [...document.querySelectorAll('svg.chart')].map(e => e.getBoundingClientRect().width);
const ink = getComputedStyle(document.body).color, paper = getComputedStyle(document.body).backgroundColor;
document.title = JSON.stringify({wide: wide.length, charts, ink, paper, at: innerWidth,
  scroll: document.documentElement.scrollWidth});
</script>"""
"""What only a browser knows, put into the title of a copy of the page."""


class Cells(HTMLParser):
    """The rows of all tables, the title, and the texts that are not in drawings."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.title = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self._inside in ("td", "th", "span"):
            self.rows[-1][-1] += data
        if self._inside == "title" and not self.rows:
            self.title = self.title or data


@pytest.fixture
def browser(tmp_path: Path):
    """`browser(page, *options)` is the page as Chromium has it after opening it from disk."""
    program = shutil.which("chromium")
    if program is None:
        text = "the report's browser test needs chromium"
        if "chromium" in os.environ.get("TFMPQ_REQUIRE", "").split(","):
            pytest.fail(text)
        pytest.skip(text)

    def opened(page: Path, *options: str) -> str:
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}", *options,
            "--dump-dom", page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return opened


def cells(page: str) -> Cells:
    parser = Cells()
    parser.feed(page)
    return parser


def test_a_browser_reads_the_numbers(browser, whole_run: Path, tmp_path: Path) -> None:
    report([whole_run], out=tmp_path / "report.html")
    found = cells(browser(tmp_path / "report.html"))
    assert found.title == "tfmpq report: a"
    rows = {tuple(row[:5]) for row in found.rows}
    assert ("3", "a, mixed", "searched", "86.54 ± 1.80 %", "360") in rows
    assert ("block_conv2", "2", "18,432", "4.608 kB", "") in rows
    assert ("conv2d", "XNNPACK", "86,016", "3", "0") in rows
    latency = next(row for row in found.rows if row[0] == "a/mixed.tflite")
    assert latency[1] == "1.25 ms"
    assert latency[3] == "3.0%"


@pytest.mark.parametrize(("width", "scheme"), [(500, "light"), (1200, "dark")])
def test_it_fits_a_phone_and_a_desk(
    width: int, scheme: str, browser, whole_run: Path, tmp_path: Path
) -> None:
    report([whole_run], out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # The page itself allows no script; the copy that is measured does.
    page = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", _PROBE + "</body>")
    (tmp_path / "probe.html").write_text(page, encoding="utf-8")
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    found = cells(browser(tmp_path / "probe.html", f"--window-size={width},900", *dark)).title
    facts = json.loads(found)
    assert facts["wide"] == 0
    assert facts["scroll"] <= facts["at"]
    assert min(facts["charts"]) >= 250
    assert max(facts["charts"]) <= facts["at"]
    assert (facts["ink"] == "rgb(27, 31, 36)") is (scheme == "light")
    assert (facts["paper"] == "rgb(255, 255, 255)") is (scheme == "light")


def test_the_page_runs_no_script(browser, whole_run: Path, tmp_path: Path) -> None:
    report([whole_run], out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "probe.html").write_text(page.replace("</body>", _PROBE + "</body>"), encoding="utf-8")
    assert cells(browser(tmp_path / "probe.html")).title == "tfmpq report: a"
