"""What a hostile program can reach from inside, tried in each tier and held against the table that promises it."""

import asyncio
import contextlib
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import click
import h11
import msgspec
import pytest
import pytest_asyncio
import uvicorn

from services.previews.launch import IsolationUnavailable, detect, isolation
from services.previews.launch import users as users_module
from services.previews.launch.isolation import KEPT_BY, NAMES, TierName
from tests.support.launching import TIERS, Place, launching, need

ROOT = Path(__file__).parents[2]

# A service: it has a secret in its environment and its memory, and protects itself as the previews service does.
SERVICE = """
import os, sys, time, ctypes
from services.previews.launch import protect_this_process
protect_this_process()
secret = os.environ["THE_SECRET"] + "-in-memory"
buffer = ctypes.create_string_buffer(secret.encode())
print(ctypes.addressof(buffer), flush=True)
time.sleep(600)
"""

TRIAL = """
import asyncio, pathlib, sys, tempfile
from services.previews.launch.detect import _try
with tempfile.TemporaryDirectory(dir="/var/tmp") as data:
    pathlib.Path(data).chmod(0o711)
    print(asyncio.run(_try(sys.argv[1], pathlib.Path(data), pathlib.Path(data))) or "no fault")
"""

PROBE = r"""
import ctypes, json, os, signal, socket, sys
what = json.loads(sys.argv[1])
found = {}

def tries(name):
    def run(function):
        try:
            found[name] = bool(function())
        except (OSError, ValueError):
            found[name] = False
        return function
    return run

def read(path):
    with open(path, "rb") as file:
        return file.read()

def connects(family, address):
    with socket.socket(family) as connection:
        connection.settimeout(2)
        connection.connect(address)
        return True

libc = ctypes.CDLL(None, use_errno=True)
service, supervisor, other = what["service"], what["supervisor"], what["other"]

@tries("environment")
def _(): return any(b"THE_SECRET" in read(f"/proc/{pid}/environ") for pid in (service,))

@tries("environment of whoever is there")
def _():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if b"THE_SECRET" in read(f"/proc/{pid}/environ"): return True
        except OSError: pass
    return False

@tries("memory")
def _():
    with open(f"/proc/{service}/mem", "rb", 0) as file:
        file.seek(what["address"])
        return b"in-memory" in file.read(64)

@tries("memory by ptrace")
def _(): return libc.ptrace(16, service, 0, 0) == 0

@tries("memory by ptrace of the supervisor")
def _(): return libc.ptrace(16, supervisor, 0, 0) == 0

@tries("memory by process_vm_readv")
def _():
    class Piece(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
    buffer = ctypes.create_string_buffer(64)
    here = Piece(ctypes.addressof(buffer), 64)
    there = Piece(what["address"], 64)
    return libc.process_vm_readv(service, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) > 0

@tries("files")
def _(): return read(what["secret"])

@tries("files in the data directory")
def _(): return os.listdir(what["data"])

@tries("files through /proc")
def _(): return os.listdir(f"/proc/{service}/cwd/") or os.listdir(f"/proc/{service}/root/root")

@tries("files by descriptor")
def _(): return any(os.listdir(f"/proc/{pid}/fd") for pid in (service, supervisor))

@tries("database")
def _(): return connects(socket.AF_UNIX, what["database"])

@tries("signals")
def _(): os.kill(service, 0); return True

@tries("signals to the supervisor")
def _(): os.kill(supervisor, 0); return True

@tries("signals to the parent")
def _(): return os.getppid() > 1 and os.kill(os.getppid(), 0) is None

@tries("previews: files")
def _(): return os.listdir(what["other_files"])

@tries("previews: temporary files")
def _(): return os.listdir(what["other_scratch"])

@tries("previews: socket")
def _(): return connects(socket.AF_UNIX, what["other_socket"])

@tries("previews: signals")
def _(): os.kill(other, 0); return True

@tries("previews: environment")
def _(): return read(f"/proc/{other}/environ")

@tries("loopback")
def _(): return connects(socket.AF_INET, ("127.0.0.1", what["port"]))

@tries("loopback 6")
def _(): return connects(socket.AF_INET6, ("::1", what["port6"])) if what["port6"] else False

@tries("metadata")
def _():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.connect(("169.254.169.254", 80))  # there is a route to it
        return True

@tries("abstract")
def _(): return connects(socket.AF_UNIX, "\0" + what["abstract"])

status = read("/proc/self/status").decode()
capabilities = [line.split()[1] for line in status.splitlines() if line[:6] in ("CapEff", "CapPrm", "CapAmb")]
found["capabilities"] = any(int(number, 16) for number in capabilities)
found["groups"] = bool(set(os.getgroups()) - {os.getgid()}) if what["own user"] else False
found["may gain privileges"] = "NoNewPrivs:\t1" not in status
print(json.dumps(found), flush=True)
"""


