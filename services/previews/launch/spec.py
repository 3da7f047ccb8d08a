"""What is launched, within which limits, and how it ended.

LaunchFailed
└── SpecRefused   what was asked for cannot be launched, here or anywhere
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Kind = Literal["asgi", "wsgi", "static", "node", "command"]
Reason = Literal["exited", "killed", "stopped", "memory", "disk", "processes", "lost"]

MEBIBYTE = 1024 * 1024

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MODULE_AND_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
OURS = ("LISTEN_", "TAILRACE_")
SOCKET_PATH_BYTES = 92  # of 107; beside it there are some with longer names

ENVIRONMENT_BYTES = 64 * 1024
COMMAND_BYTES = 64 * 1024


class LaunchFailed(Exception):
    """The program was not started, and nothing of the attempt is left; the message says why."""


class SpecRefused(LaunchFailed):
    """What was asked for cannot be launched; the message names the fault and what is allowed."""


class Limits(Struct, frozen=True, kw_only=True):
    """What one program may use. It is ended when it is beyond the first, second or fourth of them."""

    memory_bytes: Annotated[int, Meta(ge=16 * MEBIBYTE)] = 512 * MEBIBYTE  # resident, all processes together
    disk_bytes: Annotated[int, Meta(ge=MEBIBYTE)] = 512 * MEBIBYTE  # its directory and its temporary files
    file_bytes: Annotated[int, Meta(ge=MEBIBYTE)] = 512 * MEBIBYTE  # each file
    processes: Annotated[int, Meta(ge=4)] = 128  # with their threads, where the kernel counts
    open_files: Annotated[int, Meta(ge=64)] = 1024  # each process
    cpu_seconds: Annotated[int, Meta(ge=0)] = 0  # each process; 0: as long as it lives, behind all others


class LaunchSpec(Struct, frozen=True, kw_only=True):
    """One attempt at one preview's program.

    `directory` holds its files and is its own from now on: it may write there, and it is removed with it. `socket`
    is where the service connects. The launcher puts what it needs beside that, and nobody else may be able to enter
    the directory it is in. `network` shares the machine's network, loopback included, which is otherwise out of reach
    where the tier can do that.
    """

    preview_id: str
    attempt: int
    kind: Kind
    entry: str
    directory: Path
    socket: Path
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    network: bool = False


class Exit(Struct, frozen=True):
    """How a program ended.

    `reason`: `exited` by itself, `killed` by a signal that was not ours (a crash, or its own), `stopped` because it
    was told to, `memory`, `disk` or `processes` because it was beyond a limit, `lost` with its supervisor. Then
    neither code nor signal is known.
    """

    code: int | None
    signal: int | None
    reason: Reason


def check_recipe(kind: Kind, entry: str, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Raise SpecRefused for what could be launched nowhere, whatever the files."""
    _check_entry(kind, entry, command)
    _check_environment(env)


def check(spec: LaunchSpec) -> None:
    """Raise SpecRefused with a sentence about the first fault found."""
    if not ID.fullmatch(spec.preview_id):
        raise SpecRefused("A preview's id is made of letters, digits, - and _.")
    if len(bytes(spec.socket)) > SOCKET_PATH_BYTES:
        raise SpecRefused(f"{spec.socket} is too long for a socket; a data directory with a shorter path helps.")
    check_recipe(spec.kind, spec.entry, spec.command, spec.env)


def _check_entry(kind: Kind, entry: str, command: Sequence[str]) -> None:
    if kind == "command":
        if not command or not command[0]:
            raise SpecRefused("A preview of kind command needs a command: the program and its arguments, as a list.")
        if any("\0" in argument for argument in command):
            raise SpecRefused("No argument of a command can have a NUL in it.")
        if sum(len(argument.encode()) + 1 for argument in command) > COMMAND_BYTES:
            raise SpecRefused(f"A command has at most {COMMAND_BYTES} bytes.")
    elif kind in ("asgi", "wsgi"):
        if not MODULE_AND_NAME.fullmatch(entry):
            raise SpecRefused(f"The entry of kind {kind} is a module and a name in it, such as main:app.")
    elif entry.startswith(("/", "-")) or "\0" in entry or ".." in entry.split("/"):
        raise SpecRefused("The entry is a path below the preview's directory.")
    elif kind == "node" and not entry:
        raise SpecRefused("The entry of kind node is the file to run, such as server.js.")


def _check_environment(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not NAME.fullmatch(name):
            raise SpecRefused("A variable's name is up to 128 letters, digits and _, the first no digit.")
        if name.startswith(OURS) or name == "PORT":
            raise SpecRefused(f"{name} is set for the program; PORT, LISTEN_… and TAILRACE_… cannot be given.")
        if "\0" in value:
            raise SpecRefused(f"The value of {name} has a NUL in it.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SpecRefused(f"The value of {name} is not text that can be written as UTF-8.") from None
    if sum(len(name) + len(value.encode()) + 2 for name, value in env.items()) > ENVIRONMENT_BYTES:
        raise SpecRefused(f"The environment given has more than {ENVIRONMENT_BYTES} bytes.")
