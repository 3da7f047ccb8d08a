"""WebSockets with peers that are not waited for without end: uvicorn's protocol, with bounds on what it leaves open.

The size of a message is bounded by websockets itself, fragments added up (1009), and so is the mask (1002). Bounded
here are the frames in a time, control frames and fragments above all (4429), and the time for the rest of a message
(1008). Text that is no UTF-8 (1007), frames before the handshake is answered and handshakes that are no such thing end
the connection without an error in the log.
"""

from typing import Any

from websockets.exceptions import HeaderLineTooLong, ProtocolError, RequestLineTooLong, TooManyHeaders
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.server import ServerProtocol

from shared.edge.connection import StreamingWebSocketProtocol
from shared.edge.patience import FAREWELL_SECONDS, Peers, Queue, count

CLOSE_FLOOD = 4429
CLOSE_SLOW = 1008
CLOSE_NO_TEXT = 1007
# A whole message costs 1; what carries nothing by itself, control frames and fragments, 10. Programs in previews are
# sent messages through here as fast as somebody moves a mouse; the bound on our own messages is lower.
MESSAGES, SECONDS, COST = 4_000, 10.0, 10


class BoundedFrames(ServerProtocol):
    """The parser, which stops at a flood: a read of 256 KiB may hold 43,000 frames."""

    def __init__(self, clock: Any, **named: Any) -> None:
        super().__init__(**named)
        self._clock = clock
        self._full_at = 0.0  # when the bucket is full again, as in shared.edge.rates

    def recv_frame(self, frame: Frame) -> None:
        is_whole = frame.fin and frame.opcode in DATA_OPCODES and frame.opcode is not Opcode.CONT
        now = self._clock()
        self._full_at = max(self._full_at, now) + (1 if is_whole else COST) * SECONDS / MESSAGES
        if self._full_at > now + SECONDS:
            self.fail(CLOSE_FLOOD, "too many frames")
            raise ProtocolError("too many frames")
        super().recv_frame(frame)


class WebSocketPeer(StreamingWebSocketProtocol):
    """One connection, from the handshake on."""

    def __init__(self, *arguments: Any, peers: Peers, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn: ServerProtocol = BoundedFrames(self.loop.time, max_size=self.config.ws_max_size, logger=self.logger)
        self.close_timeout = peers.messages.seconds  # for the peer's half of the closing handshake
        self._peers = peers
        self._address = ""
        self._is_leaving = False
        self._unread_bytes = 0

    # ── the connection ─────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._address = self.client[0] if self.client else "?"
        self._peers.take(self._address)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peers.give_back(self, self._address)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._peers.unread.leave(self)

    def on_task_complete(self, task: Any) -> None:
        super().on_task_complete(task)
        if not self.disconnected:  # what is left must be taken, and our close be answered
            self._await_reading()

    async def send(self, message: Any) -> None:
        if self.transport.is_closing() and not self.handshake_complete:  # else uvicorn logs an unfinished handshake
            self.handshake_complete = self.disconnected = True
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True  # refused, which is complete too

    # ── what comes ─────────────────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        if self._is_leaving or self.transport.is_closing():
            return
        if self.handshake_initiated and not self.handshake_complete:
            count("malformed")
            self._is_leaving = True
            self.transport.abort()
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None:
            self._refuse_handshake(self.conn.handshake_exc)
        elif self.conn.current_size is not None or self.conn.reader.buffer:
            self._peers.messages.enter(self)
        else:
            self._peers.messages.leave(self)

    def handle_ping(self) -> None:
        if not self._is_leaving:  # it came in the same read as what sends the peer away
            super().handle_ping()

    def handle_parser_exception(self) -> None:
        assert self.conn.close_sent is not None
        code = self.conn.close_sent.code
        count("flood" if code == CLOSE_FLOOD else "malformed")
        self._leave(code, self.conn.close_sent.reason)

    def send_receive_event_to_app(self) -> None:
        self._peers.messages.leave(self)
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError as error:
                count("malformed")
                self.frames = []
                self._fail(CLOSE_NO_TEXT, f"{error.reason} at byte {error.start} of the text")
                return
        super().send_receive_event_to_app()

    def _refuse_handshake(self, error: Exception) -> None:
        """websockets has written an answer for what is too large, and none for what is no handshake."""
        count(
            "large_head" if isinstance(error, RequestLineTooLong | HeaderLineTooLong | TooManyHeaders) else "malformed"
        )
        self._is_leaving = True
        answer = b"".join(self.conn.data_to_send())
        self.transport.write(answer or b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    # ── patience ───────────────────────────────────────────────────────────────────────────────────────────────

    def overdue(self, queue: Queue) -> None:
        if queue is self._peers.unread:
            self._judge_reading()
        elif not self.read_paused:
            count("slow_message")
            self._fail(CLOSE_SLOW, "the rest of the message did not come in time")
        else:  # we do not read
            self._peers.messages.enter(self)

    def make_room(self) -> None:
        raise AssertionError("a WebSocket is not evicted: its request is complete")

    def _await_reading(self) -> None:
        self._unread_bytes = self.pending_bytes
        self._peers.unread.enter(self)

    def _judge_reading(self) -> None:
        if self.pending_bytes < self._unread_bytes:
            self._await_reading()
        else:
            count("unread")
            self.transport.abort()

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self._leave(code, reason)

    def _leave(self, code: int, reason: str) -> None:
        """Send what says why, and give the peer a moment to read it: a socket closed on what still comes resets it."""
        if self._is_leaving:
            return
        self._is_leaving = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)
