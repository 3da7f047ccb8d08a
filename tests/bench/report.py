"""Turns samples into the table that `make bench` prints; judges Tailrace by the bars of DESIGN section 11."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.frozen import Frozen
from tests.bench.ingest import Ingest
from tests.bench.latency import Latency
from tests.bench.measure import Bench
from tests.bench.previews import Previews


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar: what was measured and the most it may be."""

    what: str
    value: float
    bar: float
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the bar was reached."""
        return self.value <= self.bar

    def __str__(self) -> str:
        mark = "pass" if self.passed else "MISS"
        return f"{mark}  {self.what}: {self.value:.3g}{self.unit} (bar {self.bar:g})"


def cost(bench: Bench, burst: int) -> float:
    """Microseconds of server CPU per delivery, the median of all rounds."""
    return statistics.median(sample.microseconds for sample in bench.samples[burst])


def ratio(bench: Bench, baseline: Bench, burst: int) -> float:
    """Cost beside a baseline's: the median of the ratios within each round."""
    pairs = zip(bench.samples[burst], baseline.samples[burst], strict=True)
    return statistics.median(own.microseconds / other.microseconds for own, other in pairs)


def cpu_table(benches: Sequence[Bench], baselines: Sequence[Bench]) -> Iterator[str]:
    """Per burst and contender: the cost, its spread, its ratios, and who used the cores meanwhile."""
    for burst in benches[0].samples:
        titles = "".join(f"{'x ' + baseline.contender.name:>30}" for baseline in baselines)
        head = f"{f'bursts of {burst}':<34}{'us/event':>10}{'min..max':>16}{titles}"
        yield f"\n{head}{'server':>9}{'client':>8}{'idle':>7}"
        for bench in benches:
            samples = bench.samples[burst]
            costs = [sample.microseconds for sample in samples]
            spread = f"{min(costs):.2f}..{max(costs):.2f}"
            ratios = "".join(f"{ratio(bench, baseline, burst):>30.3f}" for baseline in baselines)
            shares = [
                statistics.median(getattr(sample, name) for sample in samples)
                for name in ("server_share", "client_share", "idle_share")
            ]
            yield (
                f"  {bench.contender.name:<34}{cost(bench, burst):>8.2f}{spread:>16}{ratios}"
                f"{shares[0]:>9.0%}{shares[1]:>8.0%}{shares[2]:>7.0%}"
            )


def memory_table(benches: Sequence[Bench]) -> Iterator[str]:
    """Resident memory per idle reader."""
    yield "\nKB of resident memory per idle reader"
    for bench in benches:
        yield f"  {bench.contender.name:<34}{bench.kilobytes_per_reader:>8.1f}"


def latency_table(latencies: Mapping[str, Latency]) -> Iterator[str]:
    """From publish to receipt."""
    yield "\nms from publish over HTTP to receipt, 1 reader    p50     p99   (acknowledged p50)"
    for name, latency in latencies.items():
        yield f"  {name:<44}{latency.p50:>7.2f}{latency.p99:>8.2f}{latency.acknowledged_p50:>13.2f}"


def service_table(ingest: Ingest, frozen: Frozen) -> Iterator[str]:
    """Durable ingest, and the price of a frozen reader."""
    yield "\ndurable ingest through HTTP, batches of 100, 8 workers"
    yield f"  {ingest.per_core:>8,.0f} events a second of server CPU; {ingest.per_second:,.0f} a second as it was"
    yield "\nms from publish to receipt, p99 over 1,000 readers that take bursts of 10 at once, per round"
    for title, rounds in (("alone", frozen.without), ("beside a frozen reader", frozen.with_one)):
        yield f"  {title:<24}" + "".join(f"{value:>8.1f}" for value in rounds)


def service_verdicts(ingest: Ingest, frozen: Frozen) -> Iterator[Verdict]:
    """The bars of ingest and of the frozen reader. The first is turned over: less is better everywhere else."""
    yield Verdict("durable ingest, server CPU per event", 1e6 / ingest.per_core, 50, " us")
    yield Verdict("p99 beside a frozen reader", frozen.ratio, 1.1, "x")


def previews_table(previews: Previews) -> Iterator[str]:
    """A program's output, on its way to storage and to viewers."""
    yield "\na program prints as fast as it can: lines a second until the last is stored"
    for capture in previews.captures:
        yield (
            f"  {capture.viewers:>4} viewers {capture.per_second:>10,.0f} a second, {capture.per_core:,.0f} of CPU; "
            f" {capture.stored:,} stored, {capture.dropped:,} dropped of {capture.lines:,}"
        )
    yield f"  ms from its print to an SSE reader: p50 {previews.p50:.1f}, p99 {previews.p99:.1f}"


def previews_verdicts(previews: Previews) -> Iterator[Verdict]:
    """All of it stored or counted, and fast enough; turned over, since less is better everywhere else."""
    alone = previews.captures[0]
    yield Verdict("captured line, stored or counted", 1e6 / alone.per_second, 20, " us")
    missing = sum(abs(each.lines - each.stored - each.dropped) for each in previews.captures)
    yield Verdict("lines neither stored nor counted", missing, 0, "")


def sse_verdicts(own: Bench, litestar: Bench, bare: Bench) -> Iterator[Verdict]:
    """The bars of Tailrace over SSE."""
    yield Verdict("single events, CPU beside litestar", ratio(own, litestar, 1), 0.5, "x")
    yield Verdict("single events, CPU beside bare sends", ratio(own, bare, 1), 2.0, "x")
    yield Verdict("bursts of 10, CPU beside litestar", ratio(own, litestar, 10), 1 / 10, "x")
    yield Verdict("bursts of 100, CPU beside litestar", ratio(own, litestar, 100), 1 / 50, "x")
    yield Verdict("memory per idle SSE reader", own.kilobytes_per_reader, 20, " KB")


def websocket_verdicts(own: Bench, sse: Bench) -> Iterator[Verdict]:
    """The bars of Tailrace over WebSocket."""
    yield Verdict("single events, WebSocket CPU beside SSE", ratio(own, sse, 1), 1.4, "x")
    yield Verdict("memory per idle WebSocket reader", own.kilobytes_per_reader, 20, " KB")


def latency_verdicts(name: str, latency: Latency) -> Iterator[Verdict]:
    """The bars of durable publish to receipt."""
    yield Verdict(f"{name}: publish to receipt p50", latency.p50, 2, " ms")
    yield Verdict(f"{name}: publish to receipt p99", latency.p99, 10, " ms")
