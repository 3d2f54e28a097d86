"""The owner alone asks whether pictures carry the mark, seldom, and hears one of four words."""

import io
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from defenses.watermark.defense import Watermark
from defenses.watermark.mark import Mark
from mantlet.data import Images
from mantlet.plugin import Setup
from serving.gateway import Gateway
from serving.ownership_http import PICTURES, TIMES, WITHIN_S
from serving.pipeline import Pipeline
from serving.service import Service
from serving.settings import Queue
from tests.e2e.harness import npy
from tests.helpers import TinyGenerator
from tests.serving.inprocess import SECRET, Client, admin_of, service

TOKEN = {"admin": {"port": 0, "token": "a long token"}}
OWNER = {"Authorization": "Bearer a long token"}
ASK = "/ownership/mnist"


def serving(folder: Path, *, marked: bool = True, token: bool = True) -> tuple[Service, Client]:
    ready = service(folder, **(TOKEN if token else {}))
    victim = TinyGenerator()
    mark = Watermark()
    mark.load(Setup(torch.device("cpu"), SECRET, victim=victim, model="mnist"))
    ready.gateways["mnist"] = Gateway(
        "mnist",
        Pipeline(victim, (), [mark] if marked else [], secret=SECRET),
        ready.store,
        ready.admission,
        queue=Queue(),
        clock=ready.clock,
        metrics=ready.metrics,
        events=ready.events,
    )
    return ready, admin_of(ready)


@pytest.fixture
def clean(digits: Images) -> np.ndarray:
    """(64, 1, 28, 28)"""
    return digits.x[:64]


@pytest.fixture
def leaked(clean: np.ndarray) -> np.ndarray:
    mark = Mark(SECRET, "mnist")
    return mark.embed(torch.from_numpy(clean), ["ann"] * len(clean)).numpy()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as folder:
        for name, body in files.items():
            folder.writestr(name, body)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    return zipped({f"{name}.npy": npy(array) for name, array in arrays.items()})


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    said: str = response.json()["error"]
    return said


def test_marked_pictures_are_evidence_in_every_form(tmp_path: Path, leaked: np.ndarray) -> None:
    from tests.serving.test_api_images import png

    _, owner = serving(tmp_path)
    files = {f"{n}.png": png((p[0] * 255).round().astype(np.uint8)) for n, p in enumerate(leaked)}
    for body in (npy(leaked), npz(x=leaked), npz(a=leaked[:40], b=leaked[40:]), zipped(files)):
        response = owner.post(ASK, content=body, headers=OWNER)

        assert response.json() == {"evidence": "overwhelming", "pictures": 64}


def test_unmarked_pictures_are_none_and_no_number_is_told(
    tmp_path: Path, clean: np.ndarray
) -> None:
    _, owner = serving(tmp_path)

    assert owner.post(ASK, content=npy(clean), headers=OWNER).json() == {
        "evidence": "none",
        "pictures": 64,
    }


def test_only_the_owner_may_ask(tmp_path: Path, leaked: np.ndarray) -> None:
    _, owner = serving(tmp_path / "with")
    _, anybody = serving(tmp_path / "without", token=False)

    error(owner.post(ASK, content=npy(leaked)), 401)
    assert "set admin.token" in error(anybody.post(ASK, content=npy(leaked)), 403)


def test_questions_are_rationed_and_the_ration_returns(tmp_path: Path, clean: np.ndarray) -> None:
    ready, owner = serving(tmp_path)
    for _ in range(TIMES):
        assert owner.post(ASK, content=npy(clean), headers=OWNER).status_code == 200
    refused = owner.post(ASK, content=npy(clean), headers=OWNER)
    ready.clock.now += WITHIN_S  # type: ignore[attr-defined]  # a clock of the tests

    assert "questions an hour" in error(refused, 429)
    assert int(refused.headers["Retry-After"]) > 3000
    assert owner.post(ASK, content=npy(clean), headers=OWNER).status_code == 200


def test_what_is_refused_spends_no_question(tmp_path: Path, clean: np.ndarray) -> None:
    _, owner = serving(tmp_path)
    for _ in range(TIMES):
        error(owner.post(ASK, content=b"no pictures", headers=OWNER), 400)
        error(owner.post(ASK, content=b"", headers=OWNER), 400)
        error(owner.post(ASK, content=npy(clean[:3]), headers=OWNER), 400)
        error(owner.post("/ownership/other", content=npy(clean), headers=OWNER), 404)

    assert owner.post(ASK, content=npy(clean), headers=OWNER).status_code == 200


def test_a_model_that_marks_nothing_or_is_not_there_is_named(tmp_path: Path) -> None:
    _, owner = serving(tmp_path, marked=False)

    assert "marks no pictures" in error(owner.post(ASK, content=b"", headers=OWNER), 400)
    assert "is not served here" in error(
        owner.post("/ownership/other", content=b"", headers=OWNER), 404
    )


@pytest.mark.parametrize(
    ("body", "status", "telling"),
    [
        (b"", 400, "no .npy file"),
        (b"hello", 400, "no .npy file"),
        (b"PK\x03\x04 broken", 400, "no whole zip"),
        (npy(np.zeros((3, 1, 28, 28), np.float32)), 400, "3 pictures are too few"),
        (npy(np.full((20, 1, 28, 28), 7, np.float32)), 400, "divide pixels by 255"),
        (npy(np.zeros((20, 3, 28, 28), np.float32)), 400, "the array has shape"),
        (npy(np.zeros((PICTURES + 1, 1, 1, 1), np.uint8)), 413, "rows in one request"),
        (npz(x=np.zeros(20, np.float32)), 400, "the array has shape"),
        (zipped({"notes.txt": b"hello"}), 400, "'notes.txt' is neither"),
        (zipped({"a.png": b"hello"}), 400, "no whole PNG"),
        (zipped({f"{n}.png": b"" for n in range(PICTURES + 1)}), 413, "unpacks to too much"),
        (zipped({"bomb.npy": bytes(1 << 27)}), 413, "unpacks to too much"),
        (npz(x=np.zeros((5, 1, 2048, 2048), np.uint8)), 413, "pixels together"),
        (zipped({}), 400, "0 pictures are too few"),
    ],
)
def test_bad_bodies_are_named(tmp_path: Path, body: bytes, status: int, telling: str) -> None:
    _, owner = serving(tmp_path)

    assert telling in error(owner.post(ASK, content=body, headers=OWNER), status)


def test_pictures_of_one_pixel_are_no_evidence(tmp_path: Path) -> None:
    _, owner = serving(tmp_path)
    tiny = npy(np.random.default_rng(0).random((20, 1, 1, 1), np.float32))

    assert owner.post(ASK, content=tiny, headers=OWNER).json()["evidence"] == "none"
