"""What can be wrong with what somebody sent.

ProtocolError
├── MalformedPosition   an `after` that is no position
├── UnknownTypes        a `types` entry that names nothing in the schema
└── InvalidEvent        a drafted event that does not fit the schema
"""


class ProtocolError(ValueError):
    """The input breaks a rule of the wire; the message says which, and what is allowed."""


class MalformedPosition(ProtocolError):
    """A position is `start`, `now` or `<epoch>-<seq>` such as `k3f9a2-1042`."""


class UnknownTypes(ProtocolError):
    """A type or glob that matches no event type of this stream."""


class InvalidEvent(ProtocolError):
    """An event that does not fit the schema of its type."""
