"""The shipped gateway that explains: what people and machines get, and what is left for a thief."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from serving.build import load_pipeline
from serving.explaining import Explain
from serving.overlay import LINE, SIDE
from serving.policy import ALLOWED
from serving.settings import Settings
from serving.victims.upstream import UpstreamVictim
from tests.e2e.harness import MODELS, PLAIN, ROOT, TALE, Running, gateway, npy, refusal
from tests.e2e.test_bad_input import JPEG, JPEGS, PICTURES, PNG
from tests.e2e.test_v2 import tensor
from tests.helpers import SETUP, query

EXPLAIN = "/v1/models/mnist:explain"
METHODS = ("gradient", "integrated_gradients", "smooth_grad", "grad_cam")


def shipped() -> dict[str, Any]:
    """The config as it ships, with absolute paths."""
    folder = ROOT / "configs/gateway"
    raw: dict[str, Any] = yaml.safe_load((folder / "explain.yaml").read_text())
    model = raw["models"]["mnist"]
    for part in (model, model["victim"], *model["detectors"]):
        for name in part.keys() & {"calibration", "example", "weights", "classifier", "curve"}:
            part[name] = str(folder / part[name])
    return raw | {"listen": {"port": 0}, "admin": {"port": 0}}


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = shipped()
    config["tiers"]["tight"] = {"explanations": "5/day"}
    config["models"]["plain"] = PLAIN
    config["models"]["any"] = PLAIN | {"explain": {"classes": "any"}}
    tiers = {"insider": "house", "ann": "default", "thief": "default", "poor": "tight"}
    with gateway(tmp_path_factory.mktemp("explaining"), config, clients=40, tiers=tiers) as started:
        yield started


@pytest.fixture
def client(explaining: Running) -> Iterator[httpx.Client]:
    with explaining.client(explaining.new_key()) as opened:
        yield opened


def maps_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.array(response.json()["explanations"])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) between maps (n, *shape)."""
    a, b = (maps.reshape(len(maps), -1) for maps in (a, b))
    found: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_people_see_their_digit_in_grey_with_what_mattered_in_colour(
    client: httpx.Client, method: str
) -> None:
    headers = {"Content-Type": "image/png", "Accept": "image/png"}
    body = (MODELS / "digit-7.png").read_bytes()
    answer = client.post(f"{EXPLAIN}?method={method}", content=body, headers=headers)
    with Image.open(io.BytesIO(answer.content)) as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int64)

    assert answer.headers["content-type"] == "image/png"
    assert pixels.shape == (SIDE + LINE, SIDE, 3)
    reddest = (pixels[..., 0] - pixels[..., 2])[:SIDE].max()
    assert reddest > 80
    assert pixels[SIDE:].max() > 200, "the class is written below"


@pytest.mark.parametrize("method", ["gradient", "smooth_grad"])
def test_a_stranger_gets_maps_for_eyes_and_the_house_gets_gradients(
    explaining: Running, rows: np.ndarray, method: str
) -> None:
    """They point along the gradient hardly better than a map that is flat, which tells nothing.

    That one does by 0.2: the gradients of this network, trained with Isolation and Induction, share a sign.
    """
    body = {"instances": rows[:5].tolist(), "method": method}
    with explaining.client(explaining.named["ann"]) as ann:
        shown = maps_of(ann.post(EXPLAIN, json=body))
    with explaining.client(explaining.named["insider"]) as insider:
        full = maps_of(insider.post(EXPLAIN, json=body))
    along, flat = cosines(shown, full), cosines(np.ones_like(full), full)

    assert shown.min() >= 0
    assert full.min() < 0
    assert np.ptp(shown[:, 0, :4, :4], axis=(1, 2)).max() < 0.05, "a cell, but for the mark"
    assert (np.abs(along) - np.abs(flat)).max() < 0.1
    assert np.abs(along).max() < 0.3


@pytest.mark.parametrize(("shadow", "tier"), [(True, "house"), (False, ALLOWED), (False, "free")])
def test_shadow_mode_the_allow_list_and_other_tiers_get_maps_for_eyes(
    tmp_path: Path, rows: np.ndarray, shadow: bool, tier: str
) -> None:
    """What no level names gets no more than a stranger; only the house, and enforced, gets signs."""
    raw = shipped() | {"data_dir": str(tmp_path)}
    raw["models"]["mnist"] |= {"shadow": shadow}
    loaded = Settings.model_validate(raw)
    pipeline = load_pipeline("mnist", loaded.models["mnist"], loaded)
    assert pipeline.explaining is not None
    asked = query(torch.from_numpy(rows[:5, None]), tiers=[tier] * 5)
    for method in METHODS:
        told = pipeline.explain(asked, pipeline.explaining.ask(5, method), {}).maps(0, 5)

        assert told is not None
        assert float(told.values.amin()) >= 0
        assert float(told.values.amax()) > 0.5


def test_the_prediction_is_the_one_of_predict(client: httpx.Client, rows: np.ndarray) -> None:
    body = {"instances": rows[:5].tolist()}
    predicted = client.post("/v1/models/mnist:predict", json=body).json()["predictions"]

    assert client.post(EXPLAIN, json=body).json()["predictions"] == predicted


def test_requests_and_answers_are_as_the_document_says(
    client: httpx.Client, rows: np.ndarray
) -> None:
    document = client.get("/openapi.json").json()
    asked = {"instances": rows[:2].tolist(), "method": "grad_cam"}
    said = {"ExplainRequest": asked, "Explanations": client.post(EXPLAIN, json=asked).json()}

    assert "/v1/models/{model}:explain" in document["paths"]
    for name, value in said.items():
        schema = {"components": document["components"], "$ref": f"#/components/schemas/{name}"}
        jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def test_asked_again_the_map_is_the_same(client: httpx.Client, rows: np.ndarray) -> None:
    asked = {"instances": rows[:2].tolist(), "method": "smooth_grad"}
    first, second = (maps_of(client.post(EXPLAIN, json=asked)) for _ in range(2))

    assert np.array_equal(first, second)


