"""Output, ends and stops of real programs, friendly and hostile ones: afterwards nothing of them is left."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
import uvloop

from services.previews.launch import Exit, Launcher, LaunchFailed, LaunchSpec, Limits, launcher, sweep
from services.previews.supervisor import proc
from services.previews.supervisor.files import remove
from tests.support.launching import PYTHON, TIERS, Place, eventually, is_alive, launching

ROOT = Path(__file__).parents[2]

HELD_ON = """
import os, sys, time, signal
def say(*words):
    os.write(1, b' '.join(word.encode() for word in words) + b'\\n')  # print without a buffer writes the end apart
def hold_on():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)
"""
IGNORES_SIGTERM = HELD_ON + "say('up'); hold_on()"
SETSID_GRANDCHILD = (
    HELD_ON
    + """
if os.fork() == 0:
    os.setsid()
    say('up')
    hold_on()
while True: time.sleep(1)
"""
)
DAEMON = (
    HELD_ON
    + """
def vanish():
    os.setsid()
    if os.fork():
        os._exit(0)
    for descriptor in range(0, 100):
        if descriptor != 1:
            try: os.close(descriptor)
            except OSError: pass
    os.chdir('/')
    code = "'MARK'; import os, time; from signal import *; signal(15, SIG_IGN);" \\
        "os.write(1, b'up\\\\n'); time.sleep(600)"
    os.execve(sys.executable, [sys.executable, '-I', '-S', '-c', code], {})
if os.fork() == 0:
    vanish()
"""
)


@pytest_asyncio.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with launching(request.param) as place:
        yield place


def with_words(words: str) -> list[int]:
    """The processes that have this in their arguments, wherever they have gone and whatever else they have changed."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if words in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


class Escape:
    """A program's code, and the processes that run it."""

    def __init__(self, code: str) -> None:
        self._mark = uuid.uuid4().hex
        self.code = code.replace("MARK", self._mark)

    def running(self) -> list[int]:
        return with_words(self._mark)


async def test_both_streams_are_read_apart_and_to_the_end(place: Place) -> None:
    code = "import sys; sys.stdout.write('o' * 3_000_000); sys.stderr.write('e' * 3_000_000); sys.exit(7)"
    program = await place.python(code)
    assert await program.exited() == Exit(7, None, "exited")
    assert program.stdout == b"o" * 3_000_000
    assert program.stderr == b"e" * 3_000_000


async def test_a_signal_of_its_own_is_told_as_one(place: Place) -> None:
    program = await place.python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert await program.exited() == Exit(None, signal.SIGSEGV, "killed")


async def test_a_polite_program_ends_by_itself_when_it_is_stopped(place: Place) -> None:
    code = HELD_ON + "signal.signal(15, lambda *_: (say('bye'), sys.exit(3))); say('up'); time.sleep(60)"
    program = await place.python(code)
    await program.said("up")
    assert await program.stop() == Exit(3, None, "stopped")
    assert program.stdout == b"up\nbye\n"
    program.assert_nothing_is_left()


async def test_sigterm_reaches_the_whole_group(place: Place) -> None:
    code = (
        HELD_ON
        + """
if os.fork() == 0:
    signal.signal(15, lambda *_: (say('child'), sys.exit(0)))
    say('up')
    time.sleep(60)
signal.signal(15, lambda *_: (os.wait(), sys.exit(0)))
time.sleep(60)
"""
    )
    program = await place.python(code)
    await program.said("up")
    assert await program.stop() == Exit(0, None, "stopped")
    assert program.stdout == b"up\nchild\n"


@pytest.mark.parametrize("code", [IGNORES_SIGTERM, SETSID_GRANDCHILD], ids=["ignores SIGTERM", "setsid grandchild"])
async def test_who_will_not_go_is_made_to(place: Place, code: str) -> None:
    escape = Escape("'MARK'\n" + code)
    program = await place.python(escape.code)
    await program.said("up")
    assert escape.running()
    exit_ = await program.stop(0.3)
    assert exit_.reason == "stopped"
    assert escape.running() == []
    program.assert_nothing_is_left()


