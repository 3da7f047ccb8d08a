"""What `make bench` prints beside the rows: who used the cores, and what else was measured."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

from tests.bench.frozen import Frozen
from tests.bench.ingest import Ingest
from tests.bench.latency import Latency
from tests.bench.measure import Bench
from tests.bench.previews import Previews
from tests.bench.resume import Resume
from tests.bench.rows import cost, ratio, shown
from tests.bench.scaling import Series


def cpu_table(benches: Sequence[Bench], baselines: Sequence[Bench]) -> Iterator[str]:
    """Per burst and contender: the cost, its spread, its ratios, and who used the cores meanwhile."""
    for burst in benches[0].samples:
        titles = "".join(f"{'x ' + baseline.contender.name:>28}" for baseline in baselines)
        head = f"{f'bursts of {burst}':<28}{'us/event':>10}{'min..max':>16}{titles}"
        yield f"\n{head}{'server':>9}{'client':>8}{'idle':>7}"
        for bench in benches:
            samples = bench.samples[burst]
            costs = [sample.microseconds for sample in samples]
            spread = f"{min(costs):.2f}..{max(costs):.2f}"
            ratios = "".join(f"{ratio(bench, baseline, burst):>28.3f}" for baseline in baselines)
            shares = [
                statistics.median(getattr(sample, name) for sample in samples)
                for name in ("server_share", "client_share", "idle_share")
            ]
            yield (
                f"  {bench.contender.name:<28}{cost(bench, burst):>8.2f}{spread:>16}{ratios}"
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


def ingest_table(ingest: Ingest) -> Iterator[str]:
    """Durable ingest."""
    yield "\ndurable ingest through HTTP, batches of 100, 8 workers"
    yield f"  {ingest.per_core:>8,.0f} events a second of server CPU; {ingest.per_second:,.0f} a second as it was"


def frozen_table(frozen: Frozen) -> Iterator[str]:
    """The price of a frozen reader."""
    yield "\nms from publish to receipt, p99 over 1,000 readers that take bursts of 10 at once, per round"
    for title, rounds in (("alone", frozen.without), ("beside a frozen reader", frozen.with_one)):
        yield f"  {title:<24}" + "".join(f"{value:>8.1f}" for value in rounds)


def resume_table(resume: Resume) -> Iterator[str]:
    """After a kill -9."""
    yield "\na server killed with its readers, and another started"
    yield (
        f"  {resume.readers:,} readers: it listened after {resume.starting_seconds:.2f} s, all were live "
        f"{resume.seconds:.2f} s later; {resume.lost} events lost, {resume.repeated} repeated"
    )


def previews_table(previews: Previews) -> Iterator[str]:
    """A program's output, on its way to storage and to viewers."""
    yield "\na program prints as fast as it can: lines a second until the last is stored"
    for capture in previews.captures:
        yield (
            f"  {capture.viewers:>4} viewers {capture.per_second:>10,.0f} a second, {capture.per_core:,.0f} of CPU; "
            f" {capture.stored:,} stored, {capture.dropped:,} dropped of {capture.lines:,}"
        )
    yield f"  ms from its print to an SSE reader: p50 {previews.p50:.1f}, p99 {previews.p99:.1f}"


def scaling_table(series: Sequence[Series]) -> Iterator[str]:
    """One line each."""
    yield "\nas there is more of it"
    for each in series:
        points = "".join(f"{f'{amount:,.0f}: {shown(value, 3)}':>20}" for amount, value in each.points)
        yield f"  {f'{each.name}, {each.costs}':<62}{points}"
        if each.why:
            yield f"      {each.why}"
