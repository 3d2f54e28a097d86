"""A real MLServer behind the gateway: its clients get the same names, shapes and answers from both."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tests.e2e.harness import OPEN, Running, gateway
from tests.e2e.upstream_servers import free_port, wait_until
from tests.environments import environment

pytestmark = pytest.mark.external

RUNTIME = '''
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class SoftmaxLinear(MLModel):
    """Probabilities of a linear classifier; the matrix is drawn from a seed."""

    async def load(self):
        self.matrix = np.random.default_rng(0).standard_normal((6, 4))
        return True

    async def predict(self, payload):
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec).astype(np.float64)
        powers = np.exp(rows @ self.matrix)
        scores = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output("scores", scores)],
        )
'''
MODEL = {
    "name": "linear",
    "implementation": "runtime.SoftmaxLinear",
    "parameters": {"version": "v3"},
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 6]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}],
}


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of ``mlserver start`` with its default worker."""
    # its worker does not start under a newer uvloop
    programs = environment("mlserver", "mlserver==1.7.1", "uvloop<0.22")
    folder = tmp_path_factory.mktemp("mlserver")
    ports = {f"{kind}_port": free_port() for kind in ("http", "grpc", "metrics")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1"} | ports))
    (folder / "model-settings.json").write_text(json.dumps(MODEL))
    (folder / "runtime.py").write_text(RUNTIME)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "mlserver", "start", "."],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )
    address = f"127.0.0.1:{ports['http_port']}"
    try:
        wait_until(lambda: _is_ready(process, address, folder / "log"), "mlserver to become ready")
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def _is_ready(process: "subprocess.Popen[bytes]", address: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        url = f"http://{address}/v2/models/linear/ready"
        return httpx.get(url, trust_env=False, timeout=60).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def front(mlserver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The gateway in front of it, with a defense."""
    victim = {
        "type": "upstream",
        "url": f"http://{mlserver}",
        "model": "linear",
        "model_version": "v3",
    }
    config = OPEN | {"models": {"linear": {"victim": victim, "defenses": [{"type": "rounding"}]}}}
    with gateway(tmp_path_factory.mktemp("front"), config) as running:
        yield running


def infer(address: str, rows: np.ndarray, *, binary: bool) -> tuple[Any, np.ndarray]:
    """What Triton's client gets: the response, and the tensor."""
    tensor = InferInput("pixels", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    outputs = [InferRequestedOutput("scores", binary_data=binary)]
    with InferenceServerClient(address) as client:
        result = client.infer("linear", [tensor], request_id="a", outputs=outputs)
        return result.get_response(), result.as_numpy("scores")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 17])
def test_client_gets_the_same_names_shapes_and_rounded_probabilities(
    mlserver: str, front: Running, binary: bool, count: int
) -> None:
    """In binary too, which MLServer itself does not speak: the gateway asks it in JSON."""
    rows = np.random.default_rng(count).random((count, 6)).astype(np.float32)
    wanted, clean = infer(mlserver, rows, binary=False)
    answered, rounded = infer(f"127.0.0.1:{front.port}", rows, binary=binary)

    for field in ("id", "model_name", "model_version"):
        assert answered[field] == wanted[field]
    assert shapes(answered["outputs"]) == shapes(wanted["outputs"])
    assert rounded.dtype == clean.dtype
    assert np.abs(rounded - clean).max() < 1e-3
    np.testing.assert_allclose(rounded * 1000, np.round(rounded * 1000), atol=1e-3)
    np.testing.assert_array_equal(rounded.argmax(axis=1), clean.argmax(axis=1))


def test_metadata_and_readiness_are_the_same(mlserver: str, front: Running) -> None:
    with (
        InferenceServerClient(mlserver) as direct,
        InferenceServerClient(f"127.0.0.1:{front.port}") as through,
    ):
        wanted, answered = (c.get_model_metadata("linear") for c in (direct, through))

        assert answered["name"] == wanted["name"] == "linear"
        assert shapes(answered["inputs"]) == shapes(wanted["inputs"])
        assert shapes(answered["outputs"]) == shapes(wanted["outputs"])
        for client in (direct, through):
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("linear")


def shapes(tensors: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
    """What a client relies on: name, datatype and shape of each tensor."""
    return [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in tensors]
