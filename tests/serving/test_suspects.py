"""Pictures of a suspect, whatever it is; what holds and makes none is named."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mantlet import architectures, weights
from mantlet.errors import ConfigError, VictimError, WeightsError
from serving.suspects import Opening, first, pictures_of
from serving.victims.onnx import OnnxVictim
from tests.e2e.harness import GENERATOR, PLAIN, gateway
from tests.e2e.upstream_servers import HostileServer, saying
from tests.helpers import SETUP

LIE = b"\x93NUMPY\1\0\x46\0{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000,)}\n"
GAN = Path(GENERATOR["victim"]["weights"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of pictures in several forms and sizes, and of other things."""
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / f"{number}.png")
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "colour.JPG")
    Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).convert("RGBA").save(
        tmp_path / "z.png"
    )
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_is_read_as_it_comes(folder: Path) -> None:
    batches = list(pictures_of(str(folder), 100))

    assert [tuple(batch.shape) for batch in batches[4:]] == [
        (1, 1, 28, 28),
        (1, 3, 20, 30),
        (1, 3, 20, 30),
    ]
    assert all(0 <= float(batch.min()) < float(batch.max()) <= 1 for batch in batches)
    assert sum(map(len, pictures_of(str(folder), 3))) == 3


def test_arrays_are_read_from_the_split_and_rows_that_are_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (9, 28, 28), np.uint8)
    np.savez(tmp_path / "a.npz", x_test=x)
    np.save(tmp_path / "b.npy", x)
    opening = Opening(split="test", rows=slice(2, None))

    for name in ("a.npz", "b.npy"):
        (batch,) = pictures_of(str(tmp_path / name), 5, opening=opening)

        assert torch.equal(batch, torch.from_numpy(x[2:7, None]).float() / 255)


def test_a_model_file_draws_the_same_for_a_seed(tmp_path: Path) -> None:
    network = architectures.build("gan_mlp", {"hidden": 8})
    path = tmp_path / "suspect.safetensors"
    weights.save(network, path, {})
    opening = Opening("gan_mlp", {"hidden": 8})
    batch, again, other = (
        torch.cat(list(pictures_of(str(path), 40, opening=opening, seed=seed)))
        for seed in (0, 0, 1)
    )

    assert batch.shape == (40, 1, 28, 28)
    assert torch.equal(batch, again)
    assert not torch.equal(batch, other)


def test_an_onnx_file_has_its_black_and_white_told(tmp_path: Path) -> None:
    (told,) = pictures_of(str(GAN), 8, opening=Opening(output_range=(-1, 1)))
    (untold,) = pictures_of(str(GAN), 8)

    assert torch.allclose((2 * told - 1).clamp(0, 1), untold, atol=1e-5)


def test_a_server_is_asked(tmp_path: Path) -> None:
    config = {"identity": {"open": True}, "models": {"digits": GENERATOR}}
    with gateway(tmp_path, config) as running:
        batch = torch.cat(list(pictures_of(f"{running.url}/v2/models/digits", 40)))
    wanted = torch.cat(list(pictures_of(str(GAN), 40, opening=Opening(output_range=(-1, 1)))))

    assert torch.allclose(batch, wanted, atol=1e-4)


def test_a_server_of_v1_is_asked_by_number_and_seed(tmp_path: Path) -> None:
    config = {"identity": {"open": True}, "models": {"digits": GENERATOR, "mnist": PLAIN}}
    with gateway(tmp_path, config) as running:
        address = f"{running.url}/v1/models/digits:generate"
        batch, again, other = (torch.cat(list(pictures_of(address, 40, seed=n))) for n in (0, 0, 1))
        with pytest.raises(VictimError, match="400"):
            list(pictures_of(f"{running.url}/v1/models/mnist:generate", 4))

    assert batch.shape == (40, 1, 28, 28)
    assert 0 <= float(batch.min()) < 0.1 < 0.9 < float(batch.max()) <= 1
    assert len(batch.flatten(1).unique(dim=0)) == 40
    assert torch.equal(batch, again)
    assert not torch.equal(batch, other)


