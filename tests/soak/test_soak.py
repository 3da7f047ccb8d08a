"""A short round, so that the soak itself works; and its parts."""

import os
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.soak import report
from tests.soak.chunks import Chunks
from tests.soak.samples import MEGABYTE, Sample, flatness
from tests.soak.soak import Plan, soak

BRIEF = (  # faults that are over soon
    "connections are cut in the middle of an event",
    "PostgreSQL is killed",
    "PostgreSQL hangs for a moment",
    "LISTEN is lost",
)


async def test_a_short_round_finds_nothing(tmp_path: Path) -> None:
    seed = os.environ.get("TAILRACE_TEST_SEED") or str(random.randrange(2**32))
    plan = Plan(
        seconds=20,
        readers=120,
        seed=seed,
        faults=BRIEF,
        fault_every_seconds=4,
        runs_at_once=4,
        pause_seconds=0.6,
        sample_every_seconds=0.5,
    )
    outcome = await soak(plan)
    report.write(outcome, tmp_path)
    print(report.text(outcome))
    assert outcome.violations == []
    assert outcome.counts["frames"] > 0
    assert sum(outcome.faults.values()) > 0
    assert {path.name for path in tmp_path.iterdir()} == {"soak.txt", "soak.json", "soak.html"}


def samples_of(sizes: list[float]) -> list[Sample]:
    return [
        Sample(
            at=place * 30.0,
            rss=int(size * MEGABYTE),
            descriptors=0,
            cpu_seconds=0,
            readers=0,
            loop_tasks=0,
            head=None,
            crowd=0,
        )
        for place, size in enumerate(sizes)
    ]


def test_memory_that_grows_is_not_flat_and_memory_that_has_grown_is() -> None:
    assert not flatness(samples_of([100 + 4 * place for place in range(40)])).is_flat
    assert flatness(samples_of([min(200, 100 + 20 * place) for place in range(40)])).is_flat
    assert flatness(samples_of([100 + place % 3 * 10 for place in range(40)])).is_flat


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_chunks_carry_the_same_wherever_they_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=12)))
    chunks, carried = Chunks(), b""
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        carried += chunks.feed(wire[start:end])
    assert carried == b"".join(parts)
