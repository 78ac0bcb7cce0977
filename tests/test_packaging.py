"""pyproject.toml names every package, every data file and every library that the code imports directly."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("training", "mixnmatch", "giraffe_hd", "demo")
EXTRAS = PROJECT["project"]["optional-dependencies"]
BROUGHT_ALONG = {"triton", "pydantic-core"}
"""PyTorch's wheels require the version of Triton that they were built with, on the platforms that have one; each
version of Pydantic requires one version of its core, whose errors validators raise."""
NO_LIBRARY = {"model"}
"""A module of the authors' program, imported by a benchmark from a clone that the user names."""


def canonical(name: str) -> str:
    """Return a distribution's name without version, extras and spelling (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name, maxsplit=1)[0]).lower()


def imported(folders: tuple[str, ...]) -> dict[str, Path]:
    """Return the top-level modules from outside that files under `folders` import, with one file each."""
    own = {"tests", *PACKAGES}
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for module in modules(ast.parse(path.read_text(encoding="utf-8"))):
            top = module.partition(".")[0]
            if top not in own and top not in sys.stdlib_module_names:
                found.setdefault(top, path)
    return found


def modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def undeclared(folders: tuple[str, ...], requirements: list[str]) -> list[str]:
    """Return imports of libraries that `requirements` do not name."""
    declared = {canonical(each) for each in requirements} | BROUGHT_ALONG
    owners = packages_distributions()
    names = (
        (top, path, {canonical(name) for name in owners.get(top, [top])}) for top, path in imported(folders).items()
    )
    return [f"{top} ({path.relative_to(ROOT)})" for top, path, names_of in names if not names_of & declared]


def test_packages_import_only_declared_libraries():
    """What the sweep and the test-time checker need is in the extras; all else comes with a plain install."""
    extras = [*EXTRAS["sweep"], "beartype"]
    extras += [each for name, each_of in EXTRAS.items() if name not in ("sweep", "dev") for each in each_of]
    assert undeclared(PACKAGES, [*PROJECT["project"]["dependencies"], *extras]) == []


def test_tests_import_only_declared_libraries():
    everything = [*PROJECT["project"]["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    assert undeclared(("tests",), [*everything, *NO_LIBRARY]) == []


@pytest.mark.parametrize("requirements", [PROJECT["project"]["dependencies"], *EXTRAS.values()])
def test_no_library_is_declared_twice(requirements):
    names = [canonical(each) for each in requirements]
    assert len(names) == len(set(names))


def test_every_package_on_disk_is_installed():
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert len(include) == len(set(include))
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file(), f"{folder} has no __init__.py"
        assert any(fnmatch(".".join(folder.parts), pattern) for pattern in include), f"{folder} is not installed"


def test_every_data_file_is_installed():
    """Files that are no Python, notes for readers of the code aside, match a pattern of their package."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    matched = {path for name, globs in patterns.items() for glob in globs for path in folder_of(name).glob(glob)}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "README.md":
                assert path in matched, f"{path.relative_to(ROOT)} is not installed"


def test_every_pattern_of_data_files_matches_something():
    for name, globs in PROJECT["tool"]["setuptools"]["package-data"].items():
        for glob in globs:
            assert any(folder_of(name).glob(glob)), f"package-data of {name}: {glob} matches no file"


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))
