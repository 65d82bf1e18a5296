"""The page: all parts of a report in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfmpq.reports.comparison import Comparison, comparison_section
from tfmpq.reports.folders import Run
from tfmpq.reports.latency_section import latency_section
from tfmpq.reports.markup import Child, Element, element
from tfmpq.reports.proof_section import proof_section
from tfmpq.reports.run_section import run_section

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is fetched or run, whatever texts the results hold."""


def page(
    title: str,
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    results: Sequence[tuple[Path, Any]],
    facts: str,
) -> Element:
    """The whole page.

    Args:
        title: Its title.
        runs: Run folders.
        comparisons: Networks by data set.
        results: Results of the other verbs, with their files.
        facts: When and by what it was made.
    """
    latency, proof = latency_section(runs, results), proof_section(results)
    absent = []
    if not comparisons:
        absent.append(
            "No accuracy is known: tfmpq evaluate FILE.tflite --data DATA --json > RUN/evaluate.json."
        )
    if latency is None:
        absent.append("Nothing was measured: tfmpq measure FILE.tflite --out RUN/latency.json.")
    if proof is None:
        absent.append("No proof is at hand: tfmpq verify FILE.tflite --against RUN --json > RUN/verify.json.")
    main: list[Child] = [
        element("h1", title),
        element("p", facts, class_="muted"),
        *(comparison_section(comparison, index) for index, comparison in enumerate(comparisons)),
        *(run_section(run, index, alone=len(runs) == 1) for index, run in enumerate(runs)),
        latency,
        proof,
        *(element("p", text, class_="note") for text in absent),
    ]
    return document(title, main)


def document(title: str, main: Sequence[Child]) -> Element:
    """A page with this content and the style sheet of all pages."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", page_style()),
    )
    return element("html", head, element("body", element("main", *main)), lang="en")


_LIGHT = """
--page:#ffffff;--text:#1b1f24;--muted:#59636e;--line:#d8dee4;--soft:#f4f6f8;--link:#0a5fb4;
--searched:#0a66c2;--uniform:#b35900;--float:#59636e;--other:#8a3ba8;--good:#116329;--bad:#b42318;
"""


_DARK = """
--page:#14171b;--text:#e8eaed;--muted:#a3adb8;--line:#3a424b;--soft:#1e2329;--link:#79b8ff;
--searched:#6fb3f5;--uniform:#f0a04b;--float:#a3adb8;--other:#d6a0ea;--good:#6fce8a;--bad:#ff8f83;
"""


# From orange for few bits to blue for many; every place that uses them says the number as well.
_BITS = {
    2: ("#a83c00", "#ffffff"),
    3: ("#dd7411", "#000000"),
    4: ("#f4b355", "#000000"),
    5: ("#e6d9c3", "#000000"),
    6: ("#a9cbe6", "#000000"),
    7: ("#5f9fd3", "#000000"),
    8: ("#1f5fa8", "#ffffff"),
}


_PAGE = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .25rem}
h2{font-size:1.3rem;line-height:1.25;margin:2.75rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.75rem 0 .4rem}
p,ul{margin:.4rem 0 .8rem;max-width:44rem}
h1,h2,h3,p,li,figcaption{overflow-wrap:anywhere}
ul{padding-left:1.2rem}
a{color:var(--link)}
.muted,caption,figcaption,.note{color:var(--muted)}
.note{font-size:.9rem}
code,pre{font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;overflow-x:auto;
white-space:pre}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem 1.5rem;
align-items:start}
.courses{grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr))}
figure{margin:.5rem 0;max-width:34rem}
figcaption{font-size:.9rem;margin:.25rem 0}
.scroll{overflow-x:auto;margin:.6rem 0 1rem}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;min-width:60%}
caption{text-align:left;padding:.2rem 0 .4rem}
th,td{padding:.3rem .7rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom}
tbody th{font-weight:500}
.number{text-align:right;white-space:nowrap}
summary{cursor:pointer;padding:.3rem 0;color:var(--link)}
.chip{display:inline-block;min-width:1.7em;padding:0 .35em;border-radius:4px;text-align:center;
font-weight:600}
.bar{display:block;width:100%;min-width:7rem;height:.75rem;margin-top:.3rem}
.neutral{background:var(--muted)}
.bar i{display:block;height:100%;min-width:1px;border-radius:2px}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;padding:0;font-size:.875rem}
.legend svg{width:14px;height:14px;vertical-align:-2px;margin-right:.35em;overflow:visible}
"""


DRAWING = """
svg.chart{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.chart text{fill:var(--text);font-variant-numeric:tabular-nums}
.chart .tick,.chart .label{fill:var(--muted)}
.chart .end{text-anchor:end}.chart .middle{text-anchor:middle}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.axis{stroke:var(--muted);stroke-width:1;fill:none}
.front{fill:none;stroke:var(--muted);stroke-width:1.5;stroke-dasharray:5 4}
.point.float{color:var(--float)}.point.uniform{color:var(--uniform)}
.point.searched{color:var(--searched)}.point.other{color:var(--other)}
.marker{fill:currentColor;stroke:currentColor;stroke-width:1.6}
.marker.hollow{fill:var(--page)}
.error{stroke:currentColor;stroke-width:1.2;fill:none;opacity:.65}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.line.series0{stroke:var(--searched)}.line.series1{stroke:var(--uniform)}
.band{stroke:none;opacity:.22}.band.series0{fill:var(--searched)}.band.series1{fill:var(--uniform)}
.chart .key.series0{fill:var(--searched)}.chart .key.series1{fill:var(--uniform)}
.strip{display:block;width:100%;height:2.2rem;border-radius:4px}
.strip rect{stroke:var(--page);stroke-width:1;vector-effect:non-scaling-stroke}
.spread{display:block;width:10rem;height:1.25rem}
.times{fill:var(--searched);opacity:.3}
.process{stroke:var(--searched);stroke-width:1.5;fill:none}
.median{fill:var(--searched)}
"""


def _bits() -> str:
    """Colours of bit-widths, for drawings and for text."""
    return "".join(
        f".bits{bits}{{fill:{back};background:{back};color:{front}}}" for bits, (back, front) in _BITS.items()
    )


def page_style() -> str:
    """For the page."""
    dark = f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    return f":root{{{_LIGHT}}}{dark}{_PAGE}{DRAWING}{_bits()}"


def drawing_style() -> str:
    """For a drawing that stands alone: light, on its own background."""
    return f"svg{{{_LIGHT};background:var(--page)}}{DRAWING}{_bits()}"
