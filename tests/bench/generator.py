"""Whether the load generator was the bottleneck.

It cannot slow a server that it only reads from when that is quiet. Here is also how much of itself it used, and how
much faster it has driven another server in the same run.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.measure import Bench


@dataclass(frozen=True, slots=True)
class Generator:
    """For one contender and burst size: events received a second of wall time, of the generator's CPU, its share."""

    contender: str
    burst: int
    per_second: float
    per_own_cpu_second: float
    share: float


def generator_of(benches: Sequence[Bench]) -> list[Generator]:
    """The medians over all rounds."""
    found = []
    for bench in benches:
        for burst, samples in bench.samples.items():
            rate = statistics.median(sample.server_share / sample.microseconds * 1e6 for sample in samples)
            share = statistics.median(sample.client_share for sample in samples)
            found.append(Generator(bench.contender.name, burst, rate, rate / share, share))
    return found


def table(generators: Sequence[Generator]) -> Iterator[str]:
    """As text."""
    yield f"\n{'the load generator':<34}{'burst':>6}{'events/s':>12}{'a CPU second':>14}{'its share of a core':>21}"
    for each in generators:
        yield (
            f"  {each.contender:<32}{each.burst:>6}{each.per_second:>12,.0f}{each.per_own_cpu_second:>14,.0f}"
            f"{each.share:>21.0%}"
        )