async def test_a_daemon_that_left_its_session_parent_environment_and_directory_is_ended_with_the_program(
    place: Place,
) -> None:
    escape = Escape(DAEMON + "time.sleep(600)")
    program = await place.python(escape.code)
    await program.said("up")
    assert len(escape.running()) > 1
    await program.stop(0.2)
    assert escape.running() == []
    program.assert_nothing_is_left()


async def test_the_end_of_the_program_is_the_end_of_what_it_leaves(place: Place) -> None:
    """Told by its process: a grandchild that holds the pipes does not keep it from being noticed."""
    code = HELD_ON + "'MARK'\nif os.fork() == 0:\n    os.setsid(); say('up'); hold_on()\ntime.sleep(0.3); sys.exit(4)"
    escape = Escape(code)
    program = await place.python(escape.code)
    await program.said("up")
    assert await program.exited() == Exit(4, None, "exited")
    assert escape.running() == []
    assert program.processes() == []


async def test_a_program_that_closes_its_output_lives_on(place: Place) -> None:
    program = await place.python("import os, time; print('up', flush=True); os.close(1); os.close(2); time.sleep(600)")
    await program.said("up")
    await asyncio.sleep(0.5)
    assert not program.child.has_ended
    assert (await program.stop(0.1)).reason == "stopped"


async def test_stopping_twice_and_after_the_end_is_the_same_stop(place: Place) -> None:
    program = await place.python("import time; time.sleep(600)")
    first, second = await asyncio.gather(program.child.stop(1), program.child.stop(1))
    assert first == second == await program.child.stop()
    program.assert_nothing_is_left()


async def test_a_directory_that_is_kept_is_taken_over_by_the_next_attempt(place: Place) -> None:
    code = "import os; print(sorted(os.listdir())); open('a', 'a').write('x'); print(open('a').read())"
    program = await place.launch("command", command=(PYTHON, "-c", code))
    await program.child.stop(5, keep_directory=True)
    again = await place.launch("command", command=(PYTHON, "-c", code), preview_id="prv_0")
    await again.exited()
    assert again.stdout.decode().splitlines()[-1].startswith("x"), again.stderr
    await program.child.stop()  # its directory is not its own any more
    assert program.spec.directory.exists()


@pytest.mark.parametrize("deep", [50, 1_500])
async def test_what_it_nests_links_and_locks_is_removed_all_the_same(place: Place, deep: int) -> None:
    code = f"""
import os
os.symlink('/etc', 'etc'); os.symlink('nowhere', 'broken'); os.mkdir('locked'); open('locked/in', 'w').close()
os.mkfifo('fifo'); os.makedirs('x' * 255); os.chmod('locked', 0)
for _ in range({deep}):
    os.mkdir('d'); os.chdir('d')
open('bottom', 'w').close(); os.chmod('.', 0)
"""
    program = await place.python(code)
    assert (await program.exited()).code == 0, program.stderr
    await program.stop()
    program.assert_nothing_is_left()
    assert Path("/etc/passwd").exists()


async def test_what_it_leaves_where_all_may_write_is_removed_when_it_can_be_told(place: Place) -> None:
    code = "import os, tempfile\nfor at in ('/tmp', '/var/tmp', '/dev/shm'): print(tempfile.mkdtemp(dir=at))"
    program = await place.python(code)
    await program.exited()
    made = program.stdout.decode().split()
    assert len(made) == 3, program.stderr
    await program.stop()
    if place.tier == "process":  # it is our user's, like any other
        for path in made:
            Path(path).rmdir()
    assert not any(Path(path).exists() for path in made)


async def test_a_large_order_arrives_whole(place: Place) -> None:
    env = {f"A{number}": "\x01" * 30_000 for number in range(2)}
    command = ("sh", "-c", "echo ${#A0} ${#A1} $#", *["\x01" * 10_000] * 5)
    program = await place.launch("command", command=command, env=env)
    await program.exited()
    assert program.stdout == b"30000 30000 4\n"


def test_it_works_on_the_event_loop_of_the_services() -> None:
    async def launch() -> None:
        async with launching("process") as place:
            program = await place.launch("command", command=("sh", "-c", "echo up; exec sleep 600"))
            await program.said("up")
            assert (await program.stop()).reason == "stopped"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(launch())


