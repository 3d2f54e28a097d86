"""The OpenAPI document, tried by schemathesis: no 500, and every answer is as it says."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from tests.e2e.harness import Running
from tests.e2e.test_v2 import tensor

EXAMPLES = 20
# what fits a model's shape cannot be said in a schema; and we send a good key along with the bad ones
UNFIT = "positive_data_acceptance,ignored_auth"


def test_schemathesis_finds_no_lie(running: Running, tmp_path: Path) -> None:
    before = running.computed()
    command = [Path(sys.executable).with_name("schemathesis"), "run", "--no-color"]
    options = {
        "--header": f"X-API-Key: {running.new_key()}",
        "--max-examples": str(EXAMPLES),
        "--seed": "1",
        "--exclude-checks": UNFIT,
        "--suppress-health-check": "all",
        "--generation-database": "none",
    }
    done = subprocess.run(
        [*command, *(f"{k}={v}" for k, v in options.items()), f"{running.url}/openapi.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "Tested: 16" in done.stdout
    assert not running.events("unexpected_error")
    assert running.computed() == before


@pytest.fixture(scope="module")
def document(running: Running) -> dict[str, Any]:
    with running.client() as client:
        whole: dict[str, Any] = client.get("/openapi.json").json()
    return whole


@pytest.mark.parametrize("model", ["plain", "labels"])
def test_good_answers_are_as_the_document_says(
    client: httpx.Client, rows: np.ndarray, document: dict[str, Any], model: str
) -> None:
    schemas = {"components": document["components"]}
    bodies = {
        "Instances": {"instances": rows[:5].tolist()},
        "InferRequest": {"inputs": [tensor(rows[:5])]},
    }
    predicted = client.post(f"/v1/models/{model}:predict", json=bodies["Instances"])
    inferred = client.post(f"/v2/models/{model}/infer", json=bodies["InferRequest"] | {"id": "a"})
    said = {"Predictions": predicted.json(), "InferResponse": inferred.json()}

    assert (predicted.status_code, inferred.status_code) == (200, 200)
    for name, value in {**bodies, **said}.items():
        schema = schemas | {"$ref": f"#/components/schemas/{name}"}
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def test_it_names_the_models_and_their_versions(document: dict[str, Any]) -> None:
    path = document["paths"]["/v2/models/{model}/versions/{version}/infer"]["post"]
    named = {p["name"]: p["schema"].get("enum") for p in path["parameters"]}

    assert named["model"] == ["busy", "denying", "labels", "mnist", "plain"]
    assert named["version"] == ["1"]
    assert path["security"] == [{"bearer": []}, {"header": []}]


def test_the_document_is_shown_as_pages(running: Running) -> None:
    with running.client() as client:
        pages = [client.get(path) for path in ("/docs", "/redoc")]

    assert [page.status_code for page in pages] == [200, 200]
    assert all("/openapi.json" in page.text for page in pages)
    assert "Mantlet" in pages[0].text
