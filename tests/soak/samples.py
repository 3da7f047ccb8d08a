"""What is looked at every now and then, and whether memory stays flat."""

from collections.abc import Sequence

from msgspec import Struct

MEGABYTE = 1024 * 1024
WARM_UP_SHARE = 0.34  # of the time; until then caches, pools and the allocator fill
SLOPE_MB_PER_MINUTE = 2.0
GROWTH_MB = 40.0


class Sample(Struct, frozen=True):
    """One look. None where the service did not answer, since something was being done to it."""

    at: float  # seconds since the start
    rss: int
    descriptors: int
    cpu_seconds: float
    readers: int | None
    loop_tasks: int | None
    head: int | None
    crowd: int


class Flatness(Struct, frozen=True):
    """The memory after the warm-up: how it leans, and how far it went."""

    megabytes_per_minute: float
    grown_megabytes: float

    @property
    def is_flat(self) -> bool:
        """Either may be chance: what leaks does both."""
        return self.megabytes_per_minute <= SLOPE_MB_PER_MINUTE or self.grown_megabytes <= GROWTH_MB


def flatness(samples: Sequence[Sample]) -> Flatness:
    """By least squares over the samples after the warm-up."""
    end = samples[-1].at
    kept = [sample for sample in samples if sample.at >= end * WARM_UP_SHARE]
    times = [sample.at / 60 for sample in kept]
    sizes = [sample.rss / MEGABYTE for sample in kept]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((time - middle) ** 2 for time in times)
    slope = sum((t - middle) * (s - mean) for t, s in zip(times, sizes, strict=True)) / spread if spread else 0.0
    fifth = max(1, len(sizes) // 5)
    grown = sum(sizes[-fifth:]) / fifth - sum(sizes[:fifth]) / fifth
    return Flatness(slope, grown)
