"""Between a program's pipes and what stores its output: a bounded buffer that never makes the program wait.

**What is counted.** An entry is a line, or one part of a long one. Every final entry that is put in is either taken
once or counted once: `put == taken + dropped + waiting`, at every moment. Partial entries are not counted: they show a
line that is still coming, and its final entry is.

**What is dropped.** When the buffer is full the oldest entries that have not been taken go. In their place stands one
`system` line, `lines dropped: N`, as long as it has not been taken itself: so it comes just before the first entry
that was kept, and N is exact. The newest output always stays, which is where a crash explains itself. The rate limit
holds back what is taken, not what is put; what that leaves waiting is dropped in the same way.

**Numbers.** `line` is given when an entry is taken: 1, 2, 3 … over both streams and the system's lines, without a
hole. All that is taken of one line has one number, also its partial states and when other lines come in between. If
parts of a line were dropped, their `part` numbers are missing, and a system line stands in their place.

Pure: times come in as arguments. They are the wall's, and a jump of the clock costs at most one burst.
"""

from collections import deque
from datetime import datetime
from typing import Literal

from msgspec import Struct, structs

from services.previews.levels import Level
from services.previews.lines import PART_BYTES, Piece

Stream = Literal["stdout", "stderr"]

SLOW_BUFFER_BYTES = 4 * PART_BYTES  # some 200 usual lines
OVERHEAD_BYTES = 300  # what an entry takes beside its text, here and as an event


class CaptureLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one preview. Beyond `stored_*` only a trickle of its output is kept: the writer sees to that."""

    buffer_bytes: int = 16 * 1024 * 1024
    lines_per_second: float = 10_000
    burst_lines: int = 50_000
    stored_lines: int = 500_000
    stored_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.buffer_bytes < SLOW_BUFFER_BYTES:
            raise ValueError(f"the buffer of a preview's output takes at least {SLOW_BUFFER_BYTES} bytes")
        if self.lines_per_second <= 0 or self.burst_lines < 1:
            raise ValueError("a preview's output needs a rate above 0 lines/s and a burst of at least 1 line")


class Captured(Struct, frozen=True, gc=False):
    """One entry, ready to be stored. `dropped` is set on the system's line that stands for dropped ones."""

    line: int
    timestamp: datetime
    level: Level
    message: str
    stream: Stream | None
    part: int = 0
    last: bool = True
    partial: bool = False
    dropped: int | None = None

    @property
    def source(self) -> Literal["preview", "system"]:
        return "system" if self.stream is None else "preview"


class _Entry(Struct, gc=False):
    stream: Stream | None
    serial: int  # of the line in its stream
    timestamp: datetime
    level: Level
    piece: Piece
    size: int


