"""How the project is laid out: every file has its test, and one place alone releases an answer."""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mantlet

ROOT = Path(__file__).parents[1]
PACKAGES = ("mantlet", "defenses", "detectors", "serving", "redteam")
COVERED_ELSEWHERE: dict[str, str] = {}
"""Sources without a test file of their own, and the file that tests them."""
LISTS = {"serving/metrics.py:__init__"}
"""Long functions that are nothing but a list: the metrics, a statement each."""


def sources() -> list[Path]:
    """Every module of the packages that holds more than a package's list."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in found if path.name != "__init__.py")


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if getattr(called, "id", getattr(called, "attr", "")) == name:
                yield node


def test_every_source_file_has_its_test_file() -> None:
    missing = []
    for source in sources():
        own = Path("tests") / source.parent / f"test_{source.name}"
        test = COVERED_ELSEWHERE.get(source.as_posix(), own.as_posix())
        if not (ROOT / test).is_file():
            missing.append(f"{source} lacks {test}")

    assert missing == []


def test_no_exception_is_out_of_date() -> None:
    listed = {Path(source) for source in COVERED_ELSEWHERE}

    assert listed <= set(sources())


def test_every_test_file_of_a_package_matches_a_source_file() -> None:
    """``test_stores.py`` in ``tests/serving/stores`` is of the package itself."""
    strays = []
    for package in PACKAGES:
        for test in (ROOT / "tests" / package).rglob("test_*.py"):
            folder = test.parent.relative_to(ROOT / "tests")
            name = test.name.removeprefix("test_")
            own = [folder / name, folder / "__init__.py"][name == f"{folder.name}.py"]
            if not (ROOT / own).is_file():
                strays.append(str(test.relative_to(ROOT)))

    assert strays == []


def test_only_the_pipeline_makes_what_may_be_released() -> None:
    makers = {
        source.as_posix()
        for source in sources()
        if list(calls(ast.parse((ROOT / source).read_text(encoding="utf-8")), "Released"))
    }

    assert makers == {"serving/pipeline.py"}


def test_what_the_package_exports_is_what_can_be_imported() -> None:
    importable = {
        name
        for name, value in vars(mantlet).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert importable == set(mantlet.__all__)
    assert list(mantlet.__all__) == sorted(mantlet.__all__)
    assert len(mantlet.__all__) <= 18


def test_functions_fit_a_screen_and_files_can_be_read() -> None:
    """At most 40 lines a function, beside its signature and docstring, and 500 a file."""
    long = []
    for source in sources():
        text = (ROOT / source).read_text(encoding="utf-8")
        if text.count("\n") > 500:
            long.append(f"{source}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
                lines = (node.end_lineno or node.lineno) - body[0].lineno + 1
                if lines > 40 and f"{source}:{node.name}" not in LISTS:
                    long.append(f"{source}: {node.name} has {lines} lines")

    assert long == []


def test_every_module_says_why_it_exists() -> None:
    silent = [
        str(source)
        for source in sources()
        if not ast.get_docstring(ast.parse((ROOT / source).read_text(encoding="utf-8")))
    ]

    assert silent == []


def test_every_plugin_file_is_in_the_list_of_its_package() -> None:
    for package in ("defenses", "detectors"):
        listed = (ROOT / package / "__init__.py").read_text(encoding="utf-8")
        files = [source for source in sources() if source.parent == Path(package)]
        plugins = [f.stem for f in files if "type: Literal[" in (ROOT / f).read_text("utf-8")]

        assert len(plugins) >= 2
        assert [n for n in plugins if f"from {package}.{n} import" not in listed] == []
