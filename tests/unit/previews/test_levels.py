"""Levels: what real programs print, and tracebacks that end, are chained, interrupted, or never finish."""

import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.previews.levels import LevelReader, say_level
from services.previews.lines import Piece
from services.previews.tracebacks import PATIENCE


def levels(text: str) -> list[str]:
    reader = LevelReader()
    return [reader.read(Piece(line)) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("ERROR:root:it broke", "ERROR"),
        ("WARNING:root:careful", "WARN"),
        ("CRITICAL:root:gone", "ERROR"),
        ("DEBUG:asyncio:Using selector: EpollSelector", "DEBUG"),
        ('INFO:     127.0.0.1:40112 - "GET /error HTTP/1.1" 500 Internal Server Error', "INFO"),
        ("WARNING:  StatReload detected changes in 'app.py'. Reloading...", "WARN"),
        ("2026-07-01 10:00:00,123 [ERROR] app: it broke", "ERROR"),
        ("2026-07-01 10:00:00,123 - app.core - WARNING - careful", "WARN"),
        ("[2026-07-01 10:00:00 +0000] [7] [INFO] Starting gunicorn 23.0.0", "INFO"),
        ("2026-07-01 10:00:00.123 | ERROR    | app:main:7 - it broke", "ERROR"),
        ("2026-07-01 10:00:00.123 | SUCCESS  | app:main:7 - done", "INFO"),
        ("2026-07-01 10:00:00 [error    ] it broke            user=7", "ERROR"),
        ("2026-07-01 10:00:00 [warning  ] careful", "WARN"),
        ('{"level":50,"time":1751364000000,"pid":7,"msg":"it broke"}', "ERROR"),
        ('{"level":30,"time":1751364000000,"msg":"an error"}', "INFO"),
        ('{"level":10,"msg":"x"}', "DEBUG"),
        ('{"event": "it broke", "user": 7, "level": "error", "timestamp": "2026-07-01T10:00:00Z"}', "ERROR"),
        ('{"msg":"she said \\"level\\":\\"error\\"","level":"warn"}', "WARN"),
        ('{"severity":"CRITICAL","message":"x"}', "ERROR"),
        ('{"@timestamp":"2026-07-01","log.level":"debug"}', "DEBUG"),
        ("npm ERR! code ELIFECYCLE", "ERROR"),
        ("npm error code ENOENT", "ERROR"),
        ("npm WARN deprecated x@1.0.0", "WARN"),
        ("npm warn deprecated x@1.0.0", "WARN"),
        ('2026/07/01 10:00:00 [error] 7#7: *1 open() "/x" failed', "ERROR"),
        ("2026/07/01 10:00:00 [notice] 7#7: start worker processes", "INFO"),
        ("Jul  1 10:00:00 host app[7]: error: it broke", "ERROR"),
        ("[2026-07-01T10:00:00Z ERROR app::core] it broke", "ERROR"),
        ("2026-07-01T10:00:00.000000Z  WARN app: careful", "WARN"),
        ("time=2026-07-01T10:00:00.000Z level=ERROR msg=broke", "ERROR"),
        ('ts=1 lvl="warn" msg=x', "WARN"),
        ("2026/07/01 10:00:00 ERROR it broke err=EOF", "ERROR"),
        ("2026-07-01T10:00:00.000Z\tWARN\tapp/main.go:7\tcareful", "WARN"),
        ("E0701 10:00:00.123456       7 main.go:7] it broke", "ERROR"),
        ("I0701 10:00:00.123456       7 main.go:7] fine", "INFO"),
        ("10:00AM ERR it broke error=EOF", "ERROR"),
        ("[10:00:00 WRN] careful", "WARN"),
        ("fail: Microsoft.AspNetCore.Server[13]", "ERROR"),
        ("dbug: Microsoft.AspNetCore[1]", "DEBUG"),
        ("error[E0308]: mismatched types", "ERROR"),
        ("warning: unused variable: `x`", "WARN"),
        ("main.c:10:5: error: expected ';'", "ERROR"),
        ("main.c:10:5: warning: unused", "WARN"),
        ("fatal: not a git repository", "ERROR"),
        ("panic: runtime error: index out of range [1] with length 1", "ERROR"),
        ("thread 'main' panicked at src/main.rs:2:5:", "ERROR"),
        ("✘ [ERROR] Could not resolve", "ERROR"),
        ("/app/x.py:7: DeprecationWarning: old", "WARN"),
        ("TypeError: x is not a function", "ERROR"),
        ("Uncaught Error [ERR_X]: no", "ERROR"),
        ("sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) no such table", "ERROR"),
        ("\x1b[32mINFO\x1b[0m:     Application startup complete.", "INFO"),
        ("\x1b[31m\x1b[1mERROR\x1b[0m it broke", "ERROR"),
        ("\x1b[1m\x1b[31merror\x1b[0m\x1b[1m: could not compile", "ERROR"),
        ("INFO no ERROR was found", "INFO"),  # the first one counts
        ("I, [2026-07-01T10:00:00 #7]  INFO -- : fine", "INFO"),
    ],
)
def test_a_line_says_its_level(line: str, level: str) -> None:
    assert say_level(line) == level


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "0 errors, 3 warnings",
        "there was an error in line 7",
        "GET /error 200",
        "ERRORS=0",
        "INFORM the user",
        "Information wants to be free",
        "Note that the log is empty",
        "logging to debug.log",
        "my_error: none",
        '{"msg":"level"}',
        '{"level":{"error":1}}',
        "x" * 300 + " ERROR ",  # beyond what is looked at
        "    at least 7 of them",
    ],
)
def test_a_line_that_says_no_level_is_info(line: str) -> None:
    assert say_level(line) is None
    assert LevelReader().read(Piece(line)) == "INFO"