class CaptureBuffer:
    """Put what was captured, take what is to be stored. The caller keeps what it took until it is stored."""

    def __init__(self, limits: CaptureLimits, next_line: int = 1) -> None:
        self.size_bytes = 0
        self.dropped_total = 0
        self.next_line = next_line
        self._limits = limits
        self._entries: deque[_Entry] = deque()
        self._partials: dict[Stream, _Entry] = {}  # the newest of each stream, while it waits here
        self._serials: dict[Stream, int] = {"stdout": 0, "stderr": 0}  # of the line that is coming
        self._open: dict[Stream, tuple[int, int]] = {}  # serial and number of the line that was taken last
        self._notice: str | None = None
        self._dropped = 0  # before the oldest entry, and not yet told
        self._dropped_at: datetime | None = None
        self._bucket = _Bucket(limits.lines_per_second, limits.burst_lines)

    def __len__(self) -> int:
        return len(self._entries) + (self._dropped > 0) + (self._notice is not None)

    def put(self, stream: Stream, piece: Piece, level: Level, timestamp: datetime) -> None:
        """Take in the next piece of a stream. What was partial of the same line is replaced while it waits here."""
        waiting = self._partials.pop(stream, None)
        if waiting is None:
            waiting = _Entry(stream, self._serials[stream], timestamp, level, piece, 0)
            self._entries.append(waiting)
        else:
            waiting.timestamp, waiting.level, waiting.piece = timestamp, level, piece
        if piece.partial:
            self._partials[stream] = waiting
        elif piece.last:
            self._serials[stream] += 1
        self._grow(waiting, timestamp)

    def put_system(self, message: str, level: Level, timestamp: datetime) -> None:
        """Take in a line that the service itself has to say. It is dropped like any other when it is the oldest."""
        entry = _Entry(None, 0, timestamp, level, Piece(message), 0)
        self._entries.append(entry)
        self._grow(entry, timestamp)

    def take(self, max_lines: int, max_bytes: int, now: datetime) -> list[Captured]:
        """The oldest entries, in order: as many as both bounds and the rate allow, at least one if that allows one."""
        taken: list[Captured] = []
        most = min(max_lines, self._bucket.available(now))
        if self._notice is not None and most > 0:
            taken.append(Captured(self._number(), now, "WARN", self._notice, None))
            self._notice = None
        if self._dropped and len(taken) < most:
            taken.append(self._tell_dropped(now))
        size = 0
        while self._entries and len(taken) < most:
            size += self._entries[0].size
            if taken and size > max_bytes:
                break
            taken.append(self._take_oldest())
        self._bucket.spend(len(taken))
        return taken

    def slow_down(self, lines_per_second: float, notice: str, now: datetime) -> None:
        """From now on no more than this is taken, whatever the limits say, and little waits, so that what is taken is
        new. A system's line says so first; it is never dropped.
        """
        self._bucket = _Bucket(lines_per_second, max(1, int(lines_per_second)))
        self._limits = structs.replace(self._limits, buffer_bytes=SLOW_BUFFER_BYTES)
        self._notice = notice
        self.keep_newest(SLOW_BUFFER_BYTES, now)

    def unbound(self) -> None:
        """What waits may be taken at once: the program has ended, and no more comes."""
        self._bucket.fill(len(self))

    def keep_newest(self, size: int, now: datetime) -> None:
        """Drop the oldest until no more than so many bytes wait."""
        while self.size_bytes > size:
            self._drop_oldest(now)

    def seconds_to_take(self, now: datetime) -> float | None:
        """How long until `take` gives something; None: not before something is put."""
        return self._bucket.seconds_to_one(now) if self else None

    def _grow(self, entry: _Entry, now: datetime) -> None:
        text = entry.piece.text
        size = OVERHEAD_BYTES + (len(text) if text.isascii() else len(text.encode()))
        self.size_bytes += size - entry.size
        entry.size = size
        self.keep_newest(self._limits.buffer_bytes, now)

    def _drop_oldest(self, now: datetime) -> None:
        if not self._leave().piece.partial:
            self._dropped += 1
            self.dropped_total += 1
            self._dropped_at = now

    def _leave(self) -> _Entry:
        entry = self._entries.popleft()
        self.size_bytes -= entry.size
        if entry.stream is not None and self._partials.get(entry.stream) is entry:
            del self._partials[entry.stream]
        return entry

    def _tell_dropped(self, now: datetime) -> Captured:
        count, self._dropped = self._dropped, 0
        timestamp = self._dropped_at or now
        return Captured(self._number(), timestamp, "WARN", f"lines dropped: {count}", None, dropped=count)

    def _take_oldest(self) -> Captured:
        entry = self._leave()
        piece, line = entry.piece, self._line_of(entry)
        return Captured(
            line, entry.timestamp, entry.level, piece.text, entry.stream, piece.part, piece.last, piece.partial
        )

    def _line_of(self, entry: _Entry) -> int:
        if entry.stream is None:
            return self._number()
        known = self._open.get(entry.stream)
        if known is not None and known[0] == entry.serial:
            return known[1]
        number = self._number()
        self._open[entry.stream] = entry.serial, number
        return number

    def _number(self) -> int:
        number = self.next_line
        self.next_line += 1
        return number


class _Bucket:
    """Tokens that come at a rate, up to a burst of them."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at: datetime | None = None

    def available(self, now: datetime) -> int:
        if self._at is not None:
            gone = max(0.0, (now - self._at).total_seconds())
            self._tokens = min(self._burst, self._tokens + gone * self._rate)
        self._at = now
        return int(self._tokens)

    def spend(self, tokens: int) -> None:
        self._tokens -= tokens

    def fill(self, tokens: int) -> None:
        self._tokens = self._burst = max(self._burst, tokens)

    def seconds_to_one(self, now: datetime) -> float:
        return 0.0 if self.available(now) else (1 - self._tokens) / self._rate