def test_arrays_and_v2_say_the_same(client: httpx.Client, rows: np.ndarray) -> None:
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    array = np.load(
        io.BytesIO(client.post(EXPLAIN, content=npy(rows[:3]), headers=headers).content)
    )
    asked = {"inputs": [tensor(rows[:3])], "outputs": [{"name": "explanation"}]}
    outputs = client.post("/v2/models/mnist/infer", json=asked).json()["outputs"]

    assert array.shape == (3, 1, 28, 28)
    assert [output["name"] for output in outputs] == ["probabilities", "explanation"]
    assert np.allclose(np.reshape(outputs[1]["data"], array.shape), array)


def test_a_thief_without_data_loses_his_explanations_within_fifty_rows(
    explaining: Running,
) -> None:
    """Detail goes first, then the map, and no answer says why."""
    generator = np.random.default_rng(0)
    said, mapped, masks = "", 0, 0
    with explaining.client(explaining.named["thief"]) as thief:
        for row in generator.random((50, 28, 28)):
            answer = thief.post(EXPLAIN, json={"instances": [row.tolist()]})
            if answer.status_code != 200:
                said = answer.json()["error"]
                break
            mapped += 1
            masks += len(np.unique(maps_of(answer))) == 2
        status = answer.status_code

    assert status == 403
    assert 0 < mapped < 50
    assert masks > 0
    assert not TALE.search(said)


def test_an_explanation_that_is_withheld_leaves_the_predictions(tmp_path: Any) -> None:
    config = shipped()
    config["models"]["mnist"]["policy"] = [{"name": "none", "explanations": False}]
    with gateway(tmp_path, config) as running, running.client() as client:
        body = {"instances": [[[0.0] * 28] * 28]}
        refused = client.post(EXPLAIN, json=body)
        predicted = client.post("/v1/models/mnist:predict", json=body)

    assert (refused.status_code, predicted.status_code) == (403, 200)
    assert refused.json() == {"error": "explanations are not available to this client"}


def test_a_budget_of_explanations_is_used_up_and_predictions_go_on(
    explaining: Running, rows: np.ndarray
) -> None:
    body = {"instances": rows[:5].tolist()}
    with explaining.client(explaining.named["poor"]) as poor:
        statuses = [poor.post(EXPLAIN, json=body).status_code for _ in range(2)]
        predicted = poor.post("/v1/models/mnist:predict", json=body).status_code

    assert (statuses, predicted) == ([200, 429], 200)


@pytest.mark.parametrize(
    ("model", "asked", "status", "words"),
    [
        ("mnist", {"class": 3}, 403, "only the likeliest class"),
        ("any", {"class": 10}, 400, "class 10 does not exist; this model has 0 to 9"),
        ("any", {"classes": [1, 2]}, 400, "2 classes for 1 rows"),
        ("any", {"method": "shap"}, 400, "method 'shap' is not known here"),
        ("mnist", {"method": "input_x_gradient"}, 400, "is not known here"),
        ("plain", {}, 404, "model 'plain' gives no explanations"),
        ("nobody", {}, 404, "not served here"),
    ],
)
def test_what_is_not_there_is_refused_in_clear_words(
    client: httpx.Client, model: str, asked: dict[str, Any], status: int, words: str
) -> None:
    body = {"instances": [[[0.0] * 28] * 28]} | asked
    answer = client.post(f"/v1/models/{model}:explain", json=body)

    assert answer.status_code == status
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("bodies", "headers", "name"),
    [(PICTURES, PNG, name) for name in PICTURES] + [(JPEGS, JPEG, name) for name in JPEGS],
)
def test_bad_pictures_are_refused_before_anything_is_computed(
    explaining: Running,
    client: httpx.Client,
    bodies: dict[str, tuple[bytes, str]],
    headers: dict[str, str],
    name: str,
) -> None:
    before = explaining.computed()
    body, telling = bodies[name]
    refusal(client.post(EXPLAIN, content=body, headers=headers), 400, telling)

    assert explaining.computed() == before


def test_every_class_can_be_asked_for_where_the_config_says_so(
    client: httpx.Client, rows: np.ndarray
) -> None:
    body = {"instances": rows[:1].tolist()}
    maps = [
        maps_of(client.post("/v1/models/any:explain", json=body | {"class": label}))
        for label in range(10)
    ]

    assert len({m.tobytes() for m in maps}) == 10


def test_a_gateway_before_another_passes_its_explanations_on(
    explaining: Running, client: httpx.Client, rows: np.ndarray
) -> None:
    settings = {
        "url": explaining.url,
        "model": "any",
        "headers": {"X-API-Key": explaining.new_key()},
    }
    victim = UpstreamVictim.model_validate(settings)
    inputs = torch.from_numpy(rows[:3, None])
    try:
        victim.load(SETUP)
        maps = victim.explainer(Explain(), b"key").explain(
            inputs, torch.zeros(3).long(), "upstream"
        )
    finally:
        victim.close()
    direct = client.post("/v1/models/any:explain", json={"instances": rows[:3].tolist()})

    assert np.allclose(maps.values.numpy(), maps_of(direct), atol=1e-6)


def test_too_many_rows_are_refused(client: httpx.Client, rows: np.ndarray) -> None:
    answer = client.post(EXPLAIN, json={"instances": rows[:65].tolist()})

    assert answer.status_code == 413
    assert "at most 64" in answer.json()["error"]
