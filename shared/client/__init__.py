"""The Python client: typed streams that resume, requests, a durable consumer.

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
    "Missing",
    "PositionStore",
    "Received",
    "Refused",
    "Unauthorized",
    "Unavailable",
    "Unreadable",
    "consume",
]
