"""The V1 protocol, and pictures and arrays for people, over real HTTP."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.harness import MODELS, Running, npy

PREDICT = "/v1/models/mnist:predict"
NPY = {"Content-Type": "application/x-npy"}


def told(response: httpx.Response) -> np.ndarray:
    """(n, 10) probabilities of an answer."""
    assert response.status_code == 200, response.text
    return np.array(response.json()["predictions"])


def picture(row: np.ndarray, kind: str, mode: str = "L") -> bytes:
    """A (28, 28) row as the bytes of a picture file."""
    stream = io.BytesIO()
    image = Image.fromarray((row * 255).round().astype(np.uint8))
    image.convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (784,)], ids=["28x28", "1x28x28", "flat"])
def test_json_instances_of_every_shape_are_told_right(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]
) -> None:
    instances = rows.reshape(len(rows), *shape).tolist()

    answer = told(client.post(PREDICT, json={"instances": instances}))

    assert answer.shape == (100, 10)
    assert (answer.argmax(axis=1) == labels).mean() >= 0.99
    assert np.abs(answer.sum(axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_posted_picture_is_read(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray, kind: str, mode: str
) -> None:
    headers = {"Content-Type": f"image/{kind.lower()}"}
    said = [
        told(client.post(PREDICT, content=picture(row, kind, mode), headers=headers)).argmax()
        for row in rows[:20]
    ]

    assert said == labels[:20].tolist()


def test_the_shipped_digit_is_a_seven(client: httpx.Client) -> None:
    body = (MODELS / "digit-7.png").read_bytes()

    answer = told(client.post(PREDICT, content=body, headers={"Content-Type": "image/png"}))

    assert answer.argmax() == 7


@pytest.mark.parametrize("fortran", [False, True], ids=["C", "Fortran"])
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "uint8"])
def test_an_npy_body_is_read_whatever_its_numbers_and_order(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray, dtype: str, fortran: bool
) -> None:
    array = (rows * 255).round() if dtype == "uint8" else rows
    array = array.astype(dtype, order="F" if fortran else "C")

    answer = told(client.post(PREDICT, content=npy(array), headers=NPY))

    assert (answer.argmax(axis=1) == labels).mean() >= 0.99


def test_a_single_row_may_come_without_a_batch_axis(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray
) -> None:
    answer = told(client.post(PREDICT, content=npy(rows[3]), headers=NPY))

    assert answer.argmax(axis=1).tolist() == [labels[3]]


def test_a_body_without_content_type_is_json(client: httpx.Client, rows: np.ndarray) -> None:
    body = httpx.Request("POST", "http://x", json={"instances": rows[:2].tolist()}).content
    request = client.build_request("POST", PREDICT, content=body)

    assert "content-type" not in request.headers
    assert told(client.send(request)).shape == (2, 10)


def test_curls_default_content_type_is_json_too(client: httpx.Client, rows: np.ndarray) -> None:
    body = httpx.Request("POST", "http://x", json={"instances": rows[:2].tolist()}).content
    headers = {"Content-Type": "application/x-www-form-urlencoded"}

    assert told(client.post(PREDICT, content=body, headers=headers)).shape == (2, 10)


def test_all_forms_of_one_row_get_one_answer(client: httpx.Client, rows: np.ndarray) -> None:
    path, row = "/v1/models/plain:predict", rows[7]
    pixels = (row * 255).round().astype(np.uint8)

    answers = [
        told(client.post(path, json={"instances": [row.tolist()]})),
        told(client.post(path, json={"instances": [row.ravel().tolist()]})),
        told(client.post(path, content=npy(row), headers=NPY)),
        told(client.post(path, content=npy(pixels), headers=NPY)),
        told(
            client.post(
                path, content=picture(row, "PNG"), headers={"Content-Type": "image/png; q=1"}
            )
        ),
    ]

    assert max(np.abs(answer - answers[0]).max() for answer in answers) < 1e-5


def test_accept_npy_gives_an_npy_answer(client: httpx.Client, rows: np.ndarray) -> None:
    path = "/v1/models/plain:predict"
    as_json = told(client.post(path, json={"instances": rows.tolist()}))

    response = client.post(path, content=npy(rows), headers=NPY | {"Accept": NPY["Content-Type"]})
    answer = np.load(io.BytesIO(response.content), allow_pickle=False)

    assert response.headers["content-type"] == "application/x-npy"
    assert answer.dtype == np.float32
    assert answer == pytest.approx(as_json, abs=1e-6)


def test_label_form_gives_whole_numbers(
    client: httpx.Client, rows: np.ndarray, labels: np.ndarray
) -> None:
    path = "/v1/models/labels:predict"
    said = client.post(path, json={"instances": rows.tolist()}).json()["predictions"]
    array = client.post(path, content=npy(rows), headers=NPY | {"Accept": NPY["Content-Type"]})

    assert {type(label) for label in said} == {int}
    assert np.mean(said == labels) >= 0.99
    assert np.load(io.BytesIO(array.content), allow_pickle=False).tolist() == said


def test_models_are_listed_with_their_status(running: Running) -> None:
    with running.client() as stranger:
        names = stranger.get("/v1/models").json()["models"]
        status = stranger.get("/v1/models/mnist")

    assert names == ["busy", "denying", "labels", "mnist", "plain"]
    assert (status.status_code, status.json()) == (200, {"name": "mnist", "ready": True})


def test_v1_liveness_is_told_at_the_root(running: Running) -> None:
    with running.client() as stranger:
        assert stranger.get("/").json() == {"status": "alive"}
