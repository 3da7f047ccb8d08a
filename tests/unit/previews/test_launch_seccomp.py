"""The filter of system calls, run by a small machine of our own."""

import errno
import struct

import pytest

from services.previews.launch import seccomp

ALLOWED, REFUSED, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def run(program: bytes, call: int, architecture: int, first: int = 0) -> int:
    """What the filter answers to a call."""
    data = struct.pack("=IIQQ", call, architecture, 0, first)
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
                jump = 0
            case 0x15:
                jump = if_true if accumulator == value else if_false
            case 0x35:
                jump = if_true if accumulator >= value else if_false
            case 0x45:
                jump = if_true if accumulator & value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)
        at += 1 + jump


MACHINES = [("x86_64", 0, 0xC000003E), ("aarch64", 1, 0xC00000B7)]


@pytest.mark.parametrize(("machine", "column", "architecture"), MACHINES)
@pytest.mark.parametrize("ipc_namespace", [True, False])
def test_each_call_gets_its_answer(machine: str, column: int, architecture: int, ipc_namespace: bool) -> None:
    program = seccomp.make_filter(ipc_namespace=ipc_namespace, machine=machine)
    refused = {numbers[column] for numbers in seccomp.REFUSED.values()}
    if not ipc_namespace:
        refused |= {numbers[column] for numbers in seccomp.REFUSED_WITHOUT_IPC_NAMESPACE.values()}
    for call in range(500):
        answer = run(program, call, architecture)
        if call in refused:
            assert answer == REFUSED, call
        else:
            assert answer == (UNKNOWN if call == 435 else ALLOWED), call


@pytest.mark.parametrize(("machine", "column", "architecture"), MACHINES)
def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str, column: int, architecture: int) -> None:
    program = seccomp.make_filter(ipc_namespace=True, machine=machine)
    clone = seccomp.CLONE[column]
    assert run(program, clone, architecture, first=17) == ALLOWED  # fork
    assert run(program, clone, architecture, first=0x3D0F00) == ALLOWED  # pthread_create
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(program, clone, architecture, first=bit | 17) == REFUSED


@pytest.mark.parametrize(("machine", "column", "architecture"), MACHINES)
def test_calls_of_another_architecture_are_refused_whole(machine: str, column: int, architecture: int) -> None:
    program = seccomp.make_filter(ipc_namespace=True, machine=machine)
    for call in (0, 1, 59):
        assert run(program, call, 0x40000003) == REFUSED  # i386
        assert run(program, call | 0x40000000, architecture) == REFUSED  # x32


def test_an_unknown_machine_has_no_filter_rather_than_a_wrong_one() -> None:
    assert seccomp.make_filter(ipc_namespace=True, machine="riscv64") == b""
