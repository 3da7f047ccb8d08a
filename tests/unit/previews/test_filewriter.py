"""Writing into a directory that a hostile program owns: everything arrives, and nothing outside it is touched."""

import contextlib
import os
import shutil
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pytest

from services.previews import filewriter
from services.previews.filemap import BadName, FileLimits, NameClash, Obstructed, TooMuch, check_files
from services.previews.filewriter import Written, apply_patch, write_files

LIMITS = FileLimits()


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    directory = tmp_path / "inside"
    directory.mkdir()
    return directory


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("theirs")
    return directory


def write(directory: int | Path, **files: str) -> Written:
    return write_files(directory, check_files(files, LIMITS))


def tree(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def modes(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_files_are_written_with_their_directories(inside: Path) -> None:
    done = write_files(inside, check_files({"app.py": "x", "a/b/c.txt": "é", "a/d": ""}, LIMITS))
    assert done == Written([PurePosixPath("a/b/c.txt"), PurePosixPath("a/d"), PurePosixPath("app.py")], [])
    assert tree(inside) == {"a/b/c.txt": "é", "a/d": "", "app.py": "x"}


def test_an_open_directory_will_do_and_stays_open(inside: Path) -> None:
    directory = os.open(inside, os.O_RDONLY)
    try:
        write(directory, a="1")
        write(directory, a="2")
    finally:
        os.close(directory)
    assert tree(inside) == {"a": "2"}


def test_no_descriptor_stays_open(inside: Path, outside: Path) -> None:
    (inside / "link").symlink_to(outside)
    before = os.listdir("/proc/self/fd")
    for name in ("a/b/c", "link/x"):
        with pytest.raises(Obstructed) if "link" in name else umask(0o022):
            write_files(inside, check_files({name: "x"}, LIMITS))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_modes_do_not_depend_on_the_umask(inside: Path) -> None:
    with umask(0o077):
        write_files(inside, check_files({"d/run": "#!/bin/sh\n", "d/text": "x"}, LIMITS))
    assert modes(inside) == {"d": 0o755, "d/run": 0o755, "d/text": 0o644}


@pytest.mark.parametrize("target", ["outside", "outside/new", "/nowhere", "inside"])
@pytest.mark.parametrize("name", ["link", "link/file", "d/link", "d/link/secret"])
def test_a_link_is_neither_followed_nor_replaced(
    tmp_path: Path, inside: Path, outside: Path, target: str, name: str
) -> None:
    (inside / "d").mkdir()
    (inside / name[: name.index("link") + 4]).symlink_to(tmp_path / target)
    with pytest.raises(Obstructed, match="link"):
        write_files(inside, check_files({"a": "x", name: "mine"}, LIMITS))
    assert tree(inside) == {}  # nothing was written before it was noticed
    assert tree(outside) == {"secret": "theirs"}


def test_the_directory_itself_may_not_be_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(OSError, match="link"):
        write(tmp_path / "link", a="x")
    assert tree(outside) == {"secret": "theirs"}


def test_a_hard_link_is_replaced_and_not_written_through(inside: Path, outside: Path) -> None:
    os.link(outside / "secret", inside / "a")
    write(inside, a="mine")
    assert (tree(inside), tree(outside)) == ({"a": "mine"}, {"secret": "theirs"})


@pytest.mark.parametrize("name", ["special", "special/x"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_devices_pipes_and_sockets_are_refused_at_once(inside: Path, kind: str, name: str) -> None:
    special = inside / "special"
    if kind == "fifo":
        os.mkfifo(special)
    elif kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.relpath(special))  # a path of 108 bytes at most
        listener.close()
    else:
        try:
            os.mknod(special, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    with pytest.raises(Obstructed, match="special"):
        write_files(inside, check_files({name: "x"}, LIMITS))
    assert not stat.S_ISREG(special.stat().st_mode)


def test_a_file_is_not_made_a_directory_nor_a_directory_a_file(inside: Path) -> None:
    write_files(inside, check_files({"f": "x", "d/x": "y"}, LIMITS))
    for name in ("f/x", "d"):
        with pytest.raises(Obstructed, match=f"'{name[0]}'"):
            write_files(inside, check_files({name: ""}, LIMITS))
    assert tree(inside) == {"d/x": "y", "f": "x"}


def test_a_failed_write_leaves_no_half_file(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, content: bytes) -> None:
        os.write(file, content[:1])
        raise OSError(28, "No space left on device")

    write(inside, a="old")
    monkeypatch.setattr(filewriter, "_write_all", full)
    with pytest.raises(OSError, match="No space"):
        write(inside, a="new")
    assert tree(inside) == {"a": "old"}


def test_a_short_write_is_continued(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, content: whole(file, content[:3]))
    write(inside, a="0123456789")
    monkeypatch.undo()
    assert tree(inside) == {"a": "0123456789"}


def test_a_patch_writes_and_removes(inside: Path) -> None:
    write_files(inside, check_files({"keep": "1", "change": "1", "d/gone": "1"}, LIMITS))
    done = apply_patch(inside, {"change": "2", "new/x": "2", "d/gone": None, "never/was": None}, LIMITS)
    assert done == Written([PurePosixPath("change"), PurePosixPath("new/x")], [PurePosixPath("d/gone")])
    assert tree(inside) == {"change": "2", "keep": "1", "new/x": "2"}


def test_a_patch_may_make_a_file_a_directory(inside: Path) -> None:
    write(inside, a="1")
    apply_patch(inside, {"a": None, "a/b": "2"}, LIMITS)
    assert tree(inside) == {"a/b": "2"}


def test_removing_a_link_removes_the_link(inside: Path, outside: Path) -> None:
    (inside / "link").symlink_to(outside / "secret")
    apply_patch(inside, {"link": None}, LIMITS)
    assert (list(inside.iterdir()), tree(outside)) == ([], {"secret": "theirs"})


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"../x": None}, BadName),
        ({"/x": "y"}, BadName),
        ({"x": "1", "x/y": "2"}, NameClash),
        ({"x": "y" * (LIMITS.file_bytes + 1)}, TooMuch),
        ({"link/secret": None}, Obstructed),
        ({"link/new": "x"}, Obstructed),
        ({"link": "x"}, Obstructed),
        ({"d": None}, Obstructed),
        ({"d": "x"}, Obstructed),
        ({"d/x/y": None}, Obstructed),
    ],
)
def test_a_patch_is_checked_before_the_first_change(
    inside: Path, outside: Path, changes: dict[str, str | None], refusal: type[Exception]
) -> None:
    before = {"a": "old", "d/x": "old", "gone": "old"}
    write_files(inside, check_files(before, LIMITS))
    (inside / "link").symlink_to(outside)
    with pytest.raises(refusal):
        apply_patch(inside, {"0": "new", "a": "new", "gone": None, **changes}, LIMITS)
    assert (tree(inside), tree(outside)) == (before, {"secret": "theirs"})


