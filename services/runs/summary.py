"""What the service keeps of a run's events, so that a list needs no look at them."""

from collections.abc import Iterable

from msgspec import Struct, structs

from services.runs.events import Error, NodeUpdate, Status, cut_snippet
from shared.protocol.schema import Event

QUIET_NODES = frozenset({"supervisor", "system", "finish"})  # they speak of the work, not of its result
RATE_WEIGHT = 0.3
MAX_TOKENS = 2**53 - 1  # what JavaScript can hold
MAX_WORKERS = 1_000  # whose counters are kept apart; those of more are not counted
SHORTEST_INTERVAL_SECONDS = 0.1


class Counters(Struct, frozen=True):
    """One worker's cumulative tokens in its current attempt, and those of its earlier ones. `estimated`: they are a
    guess, which the next count replaces whatever it is; a real one only grows.
    """

    attempt: int = 1
    tokens_in: int = 0
    tokens_out: int = 0
    before_in: int = 0
    before_out: int = 0
    estimated: bool = False


class Summary(Struct, frozen=True):
    """`snippet_rank`: 3 from a node that works on the result, 2 from another, 1 a status message, 0 none."""

    counters: dict[str, Counters] = {}
    snippet: str | None = None
    snippet_rank: int = 0
    tokens_per_second: float = 0.0
    rate_tokens: int = 0
    rate_at: float | None = None

    @property
    def tokens_in(self) -> int:
        return min(MAX_TOKENS, sum(c.tokens_in + c.before_in for c in self.counters.values()))

    @property
    def tokens_out(self) -> int:
        return min(MAX_TOKENS, sum(c.tokens_out + c.before_out for c in self.counters.values()))


def summarise(summary: Summary, events: Iterable[Event], attempt: int = 1) -> Summary:
    """The summary after these events. `attempt` is the run's, for those that do not name theirs."""
    for event in events:
        if isinstance(event, NodeUpdate):
            summary = _node(summary, event, attempt)
        elif isinstance(event, Status | Error) and event.message:
            summary = _snippet(summary, event.message, 1)
    return summary


def _node(summary: Summary, event: NodeUpdate, attempt: int) -> Summary:
    worker = event.worker_id or ""
    if worker not in summary.counters and len(summary.counters) >= MAX_WORKERS:
        return summary
    counters = {**summary.counters, worker: _count(summary.counters.get(worker, Counters()), event, attempt)}
    summary = structs.replace(summary, counters=counters)
    if event.snippet:
        summary = _snippet(summary, event.snippet, 2 if event.node in QUIET_NODES else 3)
    return _rate(summary, event.ts.timestamp())


def _count(known: Counters, event: NodeUpdate, attempt: int) -> Counters:
    attempt = event.attempt or attempt
    if attempt != known.attempt:
        known = Counters(attempt, 0, 0, known.before_in + known.tokens_in, known.before_out + known.tokens_out)
    return structs.replace(
        known,
        tokens_in=_counted(known.tokens_in, event.tokens_in, known.estimated),
        tokens_out=_counted(known.tokens_out, event.tokens_out, known.estimated),
        estimated=event.estimated,
    )


def _counted(known: int, told: int | None, was_guessed: bool) -> int:
    if told is None:
        return known
    return told if was_guessed else max(known, told)


def _snippet(summary: Summary, text: str, rank: int) -> Summary:
    if rank < summary.snippet_rank:
        return summary
    return structs.replace(summary, snippet=cut_snippet(text), snippet_rank=rank)


def _rate(summary: Summary, now: float) -> Summary:
    """Exponential moving average over the deltas of cumulative tokens; shorter intervals wait for more."""
    tokens = summary.tokens_out
    if summary.rate_at is None:
        return structs.replace(summary, rate_tokens=tokens, rate_at=now)
    interval = round(now - summary.rate_at, 6)  # a tenth of a second is one, whatever floating point makes of it
    if interval < SHORTEST_INTERVAL_SECONDS:
        return summary
    rate = max(0, tokens - summary.rate_tokens) / interval
    mean = (
        rate if summary.tokens_per_second == 0 else (RATE_WEIGHT * rate + (1 - RATE_WEIGHT) * summary.tokens_per_second)
    )
    return structs.replace(summary, tokens_per_second=round(mean, 3), rate_tokens=tokens, rate_at=now)
