"""The command `tailrace`."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from io import TextIOWrapper
from typing import Any

import msgspec

from services.commands.outcome import INTERRUPTED, OTHER, USAGE
from services.commands.submit import Submission, submit
from services.commands.tail import STREAMS, tail
from services.commands.terminal import Terminal
from services.commands.token import add_token
from services.commands.token import run as run_token
from services.pages import Pages
from services.previews.app import PreviewsService
from services.runs.app import RunsService
from services.tasks.app import TasksService
from shared.client import Client, ClientError, Refused, Unavailable
from shared.edge.process import Maker, renew_epoch
from shared.edge.process import main as run_process
from shared.edge.settings import is_address
from shared.protocol.errors import MalformedPosition
from shared.protocol.position import parse_after

SERVICES: Mapping[str, Maker] = {"tasks": TasksService, "runs": RunsService, "previews": PreviewsService}
EXIT_CODES = """\
exit codes: 0 it ended well, 1 it failed, 2 wrong usage, 3 cancelled, 4 timed out, 5 anything else, 130 Ctrl-C"""

Work = Callable[[Client, Terminal], Awaitable[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "epoch":
        return renew_epoch(list(SERVICES), print)
    if options.command == "token":
        return run_token(options, os.environ)
    if options.command in WORKS:
        return _as_client(options)
    names = list(SERVICES) if options.service == "all" else [options.service]
    return run_process([SERVICES[name] for name in names], lambda url: print(_welcome(url, names), flush=True), Pages)


# ── as a server ────────────────────────────────────────────────────────────────────────────────────────────────────


def _welcome(url: str, names: Sequence[str]) -> str:
    runs = f"{url}/api/v1/runs"
    socket = runs.replace("http", "ws", 1)
    hints = {
        "runs": f"""
  Start and watch a run   .venv/bin/tailrace submit "Say something" --url {url}
  Start one with curl     curl -s {runs} -H 'Content-Type: application/json' -d '{{"task":"Say something"}}'
  Watch all runs          curl -sN {runs}/stream
  Watch one, from start   curl -sN {runs}/<id>/stream
  ... over a WebSocket    .venv/bin/websockets {socket}/<id>/stream
  Let a worker do one     .venv/bin/python examples/directory_worker.py --url {url} --submit .""",
        "tasks": f"""
  Watch all tasks         curl -sN {url}/api/v1/tasks/stream""",
        "previews": f"""
  Watch all previews      curl -sN {url}/api/v1/previews/stream
  One program's output    .venv/bin/tailrace tail preview <generation> --url {url}""",
    }
    told = "".join(hint for name, hint in hints.items() if name in names)
    return f"""
Tailrace is up: {url}
{told}

Ctrl-C ends it; the data stays in .tailrace/.
"""


# ── as a client ────────────────────────────────────────────────────────────────────────────────────────────────────


def _as_client(options: argparse.Namespace) -> int:
    """Do the work; what goes wrong is told in one sentence, and Ctrl-C and a closed pipe end it quietly."""
    for stream, encoding in ((sys.stdout, "utf-8" if options.json else None), (sys.stderr, None)):
        if isinstance(stream, TextIOWrapper):  # pytest's is none
            stream.reconfigure(encoding=encoding, errors="replace")  # whatever the locale can't say
    terminal = Terminal(json=options.json, colour=False if options.no_colour else None)
    try:
        work = WORKS[options.command](options)
        return asyncio.run(_connected(options, work, terminal))
    except Unavailable as error:
        advice = f"nothing answers at {options.url}: {error}. `tailrace up` starts it; --url names another."
        terminal.tell(f"tailrace: {error if error.status else advice}")
        return OTHER
    except Refused as error:
        terminal.tell(f"tailrace: {error}")
        return USAGE if error.status in (400, 422) else OTHER
    except ClientError as error:
        terminal.tell(f"tailrace: {error}")
        return OTHER
    except UnicodeError as error:  # in an argument, the token or standard input
        terminal.tell(f"tailrace: that is no text: {error}")
        return USAGE
    except KeyboardInterrupt:
        terminal.clear()
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has seen enough; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OTHER


async def _connected(options: argparse.Namespace, work: Work, terminal: Terminal) -> int:
    async with Client(
        options.url, token=options.token or None, transport="websocket" if options.websocket else "sse"
    ) as client:
        return await work(client, terminal)


def _tailing(options: argparse.Namespace) -> Work:
    return lambda client, terminal: tail(
        client, options.kind, options.id, terminal, after=options.after, types=options.types
    )