def test_a_server_of_giant_latents_is_not_asked() -> None:
    shape = {"name": "x", "datatype": "FP32"}
    said = {
        "inputs": [shape | {"shape": [-1, 10**9]}],
        "outputs": [shape | {"shape": [-1, 1, 8, 8]}],
    }
    with (
        HostileServer(answer=saying({}), metadata=saying(said)) as server,
        pytest.raises(ConfigError, match="latents of 1000000000 numbers; at most 16384"),
    ):
        list(pictures_of(f"{server.url}/v2/models/m", 40))


@pytest.mark.parametrize(
    ("answer", "telling"),
    [
        (b"{}", "answers no .npy"),
        (b"PK\3\4 no zip", "answers no .npy"),
        (LIE, "answers no .npy"),
        (np.zeros((4, 1, 0, 8), np.float32), "answers no .npy"),
        (np.zeros((4, 10), np.float32), r"answers \(4, 10\) to 4; wanted \(4, 1 or 3, H, W\)"),
        (np.zeros((3, 1, 8, 8), np.float32), "to 4; wanted"),
        (np.full((4, 1, 8, 8), 7.0), r"no pictures in \[0, 1\]"),
        (np.full((4, 1, 8, 8), np.nan), r"no pictures in \[0, 1\]"),
        (np.zeros((4, 1, 8, 8), np.int64), r"no pictures in \[0, 1\]"),
    ],
)
def test_a_verb_that_gives_no_pictures_is_named(answer: bytes | np.ndarray, telling: str) -> None:
    with (
        HostileServer(
            answer=saying(answer if isinstance(answer, bytes) else npy(answer))
        ) as server,
        pytest.raises(ConfigError, match=telling),
    ):
        list(pictures_of(f"{server.url}/v1/models/m:generate", 4))


def test_bytes_of_pictures_are_taken_as_such() -> None:
    with HostileServer(answer=saying(npy(np.full((4, 1, 8, 8), 255, np.uint8)))) as server:
        (batch,) = pictures_of(f"{server.url}/v1/models/m:generate", 4)

    assert torch.equal(batch, torch.ones(4, 1, 8, 8))


def npy(array: np.ndarray) -> bytes:
    """As a file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_what_makes_no_pictures_is_named(tmp_path: Path, folder: Path) -> None:
    lenet = tmp_path / "lenet.safetensors"
    weights.save(architectures.build("lenet", {}), lenet, {})
    (tmp_path / "empty").mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n but no")
    for name, opening, telling in (
        (lenet, Opening("lenet"), "is there to classify, and not to generate"),
        (lenet, Opening(), "name their --architecture"),
        (tmp_path / "empty", Opening(), "holds no"),
        (folder, Opening(), r"broken.png' is no whole"),
        (tmp_path / "model.txt", Opening(), "and no folder of pictures"),
        (tmp_path / "none.npz", Opening(), "no such file"),
    ):
        with pytest.raises(ConfigError, match=telling):
            list(pictures_of(str(name), 10, opening=opening))
    with pytest.raises(WeightsError, match="no such file"):
        list(pictures_of(str(tmp_path / "none.onnx"), 10))
    with pytest.raises(VictimError, match="cannot be reached"):
        list(pictures_of("http://127.0.0.1:9/v2/models/m", 10))


def test_the_v2_address_is_told_where_v1_gives_no_pictures(tmp_path: Path) -> None:
    config = {"identity": {"open": True}, "models": {"digits": GENERATOR}}
    own = OnnxVictim(type="onnx", weights=GAN, task="generate")
    own.load(SETUP)
    with (
        gateway(tmp_path, config) as running,
        pytest.raises(ConfigError, match=f"/v1/models/digits:generate, .* {running.url}/v2/models"),
    ):
        list(pictures_of(f"{running.url}/v1/models/digits", 4, like=own))


def test_settings_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(ConfigError, match="one value for black and white"):
        list(pictures_of("a.onnx", 1, opening=Opening(output_range=(1.0, 1.0))))


def test_the_first_pictures_are_taken_across_batches() -> None:
    batches = [torch.zeros(3, 1, 4, 4), torch.ones(5, 1, 8, 8)]

    assert [len(batch) for batch in first(batches, 5)] == [3, 2]
    assert [len(batch) for batch in first(batches, 3)] == [3]
    assert [len(batch) for batch in first(batches, 100)] == [3, 5]
