"""The documentation is complete, its generated parts are fresh, and its examples work."""

import ast
import doctest
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from typer.testing import CliRunner

import defenses
import detectors
from docs import generate
from mantlet.data import Images
from mantlet.plugin import Plugin
from mantlet.types import Kind, Prediction
from redteam.cli import app
from serving import victims
from serving.app import routes
from serving.metrics import Metrics
from serving.settings import Settings
from serving.victims.torch import TorchVictim

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
PAGES += [ROOT / "configs/models/README.md", ROOT / "tests/data/README.md"]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def fences(page: Path, language: str) -> list[str]:
    """The bodies of a page's fences in a language."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for _, name, body in found if name == language]


# --- generated parts ---


@pytest.mark.parametrize("page", generate.pages(), ids=lambda p: p.name)
def test_generated_text_is_fresh(page: Path) -> None:
    """Where this fails: make docs."""
    text = page.read_text(encoding="utf-8")

    assert generate.render(text) == text


def test_every_generated_part_is_used_once() -> None:
    used = [
        name
        for page in generate.pages()
        for _, name, _ in generate.MARKED.findall(page.read_text())
    ]

    assert sorted(used) == sorted(generate.PARTS)


def test_rendering_replaces_what_is_stale() -> None:
    page = "before\n<!-- generated: metrics -->\nstale\n<!-- end -->\nafter\n"
    fresh = generate.render(page)

    assert "stale" not in fresh
    assert "mantlet_requests_total" in fresh
    assert fresh.startswith("before\n")
    assert fresh.endswith("<!-- end -->\nafter\n")
    assert generate.render(fresh) == fresh


# --- completeness ---


def models_of_settings(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Every section that the config file may have, found through the fields."""
    yield model
    for field in model.model_fields.values():
        for inner in _classes(field.annotation):
            if issubclass(inner, BaseModel) and not issubclass(inner, Plugin):
                yield from models_of_settings(inner)


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _classes(argument)


def test_every_section_of_the_config_is_documented_and_every_setting_says_what_it_means() -> None:
    sections = set(models_of_settings(Settings))

    assert sections == set(generate.SECTIONS.values())
    for section in sections:
        assert section.model_fields.keys() == generate.meanings(section).keys(), section


@pytest.mark.parametrize("victim", victims.BUILTIN)
def test_every_setting_of_a_victim_says_what_it_means(victim: type[Plugin]) -> None:
    fields = generate.own_fields(victim, victims.VictimPlugin)

    assert fields.keys() <= generate.meanings(victim).keys()
    for name, field in fields.items():
        assert f"| `{field.alias or name}` |" in text_of("configuration.md")


PLUGINS = [*defenses.BUILTIN, *detectors.BUILTIN]


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.__name__)
def test_every_plug_in_has_its_place_and_says_what_its_settings_mean_and_what_undoes_it(
    plugin: type[Plugin],
) -> None:
    assert f"### `{plugin.model_fields['type'].default}`\n" in text_of("plugins.md")
    assert "undoes it" in (plugin.__doc__ or "")
    assert generate.own_fields(plugin, Plugin).keys() == generate.meanings(plugin).keys()


def test_every_metric_is_documented() -> None:
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            assert f"| `{metric._name}" in text_of("operations.md")


def test_every_path_is_documented() -> None:
    for route in routes(generate.any_service()):
        assert f"| `{route.path}` |" in text_of("http.md")


def constants(argument: int, keyword: str, *callables: str) -> set[Any]:
    """What calls of these names are given, as literals, at a position or by keyword."""
    found = set()
    for call in generate.calls(*callables):
        given = [k.value for k in call.keywords if k.arg == keyword] or call.args[argument:][:1]
        for value in given:
            found |= {n.value for n in ast.walk(value) if isinstance(n, ast.Constant)}
    return found


def test_every_status_in_the_code_is_documented() -> None:
    raised = constants(0, "status", "RequestError", "_refuse")
    sent = constants(1, "status_code", "JSONResponse") | constants(
        99, "status", "reply", "reply_json"
    )
    statuses = {status for status in raised | sent if isinstance(status, int)} | {404, 405, 499}

    assert {400, 401, 403, 404, 408, 413, 415, 429, 431, 503, 504} <= statuses
    for status in statuses:
        pages = text_of("http.md") + text_of("response.md")
        assert re.search(rf"(\| |count ){status}\b", pages), status


def test_every_reason_of_a_refusal_is_documented() -> None:
    reasons = constants(99, "reason", "RequestError")
    reasons |= constants(0, "reason", "_overloaded") | constants(2, "reason", "_check")
    named = {reason for reason in reasons if isinstance(reason, str) and reason.isidentifier()}
    table = text_of("operations.md").partition("| reason |")[2].partition("\n\n")[0]

    assert {"denied", "shed", "expired", "rate", "budget", "bad_key"} <= named
    for reason in named | {"bad_request", "PluginError", "VictimError", "StoreError"}:
        assert f"`{reason}`" in table, reason


