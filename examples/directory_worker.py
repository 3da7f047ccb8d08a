"""A Tailrace worker in a process of its own: it reads the directory that a run names, and tells how far it is.

    python examples/directory_worker.py --submit .

To write a worker of your own, copy this file and replace `Found`, `read_tree` and `work`: the rest is what every
worker needs. It keeps a run's lease while it works, sends events in numbered batches that may arrive twice without
being stored twice, stops when told to, and says how the run ended. Where Tailrace asks for a token, TAILRACE_TOKEN is
one with the scope runs:work, and runs:write for --submit.
"""

import argparse
import json
import os
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

RUNNER = "directory"
LEASE_WAIT_SECONDS = 20  # how long one question for work may take
BATCH_SECONDS, BATCH_EVENTS = 0.2, 100  # an event waits at most so long for company, which is at most so many
EXTENSIONS_NAMED = 50


class Away(Exception):
    """Tailrace cannot be reached or is overloaded: the same call may succeed later."""


class Refused(Exception):
    """Tailrace says no, and why: the request is wrong, or the run is not ours any more."""


class Cancelled(Exception):
    """The run is to stop."""


class Api:
    """The runs API of one Tailrace."""

    def __init__(self, url: str, bearer: str = "") -> None:
        self.runs = f"{url.rstrip('/')}/api/v1/runs"
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {bearer}"} if bearer else {},
            timeout=httpx.Timeout(10, read=LEASE_WAIT_SECONDS + 10),
        )

    def post(self, path: str, body: object = None, token: str = "") -> Any:
        """The answer's JSON, None where there is none. Raise Away, Refused."""
        try:
            answer = self._http.post(self.runs + path, json=body, headers={"Tailrace-Lease": token} if token else {})
        except httpx.TransportError as error:
            raise Away(str(error) or type(error).__name__) from None
        if answer.status_code == 429 or answer.is_server_error:
            raise Away(f"{answer.status_code} {answer.reason_phrase}")
        if not answer.is_success:
            is_problem = answer.headers.get("content-type") == "application/problem+json"
            raise Refused(answer.json()["detail"] if is_problem else f"{answer.status_code} {answer.reason_phrase}")
        return answer.json() if answer.content else None

    def post_until_taken(self, path: str, body: object, token: str = "") -> Any:
        """`post`, again and again while Tailrace is away. Only for what has no further effect if it arrives twice."""
        delay = 0.25
        while True:
            try:
                return self.post(path, body, token)
            except Away as away:
                say(f"Tailrace is away, trying again: {away}")
                # By chance, so that workers that were cut off together do not come back together.
                time.sleep(delay * random.uniform(0.5, 1))
                delay = min(delay * 2, 10)


class Attempt:
    """A leased run. Inside its `with` block a thread renews the lease, however slow the work is."""

    def __init__(self, api: Api, worker: str, leased: dict[str, Any]) -> None:
        self.run: dict[str, Any] = leased["run"]
        self.worker = worker
        self._api = api
        self._path = f"/{self.run['id']}"
        self._lease: dict[str, str] = leased["lease"]
        self._began = time.monotonic()
        self._producer = f"{worker}/{self.run['attempt']}"  # a later attempt begins anew, and so do its numbers
        self._next_seq = 1
        self._pending: list[dict[str, Any]] = []
        self._sent_at = 0.0
        self._stop: Exception | None = None
        self._over = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Attempt":
        self._renewing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def report(self, **fields: Any) -> None:
        """Tell of the work by a `node_update`. Raises what `pulse` raises."""
        elapsed_ms = int((time.monotonic() - self._began) * 1000)
        always = {"type": "node_update", "worker_id": self.worker, "attempt": self.run["attempt"]}
        self._pending.append({**always, "elapsed_ms": elapsed_ms, **fields})
        self.pulse()

    def pulse(self) -> None:
        """Call it often: it sends what is due. Raise Cancelled, Refused: stop working."""
        if len(self._pending) >= BATCH_EVENTS or time.monotonic() - self._sent_at >= BATCH_SECONDS:
            self._send()
        if self._stop is not None:
            raise self._stop

    def finish(self, status: str, *, error: str | None = None, output: str | None = None) -> None:
        """End the run. Raise Refused when it is not ours to end."""
        self._send()
        body = {"status": status, "error": error, "output": output}
        self._api.post_until_taken(f"{self._path}/finish", body, self._lease["token"])

    def _send(self) -> None:
        """Send what is pending as one batch. By its number a batch that arrives twice is recognised."""
        self._sent_at = time.monotonic()
        events, self._pending = self._pending, []
        if events:
            batch = {"producer": self._producer, "producer_seq": self._next_seq, "events": events}
            self._heed(self._api.post_until_taken(f"{self._path}/events", batch, self._lease["token"]))
            self._next_seq += len(events)

    def _renew(self) -> None:
        while not self._over.wait(self._renewal_seconds()):
            try:
                answer = self._api.post(f"{self._path}/lease/renew", token=self._lease["token"])
            except Away:
                continue
            except Refused as refused:
                self._stop = refused
                return
            self._lease = answer["lease"]
            self._heed(answer)

    def _renewal_seconds(self) -> float:
        left = datetime.fromisoformat(self._lease["expires_at"]) - datetime.now(UTC)
        return min(max(left.total_seconds() / 3, 0.2), 10)  # within bounds even if this machine's clock is wrong

    def _heed(self, answer: dict[str, Any]) -> None:
        if answer["cancel"]:
            self._stop = Cancelled()


