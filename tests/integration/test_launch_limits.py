"""Programs that take what they can get: each is ended or refused at its limit, and nobody else notices."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.previews.launch import Limits
from services.previews.launch.spec import MEBIBYTE
from tests.support.launching import TIERS, Place, eventually, launching

SMALL = Limits(memory_bytes=96 * MEBIBYTE, disk_bytes=16 * MEBIBYTE, file_bytes=8 * MEBIBYTE, processes=24)
AT_MOST = 150  # that a bomb forks, whatever the limit does

FORK_BOMB = f"""
import os, time, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
refused = 0
for number in range({AT_MOST}):
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
    except OSError:
        refused += 1
print(refused, flush=True)
time.sleep(600)
"""
RESPAWNING = """
import os, time
def both(depth):
    if depth == 0:
        time.sleep(600)
    while True:
        try:
            if os.fork() == 0:
                both(depth - 1)
            os.wait()
        except OSError:
            time.sleep(0.01)
print('up', flush=True)
both(6)
"""


@pytest_asyncio.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with launching(request.param) as place:
        yield place


async def test_a_fork_bomb_stays_within_its_number_of_processes(place: Place) -> None:
    program = await place.python(FORK_BOMB, limits=SMALL)
    if place.tier == "process":  # the kernel counts by user there, and others are of ours
        assert (await program.exited()).reason == "processes"
    else:
        refused = int(await program.said("\n"))
        assert refused >= AT_MOST - SMALL.processes
    other = await place.launch("command", command=("echo", "as ever"))
    assert (await other.exited()).code == 0
    await program.stop(0.1)
    program.assert_nothing_is_left()


async def test_those_who_fork_another_whenever_one_is_killed_are_all_ended(place: Place) -> None:
    program = await place.python(RESPAWNING, limits=Limits(processes=64))
    await program.said("up")
    await program.stop(0.1)
    program.assert_nothing_is_left()


@pytest.mark.parametrize(
    "code",
    [
        "held = bytearray(200_000_000)\nfor at in range(0, len(held), 4096): held[at] = 1\ntime.sleep(600)",
        "import mmap; held = mmap.mmap(-1, 160_000_000)\n"
        "for at in range(0, len(held), 4096): held[at] = 1\ntime.sleep(600)",
        "import os\nfor _ in range(5):\n    if os.fork() == 0:\n"
        "        held = b'x' * 40_000_000; time.sleep(600)\ntime.sleep(600)",
    ],
    ids=["own", "shared mapping", "many processes"],
)
async def test_memory_beyond_the_limit_ends_it(place: Place, code: str) -> None:
    program = await place.python("import time\n" + code, limits=SMALL)
    exit_ = await program.exited()
    # The kernel refuses what a single process asks for beyond twice the limit; else all are added up.
    assert exit_.reason == "memory" or b"MemoryError" in program.stderr
    assert (exit_.reason == "memory") or exit_.code == 1


async def test_memory_shared_by_forked_workers_counts_once(place: Place) -> None:
    code = (
        "import os, time, gc\nheld = b'x' * 40_000_000\ngc.freeze()\n"
        "for _ in range(4):\n    if os.fork() == 0: time.sleep(600)\n"
        "time.sleep(1.2); print('fine', flush=True); time.sleep(600)"
    )
    program = await place.python(code, limits=SMALL)
    await program.said("fine")
    assert not program.child.has_ended


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(6): open(f'f{n}', 'wb').write(b'x' * 8_000_000)",
        "import os; os.chdir(os.environ['TMPDIR'])\nfor n in range(6): open(f'f{n}', 'wb').write(b'x' * 8_000_000)",
        "import os\nheld = [open(f'f{n}', 'wb') for n in range(6)]\n"
        "for n, file in enumerate(held): os.unlink(f'f{n}'); file.write(b'x' * 8_000_000); file.flush()",
        "import os\nheld = [os.memfd_create('m') for _ in range(6)]\n"
        "for file in held: os.write(file, b'x' * 8_000_000)",
        "import os\nfor n in range(60_000): os.close(os.open(f'f{n}', os.O_CREAT | os.O_WRONLY))",
        "import os\nfor n in range(200): os.mkdir('d'); os.chdir('d')",
        "import os; os.mkdir('d'); open('d/f', 'wb').write(b'x' * 8_000_000); os.chmod('d', 0)",
    ],
    ids=["directory", "temporary", "deleted but open", "memory as a file", "many names", "too deep", "locked"],
)
async def test_disk_beyond_the_limit_ends_it(place: Place, code: str, request: pytest.FixtureRequest) -> None:
    program = await place.python(code + "\nimport time; time.sleep(600)", limits=SMALL)
    if "locked" in request.node.callspec.id and os.geteuid() == 0:
        await asyncio.sleep(2.5)  # root looks into it all the same
        assert not program.child.has_ended
        return
    exit_ = await program.exited()
    assert exit_.reason == "disk", (exit_, program.stderr)


async def test_disk_used_in_places_of_all_counts_where_it_can_be_told(place: Place) -> None:
    if place.tier == "process":
        pytest.skip("there it is our user's, like any other")
    code = (
        "import os, tempfile, time\nfor at in ('/tmp', '/var/tmp'):\n"
        "    for _ in range(2): os.write(tempfile.mkstemp(dir=at)[0], b'x' * 8_000_000)\ntime.sleep(600)"
    )
    program = await place.python(code, limits=SMALL)
    assert (await program.exited()).reason == "disk"


async def test_one_file_does_not_grow_beyond_its_own_limit(place: Place) -> None:
    program = await place.launch(
        "command", command=("sh", "-c", "head -c 12000000 /dev/zero > big; wc -c < big"), limits=SMALL
    )
    await program.exited()
    assert int(program.stdout) == 8 * MEBIBYTE


async def test_a_file_that_says_it_is_large_and_is_not_counts_as_what_it_is(place: Place) -> None:
    code = "import time; open('sparse', 'wb').truncate(7_000_000); print('up', flush=True); time.sleep(600)"
    program = await place.python(code, limits=SMALL)
    await program.said("up")
    await asyncio.sleep(1.5)
    assert not program.child.has_ended


async def test_it_cannot_open_more_files_than_its_limit(place: Place) -> None:
    code = "import os\ntry:\n    while True: last = os.open('/dev/null', os.O_RDONLY)\nexcept OSError: print(last)"
    program = await place.python(code, limits=Limits(open_files=256))
    await program.exited()
    assert int(program.stdout) == 255


async def test_limits_cannot_be_raised_again_and_leave_no_core(place: Place) -> None:
    code = """