@pytest_asyncio.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with launching(request.param) as place:
        yield place


@contextlib.contextmanager
def listening(family: int, address: Any) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        yield listener


@contextlib.contextmanager
def service() -> Iterator[tuple[int, int]]:
    """A service's number, and the address of its secret."""
    environment = {**os.environ, "THE_SECRET": "s3cret"}
    command = [sys.executable, "-c", SERVICE]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


async def probe(place: Place, *, network: bool = False) -> dict[str, bool]:
    data = place.path / "data"
    other = await place.launch("command", command=("sleep", "600"), preview_id="other")
    secrets = data / "service"
    secrets.mkdir(mode=0o700)
    secret = place.path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("s3cret")
    name = f"tailrace-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:  # a group that the program must not have
            stack.callback(os.setgroups, os.getgroups())
            os.setgroups([4242])
        pid, address = stack.enter_context(service())
        database = str(secrets / "pg")
        stack.enter_context(listening(socket.AF_UNIX, database))
        stack.enter_context(listening(socket.AF_UNIX, "\0" + name))
        port = stack.enter_context(listening(socket.AF_INET, ("127.0.0.1", 0))).getsockname()[1]
        port6 = 0
        with contextlib.suppress(OSError):
            port6 = stack.enter_context(listening(socket.AF_INET6, ("::1", 0))).getsockname()[1]
        assert other.child.record.supervisor is not None
        what = {
            "service": pid,
            "address": address,
            "supervisor": other.child.record.supervisor.pid,
            "other": other.child.pid,
            "other_files": str(other.spec.directory),
            "other_scratch": other.child.record.scratch,
            "other_socket": str(other.spec.socket),
            "secret": str(secret),
            "data": str(secrets),
            "database": database,
            "port": port,
            "port6": port6,
            "abstract": name,
            "own user": place.launcher._users is not None,
        }
        program = await place.python(PROBE, json.dumps(what), network=network)
        await program.exited()
        assert program.stdout, program.stderr.decode()
        found: dict[str, bool] = json.loads(program.stdout)
        return found


def reached(found: dict[str, bool]) -> set[str]:
    """The rows of the table of which the program could reach anything."""
    return {re.split("[: ]", name)[0] for name, could in found.items() if could}


async def test_each_tier_keeps_what_its_table_says_and_nothing_that_it_does_not_say(place: Place) -> None:
    found = await probe(place)
    tier = isolation.tier(place.tier)
    expected = set(tier.does_not)
    if not _has_a_route():
        expected -= {"metadata"}
    assert reached(found) == expected, found


async def test_with_the_network_only_the_network_is_reached(place: Place) -> None:
    if place.tier != "bubblewrap":
        pytest.skip("the others share it always")
    assert reached(await probe(place, network=True)) <= {"loopback", "metadata", "abstract"}
    assert {"loopback", "abstract"} <= reached(await probe_again(place))


async def probe_again(place: Place) -> dict[str, bool]:
    (place.path / "data" / "service").rename(place.path / "data" / "service-before")
    for program in place.programs:
        await program.stop(0)
    return await probe(place, network=True)


def _has_a_route() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        try:
            connection.connect(("169.254.169.254", 80))
        except OSError:
            return False
        return True


def test_the_words_and_the_table_are_the_same() -> None:
    rows = re.findall(r"^\| `(\w+)` .*? \| (yes|no) \| (yes|no) \| (yes|no) \|$", isolation.__doc__ or "", re.MULTILINE)
    assert [row[0] for row in rows] == list(KEPT_BY)
    for name in NAMES:
        kept = {row[0] for row in rows if row[1 + NAMES.index(name)] == "yes"}
        assert kept == set(isolation.tier(name).holds)
        assert kept | set(isolation.tier(name).does_not) == set(KEPT_BY)


CALLS = """
import ctypes, json, os, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
def fault(call, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, call)(*arguments)
    return 0 if result >= 0 else ctypes.get_errno()
found = {
    "user namespace": fault("unshare", 0x10000000),
    "mount": fault("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "keyring": fault("syscall", 250 if os.uname().machine == "x86_64" else 219, 0, -3, 0),
    "io_uring": fault("syscall", 425, 1, None),
    "clone3": fault("syscall", 435, None, 0),
    "clone": fault("syscall", 56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0),
    "setuid": fault("setuid", 0),
    "shared memory": fault("shmget", 0, 4096, 0o1600),
}
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
assert subprocess.run(["true"]).returncode == 0
print(json.dumps(found))
"""


