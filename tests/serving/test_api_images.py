"""Generators and translators over HTTP, with networks that others trained."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from defenses.jpeg import Jpeg
from serving.policy import Level
from serving.service import Service
from serving.settings import Queue
from serving.victims.onnx import OnnxVictim
from tests.e2e.harness import npy
from tests.helpers import SETUP
from tests.serving.inprocess import Client, client_of, load, service

MODELS = Path(__file__).parents[1] / "data/models"
NPY = {"Content-Type": "application/x-npy"}
MAKE, TURN = "/v1/models/mnist:generate", "/v1/models/mnist:translate"


def victim(file: str, **settings: Any) -> OnnxVictim:
    made = OnnxVictim.model_validate({"weights": MODELS / file} | settings)
    made.load(SETUP)
    return made


def generator() -> OnnxVictim:
    return victim("mnist_gan_mlp_csinva.onnx", task="generate", output_range=(-1, 1))


def translator(**settings: Any) -> OnnxVictim:
    return victim("sr_fsrcnn_x2.onnx", task="translate", **settings)


def serving(folder: Path, made: OnnxVictim, **parts: Any) -> tuple[Service, Client]:
    ready = service(folder)
    load(ready, victim=made, queue=Queue(max_rows_per_request=16), **parts)
    return ready, client_of(ready)


def png(pixels: np.ndarray, mode: str | None = None, **saving: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG", **saving)
    return buffer.getvalue()


def grey(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    said: str = response.json()["error"]
    return said


def test_a_seed_gives_the_same_pictures_again(tmp_path: Path) -> None:
    _, client = serving(tmp_path, generator())
    first, again, other = (client.post(MAKE, json={"n": 3, "seed": s}).json() for s in (7, 7, 8))

    assert np.shape(first["predictions"]) == (3, 1, 28, 28)
    assert first == again
    assert first["predictions"] != other["predictions"]


def test_without_a_seed_the_answer_names_the_one_it_took(tmp_path: Path) -> None:
    _, client = serving(tmp_path, generator())
    fresh = client.post(MAKE)
    seed = fresh.json()["seed"]

    assert int(fresh.headers["x-mantlet-seed"]) == seed
    assert client.post(MAKE, json={"seed": seed}).json() == fresh.json()


def test_two_clients_get_other_pictures_of_the_same_seed(tmp_path: Path) -> None:
    ready, client = serving(tmp_path, generator())
    keys = [ready.admission._keys.create(name, "default", 0.0)[0] for name in ("a", "b")]
    one, two = (
        client.post(MAKE, json={"seed": 1}, headers={"X-API-Key": key}).json() for key in keys
    )

    assert one["predictions"] != two["predictions"]


def test_latents_of_ones_own_go_through_the_model(tmp_path: Path) -> None:
    made = generator()
    _, client = serving(tmp_path, made)
    latents = made.probe(2)
    said = client.post(MAKE, json={"latents": latents.tolist()}).json()

    assert "seed" not in said
    assert np.allclose(said["predictions"], made.predict(latents).values, atol=1e-5)


def test_a_level_may_close_latents_of_ones_own(tmp_path: Path) -> None:
    made = generator()
    _, client = serving(tmp_path, made, levels=[Level(name="all", latents=False)])
    rows = made.probe(1)
    tensor = {"name": "z", "shape": [1, 64], "datatype": "FP32", "data": rows.flatten().tolist()}
    answers = [
        client.post(MAKE, json={"latents": rows.tolist()}),
        client.post(MAKE, content=npy(rows.numpy()), headers=NPY),
        client.post("/v2/models/mnist/infer", json={"inputs": [tensor]}),
    ]

    assert [error(a, 403) for a in answers] == ["latents are not taken here; send n and seed"] * 3
    assert client.post(MAKE, json={"n": 1}).status_code == 200


def test_v2_takes_latents_and_answers_pictures(tmp_path: Path) -> None:
    made = generator()
    _, client = serving(tmp_path, made)
    about = client.get("/v2/models/mnist").json()
    rows = made.probe(2)
    tensor = {"name": "z", "shape": [2, 64], "datatype": "FP32", "data": rows.flatten().tolist()}
    said = client.post("/v2/models/mnist/infer", json={"inputs": [tensor]}).json()["outputs"][0]

    assert about["parameters"] == {"task": "generate"}
    assert about["outputs"][0]["shape"] == [-1, 1, 28, 28]
    assert said["shape"] == [2, 1, 28, 28]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png", "image/png"),
        ("application/zip", "application/zip"),
        ("application/x-npy", "application/x-npy"),
    ],
)
def test_pictures_come_as_they_are_asked_for(tmp_path: Path, accept: str, kind: str) -> None:
    _, client = serving(tmp_path, generator())
    response = client.post(MAKE, json={"n": 4, "seed": 1}, headers={"Accept": accept})

    assert response.headers["content-type"] == kind
    assert response.headers["x-mantlet-seed"] == "1"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"n": 1_000_000}, 413, "at most 16"),
        ({"n": 0}, 400, "'n' is 0"),
        ({"n": True}, 400, "'n' is True"),
        ({"n": 10**31 + 7}, 400, "'n' is too large; wanted a whole number from 1"),
        ({"seed": 10**20}, 400, "'seed' is too large"),
        ({"seed": -(10**20)}, 400, "'seed' is too small"),
        ({"n": "many"}, 400, "whole number"),
        ({"seed": 1.5}, 400, "'seed' is 1.5"),
        ({"seed": -1}, 400, "from 0"),
        ({"seed": 2**53}, 400, "'seed'"),
        ({"seed": "a"}, 400, "'seed'"),
        ({"count": 3}, 400, "'count' is not taken"),
        ({"n": 1, "latents": [[0.0] * 64]}, 400, "neither n nor seed"),
        ({"latents": []}, 400, "no rows"),
        ({"latents": [[0.0] * 63]}, 400, "shape [63]"),
        ({"latents": [[7.9] * 64]}, 400, "norm"),
        ({"latents": [[1e9] * 64]}, 400, "-8.0 to 8.0 (send rows drawn from a standard normal)"),
        ({"latents": [["a"] * 64]}, 400, "a number is wanted"),
        ({"latents": [[0.0] * 64] * 17}, 413, "at most 16"),
    ],
)
def test_bad_wishes_get_one_clear_error(
    tmp_path: Path, body: dict[str, Any], status: int, said: str
) -> None:
    _, client = serving(tmp_path, generator())

    assert said in error(client.post(MAKE, json=body), status)


def test_nan_is_no_latent(tmp_path: Path) -> None:
    _, client = serving(tmp_path, generator())
    buffer = io.BytesIO()
    np.save(buffer, np.full((1, 64), np.nan, np.float32))

    assert "not all finite" in error(client.post(MAKE, content=buffer.getvalue(), headers=NPY), 400)


def test_a_model_is_asked_for_what_it_does(tmp_path: Path) -> None:
    _, client = serving(tmp_path, generator())

    assert "POST mnist:generate" in error(client.post(TURN, content=png(grey(8, 8))), 400)
    assert "POST mnist:generate" in error(
        client.post("/v1/models/mnist:predict", json={"instances": [[0.0] * 64]}), 400
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (28, 40), (300, 270)])
def test_pictures_of_any_size_come_back_twice_as_large(
    tmp_path: Path, height: int, width: int
) -> None:
    _, client = serving(tmp_path, translator())
    response = client.post(
        TURN, content=png(grey(height, width)), headers={"Content-Type": "image/png"}
    )

    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (2 * width, 2 * height)


def test_a_large_picture_is_the_same_in_tiles(tmp_path: Path) -> None:
    inputs = translator().probe(1).repeat(1, 1, 5, 5)
    whole, tiled = translator(tile=512), translator(tile=64, overlap=16)

    assert np.allclose(whole.predict(inputs).values, tiled.predict(inputs).values, atol=1e-5)


def test_colour_keeps_its_hues_where_the_model_knows_brightness_alone(tmp_path: Path) -> None:
    _, client = serving(tmp_path, translator(luma=True))
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    response = client.post(TURN, content=png(red), headers={"Content-Type": "image/png"})
    shown = np.asarray(Image.open(io.BytesIO(response.content)))

    assert shown.shape == (32, 32, 3)
    assert abs(shown[8:-8, 8:-8].astype(int) - [200, 0, 0]).max() < 30


def test_rows_of_several_sizes_are_answered_each_in_its_own(tmp_path: Path) -> None:
    made = translator()
    ready, _ = serving(tmp_path, made)
    gateway = ready.gateways["mnist"]
    client = ready.admission.identify(
        ready.admission._keys.create("a", "default", 0.0)[0], "here", 0.0
    )
    from serving.gateway import Job

    jobs = [
        Job(client, np.zeros((n, 1, side, 6), np.float32)) for n, side in ((1, 4), (2, 8), (1, 4))
    ]
    answers = gateway._work(jobs)

    assert [a.values.shape for a in answers] == [(1, 1, 8, 12), (2, 1, 16, 12), (1, 1, 8, 12)]  # type: ignore[union-attr]


def test_pixels_are_a_budget_of_their_own(tmp_path: Path) -> None:
    ready = service(tmp_path, tiers={"default": {"pixels": "1000/day"}, "free": {}})
    load(ready, victim=translator())
    client = client_of(ready)
    kind = {"Content-Type": "image/png"}
    answers = [client.post(TURN, content=png(grey(24, 24)), headers=kind) for _ in range(2)]

    assert answers[0].status_code == 200
    assert "576 pixels asked, 424 of" in error(answers[1], 429)


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(grey(8, 8)) for _ in range(2)]
    frames[1].putpixel((0, 0), 3)
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


def deep() -> bytes:
    """A PNG of 16 bits a channel in colour, of which Pillow writes none."""
    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(7))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BAD_PICTURES: dict[str, tuple[bytes, str, int, str]] = {
    "thirty megapixels": (png(np.zeros((5000, 6000), np.uint8)), "image/png", 413, "30000000"),
    "sixteen bits of colour": (deep(), "image/png", 400, "16 bits a channel"),
    "sixteen bits": (png(np.zeros((8, 8), np.uint16)), "image/png", 400, "mode I;16"),
    "CMYK": (cmyk(), "image/jpeg", 400, "mode CMYK"),
    "alpha": (png(np.zeros((8, 8, 4), np.uint8)), "image/png", 400, "transparent"),
    "animated": (animated(), "image/png", 400, "animated"),
    "truncated": (png(grey(64, 64))[:900], "image/png", 400, "no whole PNG"),
    "text": (b"hello", "image/png", 400, "no whole PNG"),
    "bomb": (png(np.zeros((20_000, 20_000), np.uint8)), "image/png", 400, "far too many pixels"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures_get_one_clear_error(tmp_path: Path, name: str) -> None:
    body, kind, status, said = BAD_PICTURES[name]
    _, client = serving(tmp_path, translator())

    assert said in error(client.post(TURN, content=body, headers={"Content-Type": kind}), status)


def test_json_and_npy_rows_may_be_of_any_size(tmp_path: Path) -> None:
    _, client = serving(tmp_path, translator())
    rows = np.zeros((2, 1, 5, 3), np.float32)
    buffer = io.BytesIO()
    np.save(buffer, rows)
    nested = client.post(TURN, content=json.dumps({"instances": rows.tolist()}))
    packed = client.post(
        TURN, content=buffer.getvalue(), headers=NPY | {"Accept": "application/x-npy"}
    )

    assert np.shape(nested.json()["predictions"]) == (2, 1, 10, 6)
    assert np.load(io.BytesIO(packed.content)).shape == (2, 1, 10, 6)


def test_answers_come_in_the_kind_of_the_question(tmp_path: Path) -> None:
    _, client = serving(tmp_path, translator())
    picture, buffer = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey(8, 8)).save(picture, "JPEG")
    np.save(buffer, np.zeros((1, 1, 4, 4), np.float32))
    bodies = {"image/jpeg": picture.getvalue(), "application/x-npy": buffer.getvalue()}
    kinds = {
        kind: client.post(TURN, content=body, headers={"Content-Type": kind}).headers[
            "content-type"
        ]
        for kind, body in bodies.items()
    }

    assert kinds == {kind: kind for kind in bodies}


def test_every_form_is_answered_behind_jpeg(tmp_path: Path) -> None:
    defense = Jpeg(quality=60)
    _, client = serving(tmp_path, translator(luma=True), defenses=[defense])
    rows = np.full((1, 3, 8, 8), 0.5, np.float32)
    tensor = {"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32"}
    said = client.post(TURN, json={"instances": rows.tolist()})
    infer = client.post(
        "/v2/models/mnist/infer", json={"inputs": [tensor | {"data": rows.ravel().tolist()}]}
    )

    assert (said.status_code, infer.status_code) == (200, 200), infer.text
    assert np.allclose(
        np.ravel(said.json()["predictions"]), infer.json()["outputs"][0]["data"], atol=1e-6
    )


def test_large_pictures_weigh_more_in_the_queue(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready, victim=translator(), queue=Queue(max_queue_rows=4, pixels_a_row=64))
    client = client_of(ready)
    kind = {"Content-Type": "image/png"}

    assert client.post(TURN, content=png(grey(16, 16)), headers=kind).status_code == 200
    assert client.post(TURN, content=png(grey(16, 17)), headers=kind).status_code == 503
