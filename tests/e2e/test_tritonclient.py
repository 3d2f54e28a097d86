"""Triton's own HTTP client, unchanged, in front of the gateway."""

from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.e2e.harness import Running


@pytest.fixture
def triton(running: Running) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{running.port}") as client:
        yield client


@pytest.fixture
def key(running: Running) -> dict[str, str]:
    return {"X-API-Key": running.new_key()}


def test_health_is_seen(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("mnist")
    assert triton.is_model_ready("mnist", model_version="1")
    assert not triton.is_model_ready("nobody")


def test_metadata_is_read(triton: InferenceServerClient, key: dict[str, str]) -> None:
    server = triton.get_server_metadata(headers=key)
    model = triton.get_model_metadata("mnist", headers=key)

    assert server["name"] == "mantlet"
    assert model["inputs"][0]["shape"] == [-1, 1, 28, 28]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infers_in_json_and_binary(
    triton: InferenceServerClient,
    key: dict[str, str],
    rows: np.ndarray,
    labels: np.ndarray,
    binary_in: bool,
    binary_out: bool | None,
) -> None:
    tensor = InferInput("input", [100, 1, 28, 28], "FP32")
    tensor.set_data_from_numpy(rows[:, None], binary_data=binary_in)
    outputs = None
    if binary_out is not None:
        outputs = [InferRequestedOutput("probabilities", binary_data=binary_out)]

    result = triton.infer("mnist", [tensor], request_id="7", outputs=outputs, headers=key)
    answer = result.as_numpy("probabilities")

    assert answer.shape == (100, 10)
    assert (answer.argmax(axis=1) == labels).mean() >= 0.99
    assert result.get_response()["id"] == "7"


def test_a_refusal_is_shown_as_the_servers_words(
    triton: InferenceServerClient, rows: np.ndarray
) -> None:
    tensor = InferInput("input", [1, 1, 28, 28], "FP32")
    tensor.set_data_from_numpy(rows[:1, None])

    with pytest.raises(InferenceServerException, match="an API key is needed"):
        triton.infer("mnist", [tensor])
