"""The V1 protocol around a tiny victim; real models and real HTTP are in tests/e2e."""

import io
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import TinyVictim, rows
from tests.serving.inprocess import client_of, load, service

PATH = "/v1/models/mnist:predict"
NPY = {"Content-Type": "application/x-npy"}


def test_rows_are_answered_as_the_victim_does(tmp_path: Path) -> None:
    ready = service(tmp_path)
    victim = load(ready)
    inputs = rows(3)
    said = client_of(ready).post(PATH, json={"instances": inputs.tolist()}).json()

    assert said["predictions"] == pytest.approx(victim.predict(inputs).values.numpy(), abs=1e-6)


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    ready = service(tmp_path)
    victim = load(ready, answer="labels")
    said = client_of(ready).post(PATH, json={"instances": rows(3).tolist()}).json()

    assert said["predictions"] == victim.predict(rows(3)).values.argmax(dim=1).tolist()


def test_an_npy_answer_holds_no_pickle(tmp_path: Path) -> None:
    ready = service(tmp_path)
    load(ready)
    response = client_of(ready).post(
        PATH, json={"instances": rows(3).tolist()}, headers={"Accept": "a/b, application/x-npy"}
    )

    assert np.load(io.BytesIO(response.content), allow_pickle=False).shape == (3, 5)


def test_the_bodys_rows_are_bounded_by_the_models_queue(tmp_path: Path) -> None:
    ready = service(tmp_path)
    victim = load(ready)
    response = client_of(ready).post(PATH, json={"instances": rows(9).tolist()})

    assert response.status_code == 413
    assert "at most 8 are taken" in response.json()["error"]
    assert victim.batches == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("", 200),
        ("application/jsonp", 415),
        ("text/plain", 415),
        ("multipart/form-data; boundary=a", 415),
    ],
)
def test_media_types_are_told_apart(tmp_path: Path, kind: str, status: int) -> None:
    ready = service(tmp_path)
    load(ready)
    body = b'{"instances": [[' + b",".join([b"0"] * 16) + b"]]}"
    response = client_of(ready).post(PATH, content=body, headers={"Content-Type": kind})

    assert response.status_code == status


def test_a_model_that_is_not_loaded_yet_says_so(tmp_path: Path) -> None:
    waiting = service(tmp_path)
    client = client_of(waiting)
    asked = client.post(PATH, json={})
    status = client.get("/v1/models/mnist")

    assert (asked.status_code, status.status_code) == (503, 503)
    assert asked.json() == {"error": "model 'mnist' is not ready yet"}
    assert status.json() == {"name": "mnist", "ready": False}
    assert asked.headers["retry-after"] == status.headers["retry-after"] == "1"


def test_one_model_is_ready_while_another_still_loads(tmp_path: Path) -> None:
    waiting = service(tmp_path)
    two = {**waiting.settings.models, "other": waiting.settings.models["mnist"]}
    waiting.settings = waiting.settings.model_copy(update={"models": two})
    load(waiting)
    client = client_of(waiting)

    assert client.get("/v1/models/mnist").json() == {"name": "mnist", "ready": True}
    assert client.get("/v1/models/other").status_code == 503
    assert client.get("/v2/models/mnist/ready").status_code == 200
    assert client.get("/v2/health/ready").status_code == 503


def test_no_answer_is_made_of_a_malformed_request(tmp_path: Path) -> None:
    ready = service(tmp_path)
    victim = load(ready, victim=TinyVictim())
    client = client_of(ready)
    for body in (b"", b"{", b"[]", b'{"instances": 1}', b'{"instances": [[1]]}'):
        assert client.post(PATH, content=body).status_code == 400

    assert victim.batches == []