PLAIN = """\
Traceback (most recent call last):
  File "/app/x.py", line 7, in <module>
    main()
    ~~~~^^
  File "/app/x.py", line 3, in main
    return {}["INFO: no"]
  [Previous line repeated 996 more times]
KeyError: 'INFO: no'
"""
NODE = """\
Error: listen EADDRINUSE: address already in use :::3000
    at Server.setupListenHandle [as _listen2] (node:net:1463:16)
    at listenInCluster (node:net:1511:12)
    at node:internal/main/run_main_module:28:49
    at async Promise.all (index 0) {
  code: 'EADDRINUSE',
  errno: -98
}
"""
JAVA = """\
Exception: in thread "main"
\tat com.example.App.main(App.java:7)
Caused by: java.lang.IllegalStateException: no
\tat com.example.App.run(App.java:3)
\t... 12 more
"""
GO = """\
panic: no

goroutine 1 [running]:
main.main()
\t/app/x.go:4 +0x27
created by main.start in goroutine 7
\t/app/x.go:9 +0x3c
exit status 2
"""
BOX = """\
╭───────────── Traceback (most recent call last) ──────────────╮
│ /app/x.py:7 in <module>                                       │
╰───────────────────────────────────────────────────────────────╯
ZeroDivisionError: division by zero
"""
SYNTAX = """\
  File "/app/x.py", line 1
    def (
        ^
SyntaxError: invalid syntax
"""


def chained() -> str:
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second")  # noqa: B904  # the implicit chain is what is tested
        except ValueError as error:
            raise RuntimeError("third") from error
    except RuntimeError:
        return traceback.format_exc()


def group() -> str:
    try:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [OSError("b"), error])]) from error
    except ExceptionGroup:
        return traceback.format_exc()


@pytest.mark.parametrize("text", [PLAIN, NODE, JAVA, BOX, SYNTAX, chained(), group()])
def test_every_line_of_a_traceback_is_an_error_and_the_next_is_not(text: str) -> None:
    found = levels(text + "and on it goes\n")
    assert found == ["ERROR"] * (len(found) - 1) + ["INFO"]


