"""Models that make pictures, served, asked by a client that others wrote, and proxied to."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
import yaml
from PIL import Image

from serving.victims.upstream import UpstreamVictim
from tests.e2e.harness import ROOT, Running, gateway
from tests.helpers import SETUP

MODELS = ROOT / "tests/data/models"
GENERATOR: dict[str, Any] = {
    "type": "onnx",
    "weights": str(MODELS / "mnist_gan_mlp_csinva.onnx"),
    "task": "generate",
    "output_range": [-1, 1],
}
TRANSLATOR: dict[str, Any] = {
    "type": "onnx",
    "weights": str(MODELS / "sr_fsrcnn_x2.onnx"),
    "task": "translate",
}
_RAW = yaml.safe_load((ROOT / "configs/gateway/superres.yaml").read_text())
SHIPPED: dict[str, Any] = _RAW["models"]["superres"]["victim"]
SHIPPED |= {"weights": str(ROOT / "configs/gateway" / SHIPPED["weights"])}


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = {"gan": GENERATOR, "sr": TRANSLATOR, "colour": SHIPPED}
    config = {
        "identity": {"open": True},
        "models": {name: {"victim": victim} for name, victim in models.items()},
    }
    with gateway(tmp_path_factory.mktemp("painting"), config) as running:
        yield running


def latents(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 64)).astype(np.float32)


def test_tritonclient_asks_a_generator(painting: Running) -> None:
    client = triton.InferenceServerClient(painting.url.removeprefix("http://"))
    given = triton.InferInput("z", [3, 64], "FP32")
    given.set_data_from_numpy(latents(3))
    answer = client.infer("gan", [given]).as_numpy("image")
    client.close()

    assert answer is not None
    assert answer.shape == (3, 1, 28, 28)
    assert 0 <= answer.min() < 0.1
    assert 0.9 < answer.max() <= 1


def test_a_sheet_of_digits_comes_as_a_picture(painting: Running) -> None:
    wish = {"n": 16, "seed": 1}
    with painting.client() as client:
        response = client.post(
            "/v1/models/gan:generate", json=wish, headers={"Accept": "image/png"}
        )
    sheet = Image.open(io.BytesIO(response.content))

    assert sheet.size == (4 * 28 + 3 * 2, 4 * 28 + 3 * 2)
    assert 20 < np.asarray(sheet).mean() < 80


@pytest.mark.parametrize("model", ["sr", "colour"])
def test_a_picture_is_enlarged_and_stays_what_it_was(painting: Running, model: str) -> None:
    picture = Image.open(ROOT / "configs/models/cat.png").convert("L" if model == "sr" else "RGB")
    small, buffer = picture.resize((24, 24), Image.Resampling.BICUBIC), io.BytesIO()
    small.save(buffer, "PNG")
    with painting.client() as client:
        response = client.post(
            f"/v1/models/{model}:translate",
            content=buffer.getvalue(),
            headers={"Content-Type": "image/png"},
        )
    large = np.asarray(Image.open(io.BytesIO(response.content)), np.float32)
    simple = np.asarray(small.resize((48, 48), Image.Resampling.NEAREST), np.float32)
    wanted = np.asarray(picture, np.float32)

    assert large.shape == wanted.shape
    assert np.square(large - wanted).mean() < 0.6 * np.square(simple - wanted).mean()


def test_sizes_side_by_side_do_not_disturb_each_other(painting: Running) -> None:
    bodies = [np.zeros((1, 1, side, side), np.float32) for side in (4, 9, 4, 30)]

    def ask(client: httpx.Client, rows: np.ndarray) -> tuple[int, ...]:
        said = client.post("/v1/models/sr:translate", json={"instances": rows.tolist()})
        return np.shape(said.json()["predictions"])

    with painting.client() as client, ThreadPoolExecutor(4) as threads:
        shapes = list(threads.map(lambda rows: ask(client, rows), bodies * 5))

    assert shapes == [(1, 1, 2 * side, 2 * side) for side in (4, 9, 4, 30)] * 5


@pytest.mark.parametrize("settings", [{}, {"binary": "never"}])
def test_a_generator_behind_our_own_gateway_answers_like_itself(
    painting: Running, settings: dict[str, Any]
) -> None:
    about = {"url": painting.url, "model": "gan", "task": "generate"}
    victim = UpstreamVictim.model_validate(about | settings)
    rows = torch.from_numpy(latents(3))
    try:
        victim.load(SETUP)
        answer = victim.predict(rows)
        shape = victim.output_shape
    finally:
        victim.close()
    with painting.client() as client:
        wanted = client.post("/v1/models/gan:generate", json={"latents": rows.tolist()}).json()

    assert shape == (1, 28, 28)
    assert np.allclose(answer.values, wanted["predictions"], atol=1e-5)


def test_a_translator_behind_our_own_gateway_takes_any_size(painting: Running) -> None:
    victim = UpstreamVictim.model_validate(
        {"url": painting.url, "model": "sr", "task": "translate", "scale": 2, "luma": True}
    )
    try:
        victim.load(SETUP)
        shapes = [victim.predict(torch.rand(1, 3, h, w)).values.shape for h, w in ((7, 9), (20, 4))]
    finally:
        victim.close()

    assert shapes == [(1, 3, 14, 18), (1, 3, 40, 8)]
