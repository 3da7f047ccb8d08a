"""The command `tailrace`."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from services.pages import pages
from services.runs.app import RunsService
from services.tasks.app import TasksService
from shared.edge.process import Maker, renew_epoch
from shared.edge.process import main as run_process

SERVICES: Mapping[str, Maker] = {"tasks": TasksService, "runs": RunsService}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "epoch":
        return renew_epoch(list(SERVICES), print)
    makers = list(SERVICES.values()) if options.service == "all" else [SERVICES[options.service]]
    return run_process(makers, lambda url: print(_welcome(url), flush=True), pages)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tailrace", description="The live side of an AI application.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="all services on one port; with their own PostgreSQL unless one is named")
    up.set_defaults(service="all")
    one = commands.add_parser("serve", help="one service, or all")
    one.add_argument("service", choices=[*SERVICES, "all"])
    epoch = commands.add_parser("epoch", help="after a restore into the same cluster: make every reader start over")
    epoch.add_argument("action", choices=["new"])
    return parser


def _welcome(url: str) -> str:
    runs = f"{url}/api/v1/runs"
    socket = runs.replace("http", "ws", 1)
    return f"""
Tailrace is up: {url}

  Start a run             curl -s {runs} -H 'Content-Type: application/json' -d '{{"task":"Say something"}}'
  Watch all runs          curl -sN {runs}/stream
  Watch one, from start   curl -sN {runs}/<id>/stream
  ... over a WebSocket    .venv/bin/websockets {socket}/<id>/stream
  Let a worker do one     .venv/bin/python examples/directory_worker.py --url {url} --submit .

Ctrl-C ends it; the data stays in .tailrace/.
"""


if __name__ == "__main__":
    sys.exit(main())
