"""What the handlers of the tasks service work with."""

from dataclasses import dataclass

from services.tasks.lifecycle import Lifecycle
from services.tasks.store import TaskStore
from services.tasks.subscriptions import Subscriptions
from shared.channel.channel import Channel
from shared.edge.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Made once by the composition root."""

    channel: Channel
    store: TaskStore
    lifecycle: Lifecycle
    subscriptions: Subscriptions
    streams: Streams
