"""The same tests once more, as a user who is not root: bubblewrap works otherwise there, and so does `process`."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.launching import need

ROOT = Path(__file__).parents[2]
MODULES = ["test_launch_kinds.py", "test_launch_isolation.py", "test_launch_lifecycle.py", "test_launch_limits.py"]
SECONDS = 400

# Our interpreter may lie below /root. It becomes reachable as it does for programs with a user of their own.
AS_SOMEBODY = """
import os, sys
sys.path.insert(0, {root!r})
from services.previews.supervisor.reveal import reveal
reveal({paths!r})
os.setgroups([]); os.setresgid({gid}, {gid}, {gid}); os.setresuid({uid}, {uid}, {uid})
os.environ.update(HOME={home!r}, PYTHONDONTWRITEBYTECODE="1")
os.chdir({root!r})
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="this is not root: the tests themselves are what this would run")
@pytest.mark.parametrize("module", MODULES)
def test_it_is_the_same_for_who_is_not_root(module: str) -> None:
    need("bubblewrap")
    nobody = pwd.getpwnam("nobody")
    home = tempfile.mkdtemp(prefix="tr-nobody-", dir="/tmp")
    try:
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        paths = sorted({sys.prefix, sys.base_prefix, str(ROOT)})
        code = AS_SOMEBODY.format(root=str(ROOT), paths=paths, uid=nobody.pw_uid, gid=nobody.pw_gid, home=home)
        options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={home}/t"]
        chosen = [f"tests/integration/{module}", "-k", "not uid and not hundred"]
        done = subprocess.run(
            [sys.executable, "-c", code, *options, *chosen],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
        assert " passed" in done.stdout
    finally:
        shutil.rmtree(home, ignore_errors=True)
