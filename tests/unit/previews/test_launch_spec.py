"""What is refused before anything is started, and what each kind is started with."""

from pathlib import Path
from typing import Any

import pytest

from services.previews.launch import LaunchFailed, LaunchSpec, Limits, SpecRefused, bubblewrap, kinds, launcher
from services.previews.launch.spec import check

GOOD: dict[str, Any] = {
    "preview_id": "prv_01j",
    "attempt": 1,
    "kind": "asgi",
    "entry": "main:app",
    "directory": Path("/d"),
    "socket": Path("/s/socket"),
}


def spec(**changes: Any) -> LaunchSpec:
    return LaunchSpec(**{**GOOD, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"entry": "a.b_c:make.app"},
        {"entry": "größe:app"},
        {"kind": "static", "entry": ""},
        {"kind": "static", "entry": "public/site"},
        {"kind": "node", "entry": "src/server.mjs"},
        {"kind": "command", "entry": "", "command": ("python", "-m", "http.server")},
        {"env": {"A_b1": "", "LD_PRELOAD": "x", "DATABASE_URL": "sqlite://", "Ü".replace("Ü", "_"): "ü\n"}},
        {"socket": Path("/" + "s" * 91)},
    ],
)
def test_what_can_be_launched_is_let_through(changes: dict[str, Any]) -> None:
    check(spec(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preview_id": "../x"}, "A preview's id is made of"),
        ({"preview_id": ""}, "A preview's id is made of"),
        ({"preview_id": "x" * 65}, "A preview's id is made of"),
        ({"socket": Path("/" + "s" * 92)}, "too long for a socket"),
        ({"entry": "main"}, "is a module and a name in it"),
        ({"entry": "main:app\n"}, "is a module and a name in it"),
        ({"entry": "-m:app"}, "is a module and a name in it"),
        ({"entry": "main:app()"}, "is a module and a name in it"),
        ({"entry": "../main:app"}, "is a module and a name in it"),
        ({"kind": "wsgi", "entry": ".main:app"}, "is a module and a name in it"),
        ({"kind": "node", "entry": ""}, "is the file to run"),
        ({"kind": "node", "entry": "/etc/x.js"}, "a path below the preview's directory"),
        ({"kind": "node", "entry": "a/../../x.js"}, "a path below the preview's directory"),
        ({"kind": "node", "entry": "--eval"}, "a path below the preview's directory"),
        ({"kind": "static", "entry": "a\0b"}, "a path below the preview's directory"),
        ({"kind": "command", "command": ()}, "needs a command"),
        ({"kind": "command", "command": ("",)}, "needs a command"),
        ({"kind": "command", "command": ("a", "b\0")}, "can have a NUL"),
        ({"kind": "command", "command": ("a", "b" * 65_536)}, "at most 65536 bytes"),
        ({"env": {"": "x"}}, "A variable's name"),
        ({"env": {"1A": "x"}}, "A variable's name"),
        ({"env": {"A B": "x"}}, "A variable's name"),
        ({"env": {"A=B": "x"}}, "A variable's name"),
        ({"env": {"A\n": "x"}}, "A variable's name"),
        ({"env": {"Ü": "x"}}, "A variable's name"),
        ({"env": {"A" * 129: "x"}}, "A variable's name"),
        ({"env": {"PORT": "1"}}, "PORT is set for the program"),
        ({"env": {"LISTEN_FDS": "1"}}, "LISTEN_FDS is set for the program"),
        ({"env": {"TAILRACE_JWT_SECRET": "1"}}, "TAILRACE_JWT_SECRET is set for the program"),
        ({"env": {"A": "x\0"}}, "has a NUL"),
        ({"env": {"A": "\ud800"}}, "written as UTF-8"),
        ({"env": {"A": "ü" * 32_768}}, "more than 65536 bytes"),
        ({"env": {f"A{number}": "x" * 1024 for number in range(64)}}, "more than 65536 bytes"),
    ],
)
def test_what_cannot_be_launched_is_refused_with_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecRefused, match=words):
        check(spec(**changes))


def test_no_kind_is_started_through_a_shell() -> None:
    assert kinds.start_of(spec(), "/app", "/tmp").arguments[-2:] == [str(kinds.INSIDE / "asgi.py"), "main:app"]
    assert kinds.start_of(spec(kind="static", entry=""), "/app", "/tmp").arguments[-1] == "."
    given = ("sh;", "$(x)", "a b")
    assert kinds.start_of(spec(kind="command", command=given), "/app", "/tmp").arguments == list(given)


def test_what_the_caller_gives_goes_before_what_we_would_have_set() -> None:
    start = kinds.start_of(spec(env={"DATABASE_URL": "sqlite:///other.db"}), "/app", "/tmp")
    assert start.environment["DATABASE_URL"] == "sqlite:///other.db"
    assert start.environment["HOME"] == "/app"


def test_without_node_that_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.shutil, "which", lambda *_, **__: None)  # type: ignore[attr-defined]  # a module's import
    with pytest.raises(LaunchFailed, match="install Node"):
        kinds.start_of(spec(kind="node", entry="x.js"), "/app", "/tmp")


@pytest.mark.parametrize("uid", [None, 1_900_000_001])
def test_the_sandbox_shares_the_network_only_when_asked(uid: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "_options", lambda: "--disable-userns")
    closed = bubblewrap.arguments(("/d", "/s"), [], uid, network=False)
    shared = bubblewrap.arguments(("/d", "/s"), [], uid, network=True)
    assert "--unshare-net" in closed
    assert "/etc/resolv.conf" not in closed
    assert "--unshare-net" not in shared
    assert "/etc/resolv.conf" in shared
    for arguments in (closed, shared):
        for always in ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session"):
            assert always in arguments
        assert arguments[-4:] == ["--remount-ro", "/dev", "--remount-ro", "/"]
        assert ("--unshare-user" in arguments) == (uid is None)
        assert ("--cap-add" in arguments) == (uid is not None)


def test_the_kernel_counts_processes_by_user_only_where_the_program_has_one() -> None:
    limits = Limits(processes=10, memory_bytes=100 * 1024 * 1024, file_bytes=10 * 1024 * 1024, cpu_seconds=7)
    own = launcher.resource_limits("uid", spec(limits=limits))
    assert own["RLIMIT_NPROC"] == 10
    assert own["RLIMIT_DATA"] == 200 * 1024 * 1024
    assert own["RLIMIT_FSIZE"] == 10 * 1024 * 1024
    assert own["RLIMIT_CPU"] == 7
    assert own["RLIMIT_CORE"] == 0
    assert launcher.resource_limits("process", spec(limits=limits))["RLIMIT_NPROC"] > 20
    assert "RLIMIT_CPU" not in launcher.resource_limits("uid", spec())
