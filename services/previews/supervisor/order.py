"""What a supervisor is told when it is started."""

from typing import Any, NamedTuple


class Order(NamedTuple):
    """One program to start and to look after."""

    marker: str
    socket: str  # where the service connects
    own_socket: str  # where a program may bind one of its own, which then takes that place; empty: nowhere
    uid: int | None  # the program's user, if it has one of its own
    wrapper: list[str]  # what runs it in a sandbox, without its arguments; empty: nothing does
    wrapper_arguments: list[str]
    wrapper_files: list[str]  # contents that the wrapper reads from descriptors 7, 8, …
    revealed: list[str]  # what its user could not reach without help
    how: dict[str, Any]  # what `confine.become` is told
    memory_bytes: int
    processes: int
    counts_processes: bool  # whether to count them, because the kernel's limit would count others' too
    disk_bytes: int
    measured: list[str]  # directories whose contents count as its disk
    tree: str  # file for the processes seen, for whoever must end them should the supervisor be killed; empty: none
    removed_at_the_end: list[str]
    removed_when_abandoned: list[str]
