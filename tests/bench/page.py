"""The figures as a page: tables and plots in one file that asks nothing of anybody."""

import math
from collections.abc import Iterable, Sequence
from html import escape

from tests.bench.rows import Row, shown
from tests.bench.scaling import Series

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --soft: #5b6b7a; --line: #d5dde4; --ours: #0b7285; --bad: #b3261e;
  --paper: #fbfcfd; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa8b5; --line: #33404c; --ours: #66d9e8; --bad: #ff8a80; --paper: #12181f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, figcaption { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.missed { color: var(--bad); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } svg { width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
svg .value { fill: var(--ink); } svg .bar { fill: var(--soft); opacity: .45; }
svg .own { fill: var(--ours); opacity: 1; }
svg path { fill: none; stroke: var(--ours); stroke-width: 2; } svg circle { fill: var(--ours); }
svg line { stroke: var(--line); }
"""


def page(
    about: str, rows: Sequence[Row], costs: Sequence[tuple[str, Sequence[tuple[str, float]]]], series: Iterable[Series]
) -> str:
    """`costs` are groups of named figures, drawn as bars; `series` are drawn as lines."""
    bars = "".join(_bars(title, values) for title, values in costs)
    lines = "".join(_line(each) for each in series)
    if lines:
        lines = f'<h2>As there is more of it</h2><div class="plots">{lines}</div>'
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tailrace: figures</title><style>{_STYLE}</style>
<h1>Tailrace: figures</h1><p>{escape(about)}</p>
<h2>Bars</h2>{_table(rows)}
<h2>Beside what else there is</h2><div class="plots">{bars}</div>
{lines}
</html>
"""


def _table(rows: Sequence[Row]) -> str:
    cells = "".join(_row(row) for row in rows)
    heads = "".join(f"<th>{head}" for head in ("what", "ours", "beside", "theirs", "ratio", "bar", ""))
    return f"<table><tr>{heads}</tr>{cells}</table>"


def _row(row: Row) -> str:
    theirs = "" if row.baseline is None else f"{shown(row.baseline, 3)} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}" + ("" if row.spread is None else f" ± {row.spread:.3f}")
    bar = f"{'≥' if row.at_least else '≤'} {shown(row.bar)}"
    verdict = "reached" if row.reached else '<span class="missed">missed</span>'
    cells = (escape(row.what), f"{shown(row.own)} {row.unit}", row.against, theirs, ratio, bar, verdict)
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


def _bars(title: str, values: Sequence[tuple[str, float]]) -> str:
    most = max(value for _, value in values)
    drawn = []
    for place, (name, value) in enumerate(values):
        y, width = 8 + place * 30, max(1.0, 250 * value / most)
        kind = "bar own" if name.startswith("tailrace") else "bar"
        drawn.append(
            f'<text x="0" y="{y + 8}">{escape(name)}</text><rect class="{kind}" x="0" y="{y + 12}" width="{width:.1f}" '
            f'height="9"/><text class="value" x="{width + 6:.1f}" y="{y + 20}">{shown(value, 3)}</text>'
        )
    svg = f'<svg viewBox="0 0 310 {len(values) * 30 + 10}" role="img">{"".join(drawn)}</svg>'
    return f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>"


def _line(series: Series) -> str:
    """Logarithmic to the right, from zero upwards."""
    low, high = math.log10(series.points[0][0]), math.log10(series.points[-1][0])
    most = max(value for _, value in series.points) * 1.15

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = 0.0 if high == low else (math.log10(point[0]) - low) / (high - low)
        return 40 + 240 * x, 150 - 130 * point[1] / most

    spots = [place(point) for point in series.points]
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/><text class="value" x="{x:.1f}" y="{y - 8:.1f}" '
        f'text-anchor="middle">{shown(value, 3)}</text>'
        f'<text x="{x:.1f}" y="166" text-anchor="middle">{_short(amount)}</text>'
        for (x, y), (amount, value) in zip(spots, series.points, strict=True)
    )
    svg = (
        f'<svg viewBox="0 0 320 190" role="img"><line x1="40" y1="150" x2="290" y2="150"/><path d="{path}"/>{marks}'
        f'<text x="165" y="184" text-anchor="middle">{escape(series.grows)}</text></svg>'
    )
    why = f" ({escape(series.why)})" if series.why else ""
    return f"<figure>{svg}<figcaption>{escape(series.name)}: {escape(series.costs)}{why}</figcaption></figure>"


def _short(amount: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if amount >= size:
            return f"{amount / size:g}{unit}"
    return f"{amount:g}"
