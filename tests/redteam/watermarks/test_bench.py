"""The watermark bench runs, goes on where it stopped, and says what it measured."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mantlet import architectures, weights
from mantlet.errors import ConfigError
from redteam.watermarks import bench as watermarks
from redteam.watermarks import rivals
from redteam.watermarks.distortions import LARGE, SMALL


class Plain:
    """A method that writes nothing and reads zeros."""

    def embed(self, image: torch.Tensor, bits: np.ndarray) -> torch.Tensor:
        return (image + 1 / 255).clamp(0, 1)

    def decode(self, image: torch.Tensor) -> np.ndarray:
        return np.zeros(32, int)


@pytest.fixture
def bench(tmp_path: Path, root: Path) -> watermarks.Bench:
    """Two drawn photographs, untrained generators, the shipped classifiers, and digits."""
    images = []
    for seed in range(2):
        small = np.random.default_rng(seed).integers(0, 255, (30, 30, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((300, 280), Image.Resampling.BICUBIC).save(file, "PNG")
        images.append(file.getvalue())
    offset = np.cumsum([0, *map(len, images)])
    encoded = np.frombuffer(b"".join(images), np.uint8)
    for name in ("bsds_train100", "sr_classic"):
        np.savez(tmp_path / f"{name}.npz", encoded=encoded, offset=offset)
    digits = (root / "tests/data/mnist-test.npz").read_bytes()
    for name, (data, judge) in watermarks.GENERATORS.items():
        (tmp_path / f"{data}.npz").write_bytes(digits)
        shipped = root / f"configs/models/{judge}.safetensors"
        (tmp_path / shipped.name).write_bytes(shipped.read_bytes())
        with torch.random.fork_rng():
            torch.random.manual_seed(0)  # layers draw their weights from the global generator
            weights.save(architectures.build("dcgan", {}), tmp_path / f"{name}.safetensors", {})
    return watermarks.Bench(tmp_path, tmp_path, watermarks.SMOKE)


def test_all_parts_are_measured_once(
    bench: watermarks.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "METHODS", {"plain": Plain})
    monkeypatch.setattr(watermarks, "SET", 16)
    out = tmp_path / "watermark.json"
    watermarks.run(bench, out)
    first = out.read_bytes()
    records = json.loads(first)
    of = {(r["part"], r["of"]) for r in records}
    ours = {r["distortion"]: r for r in records if r["of"] == "mantlet"}

    assert len(of) == 4 + 24 * len(watermarks.GENERATORS)
    assert ours.keys() == LARGE.keys()
    assert min(r["bits"] for r in ours.values()) > 0.9
    assert min(r["psnr_least"] for r in ours.values()) >= 40
    drawn = [r for r in records if r["part"] == "generated"]
    assert {r["distortion"] for r in drawn} == {*SMALL, "none, wrong key", "none, unmarked"}
    nulls = [r for r in records if r["part"] == "nulls"]
    assert all(r["at_most_1e-06"] == 0 and r["draws"] == 1000 for r in nulls)
    assert all(r["at_most_0.1"] <= 100 for r in nulls)
    watermarks.run(bench, out)
    assert out.read_bytes() == first


def test_photographs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bsds_train100\.npz"):
        watermarks.natural(watermarks.Bench(tmp_path))
