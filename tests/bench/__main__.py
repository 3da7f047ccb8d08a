"""`make bench`: measure Tailrace beside the baselines, print the table, fail when a bar is missed."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from tests.bench import report
from tests.bench.contenders import BARE, BASELINES, LITESTAR, TAILRACE_SSE, TAILRACE_WEBSOCKET, Contender
from tests.bench.database import Databases
from tests.bench.explore import REFERENCES
from tests.bench.frozen import measure_frozen
from tests.bench.ingest import measure_ingest
from tests.bench.latency import Latency, measure_latency
from tests.bench.measure import FULL, QUICK, Bench, Plan, run_rounds, start
from tests.bench.previews import Previews, measure_previews
from tests.bench.serving import raise_descriptor_limit

NOTE = """\
{readers} readers, {rounds} rounds, contenders in turn; {seconds:.0f} s in all.
The cost is the server process's user and system time (its database's is not in it). The readers share the
machine, but take what has arrived only when the server is quiet, and the next event comes only when all have
the last one: they cannot slow it. Server, client: shares of one core's time, in turns; idle: of all cores'.
Compare ratios, not times: they alone carry over from machine to machine."""


def verdicts(benches: Mapping[str, Bench], latencies: Mapping[str, Latency]) -> Iterator[report.Verdict]:
    """Every bar that applies to what was measured."""
    sse = benches[TAILRACE_SSE.name]
    yield from report.sse_verdicts(sse, benches[LITESTAR.name], benches[BARE.name])
    yield from report.websocket_verdicts(benches[TAILRACE_WEBSOCKET.name], sse)
    for name, latency in latencies.items():
        yield from report.latency_verdicts(name, latency)


def choose(explore: bool) -> list[Contender]:
    """The contenders of this run; the baselines first."""
    return [*BASELINES, TAILRACE_SSE, TAILRACE_WEBSOCKET, *(REFERENCES if explore else ())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 when a bar was missed."""
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about a minute")
    parser.add_argument("--explore", action="store_true", help="also what uvicorn allows")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    begun = time.monotonic()
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    with Databases() as databases:
        previews = measure_previews(databases.create(), *plan.captured)
        return run([databases.equip(contender) for contender in choose(options.explore)], plan, begun, previews)


def run(contenders: Sequence[Contender], plan: Plan, begun: float, previews: Previews) -> int:
    """Measure, print, judge."""
    latencies = {each.name: measure_latency(each, plan.latencies) for each in contenders if each.durable}
    ingest = measure_ingest(contenders[len(BASELINES)], plan.ingest_seconds)
    frozen = measure_frozen(contenders[len(BASELINES)], plan.readers, *plan.frozen)
    with ExitStack() as stack:
        benches = []
        for contender in contenders:
            benches.append(start(contender, plan.readers))
            stack.callback(benches[-1].close)
        run_rounds(benches, plan)
    print(NOTE.format(readers=plan.readers, rounds=plan.rounds, seconds=time.monotonic() - begun))
    lines = [*report.cpu_table(benches, benches[: len(BASELINES)]), *report.memory_table(benches)]
    lines += [*report.latency_table(latencies), *report.service_table(ingest, frozen)]
    lines += report.previews_table(previews)
    print("\n".join(lines), end="\n\n")
    judged = list(verdicts({bench.contender.name: bench for bench in benches}, latencies))
    judged += [*report.service_verdicts(ingest, frozen), *report.previews_verdicts(previews)]
    print("\n".join(map(str, judged)))
    return 0 if all(verdict.passed for verdict in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
