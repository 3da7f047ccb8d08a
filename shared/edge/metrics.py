"""What `/metrics` shows, in Prometheus' terms. No tenant is ever a label."""

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shared.channel.channel import Channel
from shared.protocol.ends import EndReason
from shared.protocol.position import ResetReason

REGISTRY = CollectorRegistry()

READERS = Gauge("tailrace_readers", "Streams open now", ["transport"], registry=REGISTRY)
ENDS = Counter("tailrace_stream_ends", "Streams that ended", ["transport", "reason"], registry=REGISTRY)
RESUMES = Counter("tailrace_resumes", "Clients that came with a position", ["result"], registry=REGISTRY)
SHED = Counter("tailrace_shed_events", "Events skipped for readers that lagged", ["type"], registry=REGISTRY)
GAPS = Counter(
    "tailrace_skipped_events",
    "Events that readers that lagged were not sent: told by a gap (sheddable), or replaced by a newer one (latest)",
    ["class"],
    registry=REGISTRY,
)
BEHIND = Gauge(
    "tailrace_readers_behind", "Live streams for which something is pending", ["transport"], registry=REGISTRY
)
LAG = Gauge(
    "tailrace_reader_lag_bytes", "What is pending for the live stream that is furthest behind", registry=REGISTRY
)
DELIVERY = Histogram(
    "tailrace_publish_to_deliver_seconds",
    "From a publish in this process to the write to all who were waiting at the head, its commit included",
    ["service"],
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    registry=REGISTRY,
)
HEAD = Gauge("tailrace_log_head", "Last seq of the log as this process has seen it", ["service"], registry=REGISTRY)
TAILS = Gauge("tailrace_tails", "Filters in use", ["service"], registry=REGISTRY)
CONNECTIONS = Gauge("tailrace_connections", "Connections open now, with or without a stream", registry=REGISTRY)
DISMISSED = Counter(
    "tailrace_dismissed_peers",
    "Connections ended because the other side did not do its part",
    ["reason"],
    registry=REGISTRY,
)
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
LOOP_TASKS = Gauge("tailrace_loop_tasks", "Tasks of the event loop, those of idle streams included", registry=REGISTRY)
LOOP_TASKS.set_function(lambda: len(asyncio.all_tasks()))

CONTENT_TYPE = CONTENT_TYPE_LATEST
TRANSPORTS = ("sse", "websocket")


def _begin() -> None:
    """At zero, for a counter that appears with its first count has not grown as Prometheus sees it."""
    for transport in TRANSPORTS:
        for reason in ("disconnect", *(end.label for end in EndReason)):
            ENDS.labels(transport, reason)
    for result in ("continued", *ResetReason):
        RESUMES.labels(str(result))
    for kind in ("sheddable", "latest"):
        GAPS.labels(kind)
    for why in ("token", "ticket", "origin", "rate"):
        REFUSED.labels(why)


_begin()


def watch(service: str, channel: Channel) -> None:
    """Show a service's channel."""
    HEAD.labels(service).set_function(lambda: channel.state.head)
    TAILS.labels(service).set_function(lambda: len(channel.tails))
    channel.fanout.on_served = DELIVERY.labels(service).observe


def render() -> bytes:
    """The text exposition."""
    return generate_latest(REGISTRY)
