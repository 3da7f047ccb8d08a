"""`make bench`: measure Tailrace beside what else there is, print the table, fail when a bar is missed."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import generator, nchan, report, rows
from tests.bench.contenders import (
    BARE,
    BASELINES,
    CHANNELS,
    STARLETTE,
    TAILRACE_SSE,
    TAILRACE_WEBSOCKET,
    Contender,
    nchan_in,
)
from tests.bench.database import Databases
from tests.bench.explore import REFERENCES
from tests.bench.frozen import measure_frozen
from tests.bench.ingest import measure_ingest
from tests.bench.latency import measure_latency
from tests.bench.measure import FULL, QUICK, Bench, Plan, run_rounds, start
from tests.bench.page import page
from tests.bench.previews import measure_previews
from tests.bench.resume import measure_resume
from tests.bench.rows import Row
from tests.bench.scaling import LONG, SHORT, Axis, Series, measure_scaling
from tests.bench.serving import raise_descriptor_limit

BUILD = Path(__file__).parents[2] / "build" / "bench"
NOTE = """
The cost is the server process's user and system time (its database's is not in it). The readers share the
machine, but take what has arrived only when the server is quiet, and the next event comes only when all have
the last one: they cannot slow it. Server, client: shares of one core's time, in turns; idle: of all cores'.
Compare ratios, not times: they alone carry over from machine to machine."""


@dataclass(slots=True)
class Outcome:
    """All that was measured."""

    rows: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    costs: list[tuple[str, list[tuple[str, float]]]] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)


class Run:
    """One run: the parts that were asked for, one after the other."""

    def __init__(self, plan: Plan, axis: Axis, databases: Databases, scratch: str, *, explore: bool) -> None:
        self._plan = plan
        self._axis = axis
        self._databases = databases
        self._scratch = scratch
        self._explore = explore
        self.outcome = Outcome()

    @property
    def parts(self) -> Mapping[str, Callable[[], None]]:
        """In the order in which they run."""
        return {
            "previews": self._previews,
            "latency": self._latency,
            "ingest": self._ingest,
            "frozen": self._frozen,
            "resume": self._resume,
            "delivery": self._delivery,
            "scaling": self._scaling,
        }

    def _fresh(self, contender: Contender) -> Contender:
        return self._databases.equip(contender)

    def _keep(self, name: str, measured: Any, found: Any, lines: Any) -> None:
        self.outcome.raw[name] = asdict(measured)
        self.outcome.rows += found
        self.outcome.lines += lines

    def _previews(self) -> None:
        previews = measure_previews(self._databases.create(), *self._plan.captured)
        self._keep("previews", previews, rows.previews_rows(previews), report.previews_table(previews))

    def _latency(self) -> None:
        own = (TAILRACE_SSE, TAILRACE_WEBSOCKET)
        latencies = {each.name: measure_latency(self._fresh(each), self._plan.latencies) for each in own}
        self.outcome.raw["latency"] = {name: asdict(each) for name, each in latencies.items()}
        self.outcome.rows += rows.latency_rows(latencies)
        self.outcome.lines += report.latency_table(latencies)

    def _ingest(self) -> None:
        ingest = measure_ingest(self._fresh(TAILRACE_SSE), self._plan.ingest_seconds)
        self._keep("ingest", ingest, rows.ingest_rows(ingest), report.ingest_table(ingest))

    def _frozen(self) -> None:
        frozen = measure_frozen(self._fresh(TAILRACE_SSE), self._plan.readers, *self._plan.frozen)
        self._keep("frozen", frozen, rows.frozen_rows(frozen), report.frozen_table(frozen))

    def _resume(self) -> None:
        resume = measure_resume(self._fresh(TAILRACE_SSE), self._plan.readers)
        self._keep("resume", resume, rows.resume_rows(resume), report.resume_table(resume))

    def _delivery(self) -> None:
        contenders = [*BASELINES, TAILRACE_SSE, TAILRACE_WEBSOCKET, CHANNELS, STARLETTE]
        if nchan.is_installed():
            contenders.append(nchan_in(self._scratch))
        else:
            self.outcome.lines.append(nchan.MISSING)
        contenders += REFERENCES if self._explore else ()
        with ExitStack() as stack:
            benches: dict[str, Bench] = {}
            for contender in contenders:
                bench = benches[contender.name] = start(self._fresh(contender), self._plan.readers)
                stack.callback(bench.close)
            every = list(benches.values())
            run_rounds(every, self._plan)
        outcome, generators = self.outcome, generator.generator_of(every)
        outcome.raw["delivery"] = {
            bench.contender.name: {
                "kilobytes_per_reader": bench.kilobytes_per_reader,
                "samples": {burst: [asdict(sample) for sample in samples] for burst, samples in bench.samples.items()},
            }
            for bench in every
        }
        outcome.raw["generator"] = [asdict(each) for each in generators]
        outcome.rows += rows.delivery_rows(benches)
        outcome.lines += [*report.cpu_table(every, [benches[each.name] for each in BASELINES])]
        outcome.lines += [*report.memory_table(every), *generator.table(generators)]
        for burst, _ in self._plan.publishes:
            costs = [(bench.contender.name, rows.cost(bench, burst)) for bench in every]
            outcome.costs.append((f"µs of server CPU an event, bursts of {burst}", costs))
        memory = [(bench.contender.name, bench.kilobytes_per_reader) for bench in every if bench.contender != BARE]
        outcome.costs.append(("KB of memory an idle reader", memory))

    def _scaling(self) -> None:
        self.outcome.series = measure_scaling(TAILRACE_SSE, self._fresh, self._axis)
        self.outcome.raw["scaling"] = [asdict(each) for each in self.outcome.series]
        self.outcome.lines += report.scaling_table(self.outcome.series)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 when a bar was missed."""
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter series")
    parser.add_argument("--full", action="store_true", help="the long series too: up to ten million events")
    parser.add_argument("--explore", action="store_true", help="also what uvicorn allows")
    parser.add_argument("--only", default="", help="some parts: previews,latency,ingest,frozen,resume,delivery,scaling")
    options = parser.parse_args(arguments)
    plan, axis = (QUICK, SHORT) if options.quick else (FULL, LONG if options.full else Axis())
    begun, load = time.monotonic(), os.getloadavg()[0]
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    with Databases() as databases, tempfile.TemporaryDirectory(prefix="tailrace-bench-") as scratch:
        Path(scratch).chmod(0o755)  # nginx's worker has to pass
        run = Run(plan, axis, databases, scratch, explore=options.explore)
        wanted = options.only.split(",") if options.only else list(run.parts)
        if strange := set(wanted) - set(run.parts):
            parser.error(f"there is no part {', '.join(sorted(strange))}; there are {', '.join(run.parts)}")
        for name in wanted:
            print(f"{time.monotonic() - begun:5.0f} s  {name}", file=sys.stderr, flush=True)
            run.parts[name]()
    about = (
        f"{plan.readers:,} readers, {plan.rounds} rounds, contenders in turn; {os.cpu_count()} cores, load {load:.1f} "
        f"at the beginning and {os.getloadavg()[0]:.1f} at the end; {time.monotonic() - begun:.0f} s in all."
    )
    return conclude(about, run.outcome)


def conclude(about: str, outcome: Outcome) -> int:
    """Print, write, judge."""
    print("\n".join([*outcome.lines, NOTE, "", about, "", rows.HEADER, *map(str, outcome.rows)]))
    BUILD.mkdir(parents=True, exist_ok=True)
    judged = [{**asdict(row), "reached": row.reached} for row in outcome.rows]
    results = {"about": about, "rows": judged, **outcome.raw}
    (BUILD / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (BUILD / "index.html").write_text(page(about, outcome.rows, outcome.costs, outcome.series))
    print(f"\nwritten: {BUILD / 'results.json'}, {BUILD / 'index.html'}")
    return 0 if all(row.reached for row in outcome.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
