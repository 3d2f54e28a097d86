"""Every example in a docstring is run."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

PACKAGES = ("mantlet", "defenses", "detectors", "serving", "redteam")


def modules() -> list[str]:
    """Every module of the packages, by its dotted name."""
    names = []
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names += [package, *(m.name for m in pkgutil.walk_packages(path, f"{package}."))]
    return names


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    """The module's examples; they may use whatever the module and its neighbours import."""
    common = {"np": "numpy", "torch": "torch"}
    words = {name: importlib.import_module(target) for name, target in common.items()}
    types = vars(importlib.import_module("mantlet.types"))
    found = doctest.DocTestFinder().find(module, extraglobs={**words, **types})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_hold(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in examples_of(importlib.import_module(name)):
        runner.run(test, out=report.append)

    assert not report, "".join(report)


def test_there_are_examples_to_run() -> None:
    found = sum(len(examples_of(importlib.import_module(name))) for name in modules())

    assert found >= 10