@pytest.mark.parametrize(("typed", "command"), generate.command_tree(), ids=lambda c: str(c)[:30])
def test_every_option_that_help_shows_is_documented(typed: str, command: Any) -> None:
    shown = CliRunner().invoke(app, [*typed.split()[1:], "--help"], env={"COLUMNS": "200"}).output
    place = text_of("commands.md").partition(f"### `{typed}`\n")[2].partition("\n### ")[0]

    assert place
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown)):
        assert f"`{option}`" in place, option


def test_every_dependency_has_its_reason() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = about["optional-dependencies"]
    ours = [*extras["onnx"], *extras["explain"], *extras["pictures"]]
    requirements = about["dependencies"] + ours
    wanted = {re.split(r"[<>=;\[ ]", requirement)[0] for requirement in requirements}
    lines = [line for line in text_of("decisions/009-libraries.md").splitlines() if line[:1] == "*"]
    named = set(re.findall(r"(?<!extra )`([\w-]+)`", " ".join(lines)))

    assert named == wanted


def test_decisions_are_short_and_of_one_form() -> None:
    records = sorted((DOCS / "decisions").glob("*.md"))

    assert [record.name[:3] for record in records] == [
        f"{n:03}" for n in range(1, len(records) + 1)
    ]
    for record in records:
        text = record.read_text(encoding="utf-8")
        longest = 30 if "libraries" in record.name else 20  # a line each
        assert len(text.splitlines()) <= longest, record.name
        assert re.findall(r"^\*\*(.+?)\*\*", text, re.MULTILINE) == [
            "Context.",
            "Choice.",
            "What would change our mind.",
        ]


def _nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for inner in (
        entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    ):
        yield from _nav(inner)


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    assert sorted(_nav(nav)) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


# --- examples ---


def whole(raw: dict[str, Any]) -> dict[str, Any]:
    """A config of which an example shows a part."""
    rest = yaml.safe_load((ROOT / "configs/gateway/default.yaml").read_text())
    return raw if "models" in raw else rest | raw


@every_page
def test_every_yaml_example_loads_as_a_config(page: Path) -> None:
    for example in fences(page, "yaml"):
        settings = Settings.model_validate(whole(yaml.safe_load(example)))

        assert settings.models


def test_there_are_yaml_examples() -> None:
    assert sum(len(fences(page, "yaml")) for page in PAGES) >= 3


def run_doctest(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)

    assert runner.failures == 0, "".join(said)


@every_page
def test_every_session_in_a_page_runs(page: Path) -> None:
    """Those in generated parts are docstrings, and run below."""
    text = generate.MARKED.sub("", page.read_text(encoding="utf-8"))
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    run_doctest(test)


def test_every_example_of_the_generator_holds() -> None:
    for test in doctest.DocTestFinder(exclude_empty=True).find(generate):
        run_doctest(test)


# --- links and numbers ---


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


@every_page
def test_no_relative_link_is_dead(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page

        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:configs|tests|docs|defenses|detectors|serving)/[\w./-]+)`", page.read_text()
    )
    made = {"defenses/halve.py", "tests/defenses/test_halve.py"}  # CONTRIBUTING tells how

    assert not [name for name in named if name not in made and not (ROOT / name).exists()]


def test_accuracy_that_is_told_is_that_of_the_weights(
    digits: Images, shipped_victim: TorchVictim
) -> None:
    parts = torch.from_numpy(digits.x).split(500)
    labels = torch.cat([shipped_victim.predict(part).values.argmax(dim=1) for part in parts])
    page = (ROOT / "configs/models/README.md").read_text()
    (told,) = re.findall(r"`mnist-ini\.safetensors`.*?([\d.]+) % right", page)

    assert digits.y is not None
    assert float(np.mean(labels.numpy() == digits.y)) == pytest.approx(float(told) / 100, abs=5e-5)


def test_command_writes_what_is_stale_and_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: metrics -->\nstale\n<!-- end -->\n")
    monkeypatch.setattr(generate, "pages", lambda: [page])
    generate.main()
    first = capsys.readouterr().out
    generate.main()

    assert (first, capsys.readouterr().out) == (f"{page}\n", "")
    assert "mantlet_requests_total" in page.read_text()


def test_contributing_tells_how_to_add_a_defense_that_works() -> None:
    (code,) = (body for body in fences(ROOT / "CONTRIBUTING.md", "python"))
    namespace: dict[str, Any] = {"__name__": "halve"}
    exec(compile(re.sub(r"^    ", "", code, flags=re.MULTILINE), "halve.py", "exec"), namespace)
    row = Prediction(torch.tensor([[1.0, 0.0]]), Kind.PROBABILITIES)

    assert namespace["Halve"]()(row, None, {}).values.tolist() == [[0.75, 0.25]]
