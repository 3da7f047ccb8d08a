"""What `/metrics` shows, in Prometheus' terms. No tenant is ever a label."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

REGISTRY = CollectorRegistry()

READERS = Gauge("tailrace_readers", "Streams open now", ["transport"], registry=REGISTRY)
ENDS = Counter("tailrace_stream_ends", "Streams that ended", ["transport", "reason"], registry=REGISTRY)
RESUMES = Counter("tailrace_resumes", "Clients that came with a position", ["result"], registry=REGISTRY)
SHED = Counter("tailrace_shed_events", "Events skipped for readers that lagged", ["type"], registry=REGISTRY)
HEAD = Gauge("tailrace_log_head", "Last seq of the log as this process has seen it", ["service"], registry=REGISTRY)
TAILS = Gauge("tailrace_tails", "Filters in use", ["service"], registry=REGISTRY)
VISIBILITY_CHECKS = Counter(
    "tailrace_visibility_checks",
    "Looks at whether what is streamed may still be seen; one is for all streams of a service",
    ["service"],
    registry=REGISTRY,
)
REFUSED_MOVES = Counter(
    "tailrace_refused_moves",
    "News of another service that could not be followed",
    ["feed", "reason"],
    registry=REGISTRY,
)
REFUSED = Counter(
    "tailrace_refused_requests",
    "Requests that were refused before they reached a service",
    ["why"],
    registry=REGISTRY,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render() -> bytes:
    """The text exposition."""
    return generate_latest(REGISTRY)
