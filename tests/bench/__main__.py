"""`make bench`: measure Tailrace beside the baselines, print the table, fail when a bar is missed."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from tests.bench import report
from tests.bench.contenders import BARE, BASELINES, LITESTAR, TAILRACE_SSE, TAILRACE_WEBSOCKET, Contender
from tests.bench.explore import REFERENCES
from tests.bench.latency import Latency, measure_latency
from tests.bench.measure import FULL, QUICK, Bench, run_rounds, start
from tests.bench.serving import raise_descriptor_limit

NOTE = """\
{readers} readers, {rounds} rounds, contenders in turn; {seconds:.0f} s in all.
The cost is the server process's user and system time (its database's is not in it). The readers share the
machine, but take what has arrived only when the server is quiet, and the next event comes only when all have
the last one: they cannot slow it. Server, client: shares of one core's time, in turns; idle: of all cores'.
Compare ratios, not times: they alone carry over from machine to machine."""


def verdicts(benches: Mapping[str, Bench], latencies: Mapping[str, Latency]) -> Iterator[report.Verdict]:
    """Every bar that applies to what was measured."""
    sse = benches.get(TAILRACE_SSE.name) if TAILRACE_SSE else None
    websocket = benches.get(TAILRACE_WEBSOCKET.name) if TAILRACE_WEBSOCKET else None
    if sse:
        yield from report.sse_verdicts(sse, benches[LITESTAR.name], benches[BARE.name])
    if sse and websocket:
        yield from report.websocket_verdicts(websocket, sse)
    for name, latency in latencies.items():
        yield from report.latency_verdicts(name, latency)


def choose(explore: bool) -> list[Contender]:
    """The contenders of this run; the baselines first."""
    own = [contender for contender in (TAILRACE_SSE, TAILRACE_WEBSOCKET) if contender]
    return [*BASELINES, *own, *(REFERENCES if explore else ())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit status is 1 when a bar was missed."""
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under 40 s")
    parser.add_argument("--explore", action="store_true", help="also what uvicorn allows")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    begun = time.monotonic()
    raise_descriptor_limit()
    contenders = choose(options.explore)
    latencies = {each.name: measure_latency(each, plan.latencies) for each in contenders if each.durable}
    with ExitStack() as stack:
        benches = []
        for contender in contenders:
            benches.append(start(contender, plan.readers))
            stack.callback(benches[-1].close)
        run_rounds(benches, plan)
    print(NOTE.format(readers=plan.readers, rounds=plan.rounds, seconds=time.monotonic() - begun))
    lines = [*report.cpu_table(benches, benches[: len(BASELINES)]), *report.memory_table(benches)]
    if latencies:
        lines += report.latency_table(latencies)
    print("\n".join(lines), end="\n\n")
    judged = list(verdicts({bench.contender.name: bench for bench in benches}, latencies))
    print("\n".join(map(str, judged)) or "Tailrace is not among the contenders yet: nothing to judge.")
    return 0 if all(verdict.passed for verdict in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