import json, resource
found = {}
for name in ('CORE', 'NOFILE', 'FSIZE', 'DATA', 'NPROC'):
    number = getattr(resource, 'RLIMIT_' + name)
    found[name] = resource.getrlimit(number)
    try:
        resource.setrlimit(number, (found[name][1] + 1,) * 2)
        found[name] = 'raised'
    except (ValueError, OSError): pass
print(json.dumps(found))
"""
    program = await place.python(code, limits=SMALL)
    await program.exited()
    found = json.loads(program.stdout)
    assert found["CORE"] == [0, 0]
    assert found["FSIZE"] == [8 * MEBIBYTE] * 2
    assert found["DATA"] == [192 * MEBIBYTE] * 2
    assert found["NPROC"][0] == found["NPROC"][1] != "raised"


async def test_one_that_spins_is_stopped_at_once_and_comes_after_others(place: Place) -> None:
    program = await place.python("import os; print(os.nice(0), flush=True)\nwhile True: pass")
    assert int(await program.said("\n")) >= 5
    began = time.monotonic()
    await program.stop(0.1)
    assert time.monotonic() - began < 3


async def test_cpu_time_can_be_limited(place: Place) -> None:
    program = await place.python("while True: pass", limits=Limits(cpu_seconds=1))
    exit_ = await program.exited()
    assert (exit_.code, exit_.reason) == (None, "killed")


async def test_a_flood_of_output_is_read_as_fast_as_it_comes_and_stops_with_it(place: Place) -> None:
    program = await place.launch("command", command=("yes",))
    await eventually(lambda: len(program.stdout) > 50_000_000)
    began = time.monotonic()
    await program.stop(0.5)
    assert time.monotonic() - began < 2.5
    program.stdout.clear()
