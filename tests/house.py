"""What the house rules say of the code, read from its source: who imports whom, and how long things are."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.places import ROOT

PACKAGES = ("training", "giraffe_hd", "mixnmatch", "demo")


@cache
def sources(packages: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    """Return every module of the packages by its dotted name."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Yield each module of ours that a module imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    for test in ast.walk(tree):
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test):
            inside |= {id(n) for n in ast.walk(test)}
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        wanted: list[str] = []
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            wanted = [f"{module}.{alias.name}" for alias in node.names]
            wanted = [each if each in known else module for each in wanted]
        for each in dict.fromkeys(wanted):
            if each in known and each != name:
                yield each, id(node) not in inside


@cache
def graph() -> dict[str, dict[str, bool]]:
    """Return, for each module, those it imports; True where it does so at once."""
    known = sources()
    found: dict[str, dict[str, bool]] = {name: {} for name in known}
    for name, path in known.items():
        for other, at_once in imports(name, path, known):
            found[name][other] = found[name].get(other, False) or at_once
    return found


def circles(edges: dict[str, dict[str, bool]]) -> list[list[str]]:
    """Return the circles of modules that import each other at once (strongly connected, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other, at_once in edges[name].items():
            if not at_once:
                continue
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                found.append(circle)

    for name in edges:
        if name not in index:
            visit(name)
    return found


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a file and its length in lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