def _submitting(options: argparse.Namespace) -> Work:
    run: dict[str, Any] = {
        "task": sys.stdin.read() if options.task == "-" else options.task,
        "runner": options.runner,
        "workers": options.workers,
        "mode": "queued" if options.queued else "inline",
        "params": options.params,
    }
    given = {"session_id": options.session, "task_id": options.task_id, "timeout_seconds": options.timeout}
    run |= {name: value for name, value in given.items() if value is not None}
    what = Submission(
        run=run,
        count=options.count,
        stagger_ms=options.stagger_ms,
        title=options.title,
        is_watched=not options.detach,
    )
    return lambda client, terminal: submit(client, what, terminal)


WORKS: Mapping[str, Callable[[argparse.Namespace], Work]] = {"tail": _tailing, "submit": _submitting}


# ── arguments ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tailrace", description="The live side of an AI application.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="all services on one port; with their own PostgreSQL unless one is named")
    up.set_defaults(service="all")
    one = commands.add_parser("serve", help="one service, or all")
    one.add_argument("service", choices=[*SERVICES, "all"])
    _add_tail(commands)
    _add_submit(commands)
    epoch = commands.add_parser("epoch", help="after a restore into the same cluster: make every reader start over")
    epoch.add_argument("action", choices=["new"])
    add_token(commands)
    return parser


def _add_tail(commands: Any) -> None:
    text = "Watch a task, a run or a preview until it ends; cut off, it goes on where it was."
    parser = commands.add_parser("tail", help="watch something until it ends", description=text, epilog=EXIT_CODES)
    parser.add_argument("kind", choices=list(STREAMS))
    parser.add_argument("id", type=_id, help="its id; of a preview, that of its generation")
    parser.add_argument("--after", type=_position, metavar="POSITION", help="start, now or a position: begin after it")
    parser.add_argument("--types", type=_names, metavar="TYPES", help="a comma list of event types; * stands for any")
    _add_client(parser)


def _add_submit(commands: Any) -> None:
    text = "Start a run, or several, and watch until the end. The ids come first, a line each."
    parser = commands.add_parser("submit", help="start runs and watch them", description=text, epilog=EXIT_CODES)
    parser.add_argument("task", help="what is to be done; - reads it from standard input")
    parser.add_argument("--runner", default="sample", help="sample, openai, or your own workers' (with --queued)")
    parser.add_argument("--workers", type=int, default=1, help="how many workers the run has")
    parser.add_argument("--queued", action="store_true", help="let any worker take it")
    parser.add_argument("--count", type=_count, default=1, help="so many runs of the same, up to 100")
    parser.add_argument("--stagger-ms", type=int, default=300, help="each so long after the one before")
    owner = parser.add_mutually_exclusive_group()
    owner.add_argument("--title", help="make a task of this title that owns the runs, and watch that")
    owner.add_argument("--task-id", help="the task that owns the runs")
    parser.add_argument("--session", help="the session that hears of the runs")
    parser.add_argument("--params", type=_object, default={}, metavar="JSON", help="an object for the runner")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="a run that takes longer is ended")
    parser.add_argument("--detach", action="store_true", help="print the ids and leave")
    _add_client(parser)


def _add_client(parser: argparse.ArgumentParser) -> None:
    url = os.environ.get("TAILRACE_URL") or "http://127.0.0.1:8000"
    parser.add_argument("--url", type=_url, default=url, help="where Tailrace is (TAILRACE_URL; here: %(default)s)")
    parser.add_argument(
        "--token", default=os.environ.get("TAILRACE_TOKEN", ""), help="where it asks for one; better in TAILRACE_TOKEN"
    )
    parser.add_argument("--websocket", action="store_true", help="stream over a WebSocket")
    parser.add_argument("--json", action="store_true", help="frames as JSON, one a line")
    parser.add_argument("--no-colour", "--no-color", action="store_true", help="no colours; so does NO_COLOR")


def _url(text: str) -> str:
    if not is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address: give one such as http://127.0.0.1:8000")
    return text


def _id(text: str) -> str:
    if not text.strip("./"):  # a script's empty variable must not watch everything
        raise argparse.ArgumentTypeError(f"{text!r} is no id")
    return text


def _position(text: str) -> str:
    try:
        return str(parse_after(text))
    except MalformedPosition as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 100:
        raise argparse.ArgumentTypeError("from 1 to 100")
    return count


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"no JSON object: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
