"""Who may import whom in geomrl: the contract, and what breaks it, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

LEVELS = (
    "errors",
    "verify files seeds progress",
    "stats runs problems",
    "geometry models",
    "probe rollout",
    "evaluate train reasoner",
    "compare ablate integrations",
    "viz",
    "reproduce report",
    "cli",
)
"""From the bottom up: a part imports those below its own line, and none beside it."""
LEVEL = {part: number for number, line in enumerate(LEVELS) for part in line.split()}
LEAVES = {"errors", "files", "seeds", "progress"}
"""All modules that lie in geomrl/ itself, beside the facade."""
HEAVY = {
    "nnsight": {"probe/extractor.py"},
    "deepspeed": {"train/deepspeed_engine.py"},
    "vllm": {"rollout/engines/vllm.py"},
    "trl": {"integrations/trl.py"},
}
"""Libraries that take long to import, and the only files that may: those that exist for them."""
PRINTING = ("cli/", "progress.py", "train/display.py")
NO_TORCH = ("geometry/", "stats/")


def broken_rules(package: Path) -> list[str]:
    """Return each import of a package that breaks the contract, and the rule."""
    return [line for file in sorted(package.rglob("*.py")) for line in _of_file(file, package)]


def _of_file(file: Path, package: Path) -> Iterator[str]:
    path = file.relative_to(package).as_posix()
    part = path.split("/")[0].removesuffix(".py")
    if part == "__init__":  # the facade
        return
    if part not in LEVEL or ("/" not in path and part not in LEAVES):
        yield f"{path}: no place in the contract; see CONTRIBUTING.md"
        return
    for line, module in _imports(ast.parse(file.read_text())):
        top, *rest = module.split(".")
        rule = None
        if top == "geomrl":
            other = rest[0] if rest else "geomrl itself"
            if other != part and LEVEL.get(other, 99) >= LEVEL[part]:
                rule = f"{part}/ may not import {other}: it is not below it"
        elif top in HEAVY and path not in HEAVY[top]:
            rule = f"{top} is imported in {', '.join(sorted(HEAVY[top]))} alone"
        elif top == "rich" and not path.startswith(PRINTING):
            rule = "only the command line prints"
        elif top in ("torch", "transformers") and path.startswith(NO_TORCH):
            rule = "measures and statistics are of arrays"
        if rule:
            yield f"geomrl/{path}:{line}: imports {module}; {rule}"


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and module of each import, those in functions too, not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            # "from geomrl import x": the part x, or a name of the facade.
            whole = child.module == "geomrl"
            names = [f"geomrl.{a.name}" if a.name in LEVEL else "geomrl" for a in child.names]
            yield from (
                (child.lineno, name) for name in (names if whole else [child.module or "."])
            )
        yield from _imports(child)
