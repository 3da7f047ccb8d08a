"""The pages' scripts under node's own test runner: what needs neither a browser nor a service."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(file.relative_to(ROOT) for file in (ROOT / "tests").glob("**/web/*.test.js"))
SECONDS = 300  # none takes that long, however busy the machine


def test_there_are_tests_of_the_scripts() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_the_tests_in_this_file_pass(file: Path, node_path: Path) -> None:
    command = [str(node_path), "--test", str(file)]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