@contextmanager
def racing(swap: Callable[[], None]) -> Iterator[None]:
    """Run one move of a hostile program in a thread, over and over."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            swap()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def swap_for_links(inside: Path, outside: Path) -> None:
    """`d` becomes a link to the outside and a directory again, `f` a link to a file there and nothing again."""
    moves: list[Callable[[], object]] = [
        lambda: (inside / "link").symlink_to(outside),
        lambda: (inside / "d").rename(inside / "moved"),
        lambda: (inside / "link").rename(inside / "d"),
        lambda: (inside / "link").symlink_to(outside / "secret"),
        lambda: (inside / "link").rename(inside / "f"),
        (inside / "d").unlink,
        lambda: (inside / "moved").rename(inside / "d"),
        (inside / "f").unlink,
        lambda: shutil.rmtree(inside / "moved"),
    ]
    for move in moves:
        with contextlib.suppress(OSError):  # the writer has been here
            move()


def test_a_program_that_swaps_directories_for_links_gets_nothing_written_outside(inside: Path, outside: Path) -> None:
    files = check_files({"d/mine": "mine", "d/secret": "mine", "f": "mine"}, LIMITS)
    (inside / "d").mkdir()
    written = obstructed = 0
    with racing(lambda: swap_for_links(inside, outside)):
        for _ in range(2000):
            try:
                write_files(inside, files)
                written += 1
            except Obstructed:
                obstructed += 1
    assert written > 20
    assert obstructed > 20
    assert tree(outside) == {"secret": "theirs"}
