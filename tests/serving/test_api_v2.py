"""The V2 protocol around a tiny victim; real models, clients and HTTP are in tests/e2e."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e import open_inference as protocol
from tests.helpers import rows
from tests.serving.inprocess import Client, client_of, load, service

PATH = "/v2/models/mnist/infer"
LENGTH = "Inference-Header-Content-Length"
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    ready = service(tmp_path_factory.mktemp("ready"))
    load(ready)
    return client_of(ready)


def tensor(count: int = 2, **changes: Any) -> dict[str, Any]:
    data = rows(count).ravel().tolist()
    return {"name": "input", "shape": [count, 1, 4, 4], "datatype": "FP32", "data": data} | changes


def test_binary_and_json_answers_are_the_same_numbers(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    client = client_of(ready)
    said = client.post(PATH, json={"inputs": [tensor()]}).json()["outputs"][0]
    wish = {"binary_data_output": True}
    response = client.post(PATH, json={"inputs": [tensor()], "parameters": wish})
    tail = response.content[int(response.headers[LENGTH]) :]

    assert np.frombuffer(tail, "<f4").tolist() == pytest.approx(said["data"], abs=1e-7)
    assert said["shape"] == [2, 5]


def test_the_whole_answer_is_as_the_protocol_says(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    answer = client_of(ready).post(PATH, json={"id": "7", "inputs": [tensor()]}).json()

    protocol.conforms(answer, protocol.INFERENCE)

    assert list(answer) == ["model_name", "model_version", "id", "outputs"]


def test_the_metadata_say_how_the_weights_were_trained_to_resist(tmp_path: Path) -> None:
    ready = service(tmp_path)
    victim = load(ready)
    plain = client_of(ready).get("/v2/models/mnist").json()
    victim.trained_with = "ini"
    trained = client_of(ready).get("/v2/models/mnist").json()

    assert "parameters" not in plain
    assert trained == plain | {"parameters": {"trained_with": "ini"}}


@given(part=st.sampled_from(["name", "shape", "datatype", "data", "parameters"]), value=ODD)
def test_a_tensor_with_an_odd_part_is_refused_or_read(
    client: Client, part: str, value: object
) -> None:
    body = json.dumps({"inputs": [tensor(1, **{part: value})]})
    response = client.post(PATH, content=body)

    assert response.status_code in (200, 400, 413)
    if part != "parameters":
        assert response.status_code != 200


@given(part=st.sampled_from(["id", "inputs", "outputs", "parameters"]), value=ODD)
def test_a_request_with_an_odd_part_is_refused_or_read(
    client: Client, part: str, value: object
) -> None:
    body = json.dumps({"inputs": [tensor(1)]} | {part: value})

    assert client.post(PATH, content=body).status_code in (200, 400)


@given(length=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30))
def test_any_json_length_is_refused_or_read(client: Client, length: str) -> None:
    headers = {LENGTH: length.encode("latin-1")}
    response = client.post(PATH, json={"inputs": [tensor(1)]}, headers=headers)

    assert response.status_code in (200, 400)


@pytest.mark.parametrize("part", ["name", "datatype", "shape"])
def test_errors_show_little_of_what_was_sent(client: Client, part: str) -> None:
    body = {"inputs": [tensor(1, **{part: ["x" * 10_000] * 100})]}

    assert len(client.post(PATH, json=body).text) < 300


def test_the_served_model_comes_with_the_victims_names(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    about = client_of(ready).get("/v2/models/mnist").json()

    protocol.conforms(about, protocol.MODEL_METADATA)

    assert about["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    assert about["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 5]}]


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/mnist/ready"])
def test_while_it_drains_it_is_not_ready(tmp_path: Path, path: str) -> None:
    ready = service(tmp_path)
    load(ready)
    client = client_of(ready)
    before = client.get(path)
    ready.draining = True
    after = client.get(path)

    assert (before.status_code, after.status_code) == (200, 503)
    assert after.json()["ready"] is False
    assert client.get("/v2/health/live").json() == {"live": True}
