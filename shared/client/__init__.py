"""The Python client: typed streams that resume, requests, a durable consumer, publishers, workers.

It shares only the protocol with the server. `docs/client.md` shows how it is used.
"""

from shared.client.client import Client
from shared.client.consume import Batch, Feed, PositionStore, Received, consume
from shared.client.errors import (
    AccessRevoked,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    Missing,
    Refused,
    Unauthorized,
    Unavailable,
    Unreadable,
)
from shared.client.follow import Follow
from shared.client.publish import Published, Publisher
from shared.client.sync import iterate
from shared.client.worker import LeasedRun, Worker

__all__ = [
    "AccessRevoked",
    "Batch",
    "Client",
    "ClientError",
    "Conflict",
    "Feed",
    "Follow",
    "Forbidden",
    "Gone",
    "LeasedRun",
    "Missing",
    "PositionStore",
    "Published",
    "Publisher",
    "Received",
    "Refused",
    "Unauthorized",
    "Unavailable",
    "Unreadable",
    "Worker",
    "consume",
    "iterate",
]
