"""The repository itself: what is locked, what is used, and what must stand in no file."""

import ast
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import shared

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.txt", "requirements-dev.txt", "requirements-mutants.txt"]
PACKAGES = ["services", "shared"]
IMPORTED_AS = {"pyjwt": "jwt"}  # where that is not the distribution's own name
# Every layer has its first module: only then can a dependency be called unused.
LAYERS = ["shared/protocol", "shared/channel", "shared/edge", "shared/client", "services/runs"]

# Package registries and the networks that serve from them. Written so that no line here matches itself.
REGISTRY = re.compile(
    r"pypi\.(org|io)|pythonhosted\.org|npmjs\.(com|org)|yarnpkg\.com|registry\.npmmirror|crates\.io|rubygems\.org"
    r"|proxy\.golang\.org|anaconda\.org|deb\.debian\.org|archive\.ubuntu\.com|dl-cdn\.alpinelinux\.org"
    r"|docker\.io|ghcr\.io|quay\.io|gcr\.io|unpkg\.com|jsdelivr\.net|cdnjs\.cloudflare\.com|esm\.sh",
    re.IGNORECASE,
)
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)(?P<marker> ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


@cache
def repository_files() -> tuple[Path, ...]:
    """All files that are, or with the next `git add` would be, in the repository."""
    # safe.directory: in CI the checkout may belong to another user, and git would refuse to list it.
    git = ["git", "-c", "safe.directory=*"]
    command = [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = (ROOT / name for name in listed.split("\0") if name)
    return tuple(file for file in files if file.is_file())


def repository_text() -> Iterator[tuple[str, str]]:
    """Name and content of every file that is text."""
    for file in repository_files():
        try:
            yield str(file.relative_to(ROOT)), file.read_text("utf-8")
        except UnicodeDecodeError:
            continue


def lines_that_match(pattern: re.Pattern[str], below: tuple[str, ...] = ("",)) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in repository_text()
        if name.startswith(below)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


@cache
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def dependency_names() -> list[str]:
    return [re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in project()["dependencies"]]


def pins(lock: str) -> set[str]:
    return {line for line in (ROOT / lock).read_text().splitlines() if PIN.match(line)}


def modules(directory: str) -> list[Path]:
    return [file for file in (ROOT / directory).rglob("*.py") if file.name != "__init__.py"]


def names_used(module: Path) -> Iterator[str]:
    """Names a module imports, and words it names.

    uvicorn takes its loop by name, and its parser where a module of its own says so: `httptools_impl`.
    """
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(name), level=0):
                yield from (part.removesuffix("_impl") for part in name.split("."))
            case ast.keyword(value=ast.Constant(value=str(word))):
                yield word
            case ast.Call(func=ast.Attribute(attr="find_spec"), args=[ast.Constant(value=str(name))]):
                yield name


def test_no_file_names_a_package_registry() -> None:
    assert lines_that_match(REGISTRY) == []


@pytest.mark.parametrize("line", ["https://py" + "pi.org", "FROM GHCR" + ".io/x", "//cdn.js" + "delivr.net"])
def test_a_registry_would_be_noticed(line: str) -> None:
    assert REGISTRY.search(line)


def test_no_package_refers_to_a_directory_outside_the_repository() -> None:
    assert lines_that_match(re.compile(r"\.\./" + "shared"), below=("services/", "shared/")) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_pins_with_hashes_and_nothing_else(lock: str) -> None:
    text = (ROOT / lock).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]

    assert "://" not in text
    assert [line for line in lines if not PIN.match(line) and not HASH.match(line)] == []
    pinned = [index for index, line in enumerate(lines) if PIN.match(line)]
    assert [lines[index] for index in pinned if not HASH.match(lines[index + 1])] == []


def test_the_lock_of_the_scripts_checker_holds_hashes_and_no_address() -> None:
    text = (ROOT / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert "://" not in text
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []


def test_the_pages_need_no_package_to_run() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    assert set(package) & {"dependencies", "optionalDependencies", "peerDependencies", "scripts"} == set()


def test_the_lock_has_every_dependency() -> None:
    locked = {pin.partition("==")[0] for pin in pins("requirements.txt")}
    assert set(dependency_names()) - locked == set()


def test_the_developers_lock_holds_the_runtime_lock_unchanged() -> None:
    assert pins("requirements.txt") - pins("requirements-dev.txt") == set()


def test_every_dependency_is_used() -> None:
    if not all(modules(layer) for layer in LAYERS):
        return
    used = {name for package in PACKAGES for module in modules(package) for name in names_used(module)}
    imported = {name: IMPORTED_AS.get(name, name.replace("-", "_")) for name in dependency_names()}
    assert [name for name in dependency_names() if imported[name] not in used] == []


def test_every_dependency_has_its_reason_in_contributing() -> None:
    reasons = (ROOT / "CONTRIBUTING.md").read_text()
    scripts = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    assert [name for name in [*dependency_names(), *scripts] if f"| {name} |" not in reasons] == []


def test_the_version_is_the_same_everywhere() -> None:
    assert project()["version"] == shared.__version__


@pytest.mark.parametrize("script", [".ci/run", "deploy/install-test-programs", "deploy/with-engine"])
def test_a_script_can_be_executed(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
