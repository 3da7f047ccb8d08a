"""LineSplitter: bytes cut anywhere, one list of lines; nothing disappears but by a rule."""

import itertools
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.previews.lines import MIN_PART_BYTES, PART_BYTES, LineSplitter, Piece
from tests.unit.previews.line_model import split as split_slowly

BELL = b"\x07"
WORDS = [
    *(bytes([byte]) for byte in range(0x00, 0x22)),
    *(chr(c1).encode() for c1 in range(0x7F, 0xA1)),
    *(b"\x1b" + final for final in (b"[", b"]", b"P", b"X", b"^", b"_", b"k", b"\\", b"(", b"7", b"\x1b", b" ")),
    *(b"\x1b[m", b"\x1b[0m", b"\x1b[38;5;12m", b"\x1b[4:3m", b"\x1b[2K", b"\x1b[?25l", b"\x1b[>4;2m", b"\x1b[1 q"),
    *(b"m", b"[", b"]", b";", b"1", b"\\", b"a", b"word ", b"\xff", b"\xc3", b"\xa9", b"\xe2\x82", b"\xf0\x9f\x98"),
    *("é".encode(), "€".encode(), "😀".encode(), b"\r\n", b"\n", b"\n", b"\r", b"\r", b"\t"),
    *(b"x" * MIN_PART_BYTES, b"1" * 127, b"\x1b[1m" * 70, b"\x1b]0;" + b"t" * 4094, "é".encode() * 127),
]
streams = st.lists(st.sampled_from(WORDS) | st.binary(max_size=4), max_size=60).map(b"".join)


def lines(*chunks: bytes, part_bytes: int = PART_BYTES) -> list[Piece]:
    splitter = LineSplitter(part_bytes)
    return [*itertools.chain.from_iterable(map(splitter.feed, chunks)), *splitter.close()]


def texts(*chunks: bytes) -> list[str]:
    return [piece.text for piece in lines(*chunks)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\n\r\n\n", ["", "", ""]),
        (b"no end", ["no end"]),
        (b"a\tb\n", ["a\tb"]),
        (b"a\0b\0\n", ["ab"]),
        (b"ding\x07 b\x08s \x0b\x0c\x7f.\n", ["ding bs ."]),  # a backspace takes nothing away
        ("a\u0085b\u2028c\n".encode(), ["ab\u2028c"]),  # neither ends a line
        (b"\xff\xfe ok \xe2\x82\n", ["\ufffd\ufffd ok \ufffd"]),
        (b"cut \xf0\x9f\x98", ["cut \ufffd"]),
    ],
)
def test_text_becomes_lines(data: bytes, expected: list[str]) -> None:
    assert texts(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b" 10%\r 20%\r100%\n", ["100%"]),
        (b"\r 10%\r 20%", [" 20%"]),
        (b"50%\r\r\n", ["50%"]),
        (b"stays\r\n", ["stays"]),
        (b"stays\r", ["stays"]),
        (b"stays\r\x1b[0m\n", ["stays\x1b[0m"]),  # nothing visible followed
        (b"goes\r\x1b[0m\x1b[2Kcomes\n", ["\x1b[0mcomes"]),
        (b"longer\rab\n", ["ab"]),
        (b"\r\n\r\n", ["", ""]),
    ],
)
def test_a_lone_cr_folds_what_it_is_written_over(data: bytes, expected: list[str]) -> None:
    assert texts(data) == expected


@pytest.mark.parametrize(
    "escape",
    [
        b"\x1b]0;title\x07",
        b"\x1b]2;title\x1b\\",
        b"\x1b]52;c;Y2xpcGJvYXJk\x07",
        b"\x1b]8;;https://example.org\x1b\\",
        "\x1b]0;title\x9c".encode(),
        "\x9d0;title\x9c".encode(),
        "\x9b31m".encode(),
        b"\x1bPq#0;2;0;0;0\x1b\\",
        b"\x1b_Gf=100;AAAA\x1b\\",
        b"\x1b^private\x1b\\",
        b"\x1bXstring\x07",
        b"\x1bkname\x1b\\",
        b"\x1b]0;called off\x18",
        b"\x1b]0;called off\x1b[2J",
        b"\x1b[2J",
        b"\x1b[?1049h",
        b"\x1b[>4;2m",
        b"\x1b[1;1H",
        b"\x1b[6n",
        b"\x1b[1 q",
        b"\x1b(B",
        b"\x1b7",
        b"\x1bc",
        b"\x1b=",
        b"\x1b#8",
        b"\x1b\x1b[K",
        b"\x1b\x00",
    ],
)
def test_every_escape_but_colours_is_dropped_whole(escape: bytes) -> None:
    data = b"a" + escape + b"b\n"
    assert texts(data) == ["ab"]
    assert texts(*(data[place : place + 1] for place in range(len(data)))) == ["ab"]


