"""The OpenAPI document: valid by itself; tests/e2e holds the gateway to it."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mantlet import __version__
from serving import openapi
from serving.settings import Settings
from tests.helpers import config
from tests.serving.inprocess import ROOT, client_of, load, service

DIALECT = jsonschema.Draft202012Validator


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(config(ROOT, tmp_path))


def references(part: object) -> list[str]:
    """Every reference in a document."""
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [r for value in part.values() for r in references(value)]
    if isinstance(part, list):
        return [r for value in part for r in references(value)]
    return []


def test_every_schema_is_a_schema_and_every_reference_leads_to_one(settings: Settings) -> None:
    whole = openapi.document(settings)
    for schema in whole["components"]["schemas"].values():
        DIALECT.check_schema(schema)

    used = {reference.removeprefix("#/components/schemas/") for reference in references(whole)}
    assert used == set(whole["components"]["schemas"])


def test_every_operation_has_its_path_parameters(settings: Settings) -> None:
    for path, methods in openapi.document(settings, ["1"])["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert {f"{{{name}}}" in path for name in named} <= {True}
            assert len(named) == path.count("{")


def test_every_refusal_has_the_one_form(settings: Settings) -> None:
    for methods in openapi.document(settings)["paths"].values():
        for operation in methods.values():
            codes = set(operation["responses"])
            assert {"200", "405"} <= codes
            for code in codes & {"400", "401", "403", "404", "405", "429"}:
                content = operation["responses"][code]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/Error")
            for code in codes & {"429", "503"}:
                assert operation["responses"][code]["headers"]["Retry-After"]["required"]


@pytest.mark.parametrize(
    ("is_open", "wanted"), [(True, []), (False, [{"bearer": []}, {"header": []}])]
)
def test_keys_are_asked_for_where_they_are_needed(
    tmp_path: Path, is_open: bool, wanted: list[Any]
) -> None:
    settings = Settings.model_validate(config(ROOT, tmp_path, identity={"open": is_open}))
    paths = openapi.document(settings)["paths"]

    assert paths["/v2/models/{model}/infer"]["post"]["security"] == wanted
    assert paths["/v2/models/{model}/ready"]["get"]["security"] == []


def test_the_page_shows_what_is_loaded(tmp_path: Path) -> None:
    ready = service(tmp_path)
    client = client_of(ready)
    before = client.get("/openapi.json").json()
    load(ready)
    after = client.get("/openapi.json").json()
    path = "/v2/models/{model}/versions/{version}"

    def versions(whole: dict[str, Any]) -> object:
        return whole["paths"][path]["get"]["parameters"][1]["schema"]

    assert before["info"]["version"] == __version__
    assert versions(before) == {"type": "string"}
    assert versions(after) == {"enum": ["1"]}
