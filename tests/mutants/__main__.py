"""`make mutants`: break the protocol and the channel in every small way, and list what no test has noticed."""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.mutants.mutations import Mutation, mutations
from tests.mutants.trial import try_one, warm_up

ROOT = Path(__file__).parents[2]
CLOCK = ("-p", "tests.support.clock")
ALONE = ("--noconftest", *CLOCK)  # unit tests need nothing of the conftest, and it imports half of the rest
CHANNEL = (*CLOCK, "tests/contract/test_channel.py")
SCHEDULES = "every_reader_sees"  # takes ten times as long as all other tests of the channel


def oracle(module: str) -> list[list[str]]:
    """The tests of a module, as pytest's arguments: its own first, and what takes long last."""
    package, _, name = module.removeprefix("shared.").rpartition(".")
    folder = ROOT / "tests" / "unit" / package
    own = folder / f"test_{name}.py"
    tests = [[*ALONE, str(own)]] if own.exists() else []
    tests.append([*ALONE, str(folder), f"--ignore={own}"])
    if package == "channel":
        tests.append([*CHANNEL, "-k", f"not postgres and not {SCHEDULES}"])
        tests.append([*CHANNEL, "-k", f"not postgres and {SCHEDULES}"])
    return tests


def modules(packages: list[str]) -> list[tuple[str, Path]]:
    found = []
    for package in packages:
        directory = ROOT / package.replace(".", "/")
        paths = [directory.with_suffix(".py")] if directory.with_suffix(".py").exists() else directory.glob("*.py")
        found += [(".".join(path.relative_to(ROOT).with_suffix("").parts), path) for path in sorted(paths)]
    return [(name, path) for name, path in found if not name.endswith("__init__")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("packages", nargs="*", default=["shared.protocol", "shared.channel"])
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many; 0: do all")
    parser.add_argument("--nice", type=int, default=19)
    parser.add_argument("--report", type=Path, help="write what was found there, as JSON")
    given = parser.parse_args()
    os.nice(given.nice)
    os.chdir(ROOT)
    warm_up()
    survivors: list[Mutation] = []
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + given.minutes * 60 if given.minutes else None
    for name, path in modules(given.packages):
        tests = oracle(name)
        if try_one(None, tests) != "survived":
            print(f"{name}: its tests fail as it is", file=sys.stderr)
            return 1
        of_module: Counter[str] = Counter()
        for mutation in mutations(path, name):
            if deadline is not None and time.monotonic() > deadline:
                break
            verdict = try_one(mutation, tests)
            of_module[verdict] += 1
            if verdict == "survived":
                survivors.append(mutation)
                print(f"survived: {mutation.name}  (line {mutation.line})", flush=True)
        counts += of_module
        print(f"{name}: {dict(of_module)}", flush=True)
    print(f"In all: {dict(counts)}")
    if given.report is not None:
        told = [{"module": m.module, "line": m.line, "operator": m.operator, "diff": m.diff} for m in survivors]
        given.report.write_bytes(msgspec.json.format(msgspec.json.encode({"counts": counts, "survivors": told})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
