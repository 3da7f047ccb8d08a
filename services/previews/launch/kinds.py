"""How each kind of program is started: its arguments and its environment. Never a shell.

Every program inherits one listening unix socket as descriptor 3, and the service connects to that socket's path; it
listens before the program runs, so that nobody is refused who comes early. What a kind needs to know of it:

| kind | entry | how it comes to the socket |
|---|---|---|
| `asgi` | `module:app` | our runner gives the socket to uvicorn |
| `wsgi` | `module:app` | our runner serves it with the standard library, a thread for each request |
| `static` | a directory, `` or `.` for all | our runner; `index.html` of a directory, no listing, no hidden files |
| `node` | a file | a module loaded before it sends the first `listen` there, whatever it names |
| `command` | none | as it likes: descriptor 3 as systemd does it, or a socket of its own at `PORT` |

A `command` finds `LISTEN_FDS=1` and `LISTEN_PID`; and in `PORT` and `TAILRACE_SOCKET` a path where it may bind one
socket, which is moved to where the service connects as soon as it is there. That too may be before it listens.

node takes a path for a port. But `Number(process.env.PORT) || 3000` is what programs write, and they check that it
is a number; so for `node`, `PORT` is 3000, and nobody listens there.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from services.previews.launch.spec import LaunchFailed, LaunchSpec, SpecRefused

INSIDE = Path(__file__).resolve().parent / "inside"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWN_SOCKET = "http.sock"  # in the scratch directory


class Start(Struct, frozen=True):
    """What is executed, in which environment, and which directories it has to be able to read."""

    arguments: list[str]
    environment: dict[str, str]
    needs: list[str]


def python_directories() -> list[str]:
    """Where our interpreter and its packages are: a generated Litestar program runs with the service's own."""
    places = {sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))}
    places |= {os.path.dirname(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    return sorted(place for place in places if os.path.isdir(place))


def start_of(spec: LaunchSpec, directory: str, scratch: str) -> Start:
    """`directory` and `scratch` as the program will see them. Raise LaunchFailed."""
    needs = [*python_directories(), str(INSIDE)]
    environment = {
        "DATABASE_URL": "sqlite:///./preview.db",
        "HOME": directory,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "LISTEN_FDS": "1",
        "PATH": f"{os.path.dirname(sys.executable)}:{SYSTEM_PATH}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": scratch,
        **spec.env,
    }
    match spec.kind:
        case "asgi" | "wsgi":
            arguments = [*_python(f"{spec.kind}.py"), spec.entry]
        case "static":
            arguments = [*_python("static.py"), spec.entry or "."]
        case "node":
            node = _node(environment)
            needs.append(os.path.dirname(os.path.dirname(node)))
            arguments = [node, f"--require={INSIDE / 'node.cjs'}", "--", spec.entry]
            environment |= {"PORT": "3000"}
        case "command":
            arguments = list(spec.command)
            environment |= {"PORT": f"{scratch}/{OWN_SOCKET}", "TAILRACE_SOCKET": f"{scratch}/{OWN_SOCKET}"}
    return Start(arguments, environment, needs)


def check_entry(spec: LaunchSpec) -> None:
    """Raise SpecRefused when what is to be run is not there. For kinds that name a file."""
    if spec.kind == "node" and not (spec.directory / spec.entry).is_file():
        raise SpecRefused(f"There is no file {spec.entry} among the preview's files.")
    if spec.kind == "static" and not (spec.directory / spec.entry).is_dir():
        raise SpecRefused(f"There is no directory {spec.entry} among the preview's files.")


def _python(script: str) -> list[str]:
    # -P: the directory of our script is not where the program's imports begin.
    return [sys.executable, "-P", str(INSIDE / script)]


def _node(environment: Mapping[str, str]) -> str:
    found = shutil.which("node", path=os.environ.get("PATH", SYSTEM_PATH)) or shutil.which("node", path=SYSTEM_PATH)
    if found is None:
        raise LaunchFailed("There is no node on this machine to run the program with: install Node.js.")
    return os.path.realpath(found)
