"""What every test has: a limit on the time of the whole run, and the programs some tests drive."""

import contextlib
import faulthandler
import os
import shutil
import signal
import threading
from pathlib import Path

import psutil
import pytest

from tests.support import profiles

pytest_plugins = ["tests.support.postgres"]

LIMIT_SECONDS = float(os.environ.get("TAILRACE_TEST_LIMIT_SECONDS", "4800"))
EXIT_STATUS = 124  # what timeout(1) answers

profiles.register()

_limit = pytest.StashKey[threading.Timer]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock of the run.

    The timer's thread ends the process, and with it the servers and browsers it has started. Should it
    not get its turn because something sits on the interpreter's lock, the alarm follows: it needs no
    Python, writes the stacks from the signal handler itself, and then takes its default action, which ends
    the process. (`faulthandler.dump_traceback_later` would do too, but there is one in a process, and
    pytest's own `faulthandler_timeout` stops it after every test.)
    """
    stderr = os.dup(2)  # while a test runs, pytest holds back what is written to 2
    timer = threading.Timer(LIMIT_SECONDS, _end_the_run, args=(stderr,))
    timer.daemon = True
    timer.start()
    config.stash[_limit] = timer
    faulthandler.register(signal.SIGALRM, file=stderr, all_threads=True, chain=True)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS + 30)


def pytest_unconfigure(config: pytest.Config) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    config.stash[_limit].cancel()


def _end_the_run(stderr: int) -> None:
    os.write(stderr, f"\nThe tests took longer than {LIMIT_SECONDS:g} s. What each thread does:\n".encode())
    faulthandler.dump_traceback(file=stderr, all_threads=True)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(EXIT_STATUS)


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """Where Chromium is. Without one the test is skipped, in CI failed."""
    return _program("chromium")


@pytest.fixture(scope="session")
def node_path() -> Path:
    """Where node is. Without one the test is skipped, in CI failed."""
    return _program("node")


@pytest.fixture(scope="session")
def nginx_path() -> Path:
    """Where nginx is. Without one the test is skipped, in CI failed."""
    return _program("nginx")


@pytest.fixture(scope="session")
def faketime_path() -> Path:
    """libfaketime, which tells a process another time. Without it the test is skipped, in CI failed."""
    _program("faketime")
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def _program(name: str) -> Path:
    # Debian keeps nginx where only root's PATH looks.
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin")
    if found is not None:
        return Path(found)
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed, and in CI no test may be left out: install it first.")
    pytest.skip(f"{name} is not installed: deploy/install-test-programs says how to get it.")
