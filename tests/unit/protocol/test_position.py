import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.errors import MalformedPosition, ProtocolError
from shared.protocol.position import (
    MAX_SEQ,
    Anchor,
    LogState,
    Position,
    ResetReason,
    is_position,
    parse_after,
    why_reset,
)

EPOCHS = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=16)
SEQS = st.integers(0, MAX_SEQ)


@given(EPOCHS, SEQS)
def test_what_is_written_is_read_back(epoch: str, seq: int) -> None:
    position = Position(epoch, seq)
    assert Position.parse(str(position)) == position
    assert parse_after(str(position)) == position


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9]{0,17}-?-?[0-9]{0,25}", fullmatch=True))
def test_any_text_is_a_position_in_its_only_spelling_or_malformed(text: str) -> None:
    try:
        position = Position.parse(text)
    except MalformedPosition:
        return
    assert str(position) == text
    assert 0 <= position.seq <= MAX_SEQ


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "k3f9a2",
        "k3f9a2-",
        "-42",
        "42",
        "k3f9a2--1",
        "k3f9a2-+1",
        "k3f9a2-1.0",
        "k3f9a2-1e3",
        "k3f9a2-01",
        "k3f9a2-00",
        "k3f9a2-1 ",
        " k3f9a2-1",
        "k3f9a2-1\n",
        "k3f9a2-1\0",
        "k3f9a2-1-2",
        "K3F9A2-1",
        "k3f9a_-1",
        "ünicode-1",
        "k3f9a2-\u0661\u0662",  # Arabic-Indic digits, which int() would take
        "k3f9a2-\uff11\uff12",  # full-width digits
        "k3f9a²-1",
        "k3f9a2-1_000",
        "k3f9a2-0x1",
        "abcdefghijklmnopq-1",
        f"k3f9a2-{MAX_SEQ + 1}",
        "k3f9a2-9999999999999999999",
        "k3f9a2-" + "9" * 5_000,  # int() refuses more than 4,300 digits with another error
        "\ud800-1",
        "START",
        "Now",
        "start ",
    ],
)
def test_what_is_no_position_is_refused_by_name(text: str) -> None:
    with pytest.raises(MalformedPosition, match="is not a position: give start, now or") as caught:
        parse_after(text)
    assert isinstance(caught.value, ProtocolError)
    assert len(str(caught.value)) < 500
    str(caught.value).encode()  # it goes into a problem document


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9]{1,17}-[0-9]{1,25}", fullmatch=True))
def test_a_text_is_a_position_when_it_can_be_read_as_one(text: str) -> None:
    try:
        Position.parse(text)
    except MalformedPosition:
        assert not is_position(text)
    else:
        assert is_position(text)


def test_a_word_that_needs_no_epoch_is_no_position() -> None:
    assert [text for text in ("start", "now", "k3f9a2-1", "k3f9a2") if is_position(text)] == ["k3f9a2-1"]


@pytest.mark.parametrize(("length", "shown"), [(59, "x" * 59), (60, "x" * 60), (61, "x" * 60 + "…")])
def test_what_is_refused_is_shown_up_to_60_characters(length: int, shown: str) -> None:
    with pytest.raises(MalformedPosition) as caught:
        Position.parse("x" * length)
    assert str(caught.value).startswith(f"'{shown}' is not a position")


def test_the_largest_position_is_one() -> None:
    assert Position.parse(f"k3f9a2-{MAX_SEQ}").seq == 2**63 - 1
    assert Position.parse("0-0") == Position("0", 0)


def test_start_and_now_need_no_epoch_but_an_epoch_may_be_called_so() -> None:
    assert parse_after("start") is Anchor.START
    assert parse_after("now") is Anchor.NOW
    assert parse_after("now-5") == Position("now", 5)


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ("k3f9a2-20", None),
        ("k3f9a2-15", None),
        ("k3f9a2-9", None),  # oldest - 1: the next event is still there
        ("k3f9a2-8", ResetReason.HISTORY_TRIMMED),
        ("k3f9a2-0", ResetReason.HISTORY_TRIMMED),
        ("k3f9a2-21", ResetReason.UNKNOWN_POSITION),
        (f"k3f9a2-{MAX_SEQ}", ResetReason.UNKNOWN_POSITION),
        ("other-15", ResetReason.EPOCH_CHANGED),
        ("other-8", ResetReason.EPOCH_CHANGED),
        ("other-21", ResetReason.EPOCH_CHANGED),
        ("zzzzzz-15", ResetReason.EPOCH_CHANGED),  # epochs are names: none is before another
        ("aaaaaa-15", ResetReason.EPOCH_CHANGED),
    ],
)
def test_a_position_is_continued_or_the_reason_why_not_is_told(position: str, reason: ResetReason | None) -> None:
    assert why_reset(Position.parse(position), LogState("k3f9a2", head=20, oldest=10)) == reason


@pytest.mark.parametrize(
    ("state", "valid"),
    [
        (LogState("e", head=0, oldest=1), [0]),
        (LogState("e", head=3, oldest=1), [0, 1, 2, 3]),
        (LogState("e", head=3, oldest=4), [3]),  # everything was trimmed
    ],
)
def test_the_valid_positions_are_those_from_oldest_minus_one_to_the_head(state: LogState, valid: list[int]) -> None:
    assert [seq for seq in range(10) if why_reset(Position("e", seq), state) is None] == valid
    assert state.start == valid[0]