@pytest.mark.parametrize("colour", ["\x1b[m", "\x1b[0m", "\x1b[1;31m", "\x1b[38;2;1;2;3m", "\x1b[4:3m"])
def test_colours_are_kept(colour: str) -> None:
    assert texts(f"a{colour}b\n".encode()) == [f"a{colour}b"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x1b]0;title\nnext\n", ["0;title", "next"]),
        (b"\x1b]0;title", ["0;title"]),
        (b"\x1bP" + b"x" * 5000 + b"\nnext", ["x" * 5000, "next"]),
        ("\x9dtitle\r\nnext".encode(), ["title", "next"]),
    ],
)
def test_an_escape_without_an_end_swallows_nothing_and_is_counted(data: bytes, expected: list[str]) -> None:
    splitter = LineSplitter()
    assert [piece.text for piece in [*splitter.feed(data), *splitter.close()]] == expected
    assert splitter.unterminated == 1


def test_output_after_an_endless_escape_comes_while_the_program_runs() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"\x1b]0;" + b"x" * 4000) == []
    assert splitter.feed(b"y" * 97 + b"\nok\n")[-1].text == "ok"


def test_a_string_that_goes_on_for_ever_is_given_up() -> None:
    splitter = LineSplitter()
    splitter.feed(b"\x1b]0;" + b"x" * 4094)
    assert (splitter.flush(), splitter.unterminated) == (None, 0)  # 4,096 characters may still be one
    splitter.feed(b"y")
    assert (splitter.flush(), splitter.unterminated) == (Piece("0;" + "x" * 4094 + "y", 0, False, True), 1)


def test_an_endless_colour_is_text() -> None:
    assert texts(b"\x1b[" + b"1" * 500 + b"m\n") == ["1" * 500 + "m"]


def test_a_long_line_comes_in_parts() -> None:
    parts = lines(b"x" * (2 * PART_BYTES + 1) + b"\nnext\n")
    assert [(len(p.text), p.part, p.last) for p in parts] == [
        (PART_BYTES, 0, False),
        (PART_BYTES, 1, False),
        (1, 2, True),
        (4, 0, True),
    ]


def test_a_line_that_just_fits_is_one_part() -> None:
    assert [(p.part, p.last) for p in lines(b"x" * PART_BYTES + b"\n")] == [(0, True)]


def test_a_cut_goes_neither_through_a_character_nor_through_a_colour() -> None:
    first, second = lines(b"x" + "é".encode() * MIN_PART_BYTES, part_bytes=MIN_PART_BYTES)[:2]
    assert (first.text, second.text[0]) == ("x" + "é" * 127, "é")
    first, second = lines(b"x" * (MIN_PART_BYTES - 4) + b"\x1b[31mred", part_bytes=MIN_PART_BYTES)
    assert (first.text, second.text) == ("x" * (MIN_PART_BYTES - 4), "\x1b[31mred")


def test_a_colour_that_just_fits_stays() -> None:
    first, second = lines(b"x" * (MIN_PART_BYTES - 5) + b"\x1b[31mred", part_bytes=MIN_PART_BYTES)
    assert (first.text[-5:], second.text) == ("\x1b[31m", "red")


def test_a_cr_ends_a_line_that_has_given_out_parts() -> None:
    pieces = lines(b"x" * (PART_BYTES + 1) + b"\rnext\n")
    assert [(p.text[-4:], p.part, p.last) for p in pieces] == [("xxxx", 0, False), ("x", 1, True), ("next", 0, True)]


def test_a_part_must_be_able_to_hold_a_colour() -> None:
    with pytest.raises(ValueError, match="256"):
        LineSplitter(100)


def test_a_partial_is_replaced_by_what_follows() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"Name? ") == []
    assert splitter.flush() == Piece("Name? ", 0, False, True)
    assert splitter.flush() is None  # nothing new
    splitter.feed(b"An")
    assert splitter.flush() == Piece("Name? An", 0, False, True)
    assert splitter.feed(b"na\nName? ") == [Piece("Name? Anna")]
    assert splitter.flush() == Piece("Name? ", 0, False, True)
    assert splitter.feed(b"\nName? ") == [Piece("Name? ")]
    assert splitter.flush() == Piece("Name? ", 0, False, True)  # shown before, but of another line
    assert splitter.close() == [Piece("Name? ")]
    assert splitter.flush() is None


