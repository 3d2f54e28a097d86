import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

import defenses
import detectors
from defenses.rounding import Rounding
from defenses.top_k import TopK
from mantlet import architectures, registry
from mantlet.errors import ConfigError
from mantlet.plugin import Plugin

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package of one module, with entry points, in front of the others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def create(module: str, source: str, points: str) -> None:
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        about = tmp_path / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(points, encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return create


def test_builtin_plugins_are_found_by_the_type_they_declare() -> None:
    assert {"gaussian_noise", "label_only", "reverse_sigmoid", "rounding", "top_k"} <= set(
        defenses.known()
    )
    assert {"foreign", "rate"} <= set(detectors.known())


def test_a_plugin_must_declare_its_type_as_one_literal() -> None:
    class Nameless(Plugin):
        type: str = "nameless"

    class Twofold(Plugin):
        type: Literal["one", "two"] = "one"

    for plugin in (Nameless, Twofold):
        with pytest.raises(ConfigError, match=rf"{plugin.__name__}.*type: Literal\["):
            registry.type_name(plugin)


@pytest.mark.parametrize(
    ("source", "points", "words"),
    [
        ("import a_module_that_is_not_there", "bad = third_a:X", "does not load: ModuleNotFound"),
        ("", "bad = third_a:Missing", "does not load: AttributeError"),
        ("raise RuntimeError('boom')", "bad = third_a:X", r"does not load: RuntimeError\('boom'\)"),
        ("X = 3", "bad = third_a:X", "is no Defense class"),
        ("from detectors.rate import Rate as X", "bad = third_a:X", "is no Defense class"),
        (
            "from typing import Literal\nfrom defenses.rounding import Rounding\n"
            "class X(Rounding):\n    type: Literal['rounding'] = 'rounding'\n",
            "bad = third_a:X",
            "the type name 'rounding' is taken; rename",
        ),
        (
            "from defenses.rounding import Rounding\nclass X(Rounding):\n    type: str = 'x'\n",
            "bad = third_a:X",
            "'type' must be declared",
        ),
    ],
    ids=["import", "attribute", "raises", "no class", "other kind", "taken", "no type"],
)
def test_a_bad_entry_point_is_named(install: Install, source: str, points: str, words: str) -> None:
    install("third_a", source, f"[mantlet.defenses]\n{points}\n")

    with pytest.raises(ConfigError, match=words):
        defenses.known()


def test_an_entry_point_may_name_a_builtin_plugin_again(install: Install) -> None:
    install("third_b", "", "[mantlet.defenses]\nrounding = defenses.rounding:Rounding\n")

    assert defenses.known()["rounding"] is Rounding


@pytest.mark.parametrize(
    ("source", "points", "words"),
    [
        ("", "bad = third_c:Missing", "entry point 'bad' .* does not load: AttributeError"),
        ("X = 3", "bad = third_c:X", "entry point 'bad' .* cannot be called"),
        ("X = dict", "lenet = third_c:X", "'lenet' is taken; rename"),
    ],
)
def test_a_bad_architecture_is_named(
    install: Install, source: str, points: str, words: str
) -> None:
    install("third_c", source, f"[mantlet.architectures]\n{points}\n")

    with pytest.raises(ConfigError, match=words):
        architectures.known()


def test_a_plugin_is_parsed_by_its_type() -> None:
    parsed = registry.parse([Rounding, TopK], {"type": "top_k", "k": 2})

    assert parsed == TopK(k=2)
    assert registry.parse([TopK], {"type": "top_k", "k": 2}) == parsed


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"type": "top_k", "k": 0}, "k"), ({"type": "top_k", "kk": 1}, "kk"), ({"type": "x"}, "type")],
)
def test_a_mistake_in_a_plugin_names_the_field(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        registry.parse([Rounding, TopK], settings)


def test_an_unknown_name_gets_the_nearest_one_or_all_of_them() -> None:
    assert registry.did_you_mean("roundin", ["rounding", "top_k"]) == "did you mean 'rounding'?"
    assert registry.did_you_mean("zzz", ["top_k", "rounding"]) == "known: rounding, top_k"
