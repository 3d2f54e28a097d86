"""What the packages import is declared, what is declared is imported, and all of it is pinned."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ("mantlet", "defenses", "detectors", "serving", "redteam")
BY_WAY_OF = {"starlette": "fastapi"}
"""Imported by us, and installed with, and pinned to what suits, another."""
IMPORTED_BY_OTHERS = {"onnx"}
"""Imported not by us: torch exports by way of it, and does not require it."""


def project(root: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {
        normal(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]) for requirement in requirements
    }


def extras(about: dict[str, Any], *chosen: str) -> set[str]:
    """The distributions of some extras."""
    return set().union(*(names(about["optional-dependencies"][extra]) for extra in chosen))


def imported(root: Path) -> dict[str, str]:
    """Every distribution that the packages import, with one file that does."""
    providers = packages_distributions()
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            for module in _modules(ast.parse(path.read_text(encoding="utf-8"))):
                if module in PACKAGES or module in sys.stdlib_module_names:
                    continue
                found[normal(providers[module][0])] = str(path)
    return found


def _modules(tree: ast.AST) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.split(".")[0])
    return modules


def test_every_import_is_declared(root: Path) -> None:
    about = project(root)
    declared = names(about["dependencies"]) | extras(about, "onnx", "explain", "pictures")
    missing = {
        name: file
        for name, file in imported(root).items()
        if BY_WAY_OF.get(name, name) not in declared
    }

    assert not missing


def test_every_declared_dependency_is_imported(root: Path) -> None:
    about = project(root)
    declared = names(about["dependencies"]) | extras(about, "onnx", "explain", "pictures")

    used = imported(root).keys() | IMPORTED_BY_OTHERS

    assert not declared - used - {BY_WAY_OF[name] for name in used & BY_WAY_OF.keys()}


@pytest.mark.parametrize("extra", ["", "onnx", "explain", "pictures", "dev"])
def test_every_dependency_is_pinned(root: Path, extra: str) -> None:
    about = project(root)
    wanted = about["optional-dependencies"][extra] if extra else about["dependencies"]
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", pin) for pin in pins)
    assert not names(wanted) - names(pins)
