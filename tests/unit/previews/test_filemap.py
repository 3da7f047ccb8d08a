"""File maps: what is refused, whole, and what is written where."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.previews.filemap import (
    BadContent,
    BadName,
    FileLimits,
    FilesRefused,
    NameClash,
    TooMuch,
    check_files,
)

LIMITS = FileLimits(files=5, file_bytes=10, total_bytes=25, depth=4)


def test_the_files_come_back_sorted_as_bytes() -> None:
    assert check_files({"b/c.txt": "é", "a.py": b"\xff", "b.txt": ""}, LIMITS) == [
        (PurePosixPath("a.py"), b"\xff"),
        (PurePosixPath("b/c.txt"), "é".encode()),
        (PurePosixPath("b.txt"), b""),
    ]
    assert check_files({}, LIMITS) == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "/",
            "/etc/passwd",
            "//x",
            "..",
            ".",
            "../x",
            "a/../x",
            "a/./x",
            "a//x",
            "a/",
            "./x",
            "a/..",
            "...",
            "a/. ",
        ),
        *("a\\b", "..\\x", "C:\\x", "a\0b", "a\nb", "a\x7fb", "a\x9bb", "a\u2028b", "a\u202egpj.exe", "\ud800"),
        *(".tailrace", ".tailrace/x", "a/.tailrace-1234", ".TAILRACE", ".tailrace. "),
        *("x" * 256, "é" * 128, "a/b/c/d/e"),
        *("/".join(["x" * 200] * 4) + "/" + "y" * 255, "x" * 10**6),
    ],
)
def test_a_bad_name_is_refused_and_named(name: str) -> None:
    with pytest.raises(BadName) as refused:
        check_files({"fine.py": "", name: ""}, FileLimits(depth=4) if name.count("/") == 4 else FileLimits())
    message = str(refused.value)
    assert len(message) < 300
    assert message.isprintable()
    assert ": " in message
    assert repr(name)[1:20].rstrip("'") in message


@pytest.mark.parametrize(
    "name",
    ["a", ".env", ".hidden/x", "a b.txt", "a..b", "..a", "-rf", "~", "$x", "é😀.py", "C:x", "x" * 255, "é" * 127],
)
def test_a_strange_name_that_is_one_file_is_taken(name: str) -> None:
    assert check_files({name: "x"}, LIMITS) == [(PurePosixPath(name), b"x")]


@pytest.mark.parametrize(
    "names",
    [
        ("caf\u00e9", "cafe\u0301"),
        ("a", "a."),
        ("a", "a. "),
        ("d/x", "d./x"),
        ("d/x", "d./y"),
        ("caf\u00e9/x", "cafe\u0301/y"),
        ("a", "a/b"),
        ("a/b/c", "a"),
        ("a.", "a/b"),
    ],
)
def test_names_that_cannot_both_be_taken_are_refused(names: tuple[str, str]) -> None:
    for chosen in (names, names[::-1]):
        with pytest.raises(NameClash) as refused:
            check_files(dict.fromkeys(chosen, ""), LIMITS)
        assert all(repr(name) in str(refused.value) for name in names)


def test_upper_and_lower_case_are_different_files() -> None:
    assert len(check_files({"README": "", "readme": ""}, LIMITS)) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (dict.fromkeys("abcdef", ""), "6 files are more than the 5"),
        ({"big.txt": "x" * 11}, "'big.txt' has 11 bytes; a file may have 10"),
        ({"big.txt": "é" * 6}, "'big.txt' has 12 bytes"),
        (dict.fromkeys("abc", "x" * 9), "larger than 25 bytes together"),
    ],
)
def test_more_than_the_limits_is_refused(files: dict[str, str], message: str) -> None:
    with pytest.raises(TooMuch, match=message):
        check_files(files, LIMITS)


def test_just_the_limits_are_taken() -> None:
    files = {"a/b/c/d": "x" * 10, "b": "x" * 10, "c": "x" * 5, "d": "", "e": ""}
    assert len(check_files(files, LIMITS)) == 5


def test_half_a_character_is_refused() -> None:
    with pytest.raises(BadContent, match=r"'a\.py' holds half a character at index 1"):
        check_files({"a.py": "x\ud800"}, LIMITS)


names = st.text(st.sampled_from("aé\u0301./\\ \0\n-~") | st.characters(), max_size=12) | st.sampled_from(
    ["a", "a/b", "a/b/c", "..", "../a", "/a", "a/", ".tailrace", "A"]
)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(names, st.text(max_size=3), max_size=6))
def test_what_is_taken_is_one_file_each_below_the_directory(files: dict[str, str]) -> None:
    try:
        checked = check_files(files, FileLimits())
    except FilesRefused:
        return
    paths = [path for path, _ in checked]
    assert sorted(map(str, paths)) == sorted(files)  # as they were given: nothing was mended
    assert not any(path.is_absolute() or {"..", "."} & set(path.parts) for path in paths)
    assert not {parent for path in paths for parent in path.parents} & set(paths)
