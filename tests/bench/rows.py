"""The rows of DESIGN section 11: our figure, the baseline's from the same run, the ratio, and the bar."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import BARE, LITESTAR, TAILRACE_SSE, TAILRACE_WEBSOCKET
from tests.bench.frozen import Frozen
from tests.bench.ingest import Ingest
from tests.bench.latency import Latency
from tests.bench.measure import Bench
from tests.bench.previews import Previews
from tests.bench.resume import Resume

US: Final = "µs"


def shown(value: float, digits: int = 4) -> str:
    """With so many digits, and never with an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.{digits}g}"


@dataclass(frozen=True, slots=True)
class Row:
    """`own` and `baseline` in `unit`; the bar is the most that `judged` may be, or the least when `at_least`."""

    what: str
    own: float
    unit: str
    judged: float
    bar: float
    baseline: float | None = None
    against: str = ""
    at_least: bool = False
    spread: float | None = None  # of the judged figure over the rounds: half of them lie within this of the median

    @property
    def reached(self) -> bool:
        """Whether the bar was reached."""
        return self.judged >= self.bar if self.at_least else self.judged <= self.bar

    @property
    def ratio(self) -> float | None:
        """Own beside the baseline's."""
        return None if self.baseline is None else self.judged

    def __str__(self) -> str:
        baseline = "" if self.baseline is None else shown(self.baseline, 3)
        ratio = "" if self.baseline is None else f"{self.judged:.3f}"
        bar = f"{'≥' if self.at_least else '≤'} {shown(self.bar)}"
        return (
            f"{self.what:<52}{shown(self.own):>10} {self.unit:<9}{self.against:<10}{baseline:>9}{ratio:>8}{bar:>10}  "
            + ("reached" if self.reached else "MISSED")
        )


HEADER: Final = f"{'what':<52}{'ours':>10} {'':<9}{'beside':<10}{'theirs':>9}{'ratio':>8}{'bar':>10}"


def cost(bench: Bench, burst: int) -> float:
    """Microseconds of server CPU per delivery, the median of all rounds."""
    return statistics.median(sample.microseconds for sample in bench.samples[burst])


def ratios(bench: Bench, baseline: Bench, burst: int) -> list[float]:
    """Cost beside a baseline's, within each round."""
    pairs = zip(bench.samples[burst], baseline.samples[burst], strict=True)
    return [own.microseconds / other.microseconds for own, other in pairs]


def ratio(bench: Bench, baseline: Bench, burst: int) -> float:
    """The median of the rounds'."""
    return statistics.median(ratios(bench, baseline, burst))


def _beside(what: str, bench: Bench, baseline: Bench, burst: int, bar: float) -> Row:
    within = ratios(bench, baseline, burst)
    spread = None
    if len(within) >= 4:
        low, _, high = statistics.quantiles(within, n=4)
        spread = (high - low) / 2
    against = {LITESTAR.name: "litestar", BARE.name: "bare loop", TAILRACE_SSE.name: "our SSE"}[baseline.contender.name]
    return Row(
        what,
        cost(bench, burst),
        US,
        statistics.median(within),
        bar,
        baseline=cost(baseline, burst),
        against=against,
        spread=spread,
    )


def delivery_rows(benches: Mapping[str, Bench]) -> Iterator[Row]:
    """CPU per delivery, and memory per idle reader."""
    sse, websocket = benches[TAILRACE_SSE.name], benches[TAILRACE_WEBSOCKET.name]
    litestar, bare = benches[LITESTAR.name], benches[BARE.name]
    yield _beside("CPU per delivery, single events, SSE", sse, litestar, 1, 0.5)
    yield _beside("CPU per delivery, single events, SSE", sse, bare, 1, 2.0)
    yield _beside("CPU per delivery, single events, WebSocket", websocket, sse, 1, 1.4)
    yield _beside("CPU per event in bursts of 10, SSE", sse, litestar, 10, 1 / 10)
    yield _beside("CPU per event in bursts of 100, SSE", sse, litestar, 100, 1 / 50)
    for transport, bench in (("SSE", sse), ("WebSocket", websocket)):
        kilobytes = bench.kilobytes_per_reader
        yield Row(f"memory per idle reader, {transport}", kilobytes, "KB", kilobytes, 20)


def latency_rows(latencies: Mapping[str, Latency]) -> Iterator[Row]:
    """From durable publish to receipt."""
    for name, latency in latencies.items():
        transport = name.partition(" ")[2]
        yield Row(f"durable publish to receipt, p50, {transport}", latency.p50, "ms", latency.p50, 2)
        yield Row(f"durable publish to receipt, p99, {transport}", latency.p99, "ms", latency.p99, 10)


def ingest_rows(ingest: Ingest) -> Iterator[Row]:
    """Durable ingest."""
    what = "durable ingest in HTTP batches of 100, one core"
    yield Row(what, ingest.per_core, "events/s", ingest.per_core, 20_000, at_least=True)


def frozen_rows(frozen: Frozen) -> Iterator[Row]:
    """What a frozen reader costs the others."""
    alone, beside = statistics.median(frozen.without), statistics.median(frozen.with_one)
    what = "p99 of 1,000 readers beside a frozen one"
    yield Row(what, beside, "ms", frozen.ratio, 1.1, baseline=alone, against="alone")


def resume_rows(resume: Resume) -> Iterator[Row]:
    """The resume after a kill -9."""
    yield Row(f"{resume.readers:,} readers live again after kill -9", resume.seconds, "s", resume.seconds, 5)
    yield Row("… events lost", resume.lost, "", resume.lost, 0)
    yield Row("… events repeated", resume.repeated, "", resume.repeated, 0)


def previews_rows(previews: Previews) -> Iterator[Row]:
    """All of a program's output stored or counted, and fast enough."""
    alone = previews.captures[0]
    yield Row("log capture from one child", alone.per_second, "lines/s", alone.per_second, 50_000, at_least=True)
    missing = sum(abs(each.lines - each.stored - each.dropped) for each in previews.captures)
    yield Row("… lines neither stored nor counted", missing, "", missing, 0)