async def test_a_hundred_launches_leave_no_descriptor_process_or_file(place: Place) -> None:
    async def one(number: int) -> None:
        program = await place.launch(
            "command", command=("sh", "-c", "echo up; exec sleep 600"), preview_id=f"p{number}"
        )
        await program.said("up")
        await program.stop(0.2)
        program.assert_nothing_is_left()

    await one(0)
    gc.collect()
    before = os.listdir("/proc/self/fd")
    processes = {process.pid for process in psutil.Process().children(recursive=True)}
    for start in range(1, 100, 4):
        await asyncio.gather(*(one(number) for number in range(start, min(start + 4, 100))))
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= processes
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    assert list((place.path / "data" / "launches").iterdir()) == []


async def test_a_launch_that_is_cancelled_leaves_nothing(place: Place) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    for delay in (0, 0.01, 0.03, 0.06, 0.1):
        launching = asyncio.create_task(place.launch("command", command=("sleep", "600"), preview_id="cancelled"))
        await asyncio.sleep(delay)
        launching.cancel()
        try:
            program = await launching
        except asyncio.CancelledError:
            assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
            assert list((place.path / "data" / "launches").glob("*.json")) == []
        else:
            await program.stop(0)


async def test_a_launch_that_is_cancelled_while_it_is_prepared_waits_for_that_and_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = threading.Event()

    def slowly(path: str) -> None:
        preparing.set()
        time.sleep(0.2)
        remove(path)

    monkeypatch.setattr(launcher, "remove", slowly)
    launching = asyncio.create_task(place.launch("command", command=("sleep", "600"), preview_id="cancelled"))
    await asyncio.to_thread(preparing.wait)
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await asyncio.sleep(1)  # what would still be prepared, would be by now
    assert list((place.path / "data" / "launches").glob("*.json")) == []
    assert not list((place.path / "data").rglob("*.d"))


async def test_closing_the_launcher_stops_all_at_once(place: Place) -> None:
    programs = [await place.python(IGNORES_SIGTERM) for _ in range(3)]
    for program in programs:
        await program.said("up")
    began = asyncio.get_running_loop().time()
    await place.launcher.close(0.5)
    assert asyncio.get_running_loop().time() - began < 2.5
    for program in programs:
        program.assert_nothing_is_left()


async def test_a_program_whose_supervisor_is_killed_is_lost_and_ended(place: Place) -> None:
    escape = Escape(DAEMON + "time.sleep(600)")
    program = await place.python(escape.code)
    await program.said("up")
    await asyncio.sleep(
        0.6
    )  # until the supervisor has seen the daemon, which in `process` is all there is to tell it by
    assert program.child.record.supervisor is not None
    os.kill(program.child.record.supervisor.pid, signal.SIGKILL)
    assert await program.exited() == Exit(None, None, "lost")
    assert escape.running() == []
    await program.stop()
    program.assert_nothing_is_left()


async def test_a_supervisor_that_does_not_answer_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    program = await place.python(IGNORES_SIGTERM)
    await program.said("up")
    monkeypatch.setattr("services.previews.launch.process.PATIENCE_SECONDS", 0.3)
    assert program.child.record.supervisor is not None
    os.kill(program.child.record.supervisor.pid, signal.SIGSTOP)
    assert (await program.stop(0.1)).reason == "lost"
    program.assert_nothing_is_left()


OWNER = """
import asyncio, sys, pathlib
from services.previews.launch import Launcher, LaunchSpec

async def main():
    place = pathlib.Path(sys.argv[2])
    spec = LaunchSpec(preview_id="prv_orphan", attempt=1, kind="command", entry="", command=tuple(sys.argv[3:]),
        directory=place / "prv_orphan/files", socket=place / "prv_orphan/socket")
    spec.directory.mkdir(parents=True)
    spec.directory.parent.chmod(0o711)
    said = asyncio.Event()
    child = await Launcher(sys.argv[1], place).launch(spec, lambda stream, data: said.set())
    await said.wait()
    print(child.record.supervisor.pid, child.pid, child.record.marker, child.uid, flush=True)
    await child.exited()

asyncio.run(main())
"""


