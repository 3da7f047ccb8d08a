"""Which file maps are taken: names that mean one file each, inside the directory, within the limits.

A map is refused whole, for one bad name. Names are relative POSIX paths: `app.py`, `static/site.css`.

- A backslash is refused rather than guessed at: in some maps it separates, in a name it is legal.
- Two names are the same when they are equal after NFC and without the dots and spaces at the end of a component: that
  is what macOS and Windows make of them. Upper and lower case differ, as they do where the preview runs.
- Components that begin with `.tailrace` are ours.

FilesRefused
├── BadName     a name that cannot be taken
├── NameClash   two names that cannot both be taken
├── BadContent  text that is not valid Unicode
├── TooMuch     too many files, or too large
└── Obstructed  what lies in the directory is in the way: a link, a device, a directory (filewriter)
"""

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from msgspec import Struct

RESERVED = ".tailrace"
MAX_NAME_BYTES = 255  # NAME_MAX
MAX_PATH_BYTES = 1024
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # show a name as another


class FilesRefused(ValueError):
    """A file map that is not taken, and nothing of it. The message names the file and says what to do."""


class BadName(FilesRefused):
    """A name that is no relative path of a file."""


class NameClash(FilesRefused):
    """Two names for one file, or a file where a directory must be."""


class BadContent(FilesRefused):
    """A text that cannot be written as UTF-8."""


class TooMuch(FilesRefused):
    """More than the limits allow."""


class Obstructed(FilesRefused):
    """What lies in the directory is not what may be written over or through."""


class FileLimits(Struct, frozen=True, kw_only=True):
    """How much one file map may hold. Sizes are of the UTF-8."""

    files: int = 2_000
    file_bytes: int = 2 * 1024 * 1024
    total_bytes: int = 16 * 1024 * 1024
    depth: int = 32


CheckedFiles = list[tuple[PurePosixPath, bytes]]


def check_files(files: Mapping[str, str | bytes], limits: FileLimits) -> CheckedFiles:
    """The files, sorted by path, as they are to be written. Raise FilesRefused."""
    paths = check_names(files, limits)
    checked: CheckedFiles = []
    total = 0
    for name in files:
        content = _encode(name, files[name])
        total += len(content)
        if len(content) > limits.file_bytes:
            raise TooMuch(
                f"{_shown(name)} has {len(content):,} bytes; a file may have {limits.file_bytes:,}: leave it out"
            )
        if total > limits.total_bytes:
            raise TooMuch(f"the files are larger than {limits.total_bytes:,} bytes together: leave some out")
        checked.append((paths[name], content))
    return sorted(checked, key=lambda file: file[0])


def check_names(names: Iterable[str], limits: FileLimits) -> dict[str, PurePosixPath]:
    """The path of each name. Raise BadName, NameClash or TooMuch."""
    chosen = list(names)
    if len(chosen) > limits.files:
        raise TooMuch(f"{len(chosen):,} files are more than the {limits.files:,} that a preview may have")
    components = {name: _components(name, limits) for name in chosen}
    _check_clashes(components)
    return {name: PurePosixPath(*parts) for name, parts in components.items()}


def _encode(name: str, content: str | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise BadContent(
            f"{_shown(name)} holds half a character at index {error.start}: it cannot be UTF-8; send whole ones"
        ) from None


def _components(name: str, limits: FileLimits) -> list[str]:
    """The components of a name that can be taken."""
    if not name:
        raise BadName("a file has an empty name: give a relative path such as app.py")
    if len(name.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise BadName(f"{_shown(name)} is longer than {MAX_PATH_BYTES:,} bytes: shorten it")
    _check_characters(name)
    if name.startswith("/"):
        raise BadName(f"{_shown(name)} is absolute: give a path relative to the preview's directory")
    components = name.split("/")
    if len(components) > limits.depth:
        raise BadName(f"{_shown(name)} is {len(components)} levels deep: use at most {limits.depth}")
    for component in components:
        _check_component(name, component)
    return components


def _check_characters(name: str) -> None:
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI:
            code = f"U+{ord(character):04X}"
            raise BadName(f"{_shown(name)} holds the character {code}, which a file's name may not: rename it")
    if "\\" in name:
        raise BadName(f"{_shown(name)} holds a backslash: separate directories with /")


def _check_component(name: str, component: str) -> None:
    if not component:
        raise BadName(f"{_shown(name)} has an empty component: no // and no / at the end")
    if not component.strip(". "):
        raise BadName(f"{_shown(name)} has the component {component!r}: leave out what is only dots or spaces")
    if len(component.encode()) > MAX_NAME_BYTES:
        raise BadName(f"{_shown(name)} has a component longer than {MAX_NAME_BYTES} bytes: shorten it")
    if _key(component).casefold().startswith(RESERVED):
        raise BadName(f"{_shown(name)}: names that begin with {RESERVED} are Tailrace's own; choose another")


def _check_clashes(components: Mapping[str, list[str]]) -> None:
    """No two names for one file or one directory, and no file that is a directory too."""
    files: dict[tuple[str, ...], str] = {}
    directories: dict[tuple[str, ...], tuple[list[str], str]] = {}
    for name, parts in components.items():
        keys = tuple(map(_key, parts))
        if keys in files:
            raise NameClash(f"{_shown(files[keys])} and {_shown(name)} are the same file: leave one out")
        files[keys] = name
        for depth in range(1, len(parts)):
            spelled, other = directories.setdefault(keys[:depth], (parts[:depth], name))
            if spelled != parts[:depth]:
                raise NameClash(f"{_shown(other)} and {_shown(name)} spell one directory in two ways: use one of them")
    for keys, (_, other) in directories.items():
        if keys in files:
            raise NameClash(f"{_shown(files[keys])} is a file, and {_shown(other)} needs a directory there: rename one")


def _key(component: str) -> str:
    return unicodedata.normalize("NFC", component).rstrip(". ")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:80] + "…")
