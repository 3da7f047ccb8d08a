"""What can be broken: cosmic-ray's operators, applied to a module's source."""

import ast
import difflib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

# `X | None` of an annotation: whatever else stands there is no type, and the import fails. Nothing is learned of it.
USELESS = "core/ReplaceBinaryOperator_BitOr_"


class Mutation(Struct, frozen=True):
    """One break. `code` is the whole module with it."""

    module: str
    operator: str
    line: int
    diff: str
    code: str

    @property
    def name(self) -> str:
        """The same in every run for as long as the line stays what it is."""
        return f"{self.module}: {self.diff}"


def mutations(path: Path, module: str) -> Iterator[Mutation]:
    """Every one of a module that is still Python, and another program."""
    plugins: Any = importlib.import_module("cosmic_ray.plugins")
    trees: Any = importlib.import_module("cosmic_ray.ast")
    mutate_code: Any = importlib.import_module("cosmic_ray.mutating").mutate_code
    source = path.read_text("utf-8")
    seen = {_shape(source)}
    for name in plugins.operator_names():
        operator = plugins.get_operator(name)
        if operator.arguments() or name.startswith(USELESS):
            continue
        made = operator()
        nodes = list(trees.ast_nodes(trees.get_ast(source)))
        for occurrence, start in enumerate(start for node in nodes for start, _ in made.mutation_positions(node)):
            try:
                code = mutate_code(source, made, occurrence)
                shape = _shape(code)
            except (SyntaxError, AttributeError):  # the latter: it cannot replace one of `except (A, module.B)`
                continue
            if shape not in seen:
                seen.add(shape)
                yield Mutation(module, name.removeprefix("core/"), start[0], _diff(source, code), code)


def _shape(code: str) -> str:
    """What it is as a program. How a class is declared (`frozen=True`) and which arguments are given by name (`*`, `/`)
    is left out: mypy holds us to that.
    """
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.keywords = []
        elif isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [default for default in node.kw_defaults if default is not None]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


def _diff(before: str, after: str) -> str:
    """The lines that differ, in one."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    changed = [line for line in lines if line.startswith(("- ", "+ "))]
    return " → ".join(line[2:].strip() for line in sorted(changed, key=lambda line: line[0], reverse=True))
