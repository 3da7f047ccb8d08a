"""Trying one mutation: the tests are run in a copy of a process that has imported all but what is under test."""

import contextlib
import importlib.abc
import importlib.machinery
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from tests.mutants.mutations import Mutation
from tests.support import profiles

Verdict = Literal["killed", "survived", "endless"]

CPU_SECONDS = 20  # of the tests of one mutation, which take 5 in all; a busy machine does not count against it
WALL_SECONDS = 600.0


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the broken module in place of the one in the file."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutation.module:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._mutation.code, f"<mutation of {module.__name__}>", "exec"), module.__dict__)


def try_one(mutation: Mutation | None, oracle: Sequence[Sequence[str]]) -> Verdict:
    """What the tests say of it; of the code as it is, if there is None. `oracle`: pytest's arguments, the second only
    where the first have found nothing.
    """
    child = os.fork()
    if child == 0:
        os._exit(_run(mutation, oracle))
    watcher = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([watcher], [], [], WALL_SECONDS)
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(watcher)
    if os.WIFSIGNALED(status):
        return "endless" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "killed"
    return "survived" if os.WEXITSTATUS(status) == 0 else "killed"


def _run(mutation: Mutation | None, oracle: Sequence[Sequence[str]]) -> int:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if mutation is not None:
        sys.meta_path.insert(0, Instead(mutation))
    import pytest

    # No cache and no database: what one mutation's tests have found must not help those of the next.
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
    options += ["-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin"]
    options += [
        "--assert=plain"
    ]  # nobody reads what was compared, and to rewrite the tests takes longer than to run them
    code = 1
    with contextlib.suppress(BaseException):
        for tests in oracle:
            code = int(pytest.main([*options, *tests]))
            if code:
                break
    return code


def warm_up() -> None:
    """Import what the tests need and no mutation touches."""
    began = time.monotonic()
    for name in ("asyncpg", "hypothesis.strategies", "msgspec", "psutil", "pytest", "pytest_asyncio"):
        importlib.import_module(name)
    profiles.register()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # browsers' plug-ins among them: 0.8 s of CPU each time
    print(f"ready after {time.monotonic() - began:.1f} s")