@dataclass
class Found:
    """The output of a run. Lines are counted as `wc -l` does."""

    directories: int = 0
    files: int = 0
    bytes: int = 0
    lines: int = 0
    unreadable: int = 0
    largest: dict[str, Any] | None = None
    by_extension: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> str:
        named = dict(self.by_extension.most_common(EXTENSIONS_NAMED))
        return json.dumps({**vars(self), "by_extension": named})


def read_tree(root: Path, found: Found, pulse: Callable[[], None]) -> Iterator[tuple[Path, int]]:
    """Read all files below `root`; yield each directory and its number of files as soon as it has been read.

    Symbolic links are not followed: that way nobody goes round in circles or leaves the tree.
    """
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            found.unreadable += 1
            continue
        files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        for entry in files:
            try:
                read_file(Path(entry.path), root, found, pulse)
            except OSError:
                found.unreadable += 1
        found.directories += 1
        waiting += [Path(entry.path) for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
        yield directory, len(files)


def read_file(path: Path, root: Path, found: Found, pulse: Callable[[], None]) -> None:
    """Add one file to what was found."""
    size = lines = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            lines += chunk.count(b"\n")
            pulse()
    found.files += 1
    found.bytes += size
    found.lines += lines
    if found.largest is None or size > found.largest["bytes"]:
        found.largest = {"path": shown(path.relative_to(root)), "bytes": size}
    found.by_extension[shown(path.suffix.lower()) or "none"] += 1


def shown(path: Path | str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")  # file names are bytes, JSON is not


def work(attempt: Attempt, pause: float) -> str:
    """Read the directory that the run's task names; return the run's output. What it raises fails the run."""
    root, found = Path(attempt.run["task"]).expanduser(), Found()
    if not root.is_dir():
        raise NotADirectoryError(f"There is no directory {root} on {socket.gethostname()}.")
    for directory, files in read_tree(root, found, attempt.pulse):
        so_far = f"{found.files:,} files, {found.lines:,} lines, {found.bytes:,} bytes so far"
        snippet = f"{shown(directory.relative_to(root))[-100:]}: {files} files; {so_far}"
        attempt.report(node="reader", phase="read", iteration=found.directories, snippet=snippet)
        time.sleep(pause)
    return found.as_json()


def take_one(api: Api, worker: str, pause: float) -> bool:
    """Wait for a run and do it; False when none came."""
    wanted = {"runners": [RUNNER], "worker": worker, "wait_seconds": LEASE_WAIT_SECONDS}
    # If the answer is lost, so is the lease in it: it expires, and the run is somebody's next attempt.
    leased = api.post_until_taken("/lease", wanted)
    if leased is None:
        return False
    run = leased["run"]
    say(f"{run['id']}, attempt {run['attempt']}: reading {run['task']}")
    try:
        with Attempt(api, worker, leased) as attempt:
            say(f"{run['id']}: {do(attempt, pause)}")
    except Refused as refused:
        say(f"{run['id']}: left as it is. {refused}")
    return True


def do(attempt: Attempt, pause: float) -> str:
    """Work on it, end it, and say how it ended."""
    try:
        output = work(attempt, pause)
    except Cancelled:
        attempt.finish("cancelled")
        return "cancelled"
    except Exception as error:  # noqa: BLE001  whatever the work raises is how the run ended
        attempt.finish("failed", error=str(error) or type(error).__name__)
        return f"failed: {error}"
    attempt.finish("completed", output=output)
    return "completed"


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Read the directories that Tailrace's `directory` runs name.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where Tailrace is (%(default)s)")
    parser.add_argument("--submit", metavar="DIR", help="queue a run for this directory first")
    parser.add_argument("--once", action="store_true", help="leave after one run")
    parser.add_argument("--pause", type=float, default=0, metavar="SECONDS", help="rest after each directory")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    api, worker = Api(options.url, os.environ.get("TAILRACE_TOKEN", "")), f"{RUNNER}-{secrets.token_hex(4)}"
    try:
        if options.submit is not None:
            task = str(Path(options.submit).resolve())
            run = api.post("", {"task": task, "mode": "queued", "runner": RUNNER})
            say(f"Watch it: curl -N {api.runs}/{run['id']}/stream")
        while not take_one(api, worker, options.pause) or not options.once:
            pass
    except (Away, Refused) as error:
        print(f"Tailrace at {options.url}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("Stopped. A run that was being read goes back into the queue when its lease expires.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
