"""Stored pieces as plain text."""

from services.previews import plain
from services.previews.capture import Stream
from services.previews.plain import Piece, PlainText


def out(line: int, message: str, *, last: bool = True, partial: bool = False) -> Piece:
    return Piece(line, message, "stdout", last, partial)


def err(line: int, message: str, *, last: bool = True, partial: bool = False) -> Piece:
    return Piece(line, message, "stderr", last, partial)


def service(line: int, message: str) -> Piece:
    return Piece(line, message, None, True, False)


def text_of(*pieces: Piece) -> str:
    text = PlainText()
    return "".join(text.feed(piece) for piece in pieces) + text.close()


def test_a_line_is_a_line() -> None:
    assert text_of(out(1, "a"), err(2, "b"), service(3, "c"), out(4, "")) == "a\nb\nc\n\n"


def test_what_was_partial_is_left_out() -> None:
    assert text_of(out(1, "a", last=False, partial=True), err(2, "b"), out(1, "ab")) == "b\nab\n"


def test_pieces_of_a_line_are_put_together_and_written_as_they_come() -> None:
    text = PlainText()
    assert text.feed(out(1, "a", last=False)) == "a"
    assert text.feed(out(1, "b", last=False)) == "b"
    assert text.feed(out(1, "c")) == "c\n"
    assert text.close() == ""


def test_what_comes_between_the_pieces_follows_them() -> None:
    pieces = [out(1, "a", last=False), err(2, "x"), service(3, "y"), out(1, "b", last=False), err(4, "z"), out(1, "c")]
    assert text_of(*pieces) == "abc\nx\ny\nz\n"


def test_two_long_lines_at_once_are_two_lines() -> None:
    pieces = [
        *(out(1, "a", last=False), err(2, "x", last=False), out(1, "b", last=False), err(2, "y", last=False)),
        *(out(1, "c"), err(2, "z", last=False), out(3, "d"), err(2, "!"), out(4, "e")),
    ]
    assert text_of(*pieces) == "abc\nxyz!\nd\ne\n"


def test_a_line_whose_end_is_missing_is_over_with_the_next_of_its_stream() -> None:
    assert text_of(out(1, "a", last=False), err(2, "x"), out(3, "b")) == "a\nx\nb\n"
    assert text_of(out(1, "a", last=False), err(2, "x", last=False), out(3, "b"), err(2, "y")) == "a\nxy\nb\n"
    assert text_of(out(1, "a", last=False), err(2, "x", last=False), err(3, "y"), out(1, "b")) == "ab\nx\ny\n"


def test_what_is_left_open_ends_with_the_text() -> None:
    assert text_of(out(1, "a", last=False), err(2, "x", last=False)) == "a\nx\n"
    assert text_of(out(1, "a", last=False)) == "a\n"
    assert text_of() == ""


def test_what_waits_is_bounded() -> None:
    text = PlainText()
    text.feed(out(1, "a", last=False))
    held = "x" * (plain.HELD_CHARACTERS // 4)
    written = [text.feed(err(number, held)) for number in range(2, 7)]
    assert written[:3] == ["", "", ""]
    assert "".join(written) == "\n" + f"{held}\n" * 5  # the long line is cut
    assert text.feed(out(1, "b")) == "b\n"


def test_streams_are_those_of_the_capture() -> None:
    stream: Stream = "stdout"
    assert out(1, "").stream == stream
