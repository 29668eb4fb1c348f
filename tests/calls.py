"""How functions of geomrl are called: what a reader cannot follow by counting positions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

MOST_BY_POSITION = 4
MOST_PARAMETERS = 10
REASON = "Its parameters are"
"""Begins the sentence of a docstring that says why a function has more."""
UNCHANGED = "verify/"
"""The hash of these files names the verifier, so that a change of style would grade all runs again."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def broken_rules(package: Path) -> list[str]:
    """Return where a package calls by too many positions, or takes too many parameters."""
    files = {file: ast.parse(file.read_text()) for file in sorted(package.rglob("*.py"))}
    own = {name for tree in files.values() for name in _defined(tree)}
    return [
        f"{package.name}/{path}:{line}: {words}"
        for file, tree in files.items()
        if not (path := file.relative_to(package).as_posix()).startswith(UNCHANGED)
        for line, words in _of_tree(tree, own - _foreign(tree))
    ]


def _defined(tree: ast.AST) -> Iterator[str]:
    """Yield the functions and classes that are defined, those that take any number of arguments aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) or (isinstance(node, Function) and not node.args.vararg):
            yield node.name


def _foreign(tree: ast.AST) -> set[str]:
    """Return the names that mean something else here than elsewhere in the package."""
    nodes = list(ast.walk(tree))
    imported = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    names = {
        alias.name for n in imported if not f"{n.module}".startswith("geomrl") for alias in n.names
    }
    return names | {n.name for n in nodes if isinstance(n, Function) and n.args.vararg}


def _of_tree(tree: ast.AST, own: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in own and len(node.args) > MOST_BY_POSITION:
                yield node.lineno, f"{name} is called with {len(node.args)} arguments by position"
        elif _is_dataclass(node) and _fields_by_position(node) > MOST_BY_POSITION:
            yield node.lineno, f"{node.name} takes more than {MOST_BY_POSITION} fields by position"
        elif isinstance(node, Function):
            named = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            n = sum(each.arg not in ("self", "cls") for each in named)
            if n > MOST_PARAMETERS and REASON not in (ast.get_docstring(node) or ""):
                yield node.lineno, f"{node.name} has {n} parameters and gives no reason"


def _is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        "dataclass" in ast.unparse(each) for each in node.decorator_list
    )


def _fields_by_position(node: ast.ClassDef) -> int:
    if any("kw_only=True" in ast.unparse(each) for each in node.decorator_list):
        return 0
    kinds = [ast.unparse(each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)]
    kinds = [kind for kind in kinds if "ClassVar" not in kind]
    return kinds.index("KW_ONLY") if "KW_ONLY" in kinds else len(kinds)
