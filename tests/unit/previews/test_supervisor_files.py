"""Measuring and removing what somebody hostile has made, and what a sandboxed socket may become."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from services.previews.supervisor import proc
from services.previews.supervisor.files import NAME_BYTES, give, measure, remove
from services.previews.supervisor.main import adopt
from services.previews.supervisor.order import Order
from services.previews.supervisor.reveal import closed_above


def total(*paths: Path, bound: int = 1 << 40) -> int:
    *slices, found = measure([str(path) for path in paths], bound)
    assert found is not None
    assert set(slices) <= {None}
    return found


def test_blocks_and_names_are_added_up_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 1_000_000)
    (tmp_path / "link").symlink_to("/usr")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    assert 1_000_000 <= total(tmp_path) < 1_100_000
    assert total(tmp_path / "gone") == 0


def test_names_count_without_contents_and_the_sum_is_given_in_slices(tmp_path: Path) -> None:
    for number in range(2_500):
        (tmp_path / str(number)).touch()
    assert total(tmp_path) >= 2_500 * NAME_BYTES
    assert list(measure([str(tmp_path)], 1 << 40)).count(None) == 2


def test_what_is_too_deep_to_be_counted_is_too_much(tmp_path: Path) -> None:
    shallow = tmp_path.joinpath(*"d" * 90)
    shallow.mkdir(parents=True)
    assert total(tmp_path, bound=10_000_000) < 10_000_000
    shallow.joinpath(*"d" * 20).mkdir(parents=True)
    assert total(tmp_path, bound=10_000_000) > 10_000_000


def nest(directory: Path, name: str, times: int) -> None:
    here = os.open(directory, os.O_RDONLY)
    for _ in range(times):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_what_is_deeper_than_a_path_is_long_is_too_much(tmp_path: Path) -> None:
    nest(tmp_path, "d" * 200, 30)
    assert total(tmp_path, bound=10_000_000) > 10_000_000
    remove(str(tmp_path))


@pytest.mark.parametrize(("name", "times"), [("d", 1_200), ("d" * 250, 40)])
def test_a_tree_deeper_than_recursion_and_paths_go_is_removed(tmp_path: Path, name: str, times: int) -> None:
    nest(tmp_path, name, times)
    remove(str(tmp_path))
    assert not tmp_path.exists()


def test_removing_follows_no_link_and_needs_no_permission(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    inside = tmp_path / "inside"
    for name in ("locked", "locked/inner", "locked/inner/most"):
        (inside / name).mkdir(parents=True)
    (inside / "link").symlink_to(outside)
    (inside / "locked" / "link").symlink_to(outside)
    os.mkfifo(inside / "fifo")
    (inside / "locked" / "inner").chmod(0)
    (inside / "locked").chmod(0)
    inside.chmod(0)
    remove(str(inside))
    assert not inside.exists()
    assert (outside / "kept").exists()
    remove(str(inside))
    (tmp_path / "link").symlink_to(outside)
    remove(str(tmp_path / "link"))
    assert (outside / "kept").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_giving_follows_no_link_and_leaves_what_has_other_names(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "file").touch()
    os.link(victim, inside / "hard")
    (inside / "soft").symlink_to(victim)
    (inside / "around").symlink_to(tmp_path)
    other = inside / "of-another"
    other.touch()
    os.chown(other, 7, 7)
    give(str(inside), 4242, 4242, (0,))
    owners = {path.name: path.lstat().st_uid for path in inside.rglob("*")}
    assert owners == {"sub": 4242, "file": 4242, "hard": 0, "soft": 4242, "around": 4242, "of-another": 7}
    assert inside.stat().st_uid == 4242
    assert victim.stat().st_uid == 0
    assert tmp_path.stat().st_uid == 0


def order(place: Path) -> Order:
    empty = dict.fromkeys(Order._fields, None)
    return Order(**{**empty, "socket": str(place / "socket"), "own_socket": str(place / "own")})  # type: ignore[arg-type]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)  # whose own path is too long for a socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    return Path()


def test_a_socket_of_its_own_takes_the_place(place: Path) -> None:
    before = (place / "socket").stat().st_ino
    adopt(order(place))
    assert (place / "socket").stat().st_ino == before
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("own")
    adopt(order(place))
    assert (place / "socket").stat().st_ino != before
    assert not (place / "own").exists()


def test_nothing_else_takes_its_place(place: Path) -> None:
    before = (place / "socket").lstat().st_ino
    makers: list[Callable[[], None]] = [
        lambda: (place / "own").symlink_to("socket"),
        lambda: (place / "own").symlink_to("/run/docker.sock"),
        (place / "own").touch,
        lambda: (place / "own" / "deep").mkdir(parents=True),
        lambda: os.mkfifo(place / "own"),
    ]
    for make in makers:
        make()
        adopt(order(place))
        assert (place / "socket").lstat().st_ino == before
        assert os.listdir(place) == ["socket"]


def test_a_process_is_told_from_another_with_its_number_by_its_start() -> None:
    mine = proc.read(os.getpid())
    assert mine is not None
    assert mine.parent == os.getppid()
    assert proc.is_running(mine.pid, mine.start)
    assert not proc.is_running(mine.pid, mine.start - 1)
    assert proc.read(1 << 30) is None


@pytest.mark.parametrize("name", ["plain", "a) R 1 (b", "new\nline"])
def test_a_name_full_of_parentheses_misleads_nobody(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = f"42 ({name}) S 7 42 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0\n"
    stat = tmp_path / "stat"
    stat.write_text(text)
    monkeypatch.setattr(proc, "open", lambda *_: open(stat, "rb"), raising=False)  # noqa: SIM115 - its caller closes it
    assert proc.read(42) == proc.Process(42, 7, 41, 123456, False)


def test_the_first_closed_directory_on_the_way_is_found(tmp_path: Path) -> None:
    for path in tmp_path.parents:
        if path.stat().st_mode & 0o001 == 0:
            assert closed_above(str(tmp_path / "x")) is not None
            return
    (tmp_path / "closed" / "inner").mkdir(parents=True)
    tmp_path.chmod(0o755)
    assert closed_above(str(tmp_path / "closed" / "inner")) is None
    (tmp_path / "closed").chmod(0o700)
    assert closed_above(str(tmp_path / "closed")) is None
    assert closed_above(str(tmp_path / "closed" / "inner")) == str(tmp_path / "closed")