class Owner:
    """Another process that has launched a program."""

    def __init__(self, place: Place, code: str) -> None:
        self.place = place.path / "data"
        self._escape = Escape("'MARK'\n" + code)
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, place.tier, str(self.place), PYTHON, "-c", self._escape.code],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        self.supervisor, self.child = int(words[0]), int(words[1])
        self.marker = words[2]
        self.uid = None if words[3] == "None" else int(words[3])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def is_gone(self) -> bool:
        marked = [process for process in proc.everything() if proc.has_marker(process.pid, self.marker)]
        return not is_alive(self.supervisor) and not self._escape.running() and not marked


async def test_when_the_service_is_killed_everything_is_gone_within_a_second(place: Place) -> None:
    owner = Owner(place, DAEMON + "hold_on()")
    owner.kill()
    await eventually(owner.is_gone, seconds=1)
    await eventually(lambda: not (owner.place / "prv_orphan" / "files").exists(), seconds=1)
    assert list((owner.place / "prv_orphan").iterdir()) == []
    assert list((owner.place / "launches").iterdir()) == []
    assert await sweep(owner.place) == []


async def test_when_the_supervisor_is_killed_with_the_service_the_next_start_ends_the_rest(place: Place) -> None:
    owner = Owner(place, DAEMON + "hold_on()")
    await asyncio.sleep(0.6)
    os.kill(owner.supervisor, signal.SIGSTOP)  # else it would do it
    owner.kill()
    os.kill(owner.supervisor, signal.SIGKILL)
    assert await sweep(owner.place) == ["prv_orphan"]
    assert owner.is_gone()
    assert list((owner.place / "prv_orphan").iterdir()) == []
    assert await sweep(owner.place) == []


async def test_a_frozen_supervisor_is_ended_by_the_next_start(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["services.previews.launch.sweep"], "SUPERVISOR_SECONDS", 0.2)
    owner = Owner(place, IGNORES_SIGTERM)
    os.kill(owner.supervisor, signal.SIGSTOP)
    owner.kill()
    assert await sweep(owner.place) == ["prv_orphan"]
    assert owner.is_gone()


async def test_launches_of_a_service_that_lives_are_left_alone(place: Place) -> None:
    program = await place.python(IGNORES_SIGTERM)
    await program.said("up")
    assert await sweep(place.path / "data") == []
    assert not program.child.has_ended
    owner = Owner(place, IGNORES_SIGTERM)
    assert await sweep(owner.place) == []
    assert is_alive(owner.child)
    owner.kill()
    await eventually(owner.is_gone)


async def test_a_process_that_merely_got_the_same_number_is_left_alone(place: Place) -> None:
    owner = Owner(place, IGNORES_SIGTERM)
    os.kill(owner.supervisor, signal.SIGSTOP)
    file = owner.place / "launches" / "prv_orphan.json"
    record = json.loads(file.read_text())
    owner.kill()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        try:
            found = proc.read(innocent.pid)
            assert found is not None
            strange = {"pid": innocent.pid, "start": found.start - 1}
            real = {"pid": owner.supervisor, "start": record["supervisor"]["start"]}
            file.write_text(json.dumps({**record, "program": strange, "supervisor": real, "uid": record["uid"]}))
            os.kill(owner.supervisor, signal.SIGKILL)
            assert await sweep(owner.place) == ["prv_orphan"]
            assert innocent.poll() is None
            other_boot = {**record, "boot": "another", "program": {"pid": innocent.pid, "start": found.start}}
            file.write_text(json.dumps({**other_boot, "supervisor": other_boot["program"]}))
            assert await sweep(owner.place) == ["prv_orphan"]
            assert innocent.poll() is None
        finally:
            innocent.kill()
    assert owner.is_gone()


async def test_a_launcher_without_users_to_spare_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.launcher._users is None:
        pytest.skip("this one gives no users")
    monkeypatch.setattr("services.previews.launch.users.RANGES", ())
    spec = LaunchSpec(
        preview_id="x",
        attempt=1,
        kind="command",
        entry="",
        command=("true",),
        directory=place.path,
        socket=place.path / "s",
    )
    with pytest.raises(LaunchFailed, match="no users to spare"):
        await Launcher(place.tier, place.path).launch(spec, lambda *_: None)


def test_limits_have_defaults_that_a_node_program_fits_in() -> None:
    assert Limits().memory_bytes == 512 * 1024 * 1024
