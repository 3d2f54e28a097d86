"""The Open Inference Protocol over real HTTP: JSON, binary tensors, metadata, health."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e import open_inference as protocol
from tests.e2e.harness import Running

INFER = "/v2/models/plain/infer"
LENGTH = "Inference-Header-Content-Length"


def tensor(rows: np.ndarray, **changes: Any) -> dict[str, Any]:
    """A JSON input tensor of (n, 28, 28) rows, flat."""
    whole = {
        "name": "input",
        "shape": [len(rows), 1, 28, 28],
        "datatype": "FP32",
        "data": rows.ravel().tolist(),
    }
    return whole | changes


def binary_body(rows: np.ndarray, dtype: str = "FP32", **request: Any) -> tuple[bytes, int]:
    """A body with a binary tensor, and the length of its JSON."""
    kinds = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
    data = rows.astype(kinds[dtype]).tobytes()
    described = tensor(rows, datatype=dtype, parameters={"binary_data_size": len(data)})
    del described["data"]
    head = json.dumps({"inputs": [described], **request}).encode()
    return head + data, len(head)


def in_json(response: httpx.Response) -> np.ndarray:
    """The one output of an answer in JSON, checked against the protocol."""
    assert response.status_code == 200, response.text
    answer = response.json()
    protocol.conforms(answer, protocol.INFERENCE)
    (output,) = answer["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


def in_binary(response: httpx.Response) -> np.ndarray:
    """The one output of an answer with a binary tail, checked against the protocol."""
    assert response.status_code == 200, response.text
    length = int(response.headers[LENGTH])
    answer = json.loads(response.content[:length])
    protocol.conforms(answer, protocol.INFERENCE)
    (output,) = answer["outputs"]
    tail = response.content[length:]
    assert response.headers["content-type"] == "application/octet-stream"
    assert output["parameters"]["binary_data_size"] == len(tail)
    kinds = {"FP32": "<f4", "INT64": "<i8"}
    return np.frombuffer(tail, kinds[output["datatype"]]).reshape(output["shape"])


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_json_data_may_be_flat_or_nested(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray, form: str
) -> None:
    data = rows.ravel() if form == "flat" else rows[:, None]
    body = {"inputs": [tensor(rows, data=data.tolist())]}

    answer = in_json(client.post("/v2/models/mnist/infer", json=body))

    assert answer.shape == (100, 10)
    assert (answer.argmax(axis=1) == labels).mean() >= 0.99


@pytest.mark.parametrize("answered", ["json", "binary"])
@pytest.mark.parametrize("asked", ["json", "binary"])
def test_json_and_binary_mix_in_any_way(
    client: httpx.Client, rows: np.ndarray, asked: str, answered: str
) -> None:
    plain = in_json(client.post(INFER, json={"inputs": [tensor(rows)]}))
    outputs = [{"name": "probabilities", "parameters": {"binary_data": answered == "binary"}}]
    if asked == "json":
        response = client.post(INFER, json={"inputs": [tensor(rows)], "outputs": outputs})
    else:
        body, length = binary_body(rows, outputs=outputs)
        response = client.post(INFER, content=body, headers={LENGTH: str(length)})

    answer = in_binary(response) if answered == "binary" else in_json(response)

    assert answer == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
def test_binary_floats_of_every_width_are_read(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray, datatype: str
) -> None:
    body, length = binary_body(rows, datatype)

    answer = in_json(client.post(INFER, content=body, headers={LENGTH: str(length)}))

    assert (answer.argmax(axis=1) == labels).mean() >= 0.99


def test_binary_output_can_be_asked_for_all_outputs_at_once(
    client: httpx.Client, rows: np.ndarray
) -> None:
    body = {"inputs": [tensor(rows)], "parameters": {"binary_data_output": True}}

    assert in_binary(client.post(INFER, json=body)).shape == (100, 10)


def test_one_outputs_own_wish_goes_before_the_wish_for_all(
    client: httpx.Client, rows: np.ndarray
) -> None:
    body = {
        "inputs": [tensor(rows)],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}],
    }

    assert in_json(client.post(INFER, json=body)).shape == (100, 10)


def test_labels_are_integers_in_both_forms(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray
) -> None:
    path = "/v2/models/labels/infer"
    said = in_json(client.post(path, json={"inputs": [tensor(rows)]}))
    body = {"inputs": [tensor(rows)], "parameters": {"binary_data_output": True}}
    sent = in_binary(client.post(path, json=body))

    assert said.dtype.kind == "i"
    assert said.tolist() == sent.tolist()
    assert (said == labels).mean() >= 0.99


def test_the_id_is_echoed(client: httpx.Client, rows: np.ndarray) -> None:
    body = {"id": "order-66/ü", "inputs": [tensor(rows[:1])]}

    assert client.post(INFER, json=body).json()["id"] == "order-66/ü"


def test_without_an_id_none_is_made_up(client: httpx.Client, rows: np.ndarray) -> None:
    assert "id" not in client.post(INFER, json={"inputs": [tensor(rows[:1])]}).json()


def test_unknown_parameters_are_ignored(client: httpx.Client, rows: np.ndarray) -> None:
    odd = {"priority": 3, "sequence_id": "a", "nested": {"a": [1]}}
    body = {
        "inputs": [tensor(rows[:3], parameters=odd)],
        "outputs": [{"name": "probabilities", "parameters": odd}],
        "parameters": odd,
        "something": "else",
    }

    assert in_json(client.post(INFER, json=body)).shape == (3, 10)


def test_the_requested_output_comes_and_no_other(client: httpx.Client, rows: np.ndarray) -> None:
    body = {"inputs": [tensor(rows[:3])], "outputs": [{"name": "probabilities"}]}

    outputs = client.post(INFER, json=body).json()["outputs"]

    assert [output["name"] for output in outputs] == ["probabilities"]


def test_a_version_may_be_named(client: httpx.Client, rows: np.ndarray) -> None:
    body = {"inputs": [tensor(rows[:3])]}
    plain = in_json(client.post(INFER, json=body))

    response = client.post("/v2/models/plain/versions/1/infer", json=body)

    assert in_json(response).tolist() == plain.tolist()
    assert response.json()["model_version"] == "1"


def test_the_server_announces_binary_tensors(running: Running) -> None:
    with running.client() as stranger:
        about = stranger.get("/v2").json()

    protocol.conforms(about, protocol.SERVER_METADATA)

    assert "binary_tensor_data" in about["extensions"]


@pytest.mark.parametrize("path", ["/v2/models/mnist", "/v2/models/mnist/versions/1"])
def test_metadata_tells_the_tensors(client: httpx.Client, path: str) -> None:
    about = client.get(path).json()

    protocol.conforms(about, protocol.MODEL_METADATA)

    assert about["versions"] == ["1"]
    assert about["parameters"] == {"trained_with": "ini"}
    assert about["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 28, 28]}]
    assert about["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]


def test_metadata_of_labels_tells_integers(client: httpx.Client) -> None:
    (output,) = client.get("/v2/models/labels").json()["outputs"]

    assert output == {"name": "label", "datatype": "INT64", "shape": [-1]}


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/v2/health/live", protocol.LIVE),
        ("/v2/health/ready", protocol.READY),
        ("/v2/models/mnist/ready", protocol.MODEL_READY),
        ("/v2/models/mnist/versions/1/ready", protocol.MODEL_READY),
    ],
)
def test_health_needs_no_key(running: Running, path: str, schema: protocol.Schema) -> None:
    with running.client() as stranger:
        response = stranger.get(path)

    protocol.conforms(response.json(), schema)

    assert response.status_code == 200
    assert response.json().get("live", response.json().get("ready")) is True


def test_refusals_have_the_protocols_form(client: httpx.Client) -> None:
    protocol.conforms(client.post(INFER, json={}).json(), protocol.ERROR)


def test_metadata_is_for_those_with_a_key(running: Running) -> None:
    with running.client() as stranger:
        assert stranger.get("/v2/models/mnist").status_code == 401