async def test_calls_that_lead_out_of_a_sandbox_are_refused(place: Place) -> None:
    program = await place.python(CALLS)
    await program.exited()
    assert program.stdout, program.stderr.decode()
    found = json.loads(program.stdout)
    # Root in `process` stays root, without its powers. Unprivileged, the sandbox knows no root at all.
    is_root = place.tier == "process" and os.geteuid() == 0
    assert found.pop("setuid") in ([0] if is_root else [errno.EPERM, errno.EINVAL])
    if place.tier == "bubblewrap":
        assert found.pop("shared memory") == 0  # in a namespace of its own, which goes with it
    assert found.pop("clone3") == errno.ENOSYS
    assert set(found.values()) == {errno.EPERM}, found


async def test_a_sandboxed_program_sees_only_itself_and_what_it_needs(place: Place) -> None:
    if place.tier != "bubblewrap":
        pytest.skip("the others see the machine")
    program = await place.python(
        "import os, json; print(json.dumps({'pids': [p for p in os.listdir('/proc') if p.isdigit()],"
        " 'root': sorted(os.listdir('/')), 'etc': sorted(os.listdir('/etc')), 'user': os.getuid(),"
        " 'name': __import__('pwd').getpwuid(os.getuid()).pw_name, 'host': os.uname().nodename}))"
    )
    await program.exited()
    found = json.loads(program.stdout)
    assert len(found["pids"]) == 2
    assert found["name"] == "preview"
    assert found["host"] == "preview"
    assert found["user"] != 0
    assert not {"shadow", "ssh", "hostname", "machine-id"} & set(found["etc"])
    assert not {"boot", "home", "sys", "srv", "mnt", "media"} & set(found["root"])


async def test_detection_names_the_strongest_tier_that_works(tmp_path: Path) -> None:
    best = TIERS[0]
    need(best)
    tmp_path.chmod(0o711)
    found = await detect(None, tmp_path)
    assert found.name == best
    assert len(found.passed_over) == NAMES.index(best)
    assert await detect(best, tmp_path) == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["launches"]
    assert list((tmp_path / "launches").iterdir()) == []


@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "process"])
def test_a_checkout_below_tmp_that_is_closed_to_others_launches_as_any_other(tier: TierName) -> None:
    """The program's /tmp is another, and its user may not pass: Python and two directories of ours lie below."""
    need(tier)
    with tempfile.TemporaryDirectory(prefix="tailrace-checkout-", dir="/tmp") as checkout:  # for its owner alone
        for package in ("services", "shared"):
            shutil.copytree(ROOT / package, Path(checkout) / package, ignore=shutil.ignore_patterns("__pycache__"))
        venv.create(Path(checkout) / ".venv", symlinks=True)
        installed = next((Path(checkout) / ".venv/lib").glob("python3*/site-packages"))
        for module in (msgspec, uvicorn, click, h11):  # what the program's side of the trial has to have
            found = Path(str(module.__file__)).parent
            shutil.copytree(found, installed / found.name)
        path = os.pathsep.join((checkout, sysconfig.get_path("purelib")))
        done = subprocess.run(
            [f"{checkout}/.venv/bin/python", "-c", TRIAL, tier],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == ("no fault\n", "")


async def test_a_minimum_that_cannot_be_had_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.previews.launch.bubblewrap.is_installed", lambda: False)
    with pytest.raises(IsolationUnavailable, match=r"bubblewrap cannot be had here\. .* install bubblewrap"):
        await detect("bubblewrap", tmp_path)
    with pytest.raises(IsolationUnavailable, match="There is no isolation called docker"):
        await detect("docker", tmp_path)
    monkeypatch.setattr(users_module, "RANGES", ())
    found = await detect("process", tmp_path)
    assert found.name == "process"
    assert "install bubblewrap" in found.passed_over[0]
    assert found.passed_over[1].startswith("uid: ")


async def test_a_bubblewrap_that_does_not_work_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("services.previews.launch.bubblewrap._found", lambda: str(broken))
    found = await detect(None, tmp_path)
    assert found.name != "bubblewrap"
    assert "No permissions to create new namespace" in found.passed_over[0]


async def test_two_programs_never_have_the_same_user(place: Place) -> None:
    programs = await asyncio.gather(
        *(place.launch("command", command=("sleep", "600"), preview_id=f"p{number}") for number in range(5))
    )
    users = [program.child.uid for program in programs]
    if place.launcher._users is None:
        assert set(users) == {None}
    else:
        assert len(set(users)) == 5
        assert min(user or 0 for user in users) >= 1000
