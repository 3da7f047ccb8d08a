"""A filter of system calls, in every tier: what programs do not need, and most ways out of a sandbox begin with.

It refuses new namespaces, mounts, the keyrings of the kernel, BPF, io_uring, debugging others, loading modules; and,
where the tier gives no namespace of its own for it, System V IPC, which would outlive the program. Programs see
EPERM, or for `clone3`, whose flags a filter cannot read, ENOSYS, whereupon the C library takes `clone`.

On a machine that is neither x86_64 nor aarch64 there is none.
"""

import errno
import os
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000  # on x86_64, a second set of the same calls

# Numbers on x86_64 and aarch64, from the kernel's syscall tables.
REFUSED = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
}
REFUSED_WITHOUT_IPC_NAMESPACE = {
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
CLONE, CLONE3 = (56, 220), (435, 435)
NEW_NAMESPACES = 0x7E020000  # the flags of clone for each kind there is

# Where seccomp_data has the call, the architecture, and the low half of the first argument.
CALL, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16

LOAD, EQUALS, AT_LEAST, HAS_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000


def make_filter(*, ipc_namespace: bool, machine: str = "") -> bytes:
    """The program for SECCOMP_MODE_FILTER, as an array of instructions; empty where we have none."""
    machine = machine or os.uname().machine
    if machine not in AUDIT_ARCH:
        return b""
    column = list(AUDIT_ARCH).index(machine)
    refused = {**REFUSED, **({} if ipc_namespace else REFUSED_WITHOUT_IPC_NAMESPACE)}
    refuse = _instruction(RETURN, FAIL | errno.EPERM)
    program = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(EQUALS, AUDIT_ARCH[machine], 1, 0),
        refuse,  # 32-bit programs, whose calls have other numbers
        _instruction(LOAD, CALL),
        _instruction(AT_LEAST, X32, 0, 1),
        refuse,
    ]
    for numbers in refused.values():
        program += [_instruction(EQUALS, numbers[column], 0, 1), refuse]
    program += [
        _instruction(EQUALS, CLONE3[column], 0, 1),
        _instruction(RETURN, FAIL | errno.ENOSYS),
        _instruction(EQUALS, CLONE[column], 0, 3),
        _instruction(LOAD, FIRST_ARGUMENT),
        _instruction(HAS_BITS, NEW_NAMESPACES, 0, 1),
        refuse,
        _instruction(RETURN, ALLOW),
    ]
    return b"".join(program)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One `struct sock_filter`; the jumps are over so many instructions."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
