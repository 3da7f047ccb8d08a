"""What a soak has found: as text, as JSON, and as a page with its curves."""

import itertools
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import msgspec

from tests.soak.samples import GROWTH_MB, MEGABYTE, SLOPE_MB_PER_MINUTE, Sample
from tests.soak.soak import Outcome

WIDTH, HEIGHT = 720, 160


def text(outcome: Outcome) -> str:
    return "\n".join(_lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    plan, counts = outcome.plan, outcome.counts
    yield f"Soak of {outcome.seconds:.0f} s with {plan.readers} readers, TAILRACE_TEST_SEED={plan.seed}"
    yield f"  {outcome.events} events of {counts.get('runs', 0)} runs stored; {counts.get('frames', 0)} frames checked"
    yield f"  {counts.get('connections', 0)} connections, {counts.get('ends', 0)} ends, {counts.get('gap', 0)} gaps"
    yield f"  {counts.get('tasks', 0)} tasks followed to their end, {counts.get('lines', 0)} lines of a preview"
    yield f"  answers to what was published: {outcome.answers}"
    yield "  faults: " + ("; ".join(f"{name} ({n})" for name, n in sorted(outcome.faults.items())) or "none")
    yield f"  before: {outcome.before}"
    yield f"  after:  {outcome.after}"
    flat = outcome.flat
    mark = "flat" if flat.is_flat else "NOT FLAT"
    yield (
        f"  memory: {mark}: {flat.megabytes_per_minute:+.2f} MB a minute, {flat.grown_megabytes:+.1f} MB after the"
        f" warm-up (a leak has more than {SLOPE_MB_PER_MINUTE:g} a minute and {GROWTH_MB:g} in all)"
    )
    yield f"  violations: {len(outcome.violations)}"
    yield from (f"    {violation}" for violation in outcome.violations)
    yield "PASS" if outcome.passed else "FAIL"


def write(outcome: Outcome, directory: Path) -> None:
    """soak.txt, soak.json and soak.html."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "soak.txt").write_text(text(outcome) + "\n")
    (directory / "soak.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))
    (directory / "soak.html").write_text(_page(outcome))


def _page(outcome: Outcome) -> str:
    samples = outcome.samples
    curves = [
        ("Memory of the service, MB", [sample.rss / MEGABYTE for sample in samples]),
        ("Readers that are there", [float(sample.crowd) for sample in samples]),
        ("Descriptors", [float(sample.descriptors) for sample in samples]),
        ("CPU of the service, cores", _rates(samples)),
    ]
    drawn = "\n".join(_curve(title, [sample.at for sample in samples], values) for title, values in curves)
    return f"""<!doctype html>
<meta charset="utf-8"><title>Soak</title>
<style>body {{ font: 14px/1.5 system-ui; max-width: 760px; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; background: #f6f7f9 }} polyline {{ fill: none; stroke: #2563eb; stroke-width: 1.5 }}
pre {{ overflow-x: auto }} @media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd }}
svg {{ background: #1c1f24 }} polyline {{ stroke: #7aa2ff }} }}</style>
<h1>Soak</h1>
<pre style="white-space: pre-wrap">{escape(text(outcome))}</pre>
{drawn}
"""


def _rates(samples: Sequence[Sample]) -> list[float]:
    rates = [
        (after.cpu_seconds - before.cpu_seconds) / max(0.001, after.at - before.at)
        for before, after in itertools.pairwise(samples)
    ]
    return [rates[0], *rates] if rates else [0.0] * len(samples)


def _curve(title: str, times: Sequence[float], values: Sequence[float]) -> str:
    top, end = max(values, default=0.0) or 1.0, max(times, default=0.0) or 1.0
    points = " ".join(
        f"{time / end * WIDTH:.1f},{HEIGHT - value / top * (HEIGHT - 10):.1f}"
        for time, value in zip(times, values, strict=True)
    )
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><polyline points="{points}"/></svg>'
    return f"<h2>{escape(title)}</h2><p>0 to {top:.4g} over {end:.0f} s</p>{drawing}"