def test_go_says_its_panic_and_its_stack() -> None:
    found = levels(GO + "done\n")
    assert [found[0], *found[2:]] == ["ERROR"] * 7 + ["INFO"]


def test_an_indented_traceback_ends_at_its_own_indent() -> None:
    indented = "".join("    " + line for line in PLAIN.splitlines(keepends=True))
    assert levels(indented + "    more\n") == ["ERROR"] * 8 + ["INFO"]


def test_lines_with_a_level_of_their_own_do_not_end_a_traceback() -> None:
    lines = PLAIN.splitlines()
    mixed = [*lines[:3], 'INFO:     127.0.0.1:1 - "GET / HTTP/1.1" 200 OK', "hello from a thread", *lines[3:], "next"]
    assert levels("\n".join(mixed)) == ["ERROR"] * 3 + ["INFO", "INFO"] + ["ERROR"] * 5 + ["INFO"]


def test_a_group_goes_on_after_a_line_with_a_level_of_its_own() -> None:
    lines = group().splitlines()
    place = next(index for index, line in enumerate(lines) if line.startswith("    | ValueError"))
    found = levels("\n".join([*lines[:place], "INFO: fine", *lines[place:]]))
    assert found == ["ERROR"] * place + ["INFO"] + ["ERROR"] * (len(lines) - place)


@pytest.mark.parametrize("start", [PLAIN.splitlines()[0], NODE.splitlines()[4], '  | File "x", line 1', GO[11:34]])
@pytest.mark.parametrize("line", ["    - indented", "hello from the program", "INFO: fine"])
def test_an_interrupted_traceback_does_not_go_on_for_ever(start: str, line: str) -> None:
    assert levels("\n".join([start] + [line] * (PATIENCE + 2)))[-1] == "INFO"


def test_a_traceback_as_deep_as_python_goes_is_all_error() -> None:
    frames = '  File "x.py", line 7, in f\n    f()\n' * 1000
    assert set(levels(f"Traceback (most recent call last):\n{frames}RecursionError: too deep")) == {"ERROR"}


@pytest.mark.parametrize(
    "last", ["AssertionError", "socket.timeout: timed out", "app.errors.Gone", "Error: x", "Boom: y"]
)
def test_the_exception_is_the_last_line(last: str) -> None:
    assert levels(f'Traceback (most recent call last):\n  File "x.py", line 7, in f\n{last}\nnext')[2:] == [
        "ERROR",
        "INFO",
    ]


def test_all_parts_of_a_line_have_the_level_of_the_first() -> None:
    reader = LevelReader()
    pieces = [Piece("ERROR: long", 0, False), Piece("INFO: more", 1, False), Piece("x", 2), Piece("next")]
    assert [reader.read(piece) for piece in pieces] == ["ERROR", "ERROR", "ERROR", "INFO"]


def test_a_partial_line_changes_nothing() -> None:
    reader = LevelReader()
    assert reader.read(Piece("Traceback (most recent call last):", 0, False, True)) == "INFO"
    assert reader.read(Piece("    plain")) == "INFO"
    assert reader.read(Piece("Traceback (most recent call last):")) == "ERROR"
    assert reader.read(Piece("  Fi", 0, False, True)) == "ERROR"
    assert reader.read(Piece("done", 0, False, True)) == "ERROR"
    assert reader.read(Piece("ValueError: no")) == "ERROR"
    assert reader.read(Piece("next")) == "INFO"


@settings(deadline=None)
@given(st.text(max_size=400))
def test_any_text_has_a_level(text: str) -> None:
    reader = LevelReader()
    assert all(reader.read(Piece(line)) in ("DEBUG", "INFO", "WARN", "ERROR") for line in text.split("\n"))