def test_a_flush_shows_where_a_progress_bar_stands() -> None:
    splitter = LineSplitter()
    shown = []
    for percent in range(3):
        splitter.feed(f"\r{percent}%".encode())
        shown.append(splitter.flush())
    assert shown == [Piece(f"{percent}%", 0, False, True) for percent in range(3)]
    assert splitter.feed(b"\n") == [Piece("2%")]


def test_a_partial_continues_the_parts_that_are_out() -> None:
    splitter = LineSplitter()
    assert [p.part for p in splitter.feed(b"x" * PART_BYTES + b"yy")] == [0]
    assert splitter.flush() == Piece("yy", 1, False, True)
    assert splitter.feed(b"\n") == [Piece("yy", 1, True)]


def test_a_split_character_is_not_shown_by_half() -> None:
    splitter = LineSplitter()
    splitter.feed("a😀".encode()[:-1])
    assert splitter.flush() == Piece("a", 0, False, True)
    assert splitter.feed("a😀\n".encode()[-2:]) == [Piece("a😀")]


@pytest.mark.parametrize(
    "unit", [b"x", b"\xff", b"\x1b]", b"\x1b[", b"\r", b"1%\r", b"\x1b[0m", b"\0", "\x9d".encode()]
)
def test_little_is_held_back_of_an_endless_line(unit: bytes) -> None:
    splitter = LineSplitter()
    splitter.feed(b"a\r")
    for _ in range(20):
        splitter.feed(unit * 10_000)
    assert len(splitter._rest) <= PART_BYTES + 1
    assert len(splitter._escape) <= 4_100


@settings(max_examples=400, deadline=None)
@given(streams, st.lists(st.integers(0, 2**16)), st.sampled_from([MIN_PART_BYTES, 300]))
@example(b"a\r\x1b[0m", [2], 256)
@example(b"x" * 257 + b"\ry", [258], 256)
@example(b"a\r" + b"\x1b[1m" * 70, [100], 256)
@example(b"a\r" + b"\x1b[1m" * 70 + b"b", [100], 256)
@example(b"\x1b]" + b"x" * 4097, [100], 256)
def test_where_the_bytes_are_cut_makes_no_difference(data: bytes, places: list[int], part_bytes: int) -> None:
    expected = split_slowly(data, part_bytes)
    assert lines(data, part_bytes=part_bytes) == expected
    assert lines(*cut(data, places), part_bytes=part_bytes) == expected
    assert lines(*(data[place : place + 1] for place in range(len(data))), part_bytes=part_bytes) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t"), max_size=2000), st.randoms())
def test_every_character_without_a_rule_appears_once(text: str, chance: random.Random) -> None:
    data = text.encode()
    chunks = cut(data, [chance.randrange(len(data) + 1) for _ in range(5)])
    joined = "".join(p.text + ("\n" if p.last else "") for p in lines(*chunks, part_bytes=MIN_PART_BYTES))
    assert joined == (text if text.endswith("\n") or not text else text + "\n")


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(0, 2**16), max_size=8))
def test_flushing_changes_no_final_piece_and_shows_the_truth(data: bytes, places: list[int]) -> None:
    splitter = LineSplitter(MIN_PART_BYTES)
    final: list[Piece] = []
    for chunk in cut(data, places):
        final += splitter.feed(chunk)
        shown = splitter.flush()
        if shown is not None:
            number = 0 if not final or final[-1].last else final[-1].part + 1
            assert (shown.part, shown.last, shown.partial) == (number, False, True)
            assert "\r" not in shown.text
    assert [*final, *splitter.close()] == split_slowly(data, MIN_PART_BYTES)


@settings(deadline=None)
@given(streams)
def test_lines_are_lines(data: bytes) -> None:
    pieces = lines(data, part_bytes=MIN_PART_BYTES)
    again = "".join(p.text + ("\n" if p.last else "") for p in pieces)
    assert lines(again.encode(), part_bytes=MIN_PART_BYTES) == pieces
    assert all(len(p.text.encode()) <= MIN_PART_BYTES and not set(p.text) & set("\r\n\0") for p in pieces)
