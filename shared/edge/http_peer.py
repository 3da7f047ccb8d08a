"""HTTP with peers that are not waited for without end: uvicorn's protocol, with bounds on what it leaves unbounded.

Bounded are the time for a request's head, its bytes and its headers; the pace of a body, and the memory that bodies
take together; requests that are sent before earlier ones are answered; answers that nobody reads. A refusal is a
problem document where an answer may be sent, and else the end of the connection.
"""

import http
import secrets
from typing import Any, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from shared.edge.connection import StreamingHttpProtocol
from shared.edge.patience import BODY_BYTES_PER_SECOND, Peers, Queue, count
from shared.edge.problems import MEDIA_TYPE, http_document

HEAD_BYTES = 32 * 1024
HEADERS = 100
PIPELINED = 16  # requests behind one that is not answered yet

_NO_ROOM = {
    429: "This address has as many connections as it may have; close some first.",
    503: "This process has as many connections as it takes; try again later.",
}


class Fault(NamedTuple):
    """Why a request is refused."""

    status: int
    reason: str  # of the metric
    detail: str


class Refused(Exception):
    """Raised inside the parser, which stops. Always a new one: an exception keeps the frames that it has passed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


MALFORMED = Fault(400, "malformed", "This is not HTTP as RFC 9112 has it.")
LARGE_HEAD = Fault(431, "large_head", f"A request's head has at most {HEAD_BYTES} bytes and {HEADERS} headers.")
LONG_URL = Fault(414, "large_head", f"A request's head has at most {HEAD_BYTES} bytes, its URL included.")
SLOW_HEAD = Fault(408, "slow_head", "The head of the request did not come in time.")
SLOW_BODY = Fault(408, "slow_body", "The body of the request does not come, or too slowly.")
CROWDED_BODIES = Fault(503, "no_room", "There are too many request bodies on their way; try again later.")
PIPELINE = Fault(429, "pipelined", f"At most {PIPELINED} requests may wait for their answers on one connection.")
EARLY = Fault(400, "malformed", "A WebSocket's handshake is answered before anything else may be sent.")


class HttpPeer(StreamingHttpProtocol):
    """One connection. It waits in one of the queues at a time: for a head, for a body, or idle; besides, in
    `unread` while its socket takes nothing.
    """

    def __init__(self, *arguments: Any, peers: Peers, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._peers = peers
        self._queue: Queue | None = None
        self._answering: RequestResponseCycle | None = None
        self._address = ""
        self._is_admitted = False
        self._is_leaving = False  # what it still sends is thrown away
        self._in_head = False
        self._in_body = False
        self._has_begun = False  # a head, since the last bytes came
        self._head_bytes = 0  # as parsed; trailers too
        self._head_fed = 0  # as received, of a head that is not complete
        self._body_bytes = 0  # since its pace was judged last
        self._held_bytes = 0
        self._unread_bytes = 0

    # ── the connection ─────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else "?"
        if status := self._peers.admit(self, self._address):
            self._refuse(Fault(status, "no_room", _NO_ROOM[status]))
            return
        self._is_admitted = True
        self._wait_in(self._peers.heads)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        self._disconnect()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._peers.unread.leave(self)

    def handle_websocket_upgrade(self) -> None:
        if self._is_owing:
            self._refuse(PIPELINE)  # the connection would change hands under the answer
            return
        self._let_go()
        super().handle_websocket_upgrade()

    # ── what comes ─────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._is_leaving:
            return
        if self._queue is self._peers.idle:
            self._wait_in(self._peers.heads)
        self._has_begun = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.fault if isinstance(cause, Refused) else MALFORMED)
        else:
            if self._in_head:
                self._head_fed = 0 if self._has_begun else self._head_fed + len(data)
                if self._head_fed > HEAD_BYTES:  # of one header, which the parser gives us when it is complete
                    self._refuse(LARGE_HEAD)

    def _upgrade(self, rest: bytes) -> None:
        if not self._should_upgrade():
            self.cycle.keep_alive = False  # answered as if it had not asked; the parser has lost its place
        elif rest:
            self._refuse(EARLY)
        else:
            self.handle_websocket_upgrade()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._head_bytes = self._head_fed = 0

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES:
            raise Refused(LONG_URL)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES or len(self.headers) >= HEADERS:
            raise Refused(LARGE_HEAD)
        if self._in_head:  # else a trailer, which must not pass for a header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.pipeline) >= PIPELINED:
            raise Refused(PIPELINE)
        super().on_headers_complete()
        self._in_body, self._body_bytes = True, 0
        self._wait_in(self._peers.bodies)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not self.cycle.response_complete:
            self._hold(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        self._wait_in(None)
        self._settle()

    def _hold(self, size: int) -> None:
        """Count what a body takes, as far as it may: beyond, it is refused or handed through."""
        size = min(size, self._peers.body_bytes - self._held_bytes)
        self._held_bytes += size
        self._peers.held_bytes += size
        if not self._peers.has_room_for_body():
            raise Refused(CROWDED_BODIES)

    def _release(self) -> None:
        self._peers.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    # ── what goes ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # we wait ourselves
        self._settle()

    def _settle(self) -> None:
        """When all is answered, wait for the next request."""
        if self.transport.is_closing():
            self._await_reading()
        elif not self._is_owing:
            self._release()
            if not self._in_body:
                self._wait_in(self._peers.heads if self._in_head else self._peers.idle)

    def _await_reading(self) -> None:
        """What is written must be taken, some of it at a time; also what is left when we have closed."""
        if self._is_admitted:
            self._unread_bytes = self.pending_bytes
            self._peers.unread.enter(self)

    @property
    def _is_owing(self) -> bool:
        """Whether the newest request is not answered yet."""
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn does not say that there is none at first
        return cycle is not None and not cycle.response_complete

    # ── patience ───────────────────────────────────────────────────────────────────────────────────────────────

    def overdue(self, queue: Queue) -> None:
        if queue is self._peers.unread:
            self._judge_reading()
            return
        self._queue = None
        if queue is self._peers.bodies:
            self._judge_body()
        elif queue is self._peers.heads and self._in_head:
            self._refuse(SLOW_HEAD)
        elif queue is self._peers.farewells:
            self.transport.abort()
        else:  # it has said nothing, so there is nothing to answer
            count("silent" if queue is self._peers.heads else "idle")
            self.transport.close()

    def make_room(self) -> None:
        count("no_room")
        self._let_go()
        self._is_leaving = True
        self._disconnect()
        self.transport.abort()

    def _judge_body(self) -> None:
        is_ours = self.flow.read_paused or self.cycle.waiting_for_100_continue  # to go on, not the peer's
        came = self._body_bytes >= BODY_BYTES_PER_SECOND * self._peers.bodies.seconds
        if is_ours or (came and not self.cycle.response_complete):
            self._body_bytes = 0
            self._wait_in(self._peers.bodies)
        else:
            self._refuse(SLOW_BODY)

    def _judge_reading(self) -> None:
        if self.pending_bytes < self._unread_bytes:
            self._await_reading()
        else:
            count("unread")
            self.transport.abort()

    def _wait_in(self, queue: Queue | None) -> None:
        if queue is not self._queue:
            if self._queue is not None:
                self._queue.leave(self)
            self._queue = queue
        if queue is not None:
            queue.enter(self)

    def _let_go(self) -> None:
        """The connection is not counted any more, nor waited for."""
        if self._is_admitted:
            self._is_admitted = False
            self._release()
            self._peers.give_back(self, self._address)
        self._queue = None

    # ── refusing ───────────────────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, fault: Fault) -> None:
        """Say why, where that cannot be taken for a part of another answer, and end the connection."""
        count(fault.reason)
        self._is_leaving = True
        if self.transport.is_closing():
            return
        may_answer = self._may_answer()
        self._disconnect()
        if not may_answer:
            self.transport.close()
            self._await_reading()
            return
        self.transport.write(self._refusal(fault))
        self.transport.write_eof()
        if not self._is_admitted:
            self.transport.close()
            return
        self.flow.resume_reading()  # so as to see it leave
        self._wait_in(self._peers.farewells)

    def _disconnect(self) -> None:
        """What applications say from now on goes nowhere. uvicorn tells only the newest request, and it may not be the
        one that is being answered.
        """
        self.pipeline.clear()
        for cycle in (self._answering, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.body.clear()
                cycle.message_event.set()

    def _may_answer(self) -> bool:
        """Whether the next answer on the wire would be that of the request which is being refused."""
        if self.pipeline:
            return False
        if not self._is_owing:
            return not self._in_body
        return self._in_body and not self.cycle.response_started

    def _refusal(self, fault: Fault) -> bytes:
        request_id = secrets.token_hex(8)
        document = http_document(fault.status, fault.detail, {}, request_id)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(document.body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        if fault.status in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
            headers.append((b"retry-after", b"5"))
        lines = (b"%b: %b\r\n" % header for header in headers)
        return b"".join((STATUS_LINE[fault.status], *lines, b"\r\n", document.body))
